//! Places among what is answered at once: so many for each peer zone, and so many in all. A zone that takes its places and
//! does nothing with them is in nobody's way but its own.

use std::{collections::BTreeMap, sync::Arc};

use causeway_federation::name::ZoneName;
use parking_lot::Mutex;

/// Places at one kind of answer. Clones share them.
#[derive(Debug, Clone)]
pub struct AnswerPlaces {
    of_zone: usize,
    in_all: usize,
    taken: Arc<Mutex<BTreeMap<ZoneName, usize>>>,
}

/// A place that is taken until this is dropped.
#[derive(Debug)]
pub struct AnswerPlace {
    zone: ZoneName,
    taken: Arc<Mutex<BTreeMap<ZoneName, usize>>>,
}

impl AnswerPlaces {
    /// `of_zone` for the gateways of one zone together, `in_all` for those of all zones.
    #[must_use]
    pub fn new(of_zone: usize, in_all: usize) -> Self {
        Self {
            of_zone,
            in_all,
            taken: Arc::default(),
        }
    }

    /// A place for a gateway of `zone`; `None` where its zone, or all together, have as many as there are.
    #[must_use]
    pub fn take(&self, zone: &ZoneName) -> Option<AnswerPlace> {
        let mut taken = self.taken.lock();
        let of_zone = taken.get(zone).copied().unwrap_or_default();
        if of_zone >= self.of_zone || taken.values().sum::<usize>() >= self.in_all {
            return None;
        }
        taken.insert(zone.clone(), of_zone + 1);
        Some(AnswerPlace {
            zone: zone.clone(),
            taken: self.taken.clone(),
        })
    }
}

impl Drop for AnswerPlace {
    fn drop(&mut self) {
        let mut taken = self.taken.lock();
        // A zone without a place has no entry, so the table is no longer than `in_all`.
        match taken.get_mut(&self.zone) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(taken.remove(&self.zone)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(name: &str) -> ZoneName {
        ZoneName::new(name).unwrap()
    }

    #[test]
    fn a_zone_that_holds_all_of_its_places_takes_none_from_others() {
        let places = AnswerPlaces::new(2, 8);
        let held: Vec<_> = (0..8).filter_map(|_| places.take(&zone("greedy"))).collect();
        assert_eq!(held.len(), 2);
        assert!(places.take(&zone("other")).is_some());
        drop(held);
        assert!(
            places.taken.lock().is_empty(),
            "a zone without a place has no entry"
        );
        assert!(places.take(&zone("greedy")).is_some());
    }

    #[test]
    fn all_zones_together_have_a_limit() {
        let places = AnswerPlaces::new(2, 3);
        let zones = ["a", "b", "c", "d"];
        let held: Vec<_> = zones.iter().filter_map(|name| places.take(&zone(name))).collect();
        assert_eq!(held.len(), 3);
    }
}
