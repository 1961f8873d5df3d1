//! `/metrics`: the counted metrics, and the values that are read from state at that moment, as `OpenMetrics` text.
//!
//! What is read goes into a registry that lives for one scrape, so a tunnel or an instance that is gone leaves nothing
//! behind. Only the totals of tunnels are kept (see [`TunnelMetrics::count_tunnels`]).

mod services;

use std::{collections::BTreeMap, fmt, sync::atomic::AtomicU64};

use causeway_federation::name::ZoneName;
use causeway_routing::snapshot::{Link, Snapshot};
use causeway_telemetry::{
    DescribedRegistry, MetricsRegistry,
    labels::{Build, ByPeer, ByPeerState},
};
use causeway_tunnel::{TunnelCount, TunnelMetrics};
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, info::Info},
    registry::Unit,
};

use super::{ProcessReading, SyncReadings, TunnelReading};

type Seconds = Gauge<f64, AtomicU64>;

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByZone {
    zone: String,
}

/// State that a scrape reads beside the counters.
#[derive(Debug)]
pub struct ScrapeState<'a> {
    pub snapshot: &'a Snapshot,
    pub tunnels: &'a [TunnelReading],
    pub sync: &'a SyncReadings,
    pub process: &'a ProcessReading,
    /// Access log lines that were lost.
    pub access_dropped: u64,
    /// Lines of the program's own log that were lost.
    pub log_dropped: u64,
    /// Tasks that ended although nobody asked them to.
    pub tasks_ended: u64,
    /// Since the gateway started, in seconds.
    pub up_seconds: f64,
}

/// Everything there is to know, as `OpenMetrics` text.
///
/// # Errors
/// Never in practice: writing to a `String` does not fail.
pub fn scrape(
    metrics: &MetricsRegistry,
    totals: &TunnelMetrics,
    state: &ScrapeState<'_>,
) -> Result<String, fmt::Error> {
    totals.count_tunnels(state.tunnels.iter().map(|tunnel| TunnelCount {
        id: tunnel.id,
        peer: &tunnel.peer,
        lost_packets: tunnel.lost_packets,
        sent_bytes: tunnel.sent_bytes,
        received_bytes: tunnel.received_bytes,
    }));
    let mut out = String::new();
    metrics.encode(&mut out)?;
    for registry in read(state) {
        registry.encode(&mut out)?;
    }
    text::encode_eof(&mut out)?;
    Ok(out)
}

/// Reads what is not counted: that of the gateway, and that of its process, which has the names that every Prometheus client library uses.
#[must_use]
pub fn read(state: &ScrapeState<'_>) -> [DescribedRegistry; 2] {
    let mut own = DescribedRegistry::new(Some("causeway"));
    gateway(&mut own, state);
    tunnels(&mut own, state.tunnels);
    zone_tunnels(&mut own, state.snapshot, state.tunnels);
    sync(&mut own, state.sync);
    records(&mut own, state);
    services::register(&mut own, state.snapshot);
    super::shift_metrics::shifts(&mut own, state.snapshot);
    let mut read = DescribedRegistry::new(None);
    process(&mut read, state.process);
    [own, read]
}

fn gateway(registry: &mut DescribedRegistry, state: &ScrapeState<'_>) {
    let build = Info::new(Build {
        version: env!("CARGO_PKG_VERSION"),
        zone: state.snapshot.zone.to_string(),
    });
    registry.register("build", "The program and the zone that it serves", build);
    let generation: Gauge = Gauge::default();
    generation.set(state.snapshot.generation.try_into().unwrap_or(i64::MAX));
    registry.register(
        "snapshot_generation",
        "Generation of the snapshot in use",
        generation,
    );
    let topology: Gauge = Gauge::default();
    topology.set(state.snapshot.topology.generation.try_into().unwrap_or(i64::MAX));
    registry.register(
        "topology_generation",
        "Generation of the topology in force; 0 while it comes from a file",
        topology,
    );
    let uptime = Seconds::default();
    uptime.set(state.up_seconds);
    registry.register_with_unit("uptime", "Since the gateway started", Unit::Seconds, uptime);
    let dropped: Counter = Counter::default();
    dropped.inc_by(state.access_dropped);
    registry.register(
        "access_log_dropped",
        "Access log lines dropped at a slow writer",
        dropped,
    );
    let log: Counter = Counter::default();
    log.inc_by(state.log_dropped);
    registry.register("log_dropped", "Lines of the program's log that nobody took", log);
    let ended: Counter = Counter::default();
    ended.inc_by(state.tasks_ended);
    registry.register(
        "tasks_ended",
        "Tasks that ended although the gateway needs them; it is not ready from then on",
        ended,
    );
    links(registry, state.snapshot);
}

