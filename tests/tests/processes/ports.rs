//! A service with several ports between real gateways: its HTTP and its TCP port are reached where they are and across zones, by
//! the SRV records of mesh DNS, and permissions hold at each.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use causeway_tests::{
    dns,
    federation::{Federation, Plan},
    http,
    instance::{Behaviour, Instance},
    process::run,
    talk::{Client, say},
};
use hickory_proto::rr::{RData, RecordType};

const BATCH: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 2, 0, 2));
const EAST: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 2, 0, 11));
const WEST: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 2, 0, 12));

/// Both ports of an instance.
struct TwoPorts {
    web: Instance,
    raw: Instance,
}

impl TwoPorts {
    /// At this address; the second one with this port, or any for 0.
    async fn start(name: &str, ip: IpAddr, raw: u16) -> Self {
        let start = async |name: &str, behaviour, port| {
            let at = SocketAddr::new(ip, port);
            Instance::start_at(name, behaviour, at).await.unwrap()
        };
        Self {
            web: start(&format!("{name}-web"), Behaviour::Http, 0).await,
            raw: start(&format!("{name}-raw"), Behaviour::Name, raw).await,
        }
    }
}

/// The addresses of `orders` for a client in `zone`, as SRV records say.
async fn by_srv(federation: &Federation, zone: &str, port: &str) -> SocketAddr {
    let address = federation.service_address(zone, "orders", 1).await;
    let name = format!("_{port}._tcp.orders.mesh.");
    let answer = dns::ask(federation.zone(zone).dns, &name, RecordType::SRV)
        .await
        .unwrap();
    let ports = answer.answers.iter().filter_map(|record| match &record.data {
        RData::SRV(srv) => Some(srv.port),
        _ => None,
    });
    let ports: Vec<u16> = ports.collect();
    assert_eq!(ports.len(), 1, "{name}: {answer:?}");
    SocketAddr::new(address.ip(), ports[0])
}

#[tokio::test]
async fn both_ports_are_reached_here_and_across_zones_and_never_the_other_one() {
    let east = TwoPorts::start("east", EAST, 0).await;
    let raw = east.raw.address().port();
    let west = TwoPorts::start("west", WEST, raw).await;
    let batch = Instance::start_at("batch", Behaviour::Name, SocketAddr::new(BATCH, 0))
        .await
        .unwrap();
    let orders = format!(
        "protocol: http, deny: [batch], ports: {{ web: 9000, raw: {{ port: 9070, protocol: tcp, target: {raw} }} }}"
    );
    let federation = Plan::new()
        .zone("east")
        .instance("orders", east.web.address(), "{}")
        .instance("batch", batch.address(), "{}")
        .zone("north")
        .zone("west")
        .service(
            "orders",
            &format!("{orders}, failover: [{{ zone: self }}, {{ zone: west }}]"),
        )
        .service("batch", "port: 9001")
        .argument("--access-log")
        .argument("json");
    let federation = federation.start().await.unwrap();
    let (admin, address) = (
        federation.zone("west").admin.to_string(),
        west.web.address().to_string(),
    );
    let arguments = ["register", "orders", "--id", "a", "--address", &address];
    run(arguments.into_iter().chain(["--admin", &admin])).unwrap();
    federation.wait_export("north", "west", "orders").await;
    for (zone, served) in [("east", "east"), ("north", "west")] {
        let (web, raw) = (
            by_srv(&federation, zone, "web").await,
            by_srv(&federation, zone, "raw").await,
        );
        assert_eq!((web.port(), raw.port()), (9000, 9070));
        for round in 0..10 {
            let told = http::get(web, "/").await.unwrap();
            assert!(told.body.contains(&format!("{served}-web")), "{round}: {told:?}");
            let line = format!("line {round} of {zone}");
            assert_eq!(say(raw, &line).await.unwrap(), format!("{served}-raw {line}"));
        }
    }
    for (instance, zone) in [(&east.raw, "east"), (&west.raw, "north")] {
        let lines = instance.lines();
        assert!(
            lines.len() == 10 && lines.iter().all(|line| line.ends_with(zone)),
            "{lines:?}"
        );
    }
    assert!(!east.web.received().is_empty() && !west.web.received().is_empty());
    assert_forbidden_at_both(&federation, &east).await;
    assert_told(&federation).await;
}

/// Asks as `batch`, which runs in east and may call neither port.
async fn assert_forbidden_at_both(federation: &Federation, east: &TwoPorts) {
    let (web, raw) = (
        by_srv(federation, "east", "web").await,
        by_srv(federation, "east", "raw").await,
    );
    let mut client = Client::connect_from(BATCH, web).await.unwrap();
    let told = client
        .say("GET / HTTP/1.1\r\nhost: orders.mesh\r\n\r")
        .await
        .unwrap();
    assert!(told.starts_with("HTTP/1.1 403"), "{told}");
    let mut client = Client::connect_from(BATCH, raw).await.unwrap();
    let told = client.say("let me in").await;
    assert!(
        told.as_ref().is_err() || told.as_ref().is_ok_and(String::is_empty),
        "{told:?}"
    );
    assert!(east.raw.lines().iter().all(|line| line != "let me in"));
}

/// Looks at what logs and commands say of ports.
async fn assert_told(federation: &Federation) {
    let line = [
        "\"role\":\"ingress\"",
        "\"port\":\"raw\"",
        "\"outcome\":\"served\"",
    ];
    federation.zone("west").wait_log(&line).await;
    let admin = federation.zone("north").admin.to_string();
    let told = run(["explain", "orders", "--port", "raw", "--admin", &admin]).unwrap();
    assert!(told.starts_with("orders:raw from zone north"), "{told}");
    let told = run(["get", "services", "--admin", &admin]).unwrap();
    assert!(
        told.contains("web:9000,raw:9070") && told.contains("http,tcp"),
        "{told}"
    );
    let refused = run(["explain", "orders", "--port", "rwa", "--admin", &admin]).unwrap_err();
    assert!(
        format!("{refused:#}").contains("its ports are web, raw"),
        "{refused:#}"
    );
}
