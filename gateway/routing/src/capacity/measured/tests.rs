//! Estimates of instances whose answers can be worked out by hand, and what gateways tell each other of them.

use std::sync::Arc;

use causeway_federation::topology::Topology;

use super::{super::DemandTable, *};
use crate::{
    snapshot::{Instance, Snapshot},
    testbed::{self, gateway, service, snapshot, tags, topology, zone},
};

const CALM: SeenAnswers = SeenAnswers {
    well_per_second: 100.0,
    refused_per_second: 0.0,
    latency: 0.04,
    in_flight: 4.0,
};

/// Instances that answer so many a second, each after so long, and have the rest wait.
struct Queue {
    estimate: CapacityEstimate,
    second: u64,
    capacity: f64,
    takes: f64,
    waits: f64,
}

impl Queue {
    fn new(capacity: f64) -> Self {
        Self {
            estimate: CapacityEstimate::default(),
            second: 0,
            capacity,
            takes: 0.04,
            waits: 0.0,
        }
    }

    /// Has clients ask so much for so many seconds, as far as it is given away. Gives the last bound.
    fn run(&mut self, seconds: u64, asked: f64) -> Option<f64> {
        for _ in 0..seconds {
            let sent = self.estimate.per_second().unwrap_or(f64::INFINITY).min(asked);
            let well = (self.waits + sent).min(self.capacity);
            self.waits += sent - well;
            let seen = SeenAnswers {
                well_per_second: well,
                refused_per_second: 0.0,
                latency: self.takes + self.waits / self.capacity,
                in_flight: self.waits + well * self.takes,
            };
            self.look(&seen);
        }
        self.estimate.per_second()
    }

    fn look(&mut self, seen: &SeenAnswers) -> Option<f64> {
        self.second += 1;
        self.estimate.look(Duration::from_secs(self.second), seen);
        self.estimate.per_second()
    }
}

#[test]
fn what_is_never_congested_has_no_bound() {
    let mut queue = Queue::new(1000.0);
    assert_eq!(queue.run(200, 100.0), None);
    // Twice as slow is within what happens.
    queue.takes *= 2.0;
    assert_eq!(queue.run(60, 100.0), None);
    let mut rare = Queue::new(1000.0);
    rare.run(100, 1.0);
    rare.takes = 10.0;
    assert_eq!(rare.run(100, 1.0), None, "one a second says nothing");
}

#[test]
fn what_is_too_much_is_bounded_by_what_is_answered() {
    let mut queue = Queue::new(100.0);
    queue.run(30, 80.0);
    assert!(
        queue.run(5, 200.0).is_some_and(|bound| bound < 80.0),
        "what waits is worked off first"
    );
    queue.run(60, 200.0);
    assert!(queue.waits < 20.0, "{}", queue.waits);
    for second in 0..120 {
        let bound = queue.run(1, 200.0).unwrap();
        assert!((65.0..112.0).contains(&bound), "{bound} after {second} s");
    }
    queue.capacity = 50.0;
    queue.run(40, 200.0);
    assert!(
        queue
            .run(1, 200.0)
            .is_some_and(|bound| (30.0..56.0).contains(&bound))
    );
    queue.capacity = 100.0;
    queue.run(60, 200.0);
    assert!(queue.run(1, 200.0).is_some_and(|bound| bound >= 65.0));
}

#[test]
fn fast_refusals_are_no_capacity() {
    let mut queue = Queue::new(0.0);
    for _ in 0..30 {
        queue.look(&CALM);
    }
    let refusing = SeenAnswers {
        well_per_second: 40.0,
        refused_per_second: 160.0,
        latency: 0.002,
        in_flight: 1.0,
    };
    queue.look(&refusing);
    let bound = queue.look(&refusing);
    assert!(bound.is_some_and(|bound| bound <= 40.0), "{bound:?}");
}

#[test]
fn a_bound_that_helps_nothing_goes() {
    let mut queue = Queue::new(1000.0);
    queue.run(60, 100.0);
    // A later version takes longer, whatever is sent.
    queue.takes = 0.4;
    queue.run(3, 100.0);
    assert!(queue.estimate.per_second().is_some());
    queue.run(60, 100.0);
    assert_eq!(queue.run(100, 100.0), None);
    // So many are refused always, for their own reasons.
    let mut refusing = Queue::new(0.0);
    let mut bounded = 0;
    for _ in 0..300 {
        let sent = refusing.estimate.per_second().unwrap_or(100.0).min(100.0);
        bounded += u64::from(refusing.estimate.per_second().is_some());
        let seen = SeenAnswers {
            well_per_second: sent * 0.6,
            refused_per_second: sent * 0.4,
            ..CALM
        };
        refusing.look(&seen);
    }
    assert!(bounded < 60, "{bounded} s");
    assert_eq!(refusing.estimate.per_second(), None);
}