fn links(registry: &mut DescribedRegistry, snapshot: &Snapshot) {
    let links: Family<ByPeerState, Gauge> = Family::default();
    for (peer, link) in snapshot.links.iter() {
        for (state, word) in [
            (Link::Up, "up"),
            (Link::Stalled, "stalled"),
            (Link::Draining, "draining"),
        ] {
            let ByPeer { zone, gateway } = ByPeer::new(peer);
            let labels = ByPeerState {
                zone,
                gateway,
                state: word,
            };
            links.get_or_create(&labels).set(i64::from(*link == state));
        }
    }
    registry.register("link", "1 for the state that the link to a gateway is in", links);
}

/// Registers a series for each zone that a tunnel can lead to, so that one without any is seen and not merely missing.
fn zone_tunnels(registry: &mut DescribedRegistry, snapshot: &Snapshot, tunnels: &[TunnelReading]) {
    let counts: Family<ByZone, Gauge> = Family::default();
    let mut up = BTreeMap::<&ZoneName, i64>::new();
    for tunnel in tunnels {
        *up.entry(&tunnel.peer.zone).or_default() += 1;
    }
    let zones = &snapshot.topology.zones;
    let is_reached = |zone: &ZoneName| {
        zones
            .get(zone)
            .is_some_and(|declared| !declared.gateways.is_empty())
    };
    let others = zones.keys().filter(|zone| **zone != snapshot.zone);
    for zone in others.filter(|zone| is_reached(zone) || is_reached(&snapshot.zone)) {
        let labels = ByZone {
            zone: zone.to_string(),
        };
        counts
            .get_or_create(&labels)
            .set(up.get(zone).copied().unwrap_or_default());
    }
    registry.register(
        "zone_tunnels",
        "Tunnels to a zone of the topology; none of two zones that only dial out",
        counts,
    );
}

fn tunnels(registry: &mut DescribedRegistry, tunnels: &[TunnelReading]) {
    let mut by_peer: BTreeMap<_, Vec<&TunnelReading>> = BTreeMap::new();
    for tunnel in tunnels {
        by_peer.entry(&tunnel.peer).or_default().push(tunnel);
    }
    let (count, streams, window) = (Family::default(), Family::default(), Family::default());
    let unread = Family::default();
    let rtt: Family<ByPeer, Seconds> = Family::default();
    let clock: Family<ByPeer, Seconds> = Family::default();
    let sum = |family: &Family<ByPeer, Gauge>, peer: &ByPeer, value: u64| {
        family
            .get_or_create(peer)
            .inc_by(i64::try_from(value).unwrap_or(i64::MAX));
    };
    for (peer, list) in by_peer {
        let labels = ByPeer::new(peer);
        for tunnel in &list {
            sum(&count, &labels, 1);
            sum(&streams, &labels, tunnel.streams as u64);
            sum(&window, &labels, tunnel.congestion_window_bytes);
            sum(&unread, &labels, tunnel.unread_bytes);
        }
        let lowest = list.iter().map(|tunnel| tunnel.rtt).min().unwrap_or_default();
        rtt.get_or_create(&labels).set(lowest.as_secs_f64());
        let youngest = list.iter().min_by_key(|tunnel| tunnel.up);
        if let Some(ahead) = youngest.and_then(|tunnel| tunnel.clock_ahead) {
            clock.get_or_create(&labels).set(ahead);
        }
    }
    registry.register("tunnels", "Tunnels to a gateway", count);
    registry.register(
        "tunnel_streams",
        "Streams under way on the tunnels to a gateway",
        streams,
    );
    registry.register_with_unit(
        "tunnel_congestion_window",
        "Congestion windows of the tunnels to a gateway, all together",
        Unit::Bytes,
        window,
    );
    registry.register_with_unit(
        "tunnel_unread",
        "Sent by a gateway in connections, and not taken by anybody here",
        Unit::Bytes,
        unread,
    );
    registry.register_with_unit(
        "tunnel_rtt",
        "Lowest round trip time to a gateway",
        Unit::Seconds,
        rtt,
    );
    registry.register_with_unit(
        "clock_ahead",
        "How far the clock of a gateway is ahead of this host's, when its youngest tunnel came up",
        Unit::Seconds,
        clock,
    );
}

