//! Made-up zones: their names, what they export, and a replica for each.

use std::time::Instant;

use causeway_zone_sync::{
    catalog::Export,
    name::{GatewayId, GatewayName, ServiceName, Tags, ZoneName},
    replica::{Ages, LocalChange, Replica},
};

/// What a real federation would have too: names of ordinary length, two versions of each service, two tags.
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

pub fn replica(now: Instant, zone: usize) -> Replica {
    Replica::new(now, gateway(zone), 1_700_000_000, Ages::default(), [])
}

/// A replica that has something to tell.
pub fn telling(now: Instant, zone: usize, count: usize) -> (Replica, Vec<Export>) {
    let exports = exports(zone, count);
    let mut replica = replica(now, zone);
    replica.handle_local(now, LocalChange::Exports(exports.clone()));
    (replica, exports)
}
