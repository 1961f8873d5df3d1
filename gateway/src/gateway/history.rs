//! Takes pictures of what this gateway knows, one after the other, and hands what happened in between to the history. Decides nothing.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use causeway_control::{
    TopologySource,
    renewal::{Renewal, RenewalStatus},
};
use causeway_federation::{name::GatewayId, topology::applied::TopologyDocument, trust::TrustDocument};
use causeway_history::{
    BurstLimit, EventKind, EventQuery, History, HistoryConfig, MAX_EVENTS_AT_ONCE, NewEvent, TunnelCounts,
    TunnelReadings, figures,
    picture::{CertificatePicture, CertificateUrgency, OpenMatters, Picture, Plans, events, first},
};
use causeway_host::uptime::uptime;
use causeway_identity::{Lifetime, LiveIdentity, Urgency};
use causeway_instances::Instances;
use causeway_routing::{
    capacity::CapacityPlan,
    failback::TierCeilings,
    outlier::Ejected,
    shift::LocalShifts,
    snapshot::{Snapshot, Snapshots},
};
use causeway_telemetry::MinuteBoard;
use causeway_tunnel::TunnelSet;
use tokio::{
    sync::watch,
    task::spawn_blocking,
    time::{MissedTickBehavior, interval, sleep},
};

use super::{GatewayConfig, background::BackgroundTasks, start::Foundation};

/// Time between two looks where nothing says that something changed.
const TICK: Duration = Duration::from_millis(250);
/// Shortest pause between two looks. What comes and goes within it may pass unseen.
const PAUSE: Duration = Duration::from_millis(50);
/// Pauses are this many times as long as the look before them took, so that looking takes a small part of a core.
const PAUSE_TIMES: u32 = 10;
/// Time that figures are of.
const MINUTE: Duration = Duration::from_secs(60);
/// Time in which a process that has just started hears of the other zones.
const SETTLING: Duration = Duration::from_secs(5);

/// Starts writing down what happens.
pub(super) fn start_history(config: &GatewayConfig, background: &BackgroundTasks) -> History {
    let history = History::new(HistoryConfig {
        own: config.id().clone(),
        data: config.storage.folder().map(Path::to_owned),
        limits: config.history,
        metrics: config.metrics.history.clone(),
    });
    background.spawn_to_the_end("history", history.clone().keep());
    history
}

/// Everything that a picture is taken of.
#[derive(Clone)]
struct Sights {
    snapshots: Snapshots,
    tunnels: Arc<TunnelSet>,
    topology: TopologySource,
    identity: LiveIdentity,
    renewal: Option<watch::Receiver<RenewalStatus>>,
}

/// All that plans are worked out from: the same gives the same.
struct Seen {
    snapshot: Arc<Snapshot>,
    ejected: Arc<Ejected>,
    ceilings: Arc<TierCeilings>,
    shifts: Arc<LocalShifts>,
    capacity: Arc<CapacityPlan>,
    is_settled: bool,
}

impl Seen {
    fn of(snapshot: Arc<Snapshot>, is_settled: bool) -> Self {
        Self {
            ejected: snapshot.ejections.load_full(),
            ceilings: snapshot.ceilings.load_full(),
            shifts: snapshot.shifts.load_full(),
            capacity: Arc::clone(&snapshot.capacity.plan()),
            snapshot,
            is_settled,
        }
    }

    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.snapshot, &other.snapshot)
            && Arc::ptr_eq(&self.ejected, &other.ejected)
            && Arc::ptr_eq(&self.ceilings, &other.ceilings)
            && Arc::ptr_eq(&self.shifts, &other.shifts)
            && Arc::ptr_eq(&self.capacity, &other.capacity)
            && self.is_settled == other.is_settled
    }
}

/// One look, and what came of it.
struct Look {
    seen: Seen,
    picture: Picture,
}

/// Figures of the minute that is under way.
struct Minute {
    board: Arc<MinuteBoard>,
    tunnels: Arc<TunnelSet>,
    history: History,
    began: Instant,
    readings: TunnelReadings,
}

impl Minute {
    /// Hands the figures on once the minute is over.
    fn look(&mut self) {
        if self.began.elapsed() >= MINUTE {
            self.end();
        }
    }

    fn end(&mut self) {
        let now = self.readings();
        let figures = figures(self.board.take(), &self.readings, &now);
        self.history.note_minute(SystemTime::now(), figures);
        (self.began, self.readings) = (Instant::now(), now);
    }

