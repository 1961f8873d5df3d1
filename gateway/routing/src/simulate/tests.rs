//! Scenarios whose outcome can be worked out by hand.

use super::{world::scaled, *};
use crate::capacity::{MeasuredCapacity, SeenAnswers};
use crate::testbed::{service, tags, topology, zone};

/// Three zones with so many instances of `orders` each, of a capacity.
fn three(more: &str, counts: [usize; 3], capacity: &str) -> Arc<Topology> {
    let instance = |zone: usize, number: usize| {
        format!("{{ service: orders, address: 10.{zone}.0.{number}:80{capacity} }}")
    };
    let zones: Vec<String> = ["east", "north", "west"]
        .iter()
        .enumerate()
        .map(|(place, name)| {
            let instances: Vec<String> = (1..=counts[place])
                .map(|number| instance(place, number))
                .collect();
            format!("  {name}: {{ instances: [{}] }}", instances.join(", "))
        })
        .collect();
    topology(
        &zones.join("\n"),
        &format!("  orders:\n    port: 80\n    protocol: http\n    {more}"),
    )
}

fn lost(zones: &[&str]) -> BTreeSet<ZoneName> {
    zones.iter().map(|name| zone(name)).collect()
}

fn run(topology: &Arc<Topology>, zones: &[&str]) -> Simulated {
    let exports = fixed_exports(topology);
    let loads = even_loads(topology, &exports, 100.0);
    simulate(
        topology,
        &exports,
        &MeasuredCapacities::default(),
        &loads,
        &lost(zones),
        1,
    )
}

/// Percent of what the clients of `from` ask for that `to` serves.
fn percent(simulated: &Simulated, from: &str, to: &str) -> f64 {
    let flows = simulated
        .flows
        .iter()
        .filter(|flow| flow.from == zone(from) && flow.to == Some(zone(to)));
    flows.map(|flow| flow.share).sum::<f64>() * 100.0
}

fn near(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1.5, "{found}, not {expected}");
}

#[test]
fn each_zone_serves_itself_and_the_clients_of_a_lost_one_are_nobodys() {
    let topology = three("early: false", [2, 2, 2], "");
    let simulated = run(&topology, &[]);
    for name in ["east", "north", "west"] {
        near(percent(&simulated, name, name), 100.0);
    }
    assert_eq!(simulated.findings, []);
    let simulated = run(&topology, &["east"]);
    assert!(
        simulated
            .flows
            .iter()
            .all(|flow| flow.from != zone("east") && flow.to != Some(zone("east")))
    );
}

