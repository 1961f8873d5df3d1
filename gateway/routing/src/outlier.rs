//! Ejection of what fails, seen from the traffic itself: an instance that fails so many times in a row comes after the others for a
//! while, and so does a zone, for instances with the same tags, once different ones of its fail in a row. What is ejected is never
//! left out for good: where nothing else is there, it is used.
//!
//! Pure: time is an argument, that since any moment that is the same for all calls.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use causeway_federation::{
    catalog::Catalog,
    name::{ServiceName, Tags, ZoneName},
    topology::Outlier,
};

use crate::{
    route::{Candidate, Destination},
    snapshot::Snapshot,
};

/// Longest time for which anything is ejected, unless its service says a longer one.
const MAX_EJECTED: Duration = Duration::from_secs(300);
/// Most doublings of the time of the first ejection.
const MAX_DOUBLINGS: u32 = 10;
/// Most instances, and most places, that are remembered. Of a further one nothing is known.
const MAX_RECORDS: usize = 10_000;

/// Most instances that one choice puts after the others.
pub const MAX_AVOIDED: usize = 16;

/// Instances and places that are ejected now. Replaced whole with each change; the data path reads it without a lock.
pub type Ejections = Arc<ArcSwap<Ejected>>;

/// Place and instance that a try went to.
#[derive(Debug, Clone, Copy)]
pub struct TriedPlace<'a> {
    pub service: &'a ServiceName,
    pub zone: &'a ZoneName,
    pub tags: &'a Tags,
    /// Number of the instance; 0: unknown.
    pub instance: u64,
    /// Healthy instances of the place, as far as is known.
    pub healthy: u64,
}

/// Instances and places that come after the others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ejected {
    /// Numbers by service and zone, those that are to come back last first.
    instances: BTreeMap<ServiceName, BTreeMap<ZoneName, Vec<u64>>>,
    places: BTreeMap<ServiceName, BTreeSet<(ZoneName, Tags)>>,
}

