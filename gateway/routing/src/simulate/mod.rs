//! Simulation of traffic: where every service's clients would be served, zone by zone, while some zones are lost. It asks
//! [`route`] itself, on the snapshots that the gateways would have, so that what it says is what they would do. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use causeway_federation::{
    catalog::{Age, Catalog, CatalogEntry, Export, InstanceState, Record, exports},
    name::{GatewayId, GatewayName, ServiceName, Tags, ZoneName},
    registry::{InstanceSource, Provenance},
    topology::{FixedInstance, SplitArm, Topology},
};
use rand::{SeedableRng, rngs::SmallRng};
use serde::Serialize;

use crate::{
    balance::InstanceList,
    capacity::{CapacityPlan, DemandedRate, ZoneDemands, plans},
    route::{Request, Why, route},
    snapshot::{Health, Instance, Link, Snapshot},
    target::Target,
};

#[cfg(test)]
mod tests;

/// Most draws for one service and zone: a share is then within 1.5 percent points of what it would be with more, nearly always.
pub const MAX_DRAWS: usize = 10_000;
/// Least of them, in large federations.
pub const MIN_DRAWS: usize = 200;
/// Draws of one scenario, so that it takes seconds.
const ALL_DRAWS: usize = 5_000_000;
/// Capacity that is used up is over by this much at most because shares are drawn.
const DRAWN: f64 = 1.03;
/// Instances of one service and zone that are made up; of more, their proportion counts.
const MAX_INSTANCES: u64 = 200;

/// Instances of each zone, as it tells the others of them.
pub type ZoneExports = BTreeMap<ZoneName, Vec<Export>>;

/// The clients of one service in one zone.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Load {
    pub from: ZoneName,
    pub service: ServiceName,
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
    pub tags: Tags,
    /// Part (0 to 1) of what these clients ask for.
    pub share: f64,
    pub per_second: f64,
}

/// Something that an operator would rather know beforehand.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum SimulatedFinding {
    /// Nobody can serve these clients.
    NoHome {
        service: ServiceName,
        from: ZoneName,
        per_second: f64,
    },
    /// There is no capacity for all that these clients ask for.
    Shed {
        service: ServiceName,
        from: ZoneName,
        per_second: f64,
    },
    /// A zone gets more than its instances have declared that they can take.
    OverCapacity {
        service: ServiceName,
        zone: ZoneName,
        tags: Tags,
        per_second: f64,
        capacity_per_second: u64,
    },
}

/// Outcome of one scenario.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Simulated {
    /// The zones that are lost.
    pub lost: BTreeSet<ZoneName>,
    /// By service and zone of the clients, the largest share first.
    pub flows: Vec<Flow>,
    pub findings: Vec<SimulatedFinding>,
}

/// Counts the instances that a topology fixes, all of them healthy.
#[must_use]
pub fn fixed_exports(topology: &Topology) -> ZoneExports {
    let state = |instance: &FixedInstance| {
        let FixedInstance {
            service,
            tags,
            weight,
            capacity_per_second,
            ..
        } = instance;
        (service.clone(), tags.clone(), *weight, *capacity_per_second)
    };
    let of_zone = |instances: &[FixedInstance]| {
        let states: Vec<_> = instances.iter().map(state).collect();
        let states = states
            .iter()
            .map(|(service, tags, weight, capacity)| InstanceState {
                service,
                tags,
                weight: *weight,
                healthy: true,
                serves_in_panic: false,
                capacity_per_second: *capacity,
            });
        exports(states)
    };
    let zones = topology.zones.iter();
    zones
        .map(|(name, zone)| (name.clone(), of_zone(&zone.instances)))
        .collect()
}

/// Loads of `per_second` for every service, from every zone that may call it.
#[must_use]
pub fn even_loads(topology: &Topology, exports: &ZoneExports, per_second: f64) -> Vec<Load> {
    let zones = topology.zones.keys();
    let loads = zones.flat_map(|from| {
        let services = topology.services.iter();
        let callable = services.filter(|(service, declared)| {
            declared.is_exported_to(from)
                || exports
                    .get(from)
                    .is_some_and(|own| own.iter().any(|one| one.service == **service))
        });
        callable.map(|(service, _)| Load {
            from: from.clone(),
            service: service.clone(),
            per_second,
        })
    });
    loads.collect()
}

