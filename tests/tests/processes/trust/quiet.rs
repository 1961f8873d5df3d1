//! Quiet logs where all goes well: a join, the renewals after it, and a rotation of the root leave no warning and no error in any.

use std::time::Duration;

use causeway_tests::{
    ca::{CaServer, causeway, text},
    federation::{Federation, Plan, TRUST_DOMAIN},
    instance::{Behaviour, Instance},
};

/// Renewed several times while the test looks on, as in many days otherwise.
const SHORT: Duration = Duration::from_secs(20);
const RENEWALS: &str = "causeway_identity_renewals_total";
/// True while a gateway of the topology does not run yet.
const NOT_THERE_YET: &str = "cannot reach a gateway; trying on";

/// east and west run; north is in their topology, and has not joined.
async fn before_the_join() -> (CaServer, Federation, Instance) {
    let west = Instance::start("west", Behaviour::Name).await.unwrap();
    let plan = Plan::new().zone("east").zone("north").zone("west");
    let plan = plan
        .instance("orders", west.address(), "{}")
        .service("orders", "port: 9000, protocol: tcp");
    let ca = CaServer::start(TRUST_DOMAIN, SHORT).await.unwrap();
    let mut federation = plan.prepare().await.unwrap();
    for zone in ["east", "west"] {
        ca.admit_zone(&federation, zone).unwrap();
        federation.start_zone(zone).unwrap();
    }
    for zone in ["east", "west"] {
        federation.ready(zone).await;
    }
    (ca, federation, west)
}

/// Lines of every log that say that something is wrong.
fn complaints(ca: &CaServer, federation: &Federation) -> Vec<String> {
    let zones = federation
        .names()
        .into_iter()
        .map(|name| federation.zone(&name).log());
    let logs: Vec<String> = zones.chain([ca.log()]).collect();
    let lines = logs.iter().flat_map(|log| log.lines());
    let wrong =
        lines.filter(|line| line.contains("WARN") || line.contains("ERROR") || line.contains("error:"));
    let wrong = wrong.filter(|line| !line.contains(NOT_THERE_YET));
    wrong.map(str::to_owned).collect()
}

async fn renewed(federation: &Federation, times: f64) {
    for zone in federation.names() {
        let zone = federation.zone(&zone);
        zone.wait_metric(RENEWALS, &[("result", "ok")], times).await;
    }
}

#[tokio::test]
async fn neither_a_join_nor_renewals_nor_a_rotation_is_complained_of_in_any_log() {
    let (ca, mut federation, _west) = before_the_join().await;
    ca.admit_zone(&federation, "north").unwrap();
    federation.start_zone("north").unwrap();
    for zone in federation.names() {
        federation.ready(&zone).await;
    }
    federation.wait_export("north", "west", "orders").await;
    for times in [1.0, 2.0] {
        renewed(&federation, times).await;
    }
    assert_eq!(complaints(&ca, &federation), Vec::<String>::new(), "a join");

    let (folder, east) = (ca.ca(), federation.zone("east").admin.to_string());
    let folder = text(&folder).unwrap().to_owned();
    let rotating = tokio::task::spawn_blocking(move || {
        causeway(&["ca", "rotate", "--ca", &folder, "--admin", &east]).unwrap()
    });
    let rotated = rotating.await.unwrap();
    assert!(rotated.status.success(), "{rotated:?}");
    let said = String::from_utf8_lossy(&rotated.stderr).into_owned();
    for step in ["preparing: ", "announcing: ", "issuing: ", "retiring: "] {
        assert!(said.contains(step), "{said}");
    }
    // Long enough for whoever held the old root against the new one.
    renewed(&federation, 4.0).await;
    assert_eq!(complaints(&ca, &federation), Vec::<String>::new(), "a rotation");
}
