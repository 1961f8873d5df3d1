//! Calls on their way: messages, metadata, trailers, and their end from either side.

use std::{convert::Infallible, sync::atomic::Ordering};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;

use super::{CallClient, CallInstance, call, fed, speaking_grpc, text, two_zones};
use crate::testbed::{Zone, connect, until};

/// Bytes of a body that no buffer on the way holds whole.
const LARGE: usize = 10 * 1024 * 1024;

#[tokio::test]
async fn a_call_keeps_its_metadata_and_its_trailers() {
    let there = CallInstance::start("there").await;
    let (home, _east) = two_zones(&speaking_grpc("early: false"), vec![there.instance(&[])]).await;
    let client = CallClient::of(&home).await;
    let mut request = call("/head", text("a message"));
    for (name, value) in [
        ("grpc-timeout", "5S"),
        ("x-key-bin", "AAEC"),
        ("cookie", "a=1"),
        ("proxy-authorization", "secret"),
        ("x-forwarded-client-cert", "URI=spiffe://example.org/forged"),
    ] {
        request.headers_mut().append(name, value.parse().unwrap());
    }
    let told = client.send(request).await.unwrap();
    let mut lines: Vec<&str> = told.text().lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "POST http://orders.mesh:8080/head",
            "content-length: 9",
            "content-type: application/grpc",
            "cookie: a=1",
            "grpc-timeout: 5S",
            "te: trailers",
            "via: 2.0 causeway",
            "x-forwarded-for: 127.0.0.1",
            "x-forwarded-host: orders.mesh:8080",
            "x-forwarded-proto: http",
            "x-key-bin: AAEC",
        ]
    );
    assert_eq!(told.field("content-type"), Some("application/grpc"));
    assert_eq!(told.field("via"), Some("2.0 causeway"));
    assert_eq!(told.code(), Some("0"));
    assert_eq!(told.trailers.unwrap()["x-detail"], "of the instance");
}

#[tokio::test]
async fn trailers_of_a_request_do_not_say_who_asks() {
    let there = CallInstance::start("there").await;
    let (home, _east) = two_zones(&speaking_grpc("early: false"), vec![there.instance(&[])]).await;
    let client = CallClient::of(&home).await;
    let mut trailers = http::HeaderMap::new();
    for name in ["x-forwarded-client-cert", "x-forwarded-for", "cookie", "x-sum"] {
        trailers.insert(name, "forged".parse().unwrap());
    }
    let frames = [Frame::data("a message".into()), Frame::trailers(trailers)];
    let body = StreamBody::new(stream::iter(frames.map(Ok::<_, Infallible>)));
    let told = client.send(call("/talk", body.boxed())).await.unwrap();
    let left = told.trailers.unwrap();
    assert_eq!(left.keys().collect::<Vec<_>>(), ["x-sum"]);
}

#[tokio::test]
async fn an_answer_without_messages_stays_one() {
    let here = CallInstance::start("here").await;
    let home = Zone::start("home", &speaking_grpc("early: false"), vec![here.instance(&[])]);
    let client = CallClient::of(&home).await;
    let answer = client.begin(call("/denied", text(""))).await.unwrap();
    assert!(hyper::body::Body::is_end_stream(answer.body()));
    assert_eq!(answer.headers()["grpc-status"], "16");
    assert!(!answer.headers().contains_key("content-length"));
}

#[tokio::test]
async fn both_sides_of_a_call_talk_in_turn() {
    let there = CallInstance::start("there").await;
    let (home, _east) = two_zones(&speaking_grpc("early: false"), vec![there.instance(&[])]).await;
    let client = CallClient::of(&home).await;
    let (feed, body) = fed();
    let mut answer = client.begin(call("/echo", body)).await.unwrap();
    for word in ["one", "two", "three"] {
        feed.send(word.into()).await.unwrap();
        let frame = answer.body_mut().frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), word);
    }
    drop(feed);
    let end = answer.body_mut().frame().await.unwrap().unwrap();
    assert_eq!(end.into_trailers().unwrap()["grpc-status"], "0");
}

