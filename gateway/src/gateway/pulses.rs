//! Signs that a gateway serves and goes on serving: its listeners stand, and every data thread and the tasks that own the registry and
//! zone sync answer.

use std::{net::SocketAddr, time::Duration};

use causeway_host::watchdog::Pulse;
use tokio::runtime::Handle;

use super::Gateway;

/// Longest wait for the listeners of services that are there from the start.
const LISTENERS_MAY_TAKE: Duration = Duration::from_secs(5);

impl Gateway {
    /// Waits until every service that there is now is listened for, or is known not to be, and at most 5 s.
    pub async fn listening(&self) {
        let addresses: Vec<SocketAddr> = self.vips.bindings().borrow().keys().copied().collect();
        let listening = self.vips.listening();
        if !listening.wait_for_each(&addresses, LISTENERS_MAY_TAKE).await {
            tracing::warn!(longest = ?LISTENERS_MAY_TAKE, "not every service is listened for yet");
        }
    }

    /// Parts that answer for as long as the gateway does what it is for. Must be called on its control runtime. A task that has ended does
    /// not answer.
    #[must_use]
    pub fn pulses(&self) -> Vec<Pulse> {
        let control = Handle::current();
        let (instances, zone_sync) = (self.instances.clone(), self.zone_sync.clone());
        let registry = Pulse::new("registry", control.clone(), move || {
            let instances = instances.clone();
            async move {
                if !instances.answer().await {
                    std::future::pending().await
                }
            }
        });
        let syncing = Pulse::new("zone sync", control, move || {
            let zone_sync = zone_sync.clone();
            async move {
                if zone_sync.status().await.is_none() {
                    std::future::pending().await
                }
            }
        });
        let threads = self.threads.handles().iter().enumerate();
        let threads =
            threads.map(|(index, handle)| Pulse::of_runtime(format!("data thread {index}"), handle.clone()));
        [registry, syncing].into_iter().chain(threads).collect()
    }
}
