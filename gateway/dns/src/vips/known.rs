//! The services that this zone may see, and the tags that are known of them.

use std::collections::{BTreeMap, BTreeSet};

use causeway_federation::{
    name::{MAX_LABEL_BYTES, ServiceName, Tags},
    topology::Service,
};
use causeway_routing::{snapshot::Snapshot, target::Target};

/// Tells whether this zone may see `service`: it is exported to it, or it has instances of its own.
#[must_use]
pub(crate) fn is_visible(snapshot: &Snapshot, name: &ServiceName, service: &Service) -> bool {
    service.is_exported_to(&snapshot.zone)
        || snapshot.instances.get(name).is_some_and(|own| !own.is_empty())
        || snapshot
            .topology
            .zones
            .get(&snapshot.zone)
            .is_some_and(|zone| zone.instances.iter().any(|instance| instance.service == *name))
}

/// Every pair of tag key and value that the topology, an own instance or another zone's export has for `service`.
#[must_use]
pub(crate) fn tag_pairs<'a>(
    snapshot: &'a Snapshot,
    service: &'a ServiceName,
) -> BTreeSet<(&'a str, &'a str)> {
    let mut pairs = BTreeSet::new();
    if let Some(declared) = snapshot.topology.services.get(service) {
        let routed = declared.routes.iter().flat_map(|route| {
            let mirror = route.mirror.iter().map(|mirror| &mirror.tags);
            route.split.iter().map(|arm| &arm.tags).chain(mirror)
        });
        pairs.extend(
            declared
                .split
                .iter()
                .map(|arm| &arm.tags)
                .chain(routed)
                .flat_map(Tags::iter),
        );
    }
    let fixed = snapshot.topology.zones.values().flat_map(|zone| &zone.instances);
    pairs.extend(
        fixed
            .filter(|instance| instance.service == *service)
            .flat_map(|instance| instance.tags.iter()),
    );
    let own = snapshot
        .instances
        .get(service)
        .into_iter()
        .flat_map(|list| list.iter());
    pairs.extend(own.flat_map(|instance| instance.tags.iter()));
    let may_run = |zone| snapshot.topology.may_run(service, zone);
    for entry in snapshot
        .catalog
        .entries()
        .filter(|entry| may_run(&entry.record.origin.zone))
    {
        pairs.extend(
            entry
                .record
                .exports
                .of(service)
                .flat_map(|export| export.tags.iter()),
        );
    }
    pairs
}

/// Tells whether some instance, export or split arm could bear all that `target` asks for.
pub(super) fn is_known(snapshot: &Snapshot, target: &Target) -> bool {
    let pairs = tag_pairs(snapshot, &target.service);
    target.tags.iter().all(|pair| pairs.contains(&pair))
}

/// Tags that names hold by their label, which another tag that is known now bears as well; by service.
pub(super) type Contested = BTreeSet<(ServiceName, (String, String))>;

/// Tags of these targets whose label another tag has that is known now. Who asked first decides nothing: such a label is read
/// anew from what is known, as a gateway reads it that was never asked.
pub(super) fn contested<'a>(snapshot: &Snapshot, targets: impl Iterator<Item = &'a Target>) -> Contested {
    let mut held: BTreeMap<&ServiceName, BTreeSet<(&str, &str)>> = BTreeMap::new();
    for target in targets.filter(|target| target.tags.iter().next().is_some()) {
        held.entry(&target.service)
            .or_default()
            .extend(target.tags.iter());
    }
    let mut contested = Contested::new();
    for (service, held) in held {
        let known = tag_pairs(snapshot, service);
        let bears = |pair: &(&str, &str), other: &(&str, &str)| {
            pair != other
                && pair.0.len() + pair.1.len() == other.0.len() + other.1.len()
                && tag_label(pair.0, pair.1) == tag_label(other.0, other.1)
        };
        let lost = held
            .iter()
            .filter(|pair| known.iter().any(|other| bears(pair, other)));
        contested
            .extend(lost.map(|(key, value)| (service.clone(), ((*key).to_owned(), (*value).to_owned()))));
    }
    contested
}

/// Tells whether a name by tag or by zone can still be asked for: its service is visible and its zone is in the topology.
pub(super) fn exists(snapshot: &Snapshot, target: &Target) -> bool {
    let topology = &snapshot.topology;
    let service = topology.services.get(&target.service);
    service.is_some_and(|service| is_visible(snapshot, &target.service, service))
        && target
            .zone
            .as_ref()
            .is_none_or(|zone| topology.zones.contains_key(zone))
}

/// The DNS label of a tag: `version-v2`. Characters that a label cannot hold become `-`. `None` if it would be too long.
#[must_use]
pub(crate) fn tag_label(key: &str, value: &str) -> Option<String> {
    let one = |c: char| match c.to_ascii_lowercase() {
        c if c.is_ascii_lowercase() || c.is_ascii_digit() => c,
        _ => '-',
    };
    let label: String = key.chars().chain(['-']).chain(value.chars()).map(one).collect();
    (label.len() <= MAX_LABEL_BYTES).then_some(label)
}
