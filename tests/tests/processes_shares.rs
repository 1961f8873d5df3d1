//! Zones, users and clients that take as many descriptors of a gateway, or places at its APIs, as there are: others are still served, and
//! they are named.

#![allow(clippy::unwrap_used, reason = "what fails in a test program fails the test")]

use std::{net::SocketAddr, process::Command};

use causeway_tests::{
    address::Block,
    federation::{Federation, Plan},
    http,
    instance::{Behaviour, Instance},
    measured::measured,
    process::program,
    talk::Client,
};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

/// Descriptors of the gateway, of which 128 are kept for itself.
const LIMIT: u64 = 400;
const PORT: u16 = 9000;
/// Least that the greedy one is served.
const LEAST_SERVED: usize = 60;
/// Connections that are opened by who takes as many as there are.
const GREED: usize = 300;
/// Most of them: two thirds of what is not kept of [`LIMIT`].
const GREATEST_SHARE: usize = (LIMIT as usize - 128) * 2 / 3;
/// Connections that others open then.
const MODEST: usize = 8;

/// East, which has few descriptors and all instances of `orders`, and two other zones.
async fn wanted_by_two(instance: SocketAddr) -> Federation {
    let plan = Plan::new().zone("east").own_descriptors(LIMIT);
    let plan = plan.instance("orders", instance, "{}");
    let plan = plan
        .service("orders", &format!("port: {PORT}, protocol: tcp"))
        .zone("west")
        .zone("north");
    let federation = plan.start().await.unwrap();
    for zone in ["west", "north"] {
        federation.wait_export(zone, "east", "orders").await;
    }
    federation
}

/// Connects so often at once, and returns those that are served.
async fn served_of(orders: SocketAddr, count: usize) -> Vec<Client> {
    let clients = (0..count).map(|_| async {
        let mut client = Client::connect(orders).await.ok()?;
        let answer = client.say("hello").await.ok()?;
        (answer == "here hello").then_some(client)
    });
    let clients = futures_util::future::join_all(clients).await;
    clients.into_iter().flatten().collect()
}

/// Number of times that east had no descriptor at all.
async fn lacking(federation: &Federation) -> f64 {
    let metrics = federation.zone("east").metrics().await.unwrap();
    metrics.sum("causeway_stream_refused_total", &[("reason", "no_descriptors")])
}

/// Reads what `causeway check` says of a zone's gateway.
fn checked(federation: &Federation, zone: &str) -> String {
    let admin = federation.zone(zone).admin.to_string();
    let checked = Command::new(program().unwrap())
        .args(["check", "--admin", &admin])
        .output()
        .unwrap();
    String::from_utf8_lossy(&checked.stdout).into_owned()
}

#[tokio::test]
async fn a_zone_that_takes_what_it_can_leaves_descriptors_to_others_and_is_named() {
    let instance = Instance::start("here", Behaviour::Name).await.unwrap();
    let federation = wanted_by_two(instance.address()).await;
    let mut entrances = Vec::new();
    for zone in ["west", "north", "east"] {
        entrances.push(federation.service_address(zone, "orders", PORT).await);
    }
    let greedy = served_of(entrances[0], GREED).await;
    measured(&format!(
        "of {GREED} streams of one zone, with {LIMIT} descriptors, {} are served",
        greedy.len()
    ));
    let labels = [("side", "local"), ("reason", "crowded")];
    let east = federation.zone("east");
    east.wait_metric("causeway_stream_refused_total", &labels, 1.0)
        .await;
    east.wait_log(&["WARN", "refused a stream", "crowded", "west"])
        .await;
    assert!(
        (LEAST_SERVED..=GREATEST_SHARE).contains(&greedy.len()),
        "{}",
        greedy.len()
    );
    let said = checked(&federation, "east");
    assert!(said.contains("zone west has its share"), "{said}");
    // Nothing was closed for want of any, and another zone and a client of the zone itself are served, several times.
    assert!(lacking(&federation).await < 1.0);
    for (zone, orders) in ["north", "east"].into_iter().zip(&entrances[1..]) {
        let modest = served_of(*orders, MODEST).await;
        assert_eq!(modest.len(), MODEST, "of {zone}");
    }
    drop(greedy);
}

#[tokio::test]
async fn a_local_user_who_takes_what_there_is_leaves_descriptors_to_other_zones() {
    let instance = Instance::start("here", Behaviour::Name).await.unwrap();
    let federation = wanted_by_two(instance.address()).await;
    let orders = federation.service_address("east", "orders", PORT).await;
    let greedy = served_of(orders, GREED).await;
    measured(&format!(
        "of {GREED} clients of one local user, with {LIMIT} descriptors, {} are served",
        greedy.len()
    ));
    let labels = [("side", "local"), ("reason", "crowded")];
    let east = federation.zone("east");
    east.wait_metric("causeway_stream_refused_total", &labels, 1.0)
        .await;
    east.wait_log(&["WARN", "a client was closed", "crowded"]).await;
    // Whatever address of the host it takes.
    let block = Block::take().unwrap();
    let other = Client::connect_from(block.host(7), orders).await;
    let answer = match other {
        Ok(mut other) => other.say("hello").await.unwrap_or_default(),
        Err(_) => String::new(),
    };
    assert_eq!(answer, "");
    let said = checked(&federation, "east");
    let user = rustix::process::getuid().as_raw();
    assert!(
        said.contains(&format!("user {user} of this host has its share")),
        "{said}"
    );
    for zone in ["west", "north"] {
        let orders = federation.service_address(zone, "orders", PORT).await;
        assert_eq!(served_of(orders, MODEST).await.len(), MODEST, "of {zone}");
    }
    drop(greedy);
}

/// Connections to the admin API that are kept open: as many as one user may have.
const KEPT_OPEN: usize = 64;

#[tokio::test]
async fn connections_that_are_kept_open_keep_nobody_out_of_the_admin_api() {
    let plan = Plan::new().zone("east");
    let plan = plan.service("orders", &format!("port: {PORT}, protocol: tcp"));
    let federation = plan.start().await.unwrap();
    let admin = federation.zone("east").admin;
    let mut kept = Vec::new();
    for _ in 0..KEPT_OPEN {
        let mut stream = TcpStream::connect(admin).await.unwrap();
        // So that it is not given up for its silence.
        stream.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        kept.push(stream);
    }
    for _ in 0..3 {
        let answer = http::get(admin, "/livez").await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.body);
        let said = checked(&federation, "east");
        assert!(said.contains("it takes connections"), "{said}");
    }
    drop(kept);
}
