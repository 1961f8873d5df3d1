//! Seconds of a world in which gateways measure, tell each other and plan, and requests go by their plans.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use causeway_federation::topology::{Criticality, Topology};
use rand::{Rng, SeedableRng, rngs::SmallRng};

use super::{super::*, ZONES, seen, three};
use crate::{
    route::{Request, route},
    simulate::{Load, ZoneExports, simulate},
    target::Target,
    testbed::{gateway, service, tags, zone},
};

/// Three zones whose gateways measure, tell each other and plan as real ones do.
struct World {
    topology: Arc<Topology>,
    tables: [DemandTable; 3],
    counts: [[u64; 3]; 3],
    boards: [Arc<CapacityBoard>; 3],
    rng: SmallRng,
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            topology: three("early: false"),
            tables: Default::default(),
            counts: Default::default(),
            boards: std::array::from_fn(|_| Arc::default()),
            rng: SmallRng::seed_from_u64(seed),
        }
    }

    /// One second: clients ask, gateways measure, tell each other what they have measured, and plan. Gives what each zone was given by
    /// criticality, and what was shed.
    fn second(
        &mut self,
        second: u64,
        capacities: [u64; 3],
        rates: [[f64; 3]; 3],
    ) -> ([[usize; 3]; 3], [usize; 3]) {
        let (mut given, mut shed) = ([[0; 3]; 3], [0; 3]);
        let now = Duration::from_secs(second);
        let alive: Vec<usize> = (0..3).filter(|own| capacities[*own] > 0).collect();
        for own in &alive {
            let mut snapshot = seen(&self.topology, ZONES[*own], capacities);
            snapshot.capacity = self.boards[*own].clone();
            for criticality in Criticality::ALL {
                // Chance adds or takes as much as it does from a Poisson process, roughly.
                let mean = rates[*own][criticality.index()];
                let asked = mean + (self.rng.random::<f64>() - 0.5) * (12.0 * mean).sqrt();
                for _ in 0..asked.round().max(0.0) as u64 {
                    self.counts[*own][criticality.index()] += 1;
                    let request =
                        Request::new(Target::service(service("orders"))).with_criticality(Some(criticality));
                    match route(&snapshot, &request, &mut self.rng).next() {
                        Some(first) => {
                            let to = ZONES
                                .iter()
                                .position(|name| zone(name) == *first.zone(&snapshot.zone));
                            given[to.unwrap()][criticality.index()] += 1;
                        }
                        None => shed[criticality.index()] += 1,
                    }
                }
            }
        }
        for own in &alive {
            let counts = Criticality::ALL
                .map(|one| (service("orders"), tags(&[]), one, self.counts[*own][one.index()]));
            self.tables[*own].measure(now, counts.into());
        }
        for (own, other) in alive
            .iter()
            .flat_map(|own| alive.iter().map(move |other| (*own, *other)))
        {
            if own != other {
                let told = self.tables[other].told_to(&gateway(ZONES[own]), now);
                self.tables[own].hear(gateway(ZONES[other]), now, told[0].rates.clone(), vec![]);
            }
        }
        for own in &alive {
            let snapshot = seen(&self.topology, ZONES[*own], capacities);
            self.tables[*own].forget(now, &snapshot);
            let known = self.tables[*own].known(&zone(ZONES[*own]), &self.topology);
            self.boards[*own].publish(plan(&snapshot, &known));
        }
        (given, shed)
    }
}

/// Runs so many seconds, and gives for each second of the second half what each zone was given, and was shed, on the average.
fn run(seed: u64, seconds: u64, now: impl Fn(u64) -> ([u64; 3], [[f64; 3]; 3])) -> ([[f64; 3]; 3], [f64; 3]) {
    let mut world = World::new(seed);
    let (mut given, mut shed, mut counted) = ([[0.0; 3]; 3], [0.0; 3], 0.0);
    for second in 0..seconds {
        let (capacities, rates) = now(second);
        let (given_now, shed_now) = world.second(second, capacities, rates);
        if second >= seconds / 2 {
            counted += 1.0;
            for (sums, now) in given.iter_mut().zip(given_now) {
                (0..3).for_each(|class| sums[class] += now[class] as f64);
            }
            (0..3).for_each(|class| shed[class] += shed_now[class] as f64);
        }
    }
    let per_second = |sums: [f64; 3]| sums.map(|sum| sum / counted);
    (given.map(per_second), per_second(shed))
}

#[test]
fn a_lost_zone_leaves_no_survivor_over_its_capacity_at_sixty_percent() {
    let calm = [40.0, 100.0, 40.0];
    for seed in 0..4 {
        // All clients of the lost zone have gone to one other, which is then over its capacity.
        let (given, shed) = run(seed, 40, |second| match second < 10 {
            true => ([300; 3], [calm; 3]),
            false => ([0, 300, 300], [[0.0; 3], calm.map(|rate| rate * 2.0), calm]),
        });
        assert!(shed.iter().sum::<f64>() < 540.0 * 0.02, "seed {seed}: {shed:?}");
        let sums = given.map(|of_zone| of_zone.iter().sum::<f64>());
        assert!((sums[1] - 300.0).abs() < 300.0 * 0.03, "seed {seed}: {sums:?}");
        assert!((sums[2] - 240.0).abs() < 240.0 * 0.05, "seed {seed}: {sums:?}");
    }
}

