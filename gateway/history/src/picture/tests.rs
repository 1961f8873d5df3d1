use std::sync::Arc;

use causeway_federation::topology::Topology;
use causeway_routing::{
    snapshot::{Link, Snapshot},
    testbed::{self, gateway},
};

use super::*;
use crate::event::EventKind;

fn topology() -> Arc<Topology> {
    testbed::topology(
        "  home: {}\n  east: {}\n  west: {}",
        "  orders: { port: 80, protocol: tcp, failover: [{ zone: east }, { zone: west }] }",
    )
}

fn picture(snapshot: Snapshot) -> Picture {
    Picture {
        snapshot: Arc::new(snapshot),
        absences: BTreeMap::new(),
    }
}

fn linked(links: &[(&str, Link)]) -> Picture {
    picture(testbed::snapshot(
        "home",
        &topology(),
        Vec::new(),
        Vec::new(),
        links,
    ))
}

fn told(before: &Picture, after: &Picture) -> Vec<(EventKind, Option<String>)> {
    let events = events(before, after).into_iter();
    events.map(|event| (event.kind, event.peer)).collect()
}

#[test]
fn tunnels_that_come_go_and_fall_silent_are_told_once_each() {
    use EventKind::{PeerDraining, TunnelDown, TunnelHeard, TunnelStalled, TunnelUp};
    let states = [None, Some(Link::Up), Some(Link::Stalled), Some(Link::Draining)];
    let expected = [
        [None, Some(TunnelUp), Some(TunnelUp), Some(PeerDraining)],
        [Some(TunnelDown), None, Some(TunnelStalled), Some(PeerDraining)],
        [Some(TunnelDown), Some(TunnelHeard), None, Some(PeerDraining)],
        [Some(TunnelDown), Some(TunnelUp), Some(TunnelStalled), None],
    ];
    let of = |state: Option<Link>| match state {
        Some(link) => linked(&[("east", link)]),
        None => linked(&[]),
    };
    for (from, row) in states.into_iter().zip(expected) {
        for (to, kind) in states.into_iter().zip(row) {
            let kind = kind.map(|kind| (kind, Some("east/gw1".to_owned())));
            assert_eq!(
                told(&of(from), &of(to)),
                kind.into_iter().collect::<Vec<_>>(),
                "{from:?} {to:?}"
            );
        }
    }
}

#[test]
fn a_tunnel_that_is_gone_says_why() {
    let mut after = linked(&[]);
    after
        .absences
        .insert(gateway("east"), "it was lost (timeout)".to_owned());
    let events = events(&linked(&[("east", Link::Up)]), &after);
    assert_eq!(events[0].because.as_deref(), Some("it was lost (timeout)"));
}
