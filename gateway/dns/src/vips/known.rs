//! The services that this zone may see, the names by tag and by zone that there can be, and the tags whose label is not theirs alone.

use std::collections::BTreeSet;

use causeway_federation::{name::ServiceName, topology::Service};
use causeway_routing::{snapshot::Snapshot, target::Target};

use super::labels::{KnownTags, tag_label};

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

/// Tags that names hold by their label, which another tag that is known now bears as well; by service.
pub(super) type Contested = BTreeSet<(ServiceName, (String, String))>;

/// Tags of these targets whose label another tag has that is known now. Who asked first decides nothing: such a label is read
/// anew from what is known, as a gateway reads it that was never asked.
pub(super) fn contested<'a>(known: &KnownTags, targets: impl Iterator<Item = &'a Target>) -> Contested {
    let mut contested = Contested::new();
    for target in targets {
        for pair in target.tags.iter() {
            let label = tag_label(pair.0, pair.1).unwrap_or_default();
            if known
                .with_label(&target.service, &label)
                .any(|other| other != pair)
            {
                let pair = (pair.0.to_owned(), pair.1.to_owned());
                contested.insert((target.service.clone(), pair));
            }
        }
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

/// Every service that this zone may see.
pub(super) fn visible_services(snapshot: &Snapshot) -> Vec<ServiceName> {
    let services = snapshot.topology.services.iter();
    services
        .filter(|(name, service)| is_visible(snapshot, name, service))
        .map(|(name, _)| name.clone())
        .collect()
}

/// Tells whether a name can still be asked for and there are instances with its tags.
pub(super) fn in_use(known: &KnownTags, snapshot: &Snapshot, target: &Target) -> bool {
    exists(snapshot, target) && known.has_all(target)
}
