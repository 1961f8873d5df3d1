//! Effects of a word of etcd on the view, without etcd.

use std::collections::BTreeMap;

use causeway_federation::name::Tags;
use proptest::prelude::*;

use super::*;

const OWN: i64 = 1;
const OTHER: i64 = 2;
const LIFE: Duration = Duration::from_secs(10);

fn registration(id: &str, port: u16, time_to_live: Option<Duration>) -> Registration {
    Registration {
        service: ServiceName::new("orders").unwrap(),
        id: id.to_owned(),
        address: ([10, 0, 0, 1], port).into(),
        tags: Tags::default(),
        weight: 1,
        capacity_per_second: None,
        time_to_live,
        provenance: causeway_federation::registry::Provenance::Elsewhere,
    }
}

fn slot(id: &str, source: InstanceSource) -> SlotKey {
    SlotKey {
        instance: registration(id, 1, None).key(),
        source,
    }
}

fn registered(id: &str) -> SlotKey {
    slot(id, InstanceSource::Registered)
}

fn at(revision: i64, lease: i64) -> At {
    At { revision, lease }
}

struct Told {
    view: EtcdView,
    start: Instant,
}

impl Told {
    fn new() -> Self {
        let mut view = EtcdView::default();
        view.add_lease(OWN);
        Self {
            view,
            start: Instant::now(),
        }
    }

    fn after(&self, seconds: u64) -> Instant {
        self.start + Duration::from_secs(seconds)
    }

    fn put(&mut self, id: &str, port: u16, at: At) {
        let life = (at.lease != 0).then_some(LIFE);
        let registration = registration(id, port, life);
        self.view.put_slot(self.start, &registered(id), registration, at);
    }

    fn delete(&mut self, seconds: u64, id: &str, revision: i64) {
        let now = self.after(seconds);
        self.view.delete(now, &Key::Slot(registered(id)), revision);
    }

    fn port(&self, id: &str) -> Option<u16> {
        let held = self.view.instance(&registered(id).instance)?;
        Some(held.registration.address.port())
    }

    fn beat(&mut self, seconds: u64, id: &str) -> HeartbeatState {
        let now = self.after(seconds);
        self.view.heartbeat(now, &registered(id).instance)
    }
}

#[test]
fn older_word_never_replaces_newer() {
    let mut told = Told::new();
    told.put("a", 5, at(5, OTHER));
    told.put("a", 4, at(4, OTHER));
    told.delete(0, "a", 4);
    assert_eq!(told.port("a"), Some(5));
    told.put("a", 6, at(6, OTHER));
    assert_eq!(told.port("a"), Some(6));
}

#[test]
fn what_was_removed_here_does_not_come_back_with_a_watch_that_lags() {
    let mut told = Told::new();
    told.put("a", 3, at(3, 0));
    told.view.removed(&registered("a"), 8);
    assert_eq!(told.port("a"), None);
    told.put("a", 5, at(5, 0));
    assert_eq!(told.port("a"), None);
    told.delete(0, "a", 8);
    told.view.advance(8);
    told.put("a", 9, at(9, 0));
    assert_eq!(told.port("a"), Some(9));
}

#[test]
fn a_removal_is_believed_at_once_unless_etcd_was_away() {
    let mut told = Told::new();
    told.put("calm", 1, at(1, OTHER));
    told.delete(0, "calm", 2);
    assert_eq!(told.port("calm"), None);

    for id in ["back", "gone", "for-ever"] {
        told.put(id, 3, at(3, if id == "for-ever" { 0 } else { OTHER }));
    }
    told.view.recovered(told.start);
    for id in ["back", "gone", "for-ever"] {
        told.delete(1, id, 4);
    }
    // What has no lease was removed on somebody's word.
    assert_eq!(
        (told.port("back"), told.port("gone"), told.port("for-ever")),
        (Some(3), Some(3), None)
    );
    told.put("back", 5, at(5, OTHER));
    told.view.expire(told.after(10));
    assert_eq!((told.port("back"), told.port("gone")), (Some(5), None));
    // Later than that, it is calm again.
    told.delete(11, "back", 6);
    assert_eq!(told.port("back"), None);
}

#[test]
fn what_speaks_is_put_back_after_its_lease_ran_out_in_an_outage() {
    let mut told = Told::new();
    told.put("own", 3, at(3, OWN));
    told.put("other", 3, at(3, OTHER));
    told.view.recovered(told.start);
    told.delete(1, "own", 4);
    told.delete(1, "other", 4);
    let claims = told.view.take_claims();
    assert_eq!(claims.len(), 1, "{claims:?}");
    assert!(claims[0].recreate && claims[0].key == registered("own"));
    // One that another vouched for comes back with its next heartbeat.
    assert!(matches!(told.beat(2, "other"), HeartbeatState::Claim(claim) if claim.recreate));
}

