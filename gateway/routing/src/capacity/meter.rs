//! Counts of what clients ask for, written by the data path without a lock.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use causeway_federation::{
    name::{ServiceName, Tags},
    topology::Criticality,
};

/// Most demands that one gateway counts, tells of, or keeps of another; what is beyond them has no part in capacity.
pub const MAX_DEMANDS: usize = 1000;

/// Most tags of one service that are counted apart; what has others then counts as if it had none, so that no client can take the places
/// of other services.
const MAX_TAGS: usize = 64;
/// Looks without a new count after which a demand is forgotten: a minute.
const FORGOTTEN_AFTER: u64 = 60;

/// Counts since it was counted first, by tags and then by criticality.
type Counts = BTreeMap<ServiceName, BTreeMap<Tags, Arc<Counted>>>;

#[derive(Debug, Default)]
struct Counted {
    counts: [AtomicU64; 3],
    /// Sum of them at the last look, and how many looks have found the same.
    seen: AtomicU64,
    idle: AtomicU64,
}

impl Counted {
    fn sum(&self) -> u64 {
        self.counts
            .iter()
            .map(|count| count.load(Ordering::Relaxed))
            .sum()
    }

    /// Looks at it, and tells whether it is forgotten.
    fn look(&self) -> bool {
        let sum = self.sum();
        if self.seen.swap(sum, Ordering::Relaxed) != sum {
            self.idle.store(0, Ordering::Relaxed);
            return false;
        }
        self.idle.fetch_add(1, Ordering::Relaxed) + 1 >= FORGOTTEN_AFTER
    }
}

/// Counter of what the clients of this gateway ask for, whether or not it is served.
#[derive(Debug, Default)]
pub struct DemandMeter(ArcSwap<Counts>);

impl DemandMeter {
    /// Counts one request or connection.
    pub fn count(&self, service: &ServiceName, tags: &Tags, criticality: Criticality) {
        let add = |counts: &Counts, tags: &Tags| {
            let counted = counts.get(service).and_then(|of_tags| of_tags.get(tags));
            let one = |counted: &Arc<Counted>| {
                counted.counts[criticality.index()].fetch_add(1, Ordering::Relaxed);
            };
            counted.map(one).is_some()
        };
        if add(&self.0.load(), tags) {
            return;
        }
        let none = Tags::default();
        let tags = match has_room(&self.0.load(), service) {
            true => tags,
            false if add(&self.0.load(), &none) => return,
            false => &none,
        };
        // Once for each service and tags, until they are forgotten.
        self.0.rcu(|counts| {
            let mut counts = Counts::clone(counts);
            if *tags == none || has_room(&counts, service) {
                let of_tags = counts.entry(service.clone()).or_default();
                of_tags.entry(tags.clone()).or_default();
            }
            counts
        });
        add(&self.0.load(), tags);
    }

    /// All counts, at one of the looks that are taken each second: those of services that `keeps` does not name are forgotten, and those of
    /// tags that nobody has asked for in a while.
    pub fn counts(&self, keeps: impl Fn(&ServiceName) -> bool) -> Vec<(ServiceName, Tags, Criticality, u64)> {
        let counts = self.0.load_full();
        let mut all = Vec::new();
        let mut forgotten = BTreeSet::new();
        for (service, of_tags) in counts.iter() {
            for (tags, counted) in of_tags {
                if !keeps(service) || counted.look() {
                    forgotten.insert((service, tags));
                    continue;
                }
                for criticality in Criticality::ALL {
                    let count = counted.counts[criticality.index()].load(Ordering::Relaxed);
                    if count > 0 {
                        all.push((service.clone(), tags.clone(), criticality, count));
                    }
                }
            }
        }
        if !forgotten.is_empty() {
            self.0.rcu(|counts| {
                let mut counts = Counts::clone(counts);
                for (service, of_tags) in &mut counts {
                    of_tags.retain(|tags, _| !forgotten.contains(&(service, tags)));
                }
                counts.retain(|_, of_tags| !of_tags.is_empty());
                counts
            });
        }
        all
    }
}

/// Tells whether tags of a service may be counted that were not so far.
fn has_room(counts: &Counts, service: &ServiceName) -> bool {
    counts.get(service).map_or(0, BTreeMap::len) < MAX_TAGS
        && counts.values().map(BTreeMap::len).sum::<usize>() < MAX_DEMANDS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testbed::{service, tags};

    fn counted(meter: &DemandMeter, name: &str) -> (usize, u64) {
        let counts = meter.counts(|_| true);
        let of = counts.iter().filter(|(of, ..)| *of == service(name));
        of.fold((0, 0), |(kinds, sum), (.., count)| (kinds + 1, sum + count))
    }

    #[test]
    fn many_tags_of_one_service_take_no_places_of_others_and_are_forgotten() {
        let meter = DemandMeter::default();
        for number in 0..3000 {
            let version = number.to_string();
            let tags = tags(&[("version", version.as_str())]);
            meter.count(&service("noisy"), &tags, Criticality::Normal);
        }
        let plain = Tags::default();
        meter.count(&service("quiet"), &plain, Criticality::Critical);
        assert_eq!(counted(&meter, "quiet"), (1, 1));
        // All are counted, most of them as if they had no tags.
        assert_eq!(counted(&meter, "noisy"), (MAX_TAGS + 1, 3000));
        for _ in 0..FORGOTTEN_AFTER {
            meter.count(&service("quiet"), &plain, Criticality::Critical);
            meter.counts(|_| true);
        }
        assert_eq!(counted(&meter, "noisy"), (0, 0));
        assert_eq!(counted(&meter, "quiet").0, 1);
        assert!(meter.counts(|_| false).is_empty());
        meter.count(
            &service("noisy"),
            &tags(&[("version", "new")]),
            Criticality::Normal,
        );
        assert_eq!(counted(&meter, "noisy"), (1, 1));
    }
}
