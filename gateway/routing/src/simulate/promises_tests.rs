//! Promises whose outcome can be worked out by hand, single points of failure and conflicts.

use causeway_federation::topology::parse;

use super::*;
use crate::testbed::{service, zone};

/// Three zones; `orders` is critical and everywhere, `ledger` in `west` alone.
fn federation(promises: &str) -> Arc<Topology> {
    let text = format!(
        "
version: 1
trust_domain: test.internal
promises: [{promises}]
zones:
  east: {{ gateways: ['a:1', 'b:1'], instances: [{{ service: orders, address: '10.0.0.1:80', capacity: 100/s }}] }}
  north: {{ gateways: ['c:1'], instances: [{{ service: orders, address: '10.1.0.1:80', capacity: 100/s }}] }}
  west:
    gateways: ['d:1', 'e:1']
    instances:
      - {{ service: orders, address: '10.2.0.1:80', capacity: 60/s }}
      - {{ service: orders, address: '10.2.0.2:80', capacity: 40/s }}
      - {{ service: ledger, address: '10.2.0.3:80' }}
services:
  orders:
    port: 80
    protocol: http
    spill: {{ capacity: respect }}
    criticality: critical
    routes: [{{ match: {{ path: /report }}, criticality: sheddable }}]
  ledger: {{ port: 81, export_to: [east, north], allow: ['*@east', '*@west'] }}
"
    );
    match parse(&text, "test.yaml") {
        Ok(parsed) => Arc::new(parsed.topology),
        Err(findings) => panic!("{findings:?}\n{text}"),
    }
}

fn load(from: &str, name: &str, criticality: Criticality, per_second: f64) -> Load {
    Load {
        from: zone(from),
        service: service(name),
        tags: Tags::default(),
        criticality,
        per_second,
    }
}

/// State of the first promise, how many cases were tried, and by what it is broken.
fn checked(promise: &str, loads: &[Load]) -> (PromiseState, usize, Vec<String>) {
    let topology = federation(promise);
    let scene = PromiseScene {
        topology: &topology,
        exports: &fixed_exports(&topology),
        measured: &MeasuredCapacities::default(),
        loads,
        instances: &fixed_instances(&topology),
        seed: 1,
    };
    let mut checked = scene.check();
    let first = checked.remove(0);
    let lost = first.broken.into_iter().map(|case| case.lost).collect();
    (first.state, first.tried, lost)
}

/// `per_second` from each zone, half of it critical.
fn half_critical(per_second: f64) -> Vec<Load> {
    let zones = ["east", "north", "west"];
    let load = |from| {
        [Criticality::Critical, Criticality::Sheddable].map(|one| load(from, "orders", one, per_second / 2.0))
    };
    zones.into_iter().flat_map(load).collect()
}

#[test]
fn what_is_tried_once_for_several_cases_is_one_question() {
    let count = |promises: &str| {
        let topology = federation(promises);
        let scene = PromiseScene {
            topology: &topology,
            exports: &fixed_exports(&topology),
            measured: &MeasuredCapacities::default(),
            loads: &half_critical(50.0),
            instances: &fixed_instances(&topology),
            seed: 1,
        };
        scene.questions()
    };
    assert_eq!(count("{ lose: [], keep: all }"), 6);
    // North has one gateway. That the others have a gateway to spare is tried once.
    assert_eq!(count("{ lose: any gateway, keep: all }"), 12);
}

#[test]
fn what_is_critical_is_kept_while_the_sheddable_makes_room() {
    let loads = half_critical(180.0);
    let critical = "{ lose: any zone, keep: critical }";
    assert_eq!(checked(critical, &loads), (PromiseState::Kept, 3, vec![]));
    let all = "{ lose: any zone, keep: all }";
    let (state, tried, lost) = checked(all, &loads);
    assert_eq!((state, tried), (PromiseState::Broken, 3));
    assert_eq!(lost, ["zone east", "zone north", "zone west"]);
    // Two zones have room for 200, and their clients ask for 220 that is critical.
    let (_, _, lost) = checked(critical, &half_critical(220.0));
    assert_eq!(lost.len(), 3);
    let nothing = "{ lose: [], keep: [orders] }";
    assert_eq!(
        checked(nothing, &half_critical(90.0)),
        (PromiseState::Kept, 1, vec![])
    );
    assert_eq!(checked(nothing, &loads).2, ["nothing"]);
    let two = "{ lose: [east, north], keep: critical }";
    assert_eq!(checked(two, &half_critical(180.0)).0, PromiseState::Kept);
    assert_eq!(checked(two, &half_critical(210.0)).2, ["zones east and north"]);
}

#[test]
fn a_service_of_one_zone_is_lost_with_that_zone_and_with_its_instance() {
    let loads = [load("east", "ledger", Criticality::Normal, 10.0)];
    assert_eq!(
        checked("{ lose: any zone, keep: [ledger] }", &loads),
        (PromiseState::Broken, 2, vec!["zone west".to_owned()]),
        "its only clients go with east"
    );
    assert_eq!(
        checked("{ lose: any instance, keep: all }", &loads),
        (
            PromiseState::Broken,
            1,
            vec!["an instance of ledger in west".to_owned()]
        )
    );
    assert_eq!(
        checked("{ lose: any zone, keep: critical }", &loads),
        (PromiseState::Untried, 0, vec![])
    );
}

