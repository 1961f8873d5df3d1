//! Messages on their way, and answers of the gateway itself.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    time::timeout,
};

use super::{HttpClient, HttpInstance, speaking_http, text, two_zones};
use crate::{
    egress::EgressConfig,
    testbed::{self, Zone, connect},
};

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes of a body that no buffer on the way holds whole.
const LARGE: usize = 50 * 1024 * 1024;

#[tokio::test]
async fn a_body_of_50_mib_goes_both_ways_between_zones() {
    let there = HttpInstance::start("there").await;
    let (home, _east) = two_zones(&speaking_http("early: false"), vec![there.instance(&[])]).await;
    let mut client = HttpClient::of(&home).await;
    let chunk = Bytes::from(vec![b'x'; 64 * 1024]);
    let chunks = (0..LARGE / chunk.len()).map(move |_| Ok::<_, Infallible>(Frame::data(chunk.clone())));
    let request = Request::post("/echo").header("host", "orders.mesh");
    let request = request
        .body(StreamBody::new(stream::iter(chunks)).boxed())
        .unwrap();
    let told = client.send(request).await.unwrap();
    assert_eq!((told.status, told.body.len()), (StatusCode::OK, LARGE));
    assert!(told.body.iter().all(|byte| *byte == b'x'));
    assert_eq!(client.get("/").await.text(), "there", "the connection goes on");
}

#[tokio::test]
async fn a_client_that_has_finished_sending_gets_its_answer() {
    let there = HttpInstance::start("there").await;
    let (home, _east) = two_zones(&speaking_http("early: false"), vec![there.instance(&[])]).await;
    let mut socket = connect(home.vip).await;
    let request = b"GET / HTTP/1.1\r\nHost: orders.mesh\r\n\r\n";
    socket.write_all(request).await.unwrap();
    socket.shutdown().await.unwrap();
    let mut answer = String::new();
    let reading = socket.read_to_string(&mut answer);
    timeout(PATIENCE, reading).await.expect("an end in time").unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("there"),
        "{answer}"
    );
}

#[tokio::test]
async fn trailers_go_both_ways() {
    let there = HttpInstance::start("there").await;
    let (home, _east) = two_zones(&speaking_http("early: false"), vec![there.instance(&[])]).await;
    let mut client = HttpClient::of(&home).await;
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "7".parse().unwrap());
    let frames = [Frame::data("body".into()), Frame::trailers(trailers.clone())];
    let body = StreamBody::new(stream::iter(frames.map(Ok::<_, Infallible>)));
    let request = Request::post("/echo")
        .header("host", "orders.mesh")
        .header("te", "trailers")
        .header("trailer", "x-sum")
        .body(body.boxed())
        .unwrap();
    let told = client.send(request).await.unwrap();
    assert_eq!(told.text(), "body");
    assert_eq!(told.trailers, Some(trailers));
}

#[tokio::test]
async fn fields_of_one_connection_go_no_further_and_the_gateway_names_itself() {
    let here = HttpInstance::start("here").await;
    let home = Zone::start("home", &speaking_http("early: false"), vec![here.instance(&[])]);
    let mut client = HttpClient::of(&home).await;
    let request = Request::get("http://orders.mesh:8080/head?a=b")
        .header("host", "elsewhere")
        .header("connection", "x-own, keep-alive")
        .header("x-own", "1")
        .header("keep-alive", "timeout=5")
        .header("proxy-authorization", "secret")
        .header("x-kept", "2")
        .header("x-forwarded-client-cert", "URI=spiffe://acme.internal/app/other")
        .header(
            "traceparent",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        )
        .body(text(""))
        .unwrap();
    let told = client.send(request).await.unwrap();
    let mut lines: Vec<&str> = told.text().lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "GET /head?a=b",
            "host: orders.mesh:8080",
            "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "via: 1.1 causeway",
            "x-forwarded-for: 127.0.0.1",
            "x-forwarded-host: orders.mesh:8080",
            "x-forwarded-proto: http",
            "x-kept: 2"
        ]
    );
    assert_eq!(told.field("via"), Some("1.1 causeway"));
    assert_eq!((told.field("connection"), told.field("x-mine")), (None, None));
    let told = client.ask(Method::HEAD, "/").await.unwrap();
    assert_eq!(
        (told.status, told.field("content-length"), told.text()),
        (StatusCode::OK, Some("4"), "")
    );
    assert_eq!(client.get("/").await.text(), "here");
}

