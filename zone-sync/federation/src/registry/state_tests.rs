//! Leases, limits and sources of the registry's core.

use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn service(name: &str) -> ServiceName {
    ServiceName::new(name).unwrap()
}

fn registration(name: &str, id: &str, seconds: u64) -> Registration {
    Registration {
        service: service(name),
        id: id.to_owned(),
        address: "10.0.0.1:80".parse().unwrap(),
        tags: [("version", "v1")].into_iter().collect(),
        weight: 1,
        capacity_per_second: None,
        time_to_live: (seconds > 0).then(|| Duration::from_secs(seconds)),
        provenance: crate::registry::Provenance::ThisHost,
    }
}

fn fix(registry: &mut Registry, fixed: impl IntoIterator<Item = Registration>) {
    registry.replace(
        Instant::now(),
        &InstanceSource::Topology,
        fixed.into_iter().collect(),
    );
}

fn ids(registry: &Registry, name: &str) -> Vec<String> {
    registry
        .service(&service(name))
        .map(|entry| entry.registration.id.clone())
        .collect()
}

fn changed(registry: &mut Registry) -> Vec<String> {
    let keys = registry.take_changed();
    keys.iter().map(ToString::to_string).collect()
}

#[test]
fn a_lease_ends_at_its_time_to_live() {
    let (mut registry, start) = (Registry::new(), Instant::now());
    registry.register(start, registration("a", "1", 10)).unwrap();
    registry.register(start, registration("a", "2", 0)).unwrap();
    assert_eq!(registry.poll_timeout(), Some(start + Duration::from_secs(10)));
    assert!(registry.expire(start + Duration::from_millis(9_999)).is_empty());
    let gone = registry.expire(start + Duration::from_secs(10));
    assert_eq!(gone, vec![registration("a", "1", 10).key()]);
    assert_eq!(ids(&registry, "a"), ["2"]);
    assert_eq!((registry.len(), registry.poll_timeout()), (1, None));
}

#[test]
fn renewing_starts_the_whole_time_to_live_again() {
    let (mut registry, start) = (Registry::new(), Instant::now());
    let at = |seconds| start + Duration::from_secs(seconds);
    registry.register(start, registration("a", "1", 10)).unwrap();
    registry.take_changed();
    registry.renew(at(8), &service("a"), "1").unwrap();
    assert!(registry.expire(at(10)).is_empty());
    assert_eq!(registry.poll_timeout(), Some(at(18)));
    assert!(
        changed(&mut registry).is_empty(),
        "a renewal changes nothing that is published"
    );
    assert_eq!(registry.expire(at(18)).len(), 1);
    assert_eq!(changed(&mut registry), ["a/1"]);
}

#[test]
fn registering_again_replaces_and_can_shorten_the_lease() {
    let (mut registry, start) = (Registry::new(), Instant::now());
    let register = |registry: &mut Registry, r| registry.register(start, r).unwrap();
    assert_eq!(
        register(&mut registry, registration("a", "1", 60)),
        Registered::Added
    );
    assert_eq!(
        register(&mut registry, registration("a", "1", 60)),
        Registered::Renewed
    );
    assert_eq!(
        register(&mut registry, registration("a", "1", 2)),
        Registered::Replaced
    );
    assert_eq!(registry.expire(start + Duration::from_secs(2)).len(), 1);
    assert!(registry.is_empty());
    assert_eq!(registry.poll_timeout(), None);
}

#[test]
fn what_is_not_registered_cannot_be_renewed_or_removed() {
    let mut registry = Registry::new();
    fix(&mut registry, [registration("a", "fixed", 0)]);
    let (a, now) = (service("a"), Instant::now());
    let absent = RegistryError::NotFound(registration("a", "1", 0).key());
    let fixed = RegistryError::HeldBy {
        key: registration("a", "fixed", 0).key(),
        holder: InstanceSource::Topology,
    };
    assert_eq!(registry.renew(now, &a, "1"), Err(absent.clone()));
    assert_eq!(registry.deregister(&a, "1"), Err(absent));
    assert_eq!(registry.renew(now, &a, "fixed"), Err(fixed.clone()));
    assert_eq!(registry.deregister(&a, "fixed"), Err(fixed));
    assert_eq!(ids(&registry, "a"), ["fixed"]);
}

