//! Trust of the federation over real processes: revoking, and exchanging the root, while everything runs.

mod auditing;
mod kinds;
mod lineage;
mod outliving;
mod partners;
mod quiet;
mod revoking;
mod rotating;
mod topologies;

use std::time::Duration;

use causeway_tests::{
    ca::CaServer,
    federation::{Federation, Plan, TRUST_DOMAIN},
    http,
    instance::{Behaviour, Instance},
};

/// east and north call orders, which runs in west; all have joined, and run.
async fn begin(leaf_lifetime: Duration) -> (CaServer, Federation, Instance) {
    let west = Instance::start("west", Behaviour::Name).await.unwrap();
    let plan = Plan::new().zone("east").zone("north").zone("west");
    let plan = plan.instance("orders", west.address(), "{}");
    let plan = plan.service("orders", "port: 9000, protocol: tcp");
    let ca = CaServer::start(TRUST_DOMAIN, leaf_lifetime).await.unwrap();
    let mut federation = plan.prepare().await.unwrap();
    ca.admit(&federation).unwrap();
    for name in federation.names() {
        federation.start_zone(&name).unwrap();
    }
    for name in federation.names() {
        federation.ready(&name).await;
    }
    for name in ["east", "north"] {
        federation.wait_export(name, "west", "orders").await;
    }
    (ca, federation, west)
}

/// Trust of the gateway of a zone, as its admin API says.
async fn trust(federation: &Federation, zone: &str) -> serde_json::Value {
    let answer = http::get(federation.zone(zone).admin, "/v1/trust").await.unwrap();
    let answer: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    answer["items"][0].clone()
}
