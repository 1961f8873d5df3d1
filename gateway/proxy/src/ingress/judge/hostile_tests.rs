//! The serving end against a gateway of another zone that has a good certificate and bad intentions.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use causeway_telemetry::ConnectionOutcome;
use futures_util::stream;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::{
    body::{Frame, Incoming},
    client::conn::http2,
    server::conn::http2 as server,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, join},
    net::TcpListener,
};

use super::{
    JudgesRequests,
    heads::JudgedSocket,
    tests::{GET, POST, UPGRADE, expect, open, open_as, rest, scene, some_requests, topology},
};
use crate::{
    open::UpgradeRequest,
    relay::Socket as _,
    testbed::{self, Recorder},
};

/// Identity that zone home may vouch for.
const OWN: &str = "spiffe://test.internal/app/batch";
const BIG: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 24\r\n\r\n";
const FALSE_101: &[u8] = b"HTTP/1.1 101HTTP/1.1 101";

/// An instance whose first answer has a body that looks like one that agrees to another protocol, and comes late. Records what it is given.
async fn ambiguous() -> (SocketAddr, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let given = Arc::<Mutex<Vec<u8>>>::default();
    let all = given.clone();
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut buffer = [0; 4096];
        let mut has_begun = false;
        while let Ok(count @ 1..) = socket.read(&mut buffer).await {
            all.lock().unwrap().extend_from_slice(&buffer[..count]);
            let next = match std::mem::replace(&mut has_begun, true) {
                false => BIG,
                true => FALSE_101,
            };
            socket.write_all(next).await.unwrap();
        }
    });
    (address, given)
}

#[tokio::test]
async fn the_body_of_an_earlier_answer_is_never_taken_for_one_that_agrees() {
    let (address, given) = ambiguous().await;
    let instance = testbed::instance("there", address, 1, &[]);
    let (_east, _home, tunnel) = scene(&some_requests(), instance).await;
    let (mut send, mut recv) = open(&tunnel).await;
    send.write_all(GET).await.unwrap();
    expect(&mut recv, BIG).await;
    send.write_all(&[UPGRADE, POST].concat()).await.unwrap();
    let answer = rest(&mut recv).await;
    assert!(answer.contains("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
    assert_eq!(
        String::from_utf8_lossy(&given.lock().unwrap()),
        String::from_utf8_lossy(GET)
    );
}

/// Judge that permits everything.
struct Lenient;

impl JudgesRequests for Lenient {
    fn judge(&self, _: &str, _: &str) -> Result<(), ConnectionOutcome> {
        Ok(())
    }

    fn identity(&self) -> Option<&str> {
        None
    }

    fn upgraded(&self, _: UpgradeRequest) {}
}

#[tokio::test]
async fn a_connection_that_was_lent_does_not_leave_http() {
    for (is_unused, status) in [(true, None), (false, Some("HTTP/1.1 400"))] {
        let (near, mut far) = testbed::sockets().await;
        let mut judged = JudgedSocket::new(near, Lenient, is_unused);
        let (mut reader, mut writer) = judged.split();
        writer.write_all(UPGRADE).await.unwrap();
        writer.flush().await.unwrap();
        let mut first = [0; 12];
        match status {
            Some(status) => {
                reader.read_exact(&mut first).await.unwrap();
                assert_eq!(String::from_utf8_lossy(&first), status);
            }
            None => assert_eq!(far.read_exact(&mut first).await.unwrap(), first.len()),
        }
        assert!(!judged.is_whole());
    }
}

#[tokio::test]
async fn a_connection_is_left_whole_by_whole_requests_alone() {
    for (bytes, is_whole) in [
        (&b""[..], true),
        (GET, true),
        (POST, true),
        (&GET[..9], false),
        (&POST[..POST.len() - 1], false),
        (b"\r\n", false),
        (b"none\r\n", false),
    ] {
        let (near, _far) = testbed::sockets().await;
        let mut judged = JudgedSocket::new(near, Lenient, true);
        let (_, mut writer) = judged.split();
        writer.write_all(bytes).await.unwrap();
        writer.flush().await.unwrap();
        let text = String::from_utf8_lossy(bytes);
        assert_eq!(judged.is_whole(), is_whole, "{text:?}");
    }
}

#[tokio::test]
async fn no_stream_leaves_http_for_a_protocol_that_carries_it() {
    let there = Recorder::start("there").await;
    for orders in [
        "deny: [{ service: batch, path_prefix: /admin }]",
        "allow: [batch]",
    ] {
        let (_east, _home, tunnel) = scene(&topology(orders), there.instance(1, &[])).await;
        for protocol in ["h2c", "H2C", "websocket, h2c", "HTTP/2.0", "TLS/1.2"] {
            let (mut send, mut recv) = open(&tunnel).await;
            let head = format!(
                "GET /api HTTP/1.1\r\nHost: orders\r\nConnection: Upgrade, HTTP2-Settings\r\n\
                 Upgrade: {protocol}\r\nHTTP2-Settings: AAMAAABk\r\n\r\n"
            );
            send.write_all(head.as_bytes()).await.unwrap();
            let answer = rest(&mut recv).await;
            assert!(
                answer.contains("HTTP/1.1 400 Bad Request\r\n"),
                "{protocol}: {answer}"
            );
        }
    }
    assert!(there.given().iter().all(Vec::is_empty));
}

#[tokio::test]
async fn a_zone_says_of_certificates_what_it_vouches_for_and_nothing_else() {
    let there = Recorder::start("there").await;
    let get = |fields: &str| format!("GET /api HTTP/1.1\r\nHost: orders\r\n{fields}\r\n");
    let own = get(&format!("x-forwarded-client-cert: URI={OWN}\r\n"));
    for orders in ["allow: [{ service: batch, path_prefix: /api }]", "allow: [batch]"] {
        let (_east, _home, tunnel) = scene(&topology(orders), there.instance(1, &[])).await;
        for (identity, request, passes) in [
            (OWN, own.clone(), true),
            (OWN, get(""), true),
            ("", get(""), true),
            ("", own.clone(), false),
            (OWN, own.replace("app/batch", "app/admin"), false),
            (OWN, own.replace("x-forwarded", "x_forwarded"), false),
            ("", own.replace("-client-", ".Client~"), false),
            (
                OWN,
                get(&own[own.find("x-").unwrap()..own.len() - 2].repeat(2)),
                false,
            ),
        ] {
            let (mut send, mut recv) = open_as(&tunnel, identity).await;
            let before = there.given().iter().map(Vec::len).sum::<usize>();
            send.write_all(request.as_bytes()).await.unwrap();
            if passes {
                expect(&mut recv, b"there\n").await;
                expect(&mut recv, request.as_bytes()).await;
                continue;
            }
            let answer = rest(&mut recv).await;
            assert!(
                answer.contains("HTTP/1.1 400 Bad Request\r\n"),
                "{request}: {answer}"
            );
            assert_eq!(
                there.given().iter().map(Vec::len).sum::<usize>(),
                before,
                "{request}"
            );
        }
    }
}

type ToldFields = Arc<Mutex<Vec<(HeaderMap, HeaderMap)>>>;

/// An instance of calls that records the fields and trailers that it is told.
async fn listening(told: ToldFields) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let told = told.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let told = told.clone();
                async move {
                    let (parts, body) = request.into_parts();
                    let trailers = body.collect().await?.trailers().cloned();
                    let mut told = told.lock().unwrap();
                    told.push((parts.headers, trailers.unwrap_or_default()));
                    Ok::<_, hyper::Error>(Response::new(Full::new(Bytes::new())))
                }
            });
            let io = TokioIo::new(socket);
            tokio::spawn(server::Builder::new(TokioExecutor::new()).serve_connection(io, service));
        }
    });
    address
}

