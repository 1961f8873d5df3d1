//! Index of which services are registered at which address of this zone: immutable, and held by a snapshot.
//!
//! Most changes of instances are changes of health, which touch nothing here; a change of one instance copies one small
//! part of the index, however large the zone is.

use std::{
    collections::{BTreeSet, HashMap},
    hash::{BuildHasher, RandomState},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use causeway_federation::name::{MAX_LABEL_BYTES, ServiceName, Tags};

use crate::snapshot::{Instance, Published};

/// Parts of the index; a change copies the part that it lies in.
const SHARDS: usize = 256;

/// Service, tags and port of an instance that is registered at one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisteredAddress {
    pub service: ServiceName,
    pub tags: Tags,
    pub port: u16,
}

type Places = HashMap<IpAddr, Vec<RegisteredAddress>>;

/// Holder of an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    Nobody,
    /// One service, with the tags that all of its instances there have in common.
    One(ServiceName, Tags),
    Several,
}

#[derive(Debug, Clone)]
pub struct Index {
    hasher: RandomState,
    shards: Vec<Arc<Places>>,
    /// Instances at loopback addresses, which only clients of this host can come from.
    loopback: Arc<Places>,
}

impl Default for Index {
    fn default() -> Self {
        Self {
            hasher: RandomState::new(),
            shards: vec![Arc::default(); SHARDS],
            loopback: Arc::default(),
        }
    }
}

impl Index {
    #[must_use]
    pub fn of(instances: &Published) -> Arc<Self> {
        Arc::<Self>::default().updated(&Published::default(), instances)
    }

    /// The index after a change of instances; the very same one when nothing in it changed.
    #[must_use]
    pub fn updated(self: &Arc<Self>, before: &Published, after: &Published) -> Arc<Self> {
        let mut changed: Option<Self> = None;
        let gone = before.keys().filter(|service| !after.contains_key(*service));
        for service in after.keys().chain(gone) {
            let old = before.get(service).map_or(&[][..], |list| &**list);
            let new = after.get(service).map_or(&[][..], |list| &**list);
            let same_list = || Some(before.get(service)?.as_ptr() == after.get(service)?.as_ptr());
            if same_list() == Some(true) {
                continue;
            }
            for_each_change(old, new, |old, new| {
                let index = changed.get_or_insert_with(|| Self::clone(self));
                if let Some(old) = old {
                    index.remove(old);
                }
                if let Some(new) = new {
                    index.insert(new);
                }
            });
        }
        changed.map_or_else(|| self.clone(), Arc::new)
    }

    fn insert(&mut self, instance: &Instance) {
        let address = instance.address.ip().to_canonical();
        self.places(address, |held| held.push(RegisteredAddress::of(instance)));
    }

    fn remove(&mut self, instance: &Instance) {
        let (address, gone) = (
            instance.address.ip().to_canonical(),
            RegisteredAddress::of(instance),
        );
        self.places(address, |held| {
            if let Some(at) = held.iter().position(|other| *other == gone) {
                held.swap_remove(at);
            }
        });
    }

    /// Edits what is held at an address, and forgets an address at which nothing is left.
    fn places(&mut self, address: IpAddr, edit: impl FnOnce(&mut Vec<RegisteredAddress>)) {
        let shard = self.shard(address);
        let places = match address.is_loopback() {
            true => &mut self.loopback,
            false => &mut self.shards[shard],
        };
        let places = Arc::make_mut(places);
        let held = places.entry(address).or_default();
        edit(held);
        if held.is_empty() {
            places.remove(&address);
        }
    }

    fn shard(&self, address: IpAddr) -> usize {
        // Below SHARDS, so it fits.
        usize::try_from(self.hasher.hash_one(address) % SHARDS as u64).unwrap_or_default()
    }

    fn at(&self, address: IpAddr) -> &[RegisteredAddress] {
        let places = &self.shards[self.shard(address)];
        places.get(&address).map_or(&[][..], Vec::as_slice)
    }

    /// Finds who holds an address of another host.
    pub fn holder(&self, address: IpAddr) -> Holder {
        in_common(self.at(address.to_canonical()).iter())
    }

    /// Lists what is registered on this host: at loopback addresses, and at those of its `own`.
    pub fn on_host<'a>(
        &'a self,
        own: &'a BTreeSet<IpAddr>,
    ) -> impl Iterator<Item = (SocketAddr, &'a RegisteredAddress)> {
        let loopback = self
            .loopback
            .iter()
            .map(|(address, held)| (*address, held.as_slice()));
        let own = own.iter().map(|address| (*address, self.at(*address)));
        loopback.chain(own).flat_map(|(address, held)| {
            held.iter()
                .map(move |held| (SocketAddr::new(address, held.port), held))
        })
    }
}

impl RegisteredAddress {
    fn of(instance: &Instance) -> Self {
        Self {
            service: instance.service.clone(),
            tags: nameable(&instance.tags),
            port: instance.address.port(),
        }
    }
}

/// The tags that an entry of `allow` or `deny` can name at all. The others decide nothing, and may be so long that they do
/// not fit a stream header.
fn nameable(tags: &Tags) -> Tags {
    let short = |(key, value): &(&str, &str)| key.len() <= MAX_LABEL_BYTES && value.len() <= MAX_LABEL_BYTES;
    if tags.iter().all(|pair| short(&pair)) {
        return tags.clone();
    }
    tags.iter().filter(short).collect()
}

