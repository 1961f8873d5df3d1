//! The instances of one service with an index by their tags, so that a choice among them costs the same in a large zone as in
//! a small one. The index is made once for each change, by whoever publishes the list; readers share it.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Deref,
    sync::Arc,
};

use causeway_federation::name::Tags;

use super::{pool::WeightPool, takes_traffic, takes_traffic_in_panic};
use crate::{
    route::TierHealth,
    snapshot::{Health, Instance},
};

/// Most distinct sets of tags that are compared with a selector one by one.
pub(super) const FEW_GROUPS: usize = 64;

/// All instances of a service, healthy or not, in the order of their ids. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct InstanceList(Arc<Indexed>);

#[derive(Debug, Default)]
struct Indexed {
    all: Box<[Arc<Instance>]>,
    /// One for each distinct set of tags, in the order in which they are met.
    groups: Vec<Group>,
    /// All that take traffic, whatever their tags.
    everything: Group,
    /// Some are drained.
    has_drained: bool,
    /// The groups by each of their pairs; empty while there are few groups.
    by_pair: HashMap<(String, String), Vec<u32>>,
}

/// Instances that carry the same tags.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) tags: Tags,
    /// All that have been checked, and those that are healthy, whatever their weight: where none takes traffic, all healthy ones have weight 0.
    health: TierHealth,
    /// Healthy ones are drained.
    has_drained: bool,
    /// Those that take traffic.
    pub(super) takers: WeightedPlaces,
    /// Those that take traffic in panic.
    pub(super) ill: WeightedPlaces,
}

/// Instances of a list that can be drawn by their weights.
#[derive(Debug, Default)]
pub(super) struct WeightedPlaces {
    /// Places in the list, in order.
    pub(super) places: Vec<u32>,
    /// Their numbers, which a sticky choice draws by.
    pub(super) numbers: Vec<u64>,
    /// Their weights laid end to end: where each one's ends.
    pub(super) ends: Vec<u64>,
}

impl WeightedPlaces {
    fn add(&mut self, place: u32, instance: &Instance) {
        self.places.push(place);
        self.numbers.push(instance.number());
        self.ends.push(self.weight() + u64::from(instance.weight));
    }

    pub(super) fn weight(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }
}

/// Reason that no instance of a list can be given a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unusable {
    /// No instance carries the tags.
    NoInstance,
    NoneHealthy,
    /// All that are healthy are drained.
    Drained,
    /// All that are healthy have weight 0.
    NoWeight,
}

impl Group {
    fn add(&mut self, place: u32, instance: &Instance) {
        // A new one is no illness: it is checked within moments.
        self.health.instances += u64::from(instance.health != Health::Unknown);
        self.health.healthy += u64::from(instance.counts_as_healthy());
        self.has_drained |= instance.health == Health::Healthy && instance.drain.is_some();
        if takes_traffic(instance) {
            self.takers.add(place, instance);
        } else if takes_traffic_in_panic(instance) {
            self.ill.add(place, instance);
        }
    }
}

impl InstanceList {
    /// Checks that an instance that carries `selector` can be given a connection.
    ///
    /// # Errors
    /// Says why none can.
    pub fn usable(&self, selector: &Tags) -> Result<(), Unusable> {
        let mut why = Unusable::NoInstance;
        for group in self.matching(selector) {
            if group.takers.weight() > 0 {
                return Ok(());
            }
            why = why.max(match (group.health.healthy > 0, group.has_drained) {
                (true, _) => Unusable::NoWeight,
                (false, true) => Unusable::Drained,
                (false, false) => Unusable::NoneHealthy,
            });
        }
        Err(why)
    }

    /// Tells whether both are one list, and not only alike.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Tells whether some of them are drained.
    #[must_use]
    pub fn has_drained(&self) -> bool {
        self.0.has_drained
    }

    /// Counts the instances that carry `selector` and can be given a connection.
    #[must_use]
    pub fn usable_count(&self, selector: &Tags) -> u64 {
        self.matching(selector)
            .map(|group| group.takers.places.len() as u64)
            .sum()
    }

    /// Counts the instances that carry `selector` and have been checked, and those of them that are healthy, whatever their weight.
    #[must_use]
    pub fn health(&self, selector: &Tags) -> TierHealth {
        let of_groups = self.matching(selector).map(|group| group.health);
        of_groups.fold(TierHealth::default(), TierHealth::plus)
    }

    /// Tells whether instances that carry `selector` could be given a connection in panic.
    #[must_use]
    pub fn has_ill(&self, selector: &Tags) -> bool {
        self.matching(selector).any(|group| group.ill.weight() > 0)
    }

