//! The demo's instances: small HTTP services that say who they are and remember every request that they were given.
//!
//! They serve every protocol of the topology alike, with HTTP/1.1: what a gateway carries as bytes may be that as well.

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
    topology::{FixedInstance, ServicePorts},
};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};

/// Carries the number that a request is told apart by.
pub(super) const REQUEST_HEADER: &str = "x-request-id";

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
    let mut names = BTreeMap::from([(registered, Vec::new())]);
    for port in ports.into_iter().flat_map(ServicePorts::iter) {
        let leads_to = names.entry(port.at(registered)).or_default();
        leads_to.extend(port.name.clone());
    }
    let mut first = Some(first);
    for (address, ports) in names {
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
        tokio::spawn(listen(listener, Arc::new(who), given.clone()));
    }
    Ok(registered)
}

async fn listen(listener: TcpListener, who: Arc<InstanceAnswer>, given: Arc<Given>) {
    loop {
        match listener.accept().await {
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

/// Health checks come without a number, and are answered like everything else.
fn answer(request: &Request<Incoming>, who: &InstanceAnswer, given: &Given) -> Response<Full<Bytes>> {
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
    let mut response = Response::new(Full::new(body.into()));
    if number.is_some_and(|number| given.fails(who, number)) {
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    }
    response
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
