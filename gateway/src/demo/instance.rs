//! The demo's instances: small HTTP services that say who they are and remember every request that they were given.
//!
//! Where a service speaks gRPC they do, and their answers are the messages of calls. Every other protocol they serve alike, with HTTP/1.1:
//! what a gateway carries as bytes may be that as well.

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use bytes::Bytes;
use causeway_federation::{
    name::{PortName, ServiceName, Tags, ZoneName},
    topology::{FixedInstance, Protocol, ServicePorts},
};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};

/// Carries the number that a request is told apart by.
pub(super) const REQUEST_HEADER: &str = "x-request-id";
/// Content type of calls.
pub(super) const GRPC: &str = "application/grpc";
/// Bytes before a message: whether it is compressed, and its length.
pub(super) const FRAME_HEAD_BYTES: usize = 5;
/// Question of a health check, and the message that says that all is well (`status: SERVING`).
const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";
const SERVING: [u8; 2] = [8, 1];
/// Code of a call that an instance fails.
const INTERNAL: &str = "13";

/// Number of times that each request was given to any instance, and which instances fail some of theirs.
#[derive(Debug, Default)]
pub(super) struct Given {
    times: Mutex<HashMap<u64, u32>>,
    fault: Mutex<Option<InstanceFault>>,
}

/// Instances that answer one of so many requests with 500.
#[derive(Debug)]
struct InstanceFault {
    service: ServiceName,
    tags: Tags,
    one_in: u64,
}

impl Given {
    fn record(&self, request: u64) {
        *self.times.lock().entry(request).or_default() += 1;
    }

    /// Forgets every request so far.
    pub(super) fn forget(&self) {
        self.times.lock().clear();
    }

    /// Requests that were given more than once.
    pub(super) fn repeated(&self) -> usize {
        self.times.lock().values().filter(|times| **times > 1).count()
    }

    /// Has instances with these tags fail one of so many requests from now on.
    pub(super) fn break_down(&self, service: &ServiceName, tags: &Tags, one_in: u64) {
        *self.fault.lock() = Some(InstanceFault {
            service: service.clone(),
            tags: tags.clone(),
            one_in,
        });
    }

    /// Has all instances serve again.
    pub(super) fn mend(&self) {
        *self.fault.lock() = None;
    }

    fn fails(&self, who: &InstanceAnswer, request: u64) -> bool {
        self.fault.lock().as_ref().is_some_and(|fault| {
            fault.service == who.service
                && who.tags.matches(&fault.tags)
                && request.is_multiple_of(fault.one_in)
        })
    }
}

/// Answer of an instance.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct InstanceAnswer {
    pub(super) service: ServiceName,
    pub(super) zone: ZoneName,
    pub(super) tags: Tags,
    /// Ports of the service that lead to where it was asked, where these have names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) ports: Vec<PortName>,
    /// The request's own number; `None` when it came without one.
    pub(super) request: Option<u64>,
}

/// Starts one instance at this address of loopback, with these ports of its service; it ends with the runtime. Returns the address that it
/// is registered with.
pub(super) async fn start(
    zone: &ZoneName,
    declared: &FixedInstance,
    (host, ports): (Ipv4Addr, Option<&ServicePorts>),
    given: Arc<Given>,
) -> io::Result<SocketAddr> {
    let first = TcpListener::bind((host, 0)).await?;
    let registered = first.local_addr()?;
    let mut names = BTreeMap::from([(registered, (Vec::new(), false))]);
    for port in ports.into_iter().flat_map(ServicePorts::iter) {
        let (leads_to, is_grpc) = names.entry(port.at(registered)).or_default();
        leads_to.extend(port.name.clone());
        *is_grpc |= port.protocol == Protocol::Grpc;
    }
    let mut first = Some(first);
    for (address, (ports, is_grpc)) in names {
        let listener = match first.take_if(|_| address == registered) {
            Some(first) => first,
            None => TcpListener::bind(address).await?,
        };
        let who = InstanceAnswer {
            service: declared.service.clone(),
            zone: zone.clone(),
            tags: declared.tags.clone(),
            ports,
            request: None,
        };
        tokio::spawn(listen((listener, is_grpc), Arc::new(who), given.clone()));
    }
    Ok(registered)
}

async fn listen((listener, is_grpc): (TcpListener, bool), who: Arc<InstanceAnswer>, given: Arc<Given>) {
    loop {
        match listener.accept().await {
            Ok((socket, _)) if is_grpc => drop(tokio::spawn(serve_calls(socket, who.clone(), given.clone()))),
            Ok((socket, _)) => drop(tokio::spawn(serve(socket, who.clone(), given.clone()))),
            // No file descriptor is left; connections that end will free some.
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
        }
    }
}

async fn serve(socket: TcpStream, who: Arc<InstanceAnswer>, given: Arc<Given>) {
    let service = service_fn(move |request| {
        let answer = answer(&request, &who, &given);
        async { Ok::<_, Infallible>(answer) }
    });
    // A client that leaves early is its own business.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(socket), service)
        .await;
}

/// The same for calls of gRPC, over HTTP/2.
async fn serve_calls(socket: TcpStream, who: Arc<InstanceAnswer>, given: Arc<Given>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let (message, fails) = match request.uri().path() {
            HEALTH_CHECK => (SERVING.to_vec(), false),
            _ => told(&request, &who, &given),
        };
        async move { Ok::<_, Infallible>(answer_of_call(&message, fails)) }
    });
    let _ = http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(socket), service)
        .await;
}

/// Health checks come without a number, and are answered like everything else.
fn answer(request: &Request<Incoming>, who: &InstanceAnswer, given: &Given) -> Response<Full<Bytes>> {
    let (body, fails) = told(request, who, given);
    let mut response = Response::new(Full::new(body.into()));
    if fails {
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    }
    response
}

/// Answer to a call: one message, and the code that it ends with.
fn answer_of_call(
    message: &[u8],
    fails: bool,
) -> Response<impl hyper::body::Body<Data = Bytes, Error = Infallible> + use<>> {
    let code = match fails {
        true => HeaderValue::from_static(INTERNAL),
        false => HeaderValue::from_static("0"),
    };
    let trailers = HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), code)]);
    let body = Full::new(framed(message)).with_trailers(std::future::ready(Some(Ok(trailers))));
    let mut response = Response::new(body);
    let kind = HeaderValue::from_static(GRPC);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// A message as gRPC frames it: not compressed, and its length.
pub(super) fn framed(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&[0], &length.to_be_bytes()[..], message].concat().into()
}

/// Takes a request down, and says who has it, and whether it is to fail.
fn told(request: &Request<Incoming>, who: &InstanceAnswer, given: &Given) -> (Vec<u8>, bool) {
    let number = request.headers().get(REQUEST_HEADER);
    let number = number
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.parse().ok());
    if let Some(number) = number {
        given.record(number);
    }
    let answer = InstanceAnswer {
        request: number,
        ..who.clone()
    };
    // Names and numbers always serialise; an empty answer would fail the request, as it should.
    let mut body = serde_json::to_vec(&answer).unwrap_or_default();
    body.push(b'\n');
    (body, number.is_some_and(|number| given.fails(who, number)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_was_given_twice_is_found() {
        let given = Given::default();
        for request in [1, 2, 2, 3] {
            given.record(request);
        }
        assert_eq!(given.repeated(), 1);
    }
}
