//! Ejection of what fails, seen from the traffic itself: an instance that fails so many times in a row comes after the others for a
//! while, and so does a zone, for instances with the same tags, once different ones of its fail in a row. What is ejected is never
//! left out for good: where nothing else is there, it is used. Errors such as 500 may be the request's fault: where one client alone
//! gets them, they eject nothing that does not meanwhile fail what others serve that client well. Each port of a service is judged by itself.
//!
//! Pure: time is an argument, that since any moment that is the same for all calls.

mod ejection;
mod table;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use arc_swap::ArcSwap;
use causeway_federation::{
    catalog::Catalog,
    name::{PortName, ServiceName, Tags, ZoneName},
};

use crate::{
    route::{Candidate, Destination},
    snapshot::Snapshot,
};

pub use ejection::{CarriedEjection, EjectedPart, Ejection, FailureCounts, TryFailure, number_text};
pub use table::OutlierTable;

/// Most instances that one choice puts after the others.
pub const MAX_AVOIDED: usize = 16;

/// Instances and places that are ejected now. Replaced whole with each change; the data path reads it without a lock.
pub type Ejections = Arc<ArcSwap<Ejected>>;

/// Place and instance that a try went to.
#[derive(Debug, Clone, Copy)]
pub struct TriedPlace<'a> {
    pub service: &'a ServiceName,
    /// Port of the service; `None`: the only one, which has no name.
    pub port: Option<&'a PortName>,
    pub zone: &'a ZoneName,
    pub tags: &'a Tags,
    /// Number of the instance; 0: unknown.
    pub instance: u64,
    /// Healthy instances of the place, as far as is known.
    pub healthy: u64,
    /// Number that is the same for all tries of one client.
    pub client: u64,
}

/// Port of a service in one zone.
type ZonePort = (ZoneName, Option<PortName>);

/// Instances and places that come after the others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ejected {
    /// Numbers by service, zone and port, those that are to come back last first.
    instances: BTreeMap<ServiceName, BTreeMap<ZonePort, Vec<u64>>>,
    places: BTreeMap<ServiceName, BTreeSet<(ZonePort, Tags)>>,
    /// Each with its reason, in the order of what they are.
    list: Vec<Ejection>,
}

impl Ejected {
    fn of(mut list: Vec<Ejection>) -> Self {
        let mut ejected = Self::default();
        list.sort_by_key(|ejection| std::cmp::Reverse(ejection.until));
        for ejection in &list {
            let (service, zone) = (ejection.service.clone(), ejection.zone.clone());
            let port = ejection.port.clone();
            match &ejection.part {
                EjectedPart::Instance(number) => {
                    let zones = ejected.instances.entry(service).or_default();
                    zones.entry((zone, port)).or_default().push(*number);
                }
                EjectedPart::Zone(tags) => {
                    let places = ejected.places.entry(service).or_default();
                    places.insert(((zone, port), tags.clone()));
                }
            }
        }
        list.sort_by(|one, other| one.key().cmp(&other.key()));
        Self { list, ..ejected }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Everything that is ejected, in order of service and zone.
    #[must_use]
    pub fn list(&self) -> &[Ejection] {
        &self.list
    }

    /// Ejections of a service.
    pub fn of_service<'a>(&'a self, service: &'a ServiceName) -> impl Iterator<Item = &'a Ejection> {
        let start = self.list.partition_point(|ejection| ejection.service < *service);
        let rest = self.list[start..].iter();
        rest.take_while(move |ejection| ejection.service == *service)
    }

    /// Finds what is ejected here and was not `before`, or has been ejected anew.
    pub fn added_to<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = &'a Ejection> {
        let is_new = |ejection: &&Ejection| {
            let known = before.find(ejection);
            known.is_none_or(|known| known.since != ejection.since)
        };
        self.list.iter().filter(is_new)
    }

    /// Finds what was ejected `before` and is not any more.
    pub fn returned_from<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = &'a Ejection> {
        let is_gone = |ejection: &&Ejection| self.find(ejection).is_none();
        before.list.iter().filter(is_gone)
    }

    fn find(&self, ejection: &Ejection) -> Option<&Ejection> {
        let found = self
            .list
            .binary_search_by(|known| known.key().cmp(&ejection.key()));
        self.list.get(found.ok()?)
    }

    /// Numbers of the instances that come after the others, of `healthy` ones in this zone. At most the share `max` (0 to 1) of them are,
    /// but one of two; and none if all would be.
    #[must_use]
    pub fn instances_of(
        &self,
        (service, port): (&ServiceName, Option<&PortName>),
        zone: &ZoneName,
        healthy: u64,
        max: f64,
    ) -> &[u64] {
        let zones = self.instances.get(service);
        let ejected = zones
            .and_then(|zones| zones.get(&(zone.clone(), port.cloned())))
            .map_or(&[][..], Vec::as_slice);
        let count = ejected.len() as u64;
        if count == 0 || count >= healthy {
            return &[];
        }
        let most = most_of(healthy, max);
        &ejected[..ejected.len().min(usize::try_from(most).unwrap_or(usize::MAX))]
    }

    /// Tells whether any zone comes after the others for a service.
    pub(crate) fn has_places_of(&self, service: &ServiceName) -> bool {
        !self.places.is_empty() && self.places.contains_key(service)
    }

    /// Tells whether a zone comes after the others for instances with these tags.
    #[must_use]
    pub fn has_place(
        &self,
        (service, port): (&ServiceName, Option<&PortName>),
        zone: &ZoneName,
        tags: &Tags,
    ) -> bool {
        let is_it = |((of, at), with): &(ZonePort, Tags)| of == zone && at.as_ref() == port && with == tags;
        let places = self.places.get(service);
        places.is_some_and(|places| places.iter().any(is_it))
    }
}

/// Number of the healthy instances that `candidate` could lead to, as far as is known.
#[must_use]
pub fn healthy_at(snapshot: &Snapshot, service: &ServiceName, candidate: &Candidate) -> u64 {
    let tags = &candidate.tags;
    match &candidate.place {
        Destination::Local => {
            let list = snapshot.instances.get(service);
            list.map_or(0, |list| list.usable_count(tags))
        }
        Destination::Remote { gateway } => {
            let entry = snapshot.catalog.entry(gateway).into_iter();
            let exports = entry.flat_map(|entry| Catalog::exports(entry, service, tags));
            exports.map(|export| u64::from(export.healthy)).sum()
        }
    }
}

/// Numbers of the instances that come after the others where `candidate` leads to.
#[must_use]
pub fn avoided(
    snapshot: &Snapshot,
    (service, port): (&ServiceName, Option<&PortName>),
    candidate: &Candidate,
) -> Vec<u64> {
    let ejected = snapshot.ejections.load();
    if ejected.is_empty() {
        return Vec::new();
    }
    let policy = snapshot.topology.services.get(service);
    let Some(policy) = policy.and_then(|service| service.outlier.as_ref()) else {
        return Vec::new();
    };
    let healthy = healthy_at(snapshot, service, candidate);
    let zone = candidate.zone(&snapshot.zone);
    let numbers = ejected.instances_of((service, port), zone, healthy, policy.max);
    numbers.iter().copied().take(MAX_AVOIDED).collect()
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a share of a number of instances fits what it was"
)]
fn most_of(healthy: u64, max: f64) -> u64 {
    let most = (healthy as f64 * max).floor() as u64;
    most.max(u64::from(healthy >= 2))
}

#[cfg(test)]
mod tests;
