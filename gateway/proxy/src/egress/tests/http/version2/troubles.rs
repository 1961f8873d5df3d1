//! Ends of calls that are no failures of their instances, or none that are the gateway's to hide.

use super::{CallClient, CallInstance, call, fed, speaking_grpc};
use crate::{
    egress::tests::http::outliers::is_ejected,
    testbed::{Zone, until},
};

async fn ejecting(name: &str) -> (CallInstance, Zone) {
    let here = CallInstance::start(name).await;
    let topology = speaking_grpc("outlier: { consecutive: 3 }");
    let home = Zone::start("home", &topology, vec![here.instance(&[])]);
    (here, home)
}

#[tokio::test]
async fn calls_that_an_aged_server_ends_after_a_message_eject_nobody_and_those_without_do() {
    let (_here, home) = ejecting("away").await;
    let client = CallClient::of(&home).await;
    for _ in 0..4 {
        let told = client.call("/aged").await.unwrap();
        assert_eq!((told.text(), told.code()), ("a message", Some("14")));
    }
    assert!(!is_ejected(&home, "home"));
    for _ in 0..4 {
        assert_eq!(client.call("/away").await.unwrap().code(), Some("14"));
    }
    assert!(is_ejected(&home, "home"));
}

#[tokio::test]
async fn a_head_over_the_limit_of_the_gateway_is_told_as_that_and_ejects_nobody() {
    let (here, home) = ejecting("here").await;
    let client = CallClient::of(&home).await;
    for _ in 0..4 {
        let told = client.call("/large-head").await.unwrap();
        let reason = told.field("causeway-reason");
        assert_eq!((told.code(), reason), (Some("13"), Some("bad_answer")));
    }
    assert!(!is_ejected(&home, "home"));
    assert_eq!(here.calls(), 4, "none was given twice");
}

#[tokio::test]
async fn a_gateway_that_cuts_a_connection_ends_each_call_on_it() {
    let (here, home) = ejecting("here").await;
    let client = CallClient::of(&home).await;
    let waiting = client.clone();
    let waiting = tokio::spawn(async move { waiting.call("/hang").await });
    until("it is under way", || here.calls() == 1).await;
    let (feed, body) = fed();
    feed.send("one".into()).await.unwrap();
    let mut answer = client.begin(call("/talk", body)).await.unwrap().into_body();
    let first = http_body_util::BodyExt::frame(&mut answer)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(first.into_data().unwrap(), "one");
    let mut other = call("/hang", super::text(""));
    other.headers_mut().remove("content-type");
    let other = tokio::spawn(async move { client.send(other).await });
    until("all are under way", || here.calls() == 3).await;
    home.egress.cut();
    let last = http_body_util::BodyExt::frame(&mut answer)
        .await
        .unwrap()
        .unwrap();
    let trailers = last.into_trailers().unwrap();
    assert_eq!(
        (&trailers["grpc-status"], &trailers["causeway-reason"]),
        (&"14".parse().unwrap(), &"cut".parse().unwrap())
    );
    let told = waiting.await.unwrap().unwrap();
    assert_eq!(
        (told.code(), told.field("causeway-reason")),
        (Some("14"), Some("cut"))
    );
    let told = other.await.unwrap().unwrap();
    assert_eq!(
        (told.status.as_u16(), told.field("causeway-reason")),
        (503, Some("cut"))
    );
    until("the connection is over", || {
        home.egress.open_connections().count() == 0
    })
    .await;
    assert!(!is_ejected(&home, "home"));
}
