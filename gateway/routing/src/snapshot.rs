//! Knowledge of one zone at one moment: an immutable value that the data path reads without a lock.
//!
//! The program (`gateway/src/gateway/publish.rs`) builds a new `Snapshot` whenever the topology, an instance's health, the
//! catalog or a tunnel changes, and swaps it in whole. Only the load counters inside an
//! [`Instance`], what is ejected, what tiers may take, what is taken back of shifts and what is asked for change in place.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use causeway_federation::{
    catalog::{Catalog, ShiftFigures, ShiftStepNumber},
    name::{GatewayId, ServiceName, Tags, ZoneName},
    registry::{InstanceSource, Provenance},
    topology::{Drain, Service, SplitArm, Topology},
};
use serde::Serialize;

pub use crate::balance::{InstanceList, InstanceLoad};
use crate::{
    callers, capacity::CapacityBoard, failback::Ceilings, outlier::Ejections, reach::OwnListeners,
    route::CompiledServices, shift::Shifts,
};

/// The current snapshot, shared by every task that decides something.
pub type Snapshots = Arc<ArcSwap<Snapshot>>;

/// Every instance of this zone by service, healthy or not, in the order of their ids. A change of one service leaves the
/// lists of the others as they are, shared.
pub type Published = Arc<BTreeMap<ServiceName, InstanceList>>;

#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Counts up with every snapshot of this process.
    pub generation: u64,
    /// The zone this process serves.
    pub zone: ZoneName,
    pub topology: Arc<Topology>,
    /// This zone's own instances by service, healthy or not.
    pub instances: Published,
    /// Index of which services are registered at which address, to tell local clients apart.
    pub callers: Arc<callers::Index>,
    /// Exports of the other zones.
    pub catalog: Arc<Catalog>,
    /// Every gateway that at least one tunnel leads to.
    pub links: Arc<BTreeMap<GatewayId, Link>>,
    /// Addresses that this process listens on, which no instance can have.
    pub listeners: OwnListeners,
    /// Instances and zones that have failed of late. Shared by all snapshots of this process, and changes in place.
    pub ejections: Ejections,
    /// Shares that tiers may take that were ill. Shared and changed as ejections are.
    pub ceilings: Ceilings,
    /// Part of this gateway in the shifts that are under way. Shared and changed as ejections are.
    pub shifts: Shifts,
    /// Demand of the clients here, and where it goes by the capacity of zones. Shared and changed as ejections are.
    pub capacity: Arc<CapacityBoard>,
    /// Decisions as far as they follow from the rest of this snapshot. Made for it, and useless in another; filled as services are asked for.
    pub compiled: CompiledServices,
}

impl Snapshot {
    /// Has decisions on it made faster, with what was worked out for the snapshot before.
    #[must_use]
    pub fn compiled_after(mut self, before: &CompiledServices) -> Self {
        self.compiled = before.following(&self);
        self
    }

    /// Tells whether the topology has a zone emptied.
    #[must_use]
    pub fn drains(&self, zone: &ZoneName) -> bool {
        let zone = self.topology.zones.get(zone);
        zone.is_some_and(|zone| zone.drain.is_some())
    }

    /// Figures on one step of a shift of every gateway that is known to tell some, those of this one, `own`, first.
    #[must_use]
    pub fn shift_figures(
        &self,
        own: &GatewayId,
        service: &ServiceName,
        step: ShiftStepNumber,
    ) -> Vec<(GatewayId, ShiftFigures)> {
        let counted = self
            .shifts
            .load()
            .of(service)
            .filter(|figures| figures.step == step);
        let others = self.catalog.entries().filter(|entry| entry.record.origin != *own);
        let told = others.filter_map(|entry| {
            let told = entry.record.shifts.iter().find(|figures| figures.step == step)?;
            Some((entry.record.origin.clone(), told.clone()))
        });
        let counted = counted.map(|figures| (own.clone(), figures));
        counted.into_iter().chain(told).collect()
    }

    /// The split of a service for what this gateway routes: that of the topology, unless this gateway has taken a shift back.
    #[must_use]
    pub fn split_of<'s>(&self, name: &ServiceName, service: &'s Service) -> &'s [SplitArm] {
        match service.active_shift() {
            Some(shift) if self.shifts.load().takes_back(name, shift) => &shift.from,
            _ => &service.split,
        }
    }
}

/// One running copy of a service in this zone.
#[derive(Debug)]
pub struct Instance {
    /// Unique within the zone.
    pub id: String,
    pub service: ServiceName,
    pub address: SocketAddr,
    pub tags: Tags,
    pub weight: u32,
    pub capacity_per_second: Option<u64>,
    /// Time that it lives without being renewed.
    pub time_to_live: Option<Duration>,
    /// Source that put it in.
    pub source: InstanceSource,
    /// Side from which that was done.
    pub provenance: Provenance,
    pub health: Health,
    /// Is set while nothing new is to go to it; what is open ends by its moment.
    pub drain: Option<Drain>,
    /// Shared by all snapshots that hold this instance.
    pub load: Arc<InstanceLoad>,
}

/// Offset basis and prime of the 64-bit FNV-1a hash.
const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// Number by which gateways know an instance that they are told nothing of: the same at every gateway of its zone, never 0.
#[must_use]
pub fn instance_number(id: &str) -> u64 {
    let hash = id.bytes().fold(FNV_OFFSET, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME)
    });
    hash.max(1)
}

impl Instance {
    /// Number that [`instance_number`] gives it.
    #[must_use]
    pub fn number(&self) -> u64 {
        instance_number(&self.id)
    }

    /// Tells whether it counts as one that serves: one that is drained is told to other zones, and counted by spill, as if it were ill.
    #[must_use]
    pub fn counts_as_healthy(&self) -> bool {
        self.health == Health::Healthy && self.drain.is_none()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Not checked yet: gets no traffic.
    Unknown,
    Healthy,
    Unhealthy,
}

/// Way in which a gateway of another zone can be reached now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Link {
    /// A tunnel is up and answers.
    Up,
    /// Every tunnel has gone silent while answers were due: tried last.
    Stalled,
    /// The peer is shutting down: it takes new streams of those who can go nowhere else.
    Draining,
}
