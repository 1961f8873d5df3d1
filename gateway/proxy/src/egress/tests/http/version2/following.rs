//! Changes that hold for the next call on a connection that is open.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use causeway_federation::topology::Topology;
use futures_util::future::join_all;

use super::{CallClient, CallInstance, call, fed, speaking_grpc, two_zones};
use crate::{
    egress::tests::http::set_instances,
    http::limits::REMOTE_SPREAD,
    testbed::{Zone, until},
};

const CALLS: usize = 600;
/// Calls of one connection at once.
const AT_ONCE: usize = 20;

fn split(first: u32, second: u32) -> Arc<Topology> {
    speaking_grpc(&format!(
        "split: [{{ tags: {{ version: v1 }}, weight: {first} }}, {{ tags: {{ version: v2 }}, weight: {second} }}]"
    ))
}

#[tokio::test]
async fn weights_hold_for_the_calls_of_one_open_connection() {
    let (v1, v2) = (CallInstance::start("v1").await, CallInstance::start("v2").await);
    let instances = vec![
        v1.instance(&[("version", "v1")]),
        v2.instance(&[("version", "v2")]),
    ];
    let home = Zone::start("home", &split(95, 5), instances);
    let client = CallClient::of(&home).await;
    for percent in [5, 50, 100, 0] {
        let topology = split(100 - percent, percent);
        home.change(|snapshot| snapshot.topology = topology);
        let mut served: BTreeMap<String, usize> = BTreeMap::new();
        for _ in 0..CALLS / AT_ONCE {
            for name in join_all((0..AT_ONCE).map(|_| client.server())).await {
                *served.entry(name).or_default() += 1;
            }
        }
        let all = CALLS as f64;
        let share = f64::from(percent) / 100.0;
        let bound = 5.0 * (all * share * (1.0 - share)).sqrt();
        let second = served.get("v2").copied().unwrap_or(0) as f64;
        assert!((second - all * share).abs() <= bound, "{percent} %: {served:?}");
    }
    assert_eq!(home.egress.open_connections().count(), 1);
}

async fn both_are_called(client: &CallClient, one: &CallInstance, two: &CallInstance) {
    // An instance whose connects were slow a moment ago comes after the other, but not for long.
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while one.calls().min(two.calls()) < 10 {
        let now = tokio::time::Instant::now();
        assert!(now < deadline, "{} {}", one.calls(), two.calls());
        client.server().await;
    }
}

#[tokio::test]
async fn two_instances_share_the_calls_of_one_connection() {
    let (one, two) = (CallInstance::start("one").await, CallInstance::start("two").await);
    let topology = speaking_grpc("early: false");
    let home = Zone::start("home", &topology, vec![one.instance(&[]), two.instance(&[])]);
    let client = CallClient::of(&home).await;
    both_are_called(&client, &one, &two).await;
    assert_eq!(home.egress.open_connections().count(), 1);
}

#[tokio::test]
async fn two_instances_of_another_zone_share_the_calls_of_one_connection() {
    let (one, two) = (CallInstance::start("one").await, CallInstance::start("two").await);
    let there = vec![one.instance(&[]), two.instance(&[])];
    let (home, east) = two_zones(&speaking_grpc("early: false"), there).await;
    let client = CallClient::of(&home).await;
    for _ in 0..REMOTE_SPREAD {
        client.server().await;
    }
    until("they are spread", || {
        east.ingress.open_connections().count() >= REMOTE_SPREAD
    })
    .await;
    both_are_called(&client, &one, &two).await;
    assert_eq!(home.egress.open_connections().count(), 1);
}

#[tokio::test]
async fn calls_at_once_share_a_few_connections() {
    let here = CallInstance::start("here").await;
    let home = Zone::start("home", &speaking_grpc("early: false"), vec![here.instance(&[])]);
    let client = CallClient::of(&home).await;
    for _ in 0..3 {
        join_all((0..100).map(|_| client.server())).await;
    }
    assert_eq!(here.calls(), 300);
    let connections = here.connections();
    assert!(connections < 50, "{connections}");
}

