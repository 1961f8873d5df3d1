//! Events in whatever order, and what comes of them.

use causeway_federation::{
    name::ServiceName,
    registry::{InstanceSource, Registration},
};
use causeway_proto::registry::{Gateways, HealthReport, Synced};
use proptest::prelude::*;

use super::*;

fn registration(n: u8) -> Registration {
    Registration {
        service: ServiceName::new("orders").unwrap(),
        id: format!("10.0.0.{n}:80"),
        address: format!("10.0.0.{n}:80").parse().unwrap(),
        tags: Default::default(),
        weight: 1,
        capacity_per_second: None,
        time_to_live: Some(std::time::Duration::from_secs(10)),
        provenance: causeway_federation::registry::Provenance::Elsewhere,
    }
}

fn event(event: Event) -> WatchEvent {
    WatchEvent { event: Some(event) }
}

fn put(n: u8, revision: u64) -> WatchEvent {
    event(Event::Put(wire::instance_message(
        &registration(n),
        &InstanceSource::Registered,
        revision,
    )))
}

fn removed(n: u8) -> WatchEvent {
    event(Event::Removed(wire::key_message(&registration(n).key())))
}

fn synced(revision: u64) -> WatchEvent {
    event(Event::Synced(Synced {
        revision,
        ..Synced::default()
    }))
}

fn found(n: u8, health: proto::Health) -> WatchEvent {
    event(Event::Health(HealthReport {
        key: Some(wire::key_message(&registration(n).key())),
        health: health.into(),
        failure: "no\nanswer".to_owned(),
        gateway: "gw2".to_owned(),
    }))
}

fn view(change: Option<SharedChange>) -> RegistryView {
    match change {
        Some(SharedChange::Joined(view)) => view,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_keeps_anything_from_being_registered_is_known_for_as_long_as_it_is_told() {
    let mut intake = Intake::new(0);
    let troubled = event(Event::Synced(Synced {
        revision: 1,
        trouble: "etcd is\nfull".to_owned(),
    }));
    intake.handle(troubled).unwrap();
    assert_eq!(intake.trouble(), Some("etcd is full"));
    intake.handle(synced(2)).unwrap();
    assert_eq!(intake.trouble(), None);
}

#[test]
fn nothing_changes_until_everything_was_told() {
    let mut intake = Intake::new(0);
    for event in [
        put(1, 4),
        put(2, 5),
        removed(1),
        found(2, proto::Health::Unhealthy),
    ] {
        assert_eq!(intake.handle(event), Ok(None));
    }
    let names = vec!["gw1".to_owned(), "gw2".to_owned()];
    assert_eq!(
        intake.handle(event(Event::Gateways(Gateways { names }))),
        Ok(None)
    );
    let view = view(intake.handle(synced(9)).unwrap());
    assert_eq!(view.instances.len(), 1);
    let held = &view.instances[0];
    assert_eq!(
        (held.registration.id.as_str(), held.registration.time_to_live),
        ("10.0.0.2:80", None)
    );
    assert_eq!(view.verdicts[&registration(2).key()].failure, "no answer");
    assert_eq!(view.gateways.len(), 2);
    assert_eq!((intake.revision(), intake.newest()), (9, 5));

    // From now on each event is a change.
    let key = registration(2).key();
    assert_eq!(intake.handle(removed(2)), Ok(Some(SharedChange::Removed(key))));
    assert!(matches!(
        intake.handle(put(3, 12)),
        Ok(Some(SharedChange::Put(_)))
    ));
    assert!(matches!(
        intake.handle(found(3, proto::Health::Healthy)),
        Ok(Some(SharedChange::Found(..)))
    ));
    assert_eq!(
        intake.handle(synced(14)),
        Ok(None),
        "a later one only says how far the store is"
    );
    assert_eq!((intake.revision(), intake.newest()), (14, 12));
}

#[test]
fn a_server_that_knows_less_than_this_gateway_is_refused() {
    let refused = |newest, revision| {
        let mut intake = Intake::new(newest);
        intake.handle(put(1, 3)).unwrap();
        intake.handle(synced(revision)).is_err()
    };
    assert!(refused(12, 11));
    assert!(!refused(12, 12) && !refused(0, 11));
    assert!(!refused(12, 0), "a store without revisions is never behind");
}

#[test]
fn what_cannot_be_understood_is_skipped_and_counted() {
    let mut intake = Intake::new(0);
    let mut bad = wire::instance_message(&registration(1), &InstanceSource::Registered, 1);
    bad.registration.as_mut().unwrap().address = "nowhere".to_owned();
    assert_eq!(intake.handle(event(Event::Put(bad))), Ok(None));
    assert_eq!(intake.handle(WatchEvent { event: None }), Ok(None));
    assert_eq!(intake.handle(found(1, proto::Health::Unspecified)), Ok(None));
    let (count, error) = intake.take_skipped().unwrap();
    assert_eq!((count, error.word()), (1, "bad_address"));
    assert!(intake.take_skipped().is_none());
    assert!(view(intake.handle(synced(1)).unwrap()).instances.is_empty());
}

#[test]
fn more_gateways_than_a_zone_may_have_end_the_attachment() {
    let names = (0..=MAX_GATEWAYS).map(|n| format!("gw{n}")).collect();
    let told = Intake::new(0).handle(event(Event::Gateways(Gateways { names })));
    assert_eq!(told, Err(IntakeError::TooMany("gateways")));
}

proptest! {
    /// However the events fall before and after the end of the first telling, the same instances are there at the end.
    #[test]
    fn the_end_of_the_telling_loses_nothing(steps in proptest::collection::vec((any::<bool>(), 1u8..6), 0..30), at in 0usize..30) {
        let (mut intake, mut known) = (Intake::new(0), BTreeMap::new());
        let take = |change: Option<SharedChange>, known: &mut BTreeMap<InstanceKey, SharedInstance>| match change {
            Some(SharedChange::Joined(view)) => known.extend(view.instances.into_iter().map(|h| (h.registration.key(), h))),
            Some(SharedChange::Put(held)) => drop(known.insert(held.registration.key(), held)),
            Some(SharedChange::Removed(key)) => drop(known.remove(&key)),
            _ => {}
        };
        let mut expected = std::collections::BTreeSet::new();
        for (i, (is_put, n)) in steps.iter().enumerate() {
            if i == at {
                take(intake.handle(synced(1)).unwrap(), &mut known);
            }
            let event = if *is_put { put(*n, 1) } else { removed(*n) };
            let key = registration(*n).key();
            if *is_put { expected.insert(key); } else { expected.remove(&key); }
            take(intake.handle(event).unwrap(), &mut known);
        }
        take(intake.handle(synced(1)).unwrap(), &mut known);
        prop_assert_eq!(known.into_keys().collect::<std::collections::BTreeSet<_>>(), expected);
    }
}
