//! Tables: a name and a snapshot in, an answer out. No sockets.

use std::{net::IpAddr, sync::Arc, time::SystemTime};

use causeway_federation::topology::Topology;
use causeway_routing::testbed;
use causeway_routing::{snapshot::Snapshot, target::Target};
use hickory_proto::{
    op::ResponseCode,
    rr::{Name, RecordType},
};

use super::{LOOPBACK, snapshot};
use crate::{
    answer::{MeshView, Resolution, Sections, answer},
    vips::VipTable,
};

const SERVER: &[IpAddr] = &[IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 9))];

fn table(snapshot: &Snapshot) -> VipTable {
    let table = VipTable::in_memory();
    table.refresh(snapshot, SystemTime::now()).unwrap();
    table
}

fn asked(table: &VipTable, snapshot: &Snapshot, name: &str, kind: RecordType) -> Resolution {
    let view = MeshView {
        snapshot,
        names: &table.names(),
        listening: table.listening(),
        servers: SERVER,
    };
    answer(view, &Name::from_ascii(name).unwrap(), kind)
}

/// Gives what `name` comes to in one line: `claim TARGET`, `not ours`, `NXDomain`, `no data`, or the records.
fn line(table: &VipTable, snapshot: &Snapshot, name: &str, kind: RecordType) -> String {
    match asked(table, snapshot, name, kind) {
        Resolution::Claim(target) => format!("claim {target}"),
        Resolution::NotOurs => "not ours".to_owned(),
        Resolution::Answer(Sections {
            code: ResponseCode::NoError,
            answers,
            authorities,
            ..
        }) => match answers.as_slice() {
            [] => format!("no data {}", authorities[0].name),
            records => records
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join("; "),
        },
        Resolution::Answer(Sections {
            code, authorities, ..
        }) => {
            let owner = authorities.first().map(|soa| soa.name.to_string());
            format!("{code:?} {}", owner.unwrap_or_default())
        }
    }
}

#[test]
fn names_stand_for_services_tags_and_zones_and_nothing_else() {
    let snapshot = snapshot(LOOPBACK);
    let table = table(&snapshot);
    for (name, expected) in [
        ("version-v2.orders.mesh.", "claim orders{version=v2}"),
        ("VERSION-v2.Orders.MESH.", "claim orders{version=v2}"),
        ("rack-r7.orders.mesh.", "claim orders{rack=r7}"),
        (
            "version-v2.runtime-k8s.orders.mesh.",
            "claim orders{runtime=k8s,version=v2}",
        ),
        (
            "runtime-k8s.version-v2.orders.mesh.",
            "claim orders{runtime=k8s,version=v2}",
        ),
        ("build-1-2-3.orders.mesh.", "claim orders{Build=1.2_3}"),
        ("orders.west.zone.mesh.", "claim orders@west"),
        ("orders.east.zone.mesh.", "claim orders@east"),
        (
            "version-v2.orders.west.zone.mesh.",
            "claim orders{version=v2}@west",
        ),
        // Two tags share this label; two values of one key meet in no instance.
        ("a-b-c.orders.mesh.", "NXDomain mesh."),
        ("version-v1.version-v2.orders.mesh.", "NXDomain mesh."),
        ("version-v2.version-v2.orders.mesh.", "NXDomain mesh."),
        ("version-v9.orders.mesh.", "NXDomain mesh."),
        ("version.orders.mesh.", "NXDomain mesh."),
        ("version-v2.zone.mesh.", "NXDomain mesh."),
        ("orders.north.zone.mesh.", "NXDomain mesh."),
        ("unknown.west.zone.mesh.", "NXDomain mesh."),
        ("unknown.mesh.", "NXDomain mesh."),
        ("secret.mesh.", "NXDomain mesh."),
        ("secret.west.zone.mesh.", "NXDomain mesh."),
        ("*.mesh.", "NXDomain mesh."),
        ("mesh.", "no data mesh."),
        ("west.zone.mesh.", "no data mesh."),
        ("east.zone.mesh.", "east.zone.mesh. 5 IN A 10.0.0.9"),
        ("_tcp.orders.mesh.", "no data mesh."),
        ("_udp.quotes.mesh.", "no data mesh."),
        ("_udp.orders.mesh.", "NXDomain mesh."),
        ("_orders._tcp.orders.mesh.", "no data mesh."),
        ("_orders.orders.mesh.", "NXDomain mesh."),
        ("_tcp.orders.west.zone.mesh.", "no data mesh."),
        ("orders.mesh.example.org.", "not ours"),
        ("xmesh.", "not ours"),
        ("example.org.", "not ours"),
        (".", "not ours"),
    ] {
        assert_eq!(line(&table, &snapshot, name, RecordType::A), expected, "{name}");
    }
}

