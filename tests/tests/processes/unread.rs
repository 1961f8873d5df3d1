//! Clients that read nothing of what other zones send them: what their gateway holds is bounded, for each peer and in all, and everybody
//! else goes on.

use std::{net::SocketAddr, process::Command};

use causeway_tests::{
    federation::{Federation, PATIENCE, Plan},
    instance::{Behaviour, Instance},
    measured::measured,
    process::program,
    talk::say,
    wait::{until, until_true},
};
use tokio::net::{TcpSocket, TcpStream};

const MIB: u64 = 1024 * 1024;
/// The least that is taken.
const BUDGET_BYTES: u64 = 16 * MIB;
const PEER_BYTES: u64 = BUDGET_BYTES / 4;
/// Clients of each of two zones that do not read: each could hold 512 KiB, so that all would hold ten times the peer's part.
const READERS: usize = 80;
/// Much more than the sockets on the way hold.
const DOWNLOAD_BYTES: u64 = 16 * MIB;
/// Bytes that each connection may hold whatever is left of the budget.
const EACH_BYTES: u64 = 16 * 1024;
/// Windows that tunnels have beyond the budget: 512 KiB each, of which a peer has two, and more while there is much to carry.
const LEAST_BYTES: u64 = 4 * 512 * 1024;
/// Memory for everything else that comes with so many connections. Packets of which each kept those received with it took 20 MiB more.
const BESIDE_BYTES: u64 = 16 * MIB;

/// A client that reads nothing, and whose kernel takes little.
async fn unread(service: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 * 1024).unwrap();
    socket.connect(service).await.unwrap()
}

async fn unread_bytes(federation: &Federation, peer: &str) -> u64 {
    until("the gateway answers", PATIENCE, async || {
        let metrics = federation.zone("east").metrics().await.ok()?;
        Some(metrics.sum("causeway_tunnel_unread_bytes", &[("zone", peer)]) as u64)
    })
    .await
}

fn check(federation: &Federation) -> String {
    let admin = federation.zone("east").admin.to_string();
    let checked = Command::new(program().unwrap())
        .args(["check", "--admin", &admin])
        .output()
        .unwrap();
    String::from_utf8_lossy(&checked.stdout).into_owned()
}

/// Connections to both zones are served, and zone sync is heard.
async fn others_go_on(federation: &Federation) {
    for (service, port) in [("echo-west", 9001), ("echo-plant", 9001)] {
        let service = federation.service_address("east", service, port).await;
        until_true("another connection is served", PATIENCE, async || {
            say(service, "hello")
                .await
                .is_ok_and(|answer| answer == "here hello")
        })
        .await;
    }
    until_true("zone sync to be heard", PATIENCE, async || {
        let Ok(metrics) = federation.zone("east").metrics().await else {
            return false;
        };
        let age = |peer| metrics.sum("causeway_sync_age_seconds", &[("zone", peer)]);
        age("west") < 3.0 && age("plant") < 3.0
    })
    .await;
}

/// East, and two zones of which each has an instance that sends much and one that echoes.
async fn start() -> (Federation, [Instance; 2]) {
    let large = Instance::start(
        "large",
        Behaviour::Download {
            bytes: DOWNLOAD_BYTES,
        },
    )
    .await
    .unwrap();
    let here = Instance::start("here", Behaviour::Name).await.unwrap();
    let mut plan = Plan::new()
        .argument("--memory-budget")
        .argument("16MiB")
        .zone("east");
    for zone in ["west", "plant"] {
        plan = plan
            .zone(zone)
            .instance(&format!("large-{zone}"), large.address(), "{}")
            .instance(&format!("echo-{zone}"), here.address(), "{}");
    }
    for zone in ["west", "plant"] {
        plan = plan
            .service(&format!("large-{zone}"), "port: 9000, protocol: tcp")
            .service(&format!("echo-{zone}"), "port: 9001, protocol: tcp");
    }
    let federation = plan.start().await.unwrap();
    for zone in ["west", "plant"] {
        federation
            .wait_export("east", zone, &format!("large-{zone}"))
            .await;
        federation
            .wait_export("east", zone, &format!("echo-{zone}"))
            .await;
    }
    (federation, [large, here])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_clients_do_not_read_is_held_within_a_budget_and_others_go_on() {
    let (mut federation, _instances) = start().await;
    others_go_on(&federation).await;
    let before = federation.zone_mut("east").gateway().anonymous_bytes().unwrap();

    let mut readers = Vec::new();
    for zone in ["west", "plant"] {
        let service = federation
            .service_address("east", &format!("large-{zone}"), 9000)
            .await;
        for _ in 0..READERS {
            readers.push(unread(service).await);
        }
    }
    // Each peer is held back, which is said.
    until_true("the budget is spent", PATIENCE, async || {
        let spent = PEER_BYTES / 2;
        unread_bytes(&federation, "west").await > spent && unread_bytes(&federation, "plant").await > spent
    })
    .await;
    until_true("check says so", PATIENCE, async || {
        check(&federation).contains("--memory-budget is spent")
    })
    .await;
    others_go_on(&federation).await;
    let most = PEER_BYTES + LEAST_BYTES + READERS as u64 * EACH_BYTES;
    for peer in ["west", "plant"] {
        let held = unread_bytes(&federation, peer).await;
        measured(&format!(
            "{READERS} clients that do not read leave {held} bytes of {peer} unread"
        ));
        assert!(held <= most, "{held} of {peer}, and {most} may be");
    }
    let after = federation.zone_mut("east").gateway().anonymous_bytes().unwrap();
    let grown = after.saturating_sub(before);
    measured(&format!("their gateway has grown by {grown} bytes"));
    assert!(grown < 2 * most + BESIDE_BYTES, "{grown} bytes");

    // Once they are gone nothing is held.
    drop(readers);
    until_true("nothing is unread", PATIENCE, async || {
        unread_bytes(&federation, "west").await + unread_bytes(&federation, "plant").await == 0
    })
    .await;
    others_go_on(&federation).await;
}
