//! Clients' connections, to this zone's instances and to another zone's.

use std::time::Duration;

use causeway_routing::{
    route::{Request, route},
    snapshot::Link,
};
use causeway_telemetry::Role;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{topology, with_service};
use crate::{
    egress::EgressConfig,
    testbed::{self, Recorder, Zone, until},
};

#[tokio::test]
async fn a_client_reaches_an_instance_of_its_own_zone_without_a_tunnel() {
    let here = Recorder::start("here").await;
    let home = Zone::start("home", &topology(), vec![here.instance(1, &[])]);
    let mut client = home.client().await;
    assert_eq!(client.greeting().await.unwrap(), "here");
    client.echo("hello").await;
    client.0.shutdown().await.unwrap();
    assert!(client.rest().await.unwrap().is_empty());
    assert_eq!(here.given(), [b"hello"]);
    until("the connection is over", || {
        home.egress.open_connections().count() == 0
    })
    .await;
}

#[tokio::test]
async fn a_client_reaches_an_instance_of_another_zone() {
    let there = Recorder::start("there").await;
    let east = Zone::start("east", &topology(), vec![there.instance(1, &[])]);
    let home = Zone::start("home", &topology(), vec![]);
    home.join("east", east.ingress.clone()).await;
    let mut client = home.client().await;
    assert_eq!(client.greeting().await.unwrap(), "there");
    client.echo("hello").await;
    assert_eq!(home.egress.open_connections().count(), 1);
    assert_eq!(
        east.ingress.open_connections().list()[0].peer,
        Some(testbed::gateway("home"))
    );
    client.0.shutdown().await.unwrap();
    assert!(client.rest().await.unwrap().is_empty());
    assert_eq!(there.given(), [b"hello"]);
    let none = || home.egress.open_connections().count() + east.ingress.open_connections().count() == 0;
    until("the connection is over on both sides", none).await;
}

#[tokio::test]
async fn bytes_are_counted_while_the_connection_is_open() {
    let (here, there) = (Recorder::start("here").await, Recorder::start("there").await);
    let east = Zone::start("east", &topology(), vec![there.instance(1, &[])]);
    let home = Zone::start("home", &topology(), vec![]);
    home.join("east", east.ingress.clone()).await;
    let counted = |role, zone: &Zone| {
        let meter = zone.egress.shared.metrics.byte_counters(role, "orders");
        (meter.up.get(), meter.down.get())
    };
    let mut client = home.client().await;
    assert_eq!(client.greeting().await.unwrap(), "there");
    client.echo("hello").await;
    // The greeting and the echo have come back, so both gateways have passed them on.
    assert_eq!(counted(Role::Egress, &home), (5, 11));
    assert_eq!(home.egress.open_connections().count(), 1);
    let alone = Zone::start("home", &topology(), vec![here.instance(1, &[])]);
    let mut client = alone.client().await;
    assert_eq!(client.greeting().await.unwrap(), "here");
    assert_eq!(counted(Role::Egress, &alone), (0, 5));
}

#[tokio::test]
async fn another_instance_is_tried_when_the_first_does_not_accept() {
    let good = Recorder::start("good").await;
    let gone = testbed::instance("gone", testbed::vip(), 1_000_000, &[]);
    let home = Zone::start("home", &topology(), vec![gone, good.instance(1, &[])]);
    assert_eq!(home.client().await.greeting().await.unwrap(), "good");
}

