//! Tests of failback and of slow starts of tiers, arms and zones.

use causeway_federation::{catalog::Age, topology::Topology};
use proptest::prelude::*;
use rand::{SeedableRng, rngs::SmallRng};

use super::*;
use crate::{
    route::{Candidate, Placement, Request, belongs, route},
    snapshot::Link,
    target::Target,
    testbed::{self, entry, snapshot, topology},
};

fn policy(hold: u64, ramp: u64) -> Failback {
    let topology = orders(&format!("failback: {{ hold: {hold}s, ramp: {ramp}s }}"));
    topology.services["orders"].failback.clone().unwrap()
}

fn orders(more: &str) -> Arc<Topology> {
    topology(
        "  home: {}\n  east: {}\n  west: {}",
        &format!(
            "  orders:\n    port: 80\n    protocol: tcp\n    failover: [{{ zone: east }}, {{ zone: west }}]\n    {more}"
        ),
    )
}

/// `home`, where `east` and `west` have so many healthy instances of ten.
fn seen(topology: &Arc<Topology>, east: u32, west: u32, ceilings: &Ceilings) -> Snapshot {
    let entries = [("east", east), ("west", west)];
    let entries = entries.map(|(zone, healthy)| entry(zone, Age::Fresh, false, &[(&[], 10, healthy)]));
    let links = [("east", Link::Up), ("west", Link::Up)];
    Snapshot {
        ceilings: ceilings.clone(),
        ..snapshot("home", topology, vec![], entries.into(), &links)
    }
}

/// Percent of connections that `east` takes at each second, `healthy` being how many of its ten instances are.
fn shares_of_east(
    topology: &Arc<Topology>,
    seconds: std::ops::Range<u64>,
    healthy: impl Fn(u64) -> (u32, u32),
) -> Vec<usize> {
    let (mut table, ceilings) = (FailbackTable::default(), Ceilings::default());
    let share = |second| {
        let (east, west) = healthy(second);
        let snapshot = seen(topology, east, west, &ceilings);
        let (now, _) = table.step(Duration::from_secs(second), &snapshot);
        ceilings.store(Arc::new(now));
        let request = Request::new(Target::service(testbed::service("orders")));
        let firsts =
            (0..100).filter_map(|seed| route(&snapshot, &request, SmallRng::seed_from_u64(seed)).next());
        let at_east = firsts.filter(|first| first.zone(&snapshot.zone).as_str() == "east");
        at_east.count()
    };
    seconds.map(share).collect()
}

#[test]
fn traffic_leaves_at_once_and_returns_after_the_hold_by_the_ramp() {
    let topology = orders("failback: { hold: 10s, ramp: 30s }");
    let east = |second| {
        if (15..30).contains(&second) {
            (0, 10)
        } else {
            (10, 10)
        }
    };
    let shares = shares_of_east(&topology, 0..80, east);
    assert_eq!(shares[..15], [100; 15]);
    assert_eq!(shares[15..=40], [0; 26], "ill until 30, and held until 40");
    for (second, share) in shares.iter().enumerate().take(70).skip(41) {
        let expected = (second - 40) * 100 / 30;
        // Three standard deviations of a hundred draws.
        assert!(
            share.abs_diff(expected) <= 15,
            "{share} % at {second} s, not {expected} %"
        );
    }
    assert_eq!(shares[70..], [100; 10]);
}

#[test]
fn without_failback_traffic_returns_at_once() {
    let shares = shares_of_east(&orders("early: false"), 0..4, |second| {
        if second == 1 { (0, 10) } else { (10, 10) }
    });
    assert_eq!(shares, [100, 0, 100, 100]);
}

#[test]
fn a_tier_that_never_served_takes_its_traffic_at_once() {
    let topology = orders("failback: { hold: 10s, ramp: 30s }");
    let shares = shares_of_east(
        &topology,
        0..4,
        |second| if second < 2 { (0, 10) } else { (10, 10) },
    );
    assert_eq!(shares, [0, 0, 100, 100]);
}

#[test]
fn instances_that_are_checked_one_after_another_at_the_start_are_no_return() {
    let topology = orders("spill: { healthy_below: 100% }\n    failback: { hold: 10s, ramp: 30s }");
    let shares = shares_of_east(&topology, 0..8, |second| (u32::try_from(second).unwrap() + 3, 10));
    assert_eq!(shares[7], 100, "{shares:?}");
}