    fn readings(&self) -> TunnelReadings {
        let tunnels = self.tunnels.all();
        let reading = |tunnel: &Arc<causeway_tunnel::Tunnel>| {
            let stats = tunnel.stats();
            let counts = TunnelCounts {
                sent_packets: stats.sent_packets,
                lost_packets: stats.lost_packets,
                sent_bytes: stats.sent_bytes,
                received_bytes: stats.received_bytes,
                round_trip_microseconds: u64::try_from(stats.rtt.as_micros()).unwrap_or(u64::MAX),
            };
            ((tunnel.peer().clone(), tunnel.id()), counts)
        };
        tunnels.iter().map(reading).collect()
    }
}

impl Drop for Minute {
    /// The part of a minute before a hand-over or an end is a minute of its own.
    fn drop(&mut self) {
        self.end();
    }
}

/// Runs until it is dropped.
pub(super) fn keep_events(
    config: &GatewayConfig,
    known: &Foundation,
) -> impl Future<Output = ()> + Send + use<> {
    let sights = Sights {
        snapshots: known.snapshots.clone(),
        tunnels: known.tunnel_set.clone(),
        topology: config.topology.clone(),
        identity: config.identity.clone(),
        renewal: config.renewal.from_ca().map(Renewal::status),
    };
    let (history, instances) = (known.history.clone(), known.instances.clone());
    history.note(SystemTime::now(), begun(config));
    let minute = Minute {
        board: config.metrics.proxy.minute().clone(),
        tunnels: known.tunnel_set.clone(),
        history: history.clone(),
        began: Instant::now(),
        readings: TunnelReadings::new(),
    };
    run(sights, (history, instances, minute), known.generation.clone())
}

fn begun(config: &GatewayConfig) -> NewEvent {
    let (id, version) = (config.id(), env!("CARGO_PKG_VERSION"));
    match config.handed.tunnels {
        Some(_) => NewEvent::new(
            EventKind::GatewayTookOver,
            format!("gateway {id} goes on in another process, of version {version}"),
        ),
        None => NewEvent::new(
            EventKind::GatewayStarted,
            format!("gateway {id} of version {version} has started"),
        ),
    }
}

/// Event of a gateway that ends, or leaves its place to a successor.
pub(super) fn ended(id: &GatewayId, is_succeeded: bool) -> NewEvent {
    match is_succeeded {
        true => NewEvent::new(
            EventKind::GatewayHandedOver,
            format!("gateway {id} leaves its place to a successor, and finishes what it holds"),
        ),
        false => NewEvent::new(EventKind::GatewayEnded, format!("gateway {id} ends"))
            .because("it was told to, and what was open has ended or was cut"),
    }
}

async fn run(
    sights: Sights,
    (history, instances, mut minute): (History, Instances, Minute),
    mut generation: watch::Receiver<u64>,
) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (begun, mut burst) = (Instant::now(), BurstLimit::default());
    let mut before: Option<Arc<Look>> = None;
    let mut open = left_open(&history).await;
    loop {
        tokio::select! {
            changed = generation.changed() => {
                if changed.is_err() {
                    // Nothing changes any more, but for what changes in place.
                    ticks.tick().await;
                }
            }
            _ = ticks.tick() => {}
        }
        let looking = Instant::now();
        let is_settled = begun.elapsed() >= SETTLING;
        let (sights, earlier) = (sights.clone(), before.clone());
        let looked = spawn_blocking(move || {
            let now = sights.look(earlier.as_deref(), is_settled);
            let happened = match earlier {
                None => first(&now.picture),
                Some(earlier) => events(&earlier.picture, &now.picture),
            };
            (Arc::new(now), happened)
        });
        match looked.await {
            Ok((now, happened)) => {
                let mut happened = open.admit(happened);
                if is_settled {
                    happened.extend(open.reconcile(&now.picture));
                }
                before = Some(now);
                let at = SystemTime::now();
                for event in burst.admit(uptime(), happened) {
                    log_panic(&event);
                    history.note(at, with_failure(event, &instances).await);
                }
            }
            Err(error) => tracing::error!(%error, "what happened just now is not in the history"),
        }
        minute.look();
        sleep((looking.elapsed() * PAUSE_TIMES).max(PAUSE)).await;
    }
}

/// Has the log say when a service panics, and when it does so no more.
fn log_panic(event: &NewEvent) {
    let (service, tags) = (event.service.as_deref(), event.subject.as_deref());
    match event.kind {
        EventKind::PanicBegun => tracing::warn!(
            service,
            tags,
            "a service is in panic: none of its instances is healthy in any zone, and those that are ill are used"
        ),
        EventKind::PanicEnded => tracing::info!(service, tags, "a service is in panic no more"),
        _ => {}
    }
}

