//! Memory of a tunnel on which nothing happens. A test program of its own, because the memory is that of the process.

#![allow(clippy::unwrap_used, reason = "what fails in a test program fails the test")]

#[allow(dead_code, reason = "other tests use the rest")]
#[path = "../tunnels/support.rs"]
mod support;

use std::fs;

use causeway_identity::ca::Ca;
use support::{DAY, DOMAIN, Gate, id, none, until};

const TUNNELS: usize = 60;
/// Both ends are in this process.
const MOST_BYTES_PER_END: u64 = 100 * 1000;

/// Resident memory of this process that is not of a file.
fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    let kilobytes: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kilobytes * 1024
}

#[tokio::test]
async fn an_idle_tunnel_takes_little_memory() {
    let ca = Ca::new(DOMAIN).unwrap();
    let known = [("east", none()), ("plant", none())];
    let threads = [tokio::runtime::Handle::current()];
    let everywhere = "0.0.0.0:0".parse().unwrap();
    let east = Gate::on(everywhere, ca.issue(&id("east"), DAY).unwrap(), &known, &threads);
    let port = east.address().port();
    let entry = |host: usize| vec![format!("127.0.0.{host}:{port}")];
    let first = [("east", vec![entry(1)]), ("plant", none())];
    let plant = Gate::new(ca.issue(&id("plant"), DAY).unwrap(), &first);
    plant.tunnel_to("east").await;
    let before = resident_bytes();
    let all = [("east", (1..=TUNNELS).map(entry).collect()), ("plant", none())];
    plant.topology.send_replace(support::topology(&all));
    let up = |gate: &Gate, peer: &str| (gate.set.count(&id(peer)) == TUNNELS).then_some(());
    until("all tunnels at the near end", || up(&plant, "east")).await;
    until("all tunnels at the far end", || up(&east, "plant")).await;
    let each = resident_bytes().saturating_sub(before) / (2 * (TUNNELS as u64 - 1));
    println!("an idle tunnel takes {each} bytes at each end");
    assert!(each < MOST_BYTES_PER_END, "{each} bytes");
}