#[test]
fn one_that_has_not_served_yet_waits_for_no_look() {
    let (mut table, ceilings) = (FailbackTable::default(), Ceilings::default());
    let topology = orders("failback: { hold: 10s, ramp: 30s }");
    let (now, _) = table.step(Duration::ZERO, &seen(&topology, 0, 10, &ceilings));
    ceilings.store(Arc::new(now));
    let request = Request::new(Target::service(testbed::service("orders")));
    let snapshot = seen(&topology, 10, 10, &ceilings);
    let first = route(&snapshot, &request, SmallRng::seed_from_u64(1))
        .next()
        .unwrap();
    assert_eq!(first.zone(&snapshot.zone).as_str(), "east");
}

#[test]
fn what_cannot_go_elsewhere_waits_for_no_ramp() {
    let topology = orders("failback: { hold: 10s, ramp: 30s }");
    let healthy = |second| match second {
        0..=10 => (10, 10),
        11 => (0, 10),
        12 => (10, 10),
        13 => (10, 1),
        _ => (10, 0),
    };
    let shares = shares_of_east(&topology, 0..16, healthy);
    assert_eq!(
        shares[10..],
        [100, 0, 0, 0, 100, 100],
        "any healthy instance takes all without spill"
    );
}

#[test]
fn an_instance_that_comes_and_goes_every_second_moves_traffic_once() {
    let topology = orders("failback: { hold: 3s, ramp: 10s }");
    let healthy = |second| {
        if second > 3 && second % 2 == 1 {
            (0, 10)
        } else {
            (10, 10)
        }
    };
    let shares = shares_of_east(&topology, 0..600, healthy);
    let moves = shares.windows(2).filter(|pair| pair[0] != pair[1]).count();
    assert_eq!(moves, 1, "{shares:?}");
}

#[test]
fn spill_and_failback_compose() {
    let topology = orders("spill: { healthy_below: 100% }\n    failback: { hold: 0s, ramp: 100s }");
    let healthy = |second| if second < 10 { (5, 10) } else { (10, 10) };
    let shares = shares_of_east(&topology, 0..80, healthy);
    let mean = |range: std::ops::Range<usize>| shares[range.clone()].iter().sum::<usize>() / range.len();
    assert!(mean(0..10).abs_diff(50) <= 12, "{shares:?}");
    assert!(mean(30..40).abs_diff(75) <= 8, "halfway back: {shares:?}");
    assert_eq!(shares[61..], [100; 19]);
}

#[test]
fn each_return_is_told_of_once() {
    let (mut table, ceilings) = (FailbackTable::default(), Ceilings::default());
    let topology = orders("failback: { hold: 1s, ramp: 2s }");
    let mut told = Vec::new();
    for (second, healthy) in [10, 10, 0, 10, 0, 10, 10, 10, 10, 10].into_iter().enumerate() {
        let snapshot = seen(&topology, healthy, 10, &ceilings);
        let (_, events) = table.step(Duration::from_secs(second as u64), &snapshot);
        told.extend(
            events
                .into_iter()
                .map(|event| (second, event.tier, event.progress)),
        );
    }
    use FailbackProgress::{Begun, BrokenOff, Done};
    assert_eq!(
        told,
        [(3, 1, Begun), (4, 1, BrokenOff), (5, 1, Begun), (8, 1, Done)]
    );
}

#[test]
fn another_list_of_tiers_begins_anew() {
    let (mut table, ceilings) = (FailbackTable::default(), Ceilings::default());
    let first = orders("failback: { hold: 10s, ramp: 10s }");
    let other = topology(
        "  home: {}\n  east: {}\n  west: {}",
        "  orders: { port: 80, protocol: tcp, failover: [{ zone: west }, { zone: east }], failback: { hold: 10s, ramp: 10s } }",
    );
    table.step(Duration::ZERO, &seen(&first, 10, 10, &ceilings));
    table.step(Duration::from_secs(1), &seen(&first, 0, 10, &ceilings));
    let (now, _) = table.step(Duration::from_secs(2), &seen(&other, 10, 10, &ceilings));
    assert_eq!(now.of(&testbed::service("orders"), &Tags::default()), [1.0, 1.0]);
    let (now, _) = table.step(
        Duration::from_secs(3),
        &seen(&orders("early: false"), 10, 10, &ceilings),
    );
    assert_eq!(now, TierCeilings::default(), "no service has failback any more");
}