#[tokio::test]
async fn another_instance_is_tried_when_the_first_is_late() {
    // A listener whose queue is full drops further clients, as a host that is lost does.
    let hung = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    hung.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into())
        .unwrap();
    hung.listen(0).unwrap();
    let address = hung.local_addr().unwrap().as_socket().unwrap();
    let _queued = std::net::TcpStream::connect(address).unwrap();
    let good = Recorder::start("good").await;
    let hung = testbed::instance("hung", address, 1_000_000, &[]);
    let home = Zone::start("home", &topology(), vec![hung, good.instance(1, &[])]);
    let begun = std::time::Instant::now();
    assert_eq!(home.client().await.greeting().await.unwrap(), "good");
    assert!(
        begun.elapsed() < Duration::from_millis(900),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn a_client_that_nobody_could_serve_for_a_while_is_reset_at_once() {
    let config = EgressConfig {
        grace: Duration::from_millis(50),
        setup_deadline: Duration::from_secs(3600),
        ..EgressConfig::new(1)
    };
    let home = Zone::with_config("home", &topology(), vec![], config);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    // The first may come while too little is known to say so.
    loop {
        let mut client = home.client().await;
        match tokio::time::timeout(Duration::from_millis(200), client.rest()).await {
            Ok(ended) => {
                assert_eq!(ended.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
                break;
            }
            Err(_) => assert!(tokio::time::Instant::now() < deadline, "clients wait for ever"),
        }
    }
}

/// Tells whether the kernel probes an open connection of this process when it is silent, by its timer in `/proc/net/tcp` (proc(5)).
#[cfg(target_os = "linux")]
fn is_kept_alive(column: usize, address: std::net::SocketAddr) -> bool {
    let std::net::SocketAddr::V4(v4) = address else {
        return false;
    };
    let written = format!("{:08X}:{:04X}", u32::from_le_bytes(v4.ip().octets()), v4.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    table.lines().any(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        // State 01 is an open connection, timer 02 one that is kept alive.
        fields.get(column) == Some(&written.as_str())
            && fields.get(3) == Some(&"01")
            && fields.get(5).is_some_and(|timer| timer.starts_with("02:"))
    })
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn hosts_of_clients_and_instances_that_die_are_noticed() {
    const LOCAL: usize = 1;
    const REMOTE: usize = 2;
    let (here, there) = (Recorder::start("here").await, Recorder::start("there").await);
    let home = Zone::start("home", &topology(), vec![here.instance(1, &[])]);
    let far = Zone::start("far", &topology(), vec![]);
    let east = Zone::start("east", &topology(), vec![there.instance(1, &[])]);
    far.join("east", east.ingress.clone()).await;
    let (mut near, mut remote) = (home.client().await, far.client().await);
    assert_eq!(near.greeting().await.unwrap(), "here");
    assert_eq!(remote.greeting().await.unwrap(), "there");
    for (side, address) in [
        (LOCAL, home.vip),
        (REMOTE, here.address),
        (LOCAL, far.vip),
        (REMOTE, there.address),
    ] {
        until("the kernel's timer is set", || is_kept_alive(side, address)).await;
    }
}

#[tokio::test]
async fn the_tags_of_the_split_choose_the_instance_in_another_zone() {
    let topology = with_service("split: [{ tags: { version: v2 }, weight: 1 }]");
    let (one, two) = (Recorder::start("one").await, Recorder::start("two").await);
    let instances = vec![
        one.instance(9, &[("version", "v1")]),
        two.instance(1, &[("version", "v2")]),
    ];
    let east = Zone::start("east", &topology, instances);
    let home = Zone::start("home", &topology, vec![]);
    home.join("east", east.ingress.clone()).await;
    let v2: &[(&str, &str)] = &[("version", "v2")];
    home.change(|snapshot| {
        let entry = testbed::entry(
            "east",
            causeway_federation::catalog::Age::Fresh,
            false,
            &[(v2, 1, 1)],
        );
        snapshot.catalog = std::sync::Arc::new(causeway_federation::catalog::Catalog::new([entry]));
    });
    for _ in 0..5 {
        assert_eq!(home.client().await.greeting().await.unwrap(), "two");
    }
    assert!(one.given().is_empty());
}

#[tokio::test]
async fn a_reset_crosses_the_tunnel_in_both_directions() {
    let there = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let instance = testbed::instance("there", there.local_addr().unwrap(), 1, &[]);
    let east = Zone::start("east", &topology(), vec![instance]);
    let home = Zone::start("home", &topology(), vec![]);
    home.join("east", east.ingress.clone()).await;

    let mut client = home.client().await;
    let (mut taken, _) = there.accept().await.unwrap();
    taken.write_all(b"there\n").await.unwrap();
    client.greeting().await.unwrap();
    taken.set_zero_linger().unwrap();
    drop(taken);
    let error = client.rest().await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);

    let mut client = home.client().await;
    let (mut taken, _) = there.accept().await.unwrap();
    taken.write_all(b"there\n").await.unwrap();
    client.greeting().await.unwrap();
    client.0.set_zero_linger().unwrap();
    drop(client);
    let error = taken.read(&mut [0; 9]).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_client_without_any_candidate_waits_for_one_to_appear() {
    let there = Recorder::start("there").await;
    let east = Zone::start("east", &topology(), vec![there.instance(1, &[])]);
    let home = Zone::start("home", &topology(), vec![]);
    let mut client = home.client().await;
    until("the client has been accepted", || {
        home.egress.open_connections().count() == 1
    })
    .await;
    home.join("east", east.ingress.clone()).await;
    assert_eq!(client.greeting().await.unwrap(), "there");
}

#[tokio::test]
async fn a_client_is_reset_when_the_deadline_passes_without_an_instance() {
    let config = EgressConfig {
        setup_deadline: Duration::from_millis(150),
        ..EgressConfig::new(1)
    };
    let home = Zone::with_config("home", &topology(), vec![], config);
    let error = home.client().await.rest().await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_stalled_tunnel_is_asked_last() {
    let (far, near) = (Recorder::start("far").await, Recorder::start("near").await);
    let east = Zone::start("east", &topology(), vec![far.instance(1, &[])]);
    let west = Zone::start("west", &topology(), vec![near.instance(1, &[])]);
    let home = Zone::start("home", &topology(), vec![]);
    home.join("east", east.ingress.clone()).await;
    home.join("west", west.ingress.clone()).await;
    home.change(|snapshot| {
        let links = [
            (testbed::gateway("east"), Link::Stalled),
            (testbed::gateway("west"), Link::Up),
        ];
        snapshot.links = std::sync::Arc::new(links.into());
    });
    assert_eq!(home.client().await.greeting().await.unwrap(), "near");
    assert!(far.given().is_empty());
}

#[tokio::test]
async fn the_route_of_the_data_path_is_the_one_that_is_explained() {
    let home = Zone::start("home", &topology(), vec![]);
    let request = Request::explained(causeway_routing::target::Target::service(testbed::service(
        "orders",
    )));
    let rng = <rand::rngs::SmallRng as rand::SeedableRng>::seed_from_u64(1);
    let decision = route(&home.snapshots.load(), &request, rng).complete();
    assert!(decision.candidates.is_empty());
    assert!(!decision.reasons.is_empty());
}

#[tokio::test]
async fn a_carried_connection_is_small() {
    let there = Recorder::start("there").await;
    let home = Zone::start("home", &topology(), vec![there.instance(1, &[])]);
    let (socket, _client) = testbed::sockets().await;
    let entry = crate::open::OpenConnection {
        id: causeway_telemetry::ConnectionId::new(1),
        role: causeway_telemetry::Role::Egress,
        service: testbed::service("orders"),
        port: None,
        client: None,
        local: None,
        peer: None,
        shown: None,
        since: std::time::Instant::now(),
    };
    let arrival = crate::egress::arrival::Arrival {
        client: socket.peer_addr().unwrap(),
        local: socket.local_addr().unwrap(),
        socket: crate::egress::client::ClientSocket::Plain(socket),
        port: None,
        target: causeway_routing::target::Target::service(testbed::service("orders")),
        certificate: None,
        begun: std::time::Instant::now(),
    };
    let connection = crate::egress::connection::ClientConnection {
        arrival,
        opened: home.egress.open_connections().enter(0, entry).unwrap(),
        thread: 0,
        promised: None,
        holder: causeway_host::share::ShareHolder::ThisHost,
    };
    let size = size_of_val(&crate::egress::connection::serve(
        home.egress.shared.clone(),
        connection,
    ));
    assert!(size < 128, "{size} bytes");
}