/// The one service that all of these are of, and the tags that they share.
pub fn in_common<'a>(mut held: impl Iterator<Item = &'a RegisteredAddress>) -> Holder {
    let Some(first) = held.next() else {
        return Holder::Nobody;
    };
    let mut tags = first.tags.clone();
    for other in held {
        if other.service != first.service {
            return Holder::Several;
        }
        if other.tags != tags {
            tags = tags
                .iter()
                .filter(|(key, value)| other.tags.value(key) == Some(value))
                .collect();
        }
    }
    Holder::One(first.service.clone(), tags)
}

/// Walks two lists in the order of ids, and names each instance that is gone, new, or another caller than it was.
fn for_each_change(
    old: &[Arc<Instance>],
    new: &[Arc<Instance>],
    mut changed: impl FnMut(Option<&Instance>, Option<&Instance>),
) {
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some(old), Some(new)) => old.id.cmp(&new.id),
        };
        let gone = if order.is_le() { old.next() } else { None };
        let come = if order.is_ge() { new.next() } else { None };
        let same = match (gone, come) {
            (Some(gone), Some(come)) => {
                Arc::ptr_eq(gone, come) || gone.address == come.address && gone.tags == come.tags
            }
            _ => false,
        };
        if !same {
            changed(gone.map(|i| &**i), come.map(|i| &**i));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::testbed;
    use crate::{
        snapshot::Health,
        testbed::{service, tags},
    };

    fn instance(name: &str, id: &str, address: &str, pairs: &[(&str, &str)]) -> Arc<Instance> {
        Arc::new(Instance {
            service: service(name),
            id: id.to_owned(),
            ..Arc::into_inner(testbed::instance(id, address.parse().unwrap(), 1, pairs)).unwrap()
        })
    }

    fn published(instances: &[Arc<Instance>]) -> Published {
        let mut lists: BTreeMap<ServiceName, Vec<Arc<Instance>>> = BTreeMap::new();
        for instance in instances {
            lists
                .entry(instance.service.clone())
                .or_default()
                .push(instance.clone());
        }
        for list in lists.values_mut() {
            list.sort_by(|a, b| a.id.cmp(&b.id));
        }
        Arc::new(
            lists
                .into_iter()
                .map(|(name, list)| (name, list.into()))
                .collect(),
        )
    }

    fn holder(index: &Index, address: &str) -> Holder {
        index.holder(address.parse().unwrap())
    }

    #[test]
    fn an_address_is_held_by_one_service_or_by_nobody() {
        let index = Index::of(&published(&[
            instance("web", "1", "10.0.0.1:80", &[("env", "prod"), ("version", "v1")]),
            instance("web", "2", "10.0.0.1:81", &[("env", "prod"), ("version", "v2")]),
            instance("web", "3", "10.0.0.2:80", &[]),
            instance("batch", "1", "10.0.0.2:90", &[]),
        ]));
        assert_eq!(
            holder(&index, "10.0.0.1"),
            Holder::One(service("web"), tags(&[("env", "prod")]))
        );
        assert_eq!(holder(&index, "::ffff:10.0.0.1"), holder(&index, "10.0.0.1"));
        assert_eq!(holder(&index, "10.0.0.2"), Holder::Several);
        assert_eq!(holder(&index, "10.0.0.3"), Holder::Nobody);
    }

    #[test]
    fn a_change_of_health_leaves_the_index_as_it_is() {
        let well = instance("web", "1", "10.0.0.1:80", &[]);
        let ill = Arc::new(Instance {
            health: Health::Unhealthy,
            ..Arc::into_inner(instance("web", "1", "10.0.0.1:80", &[])).unwrap()
        });
        let (before, after) = (published(&[well]), published(&[ill]));
        let index = Index::of(&before);
        assert!(Arc::ptr_eq(&index, &index.updated(&before, &after)));
        assert!(!Arc::ptr_eq(
            &index,
            &index.updated(&before, &Published::default())
        ));
    }

    #[test]
    fn tags_that_no_rule_can_name_are_left_out() {
        let long = "x".repeat(MAX_LABEL_BYTES + 1);
        let index = Index::of(&published(&[instance(
            "web",
            "1",
            "10.0.0.1:80",
            &[("a", &long), ("b", "c")],
        )]));
        assert_eq!(
            holder(&index, "10.0.0.1"),
            Holder::One(service("web"), tags(&[("b", "c")]))
        );
    }

    fn zone() -> impl Strategy<Value = Vec<Arc<Instance>>> {
        let place = (r"(10|127)\.0\.0\.[12]", 1u16..3, "[xy]");
        prop::collection::btree_map(("[ab]", "[1-4]"), place, 0..6).prop_map(|all| {
            let one = |((name, id), (ip, port, tag)): ((String, String), (String, u16, String))| {
                instance(&name, &id, &format!("{ip}:{port}"), &[("tag", &tag)])
            };
            all.into_iter().map(one).collect()
        })
    }

    proptest! {
        #[test]
        fn an_index_that_was_updated_is_like_one_built_anew(steps in prop::collection::vec(zone(), 1..6)) {
            let own = BTreeSet::from(["10.0.0.1".parse().unwrap()]);
            let (mut index, mut before) = (Arc::<Index>::default(), Published::default());
            for step in steps {
                let after = published(&step);
                index = index.updated(&before, &after);
                before = after;
                let fresh = Index::of(&before);
                for address in ["10.0.0.1", "10.0.0.2"] {
                    prop_assert_eq!(holder(&index, address), holder(&fresh, address));
                }
                let on_host = |index: &Index| {
                    let mut all: Vec<_> = index.on_host(&own).map(|held| format!("{held:?}")).collect();
                    all.sort();
                    all
                };
                prop_assert_eq!(on_host(&index), on_host(&fresh));
            }
        }
    }
}
