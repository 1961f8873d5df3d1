//! Metrics of the data path.

mod labels;
mod requests;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use causeway_routing::{ending::EndingReason, outlier::EjectedPart, permit::Rule, route::Why};
use causeway_telemetry::{
    AccessRecord, ConnectionOutcome, MetricsRegistry, MinuteBoard, Role, Series, ServiceLabels,
    labels::{ByReason, ByServiceResult},
};
use causeway_tunnel::TunnelMetrics;
use labels::{
    ByDirection, ByOutcome, ByRole, ByRoleServiceRule, ByRoute, ByServiceLimit, ByServicePart,
    ByServiceReason, ByServiceWhy,
};
use prometheus_client::metrics::{
    counter::Counter,
    family::Family,
    gauge::Gauge,
    histogram::{Histogram, exponential_buckets},
};
use requests::RequestMetrics;

/// Buckets for waits between 100 µs and 3.3 s: what a connection spends before its first byte.
fn waits() -> Histogram {
    Histogram::new(exponential_buckets(0.0001, 2.0, 16))
}

/// Buckets for lives between 1 ms and 4.7 h.
fn lives() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 4.0, 13))
}

/// Reason that a further candidate was asked for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MoveReason {
    /// The one before is slow; both are asked now.
    Hedged,
    /// This became of the one before.
    After(ConnectionOutcome),
}

impl MoveReason {
    /// The word for metrics.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Hedged => "hedged",
            Self::After(outcome) => outcome.word(),
        }
    }
}

/// Result of a connection that a rule forbids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PermissionOutcome {
    Refused,
    /// It was open, and a change took its permission away.
    Closed,
    /// It goes through all the same.
    DryRun,
}

impl PermissionOutcome {
    /// The word for metrics.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Closed => "closed",
            Self::DryRun => "dry_run",
        }
    }
}

/// Counters of a connection's bytes.
#[derive(Debug, Clone, Default)]
pub struct ByteCounters {
    /// Towards the instance.
    pub up: Counter,
    /// Towards the client.
    pub down: Counter,
}

/// Numbers of what permissions forbade since the process began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ForbiddenTotals {
    /// Connections refused, and closed by a change.
    pub ended: u64,
    /// Connections that a dry run let through.
    pub dry_run: u64,
}

/// The metrics of connections, and those of the tunnels that they go through.
#[derive(Debug)]
pub struct ProxyMetrics {
    pub tunnels: Arc<TunnelMetrics>,
    services: Arc<ServiceLabels>,
    connections: Series<ByOutcome, Counter>,
    open: Family<ByRole, Gauge>,
    bytes: Series<ByDirection, Counter>,
    decisions: Series<ByServiceReason, Counter>,
    routed: Series<ByRoute, Counter>,
    moved: Series<ByServiceWhy, Counter>,
    followed: Series<ByServiceWhy, Counter>,
    misplaced: Family<ByRole, Gauge>,
    retried: Series<ByServiceWhy, Counter>,
    mirrored: Series<ByServiceWhy, Counter>,
    limited: Series<ByServiceLimit, Counter>,
    ejected: Series<ByServicePart, Counter>,
    forbidden: Series<ByRoleServiceRule, Counter>,
    ready: Series<ByRole, Histogram>,
    duration: Series<ByRole, Histogram>,
    connect: Series<ByServiceResult, Histogram>,
    requests: RequestMetrics,
    tls_refused: Family<ByReason, Counter>,
    redirect_refused: Family<ByReason, Counter>,
    minute: Arc<MinuteBoard>,
    forbidden_total: AtomicU64,
    dry_run_total: AtomicU64,
}

impl Default for ProxyMetrics {
    /// Counts that nobody reads.
    fn default() -> Self {
        Self::new(&mut MetricsRegistry::default(), Arc::default())
    }
}

