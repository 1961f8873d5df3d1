//! Equality of what is compiled with what the filters decide, whatever the federation looks like and has become.

use std::{collections::BTreeMap, sync::Arc};

use causeway_federation::{
    catalog::{Age, Catalog, CatalogEntry, Export},
    name::ServiceName,
    topology::{SplitArm, Topology},
};
use proptest::prelude::*;

use super::*;
use crate::{
    outlier::{EjectedPart, OutlierTable, TriedPlace, TryFailure},
    snapshot::{Health, Instance, InstanceList, Snapshot},
    sticky::StickyKey,
    testbed::{entry, gateway, instance, snapshot, tags, topology},
};

const SERVICES: [&str; 3] = ["orders", "users", "stock"];
/// Two zones have two gateways each.
const GATEWAYS: [&str; 6] = ["b/gw1", "b/gw2", "c", "d/gw1", "d/gw2", "e"];
const VERSIONS: [&str; 3] = ["v1", "v2", "v3"];

/// A service whose arms, tiers and rules are drawn; its one route has a split of its own.
fn any_service() -> impl Strategy<Value = String> {
    let tiers = prop::sample::subsequence(
        vec!["{ zone: self }", "{ zone: b }", "{ zone: c }", "{ zone: d }"],
        0..=4,
    );
    let rules = prop_oneof![
        6 => Just(""),
        1 => Just("spill: { healthy_below: 70% }"),
        1 => Just("failback: { hold: 10s, ramp: 10s }"),
        1 => Just("slow_start: 10s"),
        1 => Just("export_to: [b]"),
        1 => Just("run_in: [a, b, c, d]"),
        1 => Just("panic: true, health: { http: /healthz }"),
    ];
    let weights = prop::array::uniform3(0..4u32);
    (weights, tiers, rules).prop_map(|(weights, tiers, rules)| {
        let arm = |(version, weight): (&&str, u32)| format!("{{ tags: {{ version: {version} }}, weight: {weight} }}");
        let all = weights.iter().sum::<u32>() == 0;
        let arms = VERSIONS.iter().zip(weights.map(|weight| weight + u32::from(all)));
        let arms: Vec<String> = arms.map(arm).collect();
        let tiers: Vec<&str> = tiers.into_iter().chain(["{}"]).collect();
        let rules = if rules.is_empty() { String::new() } else { format!(", {rules}") };
        format!(
            "{{ port: 80, protocol: http, outlier: {{ consecutive: 1 }}, split: [{}], failover: [{}]{rules}, \
             routes: [{{ match: {{ path_prefix: /v1 }}, split: [{{ tags: {{ version: v1 }}, weight: 1 }}, {{ tags: {{ version: v3 }}, weight: 2 }}] }}] }}",
            arms.join(", "),
            tiers.join(", ")
        )
    })
}

fn any_topology() -> impl Strategy<Value = Arc<Topology>> {
    let zone = prop_oneof![8 => Just("{}"), 1 => Just("{ drain: true }")];
    (prop::array::uniform3(any_service()), prop::array::uniform5(zone)).prop_map(|(services, zones)| {
        let zones = ["a", "b", "c", "d", "e"].iter().zip(zones);
        let zones: Vec<String> = zones.map(|(name, zone)| format!("  {name}: {zone}")).collect();
        let services = SERVICES.iter().zip(services);
        let services: Vec<String> = services
            .map(|(name, service)| format!("  {name}: {service}"))
            .collect();
        topology(&zones.join("\n"), &services.join("\n"))
    })
}

/// One thing that changes between two snapshots.
#[derive(Debug, Clone)]
enum Change {
    /// Healthy instances of a version of a service, at a gateway; `None`: it exports no such thing.
    Export(usize, usize, usize, Option<u32>),
    Age(usize, Age),
    Draining(usize, bool),
    Gone(usize),
    Link(usize, Option<Link>),
    /// An own instance of a service, and its health.
    Own(usize, usize, Option<bool>),
    /// A zone is ejected for a version, or nothing is.
    Ejected(Option<(usize, usize, usize)>),
    Topology,
}

fn any_change() -> impl Strategy<Value = Change> {
    let (at, of, version) = (0..GATEWAYS.len(), 0..SERVICES.len(), 0..VERSIONS.len());
    let age = prop_oneof![3 => Just(Age::Fresh), 1 => Just(Age::Suspect), 1 => Just(Age::Withdrawn)];
    let link = prop_oneof![3 => Just(Link::Up), 1 => Just(Link::Stalled), 1 => Just(Link::Draining)];
    let place = (at.clone(), of.clone(), version.clone());
    prop_oneof![
        8 => (at.clone(), of.clone(), version.clone(), prop::option::weighted(0.8, 0..4u32))
            .prop_map(|(at, of, version, healthy)| Change::Export(at, of, version, healthy)),
        1 => (at.clone(), age).prop_map(|(at, age)| Change::Age(at, age)),
        1 => (at.clone(), any::<bool>()).prop_map(|(at, draining)| Change::Draining(at, draining)),
        1 => at.clone().prop_map(Change::Gone),
        2 => (at, prop::option::weighted(0.8, link)).prop_map(|(at, link)| Change::Link(at, link)),
        2 => (of, version, prop::option::of(any::<bool>())).prop_map(|(of, version, own)| Change::Own(of, version, own)),
        1 => prop::option::of(place).prop_map(Change::Ejected),
        1 => Just(Change::Topology),
    ]
}