impl Ejected {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.instances.is_empty() && self.places.is_empty()
    }

    /// Numbers of the instances that come after the others, of `healthy` ones in this zone. At most the share `max` (0 to 1) of them are,
    /// but one of two; and none if all would be.
    #[must_use]
    pub fn instances_of(&self, service: &ServiceName, zone: &ZoneName, healthy: u64, max: f64) -> &[u64] {
        let zones = self.instances.get(service);
        let ejected = zones
            .and_then(|zones| zones.get(zone))
            .map_or(&[][..], Vec::as_slice);
        let count = ejected.len() as u64;
        if count == 0 || count >= healthy {
            return &[];
        }
        let most = most_of(healthy, max);
        &ejected[..ejected.len().min(usize::try_from(most).unwrap_or(usize::MAX))]
    }

    /// Tells whether a zone comes after the others for instances with these tags.
    #[must_use]
    pub fn has_place(&self, service: &ServiceName, zone: &ZoneName, tags: &Tags) -> bool {
        let places = self.places.get(service);
        places.is_some_and(|places| places.iter().any(|(of, with)| of == zone && with == tags))
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
pub fn avoided(snapshot: &Snapshot, service: &ServiceName, candidate: &Candidate) -> Vec<u64> {
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
    let numbers = ejected.instances_of(service, zone, healthy, policy.max);
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

/// Failures in a row, and the ejections that they came to.
#[derive(Debug, Clone, Copy, Default)]
struct FailureRow {
    failures: u32,
    ejections: u32,
    /// End of the last ejection.
    until: Duration,
    /// Instance of the first failure, and whether another one has failed since.
    first: u64,
    several: bool,
}

impl FailureRow {
    fn is_ejected(&self, now: Duration) -> bool {
        now < self.until
    }

    /// Takes up a failure; `true`: it is ejected with it.
    fn failed(
        &mut self,
        now: Duration,
        policy: &Outlier,
        instance: u64,
        is_enough: impl Fn(&Self) -> bool,
    ) -> bool {
        if self.is_ejected(now) {
            // Of what was under way before.
            return false;
        }
        if self.failures == 0 {
            (self.first, self.several) = (instance, false);
        }
        self.several |= instance != self.first;
        self.failures = self.failures.saturating_add(1);
        // One that has come back has a single chance: its row goes on.
        if self.failures < policy.consecutive || !is_enough(self) {
            return false;
        }
        let longest = MAX_EJECTED.max(policy.eject);
        let time = policy
            .eject
            .saturating_mul(1 << self.ejections.min(MAX_DOUBLINGS));
        self.ejections += 1;
        self.until = now.saturating_add(time.min(longest));
        true
    }
}

type InstanceKey = (ServiceName, ZoneName, u64);
type PlaceKey = (ServiceName, ZoneName, Tags);

/// Memory of what has failed.
#[derive(Debug, Default)]
pub struct OutlierTable {
    instances: BTreeMap<InstanceKey, FailureRow>,
    places: BTreeMap<PlaceKey, FailureRow>,
    /// Nothing changes before.
    next: Option<Duration>,
}

impl OutlierTable {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.instances.is_empty() && self.places.is_empty()
    }

    /// The next moment at which something that is ejected comes back.
    #[must_use]
    pub fn next(&self) -> Option<Duration> {
        self.next
    }

    /// Takes up that a try failed. Tells whether something was ejected with it.
    pub fn failed(&mut self, now: Duration, policy: &Outlier, at: TriedPlace<'_>) -> bool {
        let mut changed = false;
        let key = (at.service.clone(), at.zone.clone(), at.instance);
        if at.instance != 0 && has_room(&mut self.instances, now, &key) {
            let row = self.instances.entry(key).or_default();
            changed |= row.failed(now, policy, at.instance, |_| true);
        }
        let key = (at.service.clone(), at.zone.clone(), at.tags.clone());
        if has_room(&mut self.places, now, &key) {
            let row = self.places.entry(key).or_default();
            // One bad instance among others says nothing of its zone.
            changed |= row.failed(now, policy, at.instance, |row| {
                row.several || at.healthy <= 1 || at.instance == 0
            });
        }
        self.look_ahead(now);
        changed
    }

    /// Takes up that a try went well. Tells whether something has come back with it.
    pub fn succeeded(&mut self, now: Duration, at: TriedPlace<'_>) -> bool {
        let mut changed = false;
        let key = (at.service.clone(), at.zone.clone(), at.instance);
        if self.instances.get(&key).is_some_and(|row| !row.is_ejected(now)) {
            self.instances.remove(&key);
        }
        let key = (at.service.clone(), at.zone.clone(), at.tags.clone());
        if let Some(row) = self.places.remove(&key) {
            changed = row.is_ejected(now);
        }
        self.look_ahead(now);
        changed
    }

    /// Collects what is ejected now.
    #[must_use]
    pub fn ejected(&mut self, now: Duration) -> Ejected {
        let mut ejected = Ejected::default();
        let mut instances: Vec<_> = self
            .instances
            .iter()
            .filter(|(_, row)| row.is_ejected(now))
            .collect();
        instances.sort_by_key(|(_, row)| std::cmp::Reverse(row.until));
        for ((service, zone, number), _) in instances {
            let zones = ejected.instances.entry(service.clone()).or_default();
            zones.entry(zone.clone()).or_default().push(*number);
        }
        for ((service, zone, tags), row) in &self.places {
            if row.is_ejected(now) {
                let places = ejected.places.entry(service.clone()).or_default();
                places.insert((zone.clone(), tags.clone()));
            }
        }
        self.look_ahead(now);
        ejected
    }

    fn look_ahead(&mut self, now: Duration) {
        let rows = self.instances.values().chain(self.places.values());
        self.next = rows.filter(|row| row.is_ejected(now)).map(|row| row.until).min();
    }
}

/// Makes room for a further record, by forgetting those that are not ejected.
fn has_room<K: Ord>(records: &mut BTreeMap<K, FailureRow>, now: Duration, key: &K) -> bool {
    if records.len() >= MAX_RECORDS && !records.contains_key(key) {
        records.retain(|_, row| row.is_ejected(now));
    }
    records.len() < MAX_RECORDS || records.contains_key(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testbed::{service, tags, topology, zone};

    const NOW: Duration = Duration::from_secs(1000);
    const EJECT: Duration = Duration::from_secs(30);

    fn policy() -> Outlier {
        let topology = topology(
            "  home: {}",
            "  orders: { port: 80, protocol: http, outlier: { consecutive: 3, eject: 30s, max: 50% } }",
        );
        topology.services[&service("orders")].outlier.clone().unwrap()
    }

    /// A table, and the place that its tries go to.
    struct Tried {
        table: OutlierTable,
        service: ServiceName,
        zone: ZoneName,
        tags: Tags,
        healthy: u64,
    }

    impl Tried {
        fn among(healthy: u64) -> Self {
            Self {
                table: OutlierTable::default(),
                service: service("orders"),
                zone: zone("east"),
                tags: tags(&[("version", "v1")]),
                healthy,
            }
        }

        fn tell(&mut self, now: Duration, instance: u64, is_well: bool) -> bool {
            let at = TriedPlace {
                service: &self.service,
                zone: &self.zone,
                tags: &self.tags,
                instance,
                healthy: self.healthy,
            };
            match is_well {
                true => self.table.succeeded(now, at),
                false => self.table.failed(now, &policy(), at),
            }
        }

        /// Numbers that come after the others, and whether the zone does.
        fn ejected(&mut self, now: Duration) -> (Vec<u64>, bool) {
            let ejected = self.table.ejected(now);
            let numbers = ejected.instances_of(&self.service, &self.zone, self.healthy, 0.5);
            let has_place = ejected.has_place(&self.service, &self.zone, &self.tags);
            (numbers.to_vec(), has_place)
        }
    }

    #[test]
    fn an_instance_that_fails_in_a_row_is_ejected_and_its_zone_is_not() {
        let mut tried = Tried::among(4);
        for (instance, is_well) in [(7, false), (7, false), (7, true), (7, false), (7, false)] {
            assert!(!tried.tell(NOW, instance, is_well));
            assert_eq!(tried.ejected(NOW), (vec![], false));
        }
        assert!(tried.tell(NOW, 7, false));
        assert_eq!(tried.ejected(NOW), (vec![7], false));
        for _ in 0..10 {
            tried.tell(NOW, 7, false);
        }
        assert_eq!(
            tried.ejected(NOW),
            (vec![7], false),
            "what was under way says nothing new"
        );
        assert_eq!(tried.table.next(), Some(NOW + EJECT));
        assert_eq!(tried.ejected(NOW + EJECT), (vec![], false));
    }

    #[test]
    fn one_that_has_come_back_has_a_single_chance_and_stays_away_longer_each_time() {
        let mut tried = Tried::among(4);
        for _ in 0..3 {
            tried.tell(NOW, 7, false);
        }
        let mut now = NOW + EJECT;
        for seconds in [60, 120, 240, 300, 300] {
            assert!(tried.tell(now, 7, false));
            let until = now + Duration::from_secs(seconds);
            assert_eq!(tried.table.next(), Some(until), "{seconds}");
            now = until;
        }
        tried.tell(now, 7, true);
        assert!(!tried.tell(now, 7, false), "all is forgotten once it is well");
        assert_eq!(tried.ejected(now), (vec![], false));
    }

    #[test]
    fn a_set_keeps_at_least_half_but_one_of_two_can_go_and_never_all() {
        for (healthy, failing, expected) in [
            (1, 1, 0),
            (2, 1, 1),
            (2, 2, 0),
            (3, 1, 1),
            (3, 2, 1),
            (4, 3, 2),
            (10, 7, 5),
            (10, 10, 0),
        ] {
            let mut tried = Tried::among(healthy);
            for instance in 1..=failing {
                for _ in 0..3 {
                    tried.tell(NOW, instance, false);
                }
            }
            let (numbers, _) = tried.ejected(NOW);
            assert_eq!(numbers.len(), expected, "{failing} of {healthy}");
        }
    }

    #[test]
    fn a_zone_is_ejected_by_several_instances_in_a_row_or_by_the_only_one() {
        let mut tried = Tried::among(10);
        for instance in [1, 2, 3] {
            tried.tell(NOW, instance, false);
        }
        assert_eq!(tried.ejected(NOW), (vec![], true));
        assert!(tried.tell(NOW, 4, true), "one that is well brings it back");
        assert_eq!(tried.ejected(NOW), (vec![], false));
        let mut tried = Tried::among(10);
        for instance in [1, 2, 9, 2, 1] {
            tried.tell(NOW, instance, instance == 9);
        }
        assert_eq!(tried.ejected(NOW), (vec![], false), "one is well between them");
        let mut alone = Tried::among(1);
        for _ in 0..3 {
            alone.tell(NOW, 1, false);
        }
        assert_eq!(alone.ejected(NOW), (vec![], true));
    }

    #[test]
    fn the_table_is_bounded() {
        let mut tried = Tried::among(100_000);
        for number in 1..=20_000 {
            tried.tell(NOW, number, false);
        }
        assert!(tried.table.instances.len() <= MAX_RECORDS);
    }
}
