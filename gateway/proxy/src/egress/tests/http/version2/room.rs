//! Instances that take few calls at once, and say so.

use std::sync::atomic::Ordering;

use futures_util::future::join_all;

use super::{CallClient, CallInstance, speaking_grpc, two_zones};
use crate::{
    egress::tests::http::outliers::is_ejected,
    http::limits::MAX_ALIKE_UPSTREAMS,
    testbed::{Zone, until},
};

const CALLS: usize = 100;

/// Makes many calls at once.
async fn all_served(client: &CallClient) {
    for told in join_all((0..CALLS).map(|_| client.call("/"))).await {
        let told = told.unwrap();
        assert_eq!(told.code(), Some("0"), "{told:?}");
    }
}

#[tokio::test]
async fn an_instance_is_given_no_more_calls_at_once_than_it_takes() {
    let topology = speaking_grpc("early: false\n    outlier: { consecutive: 3 }");
    for takes in [1, 10] {
        let here = CallInstance::start("here").await;
        here.seen.takes.store(takes, Ordering::Relaxed);
        let home = Zone::start("home", &topology, vec![here.instance(&[])]);
        all_served(&CallClient::of(&home).await).await;
        let there = CallInstance::start("there").await;
        there.seen.takes.store(takes, Ordering::Relaxed);
        let (home, _east) = two_zones(&topology, vec![there.instance(&[])]).await;
        all_served(&CallClient::of(&home).await).await;
        assert!(!is_ejected(&home, "east"));
        for instance in [here, there] {
            assert_eq!(instance.calls(), CALLS);
            assert!(instance.connections() <= MAX_ALIKE_UPSTREAMS);
        }
    }
}

#[tokio::test]
async fn a_call_waits_for_one_before_it_where_there_is_room_for_no_other() {
    let here = CallInstance::start("here").await;
    here.seen.takes.store(1, Ordering::Relaxed);
    let home = Zone::start("home", &speaking_grpc("early: false"), vec![here.instance(&[])]);
    let client = CallClient::of(&home).await;
    let mut held = Vec::new();
    for nth in 1..=MAX_ALIKE_UPSTREAMS {
        let client = client.clone();
        held.push(tokio::spawn(async move { client.call("/hang").await }));
        until("it is under way", || here.calls() == nth).await;
    }
    let waiting = client.clone();
    let waiting = tokio::spawn(async move { waiting.call("/").await });
    held.pop().unwrap().abort();
    let told = waiting.await.unwrap().unwrap();
    assert_eq!(told.code(), Some("0"), "{told:?}");
    assert!(here.connections() <= MAX_ALIKE_UPSTREAMS);
    held.into_iter().for_each(|call| call.abort());
}

#[tokio::test]
async fn a_call_for_which_there_is_no_room_in_its_time_is_told_so() {
    let here = CallInstance::start("here").await;
    here.seen.takes.store(1, Ordering::Relaxed);
    let home = Zone::start("home", &speaking_grpc("early: false"), vec![here.instance(&[])]);
    let client = CallClient::of(&home).await;
    let mut held = Vec::new();
    for nth in 1..=MAX_ALIKE_UPSTREAMS {
        let client = client.clone();
        held.push(tokio::spawn(async move { client.call("/hang").await }));
        until("it is under way", || here.calls() == nth).await;
    }
    home.change(|snapshot| snapshot.topology = speaking_grpc("timeout: 300ms"));
    let told = client.call("/").await.unwrap();
    let reason = told.field("causeway-reason");
    assert_eq!((told.code(), reason), (Some("14"), Some("instance_full")));
    held.into_iter().for_each(|call| call.abort());
}