fn export(of: usize, version: usize, healthy: u32) -> Export {
    Export {
        service: testbed::service(SERVICES[of]),
        tags: tags(&[("version", VERSIONS[version])]),
        instances: 3,
        healthy,
        weight: u64::from(healthy),
        capacity_per_second: None,
    }
}

fn edited(catalog: &Catalog, at: usize, edit: impl FnOnce(&mut CatalogEntry)) -> Arc<Catalog> {
    let known = catalog.entry(&gateway(GATEWAYS[at])).cloned();
    let mut changed = known.unwrap_or_else(|| entry(GATEWAYS[at], Age::Fresh, false, &[]));
    edit(&mut changed);
    let mut next = catalog.clone();
    next.insert(changed);
    Arc::new(next)
}

/// The snapshot after a change, without anything compiled.
fn after(mut snapshot: Snapshot, change: &Change) -> Snapshot {
    let catalog = &snapshot.catalog;
    match change {
        Change::Export(at, of, version, healthy) => {
            snapshot.catalog = edited(catalog, *at, |entry| {
                let export = export(*of, *version, healthy.unwrap_or_default());
                let record = Arc::make_mut(&mut entry.record);
                match healthy {
                    Some(_) => drop(record.exports.insert(export)),
                    None => drop(record.exports.remove(&export.service, &export.tags)),
                }
            });
        }
        Change::Age(at, age) => snapshot.catalog = edited(catalog, *at, |entry| entry.age = *age),
        Change::Draining(at, draining) => {
            let drain = |entry: &mut CatalogEntry| Arc::make_mut(&mut entry.record).draining = *draining;
            snapshot.catalog = edited(catalog, *at, drain);
        }
        Change::Gone(at) => {
            let mut next = Catalog::clone(catalog);
            next.remove(&gateway(GATEWAYS[*at]));
            snapshot.catalog = Arc::new(next);
        }
        Change::Link(at, link) => {
            let mut links = BTreeMap::clone(&snapshot.links);
            if let Some(link) = link {
                links.insert(gateway(GATEWAYS[*at]), *link);
            } else {
                links.remove(&gateway(GATEWAYS[*at]));
            }
            snapshot.links = Arc::new(links);
        }
        Change::Own(of, version, healthy) => {
            let health = |healthy: bool| {
                if healthy {
                    Health::Healthy
                } else {
                    Health::Unhealthy
                }
            };
            let own = healthy.map(|healthy| {
                let made = instance(
                    "own",
                    "127.0.0.1:1".parse().unwrap(),
                    1,
                    &[("version", VERSIONS[*version])],
                );
                let made = Arc::into_inner(made).unwrap();
                Arc::new(Instance {
                    health: health(healthy),
                    ..made
                })
            });
            let mut instances = BTreeMap::clone(&snapshot.instances);
            let list: InstanceList = own.into_iter().collect();
            instances.insert(testbed::service(SERVICES[*of]), list);
            snapshot.instances = Arc::new(instances);
        }
        Change::Ejected(place) => eject(&snapshot, *place),
        Change::Topology => snapshot.topology = Arc::new(Topology::clone(&snapshot.topology)),
    }
    snapshot.compiled = CompiledServices::default();
    snapshot
}

fn eject(snapshot: &Snapshot, place: Option<(usize, usize, usize)>) {
    let mut table = OutlierTable::default();
    if let Some((at, of, version)) = place {
        let (service, zone) = (testbed::service(SERVICES[of]), gateway(GATEWAYS[at]).zone);
        let tags = tags(&[("version", VERSIONS[version])]);
        let at = TriedPlace {
            service: &service,
            port: None,
            zone: &zone,
            tags: &tags,
            instance: 0,
            healthy: 1,
            client: 1,
        };
        let policy = snapshot.topology.services[&service].outlier.clone().unwrap();
        table.failed(std::time::Duration::ZERO, &policy, TryFailure::Unavailable, at);
    }
    let ejected = table.ejected(std::time::Duration::ZERO);
    let is_place = |part: &EjectedPart| matches!(part, EjectedPart::Zone(_));
    assert_eq!(
        ejected.list().iter().any(|one| is_place(&one.part)),
        place.is_some()
    );
    snapshot.ejections.store(Arc::new(ejected));
}

