//! Returns of tiers that another process goes on with, whose clock has another beginning.

use std::{collections::BTreeMap, time::Duration};

use causeway_federation::{
    name::{ServiceName, Tags},
    topology::{Spill, Tier, Topology},
};
use serde::{Deserialize, Serialize};

use super::{
    ArmCeilings, FailbackTable, Return, ReturningService, ReturningTier, StartingZones, TierCeilings, arms,
};
use crate::snapshot::instance_number;

/// Most tiers that another process is told of.
const MAX_CARRIED: usize = 10_000;
/// Highest number of a tier that is believed.
const MAX_TIER: usize = 1_000;

/// State of one tier, as another process goes on with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CarriedTier {
    pub service: ServiceName,
    pub arm: Tags,
    /// Counts from 1.
    pub tier: usize,
    /// Number of the list of tiers that it stands in. Of another list nothing is known.
    pub list: u64,
    /// Greatest share that it may take.
    pub ceiling: f64,
    pub has_served: bool,
    /// Milliseconds since it was healthy for the first time.
    #[serde(default)]
    pub first_ago: Option<u64>,
    #[serde(default)]
    pub returning: Option<CarriedReturn>,
}

/// A return that is under way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CarriedReturn {
    /// Milliseconds since its hold began.
    pub since_ago: u64,
    /// The ramp begins here.
    pub from: f64,
}

impl CarriedTier {
    /// Time since the first moment that it tells of: a clock that goes on with it must have run for so long.
    #[must_use]
    pub fn age(&self) -> Duration {
        let returning = self.returning.as_ref().map(|way| way.since_ago);
        let ages = self.first_ago.into_iter().chain(returning);
        Duration::from_millis(ages.max().unwrap_or_default())
    }

    /// Tells whether it takes all that it could, as nearly all tiers do.
    fn is_usual(&self) -> bool {
        self.returning.is_none() && self.has_served && self.ceiling >= 1.0
    }
}

impl ReturningTier {
    fn carried(&self, now: Duration, of: (&ServiceName, &Tags), tier: usize, list: u64) -> CarriedTier {
        let ago = |at: Duration| u64::try_from(now.saturating_sub(at).as_millis()).unwrap_or(u64::MAX);
        CarriedTier {
            service: of.0.clone(),
            arm: of.1.clone(),
            tier,
            list,
            ceiling: self.ceiling,
            has_served: self.has_served,
            first_ago: self.first.map(ago),
            returning: self.returning.map(|way| CarriedReturn {
                since_ago: ago(way.since),
                from: way.from,
            }),
        }
    }

    fn carrying_on(now: Duration, from: &CarriedTier) -> Self {
        let at = |ago: u64| now.saturating_sub(Duration::from_millis(ago));
        Self {
            ceiling: from.ceiling.clamp(0.0, 1.0),
            first: from.first_ago.map(at),
            has_served: from.has_served,
            returning: from.returning.as_ref().map(|way| Return {
                since: at(way.since_ago),
                from: way.from.clamp(0.0, 1.0),
            }),
        }
    }
}

/// Number of a list of tiers, equal in processes of one build.
fn list_number(failover: &[Tier], spill: Option<&Spill>) -> u64 {
    instance_number(&format!("{failover:?} {spill:?}"))
}

impl FailbackTable {
    /// State of the tiers for another process to go on with, those first that do not take all that they could.
    #[must_use]
    pub fn carried(&self, now: Duration) -> Vec<CarriedTier> {
        let mut carried = Vec::new();
        for (name, service) in &self.services {
            let list = list_number(&service.failover, service.spill.as_ref());
            for (arm, of_arm) in &service.arms {
                let told = of_arm.tiers.iter().zip(1..);
                carried.extend(told.map(|(tier, number)| tier.carried(now, (name, arm), number, list)));
            }
        }
        carried.sort_by_key(CarriedTier::is_usual);
        carried.truncate(MAX_CARRIED);
        carried
    }

    /// Begins with what another process knew, as far as `topology` has the same tiers. `now` is of a clock that has run for as long as the
    /// [age](CarriedTier::age) of each.
    #[must_use]
    pub fn carrying_on(now: Duration, carried: &[CarriedTier], topology: &Topology) -> Self {
        let mut table = Self::default();
        for from in carried.iter().take(MAX_CARRIED) {
            let Some(service) = topology.services.get(&from.service) else {
                continue;
            };
            let list = list_number(&service.failover, service.spill.as_ref());
            let is_known =
                service.return_policy().is_some() && list == from.list && arms(service).contains(&from.arm);
            if !is_known || !(1..=MAX_TIER).contains(&from.tier) {
                continue;
            }
            let returning = table.services.entry(from.service.clone());
            let returning = returning.or_insert_with(|| ReturningService {
                failover: service.failover.clone(),
                spill: service.spill.clone(),
                arms: BTreeMap::new(),
            });
            let tiers = &mut returning.arms.entry(from.arm.clone()).or_default().tiers;
            tiers.resize(tiers.len().max(from.tier), ReturningTier::default());
            if let Some(tier) = tiers.get_mut(from.tier - 1) {
                *tier = ReturningTier::carrying_on(now, from);
            }
        }
        table
    }

