//! Clients of HTTP/2 that do what no program needs.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{CallClient, CallInstance, speaking_grpc};
use crate::{
    egress::tests::http::{HttpClient, HttpInstance, speaking_http, upgrade::instance},
    http::limits::{
        MAX_CONCURRENT_STREAMS, MAX_HASTY_RESETS, MAX_HEAD_BYTES, MAX_HEADERS, MAX_UNREAD_ANSWERS_OF_CLIENT,
    },
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

#[tokio::test]
async fn what_a_client_does_not_read_of_its_answers_waits_at_the_instances() {
    const ANSWERS: usize = 100;
    const ANSWER_BYTES: usize = 1024 * 1024;
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    let there = instance(move |mut wire| {
        let counted = counted.clone();
        async move {
            wire.head().await;
            counted.fetch_add(1, Ordering::SeqCst);
            wire.say(&format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {ANSWER_BYTES}\r\n\r\n"
            ))
            .await;
            wire.say(&"x".repeat(ANSWER_BYTES)).await;
        }
    });
    let home = Zone::start("home", &speaking_http(""), vec![there.await]);
    let mut client = h2::client::Builder::new();
    client
        .initial_window_size(2 * 1024 * 1024)
        .initial_connection_window_size(1 << 30);
    let handshake = client.handshake::<_, bytes::Bytes>(connect(home.vip).await);
    let (mut sender, connection) = handshake.await.unwrap();
    let mut connection = pin!(connection);
    let mut answers = Vec::new();
    let asking = async {
        for _ in 0..ANSWERS {
            poll_fn(|cx| sender.poll_ready(cx)).await.unwrap();
            let request = http::Request::get("http://orders.mesh/").body(()).unwrap();
            answers.push(sender.send_request(request, true).unwrap().0);
        }
        // Until the last of them has been written.
        poll_fn(|cx| sender.poll_ready(cx)).await.unwrap();
        until("it is full", || {
            asked.load(Ordering::SeqCst) == ANSWERS
                && home.egress.unread_answers() >= MAX_UNREAD_ANSWERS_OF_CLIENT
        })
        .await;
    };
    tokio::select! {
        _ = connection.as_mut() => panic!("it ended"),
        () = asking => {}
    }
    // From here on nothing is read, and others are served.
    let bound = MAX_UNREAD_ANSWERS_OF_CLIENT + ANSWERS * MAX_HEAD_BYTES;
    let here = HttpInstance::start("here").await;
    super::super::set_instances(&home, vec![here.instance(&[])]);
    let mut most = 0;
    for _ in 0..200 {
        assert_eq!(HttpClient::of(&home).await.get("/").await.text(), "here");
        most = most.max(home.egress.unread_answers());
    }
    println!("measured: {most} bytes of {ANSWERS} answers that nobody reads");
    assert!(most <= bound, "{most} bytes are held");
    let reading = async {
        for answer in answers {
            let mut body = answer.await.unwrap().into_body();
            let mut read = 0;
            while let Some(data) = body.data().await {
                let data = data.unwrap();
                read += data.len();
                body.flow_control().release_capacity(data.len()).unwrap();
            }
            assert_eq!(read, ANSWER_BYTES);
        }
    };
    tokio::select! {
        _ = connection.as_mut() => panic!("it ended"),
        () = reading => {}
    }
    until("nothing is held", || home.egress.unread_answers() == 0).await;
}