fn sync(registry: &mut DescribedRegistry, readings: &SyncReadings) {
    let age: Family<ByPeer, Seconds> = Family::default();
    let session = Family::<ByPeer, Gauge>::default();
    let (lag, behind, protocol) = (Family::default(), Family::default(), Family::default());
    for reading in &readings.peers {
        let labels = ByPeer::new(&reading.origin);
        // Never heard since the start is infinitely old, not missing: an alert on the age must see it.
        let seconds = reading.heard_ago.map_or(f64::INFINITY, |ago| ago.as_secs_f64());
        age.get_or_create(&labels).set(seconds);
        session.get_or_create(&labels).set(i64::from(reading.session));
        if let Some(versions) = reading.lag_versions {
            set(&lag, &labels, versions);
        }
        if let Some(versions) = reading.behind_versions {
            set(&behind, &labels, versions);
        }
        if let Some(version) = reading.protocol {
            set(&protocol, &labels, version.into());
        }
    }
    registry.register(
        "sync_lag_versions",
        "Versions of the own record that a gateway has not acknowledged",
        lag,
    );
    registry.register(
        "sync_behind_versions",
        "Versions that a gateway told of and that are not held here",
        behind,
    );
    registry.register(
        "sync_protocol",
        "The sync protocol that is spoken with a gateway",
        protocol,
    );
    registry.register_with_unit(
        "sync_age",
        "Since a gateway's record was heard of",
        Unit::Seconds,
        age,
    );
    registry.register(
        "sync_session",
        "1 while a sync session with the gateway is open",
        session,
    );
}

fn set(family: &Family<ByPeer, Gauge>, labels: &ByPeer, value: u64) {
    family
        .get_or_create(labels)
        .set(i64::try_from(value).unwrap_or(i64::MAX));
}

/// The record of each gateway as it is held here, and the own one.
fn records(registry: &mut DescribedRegistry, state: &ScrapeState<'_>) {
    let (incarnation, version) = (Family::default(), Family::default());
    let (relayed, exports) = (Family::default(), Family::default());
    let (generation, same, trust) = (Family::default(), Family::default(), Family::default());
    if let Some(own) = &state.sync.own {
        let labels = ByPeer::new(&own.origin);
        set(&incarnation, &labels, own.stamp.incarnation);
        set(&version, &labels, own.stamp.version);
    }
    let topology = state.snapshot.topology.fingerprint;
    for entry in state.snapshot.catalog.entries() {
        let record = &entry.record;
        let labels = ByPeer::new(&record.origin);
        set(&incarnation, &labels, record.incarnation);
        set(&version, &labels, record.version);
        set(&relayed, &labels, u64::from(entry.via.is_some()));
        set(&exports, &labels, record.exports.len() as u64);
        set(&generation, &labels, record.topology_generation);
        set(&trust, &labels, record.trust.generation);
        set(&same, &labels, u64::from(record.topology == topology));
    }
    for (name, help, family) in [
        (
            "sync_incarnation",
            "Incarnation of a gateway's record",
            incarnation,
        ),
        (
            "sync_version",
            "Version of a gateway's record within its incarnation",
            version,
        ),
        (
            "sync_relayed",
            "1 while a gateway's record comes through another",
            relayed,
        ),
        ("sync_exports", "Exports in a gateway's record", exports),
        (
            "sync_topology_generation",
            "Generation of the applied topology that a gateway runs, 0 for one from a file",
            generation,
        ),
        (
            "sync_trust_generation",
            "Generation of the trust document that a gateway has in force, 0 for none",
            trust,
        ),
        (
            "sync_topology_same",
            "1 while a gateway runs the same topology as this one",
            same,
        ),
    ] {
        registry.register(name, help, family);
    }
}

