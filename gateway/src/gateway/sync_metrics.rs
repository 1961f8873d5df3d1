//! Counters of zone sync.

use causeway_federation::name::GatewayId;
use causeway_telemetry::{
    KnownNames, MetricsRegistry, NamedLabels, Series, Side,
    labels::{ByPeer, ByPeerWay},
};
use prometheus_client::{encoding::EncodeLabelSet, metrics::counter::Counter};

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByPeerSideReason {
    zone: String,
    gateway: String,
    side: &'static str,
    reason: &'static str,
}

impl NamedLabels for ByPeerSideReason {
    fn is_named(&self, known: &KnownNames) -> bool {
        known.has_zone(&self.zone)
    }
}

/// The metrics of zone sync.
#[derive(Debug)]
pub struct SyncMetrics {
    bytes: Series<ByPeerWay, Counter>,
    refused: Series<ByPeerSideReason, Counter>,
    repairs: Counter,
    passed_over: Counter,
}

impl Default for SyncMetrics {
    /// Counts that nobody reads.
    fn default() -> Self {
        Self::new(&mut MetricsRegistry::default())
    }
}

impl SyncMetrics {
    pub fn new(registry: &mut MetricsRegistry) -> Self {
        Self {
            repairs: registry.counter(
                "sync_repairs",
                "Records that were not what their origin says, and were asked for anew",
            ),
            passed_over: registry.counter(
                "sync_passed_over",
                "Zone sync messages that only a newer program knows",
            ),
            bytes: registry.named_counters("sync_bytes", "Zone sync bytes exchanged with a gateway"),
            refused: registry.named_counters(
                "sync_refused",
                "Zone sync sessions ended, and relayed records refused, over a broken rule or limit",
            ),
        }
    }

    /// Zone sync bytes exchanged with a gateway, `way` being `sent` or `received`.
    pub fn sync_bytes(&self, peer: &GatewayId, way: &'static str, bytes: u64) {
        self.bytes_with(peer, way).inc_by(bytes);
    }

    fn bytes_with(&self, peer: &GatewayId, way: &'static str) -> Counter {
        let ByPeer { zone, gateway } = ByPeer::new(peer);
        let labels = ByPeerWay { zone, gateway, way };
        self.bytes.get_or_create(&labels)
    }

    #[cfg(test)]
    pub fn sync_bytes_with(&self, peer: &GatewayId, way: &'static str) -> u64 {
        self.bytes_with(peer, way).get()
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
        self.refused.get_or_create(&labels).inc();
    }

    /// A record that was held of a gateway was not what it says, and was asked for anew.
    pub fn sync_repaired(&self) {
        self.repairs.inc();
    }

    /// A message that only a newer program knows was passed over.
    pub fn sync_passed_over(&self) {
        self.passed_over.inc();
    }
}
