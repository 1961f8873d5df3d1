//! Zones whose instances have a true capacity that nobody declares: so many requests at once, the others wait. Gateways measure, tell each
//! other, estimate and plan as real ones do.

use std::{cmp::Reverse, collections::BinaryHeap, sync::Arc, time::Duration};

use causeway_federation::topology::{Criticality, Topology};
use rand::{Rng, SeedableRng, rngs::SmallRng};

use super::{super::*, ZONES, seen};
use crate::{
    route::{Request, route},
    target::Target,
    testbed::{gateway, service, tags, topology, zone},
};

/// Requests that instances of a zone work on at once, and how many of them they finish in a second.
const AT_ONCE: usize = 16;
const CAPACITY: f64 = 200.0;
/// Declared: more than there will ever be.
const DECLARED: [u64; 3] = [1_000_000; 3];

/// Instances of a zone.
struct Queueing {
    /// Times, in microseconds, at which each place is free.
    free: BinaryHeap<Reverse<u64>>,
    /// End, and the time that it took, of what is not finished; by whose clients it is.
    under_way: [Vec<(u64, u64)>; 3],
}

struct QueueingWorld {
    topology: Arc<Topology>,
    demands: [DemandTable; 3],
    counts: [u64; 3],
    measured: [MeasuredTable; 3],
    boards: [Arc<CapacityBoard>; 3],
    zones: [Queueing; 3],
    rng: SmallRng,
    second: u64,
}

/// One second of it.
#[derive(Debug, Clone, Copy, Default)]
struct QueueingSecond {
    /// Requests given to each zone.
    given: [f64; 3],
    asked: f64,
    shed: f64,
    /// Median time in east, in seconds.
    latency: f64,
}

impl QueueingWorld {
    fn new(seed: u64) -> Self {
        let spill = "spill: { healthy_below: 70%, capacity: measured }";
        Self {
            topology: topology(
                "  east: {}\n  north: {}\n  west: {}",
                &format!("  orders: {{ port: 80, protocol: http, {spill} }}"),
            ),
            demands: Default::default(),
            counts: Default::default(),
            measured: Default::default(),
            boards: std::array::from_fn(|_| Arc::default()),
            zones: std::array::from_fn(|_| Queueing {
                free: (0..AT_ONCE).map(|_| Reverse(0)).collect(),
                under_way: Default::default(),
            }),
            rng: SmallRng::seed_from_u64(seed),
            second: 0,
        }
    }

    /// Clients of each zone ask at these rates, and instances of each take so many times as long as they do else.
    fn second(&mut self, rates: [f64; 3], slower: [f64; 3]) -> QueueingSecond {
        let mut found = QueueingSecond::default();
        let begun = self.second * 1_000_000;
        let mut arrivals: [Vec<(u64, usize)>; 3] = Default::default();
        for (own, rate) in rates.into_iter().enumerate() {
            let mut snapshot = seen(&self.topology, ZONES[own], DECLARED);
            snapshot.capacity = self.boards[own].clone();
            let mut at = self.exponential() / rate;
            while at < 1.0 {
                self.counts[own] += 1;
                found.asked += 1.0;
                let request = Request::new(Target::service(service("orders")));
                match route(&snapshot, &request, &mut self.rng).next() {
                    Some(first) => {
                        let to = first.zone(&snapshot.zone);
                        let to = ZONES.iter().position(|name| zone(name) == *to).unwrap();
                        found.given[to] += 1.0;
                        arrivals[to].push((begun + (at * 1e6) as u64, own));
                    }
                    None => found.shed += 1.0,
                }
                at += self.exponential() / rate;
            }
        }
        for (to, mut arrivals) in arrivals.into_iter().enumerate() {
            arrivals.sort_unstable();
            for (at, own) in arrivals {
                let takes = AT_ONCE as f64 / CAPACITY * slower[to] * self.exponential();
                let Reverse(free) = self.zones[to].free.pop().unwrap();
                let end = at.max(free) + (takes * 1e6) as u64;
                self.zones[to].free.push(Reverse(end));
                self.zones[to].under_way[own].push((end, end - at));
            }
        }
        self.second += 1;
        found.latency = self.tell();
        found
    }

    fn exponential(&mut self) -> f64 {
        -(1.0 - self.rng.random::<f64>()).ln()
    }

    /// Gateways measure, tell each other, estimate and plan. Gives the median time of east's own clients in east.
    fn tell(&mut self) -> f64 {
        let now = Duration::from_secs(self.second);
        let mut latency = 0.0;
        for own in 0..3 {
            let counts = (0..3).map(|at| self.answers(own, at)).collect::<Vec<_>>();
            latency = if own == 0 {
                counts[0].latency.as_secs_f64()
            } else {
                latency
            };
            self.measured[own].look(now, counts, |_| Duration::ZERO);
            let asked = (
                service("orders"),
                tags(&[]),
                Criticality::Normal,
                self.counts[own],
            );
            self.demands[own].measure(now, vec![asked]);
        }
        for (own, zone) in ZONES.into_iter().enumerate() {
            for other in (0..3).filter(|other| *other != own) {
                let mut told = self.demands[other].told_to(&gateway(zone), now);
                self.measured[other].add_to(&mut told, &gateway(zone));
                let told = told.swap_remove(0);
                let teller = gateway(ZONES[other]);
                self.demands[own].hear(teller.clone(), now, told.rates, vec![]);
                self.measured[own].hear(teller, now, told.answers, told.capacities);
            }
        }
        for (own, zone) in ZONES.into_iter().enumerate() {
            let mut snapshot = seen(&self.topology, zone, DECLARED);
            snapshot.capacity = self.boards[own].clone();
            self.measured[own].estimate(now, &snapshot);
            self.boards[own].found(self.measured[own].known(&snapshot.zone));
            let known = self.demands[own].known(&snapshot.zone, &snapshot.topology);
            self.boards[own].publish(plan(&snapshot, &known));
        }
        latency
    }

