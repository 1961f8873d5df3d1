//! Failback: how fast traffic returns to a tier that was ill. [`FailbackTable`] takes the time and the health of tiers and gives
//! ceilings of their shares, which [`route`](crate::route::route) reads as data. With `slow_start` of a service, zones and arms that begin to
//! serve have theirs too. Pure.

mod carried;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use causeway_federation::{
    name::{ServiceName, Tags, ZoneName},
    topology::{Failback, Service, Spill, Tier},
};

use crate::{
    balance::FIRST_PART,
    route::{arm_health, healthy_below},
    slow_start::{StartingZones, ZoneStarts},
    snapshot::Snapshot,
};

pub use carried::{CarriedReturn, CarriedTier};

/// Time from the first look at an arm of a service with `slow_start` until which whatever is found healthy was so before.
const SETTLES_IN: Duration = Duration::from_secs(10);

/// The current ceilings, shared by all snapshots of a process.
pub type Ceilings = Arc<ArcSwap<TierCeilings>>;

/// Greatest share (0 to 1) that each tier may take of its own accord, by service and arm, and the part (0 to 1) of their weights that arms and
/// zones at their slow start have.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct TierCeilings(BTreeMap<ServiceName, BTreeMap<Tags, ArmCeilings>>);

#[derive(Debug, Clone, PartialEq)]
struct ArmCeilings {
    tiers: Vec<f64>,
    part: f64,
    zones: StartingZones,
}

impl TierCeilings {
    /// The ceilings of an arm's tiers in their order; a tier beyond the last has none.
    #[must_use]
    pub fn of(&self, service: &ServiceName, arm: &Tags) -> &[f64] {
        self.arm(service, arm).map_or(&[], |arm| &arm.tiers)
    }

    /// Part (0.1 to 1) of its weight that an arm has.
    #[must_use]
    pub fn part_of_arm(&self, service: &ServiceName, arm: &Tags) -> f64 {
        self.arm(service, arm).map_or(1.0, |arm| arm.part)
    }

    /// Part (0.1 to 1) of its weight that a zone has for an arm.
    #[must_use]
    pub fn part_of_zone(&self, service: &ServiceName, arm: &Tags, zone: &ZoneName) -> f64 {
        self.arm(service, arm).map_or(1.0, |arm| arm.zones.part(zone))
    }

    fn arm(&self, service: &ServiceName, arm: &Tags) -> Option<&ArmCeilings> {
        self.0.get(service)?.get(arm)
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

/// State of each tier of the services with `failback` or `slow_start`. As large as the topology's splits.
#[derive(Debug, Default)]
pub struct FailbackTable {
    services: BTreeMap<ServiceName, ReturningService>,
}

#[derive(Debug, Default)]
struct ReturningService {
    /// Those that the numbers of tiers stand for.
    failover: Vec<Tier>,
    spill: Option<Spill>,
    arms: BTreeMap<Tags, ReturningArm>,
}

#[derive(Debug, Default)]
struct ReturningArm {
    tiers: Vec<ReturningTier>,
    zones: ZoneStarts,
    /// Time of the first look at it, if its service has `slow_start`.
    first: Option<Duration>,
    /// Sign that what begins to serve now is new, and was not there before this gateway knew of the arm.
    is_settled: bool,
}

impl FailbackTable {
    /// Tells whether ceilings change by themselves, though nothing else does.
    #[must_use]
    pub fn is_moving(&self) -> bool {
        let is_new = |tier: &ReturningTier| tier.first.is_some() && !tier.has_served;
        let moves = |arm: &ReturningArm| {
            let mut tiers = arm.tiers.iter();
            let is_unsettled = arm.first.is_some() && !arm.is_settled;
            is_unsettled
                || arm.zones.is_moving()
                || tiers.any(|tier| tier.returning.is_some() || is_new(tier))
        };
        let mut services = self.services.values();
        services.any(|service| service.arms.values().any(moves))
    }

    /// Takes the health of all tiers at `now` (of any clock that never goes back), and gives the ceilings from now on and what has
    /// changed.
    pub fn step(&mut self, now: Duration, snapshot: &Snapshot) -> (TierCeilings, Vec<FailbackEvent>) {
        let services = &snapshot.topology.services;
        let ruled = |name: &ServiceName| {
            services
                .get(name)
                .is_some_and(|service| service.return_policy().is_some())
        };
        self.services.retain(|name, _| ruled(name));
        let (mut ceilings, mut events) = (TierCeilings::default(), Vec::new());
        for (name, service) in services {
            let Some(policy) = service.return_policy() else {
                continue;
            };
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
                let (health, serving) = arm_health(snapshot, name, arm);
                let fitness = health.iter().map(|tier| tier.fitness(healthy_below(service)));
                let able: f64 = fitness.clone().sum();
                let of_arm = returning.arms.entry(arm.clone()).or_default();
                let is_settled = of_arm.settle(now, service);
                let ReturningArm { tiers, zones, .. } = of_arm;
                tiers.resize(health.len().max(tiers.len()), ReturningTier::default());
                // One that nothing is told of any more has no healthy instance.
                let fitness = fitness.chain(std::iter::repeat(0.0));
                for (place, (tier, fitness)) in tiers.iter_mut().zip(fitness).enumerate() {
                    tier.has_served |= is_settled;
                    let progress = tier.advance(now, fitness, &policy);
                    events.extend(progress.map(|progress| FailbackEvent {
                        service: name.clone(),
                        arm: arm.clone(),
                        tier: place + 1,
                        progress,
                    }));
                }
                let at: Vec<f64> = tiers.iter().map(ReturningTier::most).collect();
                let starting = service.slow_start.map(|slow_start| {
                    let zones = zones.step(now, serving, slow_start, is_settled);
                    (part_of_arm(&at, able), zones)
                });
                let (part, zones) = starting.unwrap_or((1.0, StartingZones::default()));
                of_service.insert(
                    arm.clone(),
                    ArmCeilings {
                        tiers: at,
                        part,
                        zones,
                    },
                );
            }
            ceilings.0.insert(name.clone(), of_service);
        }
        (ceilings, events)
    }
}

impl ReturningArm {
    /// Finds out whether this gateway has known the arm for long enough to tell what is new of it.
    fn settle(&mut self, now: Duration, service: &Service) -> bool {
        self.first = service.slow_start.map(|_| self.first.unwrap_or(now));
        self.is_settled = self
            .first
            .is_some_and(|first| now.saturating_sub(first) >= SETTLES_IN);
        self.is_settled
    }
}

/// Part of its weight that an arm has whose tiers have these ceilings, and could take so much by their health.
fn part_of_arm(ceilings: &[f64], able: f64) -> f64 {
    let most: f64 = ceilings.iter().sum();
    match able > 0.0 {
        true => (most / able.min(1.0)).clamp(FIRST_PART, 1.0),
        false => 1.0,
    }
}

/// Tags of the arms of a service and of its routes, each once.
fn arms(service: &Service) -> BTreeSet<&Tags> {
    service.all_arms().map(|arm| &arm.tags).collect()
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
#[path = "failback_tests.rs"]
mod tests;