impl ProxyMetrics {
    pub fn new(registry: &mut MetricsRegistry, tunnels: Arc<TunnelMetrics>) -> Self {
        Self {
            tunnels,
            services: registry.services().clone(),
            open: registry.gauges("connections_open", "Connections under way"),
            connections: registry.named_counters("connections", "Connections that ended, by how they ended"),
            bytes: registry.named_counters("bytes", "Application bytes carried: up is towards the instance"),
            decisions: registry.named_counters(
                "decisions",
                "Routing decisions, by the reason for the first choice",
            ),
            routed: registry.named_counters(
                "route_requests",
                "Requests that a route of their service ruled, by how they ended",
            ),
            moved: registry.named_counters(
                "moved",
                "Connections moved to a further candidate before any instance had them",
            ),
            followed: registry.named_counters(
                "followed",
                "Open connections that were ended so that they come back where they belong",
            ),
            misplaced: registry.gauges(
                "connections_misplaced",
                "Open connections that belong elsewhere, of services that have a linger, or in a zone that is drained by a moment",
            ),
            retried: registry.named_counters(
                "retried",
                "Requests that were tried again, or not for want of budget, by the end of the try before",
            ),
            mirrored: registry.named_counters(
                "mirrored",
                "Copies of requests for other instances, by how they ended; with no_place none was made",
            ),
            ejected: registry.named_counters(
                "ejected",
                "Times that an instance, or a zone's instances with the same tags, had failed so often in a row that it comes after the others",
            ),
            limited: registry.named_counters(
                "limited",
                "Connections and requests that were refused, or not tried again, because a limit of their service was reached",
            ),
            forbidden: registry.named_counters(
                "forbidden",
                "Connections that permissions forbid: refused, closed by a change, or let through by dry run",
            ),
            ready: registry.named_histograms(
                "ready",
                "From accepting a connection to its instance being ready",
                waits,
            ),
            duration: registry.named_histograms("connection_duration", "How long connections lasted", lives),
            connect: registry.named_histograms(
                "instance_connect",
                "Time to connect to an instance of this zone, or to fail",
                waits,
            ),
            requests: RequestMetrics::new(registry),
            tls_refused: registry.counters(
                "tls_refused",
                "Clients of the TLS listener that were refused before they got as far as a service",
            ),
            redirect_refused: registry.counters(
                "redirect_refused",
                "Clients that came in where redirected ones do, and were not redirected or wanted no address of a service",
            ),
            minute: Arc::default(),
            forbidden_total: AtomicU64::new(0),
            dry_run_total: AtomicU64::new(0),
        }
    }

    /// Counts for the figures of each minute.
    #[must_use]
    pub fn minute(&self) -> &Arc<MinuteBoard> {
        &self.minute
    }

    /// A client of the TLS listener was refused before it got as far as a service.
    pub fn tls_refused(&self, reason: &'static str) {
        self.tls_refused.get_or_create(&ByReason { reason }).inc();
    }

    /// A client that came in where redirected ones do was refused.
    pub fn redirect_refused(&self, reason: &'static str) {
        self.redirect_refused.get_or_create(&ByReason { reason }).inc();
    }

    /// A routing decision, by service and the reason for its first choice, or for none.
    pub fn decided(&self, service: &str, why: Why) {
        let (service, reason) = (self.services.label(service), why.word());
        self.decisions
            .get_or_create(&ByServiceReason { service, reason })
            .inc();
    }

    /// A connection was moved to a further candidate before any instance had it.
    pub fn moved(&self, service: &str, why: MoveReason) {
        let (service, why) = (self.services.label(service), why.word());
        self.moved.get_or_create(&ByServiceWhy { service, why }).inc();
    }

    /// An open connection was ended so that it comes back where it belongs.
    pub fn followed(&self, service: &str, why: EndingReason) {
        let (service, why) = (self.services.label(service), why.word());
        self.followed.get_or_create(&ByServiceWhy { service, why }).inc();
    }

    /// So many open connections of a service belong elsewhere now.
    pub fn misplaced(&self, role: Role, service: &str, count: usize) {
        let (role, service) = (role.word(), self.services.label(service));
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.misplaced.get_or_create(&ByRole { role, service }).set(count);
    }

    /// A request was tried again after such an end of a try, or was not because its service has no budget left.
    pub fn retried(&self, service: &str, why: &'static str) {
        let service = self.services.label(service);
        self.retried.get_or_create(&ByServiceWhy { service, why }).inc();
    }

    /// A copy of a request has ended so, or was not made.
    pub fn mirrored(&self, service: &str, why: &'static str) {
        let service = self.services.label(service);
        self.mirrored.get_or_create(&ByServiceWhy { service, why }).inc();
    }

    /// Something of a service has failed so often in a row that it comes after the others.
    pub fn ejected(&self, service: &str, part: &EjectedPart) {
        let (service, part) = (self.services.label(service), part.word());
        self.ejected.get_or_create(&ByServicePart { service, part }).inc();
    }

    /// A limit of a service was reached.
    pub fn limited(&self, service: &str, limit: &'static str) {
        let service = self.services.label(service);
        self.limited
            .get_or_create(&ByServiceLimit { service, limit })
            .inc();
    }

    /// Permissions forbid a connection.
    pub fn forbidden(&self, role: Role, service: &str, rule: &Rule, result: PermissionOutcome) {
        let labels = ByRoleServiceRule {
            role: role.word(),
            service: self.services.label(service),
            rule: rule.word(),
            result: result.word(),
        };
        self.forbidden.get_or_create(&labels).inc();
        let total = match result {
            PermissionOutcome::DryRun => &self.dry_run_total,
            PermissionOutcome::Refused | PermissionOutcome::Closed => &self.forbidden_total,
        };
        total.fetch_add(1, Ordering::Relaxed);
    }

    #[must_use]
    pub fn forbidden_totals(&self) -> ForbiddenTotals {
        ForbiddenTotals {
            ended: self.forbidden_total.load(Ordering::Relaxed),
            dry_run: self.dry_run_total.load(Ordering::Relaxed),
        }
    }