#[test]
fn a_service_may_be_called_zone() {
    let snapshot = snapshot(LOOPBACK);
    let table = table(&snapshot);
    let vip = table.names().service("zone").unwrap();
    let expected = format!("zone.mesh. 5 IN A {}", vip.v4.unwrap());
    assert_eq!(line(&table, &snapshot, "zone.mesh.", RecordType::A), expected);
    assert_eq!(
        line(&table, &snapshot, "zone.west.zone.mesh.", RecordType::A),
        "claim zone@west"
    );
}

#[test]
fn each_record_type_says_what_it_should() {
    let snapshot = snapshot(LOOPBACK);
    let table = table(&snapshot);
    let vip = table.names().service("orders").unwrap().v4.unwrap();
    let [a, b, c, d] = vip.octets();
    let reverse = format!("{d}.{c}.{b}.{a}.in-addr.arpa.");
    let soa = "IN SOA east.zone.mesh. hostmaster.mesh. 7 3600 600 86400 5";
    for (name, kind, expected) in [
        (
            "orders.mesh.",
            RecordType::A,
            format!("orders.mesh. 5 IN A {vip}"),
        ),
        ("orders.mesh.", RecordType::AAAA, "no data mesh.".to_owned()),
        ("orders.mesh.", RecordType::MX, "no data mesh.".to_owned()),
        (
            "orders.mesh.",
            RecordType::SRV,
            "orders.mesh. 5 IN SRV 0 0 8080 orders.mesh.".to_owned(),
        ),
        (
            "_orders._tcp.orders.mesh.",
            RecordType::SRV,
            "_orders._tcp.orders.mesh. 5 IN SRV 0 0 8080 orders.mesh.".to_owned(),
        ),
        (
            "_http._tcp.orders.mesh.",
            RecordType::SRV,
            "_http._tcp.orders.mesh. 5 IN SRV 0 0 8080 orders.mesh.".to_owned(),
        ),
        (
            "_quotes._udp.quotes.mesh.",
            RecordType::SRV,
            "_quotes._udp.quotes.mesh. 5 IN SRV 0 0 82 quotes.mesh.".to_owned(),
        ),
        (
            "orders.mesh.",
            RecordType::ANY,
            "orders.mesh. 5 IN HINFO RFC8482 ".to_owned(),
        ),
        ("mesh.", RecordType::SOA, format!("mesh. 5 {soa}")),
        (
            "mesh.",
            RecordType::NS,
            "mesh. 5 IN NS east.zone.mesh.".to_owned(),
        ),
        (
            &reverse,
            RecordType::PTR,
            format!("{reverse} 5 IN PTR orders.mesh."),
        ),
        (
            &reverse,
            RecordType::A,
            "no data 64.127.in-addr.arpa.".replace("64", &b.to_string()),
        ),
        (
            "2.0.100.127.in-addr.arpa.",
            RecordType::PTR,
            "NXDomain 100.127.in-addr.arpa.".to_owned(),
        ),
        (
            "100.127.in-addr.arpa.",
            RecordType::PTR,
            "no data 100.127.in-addr.arpa.".to_owned(),
        ),
        ("127.in-addr.arpa.", RecordType::PTR, "not ours".to_owned()),
        ("1.0.0.127.in-addr.arpa.", RecordType::PTR, "not ours".to_owned()),
    ] {
        assert_eq!(line(&table, &snapshot, name, kind), expected, "{name} {kind}");
    }
}

