//! The serving end against a gateway that asks for what it should not have asked for.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use causeway_federation::topology::Topology;
use causeway_proto::tunnel::{
    Connect, StreamHeader, encode_frame, stream_header::Kind, stream_reply::Outcome,
};
use causeway_routing::snapshot::Instance;
use causeway_telemetry::{ConnectionOutcome, StreamRefusal};
use causeway_tunnel::{RecvHalf, SendHalf, Stream, Tunnel, read_reply};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::{client::conn::http2, server::conn::http2 as server, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{JudgesRequests, calls};
use crate::{
    open::UpgradeRequest,
    testbed::{self, Recorder, Zone, until},
};

pub(super) const GET: &[u8] = b"GET /api/x HTTP/1.1\r\nHost: orders\r\n\r\n";
pub(super) const POST: &[u8] = b"POST /api/x HTTP/1.1\r\nHost: orders\r\nContent-Length: 4\r\n\r\nbody";
pub(super) const UPGRADE: &[u8] =
    b"GET /api/x HTTP/1.1\r\nHost: orders\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";

pub(super) fn topology(orders: &str) -> Arc<Topology> {
    testbed::topology(
        "  home: {}\n  east: {}",
        &format!("  orders: {{ port: 8080, protocol: http, {orders} }}"),
    )
}

pub(super) fn some_requests() -> Arc<Topology> {
    topology("allow: [{ service: batch, methods: [GET], path_prefix: /api }]")
}

/// `east` with an instance, and a tunnel of `home` to it.
pub(super) async fn scene(topology: &Arc<Topology>, instance: Arc<Instance>) -> (Zone, Zone, Arc<Tunnel>) {
    let east = Zone::start("east", topology, vec![instance]);
    let home = Zone::start("home", topology, vec![]);
    home.join("east", east.ingress.clone()).await;
    let tunnel = home.tunnels.choose(&testbed::gateway("east"), 0).unwrap();
    (east, home, tunnel)
}

/// A stream to the instance on which batch makes requests.
pub(super) async fn open(tunnel: &Tunnel) -> (SendHalf, RecvHalf) {
    open_as(tunnel, "").await
}

/// The same, of a caller that showed a certificate with this identity, as its gateway says.
pub(super) async fn open_as(tunnel: &Tunnel, identity: &str) -> (SendHalf, RecvHalf) {
    let Stream { mut send, mut recv } = tunnel.open_bare().await.unwrap();
    let header = StreamHeader {
        kind: Some(Kind::Connect(Connect {
            service: "orders".to_owned(),
            caller: "batch".to_owned(),
            caller_identity: identity.to_owned(),
            attempt: 1,
            ..Connect::default()
        })),
    };
    send.write_chunk(encode_frame(&header).unwrap()).await.unwrap();
    let reply = read_reply(&mut recv).await.unwrap();
    assert!(matches!(reply, Outcome::Ready(_)), "{reply:?}");
    (send, recv)
}

pub(super) async fn expect(recv: &mut RecvHalf, bytes: &[u8]) {
    let mut read = vec![0; bytes.len()];
    timeout(testbed::PATIENCE, recv.read_exact(&mut read))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&read), String::from_utf8_lossy(bytes));
}

pub(super) async fn rest(recv: &mut RecvHalf) -> String {
    let read = timeout(testbed::PATIENCE, recv.read_to_end(10_000)).await;
    String::from_utf8(read.unwrap().unwrap()).unwrap()
}

