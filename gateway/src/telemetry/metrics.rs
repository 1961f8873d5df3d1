//! Every metric that is counted as things happen, in one struct without globals, so that several gateways can live in
//! one process. Values that are read from state when somebody asks (tunnels, ages, memory) are in [`super::scrape`].
//!
//! Adding a metric: a field in one of the groups below, its line in that group's `new`, a method here that says when to
//! call it, and a line in the test.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use causeway_zone_sync::name::{GatewayId, ServiceName};
use parking_lot::Mutex;
use prometheus_client::{metrics::counter::Counter, registry::Registry};

use super::{
    AccessRecord,
    families::{ApiFamilies, IdentityFamilies, PeerFamilies, TrafficFamilies, ZoneFamilies},
    labels::{
        ByAnswer, ByDirection, ByOutcome, ByPeer, ByPeerSideReason, ByPeerWay, ByReason, ByResult, ByRole,
        ByRoleServiceRule, ByServiceReason, ByServiceResult, ByServiceWhy, BySideReason, ServiceLabel,
    },
    scrape::TunnelTotals,
};

/// Stands for every service that the topology does not name.
const OTHER_SERVICE: &str = "other";

/// Which side of a tunnel or stream said no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// This gateway refused.
    Local,
    /// The peer refused.
    Peer,
}

impl Side {
    /// The word that metrics and the admin API use.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Peer => "peer",
        }
    }
}

/// Where a connection's bytes are counted.
#[derive(Debug, Clone, Default)]
pub struct Meter {
    /// Towards the instance.
    pub up: Counter,
    /// Towards the client.
    pub down: Counter,
}

/// What permissions forbade since the process began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ForbiddenTotals {
    /// Connections refused, and closed by a change.
    pub ended: u64,
    /// Connections that a dry run let through.
    pub dry_run: u64,
}

