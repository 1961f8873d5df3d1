//! Services with several ports: each leads to its own port of an instance, here and in other zones, and nothing of one serves another.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use causeway_federation::{name::PortName, topology::Topology};
use causeway_proto::tunnel::stream_header::Kind;
use causeway_routing::{
    snapshot::Instance,
    target::{Binding, Target},
};
use causeway_tunnel::{IncomingStream, StreamHandler as _, testbed::pair_telling};
use http::Method;

use super::{HttpClient, HttpInstance, two_zones};
use crate::{
    egress::EgressConfig,
    testbed::{self, Client, Handler, Recorder, Zone, connect, until},
};

/// Programs of one instance: what it is registered with, and what its other ports lead to.
struct ManyPorts {
    web: HttpInstance,
    admin: HttpInstance,
    raw: Recorder,
}

impl ManyPorts {
    async fn start() -> Self {
        Self {
            web: HttpInstance::start("web").await,
            admin: HttpInstance::start("admin").await,
            raw: Recorder::start("raw").await,
        }
    }

    /// `orders` with its three ports and these further keys.
    fn topology(&self, more: &str) -> Arc<Topology> {
        let (admin, raw) = (self.admin.address.port(), self.raw.address.port());
        testbed::topology(
            "  home: {}\n  east: {}\n  west: {}",
            &format!(
                "  orders:\n    protocol: http\n    ports:\n      web: 8080\n      admin: {{ port: 9090, target: {admin} }}\n      \
                 raw: {{ port: 70, protocol: tcp, target: {raw} }}\n    {more}"
            ),
        )
    }

    fn instance(&self) -> Arc<Instance> {
        self.web.instance(&[])
    }
}

/// An address at which `zone` takes clients of this port of `orders`.
fn bound(zone: &Zone, port: &str) -> SocketAddr {
    let vip = testbed::vip();
    let binding = Binding {
        target: Target::service(testbed::service("orders")),
        port: Some(PortName::new(port).unwrap()),
    };
    zone.bindings.send_modify(|bindings| {
        Arc::make_mut(bindings).insert(vip, binding);
    });
    vip
}

/// Asks every port of `zone` in turn, several times over.
async fn assert_no_mix_up(zone: &Zone) {
    let (web, admin, raw) = (bound(zone, "web"), bound(zone, "admin"), bound(zone, "raw"));
    for round in 0..5 {
        for (address, name) in [(web, "web"), (admin, "admin")] {
            let mut client = HttpClient::to(address).await;
            assert_eq!(client.get("/").await.text(), name, "round {round}");
            assert_eq!(client.ask(Method::POST, "/").await.unwrap().text(), name);
        }
        let mut client = Client(connect(raw).await);
        assert_eq!(client.greeting().await.unwrap(), "raw");
        client.echo("no request at all").await;
    }
}

#[tokio::test]
async fn each_port_leads_to_its_own_port_of_an_instance_of_this_zone() {
    let there = ManyPorts::start().await;
    let home = Zone::start("home", &there.topology(""), vec![there.instance()]);
    assert_no_mix_up(&home).await;
    assert!(
        there
            .raw
            .given()
            .iter()
            .all(|given| given == b"no request at all")
    );
}

#[tokio::test]
async fn each_port_leads_to_its_own_port_of_an_instance_of_another_zone_over_connections_that_are_kept() {
    let there = ManyPorts::start().await;
    let (home, east) = two_zones(&there.topology(""), vec![there.instance()]).await;
    assert_no_mix_up(&home).await;
    assert_eq!(there.raw.given().len(), 5);
    // Of each of the two ports that speak HTTP/1.1 one is waiting.
    until("both are given back", || east.ingress.warm().count() >= 2).await;
    assert!(there.web.connections() < 10 && there.admin.connections() < 10);
}

/// `orders` with one port, which has no name.
fn without_names() -> Arc<Topology> {
    testbed::topology(
        "  home: {}\n  east: {}\n  west: {}",
        "  orders: { port: 8080, protocol: http }",
    )
}

#[tokio::test]
async fn a_port_that_the_other_gateway_does_not_know_is_asked_for_elsewhere() {
    let there = ManyPorts::start().await;
    let topology = there.topology("failover: [{ zone: east }, { zone: west }]");
    let home = Zone::start("home", &topology, vec![]);
    let (east, west) = (
        Zone::start("east", &without_names(), vec![there.instance()]),
        Zone::start("west", &topology, vec![there.instance()]),
    );
    home.join("east", east.ingress.clone()).await;
    home.join("west", west.ingress.clone()).await;
    let mut client = HttpClient::to(bound(&home, "admin")).await;
    assert_eq!(client.get("/").await.text(), "admin");
    assert_eq!(there.web.requests(), 0, "east gave it to its only port");
}

