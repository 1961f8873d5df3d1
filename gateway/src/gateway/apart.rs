//! Gateways of one zone that each keep a registry of their own: what is registered at one is not known at the others. Every gateway
//! of such a zone says so, in its log and to `causeway check`.

use std::sync::Arc;

use causeway_federation::{
    name::{GatewayName, ZoneName},
    topology::Topology,
};
use causeway_routing::snapshot::Snapshots;
use causeway_telemetry::Check;
use causeway_tunnel::TunnelSet;
use tokio::sync::watch;

const HINT: &str = "give every gateway of the zone --zone-sync, with the addresses of `causeway zone-sync` processes that share one \
    etcd; or leave only this gateway's addresses in the topology";

/// Says that a zone has several gateways, for one whose registry is embedded; `None`: it is the only one, as far as the topology knows.
pub(super) fn several(topology: &Topology, zone: &ZoneName) -> Option<String> {
    let gateways = topology.zones.get(zone)?.gateways.len();
    (gateways > 1).then(|| {
        format!(
            "zone {zone} has {gateways} gateways in the topology, and this one keeps a registry of its own: what is registered here is \
             not known at the others, nor what is registered there here"
        )
    })
}

/// Says which gateways of the zone do not share a registry with this one. `is_apart`: the registry of this gateway is embedded.
pub(super) fn check(
    snapshots: Snapshots,
    tunnels: Arc<TunnelSet>,
    is_apart: bool,
) -> impl Fn() -> Check + Send + Sync {
    move || {
        let snapshot = snapshots.load();
        let siblings = tunnels.siblings_apart();
        if !siblings.is_empty() {
            let names: Vec<&str> = siblings.iter().map(GatewayName::as_str).collect();
            let text = format!(
                "the gateways {} of this zone do not share a registry with this one: what is registered at one is not known at the other",
                names.join(", ")
            );
            return Check::warn("zone sync", "registries", text, HINT);
        }
        match several(&snapshot.topology, &snapshot.zone).filter(|_| is_apart) {
            Some(text) => Check::warn("zone sync", "registries", text, HINT),
            None if is_apart => Check::ok(
                "zone sync",
                "registries",
                "its own: this is the zone's only gateway, as far as is known",
            ),
            None => Check::ok(
                "zone sync",
                "registries",
                "shared by the zone's gateways, as far as is known",
            ),
        }
    }
}

/// Says so in the log, once for as long as it is so. `is_apart`: the registry of this gateway is embedded.
pub(super) async fn keep_telling(
    mut topology: watch::Receiver<Arc<Topology>>,
    zone: ZoneName,
    is_apart: bool,
) {
    let mut told = false;
    loop {
        let text = several(&topology.borrow_and_update(), &zone).filter(|_| is_apart);
        if let (Some(text), false) = (&text, told) {
            tracing::warn!(%zone, hint = HINT, "{text}");
        }
        told = text.is_some();
        if topology.changed().await.is_err() {
            // Nobody is left who could change it.
            return std::future::pending().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_with_several_gateways_is_told_from_one_with_several_addresses() {
        let of = |gateways: &str| {
            let text = format!(
                "version: 1\ntrust_domain: a.b\nzones:\n  east: {{ gateways: {gateways} }}\nservices: {{}}\n"
            );
            let topology = causeway_federation::topology::parse(&text, "t.yaml")
                .unwrap()
                .topology;
            several(&topology, &"east".parse().unwrap())
        };
        assert_eq!(of("[]"), None);
        assert_eq!(of("[{ addresses: [a:7800, b:7800] }]"), None);
        let text = of("[a:7800, b:7800]").unwrap();
        assert!(text.contains("zone east has 2 gateways"), "{text}");
    }
}
