//! The table as the egress and mesh DNS see it.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use causeway_federation::{
    catalog::{Age, Catalog, CatalogEntry, Export, Record},
    name::ServiceName,
    topology::parse,
};
use causeway_routing::{snapshot::Snapshot, target::Target, testbed};

use crate::place::target_of;

use super::{
    NoRoomForName, VipTable, VipsError,
    room::{KEEP_UNUSED_SECONDS, MAX_NARROWED_NAMES, MAX_TAGGED_NAMES_OF_SERVICE},
};

/// A snapshot of zone `east` with these services, and as many zones beside it as `zones` says.
pub(super) fn snapshot(vips: &str, services: &[&str], zones: usize) -> Snapshot {
    let others: String = (0..zones)
        .map(|i| format!("  z{i}: {{ gateways: ['z{i}.example:7800'] }}\n"))
        .collect();
    let services: String = services
        .iter()
        .map(|name| format!("  {name}: {{ port: 8080, protocol: tcp }}\n"))
        .collect();
    let text = format!(
        "version: 1\ntrust_domain: acme.internal\nzones:\n  east: {{ gateways: ['10.0.0.1:7800'], vips: {vips} }}\n{others}\
         services:\n{services}"
    );
    Snapshot {
        generation: 1,
        zone: "east".parse().unwrap(),
        topology: Arc::new(parse(&text, "test.yaml").unwrap().topology),
        callers: Arc::default(),
        instances: Arc::default(),
        catalog: Arc::default(),
        links: Arc::default(),
        listeners: Arc::default(),
        ejections: Arc::default(),
        ceilings: Default::default(),
        shifts: Default::default(),
        capacity: Default::default(),
        compiled: Default::default(),
    }
}

const LOOPBACK: &str = "{ loopback: 127.64.0.0/10 }";

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn in_zone(service: &str, zone: &str) -> Target {
    Target {
        zone: Some(zone.parse().unwrap()),
        ..Target::service(ServiceName::new(service).unwrap())
    }
}

#[test]
fn bindings_follow_the_topology_and_nothing_else_wakes_the_egress() {
    let table = VipTable::in_memory();
    let mut bindings = table.bindings();
    let first = snapshot(LOOPBACK, &["orders"], 1);
    table.refresh(&first, at(1)).unwrap();
    let orders = table
        .names()
        .service("orders")
        .unwrap()
        .addresses()
        .next()
        .unwrap();
    let held = bindings.borrow_and_update().clone();
    assert_eq!(held.len(), 1);
    assert_eq!(held[&SocketAddr::new(orders, 8080)].to_string(), "orders");
    table.refresh(&first, at(2)).unwrap();
    table.refresh(&snapshot(LOOPBACK, &["orders"], 1), at(3)).unwrap();
    assert!(!bindings.has_changed().unwrap());
    table
        .refresh(&snapshot(LOOPBACK, &["orders", "web"], 1), at(4))
        .unwrap();
    assert_eq!(bindings.borrow_and_update().len(), 2);
    table.refresh(&snapshot(LOOPBACK, &["web"], 1), at(5)).unwrap();
    assert_eq!(
        bindings.borrow_and_update().len(),
        1,
        "a name that is gone is not listened on"
    );
    table.refresh(&first, at(6)).unwrap();
    let back = table
        .names()
        .service("orders")
        .unwrap()
        .addresses()
        .next()
        .unwrap();
    assert_eq!(back, orders, "and has its address again when it is back");
}

#[test]
fn the_file_keeps_addresses_over_restarts_and_additions() {
    let folder = tempfile::tempdir().unwrap();
    let names = ["a", "b", "c", "d", "e", "f"];
    let table = VipTable::open(folder.path(), at(1)).unwrap();
    table.refresh(&snapshot(LOOPBACK, &names, 1), at(1)).unwrap();
    let by_zone = table
        .claim(&snapshot(LOOPBACK, &names, 1), &in_zone("a", "z0"), at(2))
        .unwrap();
    let before = table.names().clone();
    drop(table);
    let more = ["0", "1", "2", "a", "b", "c", "d", "e", "f"];
    let table = VipTable::open(folder.path(), at(3)).unwrap();
    table.refresh(&snapshot(LOOPBACK, &more, 1), at(3)).unwrap();
    for name in names {
        assert_eq!(table.names().service(name), before.service(name), "{name}");
    }
    assert_eq!(table.names().vip(&in_zone("a", "z0")), Some(by_zone));
}

