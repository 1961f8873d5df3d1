//! Totals over tunnels, which come and go, as counters that never fall.

use std::collections::HashMap;

use causeway_federation::name::GatewayId;
use causeway_telemetry::{
    MetricsRegistry, Series,
    labels::{ByPeer, ByPeerWay},
};
use prometheus_client::metrics::counter::Counter;

/// The counts of one tunnel since it came up.
#[derive(Debug, Clone, Copy)]
pub struct TunnelCount<'a> {
    /// Tells this tunnel from every other of the process, for as long as it lives.
    pub id: usize,
    pub peer: &'a GatewayId,
    pub lost_packets: u64,
    pub sent_bytes: u64,
    pub received_bytes: u64,
}

/// Losses and bytes over all tunnels to a gateway, those that are gone too: summing only what is up now would let the
/// counters fall whenever a tunnel ends.
#[derive(Debug)]
pub(super) struct TunnelTotals {
    /// Counts of each live tunnel at the last scrape: lost packets, sent bytes, received bytes.
    last: HashMap<usize, [u64; 3]>,
    lost: Series<ByPeer, Counter>,
    bytes: Series<ByPeerWay, Counter>,
}

impl TunnelTotals {
    pub(super) fn new(registry: &mut MetricsRegistry) -> Self {
        Self {
            last: HashMap::new(),
            lost: registry.named_counters("tunnel_lost_packets", "Packets lost on tunnels to a gateway"),
            bytes: registry.named_counters("tunnel_bytes", "UDP bytes on tunnels to a gateway"),
        }
    }

    /// A tunnel's last bytes before its end are lost if no scrape saw them.
    pub(super) fn add<'a>(&mut self, tunnels: impl Iterator<Item = TunnelCount<'a>>) {
        let mut seen = HashMap::new();
        for tunnel in tunnels {
            let now = [tunnel.lost_packets, tunnel.sent_bytes, tunnel.received_bytes];
            let before = self.last.get(&tunnel.id).copied().unwrap_or_default();
            // An id may be used again after its tunnel's end; counts that went back tell a new tunnel.
            let before = if (0..3).all(|i| before[i] <= now[i]) {
                before
            } else {
                [0; 3]
            };
            let peer = ByPeer::new(tunnel.peer);
            self.lost.get_or_create(&peer).inc_by(now[0] - before[0]);
            for (way, i) in [("sent", 1), ("received", 2)] {
                let (zone, gateway) = (peer.zone.clone(), peer.gateway.clone());
                let labels = ByPeerWay { zone, gateway, way };
                self.bytes.get_or_create(&labels).inc_by(now[i] - before[i]);
            }
            seen.insert(tunnel.id, now);
        }
        self.last = seen;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_kept_when_a_tunnel_ends_and_its_id_comes_again() {
        let peer: GatewayId = GatewayId::new("west".parse().unwrap(), "gw1".parse().unwrap());
        let tunnel = |id, lost_packets| TunnelCount {
            id,
            peer: &peer,
            lost_packets,
            sent_bytes: 10,
            received_bytes: 20,
        };
        let mut registry = MetricsRegistry::default();
        let mut totals = TunnelTotals::new(&mut registry);
        totals.add([tunnel(1, 5), tunnel(2, 7)].into_iter());
        totals.add([tunnel(1, 6)].into_iter());
        totals.add([].into_iter());
        totals.add([tunnel(1, 1)].into_iter());
        let peer = ByPeer::new(&peer);
        assert_eq!(totals.lost.get_or_create(&peer).get(), 5 + 7 + 1 + 1);
    }
}
