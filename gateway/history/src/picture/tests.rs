//! Events between two pictures, table by table.

use std::{sync::Arc, time::Duration};

use causeway_federation::{
    catalog::Age,
    topology::{Drain, Topology},
};
use causeway_routing::{
    failback::{Ceilings, FailbackTable},
    snapshot::{Health, Instance, Link, Snapshot},
    testbed::{self, gateway},
};

use super::*;
use crate::event::EventKind;

pub(super) fn topology() -> Arc<Topology> {
    testbed::topology(
        "  home: {}\n  east: {}\n  west: {}",
        "  orders: { port: 80, protocol: tcp, failover: [{ zone: east }, { zone: west }] }",
    )
}

pub(super) fn picture(snapshot: Snapshot) -> Picture {
    Picture {
        plans: Plans::default().following(&snapshot, true),
        ejected: snapshot.ejections.load_full(),
        shifts: snapshot.shifts.load_full(),
        snapshot: Arc::new(snapshot),
        absences: BTreeMap::new(),
        applied_by: None,
        applied_reason: None,
        refused_topology: None,
        certificate: CertificatePicture::default(),
        trust: None,
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

/// The picture that follows another.
pub(super) fn next(before: &Picture, snapshot: Snapshot) -> Picture {
    Picture {
        plans: before.plans.following(&snapshot, true),
        ..picture(snapshot)
    }
}

fn told(before: &Picture, after: &Picture) -> Vec<(EventKind, Option<String>)> {
    let events = events(before, after).into_iter();
    let of_tunnels = events.filter(|event| event.kind != EventKind::PeerSeen);
    of_tunnels.map(|event| (event.kind, event.peer)).collect()
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

pub(super) const BOTH: &[(&str, Link)] = &[("east", Link::Up), ("west", Link::Up)];

/// East and west have so many healthy instances of two.
pub(super) fn serving(topology: &Arc<Topology>, healthy: [u32; 2], links: &[(&str, Link)]) -> Snapshot {
    let entry = |(zone, healthy): (&str, u32)| testbed::entry(zone, Age::Fresh, false, &[(&[], 2, healthy)]);
    let entries = ["east", "west"].into_iter().zip(healthy).map(entry).collect();
    testbed::snapshot("home", topology, Vec::new(), entries, links)
}

pub(super) fn kinds(before: &Picture, after: &Picture) -> Vec<&'static str> {
    events(before, after)
        .iter()
        .map(|event| event.kind.word())
        .collect()
}

#[test]
fn a_zone_that_is_cut_off_makes_its_services_fail_over_and_says_why() {
    let topology = topology();
    let well = picture(serving(&topology, [2, 2], BOTH));
    let mut cut = next(&well, serving(&topology, [2, 2], &[("west", Link::Up)]));
    cut.absences
        .insert(gateway("east"), "it was lost (timeout)".to_owned());
    let told = events(&well, &cut);
    assert_eq!(kinds(&well, &cut), ["tunnel_down", "failover_begun"]);
    let failover = &told[1];
    assert_eq!(failover.service.as_deref(), Some("orders"));
    assert_eq!(
        failover.text,
        "orders goes to tier 2 (west) instead of tier 1 (east)"
    );
    assert_eq!(
        failover.because.as_deref(),
        Some("gateway east/gw1: no tunnel is up: it was lost (timeout)")
    );
    assert!(
        failover.explained.iter().any(|line| line.contains("west/gw1")),
        "{:?}",
        failover.explained
    );
    let same = next(&cut, serving(&topology, [2, 2], &[("west", Link::Up)]));
    assert!(events(&cut, &same).is_empty(), "once");
    let gone = next(&same, serving(&topology, [2, 2], &[]));
    assert_eq!(kinds(&same, &gone), ["tunnel_down", "home_lost"]);
    let west = next(&gone, serving(&topology, [2, 2], &[("west", Link::Up)]));
    assert_eq!(kinds(&gone, &west), ["tunnel_up", "home_found", "failover_begun"]);
    let back = next(&west, serving(&topology, [2, 2], BOTH));
    assert_eq!(kinds(&west, &back), ["tunnel_up", "failover_ended"]);
    assert_eq!(events(&west, &back)[1].text, "orders is back at tier 1 (east)");
}

#[test]
fn a_gateway_that_falls_silent_is_failed_over_from_and_unhealthy_instances_too() {
    let topology = topology();
    let well = picture(serving(&topology, [2, 2], BOTH));
    let silent = next(
        &well,
        serving(&topology, [2, 2], &[("east", Link::Stalled), ("west", Link::Up)]),
    );
    assert_eq!(kinds(&well, &silent), ["tunnel_stalled", "failover_begun"]);
    let ill = next(&well, serving(&topology, [0, 2], BOTH));
    let told = events(&well, &ill);
    assert_eq!(told.len(), 1);
    let because = told[0].because.as_deref();
    assert_eq!(
        because,
        Some("gateway east/gw1: no instance with the tags is healthy (one that is drained does not count)")
    );
}

#[test]
fn nothing_is_a_failover_before_a_process_has_heard_of_the_others() {
    let topology = topology();
    let early = |before: &Plans, links| {
        let snapshot = serving(&topology, [2, 2], links);
        Picture {
            plans: before.following(&snapshot, false),
            ..picture(snapshot)
        }
    };
    let none = early(&Plans::default(), &[]);
    let west = early(&none.plans, &[("west", Link::Up)]);
    let both = next(&west, serving(&topology, [2, 2], BOTH));
    assert_eq!(kinds(&none, &west), ["tunnel_up"]);
    assert_eq!(kinds(&west, &both), ["tunnel_up"]);
}

#[test]
fn spill_begins_and_ends_without_a_failover() {
    let topology = testbed::topology(
        "  home: {}\n  east: {}\n  west: {}",
        "  orders: { port: 80, protocol: tcp, spill: { healthy_below: 100% }, failover: [{ zone: east }, { zone: west }] }",
    );
    let well = picture(serving(&topology, [2, 2], BOTH));
    let half = next(&well, serving(&topology, [1, 2], BOTH));
    assert_eq!(kinds(&well, &half), ["spill_begun"]);
    assert_eq!(
        events(&well, &half)[0].text,
        "50 % of orders goes to later tiers than east"
    );
    let because =
        |before: &Picture, after: &Picture| events(before, after)[0].because.clone().unwrap_or_default();
    assert_eq!(because(&well, &half), "tier 1: 1 of 2 instances can serve");
    let ended = next(&half, serving(&topology, [2, 2], BOTH));
    assert_eq!(because(&half, &ended), "tier 1: 2 of 2 instances can serve");
    let none = next(&half, serving(&topology, [0, 2], BOTH));
    assert_eq!(kinds(&half, &none), ["failover_begun", "spill_ended"]);
    assert_eq!(
        events(&half, &none)[1].text,
        "orders is not divided among tiers any more: all of it goes to tier 2 (west)"
    );
    let back = next(&none, serving(&topology, [2, 2], BOTH));
    assert_eq!(kinds(&none, &back), ["failover_ended"]);
}

#[test]
fn traffic_that_returns_slowly_is_told_when_it_begins_and_when_all_of_it_is_back() {
    let topology = testbed::topology(
        "  home: {}\n  east: {}\n  west: {}",
        "  orders: { port: 80, protocol: tcp, failback: { hold: 2s, ramp: 10s }, failover: [{ zone: east }, { zone: west }] }",
    );
    let (mut table, ceilings) = (FailbackTable::default(), Ceilings::default());
    let mut at = |second: u64, healthy: u32, before: Option<&Picture>| {
        let snapshot = Snapshot {
            ceilings: ceilings.clone(),
            ..serving(&topology, [healthy, 2], BOTH)
        };
        let (now, _) = table.step(Duration::from_secs(second), &snapshot);
        ceilings.store(Arc::new(now));
        match before {
            None => picture(snapshot),
            Some(before) => next(before, snapshot),
        }
    };
    let mut before = at(0, 2, None);
    let mut told = Vec::new();
    for second in 1..30 {
        let healthy = if (3..6).contains(&second) { 0 } else { 2 };
        let after = at(second, healthy, Some(&before));
        told.extend(kinds(&before, &after));
        before = after;
    }
    assert_eq!(told, ["failover_begun", "failback_begun", "failover_ended"]);
}

#[test]
fn zones_age_by_the_freshest_of_their_gateways() {
    let topology = topology();
    let aged = |first, second| {
        let entries = [("east/gw1", first), ("east/gw2", second)];
        let entries = entries.map(|(origin, age)| testbed::entry(origin, age, false, &[]));
        picture(testbed::snapshot(
            "home",
            &topology,
            Vec::new(),
            entries.into(),
            &[],
        ))
    };
    let (fresh, half) = (aged(Age::Fresh, Age::Fresh), aged(Age::Suspect, Age::Fresh));
    let (suspect, gone) = (
        aged(Age::Suspect, Age::Withdrawn),
        aged(Age::Withdrawn, Age::Withdrawn),
    );
    assert!(kinds(&fresh, &half).is_empty());
    assert_eq!(kinds(&half, &suspect), ["zone_suspect"]);
    assert_eq!(kinds(&suspect, &gone), ["zone_withdrawn"]);
    assert_eq!(kinds(&gone, &fresh), ["zone_fresh"]);
}

#[test]
fn another_topology_says_who_applied_it_and_what_it_changes() {
    let before = linked(&[]);
    let other = testbed::topology(
        "  home: {}\n  east: {}\n  west: {}",
        "  orders: { port: 81, protocol: tcp, failover: [{ zone: east }, { zone: west }] }",
    );
    let mut after = picture(testbed::snapshot("home", &other, Vec::new(), Vec::new(), &[]));
    after.applied_by = Some(gateway("west"));
    after.applied_reason = Some("the new port, OPS-7".to_owned());
    let told = events(&before, &after);
    assert_eq!(told[0].kind, EventKind::TopologyApplied);
    assert!(
        told[0].text.ends_with("applied at west/gw1: the new port, OPS-7"),
        "{}",
        told[0].text
    );
    assert!(told[0].because.as_deref().unwrap().contains("port"), "{told:?}");
    after.refused_topology = Some("line 3 is bad".to_owned());
    let refused = Picture {
        refused_topology: None,
        ..after.clone()
    };
    assert_eq!(kinds(&refused, &after), ["topology_refused"]);
}

#[test]
fn instances_that_come_fall_ill_get_well_and_go_are_told() {
    let topology = topology();
    let one = |id: &str, health| {
        let instance = testbed::instance(id, "127.0.0.1:80".parse().unwrap(), 1, &[]);
        Arc::new(Instance {
            health,
            ..Arc::into_inner(instance).unwrap()
        })
    };
    let with = |instances| picture(testbed::snapshot("home", &topology, instances, Vec::new(), &[]));
    let both = with(vec![one("a", Health::Healthy), one("b", Health::Unknown)]);
    let ill = with(vec![one("a", Health::Unhealthy), one("b", Health::Healthy)]);
    let only = |before: &Picture, after: &Picture| -> Vec<_> {
        let told = events(before, after).into_iter();
        let told = told.filter(|event| event.kind.word().starts_with("instance"));
        told.map(|event| (event.kind.word(), event.subject.unwrap()))
            .collect()
    };
    let told = |kind, id: &str| vec![(kind, id.to_owned())];
    assert_eq!(
        only(&with(vec![one("a", Health::Healthy)]), &both),
        told("instance_added", "b")
    );
    assert_eq!(only(&both, &ill), told("instance_unhealthy", "a"));
    assert_eq!(
        only(
            &ill,
            &with(vec![one("a", Health::Healthy), one("b", Health::Healthy)])
        ),
        told("instance_healthy", "a")
    );
    assert_eq!(
        only(&ill, &with(vec![one("b", Health::Healthy)])),
        told("instance_removed", "a")
    );
}

#[test]
fn a_drain_of_an_instance_is_told_with_its_deadline_and_is_the_cause_of_its_failover() {
    let topology = testbed::topology(
        "  home: {}\n  east: {}",
        "  orders: { port: 80, protocol: tcp, failover: [{ zone: self }, { zone: east }] }",
    );
    let with = |drain: Option<Option<u64>>| {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let instance = testbed::instance("a", "127.0.0.1:80".parse().unwrap(), 1, &[]);
        let instance = Arc::new(Instance {
            drain: drain.map(|by| Drain { by: by.map(at) }),
            ..Arc::into_inner(instance).unwrap()
        });
        let east = testbed::entry("east", Age::Fresh, false, &[(&[], 2, 2)]);
        testbed::snapshot(
            "home",
            &topology,
            vec![instance],
            vec![east],
            &[("east", Link::Up)],
        )
    };
    let well = picture(with(None));
    let drained = next(&well, with(Some(Some(1_795_000_000))));
    let told = events(&well, &drained);
    assert_eq!(kinds(&well, &drained), ["instance_drained", "failover_begun"]);
    assert_eq!(told[0].subject.as_deref(), Some("a"));
    assert!(told[0].text.contains("2026-11-18T11:06:40"), "{}", told[0].text);
    assert_eq!(
        told[1].because.as_deref(),
        Some("own zone home: every healthy instance with the tags is drained")
    );
    let later = next(&drained, with(Some(None)));
    assert_eq!(kinds(&drained, &later), ["instance_drained"]);
    assert!(kinds(&later, &next(&later, with(Some(None)))).is_empty(), "once");
    let back = next(&later, with(None));
    assert_eq!(kinds(&later, &back), ["instance_undrained", "failover_ended"]);
}

#[test]
fn a_certificate_is_told_of_when_it_is_renewed_late_or_in_vain() {
    let at = |days: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(days * 86_400);
    let with = |end, urgency, failure: Option<&str>| {
        let certificate = CertificatePicture {
            validity: Some((at(1), at(end))),
            urgency,
            failure: failure.map(str::to_owned),
        };
        Picture {
            certificate,
            ..linked(&[])
        }
    };
    use CertificateUrgency::{Calm, Expired, Expiring};
    let (calm, failing) = (with(30, Calm, None), with(30, Calm, Some("no way")));
    assert_eq!(kinds(&calm, &failing), ["certificate_failed"]);
    let (late, over) = (
        with(30, Expiring, Some("no way")),
        with(30, Expired, Some("no way")),
    );
    assert_eq!(kinds(&failing, &late), ["certificate_expiring"]);
    assert_eq!(kinds(&late, &over), ["certificate_expired"]);
    let renewed = with(60, Calm, None);
    assert_eq!(kinds(&over, &renewed), ["certificate_renewed"]);
    let text = &events(&over, &renewed)[0].text;
    assert!(text.ends_with("valid until 1970-03-02T00:00:00Z"), "{text}");
}