    /// The ceilings as of the last look.
    #[must_use]
    pub fn ceilings(&self) -> TierCeilings {
        let services = self.services.iter().map(|(name, service)| {
            let arms = service.arms.iter().map(|(arm, of_arm)| {
                let ceilings = ArmCeilings {
                    tiers: of_arm.tiers.iter().map(ReturningTier::most).collect(),
                    // What is at a slow start goes on with its whole part.
                    part: 1.0,
                    zones: StartingZones::default(),
                };
                (arm.clone(), ceilings)
            });
            (name.clone(), arms.collect())
        });
        TierCeilings(services.collect())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use causeway_federation::catalog::Age;

    use super::*;
    use crate::{
        snapshot::{Link, Snapshot},
        testbed::{self, entry, snapshot, topology},
    };

    fn orders(failover: &str) -> Arc<Topology> {
        let keys = format!(
            "  orders: {{ port: 80, protocol: tcp, failover: {failover}, failback: {{ hold: 10s, ramp: 100s }} }}"
        );
        topology("  home: {}\n  east: {}\n  west: {}", &keys)
    }

    /// `home`, where so many of ten instances of `east` are healthy.
    fn seen(topology: &Arc<Topology>, east: u32) -> Snapshot {
        let entries = [("east", east), ("west", 10)];
        let entries = entries.map(|(zone, healthy)| entry(zone, Age::Fresh, false, &[(&[], 10, healthy)]));
        let links = [("east", Link::Up), ("west", Link::Up)];
        snapshot("home", topology, vec![], entries.into(), &links)
    }

    fn ceiling_of_east(ceilings: &TierCeilings) -> f64 {
        ceilings.of(&testbed::service("orders"), &Tags::default())[0]
    }

    #[test]
    fn a_return_goes_on_in_another_process_where_it_is() {
        let at = Duration::from_secs;
        let topology = orders("[{ zone: east }, { zone: west }]");
        let mut before = FailbackTable::default();
        for (second, healthy) in [(0, 10), (15, 10), (20, 0), (30, 10), (65, 10)] {
            before.step(at(second), &seen(&topology, healthy));
        }
        // Ten seconds of hold, and then 25 of 100 seconds of the ramp.
        let text = serde_json::to_string(&before.carried(at(65))).unwrap();
        let carried: Vec<CarriedTier> = serde_json::from_str(&text).unwrap();
        assert_eq!(carried.len(), 2, "{text}");
        let age = carried.iter().map(CarriedTier::age).max().unwrap();
        assert_eq!(age, at(65));
        // Its clock has begun a second ago, and goes on from what it was told.
        let now = age + at(1);
        let mut after = FailbackTable::carrying_on(now, &carried, &topology);
        assert!((ceiling_of_east(&after.ceilings()) - 0.25).abs() < 0.01);
        let (ceilings, events) = after.step(now + at(25), &seen(&topology, 10));
        assert!((ceiling_of_east(&ceilings) - 0.5).abs() < 0.01 && events.is_empty());
        let (ceilings, events) = after.step(now + at(80), &seen(&topology, 10));
        assert!(ceiling_of_east(&ceilings) >= 1.0 && events.len() == 1);
    }

    #[test]
    fn of_another_list_of_tiers_or_none_there_is_nothing_to_go_on_with() {
        let topology = orders("[{ zone: east }, { zone: west }]");
        let mut before = FailbackTable::default();
        before.step(Duration::ZERO, &seen(&topology, 10));
        let carried = before.carried(Duration::ZERO);
        let goes_on = |carried: &[CarriedTier], topology: &Topology| {
            let table = FailbackTable::carrying_on(Duration::ZERO, carried, topology);
            table.ceilings() != TierCeilings::default()
        };
        assert!(goes_on(&carried, &topology));
        assert!(!goes_on(&carried, &orders("[{ zone: west }, { zone: east }]")));
        let nowhere = [0, usize::MAX].map(|tier| CarriedTier {
            tier,
            ..carried[0].clone()
        });
        assert!(!goes_on(&nowhere, &topology));
    }
}
