//! Clients that speak HTTP/2, and gRPC: a client and instances for the tests beside this file.

mod calls;
mod following;
mod limits;
mod promises;
mod room;
mod routes;
mod troubles;
mod web;

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use causeway_federation::topology::Topology;
use causeway_routing::snapshot::Instance;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    client::conn::http2::SendRequest,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

use super::{SentBody, Told, speaking, text, two_zones};
use crate::{
    http::limits::MAX_HEAD_BYTES,
    testbed::{self, Zone, connect},
};

pub(in crate::egress::tests) fn speaking_grpc(more: &str) -> Arc<Topology> {
    speaking("grpc", more)
}

/// An instance that answers calls with its name, or does as the path says.
pub(in crate::egress::tests) struct CallInstance {
    name: String,
    address: SocketAddr,
    seen: Arc<Seen>,
}

/// Counts of an instance.
#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    calls: AtomicUsize,
    /// Calls that were taken back.
    cancelled: AtomicUsize,
    /// Bodies that came whole, and those that did not.
    whole: AtomicUsize,
    broken: AtomicUsize,
    /// Calls that are still to be refused unread.
    refuses: AtomicUsize,
    /// Calls that it takes at once on a connection; 0: as many as such servers do.
    takes: AtomicU32,
}

impl CallInstance {
    pub(in crate::egress::tests) async fn start(name: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let instance = Self {
            name: name.to_owned(),
            address: listener.local_addr().unwrap(),
            seen: Arc::default(),
        };
        let (name, seen) = (Bytes::from(name.to_owned()), instance.seen.clone());
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                serve(socket, name.clone(), seen.clone());
            }
        });
        instance
    }

    pub(in crate::egress::tests) fn instance(&self, tags: &[(&str, &str)]) -> Arc<Instance> {
        testbed::instance(&self.name, self.address, 1, tags)
    }

    pub(in crate::egress::tests) fn calls(&self) -> usize {
        self.seen.calls.load(Ordering::Relaxed)
    }

    fn cancelled(&self) -> usize {
        self.seen.cancelled.load(Ordering::Relaxed)
    }

    fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::Relaxed)
    }
}

fn serve(socket: TcpStream, name: Bytes, seen: Arc<Seen>) {
    seen.connections.fetch_add(1, Ordering::Relaxed);
    let mut server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    let takes = seen.takes.load(Ordering::Relaxed);
    if takes > 0 {
        server.max_concurrent_streams(takes);
    }
    let service = service_fn(move |request| {
        seen.calls.fetch_add(1, Ordering::Relaxed);
        answer(name.clone(), request, seen.clone())
    });
    tokio::spawn(server.serve_connection(TokioIo::new(socket), service));
}

type GivenBody = BoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// Counts a call as taken back, unless it came to its answer.
struct Hanging(Arc<Seen>);

impl Drop for Hanging {
    fn drop(&mut self) {
        self.0.cancelled.fetch_add(1, Ordering::Relaxed);
    }
}