#[test]
fn a_bound_comes_back_from_nothing() {
    let mut queue = Queue::new(100.0);
    queue.run(30, 80.0);
    let mut least = f64::INFINITY;
    for _ in 0..8 {
        let sent = queue.estimate.per_second().unwrap_or(80.0).min(80.0);
        least = least.min(sent);
        let seen = SeenAnswers {
            well_per_second: 0.0,
            refused_per_second: sent,
            latency: 0.0,
            in_flight: 0.0,
        };
        queue.look(&seen);
    }
    assert!((1.0..30.0).contains(&least), "{least}");
    assert!(queue.estimate.per_second().is_some());
    queue.run(90, 80.0);
    assert!(queue.run(1, 80.0).is_none_or(|bound| bound > 70.0));
}

#[test]
fn a_bound_that_nobody_needs_is_forgotten() {
    let mut queue = Queue::new(100.0);
    queue.run(30, 80.0);
    assert!(queue.run(60, 200.0).is_some());
    assert!(queue.run(60, 10.0).is_some());
    assert_eq!(queue.run(120, 10.0), None);
    assert!(queue.run(60, 200.0).is_some());
    assert_eq!(queue.run(180, 0.0), None);
}

/// As a gateway of `own` sees one instance of each of these versions; with weights.
fn zone_of(own: &str, versions: &[(&str, u32)]) -> Snapshot {
    let instances = versions.iter().map(|(version, weight)| {
        let address = "127.0.0.1:1".parse().unwrap();
        testbed::instance(version, address, *weight, &[("version", version)])
    });
    let instances: Vec<Arc<Instance>> = instances.collect();
    snapshot(own, &measured(), instances, vec![], &[])
}

fn measured() -> Arc<Topology> {
    topology(
        "  east: {}\n  north: {}\n  west: {}",
        "  orders: { port: 80, protocol: http, spill: { capacity: measured } }",
    )
}

fn answers(at: &str, of: &[(&str, &str)], well_per_second: f64) -> ZoneAnswers {
    ZoneAnswers {
        service: service("orders"),
        zone: zone(at),
        tags: tags(of),
        seen: SeenAnswers {
            well_per_second,
            ..CALM
        },
    }
}

fn capacity(per_second: Option<f64>, well_per_second: f64) -> MeasuredCapacity {
    MeasuredCapacity {
        service: service("orders"),
        tags: tags(&[]),
        per_second,
        seen: SeenAnswers {
            well_per_second,
            ..CALM
        },
    }
}

#[test]
fn answers_of_all_clients_are_put_together_by_the_tags_of_instances() {
    let (mut table, now) = (MeasuredTable::default(), Duration::from_secs(10));
    let told = vec![
        answers("east", &[], 100.0),
        answers("east", &[("version", "v2")], 7.0),
        answers("north", &[], 1000.0),
    ];
    table.hear(gateway("west"), now, told, vec![]);
    table.hear(gateway("north"), now, vec![answers("east", &[], 20.0)], vec![]);
    let snapshot = zone_of("east", &[("v1", 1), ("v2", 3)]);
    table.estimate(now, &snapshot);
    let known = table.known(&zone("east"));
    let well = |version: &str| {
        let tags = tags(&[("version", version)]);
        let found = known.of(&service("orders"), &zone("east"), &tags);
        found.map(|found| {
            (
                found.seen.well_per_second.round(),
                (found.seen.latency * 1000.0).round(),
            )
        })
    };
    assert_eq!((well("v1"), well("v2")), (Some((30.0, 40.0)), Some((97.0, 40.0))));
    table.estimate(now + HEARD_FOR, &snapshot);
    let known = table.known(&zone("east"));
    let sum: f64 = known.iter().map(|(_, one)| one.seen.well_per_second).sum();
    assert_eq!(sum, 0.0, "words that are old count for nothing");
}

#[test]
fn a_zone_speaks_for_itself_and_in_numbers_that_there_can_be() {
    let (mut table, now) = (MeasuredTable::default(), Duration::from_secs(10));
    table.hear(gateway("west"), now, vec![], vec![capacity(Some(80.0), 100.0)]);
    table.hear(
        gateway("west/gw2"),
        now,
        vec![],
        vec![capacity(Some(40.0), 300.0)],
    );
    table.hear(gateway("west/gw3"), now, vec![], vec![capacity(None, 1.0)]);
    // A gateway of the own zone does not say what this one works out itself.
    table.hear(gateway("east/gw2"), now, vec![], vec![capacity(Some(1.0), 1.0)]);
    let bad = [f64::NAN, -1.0, 0.0, f64::INFINITY];
    let mut bad: Vec<MeasuredCapacity> = bad.map(|rate| capacity(Some(rate), 1.0)).into();
    bad.push(capacity(Some(5.0), f64::NAN));
    bad.push(capacity(Some(5.0), -1.0));
    table.hear(gateway("north"), now, vec![answers("east", &[], f64::NAN)], bad);
    let known = table.known(&zone("east"));
    let all: Vec<_> = known
        .iter()
        .map(|(zone, one)| (zone.as_str(), one.per_second))
        .collect();
    assert_eq!(all, [("west", Some(50.0))], "each counts by what it has heard of");
    table.hear(gateway("west"), Duration::from_secs(9), vec![], vec![]);
    assert_eq!(
        table.known(&zone("east")),
        known,
        "what was said before counts no more"
    );
    table.estimate(now + HEARD_FOR, &zone_of("east", &[]));
    assert_eq!(table.known(&zone("east")).iter().count(), 0);
}

