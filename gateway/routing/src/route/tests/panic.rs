//! Panic: where no instance is healthy in any zone, those that are ill are used instead of none.

use std::sync::Arc;

use causeway_federation::{
    catalog::{Age, CatalogEntry},
    topology::Topology,
};

use super::*;
use crate::{
    snapshot::{Health, Instance},
    testbed::{entry, instance, snapshot, tags, topology},
};

/// `home` prefers its own instances to those of `east`, and those to `west`'s.
fn asked(health: &str, more: &str) -> Arc<Topology> {
    topology(
        "  home: {}\n  east: {}\n  west: {}",
        &format!(
            "  orders: {{ port: 80, protocol: http, health: {{ {health} }}, failover: [{{ zone: self }}, {{ zone: east }}, {{ zone: west }}], {more} }}"
        ),
    )
}

fn here(health: Health, tags: &[(&str, &str)]) -> Arc<Instance> {
    let mut one = instance("here", "127.0.0.1:1".parse().unwrap(), 1, tags);
    Arc::get_mut(&mut one).unwrap().health = health;
    one
}

/// A zone of three instances, all of them ill: as it tells when it takes part in panic, and as earlier versions do.
fn ill(zone: &str, tells: bool) -> CatalogEntry {
    let mut entry = entry(zone, Age::Fresh, false, &[]);
    let mut export = testbed::entry(zone, Age::Fresh, false, &[(&[], 3, 0)])
        .record
        .exports
        .iter()
        .next()
        .cloned()
        .unwrap();
    export.weight = if tells { 3 } else { 0 };
    let record = Arc::get_mut(&mut entry.record).unwrap();
    record.exports = [export].into_iter().collect();
    entry
}

fn seen(topology: &Arc<Topology>, own: Vec<Arc<Instance>>, others: Vec<CatalogEntry>) -> Snapshot {
    snapshot(
        "home",
        topology,
        own,
        others,
        &[("east", Link::Up), ("west", Link::Up)],
    )
}

#[test]
fn those_that_are_ill_are_used_in_the_order_of_tiers_where_none_is_healthy() {
    let topology = asked("http: /health", "spill: {}");
    let own = || vec![here(Health::Unhealthy, &[])];
    let decision = decide(
        &seen(&topology, own(), vec![ill("east", true), ill("west", true)]),
        orders(),
    );
    assert_eq!(words(&decision), ["own{}", "east/gw1{}", "west/gw1{}"]);
    assert!(decision.candidates.iter().all(|candidate| candidate.in_panic));
    assert_eq!(decision.why.word(), "panic");
    assert_eq!(why(&decision, "own zone home"), ["none_healthy", "panic"]);
    assert_eq!(why(&decision, "arm of weight 1"), ["arm_picked"]);
    // One of an earlier version does not take part.
    let decision = decide(
        &seen(&topology, own(), vec![ill("east", false), ill("west", true)]),
        orders(),
    );
    assert_eq!(words(&decision), ["own{}", "west/gw1{}"]);
}

#[test]
fn one_healthy_instance_anywhere_ends_the_panic() {
    let topology = asked(
        "http: /health",
        "split: [{ tags: { version: v1 } }, { tags: { version: v2 } }]",
    );
    let own = vec![here(Health::Unhealthy, &[("version", "v1")])];
    let west = entry("west", Age::Fresh, false, &[(&[("version", "v2")], 9, 1)]);
    let decision = decide(&seen(&topology, own, vec![west]), orders());
    assert_eq!(words(&decision), ["west/gw1{version=v2}"]);
    assert!(!decision.candidates[0].in_panic);
    let arms = why(&decision, "arm of weight 1");
    assert!(
        arms.contains(&"arm_without_home") && arms.contains(&"arm_picked"),
        "{arms:?}"
    );
}

#[test]
fn there_is_no_panic_where_the_topology_says_so_or_nothing_accepts() {
    for (health, more) in [("http: /health", "panic: false"), ("tcp: true", "panic: true")] {
        let topology = asked(health, more);
        let all = seen(
            &topology,
            vec![here(Health::Unhealthy, &[])],
            vec![ill("east", true)],
        );
        let decision = decide(&all, orders());
        assert_eq!(
            (words(&decision).len(), decision.why.word()),
            (0, "no_candidate"),
            "{health} {more}"
        );
        assert_eq!(why(&decision, "arm of weight 1"), ["arm_without_home"]);
    }
}

#[test]
fn one_that_is_drained_or_was_not_checked_yet_or_has_no_weight_takes_no_part() {
    let topology = asked("grpc: ''", "");
    let mut drained = here(Health::Unhealthy, &[]);
    Arc::get_mut(&mut drained).unwrap().drain = Some(causeway_federation::topology::Drain { by: None });
    let mut weightless = here(Health::Unhealthy, &[]);
    Arc::get_mut(&mut weightless).unwrap().weight = 0;
    for own in [drained, here(Health::Unknown, &[]), weightless] {
        let decision = decide(&seen(&topology, vec![own], vec![]), orders());
        assert_eq!(words(&decision), [""; 0]);
    }
}

#[test]
fn filters_hold_in_panic_too_and_the_name_still_rules() {
    let topology = asked("http: /health", "export_to: [], run_in: [west, home]");
    let all = seen(
        &topology,
        vec![here(Health::Unhealthy, &[])],
        vec![ill("east", true), ill("west", true)],
    );
    assert_eq!(
        words(&decide(&all, orders())),
        ["own{}"],
        "what is not exported is not asked"
    );
    let topology = asked("http: /health", "");
    let all = seen(
        &topology,
        vec![here(Health::Unhealthy, &[])],
        vec![ill("east", true), ill("west", true)],
    );
    let in_west = Target {
        zone: Some(testbed::zone("west")),
        ..orders()
    };
    assert_eq!(words(&decide(&all, in_west)), ["west/gw1{}"]);
    let tagged = Target {
        tags: tags(&[("version", "v2")]),
        ..orders()
    };
    assert_eq!(words(&decide(&all, tagged)), [""; 0]);
}