#[test]
fn a_lease_that_ran_out_has_its_living_instances_claimed_anew() {
    let mut told = Told::new();
    told.put("a", 3, at(3, OWN));
    told.put("b", 3, at(3, OTHER));
    told.view.lose_lease(told.after(1), OWN);
    let claims = told.view.take_claims();
    assert_eq!(
        claims.iter().map(|claim| &claim.key).collect::<Vec<_>>(),
        [&registered("a")]
    );
    assert!(told.view.take_claims().is_empty());
}

#[test]
fn a_heartbeat_renews_what_this_process_vouches_for_and_claims_what_another_does() {
    let mut told = Told::new();
    told.put("own", 3, at(3, OWN));
    told.put("other", 4, at(4, OTHER));
    told.put("for-ever", 5, at(5, 0));
    assert_eq!(told.beat(1, "own"), HeartbeatState::Renewed);
    assert_eq!(told.beat(1, "for-ever"), HeartbeatState::Renewed);
    assert_eq!(told.beat(1, "nobody"), HeartbeatState::NotFound);
    let HeartbeatState::Claim(claim) = told.beat(1, "other") else {
        panic!("it was not claimed");
    };
    assert!(claim.revision == 4 && !claim.recreate);
    // The claim is written under a lease of this process.
    told.view
        .put_slot(told.after(1), &claim.key, claim.registration, at(6, OWN));
    assert_eq!(told.beat(1, "other"), HeartbeatState::Renewed);
    assert_eq!(told.view.keys_of_lease(OWN), 2);
}

#[test]
fn an_instance_is_overdue_once_it_was_silent_for_its_time_to_live() {
    let mut told = Told::new();
    told.put("a", 3, at(3, OWN));
    told.put("b", 3, at(3, OTHER));
    told.beat(5, "a");
    assert!(told.view.expire(told.after(14)).is_empty());
    let overdue = told.view.expire(told.after(15));
    assert_eq!(
        overdue,
        [Overdue {
            key: registered("a"),
            revision: 3
        }]
    );
    // It stays until etcd says so, and is named again if etcd does not.
    assert_eq!(told.port("a"), Some(3));
    assert!(told.view.expire(told.after(16)).is_empty());
    assert_eq!(told.view.expire(told.after(21)).len(), 1);
    told.delete(22, "a", 9);
    assert_eq!((told.port("a"), told.view.poll_timeout()), (None, None));
}

#[test]
fn nothing_is_overdue_because_etcd_was_away() {
    let mut told = Told::new();
    told.put("a", 3, at(3, OWN));
    told.view.recovered(told.after(30));
    assert!(told.view.expire(told.after(39)).is_empty());
    assert_eq!(told.view.expire(told.after(40)).len(), 1);
}

#[test]
fn watchers_hear_of_values_and_not_of_leases() {
    let mut told = Told::new();
    told.put("a", 3, at(3, OTHER));
    assert_eq!(told.view.take_changes().len(), 1);
    told.put("a", 3, at(4, OWN));
    told.put("a", 3, at(4, OWN));
    assert!(told.view.take_changes().is_empty());
    told.put("a", 4, at(5, OWN));
    assert_eq!(told.view.take_changes().len(), 1);
}

#[test]
fn the_first_source_in_order_is_in_force_and_each_removes_only_its_own() {
    let mut told = Told::new();
    let consul = slot("a", InstanceSource::named("consul").unwrap());
    told.view
        .put_slot(told.start, &consul, registration("a", 7, None), at(3, 0));
    told.put("a", 5, at(4, OTHER));
    assert_eq!(told.port("a"), Some(5));
    told.view.take_changes();
    told.view.delete(told.start, &Key::Slot(consul.clone()), 5);
    assert!(told.view.take_changes().is_empty());
    told.view
        .put_slot(told.start, &consul, registration("a", 7, None), at(6, 0));
    told.delete(0, "a", 7);
    assert_eq!(told.port("a"), Some(7));
    assert_eq!(told.view.of_source(&consul.source).count(), 1);
    assert!(matches!(
        told.view.absent(&consul.instance),
        RegistryError::HeldBy { .. }
    ));
}

#[test]
fn what_a_reading_does_not_have_is_gone_unless_it_is_newer() {
    let mut told = Told::new();
    told.put("gone", 3, at(3, 0));
    told.put("kept", 3, at(3, 0));
    told.view.begin_reading();
    told.put("kept", 3, at(3, 0));
    told.put("new", 12, at(12, 0));
    told.view.end_reading(told.start, 10);
    assert_eq!(
        (told.port("gone"), told.port("kept"), told.port("new")),
        (None, Some(3), Some(12))
    );
    assert_eq!(
        (told.view.revision(), told.view.newest(), told.view.len()),
        (10, 12, 2)
    );
}

