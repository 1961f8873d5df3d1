//! Ends of what began before: within a process, and over its restart.

use std::sync::Arc;

use causeway_federation::{catalog::Age, topology::Topology};
use causeway_routing::{
    snapshot::{Health, Instance, Link, Snapshot},
    testbed,
};

use super::{
    tests::{BOTH, kinds, next, picture, serving, topology},
    *,
};
use crate::event::{EventKind, HistoryEvent};

pub(super) fn words(events: &[NewEvent]) -> Vec<&'static str> {
    events.iter().map(|event| event.kind.word()).collect()
}

/// The record, as an earlier process has left it.
pub(super) fn recorded(events: &[NewEvent]) -> OpenMatters {
    let kept = |event: &NewEvent| HistoryEvent {
        id: 1,
        time: String::new(),
        zone: String::new(),
        gateway: String::new(),
        kind: event.kind.word().to_owned(),
        service: event.service.clone(),
        peer: event.peer.clone(),
        subject: event.subject.clone(),
        text: event.text.clone(),
        because: event.because.clone(),
        count: event.count,
        explained: Vec::new(),
    };
    OpenMatters::recorded(&events.iter().map(kept).collect::<Vec<_>>())
}

fn aged(topology: &Arc<Topology>, age: Age) -> Picture {
    let entry = testbed::entry("east", age, false, &[]);
    picture(testbed::snapshot("home", topology, Vec::new(), vec![entry], &[]))
}

fn checked(topology: &Arc<Topology>, health: Health) -> Picture {
    let instance = testbed::instance("a", "127.0.0.1:80".parse().unwrap(), 1, &[]);
    let instance = Arc::new(Instance {
        health,
        ..Arc::into_inner(instance).unwrap()
    });
    picture(testbed::snapshot(
        "home",
        topology,
        vec![instance],
        Vec::new(),
        &[],
    ))
}

#[test]
fn what_a_process_did_not_tell_to_have_begun_it_does_not_tell_to_have_ended() {
    let topology = topology();
    let (suspect, fresh) = (aged(&topology, Age::Suspect), aged(&topology, Age::Fresh));
    let mut open = OpenMatters::default();
    let mut step = |before, after| words(&open.admit(events(before, after)));
    assert!(step(&suspect, &fresh).is_empty());
    assert_eq!(step(&fresh, &suspect), ["zone_suspect"]);
    assert_eq!(step(&suspect, &fresh), ["zone_fresh"]);
    let (ill, well) = (
        checked(&topology, Health::Unhealthy),
        checked(&topology, Health::Healthy),
    );
    assert!(step(&ill, &well).is_empty());
    assert_eq!(step(&well, &ill), ["instance_unhealthy"]);
    assert_eq!(step(&ill, &well), ["instance_healthy"]);
}

#[test]
fn the_first_look_tells_of_tunnels_and_of_gateways_that_are_heard_but_not_of_those_that_are_remembered() {
    let topology = topology();
    let entries = vec![
        testbed::entry("east", Age::Fresh, false, &[]),
        testbed::entry("west", Age::Suspect, false, &[]),
    ];
    let now = picture(testbed::snapshot(
        "home",
        &topology,
        Vec::new(),
        entries,
        &[("east", Link::Up)],
    ));
    let told = first(&now);
    assert_eq!(words(&told), ["peer_seen", "tunnel_up"]);
    assert!(told.iter().all(|event| event.peer.as_deref() == Some("east/gw1")));
}

#[test]
fn what_was_open_at_a_restart_is_ended_once_if_it_holds_no_more() {
    let topology = topology();
    let with = |healthy, links| serving(&topology, healthy, links);
    let well = picture(with([2, 2], BOTH));
    let over = next(&well, with([0, 2], BOTH));
    let lost = next(&over, with([0, 0], BOTH));
    let mut left = events(&well, &over);
    left.extend(events(&over, &lost));
    assert_eq!(words(&left), ["failover_begun", "home_lost"]);
    let cases: [([u32; 2], &[&str]); 3] = [
        ([0, 0], &[]),
        ([0, 2], &["home_found"]),
        ([2, 2], &["failover_ended", "home_found"]),
    ];
    for (healthy, ended) in cases {
        let mut open = recorded(&left);
        let now = picture(with(healthy, BOTH));
        let told = open.reconcile(&now);
        assert_eq!(words(&told), ended, "{healthy:?}");
        assert!(
            told.iter()
                .all(|event| event.service.as_deref() == Some("orders"))
        );
        assert!(open.reconcile(&now).is_empty(), "once");
    }
    let mut open = recorded(&left);
    let now = picture(with([0, 2], BOTH));
    open.reconcile(&now);
    let back = next(&now, with([2, 2], BOTH));
    assert_eq!(kinds(&now, &back), ["failover_ended"]);
    open.admit(events(&now, &back));
    assert!(open.reconcile(&back).is_empty(), "it was told already");
}

#[test]
fn zones_and_instances_that_got_well_over_a_restart_are_told_too() {
    let topology = topology();
    let suspect = events(&aged(&topology, Age::Fresh), &aged(&topology, Age::Suspect));
    let mut open = recorded(&suspect);
    assert!(open.reconcile(&aged(&topology, Age::Suspect)).is_empty());
    let told = open.reconcile(&aged(&topology, Age::Fresh));
    assert_eq!(words(&told), ["zone_fresh"]);
    assert!(told[0].because.is_some());
    let ill = checked(&topology, Health::Unhealthy);
    let mut open = recorded(&events(&checked(&topology, Health::Healthy), &ill));
    assert!(open.reconcile(&ill).is_empty());
    let told = open.reconcile(&checked(&topology, Health::Healthy));
    assert_eq!(told[0].kind, EventKind::InstanceHealthy);
}

#[test]
fn a_spill_that_was_over_before_a_process_began_is_ended() {
    let topology = testbed::topology(
        "  home: {}\n  east: {}\n  west: {}",
        "  orders: { port: 80, protocol: tcp, spill: { healthy_below: 100% }, failover: [{ zone: east }, { zone: west }] }",
    );
    let with = |healthy| -> Snapshot { serving(&topology, healthy, BOTH) };
    let well = picture(with([2, 2]));
    let begun = events(&well, &next(&well, with([1, 2])));
    assert_eq!(words(&begun), ["spill_begun"]);
    let mut open = recorded(&begun);
    assert!(open.reconcile(&picture(with([1, 2]))).is_empty());
    assert_eq!(words(&open.reconcile(&well)), ["spill_ended"]);
}
