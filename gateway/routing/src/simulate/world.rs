//! The federation that loads are tried in: exports of its zones, and the snapshots that their gateways would have.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use causeway_federation::{
    catalog::{Age, Catalog, CatalogEntry, Export, InstanceState, Record, exports},
    name::{GatewayId, GatewayName, ServiceName, Tags, ZoneName},
    registry::{InstanceSource, Provenance},
    topology::{FixedInstance, Topology},
};

use crate::{
    balance::InstanceList,
    capacity::MeasuredCapacities,
    route::CompiledServices,
    snapshot::{Health, Instance, Link, Snapshot},
};

/// Instances of one service and zone that are made up; of more, their proportion counts.
const MAX_INSTANCES: u64 = 200;

/// Instances of each zone, as it tells the others of them.
pub type ZoneExports = BTreeMap<ZoneName, Vec<Export>>;

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

/// One instance that can be lost, among others with the same tags in its zone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct InstanceLoss {
    pub zone: ZoneName,
    pub service: ServiceName,
    pub tags: Tags,
    pub weight: u64,
    pub capacity_per_second: Option<u64>,
}

impl InstanceLoss {
    /// The exports that are left without it, and what those of its kind can take together: each has a part by its weight.
    pub(super) fn applied(
        &self,
        (exports, measured): (&ZoneExports, &MeasuredCapacities),
    ) -> (ZoneExports, MeasuredCapacities) {
        let (mut left, mut measured) = (exports.clone(), measured.clone());
        let of_zone = left.get_mut(&self.zone).into_iter().flatten();
        for export in of_zone.filter(|one| one.service == self.service && one.tags == self.tags) {
            export.instances = export.instances.saturating_sub(1);
            export.healthy = export.healthy.saturating_sub(1);
            let before = export.weight;
            export.weight = export.weight.saturating_sub(self.weight);
            let part = export.weight as f64 / before.max(1) as f64;
            measured.scale((&self.service, &self.zone, &self.tags), part);
            let capacity = export.capacity_per_second.zip(self.capacity_per_second);
            export.capacity_per_second = capacity.map(|(all, one)| all.saturating_sub(one));
        }
        (left, measured)
    }
}

/// Every instance that a topology fixes. Those that are alike are there once: to lose one is to lose any.
#[must_use]
pub fn fixed_instances(topology: &Topology) -> BTreeSet<InstanceLoss> {
    let zones = topology.zones.iter();
    let loss = |zone: &ZoneName, instance: &FixedInstance| InstanceLoss {
        zone: zone.clone(),
        service: instance.service.clone(),
        tags: instance.tags.clone(),
        weight: u64::from(instance.weight),
        capacity_per_second: instance.capacity_per_second,
    };
    zones
        .flat_map(|(name, zone)| zone.instances.iter().map(move |instance| loss(name, instance)))
        .collect()
}

/// One instance of each kind that zones tell of: the mean of those that are healthy, because no more is told.
#[must_use]
pub fn told_instances(exports: &ZoneExports) -> BTreeSet<InstanceLoss> {
    let loss = |zone: &ZoneName, export: &Export| InstanceLoss {
        zone: zone.clone(),
        service: export.service.clone(),
        tags: export.tags.clone(),
        weight: export.weight.div_ceil(u64::from(export.healthy.max(1))),
        capacity_per_second: export
            .capacity_per_second
            .map(|all| all.div_ceil(u64::from(export.healthy.max(1)))),
    };
    exports
        .iter()
        .flat_map(|(zone, exports)| {
            let healthy = exports.iter().filter(|export| export.healthy > 0);
            healthy.map(move |export| loss(zone, export))
        })
        .collect()
}

/// The snapshot that a gateway of `zone` would have, once what the lost zones told last is forgotten.
pub(super) fn seen_from(
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
        compiled: CompiledServices::default(),
    }
    .compiled_after(&CompiledServices::default())
}

/// The record of the one gateway that a zone is taken to have: a zone has its weight once, however many there are.
pub(super) fn entry(zone: &ZoneName, exports: &[Export]) -> Option<CatalogEntry> {
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
pub(super) fn scaled(healthy: u32, all: u32, total: u64) -> (u32, u32) {
    let all = all.max(healthy);
    let part = |count: u32| match u64::from(count) * MAX_INSTANCES / total.max(MAX_INSTANCES) {
        0 => u32::from(count > 0),
        part => u32::try_from(part).unwrap_or(count),
    };
    (part(healthy), part(all))
}