    /// Answers of this second to the clients of `own` at a zone.
    fn answers(&mut self, own: usize, at: usize) -> CountedAnswers {
        let until = self.second * 1_000_000;
        let under_way = &mut self.zones[at].under_way[own];
        let ended = under_way.iter().filter(|(end, _)| *end <= until);
        let mut times: Vec<u64> = ended.map(|(_, took)| *took).collect();
        times.sort_unstable();
        under_way.retain(|(end, _)| *end > until);
        CountedAnswers {
            service: service("orders"),
            zone: zone(ZONES[at]),
            tags: tags(&[]),
            well: times.len() as u64,
            refused: 0,
            latency: Duration::from_micros(times.get(times.len() / 2).copied().unwrap_or_default()),
            in_flight: under_way.len() as u64,
        }
    }

    fn run(&mut self, seconds: usize, rates: [f64; 3], slower: [f64; 3]) -> Vec<QueueingSecond> {
        let seconds = (0..seconds).map(|_| self.second(rates, slower));
        let course: Vec<QueueingSecond> = seconds.collect();
        for one in &course {
            let sum = one.given.iter().sum::<f64>() + one.shed;
            assert_eq!(sum, one.asked, "what is asked for goes somewhere");
        }
        course
    }
}

fn mean(course: &[QueueingSecond], of: impl Fn(&QueueingSecond) -> f64) -> f64 {
    course.iter().map(of).sum::<f64>() / course.len() as f64
}

const ASKED: [f64; 3] = [300.0, 60.0, 60.0];
const WELL: [f64; 3] = [1.0; 3];

#[test]
fn what_is_over_a_true_capacity_goes_on_and_shares_settle_near_it() {
    for seed in 0..4 {
        let mut world = QueueingWorld::new(seed);
        world.run(10, [100.0, 60.0, 60.0], WELL);
        world.run(50, ASKED, WELL);
        let course = world.run(180, ASKED, WELL);
        let east = mean(&course, |one| one.given[0]);
        assert!(
            (0.8 * CAPACITY..CAPACITY).contains(&east),
            "seed {seed}: {east} of {CAPACITY}"
        );
        assert_eq!(
            mean(&course, |one| one.shed),
            0.0,
            "seed {seed}: two zones have room"
        );
        let mut latencies: Vec<f64> = course.iter().map(|one| one.latency).collect();
        latencies.sort_by(f64::total_cmp);
        let median = latencies[latencies.len() / 2];
        assert!(
            median < 2.5 * AT_ONCE as f64 / CAPACITY,
            "seed {seed}: {median} s"
        );
        for part in course.chunks(15) {
            let of_part = mean(part, |one| one.given[0]);
            assert!(
                (of_part - east).abs() < 0.2 * CAPACITY,
                "seed {seed}: {of_part} and {east}: it swings"
            );
        }
    }
}

#[test]
fn a_zone_that_slows_down_has_half_of_its_share_soon_and_all_of_it_again() {
    for seed in 0..4 {
        let mut world = QueueingWorld::new(seed);
        world.run(10, [100.0, 60.0, 60.0], WELL);
        world.run(60, ASKED, WELL);
        let slower = [2.0, 1.0, 1.0];
        world.run(6, ASKED, slower);
        let soon = world.run(24, ASKED, slower);
        let later = world.run(60, ASKED, slower);
        for (name, course) in [("soon", soon), ("later", later)] {
            let east = mean(&course, |one| one.given[0]);
            assert!(
                (0.25 * CAPACITY..0.55 * CAPACITY).contains(&east),
                "seed {seed}: {east} {name}"
            );
        }
        world.run(60, ASKED, WELL);
        let east = mean(&world.run(30, ASKED, WELL), |one| one.given[0]);
        assert!(east > 0.75 * CAPACITY, "seed {seed}: {east} as it is well again");
    }
}

#[test]
fn more_than_all_zones_can_take_is_shed_and_no_queue_grows() {
    for seed in 0..2 {
        let mut world = QueueingWorld::new(seed);
        world.run(10, [100.0; 3], WELL);
        world.run(50, [300.0; 3], WELL);
        let course = world.run(120, [300.0; 3], WELL);
        let given = mean(&course, |one| one.given.iter().sum());
        assert!(
            (0.8 * 3.0 * CAPACITY..3.0 * CAPACITY).contains(&given),
            "seed {seed}: {given} of {}",
            3.0 * CAPACITY
        );
        let waiting: usize = world
            .zones
            .iter()
            .flat_map(|zone| &zone.under_way)
            .map(Vec::len)
            .sum();
        assert!(waiting < 3 * 5 * AT_ONCE, "seed {seed}: {waiting}");
    }
}
