//! Panic through real gateways: a health check that is broken everywhere is no outage, one instance that is well again ends it, and those that
//! accept nothing are not flooded.

use std::{
    fs,
    time::{Duration, Instant},
};

use causeway_tests::{
    federation::{Federation, PATIENCE, Plan, Zone},
    http,
    instance::{Behaviour, Instance},
    measured::measured,
    process::run,
    wait::until_true,
};
use serde_json::Value;

use super::history::listed;

const PORT: u16 = 9000;
const REQUESTS: usize = 100;
/// A check in a protocol that no instance speaks: it fails, though they serve.
const BROKEN: &str = "health: { grpc: '', every: 200ms, timeout: 200ms }";
const RIGHT: &str = "health: { http: /, every: 200ms, timeout: 200ms }";

async fn start(own: &Instance, far: &Instance) -> Federation {
    let service =
        format!("port: {PORT}, protocol: http, failover: [{{ zone: self }}, {{}}], panic: true, {BROKEN}");
    let plan = Plan::new().zone("east");
    let plan = plan.instance("orders", own.address(), "{}");
    let plan = plan.zone("west").instance("orders", far.address(), "{}");
    let plan = plan.argument("--access-log").argument("text");
    plan.service("orders", &service).start().await.unwrap()
}

async fn explains(federation: &Federation, says: impl Fn(&str) -> bool, what: &str) {
    until_true(what, PATIENCE, async || {
        says(&federation.explained("east", &["orders"]).await.unwrap())
    })
    .await;
}

/// Latest event of a kind.
async fn event(zone: &Zone, kind: &str) -> Option<Value> {
    listed(zone.admin, &format!("?kind={kind}")).await.pop()
}

async fn told(zone: &Zone, kind: &str, text: &str) {
    until_true(&format!("an event {kind}"), PATIENCE, async || {
        let found = event(zone, kind).await;
        found.is_some_and(|found| found["text"].as_str().is_some_and(|told| told.starts_with(text)))
    })
    .await;
}

fn edit(federation: &Federation, from: &str, to: &str) {
    for zone in ["east", "west"] {
        let path = &federation.zone(zone).topology;
        let text = fs::read_to_string(path).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(path, text.replace(from, to)).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_health_check_is_no_outage_and_what_accepts_nothing_is_not_flooded() {
    let own = Instance::start("east", Behaviour::Http).await.unwrap();
    let far = Instance::start("west", Behaviour::Http).await.unwrap();
    let federation = start(&own, &far).await;
    let orders = federation.service_address("east", "orders", PORT).await;
    let both = |told: &str| told.matches("in panic").count() >= 2;
    explains(&federation, both, "both zones are in panic").await;
    for _ in 0..REQUESTS {
        let answer = http::get(orders, "/").await.unwrap();
        assert_eq!((answer.status, answer.body.trim()), (200, "east"));
    }
    let east = federation.zone("east");
    let panic = [("reason", "panic")];
    east.wait_metric("causeway_decisions_total", &panic, REQUESTS as f64)
        .await;
    east.wait_log(&["egress orders", "east->east served", "panic=true"])
        .await;

    told(east, "panic_begun", "orders is in panic").await;
    east.wait_log(&["WARN", "a service is in panic", "orders"]).await;
    let lost = event(east, "home_lost").await;
    assert_eq!(lost, None);
    let check = run(["check", "--admin", &east.admin.to_string()]).unwrap();
    assert!(
        check.contains("in panic: 0 of 2 instances are healthy"),
        "{check}"
    );

    // Its instance accepts nothing any more: the other zone's serves, and it is left alone for longer and longer.
    drop(own);
    let began = Instant::now();
    let mut asked = 0usize;
    while began.elapsed() < Duration::from_secs(4) {
        let answer = http::get(orders, "/").await.unwrap();
        assert_eq!((answer.status, answer.body.trim()), (200, "west"));
        asked += 1;
    }
    let failed = [("service", "orders"), ("result", "failed")];
    let metrics = east.metrics().await.unwrap();
    let refused = metrics.sum("causeway_instance_connect_seconds_count", &failed);
    measured(&format!(
        "in panic {asked} requests in 4 s, of which {refused} asked an instance that accepts nothing"
    ));
    assert!((1.0..=10.0).contains(&refused), "{refused} of {asked}");

    // One that is healthy ends it.
    edit(&federation, BROKEN, RIGHT);
    federation.wait_export("east", "west", "orders").await;
    explains(
        &federation,
        |told| !told.contains("in panic"),
        "the panic is over",
    )
    .await;
    let answer = http::get(orders, "/").await.unwrap();
    assert_eq!((answer.status, answer.body.trim()), (200, "west"));
    told(east, "panic_ended", "orders is in panic no more").await;
    east.wait_log(&["INFO", "a service is in panic no more", "orders"])
        .await;

    // Who wants none says so.
    edit(&federation, RIGHT, BROKEN);
    explains(&federation, both, "the panic is back").await;
    edit(&federation, "panic: true", "panic: false");
    explains(
        &federation,
        |told| !told.contains("in panic"),
        "there is no panic",
    )
    .await;
    let answer = http::get(orders, "/").await.unwrap();
    assert_eq!(
        (answer.status, answer.body.contains("(no_candidate)")),
        (503, true),
        "{answer:?}"
    );
}
