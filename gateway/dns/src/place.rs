//! The meaning of a name below the mesh domain. Pure: labels and a snapshot in, a [`NamePlace`] out.
//!
//! | name | stands for |
//! | --- | --- |
//! | `orders` | the service |
//! | `version-v2.orders` | its instances with that tag; up to three tags in any order |
//! | `orders.west.zone`, `version-v2.orders.west.zone` | its instances in one zone |
//! | `_orders._tcp.orders`, `_http._tcp.orders` | the same, for SRV (RFC 2782): its primary port, by the service's name or its protocol |
//! | `_admin._tcp.orders` | its port of that name, before all else that the word could mean |
//! | `west.zone` | the zone itself |
//!
//! A tag's label is `key-value`, matched against the tags that are known of the service. A label that two known tags share
//! stands for neither, at every gateway alike, whichever was asked for first: an answer that ignored one of them would be a lie.

use causeway_federation::{
    name::{ServiceName, Tags, ZoneName},
    topology::{Protocol, Service, ServicePort},
};
use causeway_routing::{
    snapshot::Snapshot,
    target::{Binding, Target},
};

use crate::vips::{VipNames, is_visible, tag_label};

/// The label below which names by zone lie.
const ZONE_LABEL: &str = "zone";
/// Most tags of one name: eleven of them would have 2,047 combinations, each with an address and a socket of its own.
const MAX_TAGS: usize = 3;
/// Longest name in bytes, as people write it (RFC 1035 §2.3.4).
const MAX_NAME_BYTES: usize = 253;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NamePlace {
    /// The mesh domain itself.
    Apex,
    /// Nothing is there, but there are names below it (RFC 8020).
    Between,
    Zone(ZoneName),
    Name(Target),
    /// A name that has only SRV records: `_orders._tcp.orders`.
    ServiceRecord(Binding),
    Nothing,
}

/// `labels` are lower case, leftmost first, without those of the mesh domain.
pub(super) fn place(snapshot: &Snapshot, names: &VipNames, labels: &[&str]) -> NamePlace {
    match labels {
        [] => NamePlace::Apex,
        [first, ..] if first.starts_with('_') => service_record(snapshot, names, labels),
        _ => plain(snapshot, names, labels),
    }
}

/// The service, or part of one, that `name` stands for, which ends in the mesh domain and may be in any case; `None` if it
/// stands for none.
pub fn target_of(snapshot: &Snapshot, names: &VipNames, name: &str) -> Option<Target> {
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.len() > MAX_NAME_BYTES {
        return None;
    }
    let name = name.to_ascii_lowercase();
    let below = name
        .strip_suffix(&snapshot.topology.dns.domain)?
        .strip_suffix('.')?;
    let labels: Vec<&str> = below.split('.').collect();
    match place(snapshot, names, &labels) {
        NamePlace::Name(target) => Some(target),
        _ => None,
    }
}

/// Names without SRV's underscores.
fn plain(snapshot: &Snapshot, names: &VipNames, labels: &[&str]) -> NamePlace {
    let by_zone = match labels {
        [rest @ .., last] if *last == ZONE_LABEL => below_zone(snapshot, names, rest),
        _ => NamePlace::Nothing,
    };
    match by_zone {
        // A service may be called `zone`, too.
        NamePlace::Nothing | NamePlace::Between => {
            target(snapshot, names, labels, None).map_or(by_zone, NamePlace::Name)
        }
        found => found,
    }
}

fn below_zone(snapshot: &Snapshot, names: &VipNames, labels: &[&str]) -> NamePlace {
    let [rest @ .., zone] = labels else {
        return NamePlace::Between;
    };
    let Some((zone, _)) = snapshot.topology.zones.get_key_value(*zone) else {
        return NamePlace::Nothing;
    };
    if rest.is_empty() {
        return NamePlace::Zone(zone.clone());
    }
    target(snapshot, names, rest, Some(zone)).map_or(NamePlace::Nothing, NamePlace::Name)
}

fn service_record(snapshot: &Snapshot, names: &VipNames, labels: &[&str]) -> NamePlace {
    let named = |rest: &[&str]| match plain(snapshot, names, rest) {
        NamePlace::Name(target) => {
            let service = snapshot.topology.services.get(&target.service)?;
            Some((target, service))
        }
        _ => None,
    };
    if let [transport, rest @ ..] = labels
        && let Some((_, service)) = named(rest)
        && service
            .ports
            .iter()
            .any(|port| *transport == transport_label(port))
    {
        return NamePlace::Between;
    }
    if let [name, transport, rest @ ..] = labels
        && let Some((target, service)) = named(rest)
        && let Some(port) = name
            .strip_prefix('_')
            .and_then(|name| port_called(service, &target.service, name))
        && *transport == transport_label(port)
    {
        let port = port.name.clone();
        return NamePlace::ServiceRecord(Binding { target, port });
    }
    NamePlace::Nothing
}

/// The port of this name; the primary one also by the name of its service, and by its protocol.
fn port_called<'s>(service: &'s Service, own: &ServiceName, name: &str) -> Option<&'s ServicePort> {
    let is_called = |port: &&ServicePort| port.name.as_ref().is_some_and(|own| own.as_str() == name);
    let primary = &service.ports.primary;
    let is_primary = name == own.as_str() || name == primary.protocol.word();
    let named = service.ports.iter().find(is_called);
    named.or_else(|| is_primary.then_some(primary))
}

fn transport_label(port: &ServicePort) -> &'static str {
    match port.protocol {
        Protocol::Udp => "_udp",
        _ => "_tcp",
    }
}

/// A service that this zone may see, with the tags that the labels before it name.
fn target(snapshot: &Snapshot, names: &VipNames, labels: &[&str], zone: Option<&ZoneName>) -> Option<Target> {
    let (service, tags) = labels.split_last()?;
    let (name, service) = snapshot.topology.services.get_key_value(*service)?;
    if !is_visible(snapshot, name, service) {
        return None;
    }
    Some(Target {
        service: name.clone(),
        tags: read_tags(names, name, tags)?,
        zone: zone.cloned(),
    })
}

/// One tag for each label, all with different keys; `None` unless each label stands for exactly one tag.
fn read_tags(names: &VipNames, service: &ServiceName, labels: &[&str]) -> Option<Tags> {
    if labels.len() > MAX_TAGS {
        return None;
    }
    let pairs = labels.iter().map(|label| names.tag_with_label(service, label));
    let pairs: Vec<(&str, &str)> = pairs.collect::<Option<_>>()?;
    let tags: Tags = pairs.iter().copied().collect();
    (tags.len() == pairs.len()).then_some(tags)
}

/// The labels of `target`, leftmost first, tags in order of their keys. `None` if a tag has no label.
pub(super) fn canonical_labels(target: &Target) -> Option<Vec<String>> {
    let mut labels = target
        .tags
        .iter()
        .map(|(key, value)| tag_label(key, value))
        .collect::<Option<Vec<String>>>()?;
    labels.push(target.service.to_string());
    if let Some(zone) = &target.zone {
        labels.extend([zone.to_string(), ZONE_LABEL.to_owned()]);
    }
    Some(labels)
}

/// The labels of a zone's own name.
pub(super) fn zone_labels(zone: &ZoneName) -> [&str; 2] {
    [zone.as_str(), ZONE_LABEL]
}
