//! Gateways of other zones: tunnels with them, and what is heard of their zones.

use causeway_federation::name::GatewayId;
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
