//! Failback: how fast traffic returns to a tier that was ill. [`FailbackTable`] takes the time and the health of tiers and gives
//! ceilings of their shares, which [`route`](crate::route::route) reads as data. Pure.

mod carried;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use causeway_federation::{
    name::{ServiceName, Tags},
    topology::{Failback, Service, Spill, Tier},
};

use crate::{
    route::{healthy_below, tier_health},
    snapshot::Snapshot,
};

pub use carried::{CarriedReturn, CarriedTier};

/// The current ceilings, shared by all snapshots of a process.
pub type Ceilings = Arc<ArcSwap<TierCeilings>>;

/// Greatest share (0 to 1) that each tier may take of its own accord, by service and arm.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct TierCeilings(BTreeMap<ServiceName, BTreeMap<Tags, Vec<f64>>>);

impl TierCeilings {
    /// The ceilings of an arm's tiers in their order; a tier beyond the last has none.
    #[must_use]
    pub fn of(&self, service: &ServiceName, arm: &Tags) -> &[f64] {
        let arms = self.0.get(service);
        arms.and_then(|arms| arms.get(arm)).map_or(&[], Vec::as_slice)
    }
}

/// One tier whose traffic begins to return, or all of it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailbackEvent {
    pub service: ServiceName,
    pub arm: Tags,
    /// Counts from 1.
    pub tier: usize,
    pub progress: FailbackProgress,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailbackProgress {
    /// It is healthier than what it may take.
    Begun,
    /// It fell ill again, and begins anew when it is well.
    BrokenOff,
    /// It takes all that its health allows.
    Done,
}

/// State of each tier of the services with `failback`. As large as the topology's splits.
#[derive(Debug, Default)]
pub struct FailbackTable {
    services: BTreeMap<ServiceName, ReturningService>,
}

#[derive(Debug, Default)]
struct ReturningService {
    /// Those that the numbers of tiers stand for.
    failover: Vec<Tier>,
    spill: Option<Spill>,
    arms: BTreeMap<Tags, Vec<ReturningTier>>,
}

impl FailbackTable {
    /// Tells whether ceilings change by themselves, though nothing else does.
    #[must_use]
    pub fn is_moving(&self) -> bool {
        let arms = self.services.values().flat_map(|service| service.arms.values());
        let is_new = |tier: &ReturningTier| tier.first.is_some() && !tier.has_served;
        arms.flatten()
            .any(|tier| tier.returning.is_some() || is_new(tier))
    }

    /// Takes the health of all tiers at `now` (of any clock that never goes back), and gives the ceilings from now on and what has
    /// changed.
    pub fn step(&mut self, now: Duration, snapshot: &Snapshot) -> (TierCeilings, Vec<FailbackEvent>) {
        let services = &snapshot.topology.services;
        let ruled = |name: &ServiceName| {
            services
                .get(name)
                .is_some_and(|service| service.failback.is_some())
        };
        self.services.retain(|name, _| ruled(name));
        let (mut ceilings, mut events) = (TierCeilings::default(), Vec::new());
        for (name, service) in services {
            let Some(policy) = &service.failback else { continue };
            let returning = self.services.entry(name.clone()).or_default();
            if (&returning.failover, &returning.spill) != (&service.failover, &service.spill) {
                *returning = ReturningService {
                    failover: service.failover.clone(),
                    spill: service.spill.clone(),
                    arms: BTreeMap::new(),
                };
            }
            let arms = arms(service);
            returning.arms.retain(|arm, _| arms.contains(arm));
            let mut of_service = BTreeMap::new();
            for arm in arms {
                let health = tier_health(snapshot, name, arm);
                let fitness = health.iter().map(|tier| tier.fitness(healthy_below(service)));
                let tiers = returning.arms.entry(arm.clone()).or_default();
                tiers.resize(health.len().max(tiers.len()), ReturningTier::default());
                // One that nothing is told of any more has no healthy instance.
                let fitness = fitness.chain(std::iter::repeat(0.0));
                for (place, (tier, fitness)) in tiers.iter_mut().zip(fitness).enumerate() {
                    let progress = tier.advance(now, fitness, policy);
                    events.extend(progress.map(|progress| FailbackEvent {
                        service: name.clone(),
                        arm: arm.clone(),
                        tier: place + 1,
                        progress,
                    }));
                }
                let at = tiers.iter().map(ReturningTier::most);
                of_service.insert(arm.clone(), at.collect());
            }
            ceilings.0.insert(name.clone(), of_service);
        }
        (ceilings, events)
    }
}

/// The arms of a service and of its routes.
fn arms(service: &Service) -> BTreeSet<&Tags> {
    let of_routes = service.routes.iter().filter_map(|route| route.split.as_deref());
    let splits = of_routes.chain([&service.split[..]]);
    splits.flatten().map(|arm| &arm.tags).collect()
}

#[derive(Debug, Clone, Copy, Default)]
struct ReturningTier {
    /// Greatest share that it may take now.
    ceiling: f64,
    /// Time at which it was healthy for the first time.
    first: Option<Duration>,
    /// One that has not served for as long as a hold has nothing that could return: it takes all that it can at once.
    has_served: bool,
    returning: Option<Return>,
}

/// A return that is under way.
#[derive(Debug, Clone, Copy)]
struct Return {
    /// The hold begins here.
    since: Duration,
    /// The ramp begins here.
    from: f64,
}

impl ReturningTier {
    /// Greatest share that it may take until the next look. One that has not served yet may take all that it can at any moment.
    fn most(&self) -> f64 {
        match self.has_served {
            true => self.ceiling,
            false => 1.0,
        }
    }

    /// Follows a fall at once, and a rise after `hold` and by 1 in each `ramp`.
    fn advance(&mut self, now: Duration, fitness: f64, policy: &Failback) -> Option<FailbackProgress> {
        if fitness <= self.ceiling || !self.has_served {
            self.ceiling = fitness;
            if fitness > 0.0 {
                let first = *self.first.get_or_insert(now);
                self.has_served |= now.saturating_sub(first) >= policy.hold;
            }
            return self.returning.take().map(|_| FailbackProgress::BrokenOff);
        }
        let begins = self.returning.is_none();
        let from = self.ceiling;
        let way = *self.returning.get_or_insert(Return { since: now, from });
        let well_for = now.saturating_sub(way.since);
        let risen = match well_for.checked_sub(policy.hold) {
            None => 0.0,
            Some(_) if policy.ramp.is_zero() => 1.0,
            Some(ramping) => ramping.as_secs_f64() / policy.ramp.as_secs_f64(),
        };
        self.ceiling = (way.from + risen).min(fitness);
        if self.ceiling >= fitness {
            self.returning = None;
            return Some(FailbackProgress::Done);
        }
        begins.then_some(FailbackProgress::Begun)
    }
}

#[cfg(test)]
mod tests {
    use causeway_federation::{catalog::Age, topology::Topology};
    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::SmallRng};

    use super::*;
    use crate::{
        route::{Request, route},
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
}
