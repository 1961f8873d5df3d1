//! The counted metrics by what they are about, with their names and help texts.

use std::{fmt::Debug, hash::Hash};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

use super::labels::{
    ByAnswer, ByDirection, ByOutcome, ByPeerSideReason, ByPeerWay, ByReason, ByResult, ByRole,
    ByRoleServiceRule, ByServiceReason, ByServiceResult, ByServiceWhy, BySideReason,
};

type Histograms<Labels> = Family<Labels, Histogram, fn() -> Histogram>;

/// Waits between 100 µs and 3.3 s: what a connection spends before its first byte.
fn waits() -> Histogram {
    Histogram::new(exponential_buckets(0.0001, 2.0, 16))
}

/// Lives between 1 ms and 4.7 h.
fn lives() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 4.0, 13))
}

/// What a label set must be able to do; every struct of [`super::labels`] can.
trait Labels: EncodeLabelSet + Hash + Eq + Clone + Debug + Send + Sync + 'static {}
impl<T: EncodeLabelSet + Hash + Eq + Clone + Debug + Send + Sync + 'static> Labels for T {}

fn counters<L: Labels>(registry: &mut Registry, name: &str, help: &str) -> Family<L, Counter> {
    let family = Family::default();
    registry.register(name, help, family.clone());
    family
}

fn histograms<L: Labels>(
    registry: &mut Registry,
    name: &str,
    help: &str,
    make: fn() -> Histogram,
) -> Histograms<L> {
    let family = Histograms::new_with_constructor(make);
    registry.register_with_unit(name, help, Unit::Seconds, family.clone());
    family
}

/// What clients' connections went through.
pub(super) struct TrafficFamilies {
    pub connections: Family<ByOutcome, Counter>,
    pub open: Family<ByRole, Gauge>,
    pub bytes: Family<ByDirection, Counter>,
    pub decisions: Family<ByServiceReason, Counter>,
    pub moved: Family<ByServiceWhy, Counter>,
    pub forbidden: Family<ByRoleServiceRule, Counter>,
    pub ready: Histograms<ByRole>,
    pub duration: Histograms<ByRole>,
    pub connect: Histograms<ByServiceResult>,
}

impl TrafficFamilies {
    pub fn new(registry: &mut Registry) -> Self {
        let open = Family::default();
        registry.register("connections_open", "Connections under way", open.clone());
        Self {
            connections: counters(
                registry,
                "connections",
                "Connections that ended, by how they ended",
            ),
            open,
            bytes: counters(
                registry,
                "bytes",
                "Application bytes carried: up is towards the instance",
            ),
            decisions: counters(
                registry,
                "decisions",
                "Routing decisions, by the reason for the first choice",
            ),
            moved: counters(
                registry,
                "moved",
                "Connections moved to a further candidate before any instance had them",
            ),
            forbidden: counters(
                registry,
                "forbidden",
                "Connections that permissions forbid: refused, closed by a change, or let through by dry run",
            ),
            ready: histograms(
                registry,
                "ready",
                "From accepting a connection to its instance being ready",
                waits,
            ),
            duration: histograms(
                registry,
                "connection_duration",
                "How long connections lasted",
                lives,
            ),
            connect: histograms(
                registry,
                "instance_connect",
                "Time to connect to an instance of this zone, or to fail",
                waits,
            ),
        }
    }
}

/// What went wrong between gateways.
pub(super) struct PeerFamilies {
    pub tunnel_refused: Family<BySideReason, Counter>,
    pub dial_failed: Family<ByReason, Counter>,
    pub stream_refused: Family<BySideReason, Counter>,
    pub broke_protocol: Family<ByReason, Counter>,
}

impl PeerFamilies {
    pub fn new(registry: &mut Registry) -> Self {
        Self {
            tunnel_refused: counters(
                registry,
                "tunnel_refused",
                "Tunnels refused, by the side that refused",
            ),
            dial_failed: counters(
                registry,
                "dial_failed",
                "Dials that failed before any identity was checked",
            ),
            stream_refused: counters(
                registry,
                "stream_refused",
                "Streams refused, by the side that refused",
            ),
            broke_protocol: counters(
                registry,
                "peer_broke_protocol",
                "Peers dropped because they broke the tunnel protocol",
            ),
        }
    }
}

