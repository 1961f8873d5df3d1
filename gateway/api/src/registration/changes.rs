//! Changes that a watcher is told: how one publication of the zone's instances differs from another. Pure.
//!
//! Health is not part of it: a watcher learns what is registered, as it would from a shared registry.

use causeway_federation::{
    name::ServiceName,
    registry::{InstanceKey, Registration, wire},
};
use causeway_proto::registry::{WatchEvent, watch_event::Event};
use causeway_routing::snapshot::{Instance, Published};

use std::sync::Arc;

/// Lists the events that turn `before` into `after`, for one service or for all; each is worked out as it is read.
pub(super) fn changes<'a>(
    before: &'a Published,
    after: &'a Published,
    only: Option<&'a ServiceName>,
) -> impl Iterator<Item = WatchEvent> + 'a {
    let wanted = move |service: &ServiceName| only.is_none_or(|only| only == service);
    let gone = before.iter().filter(move |(service, _)| wanted(service));
    let gone = gone.flat_map(|(service, was)| {
        let is = list(after, service);
        let differs = !std::ptr::eq(&**was, is);
        let gone = was
            .iter()
            .filter(move |old| differs && find(is, &old.id).is_none());
        gone.map(|old| removed(old))
    });
    let put = after.iter().filter(move |(service, _)| wanted(service));
    let put = put.flat_map(|(service, is)| {
        let was = list(before, service);
        let differs = !std::ptr::eq(&**is, was);
        let news = is.iter().filter(move |new| differs && !is_told(was, new));
        news.map(|new| told(new))
    });
    gone.chain(put)
}

fn list<'a>(published: &'a Published, service: &ServiceName) -> &'a [Arc<Instance>] {
    published.get(service).map_or(&[], |list| &**list)
}

/// The lists are in the order of their ids.
fn find<'a>(list: &'a [Arc<Instance>], id: &str) -> Option<&'a Arc<Instance>> {
    let at = list.binary_search_by(|instance| instance.id.as_str().cmp(id));
    list.get(at.ok()?)
}

fn is_told(was: &[Arc<Instance>], new: &Arc<Instance>) -> bool {
    let Some(old) = find(was, &new.id) else {
        return false;
    };
    Arc::ptr_eq(old, new) || (old.source == new.source && registration(old) == registration(new))
}

fn registration(instance: &Instance) -> Registration {
    Registration {
        service: instance.service.clone(),
        id: instance.id.clone(),
        address: instance.address,
        tags: instance.tags.clone(),
        weight: instance.weight,
        capacity_per_second: instance.capacity_per_second,
        time_to_live: instance.time_to_live,
        provenance: instance.provenance,
    }
}

fn told(instance: &Instance) -> WatchEvent {
    let message = wire::instance_message(&registration(instance), &instance.source, 0);
    WatchEvent {
        event: Some(Event::Put(message)),
    }
}

fn removed(instance: &Instance) -> WatchEvent {
    let key = InstanceKey {
        service: instance.service.clone(),
        id: instance.id.clone(),
    };
    WatchEvent {
        event: Some(Event::Removed(wire::key_message(&key))),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use causeway_routing::snapshot::Health;
    use causeway_routing::testbed;

    fn service(n: u8) -> ServiceName {
        ServiceName::new(["orders", "users", "web"][usize::from(n % 3)]).unwrap()
    }

    fn published(what: &BTreeMap<(u8, u8), (u32, bool)>) -> Published {
        let mut lists: BTreeMap<ServiceName, Vec<Arc<Instance>>> = BTreeMap::new();
        for ((of, id), (weight, healthy)) in what {
            let address = "10.0.0.1:80".parse().unwrap();
            let instance =
                Arc::into_inner(testbed::instance(&id.to_string(), address, *weight, &[])).unwrap();
            let health = if *healthy {
                Health::Healthy
            } else {
                Health::Unhealthy
            };
            lists.entry(service(*of)).or_default().push(Arc::new(Instance {
                service: service(*of),
                health,
                ..instance
            }));
        }
        Arc::new(
            lists
                .into_iter()
                .map(|(name, list)| (name, list.into()))
                .collect(),
        )
    }

    /// Applies events to what a watcher believes, and counts them.
    fn believe(
        view: &mut BTreeMap<(String, String), u32>,
        events: impl Iterator<Item = WatchEvent>,
    ) -> usize {
        let mut count = 0;
        for event in events {
            count += 1;
            match event.event.unwrap() {
                Event::Put(put) => {
                    let registration = put.registration.unwrap();
                    view.insert(
                        (registration.service, registration.id),
                        registration.weight.unwrap(),
                    );
                }
                Event::Removed(key) => assert!(view.remove(&(key.service, key.id)).is_some()),
                other => panic!("{other:?}"),
            }
        }
        count
    }

    type Content = BTreeMap<(u8, u8), (u32, bool)>;

    fn content() -> impl Strategy<Value = Content> {
        proptest::collection::btree_map((0u8..3, 0u8..9), (1u32..3, any::<bool>()), 0..12)
    }

    proptest! {
        #[test]
        fn a_watcher_believes_what_is_there_and_is_told_nothing_twice(steps in proptest::collection::vec(content(), 1..8)) {
            let (mut view, mut before) = (BTreeMap::new(), Published::default());
            for step in steps {
                let after = published(&step);
                believe(&mut view, changes(&before, &after, None));
                let there: BTreeMap<_, _> = step
                    .iter()
                    .map(|((of, id), (weight, _))| ((service(*of).to_string(), id.to_string()), *weight))
                    .collect();
                prop_assert_eq!(&view, &there);
                prop_assert_eq!(believe(&mut view, changes(&after, &after.clone(), None)), 0);
                prop_assert_eq!(believe(&mut view, changes(&after, &published(&step), None)), 0);
                before = after;
            }
        }
    }

    #[test]
    fn who_watches_one_service_hears_of_no_other() {
        let after = published(&BTreeMap::from([((0, 1), (1, true)), ((1, 1), (1, true))]));
        let mut view = BTreeMap::new();
        let only = service(1);
        assert_eq!(
            believe(&mut view, changes(&Published::default(), &after, Some(&only))),
            1
        );
        assert!(view.keys().all(|(of, _)| of == "users"));
    }
}
