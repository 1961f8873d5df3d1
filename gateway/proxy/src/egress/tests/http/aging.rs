//! Connections of HTTP that end at an age, and upgraded ones that follow as those of TCP do.

use std::{io::ErrorKind, sync::Arc};

use causeway_routing::snapshot::Instance;
use http::Request;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{sync::Notify, time::timeout};

use super::{
    HttpClient, HttpInstance, Told, set_instances, speaking_http, text, two_zones,
    upgrade::{OK, PATIENCE, Wire, echoing, instance, upgraded},
};
use crate::{
    egress::tests::moving::{Following, ended, followed},
    testbed::{Zone, connect, until},
};

const AGE: &str = "connections: { max_age: 1s }";

/// An instance that answers one request, when it is told to.
async fn waiting(go: &Arc<Notify>) -> Arc<Instance> {
    let go = go.clone();
    instance(move |mut wire| {
        let go = go.clone();
        async move {
            wire.head().await;
            go.notified().await;
            wire.say(OK).await;
        }
    })
    .await
}

#[tokio::test]
async fn the_answer_under_way_says_that_a_connection_of_http_1_ends_by_its_age() {
    let go = Arc::new(Notify::new());
    let home = Zone::start("home", &speaking_http(AGE), vec![waiting(&go).await]);
    let _word = Following::start(&home);
    let mut client = Wire::to(&home).await;
    client.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    until("it is sent away", || followed(&home, "max_age") == 1).await;
    go.notify_one();
    let answer = client.rest().await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("ok"),
        "{answer}"
    );
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    assert_eq!(ended(&home, "served"), 1);
}

#[tokio::test]
async fn an_idle_client_of_http_1_is_told_of_the_end_with_its_next_answer() {
    let here = HttpInstance::start("here").await;
    let home = Zone::start("home", &speaking_http(AGE), vec![here.instance(&[])]);
    let _word = Following::start(&home);
    let mut client = HttpClient::of(&home).await;
    assert_eq!(client.get("/").await.field("connection"), None);
    until("it is sent away", || followed(&home, "max_age") == 1).await;
    let last = client.get("/").await;
    assert_eq!((last.text(), last.field("connection")), ("here", Some("close")));
    until("it is closed", || client.0.is_closed()).await;
}

#[tokio::test]
async fn a_connection_of_http_1_without_a_request_closes_at_its_age() {
    let here = HttpInstance::start("here").await;
    let home = Zone::start("home", &speaking_http(AGE), vec![here.instance(&[])]);
    let _word = Following::start(&home);
    let mut client = HttpClient::of(&home).await;
    assert_eq!(client.get("/").await.text(), "here");
    until("it is closed", || client.0.is_closed()).await;
    assert_eq!(followed(&home, "max_age"), 1);
    until("it is gone", || home.egress.open_connections().count() == 0).await;
}

#[tokio::test]
async fn a_connection_of_http_2_ends_by_its_age_once_its_requests_are_answered() {
    let go = Arc::new(Notify::new());
    let home = Zone::start("home", &speaking_http(AGE), vec![waiting(&go).await]);
    let _word = Following::start(&home);
    let socket = TokioIo::new(connect(home.vip).await);
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), socket);
    let (mut sender, connection) = handshake.await.unwrap();
    let connection = tokio::spawn(connection);
    let request = Request::get("http://orders.mesh/").body(text("")).unwrap();
    let answer = tokio::spawn(Told::of(sender.send_request(request)));
    until("it is sent away", || followed(&home, "max_age") == 1).await;
    go.notify_one();
    assert_eq!(answer.await.unwrap().unwrap().text(), "ok");
    let gone = timeout(PATIENCE, connection).await;
    gone.expect("an end in time").unwrap().unwrap();
    assert!(sender.is_closed());
    assert_eq!(ended(&home, "served"), 1);
}

#[tokio::test]
async fn an_upgraded_connection_comes_back_from_where_it_failed_over_to() {
    let topology = speaking_http("connections: { linger: 1s }");
    let (home, _east) = two_zones(&topology, vec![echoing().await]).await;
    let word = Following::start(&home);
    let mut client = upgraded(&home).await;
    let here = HttpInstance::start("here").await;
    set_instances(&home, vec![here.instance(&[])]);
    word.changed();
    client.say("still here").await;
    client.hear("[still here]").await;
    assert_eq!(
        client.rest().await.unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
    until("it is written down", || ended(&home, "moved") == 1).await;
    assert_eq!(followed(&home, "better_tier"), 1);
    assert_eq!(HttpClient::of(&home).await.get("/").await.text(), "here");
}

#[tokio::test]
async fn an_upgraded_connection_ends_at_its_age() {
    let home = Zone::start("home", &speaking_http(AGE), vec![echoing().await]);
    let _word = Following::start(&home);
    let mut client = upgraded(&home).await;
    assert_eq!(
        client.rest().await.unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
    until("it is written down", || ended(&home, "max_age") == 1).await;
}
