//! Changes that hold for the next request on a connection that is open.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use causeway_federation::{
    catalog::{Age, Catalog},
    topology::Topology,
};
use http::{Method, StatusCode};

use super::{HttpClient, HttpInstance, set_instances, speaking_http, two_zones};
use crate::testbed::{Zone, entry, until};

const CLIENTS: usize = 10;
const REQUESTS: usize = 60;

fn split(first: u32, second: u32) -> Arc<Topology> {
    speaking_http(&format!(
        "split: [{{ tags: {{ version: v1 }}, weight: {first} }}, {{ tags: {{ version: v2 }}, weight: {second} }}]"
    ))
}

#[tokio::test]
async fn weights_hold_for_the_requests_of_connections_that_are_open() {
    let (v1, v2) = (HttpInstance::start("v1").await, HttpInstance::start("v2").await);
    let instances = vec![
        v1.instance(&[("version", "v1")]),
        v2.instance(&[("version", "v2")]),
    ];
    let home = Zone::start("home", &split(95, 5), instances);
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(HttpClient::of(&home).await);
    }
    for percent in [5, 50, 100, 0] {
        let topology = split(100 - percent, percent);
        home.change(|snapshot| snapshot.topology = topology);
        let mut served: BTreeMap<String, usize> = BTreeMap::new();
        for client in &mut clients {
            for _ in 0..REQUESTS {
                let told = client.get("/").await;
                assert_eq!(told.status, StatusCode::OK);
                *served.entry(told.text().to_owned()).or_default() += 1;
            }
        }
        let all = (CLIENTS * REQUESTS) as f64;
        let share = f64::from(percent) / 100.0;
        let bound = 5.0 * (all * share * (1.0 - share)).sqrt();
        let second = served.get("v2").copied().unwrap_or(0) as f64;
        assert!((second - all * share).abs() <= bound, "{percent} %: {served:?}");
    }
    assert_eq!(home.egress.open_connections().count(), CLIENTS);
}

#[tokio::test]
async fn an_open_connection_fails_over_and_comes_back() {
    let (here, there) = (
        HttpInstance::start("here").await,
        HttpInstance::start("there").await,
    );
    let topology = speaking_http("failover: [{ zone: self }, { zone: east }]");
    let (home, _east) = two_zones(&topology, vec![there.instance(&[])]).await;
    set_instances(&home, vec![here.instance(&[])]);
    let mut client = HttpClient::of(&home).await;
    for expected in ["here", "there", "here"] {
        let instances = (expected == "here").then(|| here.instance(&[]));
        set_instances(&home, instances.into_iter().collect());
        for _ in 0..3 {
            assert_eq!(client.get("/").await.text(), expected);
        }
    }
    assert_eq!(home.egress.open_connections().count(), 1);
}

#[tokio::test]
async fn what_another_zone_takes_out_gets_no_request_of_a_kept_connection() {
    let (one, two) = (HttpInstance::start("one").await, HttpInstance::start("two").await);
    let topology = speaking_http("early: false");
    let both = vec![one.instance(&[]), two.instance(&[])];
    let (home, east) = two_zones(&topology, both).await;
    let exported = |healthy| {
        let exported = entry("east", Age::Fresh, false, &[(&[], healthy, healthy)]);
        home.change(|snapshot| snapshot.catalog = Arc::new(Catalog::new([exported])));
    };
    exported(2);
    let mut client = HttpClient::of(&home).await;
    // A stream is kept for what may be asked once.
    let first = client.ask(Method::POST, "/").await.unwrap().text().to_owned();
    for _ in 0..5 {
        assert_eq!(client.ask(Method::POST, "/").await.unwrap().text(), first);
    }
    let left = if first == "one" { &two } else { &one };
    set_instances(&east, vec![left.instance(&[])]);
    exported(1);
    for _ in 0..5 {
        assert_ne!(client.ask(Method::POST, "/").await.unwrap().text(), first);
    }
    assert_eq!(home.egress.open_connections().count(), 1);
}

#[tokio::test]
async fn two_instances_share_the_requests_of_one_connection() {
    let (one, two) = (HttpInstance::start("one").await, HttpInstance::start("two").await);
    let home = Zone::start(
        "home",
        &speaking_http("early: false"),
        vec![one.instance(&[]), two.instance(&[])],
    );
    let mut client = HttpClient::of(&home).await;
    // An instance whose connects were slow a moment ago comes after the other, but not for long.
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(30);
    while one.requests().min(two.requests()) < 10 {
        assert!(
            tokio::time::Instant::now() < deadline,
            "{} {}",
            one.requests(),
            two.requests()
        );
        client.get("/").await;
    }
    assert_eq!(home.egress.open_connections().count(), 1);
}