/// In a range of 1,021 addresses several of these meet.
fn many(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("s{number}")).collect()
}

#[test]
fn every_gateway_of_a_zone_has_the_same_addresses_whatever_it_has_seen() {
    let vips = "{ loopback: 127.90.0.0/22 }";
    let names = many(200);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let whole = snapshot(vips, &names, 1);
    let (old, new) = (VipTable::in_memory(), VipTable::in_memory());
    // One has been there while services came one by one, those that sort last first, and was asked for names by zone.
    for count in 1..=names.len() {
        let some = snapshot(vips, &names[names.len() - count..], 1);
        old.refresh(&some, at(count as u64)).unwrap();
        old.claim(
            &some,
            &in_zone(names[names.len() - count], "z0"),
            at(count as u64),
        )
        .unwrap();
    }
    new.refresh(&whole, at(1000)).unwrap();
    let (old, new) = (old.names(), new.names());
    for name in &names {
        assert_eq!(old.service(name), new.service(name), "{name}");
    }
    let distinct: std::collections::BTreeSet<_> = new.by_address.keys().collect();
    assert_eq!(distinct.len(), names.len());
}

#[test]
fn an_address_is_given_to_no_other_service_for_thirty_days_after_its_own_is_gone() {
    const DAY: u64 = 24 * 3600;
    let vips = "{ loopback: 127.90.0.0/22 }";
    let names = many(400);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let table = VipTable::in_memory();
    let address = |name: &str| table.names().service(name).unwrap().addresses().next().unwrap();
    let (first, second) = names.split_at(200);
    table.refresh(&snapshot(vips, first, 0), at(1)).unwrap();
    let before: std::collections::BTreeSet<_> = first.iter().map(|name| address(name)).collect();
    table.refresh(&snapshot(vips, second, 0), at(2)).unwrap();
    let reused = |table: &VipTable| {
        let names = table.names();
        let own = second
            .iter()
            .flat_map(|name| names.service(name).unwrap().addresses());
        own.filter(|address| before.contains(address)).count()
    };
    assert_eq!(reused(&table), 0);
    table.refresh(&snapshot(vips, second, 0), at(29 * DAY)).unwrap();
    assert_eq!(reused(&table), 0);
    table.refresh(&snapshot(vips, second, 0), at(31 * DAY)).unwrap();
    assert!(
        reused(&table) > 0,
        "then they are as at a gateway that never had the others"
    );
}

#[test]
fn a_corrupt_file_is_set_aside_and_addresses_come_from_the_hash() {
    let folder = tempfile::tempdir().unwrap();
    let snapshot = snapshot(LOOPBACK, &["orders"], 0);
    let table = VipTable::open(folder.path(), at(1)).unwrap();
    table.refresh(&snapshot, at(1)).unwrap();
    let before = table.names().service("orders");
    drop(table);
    let path = folder.path().join("vips.redb");
    let length = std::fs::metadata(&path).unwrap().len();
    std::fs::write(&path, vec![0xa5; usize::try_from(length).unwrap()]).unwrap();
    let table = VipTable::open(folder.path(), at(77)).unwrap();
    table.refresh(&snapshot, at(77)).unwrap();
    assert_eq!(table.names().service("orders"), before);
    assert!(folder.path().join("vips.redb.corrupt-77").exists());
}

#[test]
fn a_full_range_is_an_error_and_the_others_keep_theirs() {
    let table = VipTable::in_memory();
    let snapshot = snapshot("{ routed: [10.9.0.0/29] }", &["a", "b", "c", "d"], 1);
    table.refresh(&snapshot, at(1)).unwrap();
    table.claim(&snapshot, &in_zone("a", "z0"), at(2)).unwrap();
    let error = table.claim(&snapshot, &in_zone("b", "z0"), at(3)).unwrap_err();
    assert!(matches!(error, VipsError::RangeFull(_)), "{error}");
    assert_eq!(table.bindings().borrow().len(), 5);
}

