//! Asks the egress and the ingress to look at their open connections again, whenever what permissions depend on has
//! changed. Decides nothing.

use std::{sync::Arc, time::Duration};

use causeway_proxy::{egress::Egress, ingress::Ingress};
use causeway_routing::snapshot::{Snapshot, Snapshots};
use tokio::sync::watch;

/// Pause after each look, so that instances that come and go all the time do not keep a core busy with looking.
const BETWEEN: Duration = Duration::from_millis(100);

/// Follows the snapshots until their publisher is gone. Dropping the future stops it.
pub(crate) async fn keep_rechecking(
    egress: Egress,
    ingress: Ingress,
    snapshots: Snapshots,
    mut generation: watch::Receiver<u64>,
) {
    let mut last: Option<Arc<Snapshot>> = None;
    loop {
        let now = snapshots.load_full();
        let new_topology = last
            .as_ref()
            .is_none_or(|last| !Arc::ptr_eq(&now.topology, &last.topology));
        let new_callers = last
            .as_ref()
            .is_none_or(|last| !Arc::ptr_eq(&now.callers, &last.callers));
        if new_topology || new_callers {
            let (egress, ingress, now) = (egress.clone(), ingress.clone(), now.clone());
            // A look at a hundred thousand connections must not hold up DNS and zone sync.
            let looking = tokio::task::spawn_blocking(move || {
                egress.recheck(&now);
                if new_topology {
                    ingress.recheck(&now);
                }
            });
            if let Err(error) = looking.await {
                tracing::error!(%error, "open connections were not looked at after a change of permissions");
            }
            tokio::time::sleep(BETWEEN).await;
        }
        last = Some(now);
        if generation.changed().await.is_err() {
            return;
        }
    }
}