#[test]
fn a_source_removes_only_what_it_put_in() {
    let (mut registry, now) = (Registry::new(), Instant::now());
    let source = |registry: &Registry| registry.instance(&service("a"), "1").map(|e| e.source.clone());
    registry.register(now, registration("a", "1", 10)).unwrap();
    registry.register(now, registration("a", "2", 10)).unwrap();
    fix(
        &mut registry,
        [registration("a", "1", 0), registration("b", "3", 0)],
    );
    assert_eq!(
        source(&registry),
        Some(InstanceSource::Topology),
        "the topology comes first"
    );
    assert_eq!(registry.len(), 3);

    fix(&mut registry, []);
    assert_eq!(
        source(&registry),
        Some(InstanceSource::Registered),
        "the registration was kept"
    );
    assert_eq!(ids(&registry, "a"), ["1", "2"]);

    fix(&mut registry, [registration("a", "1", 0)]);
    registry.expire(now + Duration::from_secs(10));
    assert_eq!(
        ids(&registry, "a"),
        ["1"],
        "an expiry leaves the fixed instance alone"
    );
    assert_eq!(registry.len(), 1);
}

#[test]
fn a_topology_change_names_exactly_what_it_changed() {
    let mut registry = Registry::new();
    fix(
        &mut registry,
        [registration("a", "1", 0), registration("a", "2", 0)],
    );
    assert_eq!(changed(&mut registry), ["a/1", "a/2"]);
    let mut heavier = registration("a", "2", 0);
    heavier.weight = 5;
    fix(
        &mut registry,
        [registration("a", "1", 0), heavier, registration("b", "3", 0)],
    );
    assert_eq!(changed(&mut registry), ["a/2", "b/3"]);
    fix(&mut registry, [registration("a", "1", 0)]);
    assert_eq!(changed(&mut registry), ["a/2", "b/3"]);
    assert_eq!(registry.instances().count(), 1);
}

#[test]
fn a_full_service_refuses_new_ids_but_takes_renewals() {
    let (mut registry, now) = (Registry::new(), Instant::now());
    for n in 0..MAX_INSTANCES_PER_SERVICE {
        registry
            .register(now, registration("a", &n.to_string(), 0))
            .unwrap();
    }
    let refused = registry.register(now, registration("a", "more", 0));
    assert_eq!(refused, Err(RegistryError::ServiceFull(service("a"))));
    assert!(registry.register(now, registration("a", "0", 5)).is_ok());

    for n in 0..MAX_INSTANCES_PER_ZONE - MAX_INSTANCES_PER_SERVICE {
        registry
            .register(now, registration("b", &n.to_string(), 0))
            .unwrap();
    }
    let refused = registry.register(now, registration("c", "1", 0));
    assert_eq!(refused, Err(RegistryError::ZoneFull));
    assert_eq!(registry.len(), MAX_INSTANCES_PER_ZONE);
}

proptest! {
    /// Whatever happens in whatever order: the count is right, nothing outlives its lease, and an alarm stands whenever
    /// a lease can expire.
    #[test]
    fn counts_and_alarms_stay_true(steps in proptest::collection::vec((0u8..5, 0u8..4, 0u64..20), 1..200)) {
        let mut registry = Registry::new();
        let mut now = Instant::now();
        for (action, id, seconds) in steps {
            let id = id.to_string();
            match action {
                0 => { registry.register(now, registration("a", &id, seconds)).unwrap(); }
                1 => { let _ = registry.renew(now, &service("a"), &id); }
                2 => { let _ = registry.deregister(&service("a"), &id); }
                3 => fix(&mut registry, (0..seconds % 4).map(|n| registration("a", &n.to_string(), 0))),
                _ => { now += Duration::from_secs(seconds); registry.expire(now); }
            }
            prop_assert_eq!(registry.len(), registry.instances().count());
            let next = registry.instances().filter_map(|e| e.expires).min();
            if let Some(next) = next {
                prop_assert!(registry.poll_timeout().is_some_and(|alarm| alarm <= next));
            }
            if action == 4 {
                prop_assert!(next.is_none_or(|at| at > now));
            }
        }
    }
}
