//! Instances that one call is given to, and how often.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use http::{Method, StatusCode};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::{CallClient, CallInstance, Seen, call, serve, speaking_grpc, text};
use crate::{
    egress::{EgressConfig, tests::http::HttpClient},
    http::limits::MAX_REPLAYED_BYTES,
    testbed::{self, Zone},
};

#[tokio::test]
async fn a_call_that_was_refused_unread_is_given_again_with_its_message() {
    let here = CallInstance::start("here").await;
    let home = Zone::start("home", &speaking_grpc("early: false"), vec![here.instance(&[])]);
    let client = CallClient::of(&home).await;
    let told = client.call("/refuse").await.unwrap();
    assert_eq!((told.status, told.code()), (StatusCode::OK, Some("14")));
    assert_eq!(told.field("causeway-reason"), Some("instance_full"));
    assert_eq!(here.calls(), 3, "so many times, and no more");
    here.seen.refuses.store(1, Ordering::Relaxed);
    let told = client.call("/echo").await.unwrap();
    assert_eq!((told.text(), told.code()), ("a message", Some("0")));
    assert_eq!(here.calls(), 5);
}

#[tokio::test]
async fn a_body_that_is_too_long_to_be_remembered_is_given_once() {
    let here = CallInstance::start("here").await;
    let home = Zone::start("home", &speaking_grpc("early: false"), vec![here.instance(&[])]);
    let client = CallClient::of(&home).await;
    for (length, given) in [(MAX_REPLAYED_BYTES, 3), (MAX_REPLAYED_BYTES + 1, 1)] {
        let before = here.calls();
        let body = text(vec![b'x'; length]);
        let told = client.send(call("/refuse-late", body)).await.unwrap();
        assert_eq!(told.code(), Some("14"), "{length}");
        assert_eq!(here.calls() - before, given, "{length}");
    }
}

/// An instance whose first connection says that it has read nothing and ends, and whose next ones serve.
async fn leaving() -> (SocketAddr, Arc<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::<Seen>::default();
    let shared = seen.clone();
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut came = Vec::new();
        // A HEADERS frame is the first that is of a stream.
        while !came.windows(6).any(|bytes| bytes == [1, 4, 0, 0, 0, 1]) {
            assert!(socket.read_buf(&mut came).await.unwrap() > 0);
        }
        let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        // The last stream that was read: none. No error.
        let goaway = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        socket
            .write_all(&[&settings[..], &goaway].concat())
            .await
            .unwrap();
        while let Ok((next, _)) = listener.accept().await {
            serve(next, "there".into(), shared.clone());
        }
    });
    (address, seen)
}

