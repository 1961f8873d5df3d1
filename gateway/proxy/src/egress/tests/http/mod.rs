//! Clients that speak HTTP, request by request: a client and instances of HTTP/1.1 for the tests beside this file.

mod aging;
mod early;
mod following;
mod malformed;
mod messages;
mod outliers;
mod ports;
mod records;
mod retries;
mod routes;
mod service_limits;
mod traces;
mod upgrade;
pub(super) mod version2;
mod warm;
mod websocket;

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use causeway_federation::topology::Topology;
use causeway_routing::snapshot::Instance;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use hyper::{body::Incoming, client::conn::http1::SendRequest, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::testbed::{self, Zone, connect};

pub(super) type SentBody = BoxBody<Bytes, Infallible>;

/// `orders` over HTTP with these further keys; home asks itself first, then the others.
fn speaking_http(more: &str) -> Arc<Topology> {
    speaking("http", more)
}

fn speaking(protocol: &str, more: &str) -> Arc<Topology> {
    testbed::topology(
        "  home: {}\n  east: {}",
        &format!("  orders:\n    port: 8080\n    protocol: {protocol}\n    {more}"),
    )
}

fn text(text: impl Into<Bytes>) -> SentBody {
    Full::new(text.into()).boxed()
}

/// An instance that answers with its name, or does as the path says.
struct HttpInstance {
    name: String,
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
}

impl HttpInstance {
    async fn start(name: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let instance = Self {
            name: name.to_owned(),
            address: listener.local_addr().unwrap(),
            connections: Arc::default(),
            requests: Arc::default(),
        };
        let (name, connections) = (Bytes::from(name.to_owned()), instance.connections.clone());
        let requests = instance.requests.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::Relaxed);
                let (name, requests) = (name.clone(), requests.clone());
                let service = service_fn(move |request| {
                    requests.fetch_add(1, Ordering::Relaxed);
                    let name = name.clone();
                    async move { Ok::<_, Infallible>(answer(name, request).await) }
                });
                let serving = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(socket), service);
                tokio::spawn(serving);
            }
        });
        instance
    }

    fn instance(&self, tags: &[(&str, &str)]) -> Arc<Instance> {
        testbed::instance(&self.name, self.address, 1, tags)
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}

async fn answer(name: Bytes, request: Request<Incoming>) -> Response<BoxBody<Bytes, hyper::Error>> {
    let full = |bytes| Full::new(bytes).map_err(|never| match never {}).boxed();
    match request.uri().path() {
        "/hang" => std::future::pending().await,
        "/echo" => {
            let trailer = request.headers().get("trailer").cloned();
            let mut response = Response::new(request.into_body().boxed());
            if let Some(trailer) = trailer {
                response.headers_mut().insert("trailer", trailer);
            }
            response
        }
        "/head" => {
            let fields = request.headers().iter();
            let fields = fields.map(|(name, value)| format!("{name}: {}\n", value.to_str().unwrap()));
            let head = format!(
                "{} {}\n{}",
                request.method(),
                request.uri(),
                fields.collect::<String>()
            );
            let mut response = Response::new(full(head.into()));
            let headers = response.headers_mut();
            headers.insert("connection", "x-mine".parse().unwrap());
            headers.insert("x-mine", "1".parse().unwrap());
            response
        }
        _ => Response::new(full(name)),
    }
}

/// A client with one connection.
struct HttpClient(SendRequest<SentBody>);

/// Whole answer.
#[derive(Debug)]
pub(super) struct Told {
    status: StatusCode,
    headers: http::HeaderMap,
    body: Bytes,
    trailers: Option<http::HeaderMap>,
}

impl Told {
    /// Waits for an answer and all that it says.
    async fn of(
        answer: impl Future<Output = Result<Response<Incoming>, hyper::Error>>,
    ) -> Result<Self, hyper::Error> {
        let whole = async {
            let (parts, body) = answer.await?.into_parts();
            let collected = body.collect().await?;
            let trailers = collected.trailers().cloned();
            Ok(Self {
                status: parts.status,
                headers: parts.headers,
                body: collected.to_bytes(),
                trailers,
            })
        };
        let patience = std::time::Duration::from_secs(30);
        tokio::time::timeout(patience, whole)
            .await
            .expect("an answer in time")
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

impl HttpClient {
    async fn of(zone: &Zone) -> Self {
        Self::to(zone.vip).await
    }

    async fn to(address: SocketAddr) -> Self {
        let socket = connect(address).await;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket))
            .await
            .unwrap();
        tokio::spawn(connection);
        Self(sender)
    }

    async fn send(&mut self, request: Request<SentBody>) -> Result<Told, hyper::Error> {
        let answer = async {
            self.0.ready().await?;
            self.0.send_request(request).await
        };
        Told::of(answer).await
    }

    async fn ask(&mut self, method: Method, path: &str) -> Result<Told, hyper::Error> {
        let request = Request::builder().method(method).uri(path);
        let request = request.header("host", "orders.mesh").body(text("")).unwrap();
        self.send(request).await
    }

    async fn get(&mut self, path: &str) -> Told {
        self.ask(Method::GET, path).await.unwrap()
    }
}

/// home without an instance, and east with these.
async fn two_zones(topology: &Arc<Topology>, there: Vec<Arc<Instance>>) -> (Zone, Zone) {
    let east = Zone::start("east", topology, there);
    let home = Zone::start("home", topology, vec![]);
    home.join("east", east.ingress.clone()).await;
    (home, east)
}

pub(super) fn set_instances(zone: &Zone, instances: Vec<Arc<Instance>>) {
    zone.change(|snapshot| {
        let mut all = snapshot.instances.as_ref().clone();
        all.insert(testbed::service("orders"), instances.into());
        snapshot.instances = Arc::new(all);
    });
}