fn trailers() -> HeaderMap {
    HeaderMap::from_iter(
        [("grpc-status", "0"), ("x-detail", "of the instance")].map(|(name, value)| {
            (
                http::HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        }),
    )
}

/// One message, and the end of a call that went well.
fn message(bytes: Bytes) -> GivenBody {
    let frames = [Frame::data(bytes), Frame::trailers(trailers())];
    StreamBody::new(stream::iter(frames.map(Ok))).boxed()
}

/// One message, and then that the instance goes away.
fn aged() -> Response<GivenBody> {
    let mut end = trailers();
    end.insert("grpc-status", HeaderValue::from_static("14"));
    let frames = [Frame::data("a message".into()), Frame::trailers(end)];
    Response::new(StreamBody::new(stream::iter(frames.map(Ok))).boxed())
}

fn large_head(body: GivenBody) -> Response<GivenBody> {
    // No program sends a single field that is so long.
    const FIELDS: usize = 8;
    let mut response = Response::new(body);
    let large = HeaderValue::try_from("x".repeat(MAX_HEAD_BYTES / FIELDS)).unwrap();
    for _ in 0..FIELDS {
        response.headers_mut().append("x-large", large.clone());
    }
    response
}

/// The head of a request, a line for each field.
fn head_of(request: &Request<Incoming>) -> String {
    let fields = request.headers().iter();
    let fields = fields.map(|(name, value)| format!("{name}: {}\n", value.to_str().unwrap()));
    format!(
        "{} {}\n{}",
        request.method(),
        request.uri(),
        fields.collect::<String>()
    )
}

/// Answer with a status and nothing else.
fn refused_with(status: &'static str) -> Response<GivenBody> {
    let mut response = Response::new(Full::default().map_err(|never| match never {}).boxed());
    let status = HeaderValue::from_static(status);
    response.headers_mut().insert("grpc-status", status);
    response
}

async fn answer(
    name: Bytes,
    request: Request<Incoming>,
    seen: Arc<Seen>,
) -> Result<Response<GivenBody>, h2::Error> {
    let refusing = |left: usize| left.checked_sub(1);
    let refused = seen
        .refuses
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, refusing);
    if refused.is_ok() {
        return Err(h2::Reason::REFUSED_STREAM.into());
    }
    let mut response = match request.uri().path() {
        "/hang" => {
            let _hanging = Hanging(seen);
            std::future::pending().await
        }
        "/refuse" => return Err(h2::Reason::REFUSED_STREAM.into()),
        // Reads all and says that it has not.
        "/refuse-late" => {
            let _ = request.into_body().collect().await;
            return Err(h2::Reason::REFUSED_STREAM.into());
        }
        "/drop" => return Err(h2::Reason::INTERNAL_ERROR.into()),
        // Answers with a message for each, and says when it is over.
        "/talk" => {
            let hanging = Hanging(seen);
            let frames = stream::unfold((request.into_body(), hanging), |(mut body, hanging)| async {
                let frame = body.frame().await?.map_err(Into::into);
                Some((frame, (body, hanging)))
            });
            Response::new(StreamBody::new(frames).boxed())
        }
        "/echo" => {
            let end = stream::iter([Ok(Frame::trailers(trailers()))]);
            let body = request.into_body().map_err(Into::into);
            let frames = stream::unfold(body, |mut body| async { Some((body.frame().await?, body)) });
            let frames = futures_util::StreamExt::chain(frames, end);
            Response::new(StreamBody::new(frames).boxed())
        }
        // Breaks off where its client has come to the end.
        "/break" => {
            let end = stream::iter([Err("broken".into())]);
            let frames = stream::unfold(request.into_body(), |mut body| async {
                Some((body.frame().await?.map_err(Into::into), body))
            });
            let frames = futures_util::StreamExt::chain(frames, end);
            Response::new(StreamBody::new(frames).boxed())
        }
        "/aged" => aged(),
        "/large-head" => {
            // Otherwise it would end the stream after the answer, which could be heard instead.
            let _ = request.into_body().collect().await;
            large_head(message(name))
        }
        "/away" if name == "away" => refused_with("14"),
        "/head" => Response::new(message(head_of(&request).into())),
        "/denied" => refused_with("16"),
        _ => {
            let counter = match request.into_body().collect().await {
                Ok(_) => &seen.whole,
                Err(_) => &seen.broken,
            };
            counter.fetch_add(1, Ordering::Relaxed);
            Response::new(message(name))
        }
    };
    let kind = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert("content-type", kind);
    Ok(response)
}

/// A client with one connection, on which its calls are side by side. Clones are the same.
#[derive(Clone)]
pub(in crate::egress::tests) struct CallClient(pub(in crate::egress::tests) SendRequest<SentBody>);

impl Told {
    /// Code that a call ended with: in trailers, or in the head of an answer without messages.
    pub(in crate::egress::tests) fn code(&self) -> Option<&str> {
        let ended = self.trailers.as_ref().unwrap_or(&self.headers);
        ended.get("grpc-status").map(|value| value.to_str().unwrap())
    }
}

impl CallClient {
    pub(in crate::egress::tests) async fn of(zone: &Zone) -> Self {
        let socket = connect(zone.vip).await;
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket))
                .await
                .unwrap();
        tokio::spawn(connection);
        Self(sender)
    }

    async fn begin(&self, request: Request<SentBody>) -> Result<Response<Incoming>, hyper::Error> {
        self.0.clone().send_request(request).await
    }

    async fn send(&self, request: Request<SentBody>) -> Result<Told, hyper::Error> {
        Told::of(self.begin(request)).await
    }

    pub(in crate::egress::tests) async fn call(&self, path: &str) -> Result<Told, hyper::Error> {
        self.send(call(path, text("a message"))).await
    }

    /// The name of the instance that serves the next call.
    async fn server(&self) -> String {
        let told = self.call("/").await.unwrap();
        assert_eq!(told.code(), Some("0"), "{told:?}");
        told.text().to_owned()
    }
}

fn call(path: &str, body: SentBody) -> Request<SentBody> {
    Request::post(format!("http://orders.mesh:8080{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body)
        .unwrap()
}

/// A body of what is sent into the channel.
fn fed() -> (mpsc::Sender<Bytes>, SentBody) {
    let (feed, fed) = mpsc::channel::<Bytes>(1);
    let frames = stream::unfold(fed, |mut fed| async {
        let bytes = fed.recv().await?;
        Some((Ok::<_, Infallible>(Frame::data(bytes)), fed))
    });
    (feed, StreamBody::new(frames).boxed())
}
