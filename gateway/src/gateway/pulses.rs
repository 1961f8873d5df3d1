//! Signs that a gateway goes on serving: every data thread and the tasks that own the registry and zone sync answer.

use causeway_host::watchdog::Pulse;
use tokio::runtime::Handle;

use super::Gateway;

impl Gateway {
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
