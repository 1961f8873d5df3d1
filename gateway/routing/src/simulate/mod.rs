//! Simulation of traffic: where every service's clients would be served, zone by zone, while some zones are lost. It asks
//! [`route`] itself, on the snapshots that the gateways would have, so that what it says is what they would do. Pure.

mod conflicts;
mod findings;
mod promises;
#[cfg(test)]
mod promises_tests;
mod single;
#[cfg(test)]
mod tests;
mod world;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use causeway_federation::{
    catalog::CatalogEntry,
    name::{ServiceName, Tags, ZoneName},
    topology::{Criticality, Topology},
};
use rand::{SeedableRng, rngs::SmallRng};
use serde::Serialize;

use crate::{
    capacity::{CapacityPlan, DemandedRate, MeasuredCapacities, ZoneDemands, criticalities, plans},
    permit::{Rule, shuts_out},
    route::{Request, Why, arm_weights, route},
    snapshot::Snapshot,
    target::Target,
};

pub use conflicts::{ConflictKind, PermissionConflict, permission_conflicts};
pub use findings::{CriticalityLoad, ServedLoad, SimulatedFinding};
pub use promises::{BrokenCase, CheckedPromise, PromiseScene, PromiseState};
pub use single::{SinglePoint, SinglePointKind, single_points};
pub use world::{InstanceLoss, ZoneExports, fixed_exports, fixed_instances, told_instances};

use world::{entry, seen_from};

/// Most draws for one service and zone: a share is then within 1.5 percent points of what it would be with more, nearly always.
pub const MAX_DRAWS: usize = 10_000;
/// Least of them, in large federations.
pub const MIN_DRAWS: usize = 200;
/// Draws of one scenario, so that it takes seconds.
const ALL_DRAWS: usize = 5_000_000;

/// The clients of one service in one zone.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Load {
    pub from: ZoneName,
    pub service: ServiceName,
    /// Tags in the name that they ask for.
    pub tags: Tags,
    pub criticality: Criticality,
    /// Requests or connections a second.
    pub per_second: f64,
}

/// Traffic from the clients of one zone to the instances of one that carry an arm's tags.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Flow {
    pub service: ServiceName,
    pub from: ZoneName,
    /// `None`: nobody serves it.
    pub to: Option<ZoneName>,
    /// It is refused because there is no capacity for it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_shed: bool,
    /// Rule by which nobody in that zone may call the service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forbidden_by: Option<Rule>,
    pub criticality: Criticality,
    pub tags: Tags,
    /// Part (0 to 1) of what these clients ask for.
    pub share: f64,
    pub per_second: f64,
}

/// Outcome of one scenario.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Simulated {
    /// The zones that are lost.
    pub lost: BTreeSet<ZoneName>,
    /// By service and zone of the clients, the largest share first.
    pub flows: Vec<Flow>,
    /// Load that each zone is given.
    pub served: Vec<ServedLoad>,
    /// From the critical to the sheddable.
    pub criticalities: Vec<CriticalityLoad>,
    pub findings: Vec<SimulatedFinding>,
}

/// Loads of `per_second` for every service, from every zone that may call it, as [`divided`].
#[must_use]
pub fn even_loads(topology: &Topology, exports: &ZoneExports, per_second: f64) -> Vec<Load> {
    let mut loads = Vec::new();
    for from in topology.zones.keys() {
        for (service, declared) in &topology.services {
            let is_own = || {
                let own = exports.get(from);
                own.is_some_and(|own| own.iter().any(|one| one.service == *service))
            };
            if (declared.is_exported_to(from) || is_own()) && shuts_out(topology, service, from).is_none() {
                loads.extend(divided(topology, from, service, per_second));
            }
        }
    }
    loads
}

/// Loads of a service's clients, the same of each criticality that it or one of its routes has.
#[must_use]
pub fn divided(topology: &Topology, from: &ZoneName, service: &ServiceName, per_second: f64) -> Vec<Load> {
    let Some(declared) = topology.services.get(service) else {
        return Vec::new();
    };
    let all = criticalities(declared);
    let each = per_second / all.len().max(1) as f64;
    let load = |criticality| Load {
        from: from.clone(),
        service: service.clone(),
        tags: Tags::default(),
        criticality,
        per_second: each,
    };
    all.into_iter().map(load).collect()
}

