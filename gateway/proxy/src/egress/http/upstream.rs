//! The connection that a request goes out on: opened for it, or kept from an earlier one of the same client.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use causeway_federation::name::{GatewayId, ServiceName};
use causeway_routing::{
    balance::{Choice, InstanceList, LoadGuard},
    permit::Caller,
    route::{Candidate, Destination, ExportCount},
    snapshot::Instance,
    sticky::StickyKey,
};
use causeway_telemetry::Role;
use http::{Request, Response, StatusCode, Version, header};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::TokioIo;
use rand::rngs::SmallRng;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{
    body::RequestBody,
    sent::SentWhole,
    shared::SharedCall,
    upstream_io::{CarriedBytes, UpstreamIo, UpstreamSocket, UpstreamTraffic},
};
use crate::{
    dial::{InstanceConnection, uptime},
    egress::{
        EgressShared,
        connect::ConnectedUpstream,
        upstream::{GatewayStream, Upstream},
    },
    http::{
        answer_fault::AnswerFault,
        headers::lists,
        limits::{MAX_HEAD_BYTES, MAX_HEADERS, REUSE_WAIT},
        version2::{is_refused, is_unread},
    },
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

/// Facts about a connection that stay as they are.
#[derive(Debug)]
pub(super) struct UpstreamFacts {
    pub(super) candidate: Candidate,
    /// Exports of its gateway when it was asked: other ones may mean that the instance takes no more requests.
    pub(super) exported: Option<ExportCount>,
    pub(super) opened: Instant,
    pub(super) server: UpstreamServer,
    /// Number of the instance; 0: the gateway that has it does not say.
    pub(super) instance: u64,
    pub(super) traffic: Arc<UpstreamTraffic>,
    /// Key that decided about it.
    pub(super) key: Option<StickyKey>,
    /// Caller that the other side was told of when it was opened.
    pub(super) caller: Arc<Caller>,
    /// The far gateway lends it, and takes it back: so that the next request may have any instance, another one is opened for it.
    pub(super) is_lent: bool,
    /// A stream before this one has used it.
    pub(super) is_warm: bool,
}

/// Connection that hyper is about to have.
pub(super) struct TakenUpstream {
    pub(super) io: UpstreamIo,
    pub(super) facts: Arc<UpstreamFacts>,
    /// Counts a request with its instance, if that is one of this zone.
    pub(super) load: Option<LoadGuard>,
}

impl TakenUpstream {
    /// Takes what is connected for requests of `caller`. `None`: it is gone already.
    pub(super) fn of(
        shared: &EgressShared,
        service: &ServiceName,
        caller: Arc<Caller>,
        connected: ConnectedUpstream,
    ) -> Option<Self> {
        let ConnectedUpstream {
            upstream,
            candidate,
            exported,
            key,
            ..
        } = connected;
        let (instance, is_lent, is_warm, early_bytes) = match &upstream {
            Upstream::Instance(connection) => (connection.instance.number(), false, connection.is_warm, 0),
            Upstream::Gateway(stream) => (
                stream.instance,
                stream.is_lent,
                stream.is_warm,
                stream.early_bytes,
            ),
        };
        let (socket, server, load) = take(shared, upstream)?;
        let counters = shared.metrics.byte_counters(Role::Egress, service.as_str());
        let facts = Arc::new(UpstreamFacts {
            candidate,
            exported,
            opened: Instant::now(),
            key,
            server,
            instance,
            traffic: Arc::new(UpstreamTraffic::new(counters)),
            caller,
            is_lent,
            is_warm,
        });
        let early_bytes = usize::try_from(early_bytes).unwrap_or(usize::MAX);
        let io = UpstreamIo::new(
            socket,
            facts.traffic.clone(),
            shared.config.stall_limit,
            early_bytes,
        );
        Some(Self { io, facts, load })
    }
}

/// Connection on which an instance takes one request after the other, or, with HTTP/2, one request on a connection of many.
#[derive(Debug)]
pub(super) struct HttpUpstream {
    sender: RequestSender,
    pub(super) facts: Arc<UpstreamFacts>,
    /// Counts a request with its instance while it is under way.
    load: Option<LoadGuard>,
    /// The whole request has been handed over.
    sent_all: SentWhole,
    /// The last answer leaves it open for another request.
    stays_open: bool,
}

#[derive(Debug)]
enum RequestSender {
    Version1(http1::SendRequest<RequestBody>),
    Version2(http2::SendRequest<RequestBody>, SharedCall),
}

/// Request that got no answer.
pub(super) struct SendFailure {
    /// The request, if nothing of it was written.
    pub(super) unsent: Option<Request<RequestBody>>,
    /// No byte of an answer has come.
    pub(super) is_unanswered: bool,
    /// The instance has said that it has not read the request.
    pub(super) is_unread: bool,
    /// The same, of this request alone: its connection goes on.
    pub(super) is_refused: bool,
    /// Fault of what came, if it is no answer that can be passed on.
    pub(super) fault: Option<AnswerFault>,
    pub(super) error: hyper::Error,
}

impl HttpUpstream {
    /// Takes a connection that is ready into use. Its bytes are moved by a task of its own, which ends with it, or at `cut`.
    /// `None`: it is gone already.
    pub(super) async fn open(
        shared: &EgressShared,
        service: &ServiceName,
        caller: Arc<Caller>,
        connected: ConnectedUpstream,
        cut: &CancellationToken,
    ) -> Option<Self> {
        let TakenUpstream { io, facts, load } = TakenUpstream::of(shared, service, caller, connected)?;
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
            sender: RequestSender::Version1(sender),
            facts,
            load,
            sent_all: SentWhole::default(),
            stays_open: false,
        })
    }

    /// Takes a connection of HTTP/2 into use for one request.
    pub(super) fn shared(
        sender: http2::SendRequest<RequestBody>,
        facts: Arc<UpstreamFacts>,
        call: SharedCall,
    ) -> Self {
        let load = match &facts.server {
            UpstreamServer::Instance(instance) => Some(LoadGuard::new(instance.load.clone())),
            UpstreamServer::Gateway(_) => None,
        };
        Self {
            sender: RequestSender::Version2(sender, call),
            facts,
            load,
            sent_all: SentWhole::default(),
            stays_open: false,
        }
    }

    /// Tells whether the next request of `caller` may go out on it, being meant for `candidate`: a gateway, or the instance that
    /// was picked.
    pub(super) fn serves(
        &self,
        candidate: &Candidate,
        picked: Option<&Arc<Instance>>,
        caller: &Arc<Caller>,
        key: Option<StickyKey>,
    ) -> bool {
        let facts = &self.facts;
        facts.candidate.asks_like(candidate)
            && facts.caller == *caller
            && match &facts.server {
                UpstreamServer::Gateway(_) => facts.key == key,
                UpstreamServer::Instance(own) => {
                    picked.is_some_and(|picked| picked.id == own.id && picked.address == own.address)
                }
            }
    }

    /// Takes it up again for the next request. `None`: it is closed, or something of the last one is still to be sent.
    pub(super) async fn again(mut self) -> Option<Self> {
        if !self.has_sent_all() {
            return None;
        }
        if let RequestSender::Version1(sender) = &mut self.sender {
            let ready = timeout(REUSE_WAIT, sender.ready()).await;
            ready.ok()?.ok()?;
        }
        self.facts.traffic.goes_on();
        if let UpstreamServer::Instance(instance) = &self.facts.server {
            self.load = Some(LoadGuard::new(instance.load.clone()));
        }
        Some(self)
    }

    /// Lays it by until the next request; `None`: it was that of one request.
    pub(super) fn rest(mut self) -> Option<Self> {
        self.load = None;
        self.facts.traffic.answered(self.has_sent_all(), self.stays_open);
        matches!(self.sender, RequestSender::Version1(_)).then_some(self)
    }

    /// Bytes of its one request, where others are under way beside it.
    pub(super) fn call_bytes(&self) -> Option<&Arc<CarriedBytes>> {
        match &self.sender {
            RequestSender::Version1(_) => None,
            RequestSender::Version2(_, call) => Some(&call.bytes),
        }
    }

    /// Bytes that it has carried towards the instance, and from it.
    pub(super) fn carried(&self) -> (u64, u64) {
        match self.call_bytes() {
            Some(bytes) => bytes.both(),
            None => self.facts.traffic.carried().both(),
        }
    }

    /// Tells whether what is on it may go to another instance if this one has not read it.
    pub(super) fn says_what_is_unread(&self) -> bool {
        matches!(self.sender, RequestSender::Version2(..))
    }

    /// Tells the next request's body where to say that it has been handed over.
    pub(super) fn sent_all(&self, is_empty: bool) -> SentWhole {
        self.sent_all.begin(is_empty);
        self.sent_all.clone()
    }

    /// Tells whether all of its request has been handed over.
    pub(super) fn has_sent_all(&self) -> bool {
        self.sent_ago().is_some()
    }

    /// Time since then.
    pub(super) fn sent_ago(&self) -> Option<Duration> {
        self.sent_all.ago()
    }

    /// Sends a request and returns its answer, whose body is still to come.
    ///
    /// # Errors
    /// When none has come.
    pub(super) async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, SendFailure> {
        let (_, before) = self.facts.traffic.carried().both();
        let sent = match &mut self.sender {
            RequestSender::Version1(sender) => sender.try_send_request(request).await,
            RequestSender::Version2(sender, _) => sender.try_send_request(request).await,
        };
        self.stays_open = sent.as_ref().is_ok_and(stays_open);
        sent.map_err(|mut failed| SendFailure {
            unsent: failed.take_message(),
            // Where others are answered beside it, its own head is what counts.
            is_unanswered: self.says_what_is_unread() || self.facts.traffic.carried().both().1 == before,
            is_unread: is_unread(failed.error()),
            is_refused: is_refused(failed.error()),
            fault: AnswerFault::of(failed.error()),
            error: failed.into_error(),
        })
    }
}

