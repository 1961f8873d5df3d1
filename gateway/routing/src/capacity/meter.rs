//! Counts of what clients ask for, written by the data path without a lock.

use std::{
    collections::BTreeMap,
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

/// Counts since the process began, by tags and then by criticality.
type Counts = BTreeMap<ServiceName, BTreeMap<Tags, Arc<[AtomicU64; 3]>>>;

/// Counter of what the clients of this gateway ask for, whether or not it is served.
#[derive(Debug, Default)]
pub struct DemandMeter(ArcSwap<Counts>);

impl DemandMeter {
    /// Counts one request or connection.
    pub fn count(&self, service: &ServiceName, tags: &Tags, criticality: Criticality) {
        let add = |counts: &Counts| {
            let counted = counts.get(service).and_then(|of_tags| of_tags.get(tags));
            let one = |counted: &Arc<[AtomicU64; 3]>| {
                counted[criticality.index()].fetch_add(1, Ordering::Relaxed);
            };
            counted.map(one).is_some()
        };
        if add(&self.0.load()) {
            return;
        }
        // Once for each service and tags.
        self.0.rcu(|counts| {
            let mut counts = Counts::clone(counts);
            if counts.values().map(BTreeMap::len).sum::<usize>() < MAX_DEMANDS {
                let of_tags = counts.entry(service.clone()).or_default();
                of_tags.entry(tags.clone()).or_default();
            }
            counts
        });
        add(&self.0.load());
    }

    /// All counts, those of services that `keeps` does not name forgotten.
    pub fn counts(&self, keeps: impl Fn(&ServiceName) -> bool) -> Vec<(ServiceName, Tags, Criticality, u64)> {
        let counts = self.0.load_full();
        if !counts.keys().all(&keeps) {
            self.0.rcu(|counts| {
                let mut counts = Counts::clone(counts);
                counts.retain(|service, _| keeps(service));
                counts
            });
        }
        let mut all = Vec::new();
        for (service, of_tags) in counts.iter().filter(|(service, _)| keeps(service)) {
            for (tags, counted) in of_tags {
                for criticality in Criticality::ALL {
                    let count = counted[criticality.index()].load(Ordering::Relaxed);
                    if count > 0 {
                        all.push((service.clone(), tags.clone(), criticality, count));
                    }
                }
            }
        }
        all
    }
}
