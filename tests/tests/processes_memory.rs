//! The cost of a connection that does nothing.
//!
//! The clients and the instance are processes of their own, because one process has too few file descriptors for both
//! ends. Where the limit is too low for 10,000, the test takes what the limit allows and says so.

#![allow(clippy::unwrap_used, reason = "what fails in a test program fails the test")]

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::Duration,
};

use causeway_tests::{
    federation::{PATIENCE, Plan},
    measured::measured,
    process::Process,
    talk::say,
    wait::until_true,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const CONNECTIONS: u64 = 10_000;
/// Descriptors that a process needs for everything else.
const SPARE_DESCRIPTORS: u64 = 500;
/// The aim for both gateways together is 16 KiB. They take 7, and what takes much more has come to carry something
/// while idle.
const MOST_BYTES_PER_CONNECTION: u64 = 12 * 1024;
const LONG: Duration = Duration::from_secs(120);
/// Memory of a gateway with two peers and no connections that is not of files: it takes 12 MB, and took 57 with huge pages.
const MOST_IDLE_BYTES: u64 = 24 * 1000 * 1000;

/// Raises this process's limit of open files, which its children inherit. Returns how many connections it allows.
fn connections_allowed() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let hard = limit.maximum.unwrap_or(u64::MAX);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).unwrap();
    CONNECTIONS.min(hard.saturating_sub(SPARE_DESCRIPTORS))
}

/// Clients that hold connections until they are dropped.
struct Clients(Child);

impl Clients {
    fn hold(service: SocketAddr, count: u64) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_probe"));
        command.args(["idle", &service.to_string(), &count.to_string()]);
        let mut clients = Self(
            command
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap(),
        );
        let mut said = String::new();
        BufReader::new(clients.0.stdout.take().unwrap())
            .read_line(&mut said)
            .unwrap();
        assert_eq!(said.trim(), format!("holding {count}"));
        clients
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_with_two_peers_takes_little_memory() {
    let zones = ["east", "west", "plant"];
    let plan = zones.into_iter().fold(Plan::new(), Plan::zone);
    let plan = plan.service("orders", "port: 9000, protocol: tcp");
    let mut federation = plan.start().await.unwrap();
    for zone in zones {
        let gateway = federation.zone(zone);
        until_true("both peers are heard", PATIENCE, async || {
            let metrics = gateway.metrics().await;
            metrics.is_ok_and(|metrics| metrics.sum("causeway_link", &[("state", "up")]) >= 2.0)
        })
        .await;
    }
    for zone in zones {
        let bytes = federation.zone_mut(zone).gateway().anonymous_bytes().unwrap();
        measured(&format!("gateway {zone} with two peers: {bytes} bytes"));
        assert!(bytes < MOST_IDLE_BYTES, "{zone}: {bytes} bytes");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_connection_costs_little_memory() {
    let count = connections_allowed();
    if count < CONNECTIONS {
        measured(&format!(
            "the limit of open files allows {count} connections instead of {CONNECTIONS}"
        ));
    }
    let folder = tempfile::tempdir().unwrap();
    // A port that was free a moment ago, on an address that only this test uses.
    let address: SocketAddr = "127.2.0.1:9100".parse().unwrap();
    let record = folder.path().join("record");
    let mut command = Command::new(env!("CARGO_BIN_EXE_probe"));
    command
        .arg("instance")
        .args(["west", &address.to_string()])
        .arg(record);
    let _instance = Process::start("instance", &mut command, &folder.path().join("log")).unwrap();
    let plan = Plan::new()
        .zone("east")
        .zone("west")
        .instance("orders", address, "{}");
    let mut federation = plan
        .service("orders", "port: 9000, protocol: tcp")
        .start()
        .await
        .unwrap();
    federation.wait_export("east", "west", "orders").await;
    let service = federation.service_address("east", "orders", 9000).await;
    until_true("the instance answers", PATIENCE, async || {
        say(service, "hello").await.is_ok()
    })
    .await;

    let before = resident(&mut federation, "east") + resident(&mut federation, "west");
    let clients = tokio::task::spawn_blocking(move || Clients::hold(service, count))
        .await
        .unwrap();
    for (zone, role) in [("east", "egress"), ("west", "ingress")] {
        let zone = federation.zone(zone);
        until_true("all connections are up", LONG, async || {
            let labels = [("role", role), ("service", "orders")];
            let open = zone
                .metrics()
                .await
                .map(|m| m.sum("causeway_connections_open", &labels));
            open.is_ok_and(|open| open >= count as f64)
        })
        .await;
    }
    // What it took to set them up is given back while there is something to do.
    let mut each = u64::MAX;
    until_true("what setting up took is given back", PATIENCE, async || {
        let said = say(service, "still").await;
        assert_eq!(said.unwrap(), "west still");
        let (east, west) = (
            resident(&mut federation, "east"),
            resident(&mut federation, "west"),
        );
        each = (east + west).saturating_sub(before) / count;
        measured(&format!(
            "{count} idle connections: {each} bytes each in both gateways together (egress {east}, ingress {west} bytes resident)"
        ));
        each <= MOST_BYTES_PER_CONNECTION
    })
    .await;
    drop(clients);
    assert!(
        each <= MOST_BYTES_PER_CONNECTION,
        "{each} bytes per idle connection"
    );
}

fn resident(federation: &mut causeway_tests::federation::Federation, zone: &str) -> u64 {
    federation.zone_mut(zone).gateway().resident_bytes().unwrap()
}