/// Works out where `loads` go while the zones of `lost` are, which have no clients either. One seed gives one outcome.
#[must_use]
pub fn simulate(
    topology: &Arc<Topology>,
    exports: &ZoneExports,
    loads: &[Load],
    lost: &BTreeSet<ZoneName>,
    seed: u64,
) -> Simulated {
    let mut rng = SmallRng::seed_from_u64(seed);
    let draws = (ALL_DRAWS / loads.len().max(1)).clamp(MIN_DRAWS, MAX_DRAWS);
    let mut simulated = Simulated {
        lost: lost.clone(),
        ..Simulated::default()
    };
    let records: BTreeMap<&ZoneName, CatalogEntry> = exports
        .iter()
        .filter(|(zone, _)| !lost.contains(*zone))
        .filter_map(|(zone, exports)| Some((zone, entry(zone, exports)?)))
        .collect();
    let plans = plans_for(topology, exports, loads, &records);
    // Loads come zone by zone, and one snapshot is large.
    let mut at_hand: Option<Snapshot> = None;
    for load in loads.iter().filter(|load| !lost.contains(&load.from)) {
        let of_zone = at_hand.take().filter(|snapshot| snapshot.zone == load.from);
        let snapshot =
            &*at_hand.insert(of_zone.unwrap_or_else(|| seen_from(&load.from, topology, exports, &records)));
        let plan = plans.get(&load.from).cloned().unwrap_or_default();
        snapshot.capacity.publish(plan);
        let request = Request::new(Target::service(load.service.clone()));
        let mut counts: BTreeMap<DrawnPlace, usize> = BTreeMap::new();
        for _ in 0..draws {
            let mut decision = route(snapshot, &request, &mut rng);
            let is_shed = decision.why() == Why::Shed;
            let place = match decision.next() {
                Some(first) => (Some(first.zone(&load.from).clone()), false, first.tags),
                None => (None, is_shed, Tags::default()),
            };
            *counts.entry(place).or_default() += 1;
        }
        simulated.flows.extend(flows(load, counts, draws));
    }
    simulated.findings = findings(&simulated.flows, exports);
    simulated
}

/// Zone that serves, whether it is shed, and tags.
type DrawnPlace = (Option<ZoneName>, bool, Tags);

/// Plans that the gateways of each zone would make if these were all the loads, each of its service's own criticality.
fn plans_for(
    topology: &Arc<Topology>,
    exports: &ZoneExports,
    loads: &[Load],
    records: &BTreeMap<&ZoneName, CatalogEntry>,
) -> BTreeMap<ZoneName, CapacityPlan> {
    let is_there = |load: &&Load| records.contains_key(&load.from) || !exports.contains_key(&load.from);
    let mut demands = ZoneDemands::new();
    for load in loads.iter().filter(is_there) {
        let Some(service) = topology.services.get(&load.service) else {
            continue;
        };
        // An arm that nobody serves leaves its share to the others.
        let serves = |arm: &&SplitArm| {
            let mut told = records
                .values()
                .flat_map(|entry| entry.record.exports.of(&load.service));
            arm.weight > 0 && told.any(|one| one.healthy > 0 && one.tags.matches(&arm.tags))
        };
        let arms: Vec<&SplitArm> = service.split.iter().filter(serves).collect();
        let sum: f64 = arms.iter().map(|arm| f64::from(arm.weight)).sum();
        let of_zone = demands.entry(load.from.clone()).or_default();
        of_zone.extend(arms.iter().map(|arm| DemandedRate {
            service: load.service.clone(),
            tags: arm.tags.clone(),
            criticality: service.criticality,
            per_second: load.per_second * f64::from(arm.weight) / sum,
        }));
    }
    let wanted: BTreeSet<ZoneName> = demands.keys().cloned().collect();
    let Some(first) = wanted.first() else {
        return BTreeMap::new();
    };
    plans(&seen_from(first, topology, exports, records), &demands, &wanted)
}

#[expect(clippy::cast_precision_loss, reason = "there are far fewer than 2^52 draws")]
fn flows(load: &Load, counts: BTreeMap<DrawnPlace, usize>, draws: usize) -> Vec<Flow> {
    let flow = |((to, is_shed, tags), count): (DrawnPlace, usize)| {
        let share = count as f64 / draws as f64;
        Flow {
            service: load.service.clone(),
            from: load.from.clone(),
            to,
            is_shed,
            tags,
            share,
            per_second: load.per_second * share,
        }
    };
    let mut flows: Vec<Flow> = counts.into_iter().map(flow).collect();
    flows.sort_by(|a, b| b.share.total_cmp(&a.share));
    flows
}

fn findings(flows: &[Flow], exports: &ZoneExports) -> Vec<SimulatedFinding> {
    let mut findings = Vec::new();
    let mut sums: BTreeMap<(&ServiceName, &ZoneName, &Tags), f64> = BTreeMap::new();
    for flow in flows {
        match &flow.to {
            Some(zone) => *sums.entry((&flow.service, zone, &flow.tags)).or_default() += flow.per_second,
            None if flow.per_second <= 0.0 => {}
            None if flow.is_shed => findings.push(SimulatedFinding::Shed {
                service: flow.service.clone(),
                from: flow.from.clone(),
                per_second: flow.per_second,
            }),
            None => findings.push(SimulatedFinding::NoHome {
                service: flow.service.clone(),
                from: flow.from.clone(),
                per_second: flow.per_second,
            }),
        }
    }
    for ((service, zone, tags), per_second) in sums {
        if let Some(capacity) = capacity(exports.get(zone), service, tags)
            && per_second > in_requests(capacity) * DRAWN
        {
            findings.push(SimulatedFinding::OverCapacity {
                service: service.clone(),
                zone: zone.clone(),
                tags: tags.clone(),
                per_second,
                capacity_per_second: capacity,
            });
        }
    }
    findings
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a capacity above 2^53 loses nothing that matters"
)]
fn in_requests(capacity: u64) -> f64 {
    capacity as f64
}