#[test]
fn each_is_told_of_its_own_zone_and_siblings_hear_of_each_other() {
    let (mut table, now) = (MeasuredTable::default(), Duration::from_secs(10));
    let counted = |at: &str| CountedAnswers {
        service: service("orders"),
        zone: zone(at),
        tags: tags(&[]),
        well: 50,
        refused: 0,
        latency: Duration::from_millis(40),
        in_flight: 4,
    };
    table.look(Duration::from_secs(9), vec![], |_| Duration::ZERO);
    let counts = ["east", "north", "west"].map(counted).into();
    table.look(now, counts, |to| match *to == zone("west") {
        true => Duration::from_millis(30),
        false => Duration::ZERO,
    });
    let told = vec![answers("west", &[], 5.0), answers("east", &[], 6.0)];
    table.hear(gateway("west/gw2"), now, told, vec![]);
    let mut demands = DemandTable::default();
    demands.hear(gateway("west/gw2"), now, vec![], vec![]);
    let mut told = demands.told_to(&gateway("west"), now);
    table.estimate(now, &zone_of("east", &[("v1", 1)]));
    table.add_to(&mut told, &gateway("west"));
    let zones = |told: &ToldDemand| {
        let answers = told.answers.iter();
        let answers = answers.map(|one| format!("{} {}", one.zone, one.seen.in_flight));
        answers.collect::<Vec<_>>()
    };
    assert_eq!(
        zones(&told[0]),
        ["east 4", "west 2.5"],
        "less what is on its way there and back"
    );
    assert_eq!(told[1].answers[0].zone, zone("west"));
    let capacities: Vec<_> = told.iter().map(|told| told.capacities.len()).collect();
    assert_eq!(capacities, [1, 0], "nobody speaks for another");
}

#[test]
fn an_estimate_goes_on_in_another_process_where_it_is() {
    let (mut queue, mut whole) = (Queue::new(80.0), Queue::new(80.0));
    for queue in [&mut queue, &mut whole] {
        queue.run(20, 40.0);
        queue.run(30, 120.0).unwrap();
    }
    let mut before = MeasuredTable::default();
    let snapshot = zone_of("east", &[("v1", 1)]);
    before.estimate(Duration::from_secs(queue.second), &snapshot);
    let at = Duration::from_secs(queue.second);
    let key = before.estimates.keys().next().unwrap().clone();
    before.estimates.get_mut(&key).unwrap().0 = std::mem::take(&mut queue.estimate);
    let text = serde_json::to_string(&before.carried(at)).unwrap();
    let carried: Vec<CarriedEstimate> = serde_json::from_str(&text).unwrap();
    assert_eq!(carried.len(), 1, "{text}");
    // Its clock begins anew, and its instances come a little later.
    let mut after = MeasuredTable::carrying_on(Duration::from_secs(1), &carried);
    after.estimate(Duration::from_secs(1), &zone_of("east", &[]));
    assert_eq!(
        after.carried(Duration::from_secs(1)).len(),
        1,
        "the next one may have it"
    );
    after.estimate(Duration::from_secs(2), &snapshot);
    let given = |table: &MeasuredTable| {
        let known = table.known(&zone("east"));
        known
            .of(&key.0, &zone("east"), &key.1)
            .and_then(|found| found.per_second)
    };
    let bound = whole.estimate.per_second();
    assert!(
        bound.is_some() && given(&after) == bound,
        "{:?} {bound:?}",
        given(&after)
    );
    // What nobody needs is forgotten as if nothing had happened.
    let begun = at.saturating_sub(carried[0].age());
    let left = after.estimates.remove(&key).unwrap().0;
    let mut queue = Queue {
        estimate: left,
        ..whole
    };
    queue.second = 2 + (at.saturating_sub(begun)).as_secs();
    assert!(queue.run(100, 10.0).is_some());
    assert_eq!(queue.run(30, 10.0), None);
    // Who never comes is not waited for.
    let mut after = MeasuredTable::carrying_on(Duration::ZERO, &carried);
    for second in [0, AWAITED_FOR.as_secs()] {
        after.estimate(Duration::from_secs(second), &zone_of("east", &[]));
    }
    assert_eq!(after.carried(AWAITED_FOR), []);
    let mut bad = carried;
    bad[0].low = Some(-1.0);
    assert!(MeasuredTable::carrying_on(Duration::ZERO, &bad).left.is_empty());
}
