//! Layout that the demo makes of a topology file so that all of it fits on one host: gateways, links, instances and
//! ports.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::Arc,
};

use causeway_federation::{
    name::{GatewayId, GatewayName, ServiceName},
    topology::{Probe, Protocol, Topology, Vips},
    trust::Bundle,
};
use causeway_identity::ca::{Ca, CaError};
use ipnet::IpNet;

use super::{
    DemoError,
    instance::{self, Given},
    link::DemoLink,
    ranges::InstanceHosts,
};

/// The first port that needs no privilege, and what is added to those below.
const UNPRIVILEGED_PORT: u16 = 1024;
const MOVED_BY: u16 = 10_000;

/// The path from one gateway to another.
pub(super) struct Path {
    pub(super) from: GatewayId,
    pub(super) to: GatewayId,
    pub(super) link: DemoLink,
}

pub(super) fn gateway_name(number: usize) -> String {
    format!("gw{}", number + 1)
}

/// One gateway for each entry of a zone, and one for a zone without: that one only dials out.
pub(super) fn gateways(topology: &Topology) -> impl Iterator<Item = GatewayId> {
    topology.zones.iter().flat_map(|(zone, declared)| {
        (0..declared.gateways.len().max(1)).filter_map(|number| {
            let name = GatewayName::new(&gateway_name(number)).ok()?;
            Some(GatewayId::new(zone.clone(), name))
        })
    })
}

/// A throw-away CA for each trust domain. The topology gets their bundles in the place of the file's.
pub(super) fn authorities(topology: &mut Topology) -> Result<BTreeMap<String, Ca>, CaError> {
    let domains: BTreeSet<&str> = topology
        .zones
        .values()
        .map(|zone| zone.trust_domain.as_str())
        .collect();
    let cas = domains
        .into_iter()
        .map(|domain| Ok((domain.to_owned(), Ca::new(domain)?)));
    let cas: BTreeMap<String, Ca> = cas.collect::<Result<_, CaError>>()?;
    for (domain, bundle) in &mut topology.trust_domains {
        if let Some(ca) = cas.get(domain) {
            *bundle = Bundle::new([(ca.hash(), ca.certificate().to_vec())].into());
        }
    }
    Ok(cas)
}

/// The topology as a gateway with this range of virtual addresses reads it.
pub(super) fn view(topology: &Topology, range: IpNet) -> Topology {
    let mut seen = topology.clone();
    for zone in seen.zones.values_mut() {
        zone.vips = Vips::Loopback { range };
    }
    seen
}

/// Starts a built-in instance for each that the topology fixes, and puts its address there. Those of services with several ports are at
/// addresses of their own, for as long as what is returned lives.
pub(super) async fn start_instances(
    topology: &mut Topology,
    given: &Arc<Given>,
) -> Result<InstanceHosts, DemoError> {
    let mut hosts = InstanceHosts::default();
    for (name, zone) in &mut topology.zones {
        for declared in &mut zone.instances {
            let service = topology.services.get(&declared.service);
            let ports = service.map(|service| &service.ports);
            let is_alone =
                ports.is_none_or(|ports| ports.others.is_empty() && ports.primary.target.is_none());
            let host = match is_alone {
                true => Ipv4Addr::LOCALHOST,
                false => hosts.next().map_err(DemoError::Range)?,
            };
            let started = instance::start(name, declared, (host, ports), given.clone()).await;
            declared.address = started.map_err(DemoError::Instance)?;
        }
    }
    for service in topology.services.values_mut() {
        let is_grpc = service.ports.primary.protocol == Protocol::Grpc;
        // The built-in instances speak one of the two.
        if let Some(health) = &mut service.health {
            health.probe = match (is_grpc, health.probe.clone()) {
                (true, Probe::Http { .. }) => Probe::Grpc {
                    service: String::new(),
                },
                (false, Probe::Grpc { .. }) => Probe::Http {
                    path: "/healthz".to_owned(),
                },
                (_, probe) => probe,
            };
        }
    }
    Ok(hosts)
}

/// Lets services of a privileged port be served by anybody.
pub(super) fn move_ports(topology: &mut Topology) -> Vec<(ServiceName, u16)> {
    let mut moved = Vec::new();
    for (name, service) in &mut topology.services {
        for port in service.ports.iter_mut() {
            if port.number < UNPRIVILEGED_PORT {
                port.number += MOVED_BY;
                moved.push((name.clone(), port.number));
            }
            if let Some(target) = port.target.as_mut().filter(|target| **target < UNPRIVILEGED_PORT) {
                *target += MOVED_BY;
            }
        }
    }
    moved
}

/// A link from every gateway to every gateway of another zone that has a way in.
pub(super) async fn paths(topology: &Topology) -> Result<Vec<Path>, DemoError> {
    let mut paths = Vec::new();
    for from in gateways(topology) {
        let has_way_in = |id: &GatewayId| {
            let zone = topology.zones.get(&id.zone);
            zone.is_some_and(|zone| !zone.gateways.is_empty())
        };
        for to in gateways(topology).filter(|to| to.zone != from.zone && has_way_in(to)) {
            let link = DemoLink::open().await.map_err(DemoError::Link)?;
            let from = from.clone();
            paths.push(Path { from, to, link });
        }
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::default_topology;

    #[test]
    fn a_zone_without_a_way_in_has_one_gateway_all_the_same() {
        let topology = default_topology().unwrap().topology;
        let gateways: Vec<_> = gateways(&topology).map(|id| id.to_string()).collect();
        assert_eq!(gateways, ["east/gw1", "east/gw2", "plant/gw1", "west/gw1"]);
    }

    #[tokio::test]
    async fn nobody_has_a_link_to_a_zone_without_a_way_in_or_to_the_own_zone() {
        let topology = default_topology().unwrap().topology;
        let paths = paths(&topology).await.unwrap();
        let to: Vec<_> = paths
            .iter()
            .map(|path| (path.from.zone.as_str(), path.to.zone.as_str()))
            .collect();
        assert!(to.iter().all(|(from, to)| from != to && *to != "plant"), "{to:?}");
        // Two gateways of east to west, plant to three, west to two.
        assert_eq!(to.len(), 2 + 3 + 2);
    }

    #[test]
    fn a_port_that_needs_a_privilege_is_moved_and_told() {
        let mut topology = default_topology().unwrap().topology;
        for service in topology.services.values_mut() {
            service.ports.primary.number = 443;
        }
        let moved = move_ports(&mut topology);
        assert!(moved.iter().all(|(_, port)| *port == 10_443));
        assert_eq!(moved.len(), topology.services.len());
    }
}