/// Sum of what the healthy instances of a zone with these tags can take; `None`: some do not say.
fn capacity(exports: Option<&Vec<Export>>, service: &ServiceName, tags: &Tags) -> Option<u64> {
    let exports = exports?.iter();
    let serving = exports.filter(|one| one.service == *service && one.tags.matches(tags) && one.healthy > 0);
    serving
        .map(|export| export.capacity_per_second)
        .try_fold(0u64, |sum, capacity| Some(sum.saturating_add(capacity?)))
}

/// The snapshot that a gateway of `zone` would have, once what the lost zones told last is forgotten.
fn seen_from(
    zone: &ZoneName,
    topology: &Arc<Topology>,
    exports: &ZoneExports,
    records: &BTreeMap<&ZoneName, CatalogEntry>,
) -> Snapshot {
    let others = records.iter().filter(|(other, _)| **other != zone);
    let entries: Vec<CatalogEntry> = others.map(|(_, entry)| entry.clone()).collect();
    let links = entries
        .iter()
        .map(|entry| (entry.record.origin.clone(), Link::Up));
    let own = exports.get(zone).map(Vec::as_slice).unwrap_or_default();
    Snapshot {
        generation: 1,
        zone: zone.clone(),
        topology: topology.clone(),
        instances: Arc::new(instances(own)),
        callers: Arc::default(),
        links: Arc::new(links.collect()),
        catalog: Arc::new(Catalog::new(entries)),
        listeners: Arc::default(),
        ejections: Arc::default(),
        ceilings: Arc::default(),
        shifts: Arc::default(),
        capacity: Arc::default(),
    }
}

/// The record of the one gateway that a zone is taken to have: a zone has its weight once, however many there are.
fn entry(zone: &ZoneName, exports: &[Export]) -> Option<CatalogEntry> {
    let gateway = GatewayName::new("simulated").ok()?;
    let record = Record {
        origin: GatewayId::new(zone.clone(), gateway),
        incarnation: 1,
        version: 1,
        exports: exports.iter().cloned().collect(),
        draining: false,
        topology: Default::default(),
        topology_generation: 0,
        trust: Default::default(),
        trust_ended: 0,
        shifts: Default::default(),
        signed: None,
    };
    Some(CatalogEntry {
        record: Arc::new(record),
        age: Age::Fresh,
        via: None,
    })
}

/// Instances that would be told of by these exports.
fn instances(exports: &[Export]) -> BTreeMap<ServiceName, InstanceList> {
    let mut totals: BTreeMap<&ServiceName, u64> = BTreeMap::new();
    for export in exports {
        *totals.entry(&export.service).or_default() += u64::from(export.instances);
    }
    let mut lists: BTreeMap<ServiceName, Vec<Arc<Instance>>> = BTreeMap::new();
    for export in exports {
        let total = totals.get(&export.service).copied().unwrap_or_default();
        let (healthy, all) = scaled(export.healthy, export.instances, total);
        let list = lists.entry(export.service.clone()).or_default();
        for number in 0..all {
            list.push(Arc::new(Instance {
                // A list is in the order of ids.
                id: format!("{:08}", list.len()),
                service: export.service.clone(),
                address: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
                tags: export.tags.clone(),
                weight: u32::from(export.weight > 0),
                capacity_per_second: export.capacity_per_second.map(|all| part(all, number, healthy)),
                time_to_live: None,
                source: InstanceSource::Topology,
                provenance: Provenance::ThisHost,
                health: match number < healthy {
                    true => Health::Healthy,
                    false => Health::Unhealthy,
                },
                drain: None,
                load: Arc::default(),
            }));
        }
    }
    let lists = lists.into_iter();
    lists.map(|(service, list)| (service, list.into())).collect()
}

/// Part of a capacity that the instance of this number is made up to have, of so many.
fn part(capacity: u64, number: u32, healthy: u32) -> u64 {
    let count = u64::from(healthy.max(1));
    capacity / count + u64::from(u64::from(number) < capacity % count)
}

/// Scales the numbers of an export's instances, `total` being those of its service, so that not too many are made up.
fn scaled(healthy: u32, all: u32, total: u64) -> (u32, u32) {
    let all = all.max(healthy);
    let part = |count: u32| match u64::from(count) * MAX_INSTANCES / total.max(MAX_INSTANCES) {
        0 => u32::from(count > 0),
        part => u32::try_from(part).unwrap_or(count),
    };
    (part(healthy), part(all))
}