#[test]
fn txt_says_who_serves_it_now() {
    let snapshot = snapshot(LOOPBACK);
    let table = table(&snapshot);
    let text = line(&table, &snapshot, "orders.mesh.", RecordType::TXT);
    let expected = [
        "orders.mesh. 0 IN TXT protocol=http port=8080",
        "orders.mesh. 0 IN TXT zone=east healthy=1/2 own",
        "orders.mesh. 0 IN TXT zone=west gateway=gw1 healthy=2/3 age=suspect tunnel=up",
    ];
    assert_eq!(text, expected.join("; "));
    let narrowed = line(
        &table,
        &snapshot,
        "version-v2.orders.west.zone.mesh.",
        RecordType::TXT,
    );
    assert!(
        narrowed.contains("healthy=2/3") && !narrowed.contains("zone=east"),
        "{narrowed}"
    );
    let unserved = line(&table, &snapshot, "quotes.mesh.", RecordType::TXT);
    assert_eq!(unserved, "quotes.mesh. 0 IN TXT protocol=udp port=82");
}

#[test]
fn negative_answers_carry_the_start_of_authority() {
    let snapshot = snapshot(LOOPBACK);
    let table = table(&snapshot);
    let Resolution::Answer(sections) = asked(&table, &snapshot, "nowhere.mesh.", RecordType::A) else {
        panic!("not answered");
    };
    assert_eq!(sections.code, ResponseCode::NXDomain);
    let soa = sections.authorities[0].to_string();
    assert_eq!(
        soa,
        "mesh. 5 IN SOA east.zone.mesh. hostmaster.mesh. 7 3600 600 86400 5"
    );
}

#[test]
fn a_service_that_nobody_can_serve_still_resolves() {
    let mut snapshot = snapshot(LOOPBACK);
    snapshot.instances = Arc::default();
    snapshot.catalog = Arc::default();
    let table = table(&snapshot);
    assert!(line(&table, &snapshot, "orders.mesh.", RecordType::A).contains("IN A 127."));
}

#[test]
fn a_name_by_tag_stays_when_its_last_instance_is_gone() {
    let mut snapshot = snapshot(LOOPBACK);
    let table = table(&snapshot);
    let target = Target {
        tags: [("rack", "r7")].into_iter().collect(),
        ..Target::service(testbed::service("orders"))
    };
    let vip = table.claim(&snapshot, &target, SystemTime::now()).unwrap();
    snapshot.instances = Arc::default();
    table.refresh(&snapshot, SystemTime::now()).unwrap();
    let expected = format!("rack-r7.orders.mesh. 5 IN A {}", vip.v4.unwrap());
    assert_eq!(
        line(&table, &snapshot, "rack-r7.orders.mesh.", RecordType::A),
        expected
    );
}

#[test]
fn in_address_mode_services_share_the_address_and_tags_have_none() {
    let snapshot = snapshot("{ address: 10.7.7.7 }");
    let table = table(&snapshot);
    for (name, kind, expected) in [
        ("orders.mesh.", RecordType::A, "orders.mesh. 5 IN A 10.7.7.7"),
        ("zone.mesh.", RecordType::A, "zone.mesh. 5 IN A 10.7.7.7"),
        (
            "orders.mesh.",
            RecordType::SRV,
            "orders.mesh. 5 IN SRV 0 0 8080 orders.mesh.",
        ),
        ("version-v2.orders.mesh.", RecordType::A, "no data mesh."),
        ("orders.west.zone.mesh.", RecordType::SRV, "no data mesh."),
        ("7.7.7.10.in-addr.arpa.", RecordType::PTR, "not ours"),
    ] {
        assert_eq!(line(&table, &snapshot, name, kind), expected, "{name}");
    }
}

#[test]
fn routed_ranges_answer_in_both_families_and_in_reverse() {
    let snapshot = snapshot("{ routed: [10.96.0.0/16, 'fd00:96::/64'] }");
    let table = table(&snapshot);
    let vip = table.names().service("orders").unwrap();
    let v6 = vip.v6.unwrap();
    let expected = format!("orders.mesh. 5 IN AAAA {v6}");
    assert_eq!(
        line(&table, &snapshot, "orders.mesh.", RecordType::AAAA),
        expected
    );
    let reverse = Name::from(IpAddr::V6(v6)).to_string();
    let answer = line(&table, &snapshot, &reverse, RecordType::PTR);
    assert!(answer.ends_with("IN PTR orders.mesh."), "{answer}");
    let Resolution::Answer(sections) = asked(&table, &snapshot, "orders.mesh.", RecordType::SRV) else {
        panic!("not answered");
    };
    assert_eq!(sections.additionals.len(), 2);
}