/// Tells whether another request may follow this answer on the connection of HTTP/1.1 that it came on.
fn stays_open(answer: &Response<Incoming>) -> bool {
    answer.version() == Version::HTTP_11
        && answer.status() != StatusCode::SWITCHING_PROTOCOLS
        && !lists(answer.headers(), &header::CONNECTION, "close")
}

/// Picks the instance of this zone for a request that is meant for `candidate`; `None`: it is meant for another zone, or there is none.
pub(super) fn pick_instance<'s>(
    (list, slow_start): (&'s InstanceList, Option<Duration>),
    candidate: &'s Candidate,
    avoided: &[u64],
    key: Option<StickyKey>,
    rng: &mut SmallRng,
) -> Option<&'s Arc<Instance>> {
    let picked = || {
        Choice::new(list, &candidate.tags)
            .with_panic(candidate.in_panic)
            .with_slow_start(slow_start)
            .keyed(key)
            .after(avoided)
            .pick(uptime(), rng)
    };
    matches!(candidate.place, Destination::Local)
        .then(picked)
        .flatten()
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
                held,
                instance,
                load,
                ..
            } = *connection;
            set_timeouts(&socket, shared.config.keepalive, shared.config.stall_limit);
            let socket = UpstreamSocket::Instance {
                _own: own,
                socket,
                _held: held,
            };
            Some((socket, UpstreamServer::Instance(instance), Some(load)))
        }
        Upstream::Gateway(GatewayStream {
            stream,
            counted,
            is_lent,
            ..
        }) => {
            let gateway = counted.peer().clone();
            let socket = UpstreamSocket::Gateway {
                stream: stream.into_stream()?,
                is_lent,
                counted,
            };
            Some((socket, UpstreamServer::Gateway(gateway), None))
        }
    }
}