    /// Collects what can be drawn from.
    pub(super) fn pool<'a>(&'a self, selector: &'a Tags) -> WeightPool<'a> {
        if selector.is_empty() {
            return WeightPool::exact([&self.0.everything.takers]);
        }
        match self.0.by_pair.is_empty() || self.shortest(selector).len() <= FEW_GROUPS {
            true => WeightPool::exact(self.takers(selector)),
            false => WeightPool::by_rejection(&self.0.everything.takers, selector),
        }
    }

    /// Those that carry `selector` and take traffic, group by group.
    pub(super) fn takers<'a>(&'a self, selector: &'a Tags) -> impl Iterator<Item = &'a WeightedPlaces> {
        self.matching(selector).map(|group| &group.takers)
    }

    /// Those that carry `selector` and take traffic in panic, group by group.
    pub(super) fn ill<'a>(&'a self, selector: &'a Tags) -> impl Iterator<Item = &'a WeightedPlaces> {
        self.matching(selector).map(|group| &group.ill)
    }

    /// The groups that carry `selector`.
    pub(super) fn matching<'a>(&'a self, selector: &'a Tags) -> impl Iterator<Item = &'a Group> {
        let indexed = &*self.0;
        let few = indexed.by_pair.is_empty() || selector.is_empty();
        let some = if few { &[][..] } else { self.shortest(selector) };
        let some = some.iter().filter_map(|place| indexed.groups.get(index(*place)));
        let all = if few { &indexed.groups[..] } else { &[][..] };
        all.iter()
            .chain(some)
            .filter(move |group| group.tags.matches(selector))
    }

    /// Of the groups that carry one pair of `selector`, the fewest.
    fn shortest(&self, selector: &Tags) -> &[u32] {
        let of_pair = |(key, value): (&str, &str)| {
            let groups = self.0.by_pair.get(&(key.to_owned(), value.to_owned()));
            groups.map_or(&[][..], Vec::as_slice)
        };
        let groups = selector.iter().map(of_pair);
        groups.min_by_key(|groups| groups.len()).unwrap_or_default()
    }

    pub(super) fn at(&self, place: u32) -> Option<&Arc<Instance>> {
        self.0.all.get(index(place))
    }
}

fn index(place: u32) -> usize {
    usize::try_from(place).unwrap_or(usize::MAX)
}

impl Deref for InstanceList {
    type Target = [Arc<Instance>];

    fn deref(&self) -> &Self::Target {
        &self.0.all
    }
}

impl FromIterator<Arc<Instance>> for InstanceList {
    /// They must come in the order of their ids.
    fn from_iter<I: IntoIterator<Item = Arc<Instance>>>(instances: I) -> Self {
        let all: Box<[Arc<Instance>]> = instances.into_iter().collect();
        let (mut groups, mut everything) = (Vec::<Group>::new(), Group::default());
        let mut known: HashMap<&Tags, usize> = HashMap::new();
        let mut last = usize::MAX;
        for (place, instance) in all.iter().enumerate() {
            // A list is far from 2^32 long: registries hold hundreds of thousands.
            let Ok(place) = u32::try_from(place) else { break };
            // Most are tagged like the one before.
            if groups.get(last).is_none_or(|group| group.tags != instance.tags) {
                last = *known.entry(&instance.tags).or_insert_with(|| {
                    groups.push(Group {
                        tags: instance.tags.clone(),
                        ..Group::default()
                    });
                    groups.len() - 1
                });
            }
            groups[last].add(place, instance);
            everything.add(place, instance);
        }
        drop(known);
        let has_drained = all.iter().any(|instance| instance.drain.is_some());
        let by_pair = match groups.len() > FEW_GROUPS {
            true => by_pair(&groups),
            false => HashMap::new(),
        };
        Self(Arc::new(Indexed {
            all,
            groups,
            everything,
            has_drained,
            by_pair,
        }))
    }
}

fn by_pair(groups: &[Group]) -> HashMap<(String, String), Vec<u32>> {
    let mut pairs: BTreeMap<(&str, &str), Vec<u32>> = BTreeMap::new();
    for (place, group) in (0u32..).zip(groups) {
        for pair in group.tags.iter() {
            pairs.entry(pair).or_default().push(place);
        }
    }
    let owned = |((key, value), groups): ((&str, &str), _)| ((key.to_owned(), value.to_owned()), groups);
    pairs.into_iter().map(owned).collect()
}

impl From<Vec<Arc<Instance>>> for InstanceList {
    fn from(instances: Vec<Arc<Instance>>) -> Self {
        instances.into_iter().collect()
    }
}