/// Percent of 2,000 connections of `home` that `of` holds for, at each second.
fn shares_of(
    seen: impl Fn(u64, &Ceilings) -> Snapshot,
    seconds: std::ops::Range<u64>,
    of: impl Fn(&Candidate) -> bool,
) -> Vec<f64> {
    let (mut table, ceilings) = (FailbackTable::default(), Ceilings::default());
    let share = |second| {
        let snapshot = seen(second, &ceilings);
        let (now, _) = table.step(Duration::from_secs(second), &snapshot);
        ceilings.store(Arc::new(now));
        let request = Request::new(Target::service(testbed::service("orders")));
        let firsts =
            (0..2_000).filter_map(|seed| route(&snapshot, &request, SmallRng::seed_from_u64(seed)).next());
        let firsts: Vec<Candidate> = firsts.collect();
        for first in &firsts[..20] {
            let mut own = snapshot.instances.values().flat_map(|list| list.iter());
            let own = own
                .find(|one| one.tags.matches(&first.tags))
                .map(|one| one.id.as_str());
            let placed = Placement::new(&request.target, first, own);
            assert_eq!(
                belongs(&snapshot, &placed),
                Ok(()),
                "an open one stays: {first:?} at {second}"
            );
        }
        firsts.iter().filter(|first| of(first)).count() as f64 / 20.0
    };
    seconds.map(share).collect()
}

fn is_near(shares: &[f64], at: usize, expected: f64) {
    // Three standard deviations of 2,000 draws.
    let share = shares[at];
    assert!(
        (share - expected).abs() < 3.4,
        "{share} % at {at} s, not {expected} %: {shares:?}"
    );
}

#[test]
fn a_tier_that_is_back_or_new_comes_to_its_traffic_over_the_slow_start() {
    let topology = orders("slow_start: 20s");
    let healthy = |second: u64| match second {
        0..20 | 40.. => (10, 10),
        _ => (0, 10),
    };
    let seen_at = |second: u64, ceilings: &Ceilings| {
        let (east, west) = healthy(second);
        seen(&topology, east, west, ceilings)
    };
    let of_east = |first: &Candidate| first.zone(&testbed::zone("home")).as_str() == "east";
    let shares = shares_of(seen_at, 0..70, of_east);
    assert_eq!(
        (shares[0], shares[19], shares[20], shares[39]),
        (100.0, 100.0, 0.0, 0.0),
        "{shares:?}"
    );
    for (second, expected) in [(40, 0.0), (45, 25.0), (50, 50.0), (55, 75.0), (60, 100.0)] {
        is_near(&shares, second, expected);
    }
    // One that is found only later is new, and nothing had been sent to it.
    let later =
        |second: u64, ceilings: &Ceilings| seen(&topology, if second < 12 { 0 } else { 10 }, 10, ceilings);
    let shares = shares_of(later, 0..40, of_east);
    assert_eq!(shares[11], 0.0);
    is_near(&shares, 22, 50.0);
    assert_eq!(shares[33], 100.0);
    // What is found at the start was there before this gateway.
    let at_once =
        |second: u64, ceilings: &Ceilings| seen(&topology, if second < 5 { 0 } else { 10 }, 10, ceilings);
    assert_eq!(shares_of(at_once, 0..7, of_east)[5..], [100.0, 100.0]);
}

#[test]
fn a_zone_that_is_back_comes_to_its_weight_within_its_tier() {
    let topology = topology(
        "  home: {}\n  east: {}\n  west: {}",
        "  orders: { port: 80, protocol: tcp, failover: [{}], slow_start: 20s }",
    );
    let gone = |second: u64, ceilings: &Ceilings| {
        let mut snapshot = seen(&topology, 10, 10, ceilings);
        if (20..40).contains(&second) {
            Arc::make_mut(&mut snapshot.links).remove(&testbed::gateway("east"));
        }
        snapshot
    };
    let of_east = |first: &Candidate| first.zone(&testbed::zone("home")).as_str() == "east";
    let shares = shares_of(gone, 0..70, of_east);
    is_near(&shares, 19, 50.0);
    assert_eq!(shares[20], 0.0);
    for (second, part) in [(40, 0.1), (45, 0.25), (50, 0.5), (60, 1.0)] {
        is_near(&shares, second, 100.0 * part / (1.0 + part));
    }
}

#[test]
fn the_own_zone_comes_back_slowly_where_another_is_of_its_tier() {
    let topology = topology(
        "  home: {}\n  east: {}\n  west: {}",
        "  orders: { port: 80, protocol: tcp, failover: [{}], slow_start: 20s }",
    );
    let seen_at = |second: u64, ceilings: &Ceilings| {
        let mut own = testbed::instance("own", "127.0.0.1:1".parse().unwrap(), 1, &[]);
        if (20..40).contains(&second) {
            Arc::get_mut(&mut own).unwrap().health = crate::snapshot::Health::Unhealthy;
        }
        let east = entry("east", Age::Fresh, false, &[(&[], 10, 10)]);
        Snapshot {
            ceilings: ceilings.clone(),
            ..snapshot("home", &topology, vec![own], vec![east], &[("east", Link::Up)])
        }
    };
    let is_own = |first: &Candidate| first.zone(&testbed::zone("home")).as_str() == "home";
    let shares = shares_of(seen_at, 0..70, is_own);
    assert_eq!((shares[19], shares[20]), (100.0, 0.0));
    for (second, expected) in [(40, 10.0), (45, 25.0), (50, 50.0), (60, 100.0)] {
        is_near(&shares, second, expected);
    }
}

