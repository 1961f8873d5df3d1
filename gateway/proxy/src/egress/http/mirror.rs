//! Copies of requests for other instances, whose answers nobody sees. A copy is made beside its request and never in its way: it has a place
//! or is not made, takes of the body what passes or is given up, and is made once.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use causeway_federation::{
    name::{PortName, ServiceName},
    topology::{Criticality, Mirror, Route, Topology},
};
use causeway_host::share::ShareHolder;
use causeway_routing::{
    callers::FoundCaller,
    mirror::is_mirrored,
    permit::{RequestLine, decide},
    retry::FailedTries,
    target::Target,
};
use causeway_telemetry::ActiveSpan;
use http::{Request, Version, header};
use hyper::body::{Body as _, Incoming};
use rand::Rng as _;
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::{
    body::RequestBody, record::RequestRecord, serve::HttpConnection, shared::SharedUpstream,
    tee::MirroredBody, upstream::HttpUpstream,
};
use crate::{
    dial::DescriptorClaim,
    egress::{EgressShared, ask::Lending, connect::search, early::EarlyBytes, order::SearchOrder},
    http::{headers::shadow_host, limits::MAX_MIRRORED_ANSWER_BYTES},
    traces::{describe_service, tell_parent},
};

/// Longest time that one copy takes, its answer with it.
const MIRROR_TIME: Duration = Duration::from_secs(30);

/// Copy of a request that is about to be made.
struct MirroredRequest {
    shared: Arc<EgressShared>,
    thread: usize,
    target: Target,
    port: Option<PortName>,
    found: FoundCaller,
    request: Request<RequestBody>,
    /// `None`: its request is in no trace that is recorded.
    span: Option<ActiveSpan>,
    /// Place among the copies that are under way.
    _place: OwnedSemaphorePermit,
}

/// End of a copy, for the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MirrorEnd {
    Answered,
    /// Permissions forbid it, here or there.
    Forbidden,
    /// Nobody took it.
    Unreached,
    /// It was broken off, by the instance or because its body could not be kept up with.
    Broken,
    Late,
    /// Too many are under way.
    NoPlace,
}

impl MirrorEnd {
    fn word(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Forbidden => "forbidden",
            Self::Unreached => "unreached",
            Self::Broken => "broken",
            Self::Late => "late",
            Self::NoPlace => "no_place",
        }
    }
}

/// Begins to make a copy of a request, if its route says so and it is one of those that are drawn.
pub(super) async fn mirror(
    connection: &HttpConnection,
    route: Option<&Route>,
    found: &FoundCaller,
    request: &mut Request<RequestBody>,
    record: &RequestRecord,
) {
    let Some(mirror) = route.and_then(|route| route.mirror.as_ref()) else {
        return;
    };
    let shared = &connection.shared;
    // What leaves HTTP is no copy's.
    let leaves = request.headers().contains_key(header::UPGRADE);
    if leaves || !is_mirrored(mirror.percent, shared.rng().random()) {
        return;
    }
    let service = &connection.arrival.target.service;
    let Ok(place) = shared.mirrors.clone().try_acquire_owned() else {
        shared
            .metrics
            .mirrored(service.as_str(), MirrorEnd::NoPlace.word());
        return;
    };
    let mut mirrored = MirroredRequest {
        shared: shared.clone(),
        thread: connection.thread,
        target: target(mirror, service),
        port: match &mirror.service {
            Some(other) if other != service => primary_port(&shared.snapshots.load().topology, other),
            _ => connection.arrival.port.clone(),
        },
        found: found.clone(),
        request: copy(request),
        span: record.span().map(|span| span.part("mirror")),
        _place: place,
    };
    mirrored.trace();
    // The request itself is about to ask the same.
    let come_through = connection.come_through(record.open()).await;
    let (id, service) = (connection.id(), service.clone());
    let making = async move {
        let (shared, until) = (mirrored.shared.clone(), Instant::now() + MIRROR_TIME);
        let made = timeout_at(until, Box::pin(mirrored.make(id, come_through)));
        let end = made.await.unwrap_or(MirrorEnd::Late);
        tracing::debug!(connection = %id, %service, end = end.word(), "a copy of a request has ended");
        shared.metrics.mirrored(service.as_str(), end.word());
    };
    tokio::spawn(making.in_current_span());
}

