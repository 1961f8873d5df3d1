//! Single points of failure: services that one zone, gateway or instance alone serves.

use std::collections::BTreeSet;

use causeway_federation::{
    name::{ServiceName, ZoneName},
    topology::{Service, Topology},
};
use serde::Serialize;

use super::ZoneExports;

/// Part of a federation with which a service is lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SinglePoint {
    pub service: ServiceName,
    pub zone: ZoneName,
    pub kind: SinglePointKind,
}

/// Smallest part that a service is lost with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SinglePointKind {
    /// There is no other instance anywhere.
    Instance,
    /// The zone has one gateway by the topology, and no other zone serves.
    Gateway,
    Zone,
}

/// Finds the services that are lost with one part, and the smallest such part of each. Those that nobody serves are left out.
#[must_use]
pub fn single_points(topology: &Topology, exports: &ZoneExports) -> Vec<SinglePoint> {
    let services = topology.services.iter();
    let single = |(name, service): (&ServiceName, _)| single_point(topology, exports, (name, service));
    services.filter_map(single).collect()
}

fn single_point(
    topology: &Topology,
    exports: &ZoneExports,
    (name, service): (&ServiceName, &Service),
) -> Option<SinglePoint> {
    let serving = exports.iter().flat_map(|(zone, exports)| {
        let of_service = exports
            .iter()
            .filter(|one| one.service == *name && one.weight > 0);
        of_service.map(move |export| (zone, export.healthy))
    });
    let serving: Vec<(&ZoneName, u32)> = serving
        .filter(|(zone, healthy)| *healthy > 0 && service.may_run_in(zone))
        .collect();
    let zones: BTreeSet<&ZoneName> = serving.iter().map(|(zone, _)| *zone).collect();
    let zone = match zones.len() {
        1 => *zones.first()?,
        _ => return None,
    };
    let instances: u64 = serving.iter().map(|(_, healthy)| u64::from(*healthy)).sum();
    let kind = match (instances, topology.has_one_gateway(zone)) {
        (1, _) => SinglePointKind::Instance,
        (_, true) => SinglePointKind::Gateway,
        (_, false) => SinglePointKind::Zone,
    };
    Some(SinglePoint {
        service: name.clone(),
        zone: zone.clone(),
        kind,
    })
}
