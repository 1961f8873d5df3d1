//! The table as the egress and mesh DNS see it.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use causeway_zone_sync::{name::ServiceName, topology::parse};

use super::{VipTable, VipsError, table::MAX_NARROWED_NAMES};
use crate::{snapshot::Snapshot, target::Target};

/// A snapshot of zone `east` with these services, and as many zones beside it as `zones` says.
fn snapshot(vips: &str, services: &[&str], zones: usize) -> Snapshot {
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
    let tiny = "{ routed: [10.9.0.0/28] }";
    let names = ["a", "b", "c", "d", "e", "f"];
    let table = VipTable::open(folder.path(), at(1)).unwrap();
    table.refresh(&snapshot(tiny, &names, 1), at(1)).unwrap();
    let by_zone = table
        .claim(&snapshot(tiny, &names, 1), &in_zone("a", "z0"), at(2))
        .unwrap();
    let before = table.names().clone();
    drop(table);
    // A new name that sorts first would take an earlier one's place, were it not for the file.
    let more = ["0", "1", "2", "a", "b", "c", "d", "e", "f"];
    let table = VipTable::open(folder.path(), at(3)).unwrap();
    table.refresh(&snapshot(tiny, &more, 1), at(3)).unwrap();
    for name in names {
        assert_eq!(table.names().service(name), before.service(name), "{name}");
    }
    assert_eq!(table.names().vip(&in_zone("a", "z0")), Some(by_zone));
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
            Err(VipsError::TooManyNames) => refused += 1,
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