/// Port of another service that copies go to.
fn primary_port(topology: &Topology, service: &ServiceName) -> Option<PortName> {
    topology.port_of(service, None)?.name.clone()
}

fn target(mirror: &Mirror, own: &ServiceName) -> Target {
    Target {
        service: mirror.service.clone().unwrap_or_else(|| own.clone()),
        tags: mirror.tags.clone(),
        zone: None,
    }
}

/// The head of a request with the mark of a copy, and a body that is that of the request as it passes.
fn copy(request: &mut Request<RequestBody>) -> Request<RequestBody> {
    let mut copy = Request::new(match request.body().is_end_stream() {
        true => RequestBody::empty(),
        false => {
            let (body, tee) = MirroredBody::of(request.body().size_hint());
            request.body_mut().is_copied_to(tee);
            RequestBody::mirrored(body)
        }
    });
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    // Its body comes in any case.
    copy.headers_mut().remove(header::EXPECT);
    shadow_host(&mut copy);
    copy
}

impl MirroredRequest {
    /// Names its span, and has whoever gets it know of it.
    fn trace(&mut self) {
        let service = &self.target.service;
        if let Some(span) = &mut self.span {
            span.name("mirror", service.as_str());
            describe_service(span, service);
            // One that is not recorded hands on what its client has sent.
            if span.is_recorded() {
                tell_parent(self.request.headers_mut(), &span.context(), true);
            }
        }
    }

    async fn make(
        self,
        id: causeway_telemetry::ConnectionId,
        come_through: (causeway_host::own_sockets::SocketPair, u8),
    ) -> MirrorEnd {
        if !self.is_permitted() {
            return MirrorEnd::Forbidden;
        }
        let shared = &self.shared;
        let cut = CancellationToken::new();
        let _ending = cut.clone().drop_guard();
        let order = SearchOrder {
            thread: self.thread,
            connection: id,
            target: &self.target,
            port: self.port.clone(),
            split: None,
            // A copy is worth less than any request.
            criticality: Some(Criticality::Sheddable),
            key: None,
            caller: self.found.caller.clone(),
            come_through,
            cut: &cut,
            seed: shared.seed(),
            early: EarlyBytes::default(),
            lending: Lending::default(),
            claim: DescriptorClaim {
                holder: ShareHolder::Named("copies of requests".into()),
                promised: None,
            },
            tried: FailedTries::default(),
            deadline: None,
            trace: self.span.as_ref(),
        };
        let Ok(connected) = search(shared, order, std::future::pending()).await else {
            return MirrorEnd::Unreached;
        };
        let (service, caller) = (&self.target.service, self.found.caller.clone());
        let mut upstream = match self.request.version() {
            Version::HTTP_2 => {
                let upstream =
                    SharedUpstream::open(shared, service, caller, connected, &cut, Arc::default()).await;
                upstream.map(|upstream| upstream.call())
            }
            _ => HttpUpstream::open(shared, service, caller, connected, &cut).await,
        };
        let Some(upstream) = &mut upstream else {
            return MirrorEnd::Unreached;
        };
        match upstream.send(self.request).await {
            Ok(answer) => throw_away(answer.into_body()).await,
            Err(_) => MirrorEnd::Broken,
        }
    }

    fn is_permitted(&self) -> bool {
        let (snapshot, service) = (self.shared.snapshots.load(), &self.target.service);
        let Some(known) = snapshot.topology.services.get(service) else {
            return false;
        };
        let (method, path) = (self.request.method().as_str(), self.request.uri().path());
        let Ok(line) = RequestLine::read(known, method, path) else {
            return false;
        };
        decide(&snapshot.topology, &self.found.caller, service, line.as_ref()).passes()
    }
}

/// Reads an answer to its end, or as far as is worth a connection's while.
async fn throw_away(mut body: Incoming) -> MirrorEnd {
    let mut bytes = 0;
    loop {
        let frame = std::future::poll_fn(|cx| std::pin::Pin::new(&mut body).poll_frame(cx)).await;
        match frame {
            None => return MirrorEnd::Answered,
            Some(Err(_)) => return MirrorEnd::Broken,
            Some(Ok(frame)) => bytes += frame.data_ref().map_or(0, Bytes::len),
        }
        if bytes > MAX_MIRRORED_ANSWER_BYTES {
            return MirrorEnd::Answered;
        }
    }
}