#[test]
fn names_that_queries_bring_are_bounded() {
    let table = VipTable::in_memory();
    let snapshot = snapshot(LOOPBACK, &["a", "b"], 600);
    table.refresh(&snapshot, at(1)).unwrap();
    let names = ["a", "b"]
        .into_iter()
        .flat_map(|service| (0..600).map(move |i| (service, i)));
    let mut refused = 0;
    for (service, i) in names {
        match table.claim(&snapshot, &in_zone(service, &format!("z{i}")), at(2)) {
            Ok(_) => {}
            Err(VipsError::NoRoom(NoRoomForName::All)) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(refused, 1200 - MAX_NARROWED_NAMES);
    assert_eq!(table.bindings().borrow().len(), MAX_NARROWED_NAMES + 2);
    let unknown = table.claim(&snapshot, &in_zone("nowhere", "z0"), at(2));
    assert!(matches!(unknown, Err(VipsError::UnknownName(_))));
}

#[test]
fn in_address_mode_the_port_tells_services_apart() {
    let table = VipTable::in_memory();
    let snapshot = snapshot("{ address: 10.7.7.7 }", &["orders"], 1);
    table.refresh(&snapshot, at(1)).unwrap();
    let bindings = table.bindings().borrow().clone();
    assert_eq!(bindings[&"10.7.7.7:8080".parse().unwrap()].to_string(), "orders");
    let narrowed = table.claim(&snapshot, &in_zone("orders", "z0"), at(2));
    assert!(matches!(narrowed, Err(VipsError::SharedAddress)));
}

#[test]
fn a_change_of_mode_is_taken_up() {
    let table = VipTable::in_memory();
    let mut seen = Vec::new();
    for vips in [
        LOOPBACK,
        "{ routed: ['fd00:9::/64'] }",
        "{ address: 10.7.7.7 }",
        LOOPBACK,
    ] {
        table.refresh(&snapshot(vips, &["orders"], 0), at(1)).unwrap();
        seen.push(table.names().service("orders").unwrap());
    }
    assert_eq!(seen[0], seen[3]);
    assert!(seen[1].v4.is_none() && seen[1].v6.is_some());
}

#[test]
fn addresses_of_before_are_taken_for_a_while_after_a_change_over_a_restart_too() {
    let folder = tempfile::tempdir().unwrap();
    let open = || {
        VipTable::open(folder.path(), at(1))
            .unwrap()
            .keep_former(Duration::from_secs(600))
    };
    let bound =
        |table: &VipTable, at: SocketAddr| table.bindings().borrow().get(&at).map(ToString::to_string);
    let table = open();
    let names = ["orders", "web"];
    let snapshots = [LOOPBACK, "{ loopback: 127.32.0.0/16 }"].map(|vips| snapshot(vips, &names, 1));
    table.refresh(&snapshots[0], at(1)).unwrap();
    let by_zone = table.claim(&snapshots[0], &in_zone("web", "z0"), at(1)).unwrap();
    let address = |table: &VipTable, service: &str| {
        let vip = table.names().service(service).unwrap();
        SocketAddr::new(vip.addresses().next().unwrap(), 8080)
    };
    let before = names.map(|name| address(&table, name));
    let by_zone = SocketAddr::new(by_zone.addresses().next().unwrap(), 8080);
    table.refresh(&snapshots[1], at(100)).unwrap();
    let now = names.map(|name| address(&table, name));
    assert!(
        before.iter().all(|held| !now.contains(held)),
        "{before:?} {now:?}"
    );
    assert_eq!(table.former_end(), Some(at(701)));
    drop(table);
    let table = open();
    table.refresh(&snapshots[1], at(700)).unwrap();
    for (name, held) in names.iter().zip(&before) {
        assert_eq!(bound(&table, *held).as_deref(), Some(*name));
    }
    assert!(bound(&table, by_zone).is_some(), "names by zone too");
    assert!(
        table.names().target_at(before[0].ip()).is_none(),
        "nobody is told of it"
    );
    table.refresh(&snapshots[1], at(701)).unwrap();
    assert_eq!(bound(&table, before[0]), None);
    assert_eq!(bound(&table, now[0]).as_deref(), Some("orders"));
    assert_eq!(table.former_end(), None);
    drop(table);
    let table = open();
    table.refresh(&snapshots[1], at(800)).unwrap();
    assert_eq!(table.former_end(), None, "nor after a restart");
    assert_eq!(bound(&table, by_zone), None);
}

#[test]
fn an_address_of_before_is_nobodys_once_its_name_is_gone_or_the_setting_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let open = |kept| {
        VipTable::open(folder.path(), at(1))
            .unwrap()
            .keep_former(Duration::from_secs(kept))
    };
    let other = "{ loopback: 127.32.0.0/16 }";
    let table = open(600);
    table.refresh(&snapshot(LOOPBACK, &["orders"], 0), at(1)).unwrap();
    table.refresh(&snapshot(other, &["orders"], 0), at(2)).unwrap();
    assert_eq!(table.bindings().borrow().len(), 2);
    table.refresh(&snapshot(other, &["web"], 0), at(3)).unwrap();
    assert_eq!(table.bindings().borrow().len(), 1, "of orders there is none");
    table.refresh(&snapshot(other, &["orders"], 0), at(4)).unwrap();
    assert_eq!(table.bindings().borrow().len(), 2);
    drop(table);
    let table = open(0);
    table.refresh(&snapshot(other, &["orders"], 0), at(5)).unwrap();
    assert_eq!(table.bindings().borrow().len(), 1);
}

#[test]
fn the_gateways_own_address_of_before_is_taken_after_a_change_of_mode() {
    let table = VipTable::in_memory().keep_former(Duration::from_secs(600));
    table
        .refresh(&snapshot("{ address: 127.64.0.9 }", &["orders"], 0), at(1))
        .unwrap();
    let held: SocketAddr = "127.64.0.9:8080".parse().unwrap();
    assert!(table.bindings().borrow().contains_key(&held));
    table.refresh(&snapshot(LOOPBACK, &["orders"], 0), at(2)).unwrap();
    assert_eq!(
        table.bindings().borrow().len(),
        2,
        "the gateway's own address and the new one"
    );
    table
        .refresh(&snapshot("{ address: 127.64.0.9 }", &["web"], 0), at(3))
        .unwrap();
    assert_eq!(table.bindings().borrow()[&held].to_string(), "web");
}

/// One gateway's exports of `orders`, each with a tag of its own.
fn many_exports(count: u32) -> CatalogEntry {
    let entry = testbed::entry("z0/gw1", Age::Fresh, false, &[]);
    let mut record = Record::clone(&entry.record);
    let export = |number| Export {
        service: testbed::service("orders"),
        tags: testbed::tags(&[("n", &format!("{number}"))]),
        instances: 1,
        healthy: 1,
        weight: 1,
        capacity_per_second: None,
    };
    record.exports = (0..count).map(export).collect();
    let record = Arc::new(record);
    CatalogEntry { record, ..entry }
}

/// A client that asks for every combination of an instance's tags keeps nobody else from a name, and others of that service from
/// one only for as long as it goes on.
#[test]
fn combinations_of_tags_leave_room_for_others() {
    let tags: Vec<(String, &str)> = (0..11).map(|n| (format!("k{n}"), "v")).collect();
    let tags: Vec<(&str, &str)> = tags.iter().map(|(key, value)| (key.as_str(), *value)).collect();
    let address = "10.0.0.1:80".parse().unwrap();
    let instance = testbed::instance("a", address, 1, &tags);
    let snapshot = Snapshot {
        instances: Arc::new([(testbed::service("orders"), vec![instance].into())].into()),
        ..snapshot(LOOPBACK, &["orders", "web"], 8)
    };
    let table = VipTable::in_memory();
    table.refresh(&snapshot, at(1)).unwrap();
    let names = || table.names().clone();
    let three = target_of(&snapshot, &names(), "k0-v.k1-v.k2-v.orders.mesh");
    assert!(three.is_some());
    let four = target_of(&snapshot, &names(), "k0-v.k1-v.k2-v.k3-v.orders.mesh");
    assert_eq!(four, None, "a name with so many tags does not exist");
    let pairs = tags
        .iter()
        .flat_map(|one| tags.iter().map(move |other| (one, other)));
    for (one, other) in pairs.filter(|(one, other)| one < other) {
        for zone in 0..8 {
            let zone = Some(format!("z{zone}").parse().unwrap());
            let name = tagged(&[*one, *other]);
            let _ = table.claim(&snapshot, &Target { zone, ..name }, at(2));
        }
    }
    assert_eq!(names().narrowed.len(), MAX_TAGGED_NAMES_OF_SERVICE);
    table.claim(&snapshot, &in_zone("orders", "z7"), at(3)).unwrap();
    table.claim(&snapshot, &in_zone("web", "z7"), at(3)).unwrap();
    let late = tagged(&[("k9", "v")]);
    let refused = table.claim(&snapshot, &late, at(3));
    assert!(matches!(
        refused,
        Err(VipsError::NoRoom(NoRoomForName::OfService(_)))
    ));
    let later = at(2 + KEEP_UNUSED_SECONDS);
    let tagged_names = names();
    let mut tagged_names = tagged_names.narrowed.keys().filter(|name| !name.tags.is_empty());
    tagged_names.next();
    for used in tagged_names {
        table.told(used, later);
    }
    table.claim(&snapshot, &late, later).unwrap();
    let refused = table.claim(&snapshot, &tagged(&[("k8", "v")]), later);
    assert!(refused.is_err(), "the others are in use");
}

/// With a reading of all exports for each name, this takes an hour.
#[test]
fn a_gateway_with_many_names_and_exports_starts_and_gives_new_names_addresses() {
    let folder = tempfile::tempdir().unwrap();
    let names: Vec<Target> = (0..200).map(|n| tagged(&[("n", &format!("{n}"))])).collect();
    let snapshot = Snapshot {
        catalog: Arc::new(Catalog::new([many_exports(100_000)])),
        ..snapshot(LOOPBACK, &["orders"], 1)
    };
    let table = VipTable::open(folder.path(), at(1)).unwrap();
    table.refresh(&snapshot, at(1)).unwrap();
    for name in &names {
        table.claim(&snapshot, name, at(2)).unwrap();
    }
    drop(table);
    let table = VipTable::open(folder.path(), at(3)).unwrap();
    for hour in 1..20 {
        table.refresh(&snapshot, at(3 + hour * 3600)).unwrap();
    }
    assert_eq!(table.names().narrowed.len(), names.len());
    let found = target_of(&snapshot, &table.names(), "n-1000.orders.mesh");
    assert_eq!(found, Some(tagged(&[("n", "1000")])));
}

fn tagged(pairs: &[(&str, &str)]) -> Target {
    Target {
        tags: testbed::tags(pairs),
        ..Target::service(ServiceName::new("orders").unwrap())
    }
}

/// Answers of two gateways to one name: of one that was asked while the first instance alone was there, and of one that was not.
#[test]
fn who_asked_first_does_not_decide_which_of_two_tags_a_label_stands_for() {
    let instance = |id: &str, version| {
        let address = "10.0.0.1:80".parse().unwrap();
        testbed::instance(id, address, 1, &[("version", version)])
    };
    let with = |instances: Vec<_>| Snapshot {
        instances: Arc::new([(ServiceName::new("orders").unwrap(), instances.into())].into()),
        ..snapshot(LOOPBACK, &["orders"], 0)
    };
    let (dotted, dashed) = (instance("a", "v1.2"), instance("b", "v1-2"));
    let (early, late) = (VipTable::in_memory(), VipTable::in_memory());
    let asked = |snapshot: &Snapshot, time| {
        [&early, &late].map(|table| {
            table.refresh(snapshot, at(time)).unwrap();
            target_of(snapshot, &table.names(), "version-v1-2.orders.mesh")
        })
    };
    let first = with(vec![dotted.clone()]);
    early.refresh(&first, at(1)).unwrap();
    early
        .claim(&first, &tagged(&[("version", "v1.2")]), at(1))
        .unwrap();
    assert_eq!(asked(&with(vec![dotted, dashed.clone()]), 2), [None, None]);
    let now = Some(tagged(&[("version", "v1-2")]));
    assert_eq!(asked(&with(vec![dashed]), 3), [now.clone(), now]);
    let held = Some(tagged(&[("version", "v1.2")]));
    assert_eq!(
        asked(&with(vec![]), 4),
        [held, None],
        "what was asked for stays while nobody else bears the label"
    );
}
