//! Replacements: a source hands everything over as a whole, and never touches what another source put in.

use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;

use super::*;
use crate::name::ServiceName;

fn registration(id: u8, weight: u32) -> Registration {
    Registration {
        service: ServiceName::new("orders").unwrap(),
        id: id.to_string(),
        address: "10.0.0.1:80".parse().unwrap(),
        tags: Default::default(),
        weight,
        capacity_per_second: None,
        time_to_live: None,
        provenance: crate::registry::Provenance::ThisHost,
    }
}

fn consul() -> InstanceSource {
    InstanceSource::named("consul").unwrap()
}

fn ids(registry: &Registry, source: &InstanceSource) -> Vec<String> {
    registry.keys_of(source).map(|key| key.id).collect()
}

#[test]
fn afterwards_the_source_holds_exactly_what_it_named() {
    let (mut registry, now) = (Registry::new(), Instant::now());
    registry.register(now, registration(9, 1)).unwrap();
    let first = vec![registration(1, 1), registration(2, 1), registration(3, 1)];
    let replaced = registry.replace(now, &consul(), first);
    assert_eq!((replaced.added, replaced.changed, replaced.removed), (3, 0, 0));
    let second = vec![registration(2, 1), registration(3, 7), registration(4, 1)];
    let replaced = registry.replace(now, &consul(), second);
    assert_eq!((replaced.added, replaced.changed, replaced.removed), (1, 1, 1));
    assert_eq!(ids(&registry, &consul()), ["2", "3", "4"]);
    assert_eq!(ids(&registry, &InstanceSource::Registered), ["9"]);
    assert!(
        !registry
            .replace(now, &InstanceSource::named("k8s").unwrap(), Vec::new())
            .is_change()
    );
    assert!(registry.replace(now, &consul(), Vec::new()).is_change());
    assert_eq!(
        registry.holdings(),
        &BTreeMap::from([(InstanceSource::Registered, 1)])
    );
}

#[test]
fn what_is_refused_stays_as_it_was_and_does_not_stop_the_rest() {
    let (mut registry, now) = (Registry::new(), Instant::now());
    registry.replace(now, &consul(), vec![registration(1, 5)]);
    let heavy = registration(1, super::super::limits::MAX_WEIGHT + 1);
    let mut leased = registration(2, 1);
    leased.time_to_live = Some(Duration::from_secs(5));
    let wanted = vec![heavy, leased, registration(3, 1), registration(3, 2)];
    let replaced = registry.replace(now, &consul(), wanted);
    let words: Vec<_> = replaced.refused.iter().map(|(_, error)| error.word()).collect();
    assert_eq!(words, ["twice", "bad_weight", "bad_time_to_live"]);
    assert_eq!(ids(&registry, &consul()), ["1", "3"]);
    let weights: Vec<_> = registry.instances().map(|e| e.registration.weight).collect();
    assert_eq!(weights, [5, 1], "the first of two counts");
}

#[test]
fn there_are_only_so_many_named_sources_and_one_that_is_empty_is_none() {
    let (mut registry, now) = (Registry::new(), Instant::now());
    let source = |n: usize| InstanceSource::named(&format!("s{n}")).unwrap();
    for n in 0..super::super::MAX_NAMED_SOURCES {
        let replaced = registry.replace(now, &source(n), vec![registration(1, 1)]);
        assert_eq!(replaced.added, 1);
    }
    let refused = registry
        .replace(now, &source(99), vec![registration(1, 1)])
        .refused;
    assert_eq!(refused[0].1, RegistryError::TooManySources);
    assert_eq!(
        registry
            .replace(now, &InstanceSource::Folder, vec![registration(1, 1)])
            .added,
        1
    );
    registry.replace(now, &source(0), Vec::new());
    assert_eq!(
        registry.replace(now, &source(99), vec![registration(1, 1)]).added,
        1
    );
}

#[test]
fn a_replacement_in_steps_ends_as_one_in_one_go() {
    let (mut registry, now) = (Registry::new(), Instant::now());
    registry.replace(now, &consul(), (0..10).map(|n| registration(n, 1)).collect());
    let wanted = (5..15).map(|n| registration(n, 2)).collect();
    let mut replacement = Replacement::new(&registry, consul(), wanted, |_| Ok(()));
    let (mut steps, mut noted) = (0, Vec::new());
    let replaced = loop {
        // Meanwhile somebody else registers the same keys.
        registry.register(now, registration(steps, 9)).unwrap();
        let note = |key: &InstanceKey, now: Option<&Registration>| {
            noted.push((key.id.clone(), now.map(|r| r.weight)));
        };
        if let Some(replaced) = replacement.advance(now, &mut registry, 3, note) {
            break replaced;
        }
        steps += 1;
    };
    assert_eq!((replaced.removed, replaced.changed, replaced.added), (5, 5, 5));
    assert!(steps >= 5);
    assert_eq!(ids(&registry, &consul()).len(), 10);
    assert!(noted.contains(&("0".to_owned(), None)) && noted.contains(&("14".to_owned(), Some(2))));
}

const SOURCES: u8 = 6;

fn source(n: u8) -> InstanceSource {
    match n % SOURCES {
        0 => InstanceSource::Topology,
        1 => InstanceSource::Folder,
        2 => InstanceSource::Registered,
        3 => InstanceSource::Dns,
        4 => consul(),
        _ => InstanceSource::named("k8s").unwrap(),
    }
}

proptest! {
    /// Whatever sources do in whatever order, each holds what it said last, and the one that goes first is in force.
    #[test]
    fn no_source_removes_what_another_put_in(
        steps in proptest::collection::vec((0u8..SOURCES, 0u8..3, proptest::collection::btree_set(0u8..6, 0..5), 1u32..4), 1..80)
    ) {
        let (mut registry, now) = (Registry::new(), Instant::now());
        let mut model: BTreeMap<(String, InstanceSource), u32> = BTreeMap::new();
        for (who, action, set, weight) in steps {
            let who = source(who);
            match action {
                0 => {
                    registry.replace(now, &who, set.iter().map(|&id| registration(id, weight)).collect());
                    model.retain(|(_, source), _| *source != who);
                    model.extend(set.iter().map(|id| ((id.to_string(), who.clone()), weight)));
                }
                1 => for &id in &set {
                    registry.register(now, registration(id, weight)).unwrap();
                    model.insert((id.to_string(), InstanceSource::Registered), weight);
                },
                _ => for &id in &set {
                    let key = registration(id, 1).key();
                    let held = model.remove(&(key.id.clone(), InstanceSource::Registered)).is_some();
                    prop_assert_eq!(registry.deregister(&key.service, &key.id).is_ok(), held);
                },
            }
            let mut in_force: BTreeMap<&str, (&InstanceSource, u32)> = BTreeMap::new();
            for ((id, source), weight) in model.iter().rev() {
                in_force.insert(id, (source, *weight));
            }
            let seen: BTreeMap<_, _> = registry
                .instances()
                .map(|e| (e.registration.id.as_str(), (e.source, e.registration.weight)))
                .collect();
            prop_assert_eq!(seen, in_force);
            for n in 0..SOURCES {
                let held = model.keys().filter(|(_, s)| *s == source(n)).count();
                prop_assert_eq!(registry.holdings().get(&source(n)).copied().unwrap_or(0), held);
                prop_assert_eq!(ids(&registry, &source(n)).len(), held);
            }
        }
    }
}
