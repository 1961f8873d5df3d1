//! Zones, services, instances and snapshots as tests need them, in a line each. For tests of this crate and, by the feature
//! `test-util`, of those above it.

#![allow(clippy::unwrap_used, reason = "what fails in a test's set-up fails the test")]

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use causeway_federation::{
    catalog::{Age, Catalog, CatalogEntry, Export, Record},
    edition::Fingerprint,
    name::{GatewayId, GatewayName, ServiceName, Tags, ZoneName},
    registry::InstanceSource,
    topology::{Topology, parse},
};

use crate::{
    callers,
    outlier::Ejections,
    reach::OwnListeners,
    route::CompiledServices,
    snapshot::{Health, Instance, Link, Snapshot},
};

pub fn zone(name: &str) -> ZoneName {
    ZoneName::new(name).unwrap()
}

pub fn service(name: &str) -> ServiceName {
    ServiceName::new(name).unwrap()
}

/// `west` is the gateway `west/gw1`, `west/gw2` itself.
pub fn gateway(name: &str) -> GatewayId {
    let (zone_name, gateway) = name.split_once('/').unwrap_or((name, "gw1"));
    GatewayId::new(zone(zone_name), GatewayName::new(gateway).unwrap())
}

pub fn tags(pairs: &[(&str, &str)]) -> Tags {
    pairs.iter().copied().collect()
}

/// A topology of these zones (YAML flow maps without their gateways) and services.
pub fn topology(zones: &str, services: &str) -> Arc<Topology> {
    let zones = zones
        .lines()
        .map(|zone| zone.replacen('{', "{ gateways: [], ", 1) + "\n")
        .collect::<String>();
    let text = format!("version: 1\ntrust_domain: test.internal\nzones:\n{zones}\nservices:\n{services}\n");
    match parse(&text, "test.yaml") {
        Ok(parsed) => Arc::new(parsed.topology),
        Err(findings) => panic!("{findings:?}\n{text}"),
    }
}

/// An instance of `orders`.
pub fn instance(id: &str, address: SocketAddr, weight: u32, tags: &[(&str, &str)]) -> Arc<Instance> {
    Arc::new(Instance {
        id: id.to_owned(),
        service: service("orders"),
        address,
        tags: self::tags(tags),
        weight,
        capacity_per_second: None,
        time_to_live: None,
        source: InstanceSource::Topology,
        health: Health::Healthy,
        drain: None,
        load: Arc::default(),
        provenance: causeway_federation::registry::Provenance::ThisHost,
    })
}

/// Tags, instances, and how many of those are healthy (each of weight 1).
pub type Exported<'a> = (&'a [(&'a str, &'a str)], u32, u32);

/// Makes the entry of what `origin` exports of `orders`.
pub fn entry(origin: &str, age: Age, draining: bool, exports: &[Exported<'_>]) -> CatalogEntry {
    let export = |(tags, instances, healthy): &Exported<'_>| Export {
        service: service("orders"),
        tags: self::tags(tags),
        instances: *instances,
        healthy: *healthy,
        weight: u64::from(*healthy),
        capacity_per_second: None,
    };
    let exports = exports.iter().map(export);
    let record = Record {
        origin: gateway(origin),
        incarnation: 1,
        version: 1,
        exports: exports.collect(),
        draining,
        topology: Fingerprint::default(),
        topology_generation: 0,
        trust: Default::default(),
        trust_ended: 0,
        shifts: Default::default(),
        signed: None,
    };
    CatalogEntry {
        record: Arc::new(record),
        age,
        via: None,
    }
}

/// A snapshot of zone `own`.
pub fn snapshot(
    own: &str,
    topology: &Arc<Topology>,
    instances: Vec<Arc<Instance>>,
    entries: Vec<CatalogEntry>,
    links: &[(&str, Link)],
) -> Snapshot {
    let instances = Arc::new(BTreeMap::from([(service("orders"), instances.into())]));
    Snapshot {
        generation: 1,
        zone: zone(own),
        topology: topology.clone(),
        callers: callers::Index::of(&instances),
        instances,
        catalog: Arc::new(Catalog::new(entries)),
        links: Arc::new(links.iter().map(|(name, link)| (gateway(name), *link)).collect()),
        listeners: OwnListeners::default(),
        ejections: Ejections::default(),
        ceilings: crate::failback::Ceilings::default(),
        shifts: crate::shift::Shifts::default(),
        capacity: Arc::default(),
        compiled: CompiledServices::default(),
    }
    .compiled_after(&CompiledServices::default())
}