    /// A connection began. Call `connection_closed` once for each. Returns how many of the service are under way now.
    pub fn connection_opened(&self, role: Role, service: &str) -> u64 {
        let (role, service) = (role.word(), self.services.label(service));
        let before = self.open.get_or_create(&ByRole { role, service }).inc();
        u64::try_from(before).unwrap_or(0).saturating_add(1)
    }

    /// The counters of a connection's bytes, which count them as they flow: one that lives for days shows what it carries.
    #[must_use]
    pub fn byte_counters(&self, role: Role, service: &str) -> ByteCounters {
        let counter = |direction| {
            let (role, service) = (role.word(), self.services.label(service));
            let labels = ByDirection {
                role,
                service,
                direction,
            };
            self.bytes.get_or_create(&labels)
        };
        ByteCounters {
            up: counter("up"),
            down: counter("down"),
        }
    }

    /// A connection ended.
    pub fn connection_closed(&self, role: Role, service: &str, outcome: ConnectionOutcome) {
        let (role, outcome) = (role.word(), outcome.word());
        let service = self.services.label(service);
        let open = ByRole {
            role,
            service: service.clone(),
        };
        self.open.get_or_create(&open).dec();
        self.connections
            .get_or_create(&ByOutcome {
                role,
                service,
                outcome,
            })
            .inc();
    }

    /// Records how long a finished connection waited and lasted, and its route. Call it where the access log line is written.
    pub fn timed(&self, record: &AccessRecord) {
        self.minute.count(record);
        let role = record.role.word();
        let labels = ByRole {
            role,
            service: self.services.label(record.service.as_str()),
        };
        if let Some(ready_after) = record.ready_after {
            self.ready
                .get_or_create(&labels)
                .observe(ready_after.as_secs_f64());
        }
        if let Some(route) = &record.route {
            let labels = ByRoute {
                service: labels.service.clone(),
                route: route.clone(),
                outcome: record.outcome.word(),
            };
            self.routed.get_or_create(&labels).inc();
        }
        if record.request.is_some() {
            self.requests.ended(&self.services, record);
        }
        let duration = record.duration.as_secs_f64();
        self.duration.get_or_create(&labels).observe(duration);
    }

    /// An instance of this zone was connected to, after this long.
    pub fn instance_connected(&self, service: &str, after: Duration) {
        let labels = ByServiceResult {
            service: self.services.label(service),
            result: "connected",
        };
        self.connect.get_or_create(&labels).observe(after.as_secs_f64());
    }

    /// An instance of this zone could not be connected to; the attempt took this long.
    pub fn instance_connect_failed(&self, service: &str, after: Duration) {
        let labels = ByServiceResult {
            service: self.services.label(service),
            result: "failed",
        };
        self.connect.get_or_create(&labels).observe(after.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use causeway_federation::name::ServiceName;
    use causeway_telemetry::{Side, StreamRefusal};

    use super::*;

    fn text(registry: &MetricsRegistry) -> String {
        let mut text = String::new();
        registry.encode(&mut text).unwrap();
        text
    }

    fn with_orders() -> (MetricsRegistry, ProxyMetrics) {
        let mut registry = MetricsRegistry::default();
        registry.services().set([&ServiceName::new("orders").unwrap()]);
        let tunnels = Arc::new(TunnelMetrics::new(&mut registry));
        let metrics = ProxyMetrics::new(&mut registry, tunnels);
        (registry, metrics)
    }

    #[test]
    fn a_connection_is_open_until_it_is_closed() {
        let (registry, metrics) = with_orders();
        metrics.connection_opened(Role::Egress, "orders");
        let open = r#"causeway_connections_open{role="egress",service="orders"}"#;
        assert!(text(&registry).contains(&format!("{open} 1\n")));
        let meter = metrics.byte_counters(Role::Egress, "orders");
        meter.up.inc_by(10);
        meter.down.inc_by(20);
        metrics.connection_closed(Role::Egress, "orders", ConnectionOutcome::Served);
        let text = text(&registry);
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
        let (registry, metrics) = with_orders();
        for name in ["a", "b", "c"] {
            metrics.decided(name, Why::NoHome);
        }
        let text = text(&registry);
        assert!(text.contains(r#"causeway_decisions_total{service="other",reason="no_candidate"} 3"#));
        assert!(!text.contains(r#"service="a""#));
    }

    #[test]
    fn refusals_are_counted_by_side_and_reason() {
        let (registry, metrics) = with_orders();
        metrics.tunnels.tunnel_refused(Side::Local, "expired");
        metrics
            .tunnels
            .stream_refused(Side::Peer, StreamRefusal::NotExported);
        metrics.tunnels.dial_failed("timeout");
        metrics.moved("orders", MoveReason::After(ConnectionOutcome::LostUnready));
        let deny = Rule::Deny(ServiceName::new("orders").unwrap(), 0);
        metrics.forbidden(Role::Ingress, "orders", &deny, PermissionOutcome::Closed);
        let text = text(&registry);
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
