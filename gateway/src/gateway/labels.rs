//! Tells the metrics which services the topology names, so that each becomes a label and nothing else does.

use std::sync::Arc;

use causeway_zone_sync::topology::Topology;
use tokio::sync::watch;

use crate::telemetry::Metrics;

/// Names the services at once, and again with every topology while the future is polled.
pub fn name_services(
    metrics: Arc<Metrics>,
    mut topology: watch::Receiver<Arc<Topology>>,
) -> impl Future<Output = ()> {
    metrics.set_services(topology.borrow_and_update().services.keys());
    async move {
        while topology.changed().await.is_ok() {
            metrics.set_services(topology.borrow_and_update().services.keys());
        }
    }
}
