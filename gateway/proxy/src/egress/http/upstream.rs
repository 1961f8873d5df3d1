//! The connection that requests go out on: opened for one request, and kept for the next of the same client.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use causeway_federation::name::{GatewayId, ServiceName};
use causeway_routing::{
    balance::{Choice, InstanceList, LoadGuard},
    route::{Candidate, Destination},
    snapshot::{Instance, Snapshot},
};
use causeway_telemetry::Role;
use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use rand::rngs::SmallRng;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{
    body::RequestBody,
    upstream_io::{UpstreamIo, UpstreamSocket, UpstreamTraffic},
};
use crate::{
    dial::{InstanceConnection, uptime},
    egress::{
        EgressShared,
        connect::ConnectedUpstream,
        upstream::{GatewayStream, Upstream},
    },
    http::limits::{MAX_HEAD_BYTES, MAX_HEADERS, REUSE_WAIT},
    keepalive::set_timeouts,
};

/// Server of requests at the other end.
#[derive(Debug)]
pub(super) enum UpstreamServer {
    Instance(Arc<Instance>),
    Gateway(GatewayId),
}

impl UpstreamServer {
    /// The instance of this zone, or the gateway of another, as a record names them.
    pub(super) fn names(&self) -> (Option<&str>, Option<&GatewayId>) {
        match self {
            Self::Instance(instance) => (Some(&instance.id), None),
            Self::Gateway(gateway) => (None, Some(gateway)),
        }
    }
}

/// Connection on which an instance takes one request after the other.
#[derive(Debug)]
pub(super) struct HttpUpstream {
    sender: SendRequest<RequestBody>,
    pub(super) candidate: Candidate,
    pub(super) server: UpstreamServer,
    pub(super) traffic: Arc<UpstreamTraffic>,
    /// Counts a request with its instance while it is under way.
    load: Option<LoadGuard>,
    /// The whole request has been handed over.
    sent_all: Arc<AtomicBool>,
}

/// Request that got no answer.
pub(super) struct SendFailure {
    /// The request, if nothing of it was written.
    pub(super) unsent: Option<Request<RequestBody>>,
    /// No byte of an answer has come.
    pub(super) is_unanswered: bool,
    pub(super) error: hyper::Error,
}

impl HttpUpstream {
    /// Takes a connection that is ready into use. Its bytes are moved by a task of its own, which ends with it, or at `cut`.
    /// `None`: it is gone already.
    pub(super) async fn open(
        shared: &EgressShared,
        service: &ServiceName,
        connected: ConnectedUpstream,
        cut: &CancellationToken,
    ) -> Option<Self> {
        let counters = shared.metrics.byte_counters(Role::Egress, service.as_str());
        let traffic = Arc::new(UpstreamTraffic::new(counters));
        let (socket, server, load) = take(shared, connected.upstream)?;
        let io = UpstreamIo::new(socket, traffic.clone(), shared.config.stall_limit);
        let handshake = http1::Builder::new()
            .max_headers(MAX_HEADERS)
            .max_header_size(MAX_HEAD_BYTES)
            .max_buf_size(MAX_HEAD_BYTES)
            .handshake(TokioIo::new(io));
        let (sender, connection) = handshake.await.ok()?;
        let cut = cut.clone();
        tokio::spawn(async move {
            // The reason of its end is told by its traffic.
            let _ = cut.run_until_cancelled(connection.with_upgrades()).await;
        });
        Some(Self {
            sender,
            candidate: connected.candidate,
            server,
            traffic,
            load,
            sent_all: Arc::default(),
        })
    }

    /// Tells whether the next request may go out on it, being meant for `candidate`: a gateway, or the instance that is
    /// picked now.
    pub(super) fn serves(&self, candidate: &Candidate, snapshot: &Snapshot, rng: &mut SmallRng) -> bool {
        if !candidate.asks_like(&self.candidate) {
            return false;
        }
        match (&self.server, &candidate.place) {
            (UpstreamServer::Gateway(own), Destination::Remote { gateway }) => own == gateway,
            (UpstreamServer::Instance(own), Destination::Local) => {
                let none = InstanceList::default();
                let list = snapshot.instances.get(&own.service).unwrap_or(&none);
                let picked = Choice::new(list, &candidate.tags).pick(uptime(), rng);
                picked.is_some_and(|picked| picked.id == own.id && picked.address == own.address)
            }
            _ => false,
        }
    }

    /// Takes it up again for the next request. `None`: it is closed, or something of the last one is still to be sent.
    pub(super) async fn again(mut self) -> Option<Self> {
        if !self.sent_all.load(Ordering::Relaxed) {
            return None;
        }
        let ready = timeout(REUSE_WAIT, self.sender.ready()).await;
        ready.ok()?.ok()?;
        if let UpstreamServer::Instance(instance) = &self.server {
            self.load = Some(LoadGuard::new(instance.load.clone()));
        }
        Some(self)
    }

    /// Lays it by until the next request.
    pub(super) fn rest(&mut self) {
        self.load = None;
    }

    /// Tells the next request's body where to say that it has been handed over.
    pub(super) fn sent_all(&self, is_empty: bool) -> Arc<AtomicBool> {
        self.sent_all.store(is_empty, Ordering::Relaxed);
        self.sent_all.clone()
    }

    /// Sends a request and returns its answer, whose body is still to come.
    ///
    /// # Errors
    /// When none has come.
    pub(super) async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, SendFailure> {
        let (_, before) = self.traffic.bytes();
        let sent = self.sender.try_send_request(request).await;
        sent.map_err(|mut failed| SendFailure {
            unsent: failed.take_message(),
            is_unanswered: self.traffic.bytes().1 == before,
            error: failed.into_error(),
        })
    }
}

/// Takes the socket out of an upstream; `None`: it is gone.
fn take(
    shared: &EgressShared,
    upstream: Upstream,
) -> Option<(UpstreamSocket, UpstreamServer, Option<LoadGuard>)> {
    match upstream {
        Upstream::Instance(connection) => {
            let InstanceConnection {
                own,
                socket,
                instance,
                load,
            } = *connection;
            set_timeouts(&socket, shared.config.keepalive, shared.config.stall_limit);
            let socket = UpstreamSocket::Instance { _own: own, socket };
            Some((socket, UpstreamServer::Instance(instance), Some(load)))
        }
        Upstream::Gateway(GatewayStream { stream, counted, .. }) => {
            let gateway = counted.peer().clone();
            let socket = UpstreamSocket::Gateway {
                stream: stream.into_stream()?,
                _counted: counted,
            };
            Some((socket, UpstreamServer::Gateway(gateway), None))
        }
    }
}
