//! Spill: which tier takes a connection when some of a tier's instances cannot.

use std::sync::Arc;

use causeway_federation::{
    catalog::{Age, CatalogEntry},
    topology::Topology,
};

use super::*;
use crate::{
    snapshot::{Health, Instance},
    testbed::{Exported, entry, instance, snapshot, topology},
};

const V1: &[(&str, &str)] = &[("version", "v1")];

/// `home`, then `east`, then `west`.
fn tiers(more: &str) -> Arc<Topology> {
    topology(
        "  home: {}\n  east: {}\n  west: {}",
        &format!(
            "  orders:\n    port: 80\n    protocol: tcp\n    \
             failover: [{{ zone: self }}, {{ zone: east }}, {{ zone: west }}]\n    {more}"
        ),
    )
}

/// Instances of `home`, the first of which are healthy.
fn own(healthy: usize, instances: usize) -> Vec<Arc<Instance>> {
    let one = |number: usize| {
        let like = instance(&format!("{number:02}"), "127.0.0.1:1".parse().unwrap(), 1, &[]);
        match number < healthy {
            true => like,
            false => Arc::new(Instance {
                health: Health::Unhealthy,
                ..Arc::into_inner(like).unwrap()
            }),
        }
    };
    (0..instances).map(one).collect()
}

fn exporting(zone: &str, instances: u32, healthy: u32) -> CatalogEntry {
    let export: Exported<'_> = (&[], instances, healthy);
    entry(zone, Age::Fresh, false, &[export])
}

const UP: &[(&str, Link)] = &[("east", Link::Up), ("west", Link::Up)];

/// Number of a thousand connections that each place takes first: own, `east`, `west`.
fn thousand(snapshot: &Snapshot, key: impl Fn(u64) -> Option<StickyKey>) -> [usize; 3] {
    let mut counts = [0; 3];
    for seed in 0..1000 {
        let request = Request::new(orders()).with_key(key(seed));
        let first = route(snapshot, &request, SmallRng::seed_from_u64(seed)).next();
        let zone = first.expect("a candidate").zone(&snapshot.zone).to_string();
        let place = ["home", "east", "west"].iter().position(|name| *name == zone);
        counts[place.unwrap()] += 1;
    }
    counts
}

fn near(counts: [usize; 3], expected: [usize; 3]) {
    for (count, expected) in counts.into_iter().zip(expected) {
        // Four standard deviations of the widest binomial.
        assert!(count.abs_diff(expected) <= 64, "{counts:?}, not {expected:?}");
        assert_eq!(count == 0, expected == 0, "{counts:?}, not {expected:?}");
    }
}

#[test]
fn a_tier_that_lost_instances_keeps_what_it_can_and_the_next_gets_the_rest() {
    let topology = tiers("spill: { healthy_below: 70% }");
    let both = || vec![exporting("east", 4, 4), exporting("west", 4, 4)];
    let shares = |own, entries| thousand(&snapshot("home", &topology, own, entries, UP), |_| None);
    near(shares(own(10, 10), both()), [1000, 0, 0]);
    near(shares(own(7, 10), both()), [1000, 0, 0]);
    near(shares(own(5, 10), both()), [714, 286, 0]);
    near(
        shares(
            own(2, 10),
            vec![exporting("east", 10, 2), exporting("west", 4, 4)],
        ),
        [286, 286, 428],
    );
    near(shares(own(0, 10), both()), [0, 1000, 0]);
    near(shares(own(1, 10), vec![]), [1000, 0, 0]);
}

#[test]
fn without_spill_the_last_healthy_instance_takes_everything() {
    let snapshot = snapshot(
        "home",
        &tiers("early: false"),
        own(1, 10),
        vec![exporting("east", 4, 4)],
        UP,
    );
    near(thousand(&snapshot, |_| None), [1000, 0, 0]);
}

#[test]
fn a_user_stays_with_a_tier_while_the_shares_are_the_same() {
    let topology = tiers("spill: { healthy_below: 70% }");
    let entries = || vec![exporting("east", 4, 4)];
    let snapshot = snapshot("home", &topology, own(5, 10), entries(), UP);
    near(
        thousand(&snapshot, |seed| Some(StickyKey::of_mark(&seed.to_be_bytes()))),
        [714, 286, 0],
    );
    let one_user = |_| Some(StickyKey::of_mark(b"alice"));
    assert_eq!(
        thousand(&snapshot, one_user)
            .iter()
            .filter(|count| **count > 0)
            .count(),
        1
    );
}

#[test]
fn what_cannot_be_reached_counts_as_ill() {
    let topology = tiers("spill: { healthy_below: 70% }");
    let none = || own(0, 0);
    // The tier of `east` has as many gateways as it likes: they tell of the same instances.
    let twice = |healthy| {
        let mut second = exporting("east/gw2", 10, healthy);
        second.age = Age::Fresh;
        vec![exporting("east", 10, healthy), second, exporting("west", 4, 4)]
    };
    let links = [UP, &[("east/gw2", Link::Up)]].concat();
    let shares = |entries, links: &[(&str, Link)]| {
        thousand(&snapshot("home", &topology, none(), entries, links), |_| None)
    };
    near(shares(twice(5), &links), [0, 714, 286]);
    let stalled = [
        ("east", Link::Stalled),
        ("east/gw2", Link::Up),
        ("west", Link::Up),
    ];
    near(shares(twice(10), &stalled), [0, 1000, 0]);
    let lost = [("west", Link::Up)];
    near(shares(twice(10), &lost), [0, 0, 1000]);
}

