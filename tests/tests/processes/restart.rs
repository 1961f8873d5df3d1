//! A gateway with what it has on disk: a restart while cut off, and a topology that changes under it.

use std::{
    fs,
    time::{Duration, Instant},
};

use causeway_tests::{
    dns,
    federation::{PATIENCE, Plan},
    http,
    instance::{Behaviour, Instance},
    link::Conditions,
    measured::measured,
    talk::say,
    wait::{until, until_true},
};

/// From the start of the process to the first answer.
const SOON: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_gateway_that_starts_cut_off_serves_dns_and_local_routes_from_disk() {
    let west = Instance::start("west", Behaviour::Name).await.unwrap();
    let plan = Plan::new().zone("east").instance("stock", west.address(), "{}");
    let plan = plan
        .zone("west")
        .instance("orders", west.address(), "{}")
        .linked();
    let plan = plan
        .service("orders", "port: 9000, protocol: tcp")
        .service("stock", "port: 9001, protocol: tcp");
    let mut federation = plan.start().await.unwrap();
    federation.wait_export("west", "east", "stock").await;
    let before = federation.service_address("west", "orders", 9000).await;
    assert_eq!(say(before, "hello").await.unwrap(), "west hello");

    federation.network().set_all("west", Conditions::cut());
    federation.zone_mut("west").kill().unwrap();
    let started = Instant::now();
    federation.start_zone("west").unwrap();
    let zone = federation.zone("west");
    let address = until("DNS answers", PATIENCE, async || {
        dns::addresses(zone.dns, "orders.mesh.")
            .await
            .ok()?
            .first()
            .copied()
    })
    .await;
    until_true("the own instance serves", PATIENCE, async || {
        say(before, "again")
            .await
            .is_ok_and(|answer| answer == "west again")
    })
    .await;
    let waited = started.elapsed();
    measured(&format!("a gateway that starts cut off served after {waited:?}"));
    assert_eq!(address, before.ip(), "a virtual address survives a restart");
    assert!(waited < SOON, "it took {waited:?}");
    // What east exported is still known, but marked as not heard since.
    // The admin API opens after what clients wait for.
    let exports = until("the admin API answers", PATIENCE, async || {
        http::get(zone.admin, "/v1/exports").await.ok()
    })
    .await
    .body;
    assert!(
        exports.contains("\"stock\"") && exports.contains("\"suspect\""),
        "{exports}"
    );

    federation.network().set_all("west", Conditions::clear());
    until_true("east is fresh again", PATIENCE, async || {
        http::get(zone.admin, "/v1/exports")
            .await
            .is_ok_and(|answer| !answer.body.contains("\"suspect\""))
    })
    .await;
}

#[tokio::test]
async fn a_bad_topology_is_refused_loudly_and_a_good_one_is_taken_up() {
    let east = Instance::start("east", Behaviour::Name).await.unwrap();
    let plan = Plan::new().zone("east").instance("orders", east.address(), "{}");
    let plan = plan.service("orders", "port: 9000, protocol: tcp");
    let federation = plan.start().await.unwrap();
    let zone = federation.zone("east");
    let service = federation.service_address("east", "orders", 9000).await;
    assert_eq!(say(service, "hello").await.unwrap(), "east hello");

    let good = fs::read_to_string(&zone.topology).unwrap();
    fs::write(&zone.topology, good.replace("protocol: tcp", "protocol: tpc")).unwrap();
    zone.wait_metric("causeway_topology_reloads_total", &[("result", "failed")], 1.0)
        .await;
    zone.wait_log(&["ERROR", "topology"]).await;
    assert_eq!(say(service, "still").await.unwrap(), "east still");

    fs::write(
        &zone.topology,
        format!("{good}  stock: {{ port: 9001, protocol: tcp }}\n"),
    )
    .unwrap();
    let stock = federation.service_address("east", "stock", 9001).await;
    assert_ne!(stock.ip(), service.ip());
    assert_eq!(
        federation.service_address("east", "orders", 9000).await,
        service,
        "an addition moves no other name"
    );
    assert_eq!(say(service, "more").await.unwrap(), "east more");
}