/// Works out where `loads` go while the zones of `lost` are, which have no clients either. Where the capacity of a service is measured, `measured` is
/// what was found of its instances. One seed gives one outcome.
#[must_use]
pub fn simulate(
    topology: &Arc<Topology>,
    exports: &ZoneExports,
    measured: &MeasuredCapacities,
    loads: &[Load],
    lost: &BTreeSet<ZoneName>,
    seed: u64,
) -> Simulated {
    let mut rng = SmallRng::seed_from_u64(seed);
    let draws = (ALL_DRAWS / loads.len().max(1)).clamp(MIN_DRAWS, MAX_DRAWS);
    let mut flows = Vec::new();
    let records: BTreeMap<&ZoneName, CatalogEntry> = exports
        .iter()
        .filter(|(zone, _)| !lost.contains(*zone))
        .filter_map(|(zone, exports)| Some((zone, entry(zone, exports)?)))
        .collect();
    let mut loads: Vec<&Load> = loads.iter().filter(|load| !lost.contains(&load.from)).collect();
    // One snapshot is large.
    loads.sort_by_key(|load| &load.from);
    let forbidding = |load: &Load| shuts_out(topology, &load.service, &load.from);
    let permitted: Vec<&Load> = loads
        .iter()
        .filter(|load| forbidding(load).is_none())
        .copied()
        .collect();
    let plans = plans_for(topology, (exports, measured), &permitted, &records);
    let mut at_hand: Option<Snapshot> = None;
    for load in loads {
        if let Some(rule) = forbidding(load) {
            flows.push(Flow {
                forbidden_by: Some(rule),
                ..unserved(load)
            });
            continue;
        }
        let of_zone = at_hand.take().filter(|snapshot| snapshot.zone == load.from);
        let snapshot =
            &*at_hand.insert(of_zone.unwrap_or_else(|| seen_from(&load.from, topology, exports, &records)));
        let plan = plans.get(&load.from).cloned().unwrap_or_default();
        snapshot.capacity.publish(plan);
        flows.extend(drawn(snapshot, load, draws, &mut rng));
    }
    Simulated {
        lost: lost.clone(),
        served: findings::served(&flows, topology, (exports, measured)),
        criticalities: findings::by_criticality(&flows),
        findings: findings::findings(&flows, exports),
        flows,
    }
}

/// Zone that serves, whether it is shed, and tags.
type DrawnPlace = (Option<ZoneName>, bool, Tags);

/// Asks so often where one request of a load goes.
#[expect(clippy::cast_precision_loss, reason = "there are far fewer than 2^52 draws")]
fn drawn(snapshot: &Snapshot, load: &Load, draws: usize, rng: &mut SmallRng) -> Vec<Flow> {
    let request = Request::new(target(load)).with_criticality(Some(load.criticality));
    let mut counts: BTreeMap<DrawnPlace, usize> = BTreeMap::new();
    for _ in 0..draws {
        let mut decision = route(snapshot, &request, &mut *rng);
        let is_shed = decision.why() == Why::Shed;
        // Instances that are ill and used for want of others are no home that can be planned with.
        let place = match decision.next().filter(|first| !first.in_panic) {
            Some(first) => (Some(first.zone(&load.from).clone()), false, first.tags),
            None => (None, is_shed, Tags::default()),
        };
        *counts.entry(place).or_default() += 1;
    }
    let flow = |((to, is_shed, tags), count): (DrawnPlace, usize)| {
        let share = count as f64 / draws as f64;
        Flow {
            to,
            is_shed,
            tags,
            share,
            per_second: load.per_second * share,
            ..unserved(load)
        }
    };
    let mut flows: Vec<Flow> = counts.into_iter().map(flow).collect();
    flows.sort_by(|a, b| b.share.total_cmp(&a.share));
    flows
}

/// All of a load, served by nobody.
fn unserved(load: &Load) -> Flow {
    Flow {
        service: load.service.clone(),
        from: load.from.clone(),
        to: None,
        is_shed: false,
        forbidden_by: None,
        criticality: load.criticality,
        tags: Tags::default(),
        share: 1.0,
        per_second: load.per_second,
    }
}

fn target(load: &Load) -> Target {
    Target {
        tags: load.tags.clone(),
        ..Target::service(load.service.clone())
    }
}

/// Plans that the gateways of each zone would make if these were all the loads.
fn plans_for(
    topology: &Arc<Topology>,
    (exports, measured): (&ZoneExports, &MeasuredCapacities),
    loads: &[&Load],
    records: &BTreeMap<&ZoneName, CatalogEntry>,
) -> BTreeMap<ZoneName, CapacityPlan> {
    let mut rates: BTreeMap<(&ZoneName, &ServiceName, Tags, Criticality), f64> = BTreeMap::new();
    for load in loads {
        let Some(service) = topology.services.get(&load.service) else {
            continue;
        };
        // An arm that nobody serves leaves its share to the others.
        let serves = |(tags, _): &(Tags, u32)| {
            let told = records.values();
            let mut told = told.flat_map(|entry| entry.record.exports.of(&load.service));
            told.any(|one| one.healthy > 0 && one.tags.matches(tags))
        };
        let mut arms = arm_weights(&service.split, &target(load));
        arms.retain(serves);
        let sum: f64 = arms.iter().map(|(_, weight)| f64::from(*weight)).sum();
        for (tags, weight) in arms {
            let key = (&load.from, &load.service, tags, load.criticality);
            *rates.entry(key).or_default() += load.per_second * f64::from(weight) / sum;
        }
    }
    let mut demands = ZoneDemands::new();
    for ((from, service, tags, criticality), per_second) in rates {
        demands.entry(from.clone()).or_default().push(DemandedRate {
            service: service.clone(),
            tags,
            criticality,
            per_second,
        });
    }
    let wanted: BTreeSet<ZoneName> = demands.keys().cloned().collect();
    let Some(first) = wanted.first() else {
        return BTreeMap::new();
    };
    let snapshot = seen_from(first, topology, exports, records);
    snapshot.capacity.found(measured.clone());
    plans(&snapshot, &demands, &wanted)
}