#[test]
fn a_service_that_one_zone_has_is_found_to_be_lost_with_it() {
    let topology = three("early: false", [0, 3, 0], "");
    near(percent(&run(&topology, &[]), "east", "north"), 100.0);
    let simulated = run(&topology, &["north"]);
    let from: Vec<String> = simulated
        .findings
        .iter()
        .map(|finding| match finding {
            SimulatedFinding::NoHome { from, per_second, .. } => format!("{from} {per_second}"),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(from, ["east 100", "west 100"]);
}

#[test]
fn a_survivor_that_gets_more_than_it_can_take_is_found() {
    let topology = three(
        "failover: [{ zone: self }, { zone: north }]",
        [2, 2, 0],
        ", capacity: 60/s",
    );
    let simulated = run(&topology, &[]);
    let over = |per_second| SimulatedFinding::OverCapacity {
        service: service("orders"),
        zone: zone("north"),
        tags: tags(&[]),
        per_second,
        capacity_per_second: 120,
    };
    assert_eq!(
        simulated.findings,
        [over(200.0)],
        "its own clients and those of west"
    );
    let alone = run(&topology, &["west"]);
    assert_eq!(alone.findings, []);
}

#[test]
fn splits_spill_and_drained_zones_are_those_of_the_gateways() {
    let split = three("split: [{ tags: { version: v1 }, weight: 1 }]", [2, 2, 2], "");
    assert!(
        run(&split, &[]).findings.len() == 3,
        "no instance carries the tags"
    );
    let mut exports = fixed_exports(&three("early: false", [4, 4, 4], ""));
    exports.get_mut(&zone("east")).unwrap()[0].healthy = 2;
    let spilling = three(
        "spill: { healthy_below: 100% }\n    failover: [{ zone: self }, { zone: west }]",
        [4, 4, 4],
        "",
    );
    let loads = even_loads(&spilling, &exports, 100.0);
    let simulated = simulate(
        &spilling,
        &exports,
        &MeasuredCapacities::default(),
        &loads,
        &lost(&[]),
        1,
    );
    near(percent(&simulated, "east", "east"), 50.0);
    near(percent(&simulated, "east", "west"), 50.0);
    let drained = topology(
        "  east: { drain: true, instances: [{ service: orders, address: '10.0.0.1:80' }] }\n  \
         west: { instances: [{ service: orders, address: '10.0.0.2:80' }] }",
        "  orders: { port: 80 }",
    );
    near(percent(&run(&drained, &[]), "east", "west"), 100.0);
    near(percent(&run(&drained, &["west"]), "east", "east"), 100.0);
}

#[test]
fn one_seed_gives_one_outcome_and_large_zones_keep_their_proportion() {
    let topology = three("early: false", [0, 3, 1], "");
    assert_eq!(run(&topology, &[]), run(&topology, &[]));
    near(percent(&run(&topology, &[]), "east", "north"), 75.0);
    assert_eq!(scaled(0, 100_000, 100_000), (0, 200));
    assert_eq!(scaled(1, 100_000, 100_000), (1, 200));
    assert_eq!(scaled(50_000, 100_000, 100_000), (100, 200));
    assert_eq!(scaled(10, 10, 1_010), (1, 1), "beside a thousand others");
    assert_eq!(scaled(3, 4, 4), (3, 4));
}

#[test]
fn who_may_not_call_has_no_load_and_nothing_to_lose() {
    let topology = three("export_to: [east]", [2, 0, 0], "");
    let exports = fixed_exports(&topology);
    let from: Vec<String> = even_loads(&topology, &exports, 1.0)
        .iter()
        .map(|load| load.from.to_string())
        .collect();
    assert_eq!(from, ["east"]);
    let nobody = three("early: false", [0, 0, 0], "");
    let idle = simulate(
        &nobody,
        &fixed_exports(&nobody),
        &MeasuredCapacities::default(),
        &even_loads(&nobody, &exports, 0.0),
        &lost(&[]),
        1,
    );
    assert_eq!(idle.findings, [], "no load is no loss");
}

#[test]
fn what_is_over_capacity_spills_and_what_fits_nowhere_is_shed() {
    let topology = three("spill: { capacity: respect }", [1, 2, 3], ", capacity: 60/s");
    let exports = fixed_exports(&topology);
    let with = |per_second| {
        let loads = even_loads(&topology, &exports, per_second);
        simulate(
            &topology,
            &exports,
            &MeasuredCapacities::default(),
            &loads,
            &lost(&[]),
            1,
        )
    };
    let calm = with(72.0);
    assert_eq!(calm.findings, [], "60 % of all capacity");
    near(percent(&calm, "east", "east"), 60.0 / 72.0 * 100.0);
    near(percent(&calm, "west", "west"), 100.0);
    let crowded = with(144.0);
    let shed: f64 = crowded
        .flows
        .iter()
        .filter(|flow| flow.is_shed)
        .map(|flow| flow.per_second)
        .sum();
    assert!((shed - 72.0).abs() < 432.0 * 0.02, "{shed}");
    let is_shed = |finding: &SimulatedFinding| matches!(finding, SimulatedFinding::Shed { .. });
    assert!(
        !crowded.findings.is_empty() && crowded.findings.iter().all(is_shed),
        "{:?}",
        crowded.findings
    );
}

#[test]
fn less_that_was_measured_counts_before_what_is_declared_where_it_is_asked_for() {
    let outcome = |rule: &str, found: [f64; 2]| {
        let topology = three(
            &format!("spill: {{ capacity: {rule} }}"),
            [1, 1, 0],
            ", capacity: 100/s",
        );
        let exports = fixed_exports(&topology);
        let measured = ["east", "north"].into_iter().zip(found).map(|(name, rate)| {
            let found = MeasuredCapacity {
                service: service("orders"),
                tags: Tags::default(),
                per_second: Some(rate),
                seen: SeenAnswers::default(),
            };
            (zone(name), found)
        });
        let loads = divided(&topology, &zone("east"), &service("orders"), 120.0);
        simulate(&topology, &exports, &measured.collect(), &loads, &lost(&[]), 1)
    };
    let measured = outcome("measured", [40.0, 300.0]);
    near(percent(&measured, "east", "east"), 100.0 / 3.0);
    near(percent(&measured, "east", "north"), 200.0 / 3.0);
    let served = measured.served.iter();
    let served: Vec<_> = served
        .map(|load| (load.zone.as_str(), load.capacity_per_second, load.is_measured))
        .collect();
    assert_eq!(
        served,
        [("east", Some(40), true), ("north", Some(100), false)],
        "the lesser of the two"
    );
    let shed = outcome("measured", [40.0, 50.0]).criticalities[0].shed_per_second;
    assert!((shed - 30.0).abs() < 2.0, "{shed}");
    let declared = outcome("respect", [40.0, 50.0]);
    near(percent(&declared, "east", "east"), 100.0 / 1.2);
    assert!(!declared.served[0].is_measured);
}
