//! Limits of a service: who comes beyond one is refused at once, and told so.

use std::{sync::Arc, time::Duration};

use causeway_federation::topology::Topology;
use causeway_routing::{
    limit_shares::{LimitUse, OthersUse, SharedLimit},
    limits::UseKind,
};
use http::StatusCode;
use tokio::{io::AsyncWriteExt as _, time::timeout};

use super::{
    HttpClient, HttpInstance, Told,
    retries::{Conduct, TriedInstance},
    speaking, speaking_http,
};
use crate::{
    egress::EgressConfig,
    testbed::{self, PATIENCE, Recorder, Zone, connect, until},
};

fn limited(more: &str) -> Arc<Topology> {
    speaking_http(&format!("limits: {{ {more} }}"))
}

/// Checks that an answer is that of a gateway whose service has too much to do.
fn is_overload(told: &Told) {
    assert_eq!(told.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(told.field("causeway-reason"), Some("overloaded"));
    assert_eq!(told.field("retry-after"), Some("1"));
}

fn reached(zone: &Zone) -> Vec<(String, &'static str)> {
    let reached = zone.egress.limits_reached();
    reached
        .into_iter()
        .map(|(service, limit)| (service.to_string(), limit))
        .collect()
}

#[tokio::test]
async fn a_request_beyond_the_limit_is_answered_at_once_and_a_later_one_is_served() {
    let here = HttpInstance::start("here").await;
    let topology = speaking_http("limits: { requests: 1 }\n    timeout: 3s");
    let home = Zone::start("home", &topology, vec![here.instance(&[])]);
    let (mut first, mut second) = (HttpClient::of(&home).await, HttpClient::of(&home).await);
    let waiting = tokio::spawn(async move { first.ask(http::Method::GET, "/hang").await });
    until("it is under way", || here.requests() == 1).await;
    is_overload(&second.get("/").await);
    assert_eq!(here.requests(), 1);
    assert_eq!(reached(&home), [("orders".to_owned(), "requests")]);
    let told = waiting.await.unwrap().unwrap();
    assert_eq!(told.status, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(second.get("/").await.text(), "here");
}

#[tokio::test]
async fn a_client_that_has_left_keeps_no_place_whether_it_ends_or_resets() {
    let here = HttpInstance::start("here").await;
    let config = EgressConfig {
        half_closed_limit: Some(Duration::from_millis(300)),
        ..EgressConfig::new(1)
    };
    let home = Zone::with_config("home", &limited("requests: 1"), vec![here.instance(&[])], config);
    for (nth, resets) in [(1, true), (3, false)] {
        let mut leaving = connect(home.vip).await;
        let request = b"GET /hang HTTP/1.1\r\nHost: orders.mesh\r\n\r\n";
        leaving.write_all(request).await.unwrap();
        until("it is under way", || here.requests() == nth).await;
        match resets {
            true => leaving.set_zero_linger().unwrap(),
            false => leaving.shutdown().await.unwrap(),
        }
        let kept = (!resets).then_some(leaving);
        let place = async { while HttpClient::of(&home).await.get("/").await.status != StatusCode::OK {} };
        timeout(PATIENCE, place).await.expect("its place is given back");
        drop(kept);
    }
}

#[tokio::test]
async fn a_connection_beyond_the_limit_is_answered_or_reset_until_another_has_ended() {
    let here = HttpInstance::start("here").await;
    let home = Zone::start("home", &limited("connections: 1"), vec![here.instance(&[])]);
    let (mut first, mut second) = (HttpClient::of(&home).await, HttpClient::of(&home).await);
    assert_eq!(first.get("/").await.text(), "here");
    is_overload(&second.get("/").await);
    assert_eq!(first.get("/").await.text(), "here");
    drop(first);
    until("it has ended", || home.egress.open_connections().count() == 1).await;
    assert_eq!(second.get("/").await.text(), "here");

    let recorder = Recorder::start("there").await;
    let topology = speaking("tcp", "limits: { connections: 1 }");
    let home = Zone::start("home", &topology, vec![recorder.instance(1, &[])]);
    let mut first = home.client().await;
    assert_eq!(first.greeting().await.unwrap(), "there");
    assert!(home.client().await.greeting().await.is_err(), "reset");
    drop(first);
    until("it has ended", || home.egress.open_connections().count() == 0).await;
    assert_eq!(home.client().await.greeting().await.unwrap(), "there");
}

#[tokio::test]
async fn what_other_gateways_of_the_zone_use_of_a_limit_is_not_given_again() {
    let here = HttpInstance::start("here").await;
    let home = Zone::start(
        "home",
        &limited("requests: 3, rate_per_caller: 1/s"),
        vec![here.instance(&[])],
    );
    let orders = testbed::service("orders");
    let free = || {
        let take = |_| home.egress.shared.take_place(&orders, UseKind::Requests).ok();
        (0..3).map_while(take).collect::<Vec<_>>().len()
    };
    assert_eq!(free(), 3);
    let held = home.egress.shared.take_place(&orders, UseKind::Requests).unwrap();
    let limit = SharedLimit::AtOnce(UseKind::Requests);
    let used = |amount| LimitUse {
        service: orders.clone(),
        limit: limit.clone(),
        amount,
    };
    assert_eq!(home.egress.limit_uses(), [used(1.0)]);
    drop(held);
    let mut others = OthersUse::default();
    others.add(&[used(1.0)]);
    home.egress
        .shared
        .snapshots
        .load()
        .capacity
        .limits
        .publish(others);
    assert_eq!(free(), 2);
    // Callers are told by name, and what is refused is told too.
    let mut client = HttpClient::of(&home).await;
    assert_eq!(client.get("/").await.status.as_u16(), 200);
    assert_eq!(client.get("/").await.status.as_u16(), 429);
    let uses = home.egress.limit_uses();
    let of_caller = uses
        .iter()
        .find(|one| matches!(one.limit, SharedLimit::CallerRate(_)));
    assert!(of_caller.unwrap().amount > 0.5, "{uses:?}");
}

#[tokio::test]
async fn a_request_that_would_have_to_wait_beyond_the_limit_is_not_queued() {
    let home = Zone::start("home", &limited("pending: 1"), vec![]);
    let (mut first, mut second) = (HttpClient::of(&home).await, HttpClient::of(&home).await);
    // Nobody is there to serve it, and somebody may come.
    let waiting = tokio::spawn(async move { first.ask(http::Method::GET, "/").await });
    let orders = testbed::service("orders");
    let has_room = || home.egress.shared.take_place(&orders, UseKind::Pending).is_ok();
    until("it waits", || !has_room()).await;
    is_overload(&second.get("/").await);
    let here = HttpInstance::start("here").await;
    super::set_instances(&home, vec![here.instance(&[])]);
    assert_eq!(waiting.await.unwrap().unwrap().text(), "here");
    assert_eq!(second.get("/").await.text(), "here");
}

#[tokio::test]
async fn retries_beyond_the_limit_are_not_made() {
    let bad = TriedInstance::start("bad", Conduct::Answer(503)).await;
    let slow = TriedInstance::start("slow", Conduct::Hang).await;
    let split = "split: [{ tags: { v: '1' }, weight: 1000000 }, { tags: { v: '2' } }]";
    let topology = speaking_http(&format!("{split}\n    retry: {{}}\n    limits: {{ retries: 1 }}"));
    let instances = vec![bad.instance(&[("v", "1")]), slow.instance(&[("v", "2")])];
    let home = Zone::start("home", &topology, instances);
    let (mut first, mut second) = (HttpClient::of(&home).await, HttpClient::of(&home).await);
    let waiting = tokio::spawn(async move { first.ask(http::Method::GET, "/").await });
    until("it is tried again", || slow.requests() == 1).await;
    let told = second.get("/").await;
    assert_eq!(
        (told.status.as_u16(), told.text()),
        (503, "bad"),
        "the answer of the first try"
    );
    assert_eq!((bad.requests(), slow.requests()), (2, 1));
    waiting.abort();
}

#[tokio::test]
async fn a_service_and_each_of_its_callers_have_a_rate() {
    for limit in ["rate", "rate_per_caller"] {
        let here = HttpInstance::start("here").await;
        let home = Zone::start(
            "home",
            &limited(&format!("{limit}: 3/s")),
            vec![here.instance(&[])],
        );
        let mut client = HttpClient::of(&home).await;
        let mut refused = None;
        for _ in 0..100 {
            let told = client.get("/").await;
            if told.status != StatusCode::OK {
                refused = Some(told);
                break;
            }
        }
        let told = refused.expect("a hundred at once are more than three a second");
        assert_eq!(told.status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(told.field("causeway-reason"), Some("rate_limited"));
        assert_eq!(told.field("retry-after"), Some("1"));
        assert!(here.requests() >= 3, "{limit}");
        assert_eq!(reached(&home), [("orders".to_owned(), limit)]);
        while client.get("/").await.status != StatusCode::OK {}
    }
}
