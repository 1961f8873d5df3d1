//! Cost of a request over a link of 40 ms: one round trip, on an open connection and on a new one, as for the bytes of a connection.

#![allow(clippy::unwrap_used, reason = "what fails in a test program fails the test")]

use std::{
    convert::Infallible,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use causeway_tests::{
    federation::{Federation, Plan},
    link::Conditions,
    measured::measured,
};
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, client::conn::http1::SendRequest, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};

const ROUND_TRIP: Duration = Duration::from_millis(40);
/// Time by which a request may be slower than bytes that are carried as they are.
const ALLOWED: Duration = Duration::from_millis(2);
/// Requests of each kind. The medians count: on a busy machine some are late.
const REQUESTS: usize = 40;
const LARGE: usize = 4 * 1024 * 1024;
const PATIENCE: Duration = Duration::from_secs(30);

type Sender = SendRequest<Full<Bytes>>;

/// A server that answers as soon as it has the first byte of a body, or the end of none.
async fn server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let serving = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(socket), service_fn(answer));
            tokio::spawn(serving);
        }
    });
    address
}

async fn answer(mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let first = request.body_mut().frame().await;
    let is_large = request.uri().path() == "/large";
    // The rest is read, so that the connection is kept.
    tokio::spawn(request.into_body().collect());
    let size = if is_large { LARGE } else { first.map_or(1, |_| 2) };
    Ok(Response::new(Full::new(Bytes::from(vec![b'x'; size]))))
}

/// One server, and clients in another zone that reach it by request and by bytes.
struct Scene {
    _federation: Federation,
    by_request: SocketAddr,
    by_bytes: SocketAddr,
}

impl Scene {
    async fn start() -> Self {
        let address = server().await;
        let plan = Plan::new()
            .zone("east")
            .zone("west")
            .instance("orders", address, "{}")
            .instance("bytes", address, "{}")
            .service("orders", "port: 8080, protocol: http")
            .service("bytes", "port: 8081, protocol: tcp")
            .linked();
        let federation = plan.start().await.unwrap();
        for service in ["orders", "bytes"] {
            federation.wait_export("east", "west", service).await;
        }
        let by_request = federation.service_address("east", "orders", 8080).await;
        let by_bytes = federation.service_address("east", "bytes", 8081).await;
        federation
            .network()
            .set("east", "west", Conditions::delayed(ROUND_TRIP / 2));
        let scene = Self {
            _federation: federation,
            by_request,
            by_bytes,
        };
        // The tunnels learn the new delay first.
        for _ in 0..REQUESTS {
            connected_and_asked(scene.by_bytes, Method::GET, "/").await;
        }
        scene
    }
}

async fn connected(address: SocketAddr) -> Sender {
    let socket = TcpStream::connect(address).await.unwrap();
    socket.set_nodelay(true).unwrap();
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket))
        .await
        .unwrap();
    tokio::spawn(connection);
    sender
}

/// Time to the first byte of the answer's body.
async fn asked(sender: &mut Sender, method: Method, path: &str, body: usize) -> Duration {
    let answer = async {
        sender.ready().await.unwrap();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "orders");
        let request = request.body(Full::new(Bytes::from(vec![b'y'; body]))).unwrap();
        let begun = Instant::now();
        let mut answer = sender.send_request(request).await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.body_mut().frame().await.unwrap().unwrap();
        let took = begun.elapsed();
        answer.into_body().collect().await.unwrap();
        took
    };
    timeout(PATIENCE, answer).await.expect("an answer in time")
}

async fn connected_and_asked(address: SocketAddr, method: Method, path: &str) -> Duration {
    let begun = Instant::now();
    let mut sender = connected(address).await;
    asked(&mut sender, method, path, 0).await;
    begun.elapsed()
}

/// Tells whether a request took no longer than bytes, give or take what is allowed.
fn is_within((request, byte): &(Duration, Duration)) -> bool {
    *request <= *byte + ALLOWED
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

#[tokio::test]
async fn a_request_costs_what_its_bytes_would() {
    let scene = Scene::start().await;
    let mut by_request = connected(scene.by_request).await;
    let mut by_bytes = connected(scene.by_bytes).await;
    // The first of a connection have to find an instance.
    asked(&mut by_request, Method::POST, "/", 1).await;
    asked(&mut by_bytes, Method::POST, "/", 1).await;
    for (what, method, path, body, count) in [
        ("GET", Method::GET, "/", 0, REQUESTS),
        ("POST", Method::POST, "/", 100, REQUESTS),
        ("the first byte of a large download", Method::GET, "/large", 0, 11),
    ] {
        let mut measurements = Vec::new();
        // Other tests run beside this one: the best of three measurements counts.
        while measurements.len() < 3 && !measurements.iter().any(is_within) {
            let (mut requests, mut bytes) = (Vec::new(), Vec::new());
            for _ in 0..count {
                requests.push(asked(&mut by_request, method.clone(), path, body).await);
                bytes.push(asked(&mut by_bytes, method.clone(), path, body).await);
            }
            let (request, byte) = (median(requests), median(bytes));
            measured(&format!(
                "{what} over 40 ms: {request:.1?} by request, {byte:.1?} by bytes"
            ));
            measurements.push((request, byte));
        }
        assert!(measurements.iter().any(is_within), "{what}: {measurements:?}");
    }
}

#[tokio::test]
async fn the_first_request_of_a_client_costs_one_round_trip() {
    let scene = Scene::start().await;
    let (mut gets, mut posts) = (Vec::new(), Vec::new());
    for _ in 0..REQUESTS {
        gets.push(connected_and_asked(scene.by_request, Method::GET, "/").await);
        posts.push(connected_and_asked(scene.by_request, Method::POST, "/").await);
    }
    let (get, post) = (median(gets), median(posts));
    measured(&format!(
        "the first request of a client over 40 ms: GET {get:.1?}, POST {post:.1?}"
    ));
    assert!(get < ROUND_TRIP * 3 / 2, "GET: {get:?}");
    assert!(post < ROUND_TRIP * 5 / 2, "POST: {post:?}");
}