#[test]
fn an_address_whose_port_another_program_has_is_not_given_out() {
    let snapshot = snapshot(LOOPBACK);
    let table = table(&snapshot);
    let (vip, port) = {
        let orders = table.names().service("orders").unwrap();
        let port = snapshot.topology.services["orders"].ports.primary.number;
        (orders.addresses().next().unwrap(), port)
    };
    let at = std::net::SocketAddr::new(vip, port);
    let answers = |kind| line(&table, &snapshot, "orders.mesh.", kind);
    assert!(answers(RecordType::A).contains(&vip.to_string()));
    table.listening().failed(at);
    // The client asks again or elsewhere, and remembers nothing.
    assert_eq!(answers(RecordType::A), "ServFail ");
    assert_eq!(answers(RecordType::SRV), "ServFail ");
    table.listening().began(at);
    assert!(answers(RecordType::A).contains(&vip.to_string()));
}

/// The snapshot in which `orders` has the ports of this text.
fn with_ports(ports: &str) -> Snapshot {
    let text = format!(
        "version: 1\ntrust_domain: a.b\nzones: {{ east: {{ gateways: [] }} }}\nservices:\n  orders: {{ protocol: http, ports: {ports} }}\n"
    );
    let parsed = causeway_federation::topology::parse(&text, "test.yaml").unwrap();
    let mut snapshot = snapshot(LOOPBACK);
    let mut topology = Topology::clone(&snapshot.topology);
    let orders = topology.services.get_mut("orders").unwrap();
    orders.ports = parsed.topology.services["orders"].ports.clone();
    snapshot.topology = Arc::new(topology);
    snapshot
}

#[test]
fn each_port_has_its_srv_record_and_its_listener() {
    let snapshot = with_ports("{ web: 8080, admin: 9090, http: { port: 70, protocol: tcp } }");
    let table = table(&snapshot);
    let vip = table.names().service("orders").unwrap().v4.unwrap();
    let srv = |name: &str| line(&table, &snapshot, name, RecordType::SRV);
    for (name, port) in [
        ("orders.mesh.", 8080),
        ("_orders._tcp.orders.mesh.", 8080),
        ("_web._tcp.orders.mesh.", 8080),
        ("_admin._tcp.orders.mesh.", 9090),
        ("_ADMIN._TCP.orders.mesh.", 9090),
        // What has the name comes before what speaks the protocol.
        ("_http._tcp.orders.mesh.", 70),
    ] {
        assert_eq!(
            srv(name).to_lowercase(),
            format!("{name} 5 in srv 0 0 {port} orders.mesh.").to_lowercase()
        );
    }
    assert_eq!(srv("_else._tcp.orders.mesh."), "NXDomain mesh.");
    assert_eq!(srv("_admin._udp.orders.mesh."), "NXDomain mesh.");
    assert_eq!(
        srv("_admin._tcp.version-v2.orders.mesh."),
        "claim orders{version=v2}"
    );
    assert_eq!(
        line(&table, &snapshot, "_admin._tcp.orders.mesh.", RecordType::A),
        "no data mesh."
    );
    let bindings = table.bindings().borrow().clone();
    let at_vip = bindings.iter().filter(|(at, _)| at.ip() == IpAddr::V4(vip));
    let at_vip: Vec<_> = at_vip
        .map(|(at, bound)| format!("{} {bound}", at.port()))
        .collect();
    assert_eq!(at_vip, ["70 orders:http", "8080 orders:web", "9090 orders:admin"]);
    // Whoever has the address may connect to any of them.
    table.listening().failed((vip, 9090).into());
    assert_eq!(
        line(&table, &snapshot, "orders.mesh.", RecordType::A),
        "ServFail "
    );
    assert_eq!(srv("_web._tcp.orders.mesh."), "ServFail ");
}
