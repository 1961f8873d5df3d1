//! Made-up zones: their names, what they export, and a replica for each.

use std::{collections::BTreeSet, sync::Arc, time::Instant};

use causeway_federation::{
    catalog::Export,
    edition::Fingerprint,
    name::{GatewayId, GatewayName, ServiceName, Tags, ZoneName},
    signing::keyed::{KeyedSigner, KeyedVerifier},
};
use causeway_zone_sync::replica::{LocalChange, Replica, ReplicaConfig};

/// Exports that a real federation would have too: names of ordinary length, two versions of each service, two tags.
pub fn exports(zone: usize, count: usize) -> Vec<Export> {
    (0..count)
        .map(|number| Export {
            service: service(zone, number),
            tags: tags(number),
            instances: 12,
            healthy: 12,
            weight: 12,
            capacity_per_second: Some(3_000).filter(|_| number % 4 == 0),
        })
        .collect()
}

/// Half of the services are in every zone, the others only in this one.
pub fn service(zone: usize, number: usize) -> ServiceName {
    let service = number / 2;
    let name = if service.is_multiple_of(2) {
        format!("payments-{service:04}")
    } else {
        format!("orders-{zone:04}-{service:04}")
    };
    ServiceName::new(&name).expect("a made-up name is a label")
}

pub fn tags(number: usize) -> Tags {
    let version = if number.is_multiple_of(2) { "v1" } else { "v2" };
    [("version", version), ("runtime", "kubernetes")]
        .into_iter()
        .collect()
}

pub fn gateway(zone: usize) -> GatewayId {
    GatewayId::new(
        ZoneName::new(&format!("zone-{zone:05}")).expect("a made-up name is a label"),
        GatewayName::new("gw1").expect("a made-up name is a label"),
    )
}

/// One whose topology has `zones`. Signatures are as long as real ones, and cheap: what real ones cost is measured
/// with the gateway's identity.
pub fn replica(now: Instant, zone: usize, zones: impl IntoIterator<Item = usize>) -> Replica {
    let secret = [1; 32];
    let origin = gateway(zone);
    let verifier = Arc::new(KeyedVerifier::new(secret));
    let config = ReplicaConfig {
        signer: Some(Arc::new(KeyedSigner::new(secret, &origin))),
        ..ReplicaConfig::new(origin, 1_700_000_000, verifier)
    };
    let mut replica = Replica::new(now, config, []);
    let zones: BTreeSet<_> = zones.into_iter().map(|zone| gateway(zone).zone).collect();
    let fingerprint = Fingerprint([9; 32]);
    replica.handle_local(now, LocalChange::Topology { fingerprint, zones });
    replica
}

/// A replica that has something to tell.
pub fn telling(
    now: Instant,
    zone: usize,
    zones: impl IntoIterator<Item = usize>,
    count: usize,
) -> (Replica, Vec<Export>) {
    let exports = exports(zone, count);
    let mut replica = replica(now, zone, zones);
    replica.handle_local(now, LocalChange::Exports(exports.clone()));
    (replica, exports)
}
