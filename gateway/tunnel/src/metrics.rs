//! Metrics of what happens between gateways.

use causeway_telemetry::{
    MetricsRegistry, Side, StreamRefusal,
    labels::{ByReason, ByResult, BySideReason, ByWay},
    result_word,
};
use parking_lot::Mutex;
use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge};

use super::{
    socket::SocketBuffers,
    tunnel_totals::{TunnelCount, TunnelTotals},
};

/// The metrics of tunnels and of the streams on them.
#[derive(Debug)]
pub struct TunnelMetrics {
    tunnel_refused: Family<BySideReason, Counter>,
    dial_failed: Family<ByReason, Counter>,
    stream_refused: Family<BySideReason, Counter>,
    broke_protocol: Family<ByReason, Counter>,
    socket_buffer: Family<ByWay, Gauge>,
    relayed: RelayedPackets,
    totals: Mutex<TunnelTotals>,
}

/// Counts of packets that came for a process before this one: relayed to it, and lost because it did not take them in time. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct RelayedPackets {
    pub(super) relayed: Counter,
    pub(super) lost: Counter,
}

impl RelayedPackets {
    fn of(family: &Family<ByResult, Counter>) -> Self {
        let counter = |ok| {
            let result = result_word(ok);
            family.get_or_create(&ByResult { result }).clone()
        };
        Self {
            relayed: counter(true),
            lost: counter(false),
        }
    }
}

impl Default for TunnelMetrics {
    /// Counts that nobody reads.
    fn default() -> Self {
        Self::new(&mut MetricsRegistry::default())
    }
}

impl TunnelMetrics {
    pub fn new(registry: &mut MetricsRegistry) -> Self {
        Self {
            tunnel_refused: registry.counters("tunnel_refused", "Tunnels refused, by the side that refused"),
            dial_failed: registry
                .counters("dial_failed", "Dials that failed before any identity was checked"),
            stream_refused: registry.counters("stream_refused", "Streams refused, by the side that refused"),
            broke_protocol: registry.counters(
                "peer_broke_protocol",
                "Peers dropped because they broke the tunnel protocol",
            ),
            socket_buffer: registry.gauges(
                "tunnel_socket_buffer_bytes",
                "Kernel buffer that each UDP socket of tunnels was given",
            ),
            relayed: RelayedPackets::of(&registry.counters(
                "tunnel_relayed_packets",
                "Packets for tunnels that a process before this one finishes",
            )),
            totals: Mutex::new(TunnelTotals::new(registry)),
        }
    }

    /// Counts of what is relayed to processes before this one.
    pub(super) fn relayed(&self) -> &RelayedPackets {
        &self.relayed
    }

    /// A tunnel was refused: `reason` is a fixed word such as `unknown_issuer`, `expired`, `wrong_zone`.
    pub fn tunnel_refused(&self, side: Side, reason: &'static str) {
        let side = side.word();
        self.tunnel_refused
            .get_or_create(&BySideReason { side, reason })
            .inc();
    }

    /// A dial failed before any identity was checked: `reason` such as `timeout`, `resolve`.
    pub fn dial_failed(&self, reason: &'static str) {
        self.dial_failed.get_or_create(&ByReason { reason }).inc();
    }

    /// A stream was refused.
    pub fn stream_refused(&self, side: Side, reason: StreamRefusal) {
        let (side, reason) = (side.word(), reason.word());
        self.stream_refused
            .get_or_create(&BySideReason { side, reason })
            .inc();
    }

    /// A peer broke the tunnel protocol and was dropped.
    pub fn peer_broke_protocol(&self, reason: &'static str) {
        self.broke_protocol.get_or_create(&ByReason { reason }).inc();
    }

    /// The sockets of tunnels were given these buffers.
    pub fn socket_buffers(&self, given: SocketBuffers) {
        for (way, bytes) in [("received", given.receive), ("sent", given.send)] {
            let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
            self.socket_buffer.get_or_create(&ByWay { way }).set(bytes);
        }
    }

    /// Adds what tunnels have carried since they were last counted.
    pub fn count_tunnels<'a>(&self, tunnels: impl Iterator<Item = TunnelCount<'a>>) {
        self.totals.lock().add(tunnels);
    }
}
