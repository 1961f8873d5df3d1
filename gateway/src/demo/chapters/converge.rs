//! The zones come up: tunnels, zone sync and health checks, until every zone knows every other.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use causeway_federation::{
    catalog::Age,
    name::{GatewayId, ZoneName},
    topology::Topology,
};
use causeway_routing::snapshot::{Health, Link, Snapshot};

use super::{PATIENCE, Stage};
use crate::{
    demo::{
        DemoError,
        federation::{DemoFederation, Member},
        story,
    },
    output::Word,
};

pub(super) async fn tell(stage: &mut Stage) -> Result<(), DemoError> {
    let Stage {
        federation, story, ..
    } = stage;
    let about = format!(
        "{} in {} with certificates of {}: they dial each other over mutually authenticated QUIC, check \
         their own instances, and tell each other what they export.",
        story::count(federation.members.len(), "gateway"),
        story::count(federation.topology.zones.len(), "zone"),
        authorities(&federation.topology),
    );
    story.chapter("The zones come up", &about)?;
    let begun = Instant::now();
    federation.connect();
    wait(federation).await?;
    let took = story::time(begun.elapsed());
    story.done(&format!(
        "Every zone knows every other and all instances are healthy after {took}."
    ))?;
    for (service, port) in &federation.moved_ports {
        let text = format!("{service} listens on port {port} here: its own port needs a privilege.");
        story.act(&text)?;
    }
    story.blank()?;
    let header = [
        "ZONE",
        "WAY IN",
        "TUNNELS TO",
        "INSTANCES",
        "VIRTUAL ADDRESSES",
        "MESH DNS",
    ];
    let rows = federation
        .members
        .iter()
        .map(|member| row(member, &federation.topology));
    let rows = rows.collect();
    Ok(story.table(&header, rows)?)
}

/// Says in words who issued the certificates.
fn authorities(topology: &Topology) -> String {
    let zones = topology.zones.values();
    let domains: BTreeSet<&str> = zones.map(|zone| zone.trust_domain.as_str()).collect();
    match domains.len() {
        1 => "a throw-away CA".to_owned(),
        _ => {
            let domains: Vec<_> = domains.into_iter().collect();
            format!(
                "throw-away CAs, one for each trust domain ({})",
                domains.join(", ")
            )
        }
    }
}

/// Waits until every zone knows every other.
pub(super) async fn wait(federation: &DemoFederation) -> Result<(), DemoError> {
    let members = &federation.members;
    let ids: Vec<_> = members.iter().map(|member| member.gateway.id().clone()).collect();
    for member in members {
        let ready = |snapshot: &Snapshot| knows_all(snapshot, &federation.topology, &ids);
        if !member.until(PATIENCE, ready).await {
            return Err(DemoError::Late("every zone knows every other"));
        }
    }
    Ok(())
}

/// Tells whether a gateway has a tunnel to every other that it can reach, and has heard that all instances are healthy.
fn knows_all(snapshot: &Snapshot, topology: &Topology, gateways: &[GatewayId]) -> bool {
    let own = snapshot.instances.values().flat_map(|list| list.iter());
    let healthy = own.filter(|instance| instance.health == Health::Healthy).count();
    let others = gateways.iter().filter(|id| id.zone != snapshot.zone);
    healthy == instances(topology, &snapshot.zone)
        && others
            .filter(|id| is_joined(topology, &snapshot.zone, &id.zone))
            .all(|id| knows(snapshot, topology, id))
}

fn knows(snapshot: &Snapshot, topology: &Topology, id: &GatewayId) -> bool {
    let Some(entry) = snapshot.catalog.entry(id) else {
        return false;
    };
    let healthy: usize = entry
        .record
        .exports
        .iter()
        .map(|export| export.healthy as usize)
        .sum();
    snapshot.links.get(id) == Some(&Link::Up)
        && entry.age == Age::Fresh
        && healthy == instances(topology, &id.zone)
}

/// Of the services that the topology declares.
fn instances(topology: &Topology, zone: &ZoneName) -> usize {
    let declared = topology.zones.get(zone).map(|zone| zone.instances.iter());
    declared.map_or(0, |instances| {
        instances
            .filter(|instance| topology.services.contains_key(&instance.service))
            .count()
    })
}

/// Two zones without a way in cannot have a tunnel between them.
fn is_joined(topology: &Topology, one: &ZoneName, other: &ZoneName) -> bool {
    let has_way_in = |zone| {
        topology
            .zones
            .get(zone)
            .is_some_and(|zone| !zone.gateways.is_empty())
    };
    has_way_in(one) || has_way_in(other)
}

fn row(member: &Member, topology: &Topology) -> Vec<Word> {
    let snapshot = member.snapshot();
    let zone = topology.zones.get(member.zone());
    let gateways = zone.map_or(0, |zone| zone.gateways.len());
    let way_in = match gateways {
        0 => "none: dials out".to_owned(),
        1 => "yes".to_owned(),
        _ => member.gateway.id().gateway.to_string(),
    };
    let linked: BTreeSet<&str> = snapshot.links.keys().map(|id| id.zone.as_str()).collect();
    let mut services: BTreeMap<&str, usize> = BTreeMap::new();
    for instance in zone.map_or(&[][..], |zone| &zone.instances) {
        *services.entry(instance.service.as_str()).or_default() += 1;
    }
    let services: Vec<_> = services
        .iter()
        .map(|(service, count)| format!("{service} x{count}"))
        .collect();
    let dns = member.gateway.dns_addresses().first();
    vec![
        Word::from(member.zone()),
        way_in.into(),
        linked.into_iter().collect::<Vec<_>>().join(", ").into(),
        services.join(", ").into(),
        member.range.net.into(),
        dns.map(ToString::to_string).unwrap_or_default().into(),
    ]
}
