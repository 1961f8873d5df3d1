//! The TXT record of a service: how it is reached, and who serves it now. For people with `dig`, not for programs.

use causeway_federation::catalog::{Age, Catalog, CatalogEntry};
use causeway_routing::{
    snapshot::{Health, Link, Snapshot},
    target::Target,
};

/// Most gateways that one answer lists.
const MAX_LINES: usize = 64;

/// `protocol=http port=8080`, and the same of each further port with its name, then a line for the own zone and one for each gateway that exports the service.
pub(super) fn status(snapshot: &Snapshot, target: &Target) -> Vec<String> {
    let Some(service) = snapshot.topology.services.get(&target.service) else {
        return Vec::new();
    };
    let how = service.ports.iter().map(|port| {
        let name = port.name.as_ref().map(|name| format!(" name={name}"));
        let (protocol, name) = (port.protocol.word(), name.unwrap_or_default());
        format!("protocol={protocol} port={}{name}", port.number)
    });
    let others = snapshot
        .catalog
        .entries()
        .filter_map(|entry| other_zone(snapshot, target, entry));
    how.chain(own_zone(snapshot, target))
        .chain(others)
        .take(MAX_LINES)
        .collect()
}

fn wants(target: &Target, zone: &causeway_federation::name::ZoneName) -> bool {
    target.zone.as_ref().is_none_or(|wanted| wanted == zone)
}

fn own_zone(snapshot: &Snapshot, target: &Target) -> Option<String> {
    if !wants(target, &snapshot.zone) {
        return None;
    }
    let all = snapshot.instances.get(&target.service)?;
    let fitting = || all.iter().filter(|instance| instance.tags.matches(&target.tags));
    let healthy = fitting()
        .filter(|instance| instance.health == Health::Healthy)
        .count();
    let instances = fitting().count();
    (instances > 0).then(|| format!("zone={} healthy={healthy}/{instances} own", snapshot.zone))
}

fn other_zone(snapshot: &Snapshot, target: &Target, entry: &CatalogEntry) -> Option<String> {
    let origin = &entry.record.origin;
    if !wants(target, &origin.zone) || !snapshot.topology.may_run(&target.service, &origin.zone) {
        return None;
    }
    let (instances, healthy) = Catalog::exports(entry, &target.service, &target.tags)
        .fold((0, 0), |(instances, healthy), export| {
            (instances + export.instances, healthy + export.healthy)
        });
    let link = match snapshot.links.get(origin) {
        Some(Link::Up) => "up",
        Some(Link::Stalled) => "stalled",
        Some(Link::Draining) => "draining",
        None => "none",
    };
    let age = match entry.age {
        Age::Fresh => "fresh",
        Age::Suspect => "suspect",
        Age::Withdrawn => "withdrawn",
    };
    let draining = if entry.record.draining { " draining" } else { "" };
    (instances > 0).then(|| {
        format!(
            "zone={} gateway={} healthy={healthy}/{instances} age={age} tunnel={link}{draining}",
            origin.zone, origin.gateway
        )
    })
}
