//! One table or test for each rule and each reason.

use std::{sync::Arc, time::Duration};

use causeway_federation::{catalog::Age, topology::Topology};

use super::*;
use crate::{
    outlier::{OutlierTable, TriedPlace, TryFailure},
    snapshot::{Health, Instance},
    testbed::{Exported, entry, instance, snapshot, tags, topology},
};

const ZONES: &str =
    "  home: { tags: { region: us } }\n  east: { tags: { region: us } }\n  west: { tags: { region: eu } }";
const V1: &[(&str, &str)] = &[("version", "v1")];
const V2: &[(&str, &str)] = &[("version", "v2")];

fn with(service: &str) -> Arc<Topology> {
    topology(
        ZONES,
        &format!("  orders:\n    port: 80\n    protocol: tcp\n    {service}"),
    )
}

fn here(tags: &[(&str, &str)]) -> Arc<Instance> {
    instance("here", "127.0.0.1:1".parse().unwrap(), 1, tags)
}

/// `home` with both other zones up, fresh and healthy.
fn all_up(topology: &Arc<Topology>, instances: Vec<Arc<Instance>>) -> Snapshot {
    let entries = ["east", "west"].map(|zone| entry(zone, Age::Fresh, false, &[(&[], 2, 2)]));
    snapshot(
        "home",
        topology,
        instances,
        entries.into(),
        &[("east", Link::Up), ("west", Link::Up)],
    )
}

/// `home` with `east` alone, as given.
fn east(
    topology: &Arc<Topology>,
    link: Option<Link>,
    entry: causeway_federation::catalog::CatalogEntry,
) -> Snapshot {
    let links: Vec<_> = link.map(|link| ("east", link)).into_iter().collect();
    snapshot("home", topology, vec![], vec![entry], &links)
}

#[test]
fn an_unknown_service_has_no_candidate() {
    let target = Target::service(testbed::service("unheard"));
    let decision = decide(&all_up(&with("early: false"), vec![]), target);
    assert!(decision.candidates.is_empty());
    assert_eq!(why(&decision, "service unheard"), ["unknown_service"]);
    assert_eq!(decision.why, Why::UnknownService);
}

#[test]
fn by_default_the_own_zone_comes_first_and_then_any() {
    let topology = with("early: false");
    let decision = decide(&all_up(&topology, vec![here(&[])]), orders());
    assert_eq!(words(&decision)[0], "own{}");
    assert_eq!(decision.candidates.len(), 3);
    assert_eq!(why(&decision, "own zone home"), ["own_zone"]);
}

#[test]
fn tiers_are_tried_in_order_with_tags_of_the_caller() {
    for (failover, expected) in [
        (
            "[{ zone: west }, { zone: east }]",
            vec!["west/gw1{}", "east/gw1{}"],
        ),
        (
            "[{ tags: { region: self } }, {}]",
            vec!["own{}", "east/gw1{}", "west/gw1{}"],
        ),
        (
            "[{ tags: { region: eu } }, { zone: self }]",
            vec!["west/gw1{}", "own{}"],
        ),
        ("[{ zone: self }]", vec!["own{}"]),
    ] {
        let topology = with(&format!("failover: {failover}"));
        let decision = decide(&all_up(&topology, vec![here(&[])]), orders());
        assert_eq!(words(&decision), expected, "{failover}");
    }
}

#[test]
fn a_zone_that_matches_no_tier_is_passed_over() {
    let decision = decide(
        &all_up(&with("failover: [{ zone: west }]"), vec![here(&[])]),
        orders(),
    );
    assert_eq!(why(&decision, "gateway east/gw1"), ["no_tier"]);
    assert_eq!(why(&decision, "own zone home"), ["no_tier"]);
    assert_eq!(why(&decision, "gateway west/gw1"), ["first_tier"]);
}