#[test]
fn what_is_shed_with_nothing_lost_is_not_kept_when_an_instance_of_another_service_is_lost() {
    let loads = |orders| {
        [
            load("east", "orders", Criticality::Critical, orders),
            load("west", "ledger", Criticality::Normal, 0.0),
            load("east", "ledger", Criticality::Normal, 5.0),
        ]
    };
    let promise = "{ lose: any instance, keep: all }";
    let (state, tried, lost) = checked(promise, &loads(400.0));
    assert_eq!(
        (state, tried, lost.len()),
        (PromiseState::Broken, 5, 5),
        "{lost:?}"
    );
    assert_eq!(
        checked(promise, &loads(90.0)).2,
        ["an instance of ledger in west"]
    );
    // What it says nothing of may be shed.
    let ledger = "{ lose: any instance, keep: [ledger] }";
    assert_eq!(checked(ledger, &loads(400.0)).1, 1);
    let topology = federation(promise);
    let scene = PromiseScene {
        topology: &topology,
        exports: &fixed_exports(&topology),
        measured: &MeasuredCapacities::default(),
        loads: &loads(400.0),
        instances: &fixed_instances(&topology),
        seed: 1,
    };
    let checked = scene.check().remove(0);
    let ledger = checked.broken.iter().find(|case| case.lost.contains("ledger"));
    let ledger = ledger.unwrap();
    assert_eq!((ledger.findings.len(), ledger.without_loss), (2, 1), "{ledger:?}");
    assert!(
        matches!(&ledger.findings[1], SimulatedFinding::Shed { service, .. } if service.as_str() == "orders"),
        "{ledger:?}"
    );
}

#[test]
fn each_kind_of_instance_is_lost_with_its_own_capacity() {
    // With either of the two instances of west gone there is room for 240 or 260.
    let lost = |per_second: f64| {
        checked(
            "{ lose: any instance, keep: [orders] }",
            &[load("west", "orders", Criticality::Critical, per_second)],
        )
    };
    assert_eq!(lost(190.0), (PromiseState::Kept, 4, vec![]));
    // Without an instance of 100 there is room for 200, without that of 60 for 240, without that of 40 for 260.
    assert_eq!(lost(230.0).2.len(), 2);
    assert_eq!(lost(250.0).2.len(), 3);
    assert_eq!(lost(270.0).2.len(), 4);
}

#[test]
fn a_zone_with_one_gateway_is_lost_with_it_and_its_clients_too() {
    let loads = half_critical(60.0);
    let promise = "{ lose: any gateway, keep: critical }";
    assert_eq!(
        checked(promise, &loads),
        (
            PromiseState::Broken,
            3,
            vec!["the only gateway of north".to_owned()]
        )
    );
    let elsewhere: Vec<Load> = loads
        .into_iter()
        .filter(|load| load.from != zone("north"))
        .collect();
    assert_eq!(checked(promise, &elsewhere), (PromiseState::Kept, 3, vec![]));
}

#[test]
fn single_points_and_conflicts_are_found() {
    let topology = federation("");
    let exports = fixed_exports(&topology);
    let points = single_points(&topology, &exports);
    assert_eq!(
        points,
        [SinglePoint {
            service: service("ledger"),
            zone: zone("west"),
            kind: SinglePointKind::Instance
        }]
    );
    let conflicts = permission_conflicts(&topology);
    let words: Vec<String> = conflicts
        .iter()
        .map(|one| format!("{} {:?} {}", one.zone, one.kind, one.rule))
        .collect();
    assert_eq!(words, ["north ExportedButForbidden services.ledger.allow"]);
    let loads = even_loads(&topology, &exports, 10.0);
    assert!(
        !loads
            .iter()
            .any(|load| load.from == zone("north") && load.service == service("ledger")),
        "nothing is made up for who may not call"
    );
    let asked = [load("north", "ledger", Criticality::Normal, 10.0)];
    let simulated = simulate(
        &topology,
        &exports,
        &MeasuredCapacities::default(),
        &asked,
        &BTreeSet::new(),
        1,
    );
    assert!(
        matches!(&simulated.findings[..], [SimulatedFinding::Forbidden { rule, .. }] if rule.to_string() == "services.ledger.allow"),
        "{:?}",
        simulated.findings
    );
}

#[test]
fn tags_in_a_name_hold_and_criticality_decides_who_is_shed() {
    let loads = half_critical(120.0);
    let topology = federation("");
    let exports = fixed_exports(&topology);
    let simulated = simulate(
        &topology,
        &exports,
        &MeasuredCapacities::default(),
        &loads,
        &BTreeSet::new(),
        1,
    );
    // 180 that is critical and 180 that is sheddable, and room for 300.
    let shed: Vec<f64> = simulated
        .criticalities
        .iter()
        .map(|one| one.shed_per_second)
        .collect();
    assert_eq!(shed.len(), 2);
    assert!(shed[0].is_sign_positive(), "{shed:?}");
    assert!(shed[0] == 0.0 && (shed[1] - 60.0).abs() < 5.0, "{shed:?}");
    for served in &simulated.served {
        let capacity = served.capacity_per_second.unwrap() as f64;
        assert!(served.per_second <= capacity * 1.03, "{served:?}");
    }
    let tagged = Load {
        tags: crate::testbed::tags(&[("version", "v9")]),
        ..load("east", "orders", Criticality::Critical, 1.0)
    };
    let simulated = simulate(
        &topology,
        &exports,
        &MeasuredCapacities::default(),
        &[tagged],
        &BTreeSet::new(),
        1,
    );
    assert!(matches!(
        simulated.findings[..],
        [SimulatedFinding::NoHome { .. }]
    ));
}