/// Every kind of request for a service.
fn requests(snapshot: &Snapshot, name: &ServiceName, key: u64) -> Vec<Request> {
    let service = &snapshot.topology.services[name];
    let of_route = service.routes[0].split.clone();
    let alike: Arc<[SplitArm]> = service.split.clone().into();
    let whole = || Request::new(Target::service(name.clone()));
    let tagged = Target {
        tags: tags(&[("version", "v2")]),
        ..Target::service(name.clone())
    };
    let zoned = Target {
        zone: Some(testbed::zone("b")),
        ..Target::service(name.clone())
    };
    vec![
        whole(),
        whole().with_key(StickyKey::told(key)),
        whole().with_split(of_route.clone()),
        whole().with_split(of_route).with_key(StickyKey::told(key)),
        whole().with_split(Some(alike)),
        Request::new(tagged),
        Request::new(zoned),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_is_compiled_decides_as_the_filters_do(
        topology in any_topology(),
        start in prop::collection::vec(any_change(), 40),
        changes in prop::collection::vec(any_change(), 12),
        seed in any::<u64>(),
    ) {
        let links: Vec<_> = GATEWAYS.iter().map(|name| (*name, Link::Up)).collect();
        let empty = snapshot("a", &topology, vec![], vec![], &links);
        let mut at_hand = start.iter().fold(empty, after);
        let mut compiled = CompiledServices::default();
        for (step, change) in changes.iter().enumerate() {
            at_hand = after(at_hand, change);
            compiled = compiled.following(&at_hand);
            let fast = Snapshot { compiled: compiled.clone(), ..at_hand.clone() };
            let slow = Snapshot { compiled: CompiledServices::default(), ..at_hand.clone() };
            for name in SERVICES.map(testbed::service) {
                for request in requests(&slow, &name, seed) {
                    let rng = || SmallRng::seed_from_u64(seed.wrapping_add(step as u64));
                    let (one, other) = (route(&fast, &request, rng()), route(&slow, &request, rng()));
                    prop_assert_eq!(one.first(), other.first(), "{:?}", request);
                    prop_assert_eq!(one.why(), other.why());
                    prop_assert_eq!(one.demanded(), other.demanded());
                    let explained = Request { explain: true, ..request.clone() };
                    let explained = route(&fast, &explained, rng()).complete();
                    prop_assert_eq!(one.why(), explained.why);
                    let (one, other) = (one.complete(), other.complete());
                    prop_assert_eq!(&one, &other, "{:?}", request);
                    prop_assert_eq!(one.candidates, explained.candidates);
                }
            }
        }
    }
}

/// Two services in whose place there is nothing rare.
fn usual() -> Snapshot {
    let arms = "split: [{ tags: { version: v1 }, weight: 1 }, { tags: { version: v2 }, weight: 2 }]";
    let services = format!("  orders: {{ port: 80, {arms} }}\n  users: {{ port: 80, {arms} }}");
    let topology = topology("  a: {}\n  b: {}\n  c: {}", &services);
    let exports = (0..2).flat_map(|of| (0..2).map(move |version| export(of, version, 2)));
    let exports: Vec<Export> = exports.collect();
    let entries = ["b", "c"].map(|name| {
        let mut entry = entry(name, Age::Fresh, false, &[]);
        Arc::make_mut(&mut entry.record).exports = exports.iter().cloned().collect();
        entry
    });
    snapshot(
        "a",
        &topology,
        vec![],
        entries.into(),
        &[("b", Link::Up), ("c", Link::Up)],
    )
}

#[test]
fn usual_requests_are_decided_by_what_is_compiled() {
    let snapshot = usual();
    let request = Request::new(orders());
    let compiled = snapshot.compiled.service(&snapshot, &request).unwrap();
    for seed in 0..100 {
        assert!(
            compiled
                .first(&request, &mut SmallRng::seed_from_u64(seed))
                .is_some()
        );
    }
}

#[test]
fn a_change_of_one_service_leaves_the_others_compiled() {
    let before = usual();
    let (orders, users) = (testbed::service("orders"), testbed::service("users"));
    for name in [&orders, &users] {
        let request = Request::new(Target::service(name.clone()));
        assert!(
            route(&before, &request, SmallRng::seed_from_u64(1))
                .first()
                .is_some()
        );
    }
    let has = |compiled: &CompiledServices| (compiled.has(&orders), compiled.has(&users));
    assert_eq!(has(&before.compiled), (true, true));
    let changed = |change| {
        let after = after(before.clone(), &change);
        has(&before.compiled.following(&after))
    };
    // `c` is the third of the gateways.
    assert_eq!(changed(Change::Export(2, 0, 0, Some(1))), (false, true));
    assert_eq!(changed(Change::Own(1, 0, Some(true))), (true, false));
    assert_eq!(changed(Change::Link(2, Some(Link::Stalled))), (false, false));
    assert_eq!(changed(Change::Age(2, Age::Suspect)), (false, false));
    assert_eq!(changed(Change::Gone(2)), (false, false));
    assert_eq!(changed(Change::Topology), (false, false));
    assert_eq!(changed(Change::Ejected(None)), (true, true));
    assert_eq!(
        has(&before.compiled),
        (true, true),
        "its own readers go on with it"
    );
}

#[test]
fn what_is_compiled_for_one_snapshot_decides_nothing_in_another() {
    let before = usual();
    let request = Request::new(orders());
    let after = Snapshot {
        links: Arc::default(),
        ..before.clone()
    };
    assert!(before.compiled.service(&before, &request).is_some());
    assert!(after.compiled.service(&after, &request).is_none());
    assert_eq!(route(&after, &request, SmallRng::seed_from_u64(1)).first(), None);
}
