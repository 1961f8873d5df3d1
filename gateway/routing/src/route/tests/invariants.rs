//! Invariants that hold for every snapshot and every seed.

use std::{collections::BTreeMap, sync::Arc};

use causeway_federation::{
    catalog::{Age, CatalogEntry},
    topology::Topology,
};
use proptest::prelude::*;

use super::*;
use crate::testbed::{entry, instance, snapshot, topology};

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// Whatever one gateway of another zone may look like.
fn any_remote() -> impl Strategy<Value = (Age, bool, Option<Link>, u32, u32)> {
    let age = prop_oneof![Just(Age::Fresh), Just(Age::Suspect), Just(Age::Withdrawn)];
    let link = prop_oneof![Just(Link::Up), Just(Link::Stalled), Just(Link::Draining)];
    (age, any::<bool>(), prop::option::of(link), 0..3u32, 0..3u32)
}

fn any_topology() -> impl Strategy<Value = Arc<Topology>> {
    let tiers = prop::collection::vec(0..8usize, 1..5);
    let spill = prop_oneof![
        Just(""),
        Just("spill: { healthy_below: 70% }"),
        Just("spill: { healthy_below: 100% }")
    ];
    (0..3u32, 0..3u32, tiers, any::<bool>(), spill).prop_map(|(one, two, tiers, exported, spill)| {
        let zones: Vec<String> = NAMES.iter().map(|name| format!("  {name}: {{}}")).collect();
        let mut names: Vec<String> = Vec::new();
        for tier in tiers {
            let text = match tier {
                6 => "{ zone: self }".to_owned(),
                7 => "{}".to_owned(),
                tier => format!("{{ zone: {} }}", NAMES[tier]),
            };
            if !names.contains(&text) && names.last().is_none_or(|last| last != "{}") {
                names.push(text);
            }
        }
        let export_to = if exported { "[a, b, c]" } else { "[b, c]" };
        let two = if one + two == 0 { 1 } else { two };
        let service = format!(
            "  orders:\n    port: 80\n    protocol: tcp\n    failover: [{}]\n    export_to: {export_to}\n    \
             split: [{{ tags: {{ version: v1 }}, weight: {one} }}, {{ tags: {{ version: v2 }}, weight: {two} }}]\n    {spill}",
            names.join(", ")
        );
        topology(&zones.join("\n"), &service)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn candidates_keep_to_weights_exports_links_and_the_order_of_tiers(
        topology in any_topology(),
        remotes in prop::collection::vec(any_remote(), 5),
        own in 0..3u32,
        seed in any::<u64>(),
    ) {
        let v1: &[(&str, &str)] = &[("version", "v1")];
        let v2: &[(&str, &str)] = &[("version", "v2")];
        let entries: Vec<_> = remotes.iter().zip(&NAMES[1..]).map(|((age, draining, _, first, second), name)| {
            entry(name, *age, *draining, &[(v1, 2, *first), (v2, 2, *second)])
        }).collect();
        let linked = remotes.iter().zip(&NAMES[1..]);
        let links: Vec<_> = linked.filter_map(|((_, _, link, ..), name)| Some((*name, (*link)?))).collect();
        let own_instance = instance("own", "127.0.0.1:1".parse().unwrap(), own, v1);
        let snapshot = snapshot("a", &topology, vec![own_instance], entries, &links);
        let request = Request::explained(orders());
        let decision = route(&snapshot, &request, SmallRng::seed_from_u64(seed)).complete();

        let service = &topology.services["orders"];
        let mut ranks: BTreeMap<Tags, Vec<_>> = BTreeMap::new();
        for candidate in &decision.candidates {
            let weight = service.split.iter().find(|arm| arm.tags == candidate.tags).unwrap().weight;
            prop_assert!(weight > 0, "an arm of weight 0 was used");
            let subject = match &candidate.place {
                Destination::Local => ReasonSubject::OwnZone(testbed::zone("a")),
                Destination::Remote { gateway } => {
                    prop_assert!(service.is_exported_to(&testbed::zone("a")));
                    prop_assert!(snapshot.links.contains_key(gateway));
                    ReasonSubject::Gateway(gateway.clone())
                }
            };
            let about = |reason: &&Reason| reason.subject == subject && reason.arm.as_ref() == Some(&candidate.arm);
            let reason = decision.reasons.iter().find(about).unwrap();
            let Why::Taken { tier, own, link, draining, .. } = reason.why else { panic!("{reason}") };
            prop_assert_eq!(candidate.tier, tier);
            // Spill draws the tier that comes first.
            let tier = if service.spill.is_some() { 0 } else { tier.unwrap() };
            let own = own && service.spill.is_none();
            let rank = (link == Link::Stalled, draining, tier, !own);
            ranks.entry(candidate.arm.clone()).or_default().push(rank);
        }
        for ranks in ranks.values() {
            prop_assert!(ranks.is_sorted(), "{ranks:?}");
        }
        if let Some(first) = decision.candidates.first() {
            let of_arm = decision.reasons.iter().filter(|reason| reason.arm.as_ref() == Some(&first.arm));
            let shares: BTreeMap<String, u8> = of_arm
                .filter_map(|reason| match reason.why {
                    Why::TierShare { percent, .. } => Some((reason.subject.to_string(), percent)),
                    _ => None,
                })
                .collect();
            let own = shares.get(&format!("tier {}", first.tier.unwrap_or_default()));
            let any = shares.values().any(|percent| *percent > 0);
            prop_assert!(!any || own.is_some_and(|percent| *percent > 0), "{shares:?}: {first:?}");
        }
        let taken = decision.reasons.iter().filter(|reason| reason.why.taken()).count();
        prop_assert_eq!(taken, decision.candidates.len());
        prop_assert_eq!(decision.candidates.is_empty(), decision.why == Why::NoHome);
        if let Some(first) = decision.candidates.first() {
            let placed = Placement::new(&orders(), first, Some("own"));
            prop_assert_eq!(belongs(&snapshot, &placed), Ok(()), "it would be moved as soon as it is there");
        }
        // What the data path asks for step by step, without reasons, is what is explained.
        let request = Request::new(orders());
        let lazy = route(&snapshot, &request, SmallRng::seed_from_u64(seed));
        prop_assert_eq!(lazy.first(), decision.candidates.first());
        prop_assert_eq!(lazy.why(), decision.why);
        prop_assert!(lazy.eq(decision.candidates.iter().cloned()));
        prop_assert_eq!(decision.arm.as_ref(), decision.candidates.first().map(|first| &first.arm));
    }
}

#[test]
fn shares_follow_the_weights_of_arms_and_of_zones() {
    let zones = "  a: {}\n  b: {}\n  c: {}";
    let service = "  orders:\n    port: 80\n    protocol: tcp\n    \
                   split: [{ tags: { version: v1 }, weight: 95 }, { tags: { version: v2 }, weight: 5 }]";
    let (v1, v2): (&[_], &[_]) = (&[("version", "v1")], &[("version", "v2")]);
    let entries = vec![
        entry("b", Age::Fresh, false, &[(v1, 3, 3), (v2, 1, 1)]),
        entry("c", Age::Fresh, false, &[(v1, 1, 1)]),
    ];
    let links = [("b", Link::Up), ("c", Link::Up)];
    let snapshot = snapshot("a", &topology(zones, service), vec![], entries, &links);
    let mut rng = SmallRng::seed_from_u64(42);
    let mut count: BTreeMap<String, u32> = BTreeMap::new();
    let request = Request::new(orders());
    for _ in 0..20_000 {
        let decision = route(&snapshot, &request, &mut rng);
        *count.entry(word(decision.first().unwrap())).or_default() += 1;
    }
    let share = |word: &str| f64::from(count[word]) / 20_000.0;
    assert!((share("b/gw1{version=v2}") - 0.05).abs() < 0.01, "{count:?}");
    assert!(
        (share("b/gw1{version=v1}") - 0.95 * 0.75).abs() < 0.02,
        "{count:?}"
    );
    assert!(
        (share("c/gw1{version=v1}") - 0.95 * 0.25).abs() < 0.02,
        "{count:?}"
    );
}

/// Shares of `orders` in 20,000 connections of `a`, by gateway.
fn shares(entries: Vec<CatalogEntry>, links: &[(&str, Link)]) -> BTreeMap<String, f64> {
    let zones = "  a: {}\n  b: {}\n  c: {}";
    let topology = topology(zones, "  orders:\n    port: 80\n    protocol: tcp");
    let snapshot = snapshot("a", &topology, vec![], entries, links);
    let (mut rng, request) = (SmallRng::seed_from_u64(7), Request::new(orders()));
    let mut shares: BTreeMap<String, f64> = BTreeMap::new();
    for _ in 0..20_000 {
        let decision = route(&snapshot, &request, &mut rng);
        *shares.entry(word(decision.first().unwrap())).or_default() += 1.0 / 20_000.0;
    }
    shares
}

#[test]
fn a_zones_share_is_that_of_its_weight_however_many_gateways_it_has() {
    let up = Link::Up;
    let links = [("b/gw1", up), ("b/gw2", up), ("b/gw3", up), ("c", up)];
    let told = |name: &str, age, weight| entry(name, age, false, &[(&[], 9, weight)]);
    let three = |ages: [Age; 3], weights: [u32; 3]| {
        let mut entries = vec![told("c", Age::Fresh, 2)];
        for (number, (age, weight)) in ages.into_iter().zip(weights).enumerate() {
            entries.push(told(&format!("b/gw{}", number + 1), age, weight));
        }
        entries
    };
    let (fresh, suspect) = (Age::Fresh, Age::Suspect);
    for (name, entries, links, expected) in [
        (
            "each tells of all",
            three([fresh; 3], [2, 2, 2]),
            links,
            [1.0 / 6.0, 1.0 / 6.0, 1.0 / 6.0],
        ),
        // One that has heard of fewer is asked less, and takes nothing from the zone.
        (
            "one is behind",
            three([fresh; 3], [2, 2, 1]),
            links,
            [0.2, 0.2, 0.1],
        ),
        (
            "zone sync has not heard one for a while",
            three([fresh, fresh, suspect], [2, 2, 2]),
            links,
            [1.0 / 6.0, 1.0 / 6.0, 1.0 / 6.0],
        ),
        (
            "zone sync has heard none for a while",
            three([suspect; 3], [2, 2, 2]),
            links,
            [1.0 / 6.0, 1.0 / 6.0, 1.0 / 6.0],
        ),
        (
            "one is silent",
            three([fresh; 3], [6, 6, 6]),
            [("b/gw1", Link::Stalled), ("b/gw2", up), ("b/gw3", up), ("c", up)],
            [0.0, 0.375, 0.375],
        ),
    ] {
        let shares = shares(entries, &links);
        let share = |gateway: &str| shares.get(&format!("{gateway}{{}}")).copied().unwrap_or(0.0);
        for (number, expected) in (1..).zip(expected) {
            let share = share(&format!("b/gw{number}"));
            assert!((share - expected).abs() < 0.015, "{name}: {shares:?}");
        }
        let zone: f64 = expected.iter().sum();
        assert!(
            (share("c/gw1") - (1.0 - zone)).abs() < 0.015,
            "{name}: {shares:?}"
        );
    }
}