#[test]
fn an_arm_whose_only_instance_is_new_comes_to_its_weight() {
    let topology = topology(
        "  home: {}\n  east: {}\n  west: {}",
        "  orders: { port: 80, protocol: tcp, slow_start: 20s, split: [{ tags: { version: v1 } }, { tags: { version: v2 } }] }",
    );
    let seen_at = |second: u64, ceilings: &Ceilings| {
        let address = "127.0.0.1:1".parse().unwrap();
        let mut own = vec![testbed::instance("one", address, 1, &[("version", "v1")])];
        if second >= 20 {
            own.push(testbed::instance("two", address, 1, &[("version", "v2")]));
        }
        Snapshot {
            ceilings: ceilings.clone(),
            ..snapshot("home", &topology, own, vec![], &[])
        }
    };
    let shares = shares_of(seen_at, 0..50, |first| first.arm.value("version") == Some("v2"));
    assert_eq!(shares[19], 0.0);
    for (second, part) in [(20, 0.1), (25, 0.25), (30, 0.5), (40, 1.0)] {
        is_near(&shares, second, 100.0 * part / (1.0 + part));
    }
    let explained = Request::explained(Target::service(testbed::service("orders")));
    let (mut table, ceilings) = (FailbackTable::default(), Ceilings::default());
    for second in [0, 10, 20, 30] {
        let (now, _) = table.step(Duration::from_secs(second), &seen_at(second, &ceilings));
        ceilings.store(Arc::new(now));
    }
    let snapshot = seen_at(30, &ceilings);
    let decision = route(&snapshot, &explained, SmallRng::seed_from_u64(1)).complete();
    let told: Vec<String> = decision.reasons.iter().map(ToString::to_string).collect();
    let line = "arm of weight 1 {version=v2}: at its slow start: it has 50 % of its weight";
    assert!(told.iter().any(|told| told == line), "{told:?}");
}

#[test]
fn an_arm_that_comes_into_the_topology_has_its_weight_at_once_where_its_instances_were_there() {
    let split = |more: &str| {
        let keys = format!(
            "  orders: {{ port: 80, protocol: tcp, slow_start: 20s, split: [{{ tags: {{ version: v1 }} }}{more}] }}"
        );
        topology("  home: {}\n  east: {}\n  west: {}", &keys)
    };
    let (before, after) = (split(""), split(", { tags: { version: v2 } }"));
    let seen_at = |second: u64, ceilings: &Ceilings| {
        let address = "127.0.0.1:1".parse().unwrap();
        let own = ["v1", "v2"].map(|version| testbed::instance(version, address, 1, &[("version", version)]));
        let topology = if second < 20 { &before } else { &after };
        Snapshot {
            ceilings: ceilings.clone(),
            ..snapshot("home", topology, own.into(), vec![], &[])
        }
    };
    let shares = shares_of(seen_at, 0..40, |first| first.arm.value("version") == Some("v2"));
    assert_eq!(shares[19], 0.0);
    for second in 20..40 {
        is_near(&shares, second, 50.0);
    }
}

proptest! {
    #[test]
    fn a_ceiling_never_rises_faster_than_the_ramp(
        fitness in prop::collection::vec((0.0f64..=1.0, 0u64..5_000), 1..60),
        hold in 0u64..10,
        ramp in 1u64..30,
    ) {
        let policy = policy(hold, ramp);
        let (mut tier, mut now) = (ReturningTier::default(), Duration::ZERO);
        let mut ill_at = None;
        for (fitness, pause) in fitness {
            now += Duration::from_millis(pause);
            let before = tier;
            let _ = tier.advance(now, fitness, &policy);
            prop_assert!(tier.ceiling <= fitness);
            if !before.has_served {
                ill_at = Some(now);
            } else if fitness <= before.ceiling {
                prop_assert_eq!(tier.ceiling, fitness, "a fall is followed at once");
                ill_at = Some(now);
            } else {
                let most = pause as f64 / 1000.0 / ramp as f64 + 1e-9;
                prop_assert!(tier.ceiling - before.ceiling <= most);
                let held = ill_at.is_none_or(|at: Duration| now.saturating_sub(at) < policy.hold);
                prop_assert!(!held || tier.ceiling == before.ceiling, "it waits for the hold");
            }
        }
    }
}
