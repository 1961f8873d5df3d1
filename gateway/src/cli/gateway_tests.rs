//! Tests of the flags of `causeway gateway` and of what it starts beside the gateway.

use std::sync::Arc;

use causeway_federation::{name::GatewayId, topology::parse};
use causeway_host::tasks::TaskEnding;
use causeway_identity::{IdentityFolder, ca};
use causeway_proxy::egress::Outlive;

use super::*;

#[test]
fn a_stall_timeout_that_would_end_connections_which_merely_wait_is_refused() {
    assert!(stall_limit(Duration::ZERO).is_err());
    assert!(stall_limit(Duration::MAX).is_err());
    let usual = causeway_proxy::relay::STALL_LIMIT;
    assert_eq!(stall_limit(usual).ok(), Some(usual));
}

#[test]
fn a_memory_budget_is_a_size_with_a_unit_that_a_few_peers_can_live_with() {
    assert_eq!(
        memory_budget("256MiB").ok(),
        Some(causeway_tunnel::MEMORY_BUDGET_BYTES)
    );
    assert_eq!(memory_budget("16384KiB").ok(), Some(16 << 20));
    assert_eq!(memory_budget("1GiB").ok(), Some(1 << 30));
    for wrong in [
        "",
        "256",
        "MiB",
        "1MiB",
        "-1GiB",
        "99999999999999999999GiB",
        "4096GiB",
        "1.5GiB",
        "20MB",
    ] {
        assert!(memory_budget(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn an_idle_timeout_shorter_than_what_counts_as_silence_is_refused() {
    let seconds = Duration::from_secs;
    assert_eq!(tunnel_idle_timeout(seconds(3)).ok(), Some(seconds(3)));
    assert_eq!(tunnel_idle_timeout(seconds(600)).ok(), Some(seconds(600)));
    assert!(tunnel_idle_timeout(seconds(2)).is_err());
    assert!(tunnel_idle_timeout(seconds(601)).is_err());
}

#[test]
fn the_time_that_a_connection_may_outlive_its_certificate_is_read_or_refused() {
    assert_eq!(outlive("life"), Ok(Outlive::Life));
    assert_eq!(outlive("never"), Ok(Outlive::Unbounded));
    assert_eq!(outlive("0s"), Ok(Outlive::For(Duration::ZERO)));
    assert!(outlive("2y").is_err() && outlive("soon").is_err());
}

#[test]
fn a_half_closed_timeout_that_would_end_answers_under_way_is_refused() {
    assert_eq!(half_closed_limit(Duration::ZERO).ok(), Some(None));
    assert!(half_closed_limit(Duration::from_millis(500)).is_err());
    assert!(half_closed_limit(Duration::MAX).is_err());
    let usual = causeway_proxy::relay::HALF_CLOSED_LIMIT;
    assert_eq!(half_closed_limit(usual).ok(), Some(Some(usual)));
}

#[test]
fn a_keepalive_that_the_kernel_cannot_be_told_is_refused() {
    let hours = |count: u64| Duration::from_secs(count * 3_600);
    assert_eq!(keepalive(Duration::ZERO).ok(), Some(None));
    assert_eq!(keepalive(hours(9)).ok(), Some(Some(hours(9))));
    assert!(keepalive(Duration::from_millis(500)).is_err());
    assert!(keepalive(hours(10)).is_err());
}

#[tokio::test]
async fn what_follows_the_files_is_known_by_name_when_it_ends() {
    let folder = tempfile::tempdir().unwrap();
    let id = GatewayId::new("east".parse().unwrap(), "gw1".parse().unwrap());
    let text = "version: 1\ntrust_domain: acme.internal\nzones: { east: { gateways: [] } }\nservices: {}\n";
    let ruling = Arc::new(parse(text, "topology.yaml").unwrap().topology);
    ca::init(folder.path(), "acme.internal").unwrap();
    ca::issue(
        folder.path(),
        &id,
        &folder.path().join("identity"),
        Duration::from_secs(3_600),
    )
    .unwrap();
    for name in ["source of the identity", "topology file"] {
        let identity = Arc::new(IdentityFolder::open(&folder.path().join("identity")).unwrap());
        let (_, topology) = tokio::sync::watch::channel(ruling.clone());
        let (tasks, stop) = (Tasks::default(), CancellationToken::new());
        let (source, topology) = (IdentitySource::Folder(identity), TopologySource::Held(topology));
        let following = follow(source, topology, &GatewayMetrics::default(), &stop, &tasks);
        assert_eq!(tasks.names(), ["source of the identity", "topology file"]);
        tasks.end(name, TaskEnding::Panicked);
        let first = tokio::time::timeout(Duration::from_secs(20), tasks.first_ended()).await;
        assert_eq!(first.unwrap().name, name);
        tasks.stop();
        stop.cancel();
        following.wait().await;
    }
}
