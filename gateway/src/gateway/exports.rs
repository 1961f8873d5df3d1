//! Tells zone sync what this zone exports, whenever an instance, its health or the topology changes.

use std::sync::Arc;

use causeway_federation::{
    catalog::{Export, InstanceState, exports},
    name::ServiceName,
    topology::{Service, Topology},
};
use causeway_routing::{balance::takes_traffic_in_panic, snapshot::Published};
use causeway_zone_sync::service::ZoneSync;
use tokio::sync::watch;

/// Says it once before it returns, and then after every change until a sender is gone. Dropping the future stops it.
pub(crate) async fn keep_exports(
    zone_sync: ZoneSync,
    mut topology: watch::Receiver<Arc<Topology>>,
    mut instances: watch::Receiver<Published>,
) {
    loop {
        let (current, published) = (
            topology.borrow_and_update().clone(),
            instances.borrow_and_update().clone(),
        );
        zone_sync.set_topology(&current);
        zone_sync.set_exports(exports_of(&current, &published));
        let changed = tokio::select! {
            changed = topology.changed() => changed,
            changed = instances.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

/// The exports of the services that the topology declares; others are nobody's business yet.
fn exports_of(topology: &Topology, instances: &Published) -> Vec<Export> {
    let declared = instances
        .iter()
        .filter(|(service, _)| topology.services.contains_key(*service));
    let panics = |service: &ServiceName| topology.services.get(service).is_some_and(Service::panics);
    exports(
        declared
            .flat_map(|(_, list)| list.iter())
            .map(|instance| InstanceState {
                service: &instance.service,
                tags: &instance.tags,
                healthy: instance.counts_as_healthy(),
                serves_in_panic: panics(&instance.service) && takes_traffic_in_panic(instance),
                weight: instance.weight,
                capacity_per_second: instance.capacity_per_second,
            }),
    )
}