/// Counters and histograms. Cheap to share in an `Arc`; every method is lock-free or takes a short read lock.
pub struct Metrics {
    registry: Registry,
    services: ArcSwap<BTreeSet<ServiceLabel>>,
    other: ServiceLabel,
    traffic: TrafficFamilies,
    peers: PeerFamilies,
    apis: ApiFamilies,
    zone: ZoneFamilies,
    identity: IdentityFamilies,
    tunnels: Mutex<TunnelTotals>,
    forbidden: AtomicU64,
    dry_run: AtomicU64,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("causeway");
        Self {
            services: ArcSwap::default(),
            other: OTHER_SERVICE.into(),
            traffic: TrafficFamilies::new(&mut registry),
            peers: PeerFamilies::new(&mut registry),
            apis: ApiFamilies::new(&mut registry),
            zone: ZoneFamilies::new(&mut registry),
            identity: IdentityFamilies::new(&mut registry),
            tunnels: Mutex::new(TunnelTotals::new(&mut registry)),
            registry,
            forbidden: AtomicU64::new(0),
            dry_run: AtomicU64::new(0),
        }
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// Names the services that may become label values; call it with every new topology. Until then, and for any name
    /// that is not among them, the label says `other`, so that no client can make series.
    pub fn set_services<'a>(&self, services: impl IntoIterator<Item = &'a ServiceName>) {
        let labels = services.into_iter().map(|s| ServiceLabel::from(s.as_str()));
        self.services.store(Arc::new(labels.collect()));
    }

    /// A tunnel was refused: `reason` is a fixed word such as `unknown_issuer`, `expired`, `wrong_zone`.
    pub fn tunnel_refused(&self, side: Side, reason: &'static str) {
        let labels = BySideReason {
            side: side.word(),
            reason,
        };
        self.peers.tunnel_refused.get_or_create(&labels).inc();
    }

    /// A dial failed before any identity was checked: `reason` such as `timeout`, `resolve`.
    pub fn dial_failed(&self, reason: &'static str) {
        self.peers.dial_failed.get_or_create(&ByReason { reason }).inc();
    }

    /// A stream was refused with a `RefusalReason`, as a word.
    pub fn stream_refused(&self, side: Side, reason: &'static str) {
        let labels = BySideReason {
            side: side.word(),
            reason,
        };
        self.peers.stream_refused.get_or_create(&labels).inc();
    }

    /// A peer broke the tunnel protocol and was dropped.
    pub fn peer_broke_protocol(&self, reason: &'static str) {
        self.peers
            .broke_protocol
            .get_or_create(&ByReason { reason })
            .inc();
    }

    /// The admin API or registration refused somebody for want of credentials: `reason` such as `bad_token`, `scope`,
    /// `unknown_issuer`.
    pub fn api_refused(&self, reason: &'static str) {
        self.apis.refused.get_or_create(&ByReason { reason }).inc();
    }

    /// A client of the TLS listener was refused before it got as far as a service.
    pub fn tls_refused(&self, reason: &'static str) {
        self.apis.tls_refused.get_or_create(&ByReason { reason }).inc();
    }

    /// A line for the audit file was written (`true`) or lost (`false`).
    pub fn audit_line(&self, ok: bool) {
        let labels = ByResult { result: result(ok) };
        self.apis.audit_lines.get_or_create(&labels).inc();
    }

    #[cfg(test)]
    pub(crate) fn audit_lines(&self, ok: bool) -> u64 {
        let labels = ByResult { result: result(ok) };
        self.apis.audit_lines.get_or_create(&labels).get()
    }

    /// A routing decision, by service and the word for its reason (`own_zone`, `tier`, `no_candidate`, …).
    pub fn decided(&self, service: &str, reason: &'static str) {
        let service = self.label(service);
        self.traffic
            .decisions
            .get_or_create(&ByServiceReason { service, reason })
            .inc();
    }

    /// A connection was moved to a further candidate before any instance had it.
    pub fn moved(&self, service: &str, why: &'static str) {
        let service = self.label(service);
        self.traffic
            .moved
            .get_or_create(&ByServiceWhy { service, why })
            .inc();
    }

    /// Permissions forbid a connection. `rule` is a kind of rule (`deny`, `allow`, `default`, …); `result` is `refused`,
    /// `closed` for one that was open, or `dry_run` for one that goes through.
    pub fn forbidden(&self, role: &'static str, service: &str, rule: &'static str, result: &'static str) {
        let labels = ByRoleServiceRule {
            role,
            service: self.label(service),
            rule,
            result,
        };
        self.traffic.forbidden.get_or_create(&labels).inc();
        let total = if result == "dry_run" {
            &self.dry_run
        } else {
            &self.forbidden
        };
        total.fetch_add(1, Ordering::Relaxed);
    }

    #[must_use]
    pub fn forbidden_totals(&self) -> ForbiddenTotals {
        ForbiddenTotals {
            ended: self.forbidden.load(Ordering::Relaxed),
            dry_run: self.dry_run.load(Ordering::Relaxed),
        }
    }

    /// A connection began. Call `connection_closed` once for each.
    pub fn connection_opened(&self, role: &'static str, service: &str) {
        let service = self.label(service);
        self.traffic.open.get_or_create(&ByRole { role, service }).inc();
    }

    /// The counters of a connection's bytes, which count them as they flow: one that lives for days shows what it carries.
    #[must_use]
    pub fn meter(&self, role: &'static str, service: &str) -> Meter {
        let counter = |direction| {
            let service = self.label(service);
            let labels = ByDirection {
                role,
                service,
                direction,
            };
            self.traffic.bytes.get_or_create(&labels).clone()
        };
        Meter {
            up: counter("up"),
            down: counter("down"),
        }
    }

    /// A connection ended.
    pub fn connection_closed(&self, role: &'static str, service: &str, outcome: &'static str) {
        let service = self.label(service);
        let open = ByRole {
            role,
            service: service.clone(),
        };
        self.traffic.open.get_or_create(&open).dec();
        self.traffic
            .connections
            .get_or_create(&ByOutcome {
                role,
                service,
                outcome,
            })
            .inc();
    }

    /// How long a finished connection waited and lasted. Call it where the access log line is written.
    pub fn timed(&self, record: &AccessRecord) {
        let role = record.role.word();
        let labels = ByRole {
            role,
            service: self.label(record.service.as_str()),
        };
        if let Some(ready_after) = record.ready_after {
            self.traffic
                .ready
                .get_or_create(&labels)
                .observe(ready_after.as_secs_f64());
        }
        let duration = record.duration.as_secs_f64();
        self.traffic.duration.get_or_create(&labels).observe(duration);
    }

    /// An instance of this zone was connected to, after this long.
    pub fn instance_connected(&self, service: &str, after: Duration) {
        let labels = ByServiceResult {
            service: self.label(service),
            result: "connected",
        };
        self.traffic
            .connect
            .get_or_create(&labels)
            .observe(after.as_secs_f64());
    }

    /// An instance of this zone could not be connected to; the attempt took this long.
    pub fn instance_connect_failed(&self, service: &str, after: Duration) {
        let labels = ByServiceResult {
            service: self.label(service),
            result: "failed",
        };
        self.traffic
            .connect
            .get_or_create(&labels)
            .observe(after.as_secs_f64());
    }

    /// A health check ended.
    pub fn health_checked(&self, service: &str, ok: bool) {
        let labels = ByServiceResult {
            service: self.label(service),
            result: result(ok),
        };
        self.zone.health_checks.get_or_create(&labels).inc();
    }

    /// A DNS query was answered: `kind` is `mesh`, `forwarded`, `cached` or `refused`.
    pub fn dns_answered(&self, kind: &'static str, rcode: &'static str) {
        self.zone.dns.get_or_create(&ByAnswer { kind, rcode }).inc();
    }

    /// Zone sync bytes exchanged with a gateway, `way` being `sent` or `received`.
    pub fn sync_bytes(&self, peer: &GatewayId, way: &'static str, bytes: u64) {
        let ByPeer { zone, gateway } = ByPeer::new(peer);
        let labels = ByPeerWay { zone, gateway, way };
        self.zone.sync_bytes.get_or_create(&labels).inc_by(bytes);
    }

    #[cfg(test)]
    pub(crate) fn sync_bytes_with(&self, peer: &GatewayId, way: &'static str) -> u64 {
        let ByPeer { zone, gateway } = ByPeer::new(peer);
        let labels = ByPeerWay { zone, gateway, way };
        self.zone.sync_bytes.get_or_create(&labels).get()
    }

    /// A gateway broke the sync protocol or a limit, or says that this one did.
    pub fn sync_refused(&self, peer: &GatewayId, side: Side, reason: &'static str) {
        let ByPeer { zone, gateway } = ByPeer::new(peer);
        let labels = ByPeerSideReason {
            zone,
            gateway,
            side: side.word(),
            reason,
        };
        self.zone.sync_refused.get_or_create(&labels).inc();
    }

    /// Whether this gateway is attached to a zone-sync of its zone; the first call and each that says so again counts as
    /// another attachment.
    pub fn registry_attached(&self, attached: bool) {
        self.zone.registry_attached.set(i64::from(attached));
        if attached {
            self.zone.registry_attachments.inc();
        }
    }

    /// What was held of a gateway was not what it says, and was asked for anew.
    pub fn sync_repaired(&self) {
        self.zone.sync_repairs.inc();
    }

    /// A message that only a newer program knows was passed over.
    pub fn sync_passed_over(&self) {
        self.zone.sync_passed_over.inc();
    }

    /// The topology was reloaded (`true`) or a bad file was refused (`false`).
    pub fn topology_reloaded(&self, ok: bool) {
        self.zone
            .reloads
            .get_or_create(&ByResult { result: result(ok) })
            .inc();
    }

    /// A renewed identity was taken up (`true`) or a bad one was refused (`false`).
    pub fn identity_reloaded(&self, ok: bool) {
        self.identity
            .reloads
            .get_or_create(&ByResult { result: result(ok) })
            .inc();
    }

    /// A new certificate was got from the CA (`true`), or could not be (`false`).
    pub fn identity_renewed(&self, ok: bool) {
        let labels = ByResult { result: result(ok) };
        self.identity.renewals.get_or_create(&labels).inc();
    }

    /// When the certificate in use ends.
    pub fn identity_ends(&self, at: SystemTime) {
        self.identity.ends.set(since_1970(at));
    }

    /// When the certificate in use is renewed next.
    pub fn identity_renews(&self, at: SystemTime) {
        self.identity.renews.set(since_1970(at));
    }

    /// What became of an applied topology: `applied` (here), `taken`, `overruled`, `refused`, `fetch_failed`.
    pub fn topology_document(&self, result: &'static str) {
        self.zone.topologies.get_or_create(&ByResult { result }).inc();
    }

    /// What became of a trust document: `handed_in` (here), `taken`, `overruled`, `refused`, `fetch_failed`.
    pub fn trust_document(&self, result: &'static str) {
        self.identity.trust.get_or_create(&ByResult { result }).inc();
    }

    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    pub(super) fn tunnel_totals(&self) -> &Mutex<TunnelTotals> {
        &self.tunnels
    }

    fn label(&self, service: &str) -> ServiceLabel {
        self.services.load().get(service).unwrap_or(&self.other).clone()
    }
}