#[tokio::test]
async fn an_instance_of_calls_is_told_of_the_certificate_that_is_vouched_for() {
    for orders in ["allow: [{ service: batch, path_prefix: /api }]", "allow: [batch]"] {
        let topology = testbed::topology(
            "  home: {}\n  east: {}",
            &format!("  orders: {{ port: 8080, protocol: grpc, {orders} }}"),
        );
        let told = ToldFields::default();
        let instance = testbed::instance("there", listening(told.clone()).await, 1, &[]);
        let (_east, _home, tunnel) = scene(&topology, instance).await;
        for identity in [OWN, ""] {
            let (send, recv) = open_as(&tunnel, identity).await;
            let io = TokioIo::new(join(recv, send));
            let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
            tokio::spawn(connection);
            let mut call = async |tenant: &str| {
                let mut trailers = HeaderMap::new();
                for name in ["x-forwarded-client-cert", "cookie", "x-sum"] {
                    trailers.insert(name, "forged".parse().unwrap());
                }
                let frames = [Frame::data(Bytes::from("a message")), Frame::trailers(trailers)];
                let body = StreamBody::new(stream::iter(frames.map(Ok::<_, Infallible>)));
                let mut request = Request::post("http://orders/api").body(body).unwrap();
                for (name, value) in [
                    ("x-forwarded-client-cert", "URI=spiffe://test.internal/app/admin"),
                    ("x_forwarded.client-cert", "URI=spiffe://test.internal/app/admin"),
                    ("x-tenant", tenant),
                ] {
                    request.headers_mut().append(name, value.parse().unwrap());
                }
                sender.send_request(request).await.unwrap().status()
            };
            assert_eq!(call(" 1").await, StatusCode::BAD_REQUEST);
            assert_eq!(call("1").await, StatusCode::OK);
            let told = std::mem::take(&mut *told.lock().unwrap());
            let [(fields, trailers)] = told.as_slice() else {
                panic!("{told:?}");
            };
            let certificate = fields.get("x-forwarded-client-cert");
            let expected = (!identity.is_empty()).then(|| format!("URI={identity}"));
            assert_eq!(
                certificate.map(|told| told.to_str().unwrap().to_owned()),
                expected
            );
            assert!(!fields.contains_key("x_forwarded.client-cert"), "{fields:?}");
            assert_eq!(trailers.keys().collect::<Vec<_>>(), ["x-sum"]);
        }
    }
}