fn process(registry: &mut DescribedRegistry, reading: &ProcessReading) {
    let mut gauge = |name: &str, help: &str, value: Option<u64>| {
        if let Some(value) = value {
            let gauge: Gauge = Gauge::default();
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
            registry.register(name, help, gauge);
        }
    };
    gauge(
        "process_resident_memory_bytes",
        "Resident memory",
        reading.resident_bytes,
    );
    gauge("process_open_fds", "Open file descriptors", reading.open_files);
    gauge(
        "process_max_fds",
        "Limit of open file descriptors",
        reading.open_files_limit,
    );
    gauge("process_threads", "Threads", reading.threads);
    if let Some(seconds) = reading.cpu_seconds {
        let cpu: Counter<f64, AtomicU64> = Counter::default();
        cpu.inc_by(seconds);
        registry.register("process_cpu_seconds", "User and system time", cpu);
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use causeway_federation::topology::parse;
    use causeway_routing::testbed;

    use super::*;

    fn tunnel(id: usize, lost_packets: u64) -> TunnelReading {
        TunnelReading {
            id,
            peer: causeway_federation::name::GatewayId::new("west".parse().unwrap(), "gw1".parse().unwrap()),
            link: Link::Up,
            dialled: true,
            thread: 0,
            remote: "127.0.0.1:7800".parse().unwrap(),
            up: Duration::from_secs(1),
            rtt: Duration::from_millis(id as u64),
            streams: 2,
            unanswered: 0,
            clock_ahead: Some(-7200.5),
            program: String::new(),
            own_registry: false,
            negotiated: None,
            certificate: None,
            unread_bytes: 7,
            congestion_window_bytes: 1000,
            mtu_bytes: 1452,
            sent_packets: 100,
            lost_packets,
            sent_bytes: 10,
            received_bytes: 20,
        }
    }

    #[test]
    fn tunnels_to_one_gateway_are_summed_and_the_lowest_round_trip_time_counts() {
        let mut registry = DescribedRegistry::new(None);
        tunnels(&mut registry, &[tunnel(3, 0), tunnel(4, 0)]);
        let mut text = String::new();
        registry.encode(&mut text).unwrap();
        let labels = r#"{zone="west",gateway="gw1"}"#;
        for line in [
            format!("tunnels{labels} 2"),
            format!("tunnel_streams{labels} 4"),
            format!("tunnel_unread_bytes{labels} 14"),
            format!("tunnel_rtt_seconds{labels} 0.003"),
            format!("clock_ahead_seconds{labels} -7200.5"),
        ] {
            assert!(text.contains(&line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_zone_without_a_tunnel_has_a_series_of_its_own() {
        let zones = "east: { gateways: [] }, plant: { gateways: [] }, west: { gateways: ['10.0.0.2:7800'] }, north: { gateways: ['10.0.0.3:7800'] }";
        let parsed = parse(
            &format!("{{ version: 1, trust_domain: acme.internal, zones: {{ {zones} }} }}"),
            "test.yaml",
        )
        .unwrap();
        let topology = Arc::new(parsed.topology);
        let snapshot = testbed::snapshot("east", &topology, Vec::new(), Vec::new(), &[]);
        let mut registry = DescribedRegistry::new(None);
        zone_tunnels(&mut registry, &snapshot, &[tunnel(3, 0), tunnel(4, 0)]);
        let mut page = String::new();
        registry.encode(&mut page).unwrap();
        let told: Vec<_> = page
            .lines()
            .filter(|line| line.starts_with("zone_tunnels"))
            .collect();
        assert_eq!(
            told.len(),
            2,
            "none of itself, nor of plant, which only dials out: {told:?}"
        );
        assert!(
            told.contains(&r#"zone_tunnels{zone="north"} 0"#)
                && told.contains(&r#"zone_tunnels{zone="west"} 2"#),
            "{told:?}"
        );
    }
}