#[tokio::test]
async fn requests_that_go_the_same_way_share_a_connection_on_every_leg() {
    let there = HttpInstance::start("there").await;
    let (home, east) = two_zones(&speaking_http("early: false"), vec![there.instance(&[])]).await;
    let mut client = HttpClient::of(&home).await;
    for _ in 0..10 {
        assert_eq!(client.get("/").await.text(), "there");
    }
    assert_eq!((there.requests(), there.connections()), (10, 1));
    // Each has a stream of its own, which gives the connection to the instance back.
    assert!(east.ingress.open_connections().count() <= 1);
    drop(client);
    let none = || home.egress.open_connections().count() + east.ingress.open_connections().count() == 0;
    until("the connection is over on both sides", none).await;
}

#[tokio::test]
async fn a_permission_that_is_taken_away_forbids_the_next_request_and_ends_the_one_under_way() {
    let here = HttpInstance::start("here").await;
    let home = Zone::start("home", &speaking_http("deny: []"), vec![here.instance(&[])]);
    let (mut idle, mut busy) = (HttpClient::of(&home).await, HttpClient::of(&home).await);
    assert_eq!(idle.get("/").await.status, StatusCode::OK);
    let hanging = tokio::spawn(async move { busy.ask(Method::GET, "/hang").await });
    until("both have asked", || here.requests() == 2).await;
    let denied = speaking_http("allow: []");
    home.change(|snapshot| snapshot.topology = denied);
    home.egress.recheck(&home.snapshots.load_full());
    assert!(hanging.await.unwrap().is_err(), "the request under way goes on");
    let told = idle.get("/").await;
    assert_eq!(
        (told.status, told.field("causeway-reason")),
        (StatusCode::FORBIDDEN, Some("forbidden"))
    );
    home.change(|snapshot| snapshot.topology = speaking_http("deny: []"));
    assert_eq!(idle.get("/").await.text(), "here", "the same connection");
    assert_eq!(here.requests(), 3);
}

#[tokio::test]
async fn the_far_zone_forbids_the_next_request_too() {
    let there = HttpInstance::start("there").await;
    let open = speaking_http("deny: []");
    let (home, east) = two_zones(&open, vec![there.instance(&[])]).await;
    let mut client = HttpClient::of(&home).await;
    assert_eq!(client.get("/").await.text(), "there");
    east.change(|snapshot| snapshot.topology = speaking_http("allow: []"));
    east.ingress.recheck(&east.snapshots.load_full());
    until("the stream is over", || {
        east.ingress.open_connections().count() == 0
    })
    .await;
    let told = client.get("/").await;
    assert_eq!(
        (told.status, told.field("causeway-reason")),
        (StatusCode::FORBIDDEN, Some("forbidden"))
    );
    assert_eq!(there.requests(), 1);
}

#[tokio::test]
async fn a_shutdown_answers_the_request_under_way_and_closes_after_it() {
    let here = HttpInstance::start("here").await;
    let home = Zone::start("home", &speaking_http("early: false"), vec![here.instance(&[])]);
    let (mut idle, mut busy) = (HttpClient::of(&home).await, HttpClient::of(&home).await);
    let mut kept = HttpClient::of(&home).await;
    idle.get("/").await;
    kept.get("/").await;
    let (feed, fed) = tokio::sync::oneshot::channel();
    let body = http_body_util::StreamBody::new(futures_util::stream::once(async move {
        let bytes: bytes::Bytes = fed.await.unwrap();
        Ok::<_, std::convert::Infallible>(hyper::body::Frame::data(bytes))
    }));
    let request = http::Request::post("/echo").header("host", "orders.mesh");
    let request = request.body(http_body_util::BodyExt::boxed(body)).unwrap();
    let asking = tokio::spawn(async move { busy.send(request).await.unwrap() });
    until("all have asked", || here.requests() == 3).await;
    home.egress.drain(Duration::from_secs(1));
    // A request that was on its way is answered, and so is the first of whoever comes only now.
    let mut late = HttpClient::of(&home).await;
    for client in [&mut kept, &mut late] {
        let told = client.get("/").await;
        assert_eq!((told.text(), told.field("connection")), ("here", Some("close")));
    }
    until("the idle one is closed", || {
        home.egress.open_connections().count() == 1
    })
    .await;
    assert!(idle.ask(Method::GET, "/").await.is_err());
    feed.send("the rest".into()).unwrap();
    let told = asking.await.unwrap();
    assert_eq!((told.status, told.text()), (StatusCode::OK, "the rest"));
    until("all are closed", || home.egress.open_connections().count() == 0).await;
}

#[tokio::test]
async fn a_cut_ends_the_request_under_way() {
    let here = HttpInstance::start("here").await;
    let home = Zone::start("home", &speaking_http("early: false"), vec![here.instance(&[])]);
    let mut client = HttpClient::of(&home).await;
    let hanging = tokio::spawn(async move { client.ask(Method::GET, "/hang").await });
    until("it has asked", || here.requests() == 1).await;
    home.egress.cut();
    assert!(hanging.await.unwrap().is_err());
    until("all are closed", || home.egress.open_connections().count() == 0).await;
}