#[tokio::test]
async fn a_call_that_came_after_the_last_that_was_read_is_given_again() {
    let (address, seen) = leaving().await;
    let instance = testbed::instance("leaving", address, 1, &[]);
    let home = Zone::start("home", &speaking_grpc("early: false"), vec![instance]);
    let client = CallClient::of(&home).await;
    assert_eq!(client.server().await, "there");
    assert_eq!(seen.calls.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_call_that_an_instance_has_begun_is_given_to_no_other() {
    let (one, two) = (CallInstance::start("one").await, CallInstance::start("two").await);
    let topology = speaking_grpc("early: false");
    let home = Zone::start("home", &topology, vec![one.instance(&[]), two.instance(&[])]);
    let client = CallClient::of(&home).await;
    let told = client.call("/drop").await.unwrap();
    assert_eq!(told.code(), Some("14"), "{told:?}");
    assert_eq!(one.calls() + two.calls(), 1);
}

#[tokio::test]
async fn what_nobody_serves_is_answered_with_a_code() {
    let config = EgressConfig {
        grace: Duration::from_millis(50),
        setup_deadline: Duration::from_millis(300),
        ..EgressConfig::new(1)
    };
    let home = Zone::with_config("home", &speaking_grpc("early: false"), vec![], config);
    let client = CallClient::of(&home).await;
    for _ in 0..2 {
        let answer = client.begin(call("/", text("a message"))).await.unwrap();
        assert!(hyper::body::Body::is_end_stream(answer.body()), "trailers only");
        let fields = answer.headers();
        assert_eq!(fields["grpc-status"], "14");
        assert_eq!(fields["causeway-reason"], "no_candidate");
        assert_eq!(fields["content-type"], "application/grpc");
    }
    let mut request = call("/", text(""));
    request.headers_mut().remove("content-type");
    let told = client.send(request).await.unwrap();
    assert_eq!(
        told.status,
        StatusCode::SERVICE_UNAVAILABLE,
        "not every request is a call"
    );
}

#[tokio::test]
async fn a_client_of_http_1_is_served_by_instances_of_http_2() {
    let here = CallInstance::start("here").await;
    let home = Zone::start("home", &speaking_grpc("early: false"), vec![here.instance(&[])]);
    let mut client = HttpClient::of(&home).await;
    for _ in 0..3 {
        assert_eq!(client.get("/").await.text(), "here");
    }
    let told = client.ask(Method::GET, "/head").await.unwrap();
    assert!(
        told.text().starts_with("GET http://orders.mesh/head\n"),
        "{}",
        told.text()
    );
    assert!(told.text().contains("via: 1.1 causeway\n"));
    let request = http::Request::get("/").header("host", "orders mesh");
    let told = client.send(request.body(text("")).unwrap()).await.unwrap();
    assert_eq!(told.status, StatusCode::BAD_REQUEST, "a name that is none");
    assert_eq!((here.calls(), here.connections()), (4, 1));
}

#[tokio::test]
async fn a_call_that_one_instance_cannot_take_now_is_given_to_another_if_its_service_says_so() {
    let (away, here) = (
        CallInstance::start("away").await,
        CallInstance::start("here").await,
    );
    for (retry, code) in [
        ("", "14"),
        ("methods: [POST]", "0"),
        ("methods: [POST], on: [resource-exhausted]", "14"),
    ] {
        let split = "split: [{ tags: { v: '1' }, weight: 1000000 }, { tags: { v: '2' } }]";
        let topology = speaking_grpc(&format!("{split}\n    retry: {{ {retry} }}"));
        let instances = vec![away.instance(&[("v", "1")]), here.instance(&[("v", "2")])];
        let home = Zone::start("home", &topology, instances);
        let client = CallClient::of(&home).await;
        let before = (away.calls(), here.calls());
        let told = client.call("/away").await.unwrap();
        assert_eq!(told.code(), Some(code), "{retry}: {told:?}");
        let served = usize::from(code == "0");
        assert_eq!(
            (away.calls(), here.calls()),
            (before.0 + 1, before.1 + served),
            "{retry}"
        );
    }
}

#[tokio::test]
async fn a_call_without_an_answer_in_time_is_told_so_and_taken_back() {
    let here = CallInstance::start("here").await;
    let home = Zone::start("home", &speaking_grpc("timeout: 200ms"), vec![here.instance(&[])]);
    let client = CallClient::of(&home).await;
    let told = client.call("/hang").await.unwrap();
    assert_eq!((told.status, told.code()), (StatusCode::OK, Some("4")));
    assert_eq!(told.field("causeway-reason"), Some("request_timeout"));
    testbed::until("the instance hears of it", || here.cancelled() == 1).await;
    assert_eq!(client.server().await, "here", "the connection goes on");
    assert_eq!(here.connections(), 1);
}

#[tokio::test]
async fn a_call_beyond_a_limit_is_told_so_by_its_code() {
    for (limit, word) in [("requests: 1", "overloaded"), ("rate: 1/s", "rate_limited")] {
        let here = CallInstance::start("here").await;
        let topology = speaking_grpc(&format!("limits: {{ {limit} }}"));
        let home = Zone::start("home", &topology, vec![here.instance(&[])]);
        let client = CallClient::of(&home).await;
        let waiting = client.clone();
        let waiting = tokio::spawn(async move { waiting.call("/hang").await });
        testbed::until("it is under way", || here.calls() == 1).await;
        let mut told = client.call("/").await.unwrap();
        // On a busy machine a second may have passed.
        while told.code() == Some("0") {
            told = client.call("/").await.unwrap();
        }
        assert_eq!(
            (told.code(), told.field("causeway-reason")),
            (Some("8"), Some(word))
        );
        waiting.abort();
    }
}