#[test]
fn each_state_of_another_zone_has_its_reason() {
    let topology = with("failover: [{ zone: self }, {}]");
    let up: &[Exported<'_>] = &[(&[], 2, 2)];
    let good = |age, draining| entry("east", age, draining, up);
    let mut weightless = Export1::new();
    weightless.weight = 0;
    for (link, entry, expected) in [
        (Some(Link::Up), good(Age::Fresh, false), "later_tier"),
        (Some(Link::Up), good(Age::Suspect, false), "later_tier"),
        (Some(Link::Stalled), good(Age::Fresh, false), "stalled"),
        (Some(Link::Up), good(Age::Withdrawn, false), "withdrawn"),
        (Some(Link::Up), good(Age::Fresh, true), "draining"),
        (Some(Link::Draining), good(Age::Fresh, false), "draining"),
        (None, good(Age::Fresh, false), "no_tunnel"),
        (
            Some(Link::Up),
            entry("east", Age::Fresh, false, &[]),
            "no_instance",
        ),
        (
            Some(Link::Up),
            entry("east", Age::Fresh, false, &[(&[], 2, 0)]),
            "none_healthy",
        ),
        (Some(Link::Up), weightless.entry(), "no_weight"),
        (Some(Link::Up), entry("south", Age::Fresh, false, up), "no_tunnel"),
    ] {
        let name = entry.record.origin.to_string();
        let decision = decide(&east(&topology, link, entry), orders());
        assert_eq!(why(&decision, &format!("gateway {name}")), [expected]);
        let taken = ["later_tier", "stalled", "draining"].contains(&expected);
        assert_eq!(decision.candidates.len(), usize::from(taken), "{expected}");
        assert_eq!(decision.why == Why::NoHome, !taken);
    }
}

/// An export whose weight is not its number of healthy instances.
struct Export1 {
    weight: u64,
}

impl Export1 {
    fn new() -> Self {
        Self { weight: 1 }
    }

    fn entry(&self) -> causeway_federation::catalog::CatalogEntry {
        let mut entry = entry("east", Age::Fresh, false, &[(&[], 2, 2)]);
        let mut record = (*entry.record).clone();
        let mut export = record.exports.iter().next().unwrap().clone();
        export.weight = self.weight;
        record.exports.insert(export);
        entry.record = Arc::new(record);
        entry
    }
}

#[test]
fn a_zone_that_left_the_topology_is_passed_over() {
    let entries = vec![entry("south", Age::Fresh, false, &[(&[], 1, 1)])];
    let snapshot = snapshot(
        "home",
        &with("early: false"),
        vec![],
        entries,
        &[("south", Link::Up)],
    );
    assert_eq!(
        why(&decide(&snapshot, orders()), "gateway south/gw1"),
        ["not_in_topology"]
    );
}

#[test]
fn zones_that_were_never_heard_of_are_named() {
    let snapshot = snapshot("home", &with("early: false"), vec![], vec![], &[]);
    let decision = decide(&snapshot, orders());
    assert_eq!(why(&decision, "zone east"), ["never_heard"]);
    assert_eq!(why(&decision, "zone home"), [""; 0]);
}

#[test]
fn a_service_that_is_not_exported_to_this_zone_is_served_by_its_own_instances_only() {
    let topology = with("export_to: [east]");
    let decision = decide(&all_up(&topology, vec![here(&[])]), orders());
    assert_eq!(words(&decision), ["own{}"]);
    assert_eq!(why(&decision, "gateway west/gw1"), ["not_exported"]);
}

#[test]
fn each_state_of_the_own_instances_has_its_reason() {
    let topology = with("failover: [{ zone: self }]");
    let unhealthy = |health| {
        let mut instance = here(&[]);
        Arc::get_mut(&mut instance).unwrap().health = health;
        instance
    };
    let weightless = instance("here", "127.0.0.1:1".parse().unwrap(), 0, &[]);
    for (instances, expected) in [
        (vec![], "no_instance"),
        (vec![unhealthy(Health::Unhealthy)], "none_healthy"),
        (vec![unhealthy(Health::Unknown)], "none_healthy"),
        (vec![weightless.clone()], "no_weight"),
        (vec![weightless, here(&[])], "own_zone"),
    ] {
        let decision = decide(&all_up(&topology, instances), orders());
        assert_eq!(why(&decision, "own zone home"), [expected]);
    }
}

#[test]
fn a_name_with_a_zone_leaves_only_that_zone_whatever_the_tiers_say() {
    let topology = with("failover: [{ zone: self }]");
    let target = Target {
        zone: Some(testbed::zone("west")),
        ..orders()
    };
    let decision = decide(&all_up(&topology, vec![here(&[])]), target);
    assert_eq!(words(&decision), ["west/gw1{}"]);
    assert_eq!(why(&decision, "gateway west/gw1"), ["named_zone"]);
    assert_eq!(why(&decision, "gateway east/gw1"), ["other_zone_named"]);
    assert_eq!(why(&decision, "own zone home"), ["other_zone_named"]);
}

#[test]
fn a_suspect_record_changes_nothing_while_the_tunnel_answers_and_silent_tunnels_come_last() {
    let topology = with("failover: [{ zone: west }, { zone: east }]");
    let mut entries = vec![
        entry("east/gw1", Age::Fresh, false, &[(&[], 1, 1)]),
        entry("east/gw2", Age::Fresh, false, &[(&[], 1, 1)]),
        entry("west", Age::Fresh, false, &[(&[], 1, 1)]),
    ];
    let links = [
        ("east/gw1", Link::Stalled),
        ("east/gw2", Link::Up),
        ("west", Link::Up),
    ];
    let decision = decide(
        &snapshot("home", &topology, vec![], entries.clone(), &links),
        orders(),
    );
    assert_eq!(words(&decision), ["west/gw1{}", "east/gw2{}", "east/gw1{}"]);
    entries[2].age = Age::Suspect;
    let decision = decide(&snapshot("home", &topology, vec![], entries, &links), orders());
    assert_eq!(words(&decision), ["west/gw1{}", "east/gw2{}", "east/gw1{}"]);
    assert_eq!(why(&decision, "gateway west/gw1"), ["first_tier"]);
}

#[test]
fn the_arm_picks_the_tags_and_the_other_arms_come_last() {
    let topology = with(
        "split: [{ tags: { version: v1 }, weight: 1 }, { tags: { version: v2 }, weight: 0 }, { tags: { version: v3 }, weight: 1000000 }]\n    failover: [{ zone: self }, {}]",
    );
    let v3: &[(&str, &str)] = &[("version", "v3")];
    let both: &[Exported<'_>] = &[(V1, 1, 1), (V2, 1, 1), (v3, 1, 1)];
    let entries = vec![entry("east", Age::Fresh, false, both)];
    let snapshot = snapshot(
        "home",
        &topology,
        vec![here(V1), here(V2)],
        entries,
        &[("east", Link::Up)],
    );
    let decision = decide(&snapshot, orders());
    assert_eq!(
        words(&decision),
        ["east/gw1{version=v3}", "own{version=v1}", "east/gw1{version=v1}"]
    );
    assert_eq!(decision.arm, Some(tags(v3)));
    assert_eq!(why(&decision, "arm of weight 0"), ["arm_weight_zero"]);
    assert_eq!(why(&decision, "arm of weight 1000000"), ["arm_picked"]);
    assert_eq!(why(&decision, "arm of weight 1"), ["arm_in_reserve"]);
}

#[test]
fn an_arm_without_a_home_passes_its_share_to_the_others() {
    let topology =
        with("split: [{ tags: { version: v1 }, weight: 1 }, { tags: { version: v2 }, weight: 1000000 }]");
    let snapshot = snapshot("home", &topology, vec![here(V1)], vec![], &[]);
    let decision = decide(&snapshot, orders());
    assert_eq!(words(&decision), ["own{version=v1}"]);
    assert_eq!(why(&decision, "arm of weight 1000000"), ["arm_without_home"]);
    assert_eq!(why(&decision, "arm of weight 1"), ["arm_picked"]);
}

#[test]
fn tags_of_the_name_narrow_the_arms() {
    let topology =
        with("split: [{ tags: { version: v1 }, weight: 9 }, { tags: { version: v2 }, weight: 1 }]");
    let both = [("version", "v2"), ("runtime", "vm")];
    let snapshot = snapshot("home", &topology, vec![here(V1), here(&both)], vec![], &[]);
    let v2 = Target {
        tags: tags(V2),
        ..orders()
    };
    let decision = decide(&snapshot, v2);
    assert_eq!(words(&decision), ["own{version=v2}"]);
    assert_eq!(why(&decision, "arm of weight 9"), ["arm_contradicts_name"]);
    let on_vm = Target {
        tags: tags(&[("runtime", "vm")]),
        ..orders()
    };
    assert_eq!(words(&decide(&snapshot, on_vm)), ["own{runtime=vm,version=v2}"]);
}

#[test]
fn a_name_that_no_arm_agrees_with_counts_alone_and_a_weight_of_zero_still_holds() {
    let v3: &[(&str, &str)] = &[("version", "v3")];
    let topology =
        with("split: [{ tags: { version: v1 }, weight: 9 }, { tags: { version: v2 }, weight: 0 }]");
    let snapshot = snapshot("home", &topology, vec![here(V1), here(V2), here(v3)], vec![], &[]);
    let decision = decide(
        &snapshot,
        Target {
            tags: tags(v3),
            ..orders()
        },
    );
    assert_eq!(words(&decision), ["own{version=v3}"]);
    assert!(decision.reasons.iter().any(|reason| reason.why == Why::ArmByName));
    assert!(
        decide(
            &snapshot,
            Target {
                tags: tags(V2),
                ..orders()
            }
        )
        .candidates
        .is_empty()
    );
}

#[test]
fn reasons_are_listed_only_when_asked_for_and_read_as_sentences() {
    let snapshot = all_up(&with("failover: [{ zone: self }, {}]"), vec![here(&[])]);
    let request = Request::new(orders());
    let quick = route(&snapshot, &request, SmallRng::seed_from_u64(1)).complete();
    let explained = decide(&snapshot, orders());
    assert!(quick.reasons.is_empty());
    assert_eq!(quick.candidates, explained.candidates);
    let lines: Vec<String> = explained.reasons.iter().map(ToString::to_string).collect();
    assert_eq!(lines[0], "own zone home {}: taken: tier 1, own zone first");
    assert_eq!(lines[1], "gateway east/gw1 {}: taken: tier 2");
    let json = serde_json::to_value(&explained).unwrap();
    assert_eq!(json["candidates"][0]["kind"], "local");
    assert_eq!(json["reasons"][1]["verdict"], "taken");
    assert_eq!(json["reasons"][1]["subject"]["gateway"]["zone"], "east");
}

/// Not a benchmark: holds the decision to a cost that a connection does not feel, with a wide margin for slow machines.
#[test]
fn a_decision_costs_microseconds() {
    let small = all_up(&with("failover: [{ zone: self }, {}]"), vec![here(&[])]);
    let cost = |snapshot: &Snapshot, rounds: u32| {
        let mut rng = SmallRng::seed_from_u64(1);
        let request = Request::new(orders());
        let begun = std::time::Instant::now();
        for _ in 0..rounds {
            std::hint::black_box(route(snapshot, &request, &mut rng));
        }
        begun.elapsed() / rounds
    };
    let names: Vec<String> = (0..1000).map(|number| format!("z{number}")).collect();
    let zones: String = names.iter().map(|name| format!("  {name}: {{}}\n")).collect();
    let topology = topology(
        &format!("  home: {{}}\n{zones}"),
        "  orders:\n    port: 80\n    protocol: tcp",
    );
    let entries = names
        .iter()
        .map(|name| entry(name, Age::Fresh, false, &[(&[], 2, 2)]));
    let links: Vec<(&str, Link)> = names.iter().map(|name| (name.as_str(), Link::Up)).collect();
    let large = snapshot("home", &topology, vec![here(&[])], entries.collect(), &links);
    let (small, large) = (cost(&small, 20_000), cost(&large, 100));
    println!("three zones: {small:?}, a thousand zones: {large:?}");
    // Ten times what an idle machine takes without optimization: what is caught is the wrong order of growth.
    assert!(small < std::time::Duration::from_micros(200), "{small:?}");
    assert!(large < std::time::Duration::from_millis(100), "{large:?}");
}

#[test]
fn a_zone_that_may_not_run_the_service_is_never_a_home_whatever_it_claims() {
    let topology = with("run_in: [west]");
    let decision = decide(&all_up(&topology, vec![here(&[])]), orders());
    assert_eq!(words(&decision), ["west/gw1{}"]);
    assert_eq!(why(&decision, "gateway east/gw1"), ["may_not_run"]);
    assert_eq!(why(&decision, "own zone home"), ["may_not_run"]);
}

#[test]
fn the_split_of_a_route_takes_the_place_of_the_service_s() {
    let topology = with("split: [{ tags: { version: v1 } }]");
    let instances = vec![here(V1), instance("other", "127.0.0.1:2".parse().unwrap(), 1, V2)];
    let snapshot = snapshot("home", &topology, instances, vec![], &[]);
    let other = with("split: [{ tags: { version: v2 } }, { tags: { version: v3 } }]");
    let split = other.services[&testbed::service("orders")]
        .split
        .as_slice()
        .into();
    for (split, arm) in [(None, V1), (Some(split), V2)] {
        let request = Request::explained(orders()).with_split(split);
        let decision = route(&snapshot, &request, SmallRng::seed_from_u64(1)).complete();
        let arms: Vec<_> = decision
            .candidates
            .iter()
            .map(|candidate| candidate.arm.clone())
            .collect();
        assert_eq!(arms, [tags(arm)], "no arm of the other split is a last resort");
    }
}

/// Has the instances with these tags of these zones fail.
fn failing(snapshot: &Snapshot, places: &[(&str, &[(&str, &str)])]) {
    let orders = testbed::service("orders");
    let policy = snapshot.topology.services[&orders].outlier.clone().unwrap();
    let (mut table, now) = (OutlierTable::default(), Duration::from_secs(1));
    for (zone, tags) in places {
        let place = TriedPlace {
            service: &orders,
            port: None,
            zone: &testbed::zone(zone),
            tags: &testbed::tags(tags),
            instance: 1,
            healthy: 1,
            client: 1,
        };
        assert!(table.failed(now, &policy, TryFailure::Unavailable, place));
    }
    snapshot.ejections.store(Arc::new(table.ejected(now)));
}

#[test]
fn zones_that_fail_come_last_whatever_their_tier_and_are_not_left_out() {
    let topology = testbed::topology(
        "  home: {}\n  east: {}\n  west: {}",
        "  orders: { port: 80, protocol: http, outlier: { consecutive: 1 }, failover: [{ zone: self }, { zone: east }, { zone: west }] }",
    );
    let own = testbed::instance("a", "127.0.0.1:1".parse().unwrap(), 1, &[]);
    let entries = ["east", "west"].map(|name| testbed::entry(name, Age::Fresh, false, &[(&[], 1, 1)]));
    let links = [("east", Link::Up), ("west", Link::Up)];
    let snapshot = testbed::snapshot("home", &topology, vec![own], entries.into(), &links);
    let order = |places: &[&str]| {
        let places: Vec<_> = places.iter().map(|zone| (*zone, &[][..])).collect();
        failing(&snapshot, &places);
        words(&decide(&snapshot, orders()))
    };
    assert_eq!(order(&[]), ["own{}", "east/gw1{}", "west/gw1{}"]);
    assert_eq!(order(&["home"]), ["east/gw1{}", "west/gw1{}", "own{}"]);
    assert_eq!(order(&["home", "east"]), ["west/gw1{}", "own{}", "east/gw1{}"]);
    assert_eq!(
        order(&["home", "east", "west"]),
        ["own{}", "east/gw1{}", "west/gw1{}"]
    );
    let decision = decide(&snapshot, orders());
    assert_eq!(decision.why.word(), "ejected");
    assert!(decision.why.to_string().contains("failed in a row"));
}

#[test]
fn an_arm_of_which_all_homes_fail_comes_after_the_others() {
    let topology = testbed::topology(
        "  home: {}",
        "  orders: { port: 80, protocol: http, outlier: { consecutive: 1 }, split: [{ tags: { v: '1' }, weight: 1000000 }, { tags: { v: '2' } }] }",
    );
    let one = |id: &str, v: &str| testbed::instance(id, "127.0.0.1:1".parse().unwrap(), 1, &[("v", v)]);
    let snapshot = testbed::snapshot("home", &topology, vec![one("a", "1"), one("b", "2")], vec![], &[]);
    let order = || words(&decide(&snapshot, orders()));
    assert_eq!(order(), ["own{v=1}", "own{v=2}"]);
    failing(&snapshot, &[("home", &[("v", "1")])]);
    assert_eq!(order(), ["own{v=2}", "own{v=1}"]);
    failing(&snapshot, &[("home", &[("v", "1")]), ("home", &[("v", "2")])]);
    assert_eq!(order(), ["own{v=1}", "own{v=2}"]);
}

#[test]
fn a_zone_that_the_topology_drains_comes_after_all_others_and_still_serves() {
    let zones = |home: &str, east: &str| {
        let zones = format!("  home: {{ {home} }}\n  east: {{ {east} }}\n  west: {{}}");
        topology(&zones, "  orders:\n    port: 80\n    protocol: tcp")
    };
    let first = |topology: &Arc<Topology>| words(&decide(&all_up(topology, vec![here(&[])]), orders()));
    let own = first(&zones("drain: true", ""));
    assert_eq!(own.last().map(String::as_str), Some("own{}"), "{own:?}");
    assert_eq!(own.len(), 3, "it serves what no other can");
    let east = first(&zones("", "drain: { by: '2026-12-01T02:00:00Z' }"));
    assert_eq!(east, ["own{}", "west/gw1{}", "east/gw1{}"]);
    let decision = decide(&all_up(&zones("drain: true", ""), vec![here(&[])]), orders());
    assert_eq!(why(&decision, "own zone home"), ["draining"]);
}
