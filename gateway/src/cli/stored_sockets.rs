//! Has the service manager hold the sockets of this gateway while no process of it runs, and take out what is not listened on any more.

use std::{sync::Arc, time::Duration};

use causeway_host::{
    descriptor_store::DescriptorStore,
    handed::{HandedSockets, UnclaimedSocket},
    tasks::Tasks,
};
use parking_lot::Mutex;
use tokio::{
    task::{JoinHandle, spawn_blocking},
    time::MissedTickBehavior,
};
use tokio_util::sync::CancellationToken;

/// Time between two looks at what listens. What is closed in between is taken out so late at most.
const TICK: Duration = Duration::from_millis(250);

/// Store that follows the sockets of this process, until it is told to leave them.
pub(super) struct StoredSockets {
    store: Arc<Mutex<DescriptorStore>>,
    stop: CancellationToken,
    following: JoinHandle<Option<()>>,
}

/// Way to take out what nothing here has a use for.
#[derive(Clone)]
pub(super) struct UnclaimedRemoval(Arc<Mutex<DescriptorStore>>);

impl StoredSockets {
    /// Begins to follow; `None`: no service manager holds sockets.
    pub(super) fn follow(sockets: HandedSockets, tasks: &Tasks) -> Option<Self> {
        let store = Arc::new(Mutex::new(DescriptorStore::of_environment()?));
        let stop = CancellationToken::new();
        let following = keep_following(store.clone(), sockets, stop.clone());
        Some(Self {
            following: tokio::spawn(tasks.guard("sockets that the service manager holds", following)),
            store,
            stop,
        })
    }

    pub(super) fn removal(&self) -> UnclaimedRemoval {
        UnclaimedRemoval(self.store.clone())
    }

    /// Leaves what is stored to the next process: sockets that are closed from here on stay.
    pub(super) async fn leave(self) {
        self.stop.cancel();
        let _ = self.following.await;
    }
}

impl UnclaimedRemoval {
    pub(super) async fn remove(&self, unclaimed: Vec<UnclaimedSocket>) {
        apart(&self.0, move |store| {
            for socket in unclaimed {
                store.disown((socket.kind, socket.address));
            }
        })
        .await;
    }
}

async fn keep_following(store: Arc<Mutex<DescriptorStore>>, sockets: HandedSockets, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let sockets = sockets.clone();
        apart(&store, move |store| store.follow(&sockets)).await;
    }
    // What was closed since the last look is nobody's: a successor is not told of it.
    apart(&store, move |store| store.follow(&sockets)).await;
}

/// Has it at hand where others may be waiting for the service manager, who holds up nothing else.
async fn apart(
    store: &Arc<Mutex<DescriptorStore>>,
    change: impl FnOnce(&mut DescriptorStore) + Send + 'static,
) {
    let store = store.clone();
    if let Err(error) = spawn_blocking(move || change(&mut store.lock())).await {
        tracing::error!(%error, "sockets could not be left to the service manager");
    }
}