pub(super) fn assert_forbidden(answer: &str) {
    assert!(answer.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{answer}");
    assert!(answer.contains("\r\ncauseway-reason: forbidden\r\n"), "{answer}");
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
}

#[tokio::test]
async fn what_is_not_permitted_is_answered_and_no_instance_sees_it() {
    let there = Recorder::start("there").await;
    let (east, _home, tunnel) = scene(&some_requests(), there.instance(1, &[])).await;
    let (mut send, mut recv) = open(&tunnel).await;
    send.write_all(GET).await.unwrap();
    expect(&mut recv, b"there\n").await;
    expect(&mut recv, GET).await;
    // The next one comes in pieces, and with it what would be permitted.
    for byte in POST {
        send.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    send.write_all(GET).await.unwrap();
    assert_forbidden(&rest(&mut recv).await);
    send.finish().unwrap();
    until("the stream is over", || {
        east.ingress.open_connections().count() == 0
    })
    .await;
    assert_eq!(there.given(), [GET]);
}

#[tokio::test]
async fn what_can_be_read_in_two_ways_is_none() {
    let there = Recorder::start("there").await;
    let (_east, _home, tunnel) = scene(&some_requests(), there.instance(1, &[])).await;
    for bad in [
        &b"GET /api/x HTTP/1.1\r\nHost: orders\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"[..],
        b"GET /api/../x HTTP/1.1\r\nHost: orders\r\n\r\n",
        b"nothing of the sort\r\n\r\n",
    ] {
        let (mut send, mut recv) = open(&tunnel).await;
        send.write_all(bad).await.unwrap();
        let answer = rest(&mut recv).await;
        assert!(answer.contains("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
    }
    assert!(there.given().iter().all(Vec::is_empty));
}

/// An instance that agrees to another protocol, and then echoes.
async fn agreeing() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = vec![0; UPGRADE.len()];
                socket.read_exact(&mut head).await.unwrap();
                assert_eq!(head, UPGRADE);
                socket.write_all(AGREED).await.unwrap();
                let (mut read, mut write) = socket.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    address
}

const AGREED: &[u8] = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 101 Switching Protocols\r\n\r\n";

#[tokio::test]
async fn what_has_left_http_is_carried_until_its_request_is_not_permitted_any_more() {
    let instance = testbed::instance("there", agreeing().await, 1, &[]);
    let (east, _home, tunnel) = scene(&some_requests(), instance).await;
    let (mut send, mut recv) = open(&tunnel).await;
    // What follows waits for the answer, and is no HTTP then.
    send.write_all(UPGRADE).await.unwrap();
    send.write_all(POST).await.unwrap();
    expect(&mut recv, AGREED).await;
    expect(&mut recv, POST).await;
    // Other requests may still be made, and this one may not.
    let changed = topology("allow: [{ service: batch, methods: [GET], path_prefix: /other }]");
    east.change(|snapshot| snapshot.topology = changed);
    east.ingress.recheck(&east.snapshots.load());
    timeout(testbed::PATIENCE, recv.read_to_end(10))
        .await
        .unwrap()
        .unwrap_err();
}

#[tokio::test]
async fn a_wish_that_is_not_granted_opens_nothing() {
    // It echoes, which is no answer that agrees.
    let there = Recorder::start("there").await;
    let (_east, _home, tunnel) = scene(&some_requests(), there.instance(1, &[])).await;
    let (mut send, mut recv) = open(&tunnel).await;
    send.write_all(UPGRADE).await.unwrap();
    expect(&mut recv, b"there\n").await;
    expect(&mut recv, UPGRADE).await;
    send.write_all(POST).await.unwrap();
    assert_forbidden(&rest(&mut recv).await);
    assert_eq!(there.given(), [UPGRADE]);
}

#[tokio::test]
async fn a_stream_that_nobody_looks_into_ends_once_requests_are_to_be_looked_at() {
    let there = Recorder::start("there").await;
    let (east, _home, tunnel) = scene(&topology("allow: [batch]"), there.instance(1, &[])).await;
    let (mut send, mut recv) = open(&tunnel).await;
    send.write_all(POST).await.unwrap();
    expect(&mut recv, b"there\n").await;
    expect(&mut recv, POST).await;
    east.change(|snapshot| snapshot.topology = some_requests());
    east.ingress.recheck(&east.snapshots.load());
    timeout(testbed::PATIENCE, recv.read_to_end(10))
        .await
        .unwrap()
        .unwrap_err();
}

/// Permits calls of one path.
#[derive(Default)]
struct OnePath(Mutex<Vec<String>>);

impl JudgesRequests for OnePath {
    fn judge(&self, method: &str, path: &str) -> Result<(), ConnectionOutcome> {
        self.0.lock().unwrap().push(format!("{method} {path}"));
        match path {
            "/acme.Orders/Get" => Ok(()),
            _ => Err(ConnectionOutcome::refused_here(StreamRefusal::Forbidden)),
        }
    }

    fn identity(&self) -> Option<&str> {
        None
    }

    fn upgraded(&self, _: UpgradeRequest) {}
}

/// An instance that answers calls with what they say.
async fn answering(calls: Arc<Mutex<usize>>) -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let connecting = TcpStream::connect(listener.local_addr().unwrap());
    let (client, accepted) = tokio::join!(connecting, listener.accept());
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        *calls.lock().unwrap() += 1;
        async move { Ok::<_, hyper::Error>(Response::new(request.into_body())) }
    });
    let io = TokioIo::new(accepted.unwrap().0);
    tokio::spawn(server::Builder::new(TokioExecutor::new()).serve_connection(io, service));
    client.unwrap()
}

#[tokio::test]
async fn calls_on_one_stream_are_permitted_one_by_one() {
    let count = Arc::new(Mutex::new(0));
    let instance = answering(count.clone()).await;
    let (near, far) = tokio::io::duplex(1024);
    let judge = Arc::new(OnePath::default());
    let serving = {
        let judge = judge.clone();
        async move { calls::serve(far, instance, judge, &CancellationToken::new()).await }
    };
    let serving = tokio::spawn(serving);
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(near)).await;
    let (mut sender, connection) = handshake.unwrap();
    tokio::spawn(connection);
    let mut call = async |path: &str| {
        let request =
            Request::post(format!("http://orders{path}")).header("content-type", "application/grpc");
        let body = Full::new(bytes::Bytes::from(vec![7; 100_000]));
        sender.send_request(request.body(body).unwrap()).await.unwrap()
    };
    let answer = call("/acme.Orders/Get").await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(
        answer.into_body().collect().await.unwrap().to_bytes().len(),
        100_000
    );
    let refused = call("/acme.Orders/Delete").await;
    assert_eq!(
        (refused.status(), &refused.headers()["grpc-status"]),
        (StatusCode::OK, &"7".parse().unwrap())
    );
    assert_eq!(refused.headers()["causeway-reason"], "forbidden");
    assert_eq!(call("/acme.Orders/Get").await.status(), StatusCode::OK);
    assert_eq!(*count.lock().unwrap(), 2);
    assert_eq!(judge.0.lock().unwrap()[1], "POST /acme.Orders/Delete");
    // Answers hold on to their connection.
    drop((sender, refused));
    timeout(testbed::PATIENCE, serving).await.unwrap().unwrap();
}
