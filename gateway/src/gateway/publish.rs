//! Keeps the current [`Snapshot`]: whenever the topology, an instance, the catalog or a tunnel changes, builds a new one
//! and swaps it in. Decides nothing.

use std::sync::Arc;

use arc_swap::ArcSwap;
use causeway_federation::{catalog::Catalog, name::ZoneName, topology::Topology};
use causeway_routing::{
    callers,
    capacity::CapacityBoard,
    failback::Ceilings,
    outlier::Ejections,
    reach::OwnListeners,
    route::CompiledServices,
    shift::Shifts,
    snapshot::{Published, Snapshot, Snapshots},
};
use causeway_tunnel::TunnelSet;
use tokio::sync::watch;

/// Everything a snapshot is made of.
#[derive(Debug, Clone)]
pub(crate) struct Sources {
    pub zone: ZoneName,
    pub topology: watch::Receiver<Arc<Topology>>,
    pub instances: watch::Receiver<Published>,
    pub catalog: watch::Receiver<Arc<Catalog>>,
    pub tunnels: Arc<TunnelSet>,
    /// Grows while the gateway starts.
    pub listeners: watch::Sender<OwnListeners>,
    pub in_place: ChangingInPlace,
}

/// Parts that all snapshots share and that change without a new one.
#[derive(Debug, Clone, Default)]
pub(crate) struct ChangingInPlace {
    ejections: Ejections,
    ceilings: Ceilings,
    shifts: Shifts,
    capacity: Arc<CapacityBoard>,
}

/// The latest index of callers, the instances that it is of, and what is compiled.
#[derive(Default)]
struct Indexed {
    instances: Published,
    callers: Arc<callers::Index>,
    compiled: CompiledServices,
}

impl Indexed {
    fn follow(&mut self, instances: &Published) -> Arc<callers::Index> {
        self.callers = self.callers.updated(&self.instances, instances);
        self.instances = instances.clone();
        self.callers.clone()
    }
}

impl Sources {
    fn build(&mut self, generation: u64, indexed: &mut Indexed) -> Snapshot {
        let instances = self.instances.borrow_and_update().clone();
        let snapshot = Snapshot {
            generation,
            zone: self.zone.clone(),
            topology: self.topology.borrow_and_update().clone(),
            callers: indexed.follow(&instances),
            instances,
            catalog: self.catalog.borrow_and_update().clone(),
            links: Arc::new(self.tunnels.links()),
            listeners: self.listeners.borrow().clone(),
            ejections: self.in_place.ejections.clone(),
            ceilings: self.in_place.ceilings.clone(),
            shifts: self.in_place.shifts.clone(),
            capacity: self.in_place.capacity.clone(),
            compiled: CompiledServices::default(),
        }
        .compiled_after(&indexed.compiled);
        indexed.compiled = snapshot.compiled.clone();
        snapshot
    }
}

/// Waits for a change. A source that is gone changes no more: a successor has taken its place, or the task that fed it has ended.
async fn changed<T>(source: &mut watch::Receiver<T>) {
    if source.changed().await.is_err() {
        std::future::pending().await
    }
}

/// Builds the first snapshot at once; the future keeps it current.
pub(crate) fn publish(
    mut sources: Sources,
) -> (Snapshots, watch::Receiver<u64>, impl Future<Output = ()> + Send) {
    let mut tunnels = sources.tunnels.changed();
    tunnels.mark_unchanged();
    let mut listeners = sources.listeners.subscribe();
    let mut indexed = Indexed::default();
    let snapshots: Snapshots = Arc::new(ArcSwap::from_pointee(sources.build(1, &mut indexed)));
    let generations = watch::Sender::new(1);
    let generation = generations.subscribe();
    let published = snapshots.clone();
    let publishing = async move {
        let mut count = 1;
        loop {
            tokio::select! {
                () = changed(&mut sources.topology) => {}
                () = changed(&mut sources.instances) => {}
                () = changed(&mut sources.catalog) => {}
                () = changed(&mut tunnels) => {}
                () = changed(&mut listeners) => {}
            }
            count += 1;
            tunnels.mark_unchanged();
            listeners.mark_unchanged();
            published.store(Arc::new(sources.build(count, &mut indexed)));
            generations.send_replace(count);
        }
    };
    (snapshots, generation, publishing)
}