/// Matters that earlier processes left open, by the latest events of their kinds.
async fn left_open(history: &History) -> OpenMatters {
    history.opened().await;
    let history = history.clone();
    let query = EventQuery {
        kinds: OpenMatters::KINDS
            .iter()
            .map(|kind| kind.word().to_owned())
            .collect(),
        limit: MAX_EVENTS_AT_ONCE,
        ..EventQuery::default()
    };
    match spawn_blocking(move || history.events(&query)).await {
        Ok(Ok(page)) => OpenMatters::recorded(&page.events),
        Ok(Err(error)) => {
            tracing::warn!(%error, "what earlier processes left open cannot be read, and its end may not be in the history");
            OpenMatters::default()
        }
        Err(error) => {
            tracing::error!(%error, "what earlier processes left open is not known, and its end may not be in the history");
            OpenMatters::default()
        }
    }
}

/// Adds why the check of an instance failed last: a snapshot does not say it.
async fn with_failure(event: NewEvent, instances: &Instances) -> NewEvent {
    let (Some(service), Some(id)) = (&event.service, &event.subject) else {
        return event;
    };
    let (true, Ok(service)) = (event.kind == EventKind::InstanceUnhealthy, service.parse()) else {
        return event;
    };
    match instances.last_failure(&service, id).await {
        Some(failure) => event.because(format!("its check failed: {}", failure.reason)),
        None => event,
    }
}

impl Sights {
    fn look(&self, before: Option<&Look>, is_settled: bool) -> Look {
        let seen = Seen::of(self.snapshots.load_full(), is_settled);
        let snapshot = &seen.snapshot;
        let plans = match before {
            None => Plans::default().following(snapshot, is_settled),
            // Standing of every arm of thousands of services, four times a second.
            Some(before) if before.seen.is(&seen) => before.picture.plans.clone(),
            Some(before) => before.picture.plans.following(snapshot, is_settled),
        };
        let document = self.applied(snapshot);
        let picture = Picture {
            plans,
            ejected: seen.ejected.clone(),
            shifts: seen.shifts.clone(),
            absences: self.absences(snapshot),
            applied_by: document.as_ref().map(|document| document.by().clone()),
            applied_reason: document.and_then(|document| document.reason().map(str::to_owned)),
            refused_topology: self.refused_topology(),
            certificate: self.certificate(SystemTime::now()),
            trust: self.trust(),
            snapshot: snapshot.clone(),
        };
        Look { seen, picture }
    }

    /// Reasons why there is no tunnel with gateways that are known.
    fn absences(&self, snapshot: &Snapshot) -> BTreeMap<GatewayId, String> {
        let known = snapshot.catalog.entries().map(|entry| &entry.record.origin);
        let absent = known.filter(|peer| !snapshot.links.contains_key(*peer));
        let why = absent.filter_map(|peer| Some((peer.clone(), self.absence(peer)?)));
        why.collect()
    }

    fn absence(&self, peer: &GatewayId) -> Option<String> {
        if self.tunnels.count(peer) > 0 {
            return Some("nothing was heard on any for so long that they count as gone".to_owned());
        }
        self.tunnels.last_ends().of(peer)
    }

    /// The document of the topology in force, where it was applied.
    fn applied(&self, snapshot: &Snapshot) -> Option<Arc<TopologyDocument>> {
        let view = self.topology.applied()?.view();
        let document = view.applied.document()?;
        let is_in_force = document.edition().generation == snapshot.topology.generation;
        is_in_force.then(|| document.clone())
    }

    fn refused_topology(&self) -> Option<String> {
        match &self.topology {
            TopologySource::File(file) => {
                let refusal = file.state().borrow().refused.clone()?;
                let lines: Vec<String> = std::iter::once(refusal.summary).chain(refusal.lines).collect();
                Some(lines.join("; "))
            }
            TopologySource::Applied(applied) => {
                let view = applied.view();
                let (edition, refused) = view.applied.refused().last()?;
                Some(format!("generation {edition} of {}: {}", refused.by, refused.why))
            }
            TopologySource::Held(_) => None,
        }
    }

    fn certificate(&self, now: SystemTime) -> CertificatePicture {
        let renewal = self.renewal.as_ref().map(|status| status.borrow().clone());
        let failure = renewal.and_then(|renewal| renewal.failure.or(renewal.settings));
        let validity = self.identity.current().validity();
        let urgency = validity.map_or(Urgency::Calm, |(not_before, not_after)| {
            let lifetime = Lifetime {
                not_before,
                not_after,
            };
            lifetime.urgency(now)
        });
        CertificatePicture {
            validity,
            urgency: match urgency {
                Urgency::Calm => CertificateUrgency::Calm,
                Urgency::LastThird | Urgency::LastTenth => CertificateUrgency::Expiring,
                Urgency::Over => CertificateUrgency::Expired,
            },
            failure: self.identity.refused().or(failure),
        }
    }

    fn trust(&self) -> Option<Arc<TrustDocument>> {
        self.identity.trust().document.clone()
    }
}