/// What happened at the gateway's own APIs.
pub(super) struct ApiFamilies {
    pub refused: Family<ByReason, Counter>,
    pub tls_refused: Family<ByReason, Counter>,
    pub audit_lines: Family<ByResult, Counter>,
}

impl ApiFamilies {
    pub fn new(registry: &mut Registry) -> Self {
        Self {
            refused: counters(
                registry,
                "api_refused",
                "Requests and handshakes that the admin API and registration refused for want of credentials",
            ),
            tls_refused: counters(
                registry,
                "tls_refused",
                "Clients of the TLS listener that were refused before they got as far as a service",
            ),
            audit_lines: counters(
                registry,
                "audit_lines",
                "Lines for the audit file that were written (ok) or lost (failed)",
            ),
        }
    }
}

/// What the zone does beside carrying traffic.
pub(super) struct ZoneFamilies {
    pub health_checks: Family<ByServiceResult, Counter>,
    pub dns: Family<ByAnswer, Counter>,
    pub sync_bytes: Family<ByPeerWay, Counter>,
    pub sync_refused: Family<ByPeerSideReason, Counter>,
    pub sync_repairs: Counter,
    pub sync_passed_over: Counter,
    pub reloads: Family<ByResult, Counter>,
    pub registry_attached: Gauge,
    pub registry_attachments: Counter,
    pub topologies: Family<ByResult, Counter>,
}

impl ZoneFamilies {
    pub fn new(registry: &mut Registry) -> Self {
        let registry_attached = Gauge::default();
        registry.register(
            "registry_attached",
            "1 while attached to a zone-sync of the own zone; 0 also where the registry is embedded",
            registry_attached.clone(),
        );
        let registry_attachments = Counter::default();
        registry.register(
            "registry_attachments",
            "Attachments to a zone-sync of the own zone; more than one means that one was lost",
            registry_attachments.clone(),
        );
        let (sync_repairs, sync_passed_over) = (Counter::default(), Counter::default());
        registry.register(
            "sync_repairs",
            "Records that were not what their origin says, and were asked for anew",
            sync_repairs.clone(),
        );
        registry.register(
            "sync_passed_over",
            "Zone sync messages that only a newer program knows",
            sync_passed_over.clone(),
        );
        Self {
            registry_attached,
            registry_attachments,
            sync_repairs,
            sync_passed_over,
            health_checks: counters(
                registry,
                "health_checks",
                "Health checks of this zone's instances",
            ),
            dns: counters(registry, "dns_answers", "DNS queries answered"),
            sync_bytes: counters(registry, "sync_bytes", "Zone sync bytes exchanged with a gateway"),
            sync_refused: counters(
                registry,
                "sync_refused",
                "Zone sync sessions ended, and relayed records refused, over a broken rule or limit",
            ),
            reloads: counters(registry, "topology_reloads", "Topology files taken up or refused"),
            topologies: counters(
                registry,
                "topology_documents",
                "Applied topologies, by what became of them",
            ),
        }
    }
}

/// Who this gateway is, and whom it believes.
pub(super) struct IdentityFamilies {
    pub reloads: Family<ByResult, Counter>,
    pub renewals: Family<ByResult, Counter>,
    pub ends: Gauge,
    pub renews: Gauge,
    pub trust: Family<ByResult, Counter>,
}

impl IdentityFamilies {
    pub fn new(registry: &mut Registry) -> Self {
        let (ends, renews) = (Gauge::default(), Gauge::default());
        registry.register(
            "identity_not_after_timestamp_seconds",
            "When the certificate in use ends, since 1970; 0 while that is not known",
            ends.clone(),
        );
        registry.register(
            "identity_renewal_timestamp_seconds",
            "When the certificate in use is renewed next, since 1970; 0 where somebody else renews it",
            renews.clone(),
        );
        Self {
            reloads: counters(
                registry,
                "identity_reloads",
                "Renewed identities taken up or refused",
            ),
            renewals: counters(
                registry,
                "identity_renewals",
                "Certificates asked of the CA, by what became of it",
            ),
            ends,
            renews,
            trust: counters(
                registry,
                "trust_documents",
                "Documents of what the federation trusts, by what became of them",
            ),
        }
    }
}
