//! Capacity: no zone is given more of a service than its healthy instances can take, and what fits nowhere is shed where it is asked for,
//! the sheddable first. Every gateway knows what the clients of each zone ask for, so that each works out the same shares by itself
//! ([`plan`]), and [`route`](crate::route::route) reads those of its own zone as data. What is asked for does not hang on where it goes:
//! nothing is fed back, and so nothing swings. Pure.

mod fill;
mod measured;
mod meter;
mod places;
mod recorder;
mod table;
#[cfg(test)]
mod tests;
mod words;

use std::collections::{BTreeMap, BTreeSet};

use arc_swap::{ArcSwap, Guard};
use causeway_federation::{
    name::{ServiceName, Tags, ZoneName},
    topology::{CapacityRule, Criticality, Service},
};
use http::{HeaderMap, HeaderName};
use std::sync::Arc;

use crate::{limit_shares::LimitBoard, permit::Caller};

pub use measured::{
    AnswerMeter, AwaitedAnswer, CarriedBound, CarriedEstimate, CarriedPhase, CountedAnswers, MAX_MEASURED,
    MeasuredCapacities, MeasuredCapacity, MeasuredTable, SeenAnswers, ZoneAnswers, is_measured,
};
pub use meter::{DemandMeter, MAX_DEMANDS};
pub use places::{matters, plan, plans};
pub use recorder::{LoadRecorder, RecordedLoad};
pub use table::{DemandTable, ToldDemand};
pub use words::HeardFrom;

/// Something that clients ask for, and how often.
#[derive(Debug, Clone, PartialEq)]
pub struct DemandedRate {
    pub service: ServiceName,
    /// Tags that an instance must carry.
    pub tags: Tags,
    pub criticality: Criticality,
    /// Requests or connections a second.
    pub per_second: f64,
}

/// Demand of the clients of each zone.
pub type ZoneDemands = BTreeMap<ZoneName, Vec<DemandedRate>>;

/// Demand of the clients here, and the plan of where it goes. Shared by all snapshots of a process, and changes in place.
#[derive(Debug, Default)]
pub struct CapacityBoard {
    plan: ArcSwap<CapacityPlan>,
    pub meter: DemandMeter,
    /// The same of every service, by the tags of the name that was asked for: nothing is decided by it.
    pub asked: DemandMeter,
    /// Use of limits by the other gateways of the zone.
    pub limits: LimitBoard,
    /// Answers to the clients of this gateway, of services whose capacity is measured.
    pub answers: AnswerMeter,
    measured: ArcSwap<MeasuredCapacities>,
}

impl CapacityBoard {
    /// The plan that is in force.
    #[must_use]
    pub fn plan(&self) -> Guard<Arc<CapacityPlan>> {
        self.plan.load()
    }

    /// Has a plan take the place of the one before.
    pub fn publish(&self, plan: CapacityPlan) {
        self.plan.store(Arc::new(plan));
    }

    /// Capacity that was measured.
    #[must_use]
    pub fn measured(&self) -> Guard<Arc<MeasuredCapacities>> {
        self.measured.load()
    }

    /// Has what was found take the place of what was before.
    pub fn found(&self, measured: MeasuredCapacities) {
        self.measured.store(Arc::new(measured));
    }
}

/// Shares of what the clients of one zone ask for, by the capacity of all zones.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct CapacityPlan {
    services: BTreeMap<ServiceName, PlannedService>,
}

#[derive(Debug, Default, Clone, PartialEq)]
struct PlannedService {
    /// By tags and criticality. Those of which everything goes where it would without capacity are left out.
    shares: BTreeMap<Tags, [Option<CapacityShares>; 3]>,
    rooms: BTreeMap<ZoneName, ZoneRoom>,
    /// Demand of the clients of all zones.
    demanded_per_second: f64,
}

/// Shares of a demand for instances with some tags.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct CapacityShares {
    /// Those that take something, in the order of tiers.
    pub zones: Vec<ZoneShare>,
    /// Share (0 to 1) that fits nowhere.
    pub shed: f64,
}

/// Share (0 to 1) of the demand that one zone takes.
#[derive(Debug, Clone, PartialEq)]
pub struct ZoneShare {
    pub zone: ZoneName,
    /// Counts from 1.
    pub tier: usize,
    pub share: f64,
    /// Its capacity was measured.
    pub is_measured: bool,
}

/// Capacity of a service in one zone, and what of it is given away.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ZoneRoom {
    pub capacity_per_second: f64,
    /// Demand that the clients of all zones are meant to send there.
    pub planned_per_second: f64,
    /// It was measured, and is less than what is declared.
    pub is_measured: bool,
}

impl CapacityPlan {
    /// Shares of a demand; `None`: capacity changes nothing about where it goes.
    #[must_use]
    pub fn shares(
        &self,
        service: &ServiceName,
        tags: &Tags,
        criticality: Criticality,
    ) -> Option<&CapacityShares> {
        let shares = self.services.get(service)?.shares.get(tags)?;
        shares[criticality.index()].as_ref()
    }

    /// Demand for a service in all zones; `None`: no capacity of it is respected.
    #[must_use]
    pub fn demanded(&self, service: &ServiceName) -> Option<f64> {
        Some(self.services.get(service)?.demanded_per_second)
    }

    /// Zones of which the capacity for this service is known.
    pub fn rooms_of(&self, service: &ServiceName) -> impl Iterator<Item = (&ZoneName, &ZoneRoom)> {
        let planned = self.services.get(service).into_iter();
        planned.flat_map(|planned| &planned.rooms)
    }

    /// Every zone of which the capacity for a service is known.
    pub fn rooms(&self) -> impl Iterator<Item = (&ServiceName, &ZoneName, ZoneRoom)> {
        self.services.iter().flat_map(|(service, planned)| {
            let rooms = planned.rooms.iter();
            rooms.map(move |(zone, room)| (service, zone, *room))
        })
    }
}

impl CapacityShares {
    /// Shares of so many tiers, in their order.
    pub(crate) fn of_tiers(&self, tiers: usize) -> Vec<f64> {
        let most = self.zones.iter().map(|zone| zone.tier).max().unwrap_or_default();
        let mut shares = vec![0.0; tiers.max(most)];
        for zone in &self.zones {
            shares[zone.tier - 1] += zone.share;
        }
        shares
    }
}

/// Tells whether capacity decides about a service.
#[must_use]
pub fn is_respected(service: &Service) -> bool {
    let rule = service.spill.as_ref().map(|spill| spill.capacity);
    rule.is_some_and(|rule| rule != CapacityRule::Ignore)
}

/// Field in which a request of a caller that may do so says its criticality.
pub const CRITICALITY: HeaderName = HeaderName::from_static("causeway-criticality");

/// Criticality that a request says itself: by exactly one field, of a caller from whom its service takes it.
#[must_use]
pub fn criticality_by_header(service: &Service, caller: &Caller, headers: &HeaderMap) -> Option<Criticality> {
    let mut fields = headers.get_all(CRITICALITY).iter();
    let (Some(field), None) = (fields.next(), fields.next()) else {
        return None;
    };
    let said = Criticality::from_word(field.to_str().ok()?)?;
    service.takes_criticality_from(caller.view()).then_some(said)
}

/// Every criticality that something of a service can have.
pub(crate) fn criticalities(service: &Service) -> BTreeSet<Criticality> {
    let of_routes = service.routes.iter().filter_map(|route| route.criticality);
    let by_header = Criticality::ALL.into_iter();
    let by_header = by_header.filter(|_| !service.criticality_from.is_empty());
    of_routes.chain([service.criticality]).chain(by_header).collect()
}