#[tokio::test]
async fn a_gateway_that_cannot_tell_ports_apart_is_asked_for_the_primary_one_alone() {
    let (old, new) = (ManyPorts::start().await, ManyPorts::start().await);
    let topology = new.topology("failover: [{ zone: east }, { zone: west }]");
    let home = Zone::start("home", &topology, vec![]);
    let (east, west) = (
        Zone::start("east", &without_names(), vec![old.instance()]),
        Zone::start("west", &topology, vec![new.instance()]),
    );
    // What it does not know of, it passes over.
    let ingress = east.ingress.clone();
    let older = Handler(move |mut stream: IncomingStream| {
        if let Kind::Connect(asked) = &mut stream.kind {
            asked.port.clear();
            asked.primary_port = false;
        }
        ingress.handle(stream)
    });
    let ends = pair_telling(testbed::gateway("home"), testbed::gateway("east"), &[]).await;
    home.join_over(ends, "east", older);
    home.join("west", west.ingress.clone()).await;
    let mut client = HttpClient::to(bound(&home, "admin")).await;
    assert_eq!(client.get("/").await.text(), "admin");
    assert_eq!((old.web.requests(), new.admin.requests()), (0, 1));
    let mut client = HttpClient::to(bound(&home, "web")).await;
    assert_eq!(client.get("/").await.text(), "web");
    assert_eq!((old.web.requests(), new.web.requests()), (1, 0));
}

#[tokio::test]
async fn the_primary_port_is_reached_while_only_one_of_two_zones_has_names_for_ports() {
    let there = ManyPorts::start().await;
    let (home, east) = two_zones(&there.topology(""), vec![there.instance()]).await;
    let named = home.snapshots.load().topology.clone();
    home.change(|snapshot| snapshot.topology = without_names());
    assert_eq!(HttpClient::of(&home).await.get("/").await.text(), "web");
    home.change(|snapshot| snapshot.topology = named);
    east.change(|snapshot| snapshot.topology = without_names());
    let told = HttpClient::to(bound(&home, "web")).await.get("/").await;
    assert_eq!(told.text(), "web");
    let told = HttpClient::to(bound(&home, "admin")).await.get("/").await;
    assert_eq!(
        (told.status.as_u16(), told.field("causeway-reason")),
        (503, Some("unknown_port"))
    );
}

#[tokio::test]
async fn a_port_that_has_left_the_topology_is_refused_soon() {
    let there = ManyPorts::start().await;
    let home = Zone::start("home", &there.topology(""), vec![there.instance()]);
    let mut client = HttpClient::to(bound(&home, "admin")).await;
    assert_eq!(client.get("/").await.text(), "admin");
    home.change(|snapshot| snapshot.topology = without_names());
    let begun = Instant::now();
    // Its connection to the instance is still there.
    let told = client.get("/").await;
    assert_eq!(
        (told.status.as_u16(), told.field("causeway-reason")),
        (503, Some("unknown_port"))
    );
    assert!(begun.elapsed() < EgressConfig::new(1).setup_deadline / 2);
    assert_eq!(there.admin.requests(), 1);
}

#[tokio::test]
async fn who_may_not_call_is_refused_at_every_port_by_the_zone_that_serves() {
    let there = ManyPorts::start().await;
    let (home, east) = two_zones(&there.topology(""), vec![there.instance()]).await;
    let denied = there.topology("deny: ['*', anonymous]");
    east.change(|snapshot| snapshot.topology = denied);
    for port in ["web", "admin"] {
        let told = HttpClient::to(bound(&home, port)).await.get("/").await;
        assert_ne!(told.status, 200, "{port}: {told:?}");
    }
    let mut client = Client(connect(bound(&home, "raw")).await);
    client.greeting().await.unwrap_err();
    let asked = (
        there.web.requests(),
        there.admin.requests(),
        there.raw.given().len(),
    );
    assert_eq!(asked, (0, 0, 0));
}

#[tokio::test]
async fn a_route_may_be_for_one_port() {
    let there = ManyPorts::start().await;
    let routes = "routes: [{ match: { port: admin }, answer: { status: 404, body: 'not for you' } }]";
    let home = Zone::start("home", &there.topology(routes), vec![there.instance()]);
    let told = HttpClient::to(bound(&home, "web")).await.get("/").await;
    assert_eq!((told.status.as_u16(), told.text()), (200, "web"));
    let told = HttpClient::to(bound(&home, "admin")).await.get("/").await;
    assert_eq!((told.status.as_u16(), told.text()), (404, "not for you"));
}
