//! Gateways of other zones: tunnels with them, and what is heard of their zones.

use std::collections::{BTreeMap, BTreeSet};

use causeway_federation::{
    catalog::Age,
    name::{GatewayId, ZoneName},
};
use causeway_routing::snapshot::Link;

use super::Picture;
use crate::event::{EventKind, NewEvent};

/// Tells of tunnels that came, went and fell silent, gateway by gateway.
pub(super) fn tunnels(before: &Picture, after: &Picture, events: &mut Vec<NewEvent>) {
    let (old, new) = (&before.snapshot.links, &after.snapshot.links);
    let gone = old.keys().filter(|peer| !new.contains_key(*peer));
    events.extend(gone.map(|peer| down(after, peer)));
    for (peer, link) in new.iter() {
        events.extend(changed(peer, old.get(peer).copied(), *link));
    }
}

fn down(after: &Picture, peer: &GatewayId) -> NewEvent {
    let because = after.absences.get(peer).cloned().unwrap_or_default();
    NewEvent::new(
        EventKind::TunnelDown,
        format!("no tunnel with {peer} is up any more"),
    )
    .peer(peer)
    .because(because)
}

fn changed(peer: &GatewayId, before: Option<Link>, now: Link) -> Option<NewEvent> {
    let (kind, text) = match (before, now) {
        (Some(before), now) if before == now => return None,
        (None, Link::Up | Link::Stalled) => (EventKind::TunnelUp, format!("a tunnel with {peer} is up")),
        (Some(Link::Stalled), Link::Up) => (EventKind::TunnelHeard, format!("{peer} is heard again")),
        // It has thought better of it, or another process has taken its place.
        (Some(_), Link::Up) => (EventKind::TunnelUp, format!("a new tunnel with {peer} is up")),
        (Some(_), Link::Stalled) => (
            EventKind::TunnelStalled,
            format!("nothing is heard of {peer} on any tunnel, and it is tried last"),
        ),
        (_, Link::Draining) => (
            EventKind::PeerDraining,
            format!("{peer} shuts down, and takes only those who can go nowhere else"),
        ),
    };
    Some(NewEvent::new(kind, text).peer(peer))
}

/// Tells of gateways that are heard and of tunnels that are up already when a process looks for the first time. What it remembers of others
/// is not news.
pub(super) fn first(now: &Picture, events: &mut Vec<NewEvent>) {
    let (catalog, links) = (&now.snapshot.catalog, &now.snapshot.links);
    let heard = catalog.entries().filter(|entry| entry.age == Age::Fresh);
    let heard = heard.map(|entry| &entry.record.origin);
    let peers: BTreeSet<&GatewayId> = heard.chain(links.keys()).collect();
    events.extend(peers.into_iter().map(peer_seen));
    events.extend(links.iter().filter_map(|(peer, link)| changed(peer, None, *link)));
}

fn peer_seen(peer: &GatewayId) -> NewEvent {
    let text = format!("gateway {peer} was heard of for the first time since this process began");
    NewEvent::new(EventKind::PeerSeen, text).peer(peer)
}

/// Tells of gateways that were not known before.
pub(super) fn seen(before: &Picture, after: &Picture, events: &mut Vec<NewEvent>) {
    let (old, new) = (&before.snapshot, &after.snapshot);
    let known = |peer: &GatewayId| old.catalog.entry(peer).is_some() || old.links.contains_key(peer);
    let recorded = new.catalog.entries().map(|entry| &entry.record.origin);
    let unrecorded = |peer: &&GatewayId| new.catalog.entry(peer).is_none();
    let now_known = recorded.chain(new.links.keys().filter(unrecorded));
    events.extend(now_known.filter(|peer| !known(peer)).map(peer_seen));
}

/// Tells how zones age: a zone is as fresh as the freshest of its gateways.
pub(super) fn ages(before: &Picture, after: &Picture, events: &mut Vec<NewEvent>) {
    let (old, new) = (zone_ages(before), zone_ages(after));
    for (zone, age) in new {
        let Some(before) = old.get(zone) else { continue };
        let (kind, text, because) = match age {
            _ if *before == age => continue,
            Age::Fresh => {
                events.push(fresh(zone));
                continue;
            }
            Age::Suspect => (
                EventKind::ZoneSuspect,
                "is suspect: used as before while its tunnel answers",
                "none of its gateways was heard of for a while",
            ),
            Age::Withdrawn => (
                EventKind::ZoneWithdrawn,
                "is withdrawn, and not used at all",
                "none of its gateways was heard of for too long",
            ),
        };
        let event = NewEvent::new(kind, format!("zone {zone} {text}"));
        events.push(event.subject(zone).because(because));
    }
}

pub(super) fn fresh(zone: &ZoneName) -> NewEvent {
    NewEvent::new(EventKind::ZoneFresh, format!("zone {zone} is heard of again")).subject(zone)
}

pub(super) fn zone_ages(picture: &Picture) -> BTreeMap<&ZoneName, Age> {
    let mut ages: BTreeMap<&ZoneName, Age> = BTreeMap::new();
    for entry in picture.snapshot.catalog.entries() {
        let zone = &entry.record.origin.zone;
        if *zone != picture.snapshot.zone {
            let age = ages.entry(zone).or_insert(entry.age);
            *age = (*age).min(entry.age);
        }
    }
    ages
}
