//! Clients of HTTP/2 that do what no program needs.

use std::future::poll_fn;

use super::{CallClient, CallInstance, speaking_grpc};
use crate::{
    http::limits::{MAX_CONCURRENT_STREAMS, MAX_HASTY_RESETS, MAX_HEADERS},
    testbed::{Zone, connect, until},
};

fn request() -> http::Request<()> {
    let request = http::Request::post("http://orders.mesh/hang");
    request
        .header("content-type", "application/grpc")
        .body(())
        .unwrap()
}

#[tokio::test]
async fn a_client_that_takes_back_all_that_it_asks_ends_its_own_connection_only() {
    let here = CallInstance::start("here").await;
    let home = Zone::start("home", &speaking_grpc("early: false"), vec![here.instance(&[])]);
    let other = CallClient::of(&home).await;
    assert_eq!(other.server().await, "here");
    let socket = connect(home.vip).await;
    let (mut sender, connection) = h2::client::handshake(socket).await.unwrap();
    let over = tokio::spawn(connection);
    let mut made = 0;
    while made < 100 * MAX_HASTY_RESETS {
        if poll_fn(|cx| sender.poll_ready(cx)).await.is_err() {
            break;
        }
        let Ok((answer, mut stream)) = sender.send_request(request(), true) else {
            break;
        };
        made += 1;
        // Until it has been taken up it would be another limit that counts.
        tokio::task::yield_now().await;
        stream.send_reset(h2::Reason::CANCEL);
        drop(answer);
    }
    assert!(made < 100 * MAX_HASTY_RESETS, "it goes on and on");
    drop(sender);
    let _ = over.await;
    assert_eq!(other.server().await, "here");
    until("only the other is left", || {
        home.egress.open_connections().count() == 1
    })
    .await;
}

#[tokio::test]
async fn a_client_is_told_how_many_requests_it_may_have_under_way() {
    let here = CallInstance::start("here").await;
    let home = Zone::start("home", &speaking_grpc("early: false"), vec![here.instance(&[])]);
    let socket = connect(home.vip).await;
    let (mut sender, connection) = h2::client::handshake(socket).await.unwrap();
    tokio::spawn(connection);
    let mut held = Vec::new();
    for _ in 0..MAX_CONCURRENT_STREAMS {
        poll_fn(|cx| sender.poll_ready(cx)).await.unwrap();
        held.push(sender.send_request(request(), true).unwrap());
    }
    let most = usize::try_from(MAX_CONCURRENT_STREAMS).unwrap();
    until("all are under way", || here.calls() == most).await;
    assert_eq!(sender.current_max_send_streams(), most);
}

#[tokio::test]
async fn a_request_with_too_many_fields_is_refused_and_one_to_connect() {
    let here = CallInstance::start("here").await;
    let home = Zone::start("home", &speaking_grpc("early: false"), vec![here.instance(&[])]);
    let client = CallClient::of(&home).await;
    let mut request = super::call("/", super::text(""));
    for number in 0..MAX_HEADERS {
        request.headers_mut().append("x-many", number.into());
    }
    let told = client.send(request).await.unwrap();
    assert_eq!(told.status.as_u16(), 431);
    assert_eq!(told.field("causeway-reason"), Some("bad_request"));
    let request = http::Request::connect("orders.mesh:80").body(super::text(""));
    let told = client.begin(request.unwrap()).await.unwrap();
    assert_eq!(told.status().as_u16(), 501);
    assert_eq!(told.headers()["causeway-reason"], "bad_request");
    assert_eq!(client.server().await, "here");
    assert_eq!(here.calls(), 1);
}

#[tokio::test]
async fn a_request_for_two_names_is_refused_and_reaches_no_instance() {
    let here = CallInstance::start("here").await;
    let home = Zone::start("home", &speaking_grpc("early: false"), vec![here.instance(&[])]);
    let client = CallClient::of(&home).await;
    let mut request = super::call("/", super::text(""));
    let other = http::HeaderValue::from_static("other.mesh");
    request.headers_mut().insert(http::header::HOST, other);
    let told = client.send(request).await.unwrap();
    assert_eq!(told.status.as_u16(), 400);
    assert_eq!(told.field("causeway-reason"), Some("bad_request"));
    assert_eq!(client.server().await, "here");
    assert_eq!(here.calls(), 1);
}