fn since_1970(at: SystemTime) -> i64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn result(ok: bool) -> &'static str {
    if ok { "ok" } else { "failed" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(metrics: &Metrics) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &metrics.registry).unwrap();
        text
    }

    fn with_orders() -> Metrics {
        let metrics = Metrics::default();
        metrics.set_services([&ServiceName::new("orders").unwrap()]);
        metrics
    }

    #[test]
    fn a_connection_is_open_until_it_is_closed() {
        let metrics = with_orders();
        metrics.connection_opened("egress", "orders");
        let open = r#"causeway_connections_open{role="egress",service="orders"}"#;
        assert!(text(&metrics).contains(&format!("{open} 1\n")));
        let meter = metrics.meter("egress", "orders");
        meter.up.inc_by(10);
        meter.down.inc_by(20);
        metrics.connection_closed("egress", "orders", "served");
        let text = text(&metrics);
        assert!(text.contains(&format!("{open} 0\n")), "{text}");
        for line in [
            r#"causeway_connections_total{role="egress",service="orders",outcome="served"} 1"#,
            r#"causeway_bytes_total{role="egress",service="orders",direction="up"} 10"#,
            r#"causeway_bytes_total{role="egress",service="orders",direction="down"} 20"#,
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_name_outside_the_topology_makes_no_series_of_its_own() {
        let metrics = with_orders();
        for name in ["a", "b", "c"] {
            metrics.decided(name, "no_candidate");
        }
        let text = text(&metrics);
        assert!(text.contains(r#"causeway_decisions_total{service="other",reason="no_candidate"} 3"#));
        assert!(!text.contains(r#"service="a""#));
    }

    #[test]
    fn refusals_are_counted_by_side_and_reason() {
        let metrics = with_orders();
        metrics.tunnel_refused(Side::Local, "expired");
        metrics.stream_refused(Side::Peer, "not_exported");
        metrics.dial_failed("timeout");
        metrics.moved("orders", "tunnel_lost");
        metrics.forbidden("ingress", "orders", "deny", "closed");
        let text = text(&metrics);
        for line in [
            r#"causeway_tunnel_refused_total{side="local",reason="expired"} 1"#,
            r#"causeway_stream_refused_total{side="peer",reason="not_exported"} 1"#,
            r#"causeway_dial_failed_total{reason="timeout"} 1"#,
            r#"causeway_moved_total{service="orders",why="tunnel_lost"} 1"#,
            r#"causeway_forbidden_total{role="ingress",service="orders",rule="deny",result="closed"} 1"#,
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