#[test]
fn every_other_place_is_still_there_to_fall_back_on() {
    let topology = tiers("spill: { healthy_below: 70% }");
    let entries = vec![exporting("east", 4, 4), exporting("west", 4, 4)];
    let snapshot = snapshot("home", &topology, own(5, 10), entries, UP);
    for seed in 0..100 {
        let request = Request::new(orders());
        let zones: Vec<String> = route(&snapshot, &request, SmallRng::seed_from_u64(seed))
            .map(|candidate| candidate.zone(&snapshot.zone).to_string())
            .collect();
        match zones[0].as_str() {
            "home" => assert_eq!(zones, ["home", "east", "west"]),
            _ => assert_eq!(zones, ["east", "home", "west"]),
        }
    }
}

#[test]
fn an_explanation_tells_each_tiers_health_and_share() {
    let topology = tiers("spill: { healthy_below: 70% }\n    split: [{ tags: { version: v1 }, weight: 1 }]");
    let entries = vec![
        entry("east", Age::Fresh, false, &[(V1, 10, 5), (&[], 9, 9)]),
        exporting("west", 4, 4),
    ];
    let snapshot = snapshot("home", &topology, vec![], entries, UP);
    let decision = decide(&snapshot, orders());
    let told: Vec<String> = decision.reasons.iter().map(ToString::to_string).collect();
    let expected = "tier 2 {version=v1}: 5 of 10 instances can serve: 100 % of the traffic";
    assert!(told.iter().any(|line| line == expected), "{told:#?}");
    assert_eq!(why(&decision, "tier 1"), ["tier_share"]);
    assert_eq!(decision.why.word(), "later_tier", "no earlier tier has a share");
    let zone = Target {
        zone: Some(testbed::zone("east")),
        ..orders()
    };
    assert!(
        why(&decide(&snapshot, zone), "tier 2").is_empty(),
        "a zone that is named is no tier"
    );
}

#[test]
fn what_has_spilled_says_so() {
    let topology = tiers("spill: { healthy_below: 70% }");
    let snapshot = snapshot("home", &topology, own(5, 10), vec![exporting("east", 4, 4)], UP);
    let words: std::collections::BTreeSet<_> = (0..100)
        .map(|seed| {
            route(&snapshot, &Request::new(orders()), SmallRng::seed_from_u64(seed))
                .why()
                .word()
        })
        .collect();
    assert_eq!(Vec::from_iter(words), ["own_zone", "spilled"]);
}

#[test]
fn a_connection_that_has_spilled_belongs_there_until_its_tier_has_no_share() {
    let topology = tiers("spill: { healthy_below: 70% }");
    let at = |healthy, zone: &str| {
        let entries = vec![exporting("east", 4, 4), exporting("west", 4, 4)];
        let snapshot = snapshot("home", &topology, own(healthy, 10), entries, UP);
        let placed = Candidate {
            place: Destination::Remote {
                gateway: testbed::gateway(zone),
            },
            tags: testbed::tags(&[]),
            arm: testbed::tags(&[]),
            tier: None,
            in_panic: false,
        };
        belongs(&snapshot, &Placement::new(&orders(), &placed, None))
    };
    assert_eq!(at(5, "east"), Ok(()));
    assert_eq!(at(10, "east"), Err(Misplacement::BetterTier));
    assert_eq!(at(5, "west"), Err(Misplacement::BetterTier));
}

#[test]
fn a_zone_that_drains_counts_as_ill_and_what_is_open_there_is_to_leave() {
    let zones = "  home: { drain: true }\n  east: {}\n  west: {}";
    let service =
        "  orders:\n    port: 80\n    protocol: tcp\n    failover: [{ zone: self }, { zone: east }]\n    ";
    let topology = |more: &str| topology(zones, &format!("{service}{more}"));
    let entries = || vec![exporting("east", 4, 4)];
    let spilling = topology("spill: { healthy_below: 70% }");
    near(
        thousand(&snapshot("home", &spilling, own(4, 4), entries(), UP), |_| None),
        [0, 1000, 0],
    );
    let placed = Candidate {
        place: Destination::Local,
        tags: testbed::tags(&[]),
        arm: testbed::tags(&[]),
        tier: Some(1),
        in_panic: false,
    };
    let placed = Placement::new(&orders(), &placed, Some("00"));
    for topology in [spilling, topology("early: false")] {
        let others = snapshot("home", &topology, own(4, 4), entries(), UP);
        assert_eq!(belongs(&others, &placed), Err(Misplacement::Draining));
        let none = snapshot("home", &topology, own(4, 4), vec![], UP);
        assert_eq!(belongs(&none, &placed), Ok(()), "nobody else could serve it");
    }
}
