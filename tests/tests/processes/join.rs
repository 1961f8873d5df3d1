//! Joining, renewing and coming back over real processes: `causeway ca serve`, `token`, `join`, and gateways that renew by themselves.

mod joining;
mod modes;
mod names;
mod renewing;
mod returning;
mod secrets;

use std::time::Duration;

use causeway_tests::{
    ca::CaServer,
    federation::{Federation, Plan, TRUST_DOMAIN},
    instance::{Behaviour, Instance},
};

/// east calls orders, which runs in west; both have joined, and nothing runs yet but the CA and the instance.
async fn prepare(leaf_lifetime: Duration, arguments: &[&str]) -> (CaServer, Federation, Instance) {
    let west = Instance::start("west", Behaviour::Name).await.unwrap();
    let mut plan = Plan::new().zone("east").zone("west");
    plan = plan.instance("orders", west.address(), "{}");
    plan = plan.service("orders", "port: 9000, protocol: tcp");
    for argument in arguments {
        plan = plan.argument(argument);
    }
    let ca = CaServer::start(TRUST_DOMAIN, leaf_lifetime).await.unwrap();
    let federation = plan.prepare().await.unwrap();
    ca.admit(&federation).unwrap();
    (ca, federation, west)
}

/// Starts both gateways and waits until east can call orders.
async fn begin(federation: &mut Federation) {
    for name in federation.names() {
        federation.start_zone(&name).unwrap();
    }
    for name in federation.names() {
        federation.ready(&name).await;
    }
    federation.wait_export("east", "west", "orders").await;
}
