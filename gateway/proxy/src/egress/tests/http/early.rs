//! Requests that travel with the header of a stream: one round trip, and no promise less.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use causeway_proto::tunnel::{
    Ready, Refusal, RefusalReason, StreamReply, encode_frame, stream_header::Kind, stream_reply::Outcome,
};
use causeway_tunnel::{IncomingStream, RecvHalf, SendHalf, StreamHandler};
use futures_util::FutureExt as _;
use http::Method;
use parking_lot::Mutex;

use super::{HttpClient, HttpInstance, speaking_http, upgrade::OK};
use crate::testbed::{Handler, Zone};

async fn reply(send: &mut SendHalf, outcome: Outcome) {
    let reply = StreamReply {
        outcome: Some(outcome),
    };
    send.write_chunk(encode_frame(&reply).unwrap()).await.unwrap();
}

/// Reads a request up to the end of its head.
async fn head(recv: &mut RecvHalf) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        recv.read_exact(&mut byte).await.unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

/// A gateway that says nothing before it has read a request, and then all at once: each stream costs one round trip, or lasts for ever.
fn in_one_round_trip(heads: Arc<Mutex<Vec<String>>>) -> impl StreamHandler {
    Handler(move |mut stream: IncomingStream| {
        let heads = heads.clone();
        async move {
            let head = head(&mut stream.recv).await;
            heads.lock().push(head);
            reply(&mut stream.send, Outcome::Ready(Ready::default())).await;
            stream.send.write_all(OK.as_bytes()).await.unwrap();
            std::future::pending::<()>().await;
        }
        .boxed()
    })
}

#[tokio::test]
async fn a_request_that_may_be_made_twice_is_answered_in_one_round_trip_on_a_new_stream() {
    let home = Zone::start("home", &speaking_http(""), vec![]);
    let heads = Arc::<Mutex<Vec<String>>>::default();
    home.join("east", in_one_round_trip(heads.clone())).await;
    for method in [Method::GET, Method::HEAD, Method::OPTIONS, Method::DELETE] {
        let mut client = HttpClient::of(&home).await;
        let told = client.ask(method.clone(), "/a?b").await.unwrap();
        assert_eq!(told.status, 200);
        let heads = std::mem::take(&mut *heads.lock());
        assert_eq!(heads.len(), 1);
        assert!(
            heads[0].starts_with(&format!("{method} /a?b HTTP/1.1\r\n")),
            "{heads:?}"
        );
        assert!(heads[0].contains("\r\nhost: orders.mesh\r\n"), "{heads:?}");
    }
}

#[tokio::test]
async fn the_next_request_on_the_same_stream_is_written_as_ever() {
    let home = Zone::start("home", &speaking_http(""), vec![]);
    let (streams, requests) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (opened, served) = (streams.clone(), requests.clone());
    let far = Handler(move |mut stream: IncomingStream| {
        opened.fetch_add(1, Ordering::SeqCst);
        let served = served.clone();
        async move {
            head(&mut stream.recv).await;
            reply(&mut stream.send, Outcome::Ready(Ready::default())).await;
            loop {
                served.fetch_add(1, Ordering::SeqCst);
                stream.send.write_all(OK.as_bytes()).await.unwrap();
                head(&mut stream.recv).await;
            }
        }
        .boxed()
    });
    home.join("east", far).await;
    let mut client = HttpClient::of(&home).await;
    for _ in 0..3 {
        assert_eq!(client.get("/").await.text(), "ok");
    }
    assert_eq!(streams.load(Ordering::SeqCst), 1);
    assert_eq!(requests.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_request_that_is_made_once_waits_for_its_instance() {
    let home = Zone::start("home", &speaking_http(""), vec![]);
    let far = Handler(|mut stream: IncomingStream| {
        async move {
            let Kind::Connect(connect) = &stream.kind else {
                panic!("no connection is asked for");
            };
            assert!(!connect.early && !connect.takes_warm);
            reply(&mut stream.send, Outcome::Ready(Ready::default())).await;
            assert!(head(&mut stream.recv).await.starts_with("POST / "));
            stream.send.write_all(OK.as_bytes()).await.unwrap();
            std::future::pending::<()>().await;
        }
        .boxed()
    });
    home.join("east", far).await;
    let told = HttpClient::of(&home).await.ask(Method::POST, "/").await;
    assert_eq!(told.unwrap().text(), "ok");
}

#[tokio::test]
async fn a_request_that_is_refused_goes_on_to_another_gateway_whole() {
    let there = HttpInstance::start("there").await;
    let topology = causeway_routing::testbed::topology(
        "  home: {}\n  east: {}\n  west: {}",
        "  orders:\n    port: 8080\n    protocol: http\n    failover: [{ zone: east }, { zone: west }]",
    );
    let home = Zone::start("home", &topology, vec![]);
    let west = Zone::start("west", &topology, vec![there.instance(&[])]);
    let heads = Arc::<Mutex<Vec<String>>>::default();
    let seen = heads.clone();
    let refusing = Handler(move |mut stream: IncomingStream| {
        let seen = seen.clone();
        async move {
            let head = head(&mut stream.recv).await;
            seen.lock().push(head);
            let refusal = Refusal {
                reason: RefusalReason::Overloaded.into(),
                retryable: true,
                message: "on purpose".to_owned(),
            };
            reply(&mut stream.send, Outcome::Refusal(refusal)).await;
        }
        .boxed()
    });
    home.join("west", west.ingress.clone()).await;
    home.join("east", refusing).await;
    let told = HttpClient::of(&home).await.get("/head").await;
    assert!(told.text().starts_with("GET /head\n"), "{}", told.text());
    assert!(told.text().contains("x-forwarded-for: 127."), "{}", told.text());
    assert_eq!((heads.lock().len(), there.requests()), (1, 1));
}

#[tokio::test]
async fn of_two_gateways_that_are_asked_at_once_the_second_waits_for_its_instance() {
    let topology = causeway_routing::testbed::topology(
        "  home: {}\n  east: {}\n  west: {}",
        "  orders: { port: 8080, protocol: http }",
    );
    let home = Zone::start("home", &topology, vec![]);
    let early = Arc::<Mutex<Vec<bool>>>::default();
    for zone in ["east", "west"] {
        let seen = early.clone();
        let far = Handler(move |mut stream: IncomingStream| {
            let seen = seen.clone();
            async move {
                let Kind::Connect(connect) = &stream.kind else {
                    panic!("no connection is asked for");
                };
                let is_first = {
                    let mut seen = seen.lock();
                    seen.push(connect.early);
                    seen.len() == 1
                };
                if !is_first {
                    reply(&mut stream.send, Outcome::Ready(Ready::default())).await;
                    assert!(head(&mut stream.recv).await.starts_with("GET / "));
                    stream.send.write_all(OK.as_bytes()).await.unwrap();
                }
                std::future::pending::<()>().await;
            }
            .boxed()
        });
        home.join(zone, far).await;
    }
    assert_eq!(HttpClient::of(&home).await.get("/").await.text(), "ok");
    assert_eq!(*early.lock(), [true, false]);
}