#[tokio::test]
async fn an_open_connection_fails_over_and_comes_back() {
    let (here, there) = (
        CallInstance::start("here").await,
        CallInstance::start("there").await,
    );
    let topology = speaking_grpc("failover: [{ zone: self }, { zone: east }]");
    let (home, _east) = two_zones(&topology, vec![there.instance(&[])]).await;
    let client = CallClient::of(&home).await;
    for expected in ["here", "there", "here"] {
        let instances = (expected == "here").then(|| here.instance(&[]));
        set_instances(&home, instances.into_iter().collect());
        for _ in 0..6 {
            assert_eq!(client.server().await, expected);
        }
    }
    assert_eq!(home.egress.open_connections().count(), 1);
}

#[tokio::test]
async fn a_permission_that_is_taken_away_forbids_the_next_call() {
    let here = CallInstance::start("here").await;
    let home = Zone::start("home", &speaking_grpc("deny: []"), vec![here.instance(&[])]);
    let client = CallClient::of(&home).await;
    assert_eq!(client.server().await, "here");
    home.change(|snapshot| snapshot.topology = speaking_grpc("allow: []"));
    home.egress.recheck(&home.snapshots.load_full());
    let told = client.call("/").await.unwrap();
    assert_eq!((told.status.as_u16(), told.code()), (200, Some("7")));
    assert_eq!(told.field("causeway-reason"), Some("forbidden"));
    home.change(|snapshot| snapshot.topology = speaking_grpc("deny: []"));
    assert_eq!(client.server().await, "here", "the same connection");
    assert_eq!(here.calls(), 2);
}

#[tokio::test]
async fn a_permission_that_is_taken_away_ends_the_calls_under_way() {
    let here = CallInstance::start("here").await;
    let home = Zone::start("home", &speaking_grpc("deny: []"), vec![here.instance(&[])]);
    let client = CallClient::of(&home).await;
    let asking = {
        let client = client.clone();
        tokio::spawn(async move { join_all([client.call("/hang"), client.call("/hang")]).await })
    };
    until("both are under way", || here.calls() == 2).await;
    // One that ends leaves the caller of the others known.
    assert_eq!(client.server().await, "here");
    home.change(|snapshot| snapshot.topology = speaking_grpc("allow: []"));
    home.egress.recheck(&home.snapshots.load_full());
    assert!(asking.await.unwrap().iter().all(Result::is_err));
    until("the instance knows", || here.cancelled() == 2).await;
}

#[tokio::test]
async fn a_shutdown_lets_the_calls_under_way_finish_and_takes_no_other() {
    let here = CallInstance::start("here").await;
    let home = Zone::start("home", &speaking_grpc("early: false"), vec![here.instance(&[])]);
    let (idle, busy) = (CallClient::of(&home).await, CallClient::of(&home).await);
    idle.server().await;
    let (feed, body) = fed();
    let asking = {
        let busy = busy.clone();
        tokio::spawn(async move { busy.send(call("/echo", body)).await.unwrap() })
    };
    until("both have called", || here.calls() == 2).await;
    home.egress.drain(Duration::from_secs(1));
    until("the idle one is closed", || {
        home.egress.open_connections().count() == 1
    })
    .await;
    assert!(idle.call("/").await.is_err());
    // Until it has heard of the shutdown.
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while busy.call("/").await.is_ok() {
        assert!(tokio::time::Instant::now() < deadline, "further calls are taken");
    }
    feed.send("the rest".into()).await.unwrap();
    drop(feed);
    let told = asking.await.unwrap();
    assert_eq!((told.text(), told.code()), ("the rest", Some("0")));
    until("all are closed", || home.egress.open_connections().count() == 0).await;
}

#[tokio::test]
async fn a_cut_ends_the_calls_under_way() {
    let here = CallInstance::start("here").await;
    let home = Zone::start("home", &speaking_grpc("early: false"), vec![here.instance(&[])]);
    let client = CallClient::of(&home).await;
    let hanging = tokio::spawn(async move { client.call("/hang").await });
    until("it has called", || here.calls() == 1).await;
    home.egress.cut();
    let told = hanging.await.unwrap().unwrap();
    assert_eq!(
        (told.code(), told.field("causeway-reason")),
        (Some("14"), Some("cut"))
    );
    until("all are closed", || home.egress.open_connections().count() == 0).await;
    until("the instance knows", || here.cancelled() == 1).await;
}