#[test]
fn at_a_hundred_and_twenty_percent_the_excess_is_shed_and_the_critical_untouched() {
    for seed in 0..4 {
        let (given, shed) = run(seed, 60, |_| ([300; 3], [[60.0, 210.0, 90.0]; 3]));
        // 1080 a second are asked for, of which 900 can be served.
        assert!((shed[2] - 180.0).abs() < 1080.0 * 0.02, "seed {seed}: {shed:?}");
        assert!(
            shed[0] == 0.0 && shed[1] < 1080.0 * 0.005,
            "seed {seed}: {shed:?}"
        );
        for of_zone in given {
            let all: f64 = of_zone.iter().sum();
            assert!((all - 300.0).abs() < 300.0 * 0.03, "seed {seed}: {given:?}");
        }
    }
}

/// Figures of `causeway simulate` for these rates of each zone's clients: what each zone is given, and what is shed of each criticality.
fn predicted(topology: &Arc<Topology>, capacities: [u64; 3], rates: [[f64; 3]; 3]) -> ([f64; 3], [f64; 3]) {
    let export = |capacity| causeway_federation::catalog::Export {
        service: service("orders"),
        tags: tags(&[]),
        instances: 1,
        healthy: 1,
        weight: 1,
        capacity_per_second: Some(capacity),
    };
    let exports: ZoneExports = ZONES
        .iter()
        .zip(capacities)
        .map(|(name, capacity)| (zone(name), vec![export(capacity)]))
        .collect();
    let of_zone = |(name, rates): (&&str, [f64; 3])| {
        let rates = Criticality::ALL.into_iter().zip(rates);
        let load = |(criticality, per_second)| Load {
            from: zone(name),
            service: service("orders"),
            tags: tags(&[]),
            criticality,
            per_second,
        };
        rates.map(load).collect::<Vec<_>>()
    };
    let loads: Vec<Load> = ZONES.iter().zip(rates).flat_map(of_zone).collect();
    let simulated = simulate(
        topology,
        &exports,
        &MeasuredCapacities::default(),
        &loads,
        &BTreeSet::new(),
        1,
    );
    let served = ZONES.map(|name| {
        let served = simulated.served.iter().find(|one| one.zone == zone(name));
        served.map_or(0.0, |one| one.per_second)
    });
    let shed = Criticality::ALL.map(|criticality| {
        let load = simulated
            .criticalities
            .iter()
            .find(|one| one.criticality == criticality);
        load.map_or(0.0, |load| load.shed_per_second)
    });
    (served, shed)
}

#[test]
fn each_figure_is_known_beforehand_within_five_percent() {
    let calm = [60.0, 90.0, 30.0];
    for (capacities, rates) in [
        ([300; 3], [calm; 3]),
        ([300; 3], [[60.0, 210.0, 90.0]; 3]),
        ([100, 300, 500], [calm, [60.0, 210.0, 90.0], calm]),
        ([100, 200, 300], [[200.0, 100.0, 100.0], calm, [20.0, 300.0, 0.0]]),
    ] {
        let (given, shed) = run(3, 80, |_| (capacities, rates));
        let (served, expected) = predicted(&three("early: false"), capacities, rates);
        let asked: f64 = rates.iter().flatten().sum();
        let near = |found: f64, expected: f64| {
            // What is next to nothing is told by all that is asked for.
            assert!(
                (found - expected).abs() <= (0.05 * expected).max(0.005 * asked),
                "{found}, not {expected}: {given:?}, {shed:?}; {served:?} {capacities:?} {rates:?}"
            );
        };
        for (of_zone, served) in given.iter().zip(served) {
            near(of_zone.iter().sum(), served);
        }
        for (shed, expected) in shed.into_iter().zip(expected) {
            near(shed, expected);
        }
    }
}

#[test]
fn shares_do_not_swing_under_a_load_that_stays() {
    let mut world = World::new(7);
    let mut last: Option<f64> = None;
    for second in 0..60 {
        world.second(second, [300, 600, 600], [[0.0, 450.0, 0.0]; 3]);
        let plan = world.boards[0].plan();
        let shares = plan.shares(&service("orders"), &tags(&[]), Criticality::Normal);
        let own = shares.map_or(1.0, |shares| shares.zones[0].share);
        if second >= 5 {
            assert!((own - 300.0 / 450.0).abs() < 0.06, "{own} at {second} s");
            assert!(
                last.is_none_or(|last| (last - own).abs() < 0.06),
                "{last:?} to {own} at {second} s"
            );
            last = Some(own);
        }
    }
}