#[tokio::test]
async fn a_message_of_10_mib_goes_both_ways_between_zones() {
    let there = CallInstance::start("there").await;
    let (home, _east) = two_zones(&speaking_grpc("early: false"), vec![there.instance(&[])]).await;
    let client = CallClient::of(&home).await;
    let chunk = Bytes::from(vec![b'x'; 64 * 1024]);
    let chunks = (0..LARGE / chunk.len()).map(move |_| Ok::<_, Infallible>(Frame::data(chunk.clone())));
    let body = StreamBody::new(stream::iter(chunks)).boxed();
    let told = client.send(call("/echo", body)).await.unwrap();
    assert_eq!((told.code(), told.body.len()), (Some("0"), LARGE));
    assert!(told.body.iter().all(|byte| *byte == b'x'));
    assert_eq!(client.server().await, "there", "the connection goes on");
}

#[tokio::test]
async fn a_call_that_its_client_takes_back_is_taken_back_from_the_instance() {
    let there = CallInstance::start("there").await;
    let (home, _east) = two_zones(&speaking_grpc("early: false"), vec![there.instance(&[])]).await;
    let client = CallClient::of(&home).await;
    // Before an answer, and in the midst of one.
    let hanging = {
        let client = client.clone();
        tokio::spawn(async move { client.call("/hang").await })
    };
    until("it is under way", || there.calls() == 1).await;
    hanging.abort();
    until("the instance knows of the first", || there.cancelled() == 1).await;
    let (feed, body) = fed();
    let mut answer = client.begin(call("/talk", body)).await.unwrap();
    feed.send("one".into()).await.unwrap();
    answer.body_mut().frame().await.unwrap().unwrap();
    drop(answer);
    drop(feed);
    until("the instance knows of the second", || there.cancelled() == 2).await;
    assert_eq!(client.server().await, "there", "the connection goes on");
}

#[tokio::test]
async fn half_a_message_is_never_taken_for_a_whole_one() {
    let here = CallInstance::start("here").await;
    let home = Zone::start("home", &speaking_grpc("early: false"), vec![here.instance(&[])]);
    let (mut sender, connection) = h2::client::handshake(connect(home.vip).await).await.unwrap();
    tokio::spawn(connection);
    // Some programs read a reset without an error as the end.
    for (nth, reason) in [(1, h2::Reason::CANCEL), (2, h2::Reason::NO_ERROR)] {
        let (request, _) = call("/", text("")).into_parts();
        let request = http::Request::from_parts(request, ());
        let (_answer, mut body) = sender.send_request(request, false).unwrap();
        body.send_data("half".into(), false).unwrap();
        until("it is under way", || here.calls() == nth).await;
        body.send_reset(reason);
        until("the instance knows", || {
            here.seen.broken.load(Ordering::Relaxed) == nth
        })
        .await;
    }
    assert_eq!(here.seen.whole.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_call_that_its_instance_breaks_off_is_reset() {
    let here = CallInstance::start("here").await;
    let home = Zone::start("home", &speaking_grpc("early: false"), vec![here.instance(&[])]);
    let client = CallClient::of(&home).await;
    let (feed, body) = fed();
    let mut answer = client.begin(call("/break", body)).await.unwrap();
    feed.send("half".into()).await.unwrap();
    let first = answer.body_mut().frame().await.unwrap().unwrap();
    assert_eq!(first.into_data().unwrap(), "half");
    drop(feed);
    assert!(answer.body_mut().frame().await.unwrap().is_err());
    assert_eq!(client.server().await, "here", "the connection goes on");
}

#[tokio::test]
async fn a_call_whose_instance_is_lost_ends_with_a_code() {
    let there = CallInstance::start("there").await;
    let (home, east) = two_zones(&speaking_grpc("early: false"), vec![there.instance(&[])]).await;
    let client = CallClient::of(&home).await;
    let (feed, body) = fed();
    let mut answer = client.begin(call("/talk", body)).await.unwrap();
    feed.send("one".into()).await.unwrap();
    answer.body_mut().frame().await.unwrap().unwrap();
    east.ingress.cut();
    let end = answer.body_mut().frame().await.unwrap().unwrap();
    let trailers = end.into_trailers().unwrap();
    assert_eq!(
        (&trailers["grpc-status"], &trailers["causeway-reason"]),
        (&"14".parse().unwrap(), &"cut".parse().unwrap())
    );
    assert_eq!(home.egress.open_connections().count(), 1);
}