#[test]
fn what_etcd_lost_because_it_was_set_back_is_claimed_anew() {
    let mut told = Told::new();
    told.put("for-ever", 90, at(90, 0));
    told.put("leased", 91, at(91, OTHER));
    told.put("known", 92, at(92, 0));
    told.view.advance(92);
    told.view.set_back(told.start);
    told.view.begin_reading();
    told.put("known", 3, at(3, 0));
    told.view.end_reading(told.start, 5);
    let claims = told.view.take_claims();
    assert_eq!(
        claims
            .iter()
            .map(|claim| claim.key.instance.id.as_str())
            .collect::<Vec<_>>(),
        ["for-ever", "leased"]
    );
    assert!(claims.iter().all(|claim| claim.recreate && claim.revision == 0));
    // What etcd holds counts, and gateways that knew of newer are not turned away.
    assert_eq!(
        (told.port("known"), told.view.revision(), told.view.newest()),
        (Some(3), 5, 92)
    );
    told.view.begin_reading();
    told.view.end_reading(told.after(100), 6);
    assert_eq!(told.port("known"), None);
}

#[test]
fn the_health_of_an_instance_that_is_gone_is_to_go_too() {
    let mut told = Told::new();
    let key = registered("a").instance;
    told.put("a", 3, at(3, 0));
    let report = causeway_proto::registry::HealthReport::default();
    told.view.put_report(&key, report, at(4, OWN));
    told.delete(0, "a", 5);
    assert_eq!(told.view.take_orphans(), [(key.clone(), 4)]);
    told.view.delete(told.start, &Key::Health(key.clone()), 6);
    assert!(told.view.report(&key).is_none());
    assert_eq!(told.view.keys_of_lease(OWN), 0);
}

#[test]
fn a_gateway_that_moves_to_another_zone_sync_takes_its_reports_along() {
    let mut told = Told::new();
    let (gateway, key) = (GatewayName::new("gw1").unwrap(), registered("a").instance);
    let report = causeway_proto::registry::HealthReport {
        gateway: "gw1".to_owned(),
        ..Default::default()
    };
    told.view.put_report(&key, report.clone(), at(4, OTHER));
    assert_eq!(told.view.attach(&gateway), std::slice::from_ref(&report));
    assert!(
        told.view.report_here(&key, &report),
        "it is under a lease of another"
    );
    told.view.put_report(&key, report.clone(), at(5, OWN));
    assert!(!told.view.report_here(&key, &report), "only a change is written");
    assert!(told.view.attach(&gateway).is_empty());
    assert!(!told.view.detach(&gateway) && told.view.detach(&gateway));
}

#[test]
fn a_gateway_is_present_through_an_outage_for_as_long_as_its_lease() {
    let mut told = Told::new();
    let gateway = GatewayName::new("gw1").unwrap();
    told.view.put_gateway(&gateway, at(3, OTHER));
    told.view.recovered(told.start);
    told.view.delete(told.after(1), &Key::Gateway(gateway.clone()), 4);
    told.view.expire_gateways(told.after(4));
    assert_eq!(told.view.gateway_names(), ["gw1"]);
    told.view.expire_gateways(told.after(5));
    assert!(told.view.gateway_names().is_empty());
}

proptest! {
    /// Whatever part of what happened this process wrote itself, and so knew before the watch told it.
    #[test]
    fn the_view_is_what_etcd_holds_once_the_watch_has_told_all(
        history in proptest::collection::vec((0u8..4, any::<bool>(), any::<bool>(), any::<bool>()), 0..40),
        lag in 0usize..10,
    ) {
        let mut told = Told::new();
        let mut model = BTreeMap::new();
        let ids = ["a", "b", "c", "d"];
        let revision = |place: usize| i64::try_from(place).unwrap() + 1;
        let lease = |own: bool| if own { OWN } else { OTHER };
        let watch = |told: &mut Told, place: usize| {
            let Some((id, is_put, own, _)) = history.get(place) else { return };
            let (id, revision) = (ids[usize::from(*id)], revision(place));
            if *is_put {
                told.put(id, u16::try_from(revision).unwrap(), at(revision, lease(*own)));
            } else {
                told.delete(0, id, revision);
            }
            told.view.advance(revision);
        };
        for (place, (id, is_put, own, early)) in history.iter().enumerate() {
            let (name, revision) = (ids[usize::from(*id)], revision(place));
            if *is_put {
                model.insert(name, (revision, *own));
            } else {
                model.remove(name);
            }
            match (*early, *is_put) {
                (true, true) => told.put(name, u16::try_from(revision).unwrap(), at(revision, lease(*own))),
                (true, false) => told.view.removed(&registered(name), revision),
                (false, _) => {}
            }
            if let Some(place) = place.checked_sub(lag) {
                watch(&mut told, place);
            }
        }
        for place in history.len().saturating_sub(lag)..history.len() {
            watch(&mut told, place);
        }
        for name in ids {
            let expected = model.get(name).map(|(revision, _)| u16::try_from(*revision).unwrap());
            prop_assert_eq!(told.port(name), expected, "{}", name);
        }
        let own = model.values().filter(|(_, own)| *own).count();
        prop_assert_eq!(told.view.keys_of_lease(OWN), own);
        prop_assert_eq!(told.view.len(), model.len());
        prop_assert!(told.view.removed.is_empty());
    }
}