#[tokio::test]
async fn what_nobody_serves_is_answered_with_the_reason() {
    let config = EgressConfig {
        grace: Duration::from_millis(50),
        setup_deadline: Duration::from_millis(300),
        ..EgressConfig::new(1)
    };
    let home = Zone::with_config("home", &speaking_http("early: false"), vec![], config);
    let mut client = HttpClient::of(&home).await;
    for _ in 0..2 {
        let told = client.get("/").await;
        assert_eq!(told.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(told.field("causeway-reason"), Some("no_candidate"));
        assert_eq!(told.field("retry-after"), Some("1"));
        assert!(told.text().contains("no_candidate"));
    }
}

/// An instance that answers one request of each connection, and closes when it is given a second.
async fn closing() -> (
    std::net::SocketAddr,
    std::sync::Arc<parking_lot::Mutex<Vec<String>>>,
) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let given = std::sync::Arc::new(parking_lot::Mutex::new(Vec::new()));
    let all = given.clone();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let all = all.clone();
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                for answer in ["HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", ""] {
                    let Ok(count @ 1..) = socket.read(&mut buffer).await else {
                        return;
                    };
                    let head = String::from_utf8_lossy(&buffer[..count]).into_owned();
                    all.lock().push(head.split(' ').next().unwrap().to_owned());
                    socket.write_all(answer.as_bytes()).await.unwrap();
                }
            });
        }
    });
    (address, given)
}

#[tokio::test]
async fn a_request_that_met_a_closing_connection_is_repeated_once_if_that_does_no_harm() {
    let (address, given) = closing().await;
    let instance = testbed::instance("closing", address, 1, &[]);
    let home = Zone::start("home", &speaking_http("early: false"), vec![instance]);
    let mut client = HttpClient::of(&home).await;
    assert_eq!(client.get("/").await.text(), "ok");
    assert_eq!(client.get("/").await.text(), "ok", "repeated");
    let told = client.ask(Method::POST, "/").await.unwrap();
    assert_eq!(
        (told.status, told.field("causeway-reason")),
        (StatusCode::BAD_GATEWAY, Some("instance_reset"))
    );
    assert_eq!(*given.lock(), ["GET", "GET", "GET", "POST"]);
}

/// An instance that answers from the head of a request alone, and closes with the rest unread: that is a reset.
async fn hasty() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = [0; 64];
                let _ = socket.read(&mut head).await;
                let _ = socket
                    .write_all(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 3\r\nconnection: close\r\n\r\nbig")
                    .await;
            });
        }
    });
    address
}

#[tokio::test]
async fn an_answer_comes_although_the_instance_has_not_read_the_request() {
    let address = hasty().await;
    let instance = || testbed::instance("hasty", address, 1, &[]);
    let topology = speaking_http("early: false");
    let (home, _east) = two_zones(&topology, vec![instance()]).await;
    let own = Zone::start("home", &topology, vec![instance()]);
    for zone in [&home, &own] {
        for size in [20_000, 1_000_000] {
            for _ in 0..20 {
                let mut client = HttpClient::of(zone).await;
                let request = Request::post("/").header("host", "orders.mesh");
                let request = request.body(text(vec![7; size])).unwrap();
                let told = client.send(request).await.unwrap();
                assert_eq!((told.status, told.text()), (StatusCode::PAYLOAD_TOO_LARGE, "big"));
            }
        }
    }
}

#[tokio::test]
async fn a_client_says_nothing_in_a_name_that_is_read_as_one_of_the_gateways() {
    let here = HttpInstance::start("here").await;
    let topology = speaking_http("criticality_from: [{ zone: east }]");
    let home = Zone::start("home", &topology, vec![here.instance(&[])]);
    let mut client = HttpClient::of(&home).await;
    let mut request = Request::get("/head").header("host", "a");
    for name in [
        "causeway-criticality",
        "causeway_criticality",
        "causeway.criticality",
        "x.forwarded.client.cert",
        "x-forwarded~client-cert",
        "proxy_authorization",
        "content_length",
        "x_mine",
    ] {
        request = request.header(name, "critical");
    }
    let told = client.send(request.body(text("")).unwrap()).await.unwrap();
    let is_said = |line: &&str| line.ends_with(": critical");
    assert_eq!(
        told.text().lines().filter(is_said).collect::<Vec<_>>(),
        ["x_mine: critical"]
    );
}
