//! Tells the metrics which services, arms and zones the topology names, so that each becomes a label and nothing else does.

use std::sync::Arc;

use causeway_federation::topology::Topology;
use causeway_telemetry::ServiceLabels;
use tokio::sync::watch;

/// Names the services at once, and again with every topology while the future is polled.
pub(crate) fn name_services(
    labels: Arc<ServiceLabels>,
    mut topology: watch::Receiver<Arc<Topology>>,
) -> impl Future<Output = ()> {
    labels.follow(&topology.borrow_and_update());
    async move {
        while topology.changed().await.is_ok() {
            labels.follow(&topology.borrow_and_update());
        }
    }
}
