//! Ingress: takes the streams that other zones open to instances of this zone.
//!
//! It checks what the calling zone and the caller that it vouches for may ask for, picks and dials a healthy instance, answers `ready` or a refusal that
//! says whether another gateway can help, and relays. It never forwards to a third zone; where an instance's address leads back to a
//! gateway, the number of hops ends it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use causeway_federation::name::{GatewayId, PortName, ServiceName};
use causeway_host::{descriptors::Descriptors, own_sockets::OwnSockets};
use causeway_proto::tunnel::{Connect, stream_header::Kind};
use causeway_routing::{
    failures::ConnectFailures,
    permit::Rule,
    route::Placement,
    snapshot::{Snapshot, Snapshots},
};
use causeway_telemetry::{AccessLog, ConnectionId, RateLimited, Role, StreamRefusal, Tracer};
use causeway_tunnel::{IncomingStream, SendHalf, Stream, StreamCode, StreamHandler, Tunnel};
use futures_util::future::BoxFuture;
use parking_lot::{Mutex, RwLock};
use rand::{Rng as _, SeedableRng, rngs::SmallRng};
use tokio::sync::watch;
use tracing::{Instrument as _, field};

use crate::ProxyMetrics;
use crate::{
    dial::{InstanceConnection, dial},
    keepalive::set_timeouts,
    moving::FollowingConnections,
    open::{OpenConnection, OpenConnectionGuard, OpenConnections},
    relay,
    reports::PermissionReports,
    warm::{WarmConnections, WarmPlace},
};

mod carry;
mod judge;
mod opened;
mod passage;
mod permission;
mod refuse;
mod report;
#[cfg(test)]
mod tests;
mod trace;

use carry::carry;
use refuse::RefusedStream;
use trace::IngressTrace;

/// Connections from other zones that one gateway carries at once.
const DEFAULT_MAX_CONNECTIONS: usize = 100_000;
/// Streams that one peer gateway may have open at once, over all of its tunnels.
const DEFAULT_MAX_STREAMS_PER_PEER: usize = 50_000;

/// Limits of the ingress.
#[derive(Debug, Clone)]
pub struct IngressConfig {
    /// Number of data threads.
    pub threads: usize,
    pub max_connections: usize,
    pub max_streams_per_peer: usize,
    /// Longest time that bytes may wait of which the other side takes none.
    pub stall_limit: Duration,
    /// Longest time without a byte once one side of a connection has finished; `None`: any.
    pub half_closed_limit: Option<Duration>,
    /// Silence after which the sockets of instances are probed; `None`: never.
    pub keepalive: Option<Duration>,
    /// Is told which instances do not accept.
    pub failures: Arc<dyn ConnectFailures>,
    /// Connections that this gateway has opened itself.
    pub own_sockets: OwnSockets,
    /// Descriptors that connections to instances may take.
    pub descriptors: Descriptors,
    /// Makes spans of streams.
    pub tracer: Tracer,
}

impl IngressConfig {
    #[must_use]
    pub fn new(threads: usize) -> Self {
        Self {
            threads,
            max_connections: DEFAULT_MAX_CONNECTIONS,
            max_streams_per_peer: DEFAULT_MAX_STREAMS_PER_PEER,
            stall_limit: relay::STALL_LIMIT,
            half_closed_limit: Some(relay::HALF_CLOSED_LIMIT),
            keepalive: Some(crate::keepalive::KEEPALIVE),
            failures: Arc::new(()),
            own_sockets: OwnSockets::default(),
            descriptors: Descriptors::default(),
            tracer: Tracer::default(),
        }
    }
}

/// Takes `connect` streams, and questions for what they have opened, on all data threads. A cheap handle; clones are the same ingress.
#[derive(Debug, Clone)]
pub struct Ingress {
    shared: Arc<IngressShared>,
}

#[derive(Debug)]
struct IngressShared {
    config: IngressConfig,
    snapshots: Snapshots,
    metrics: Arc<ProxyMetrics>,
    access: AccessLog,
    open: Arc<OpenConnections>,
    /// Streams under way by peer. Written only when a peer is seen for the first time.
    peers: RwLock<BTreeMap<GatewayId, Arc<AtomicUsize>>>,
    /// Refusals by peer, so that a peer that asks for ever does not fill the log.
    rate_limited: Mutex<RateLimited<(GatewayId, StreamRefusal)>>,
    /// Tells what permissions forbid.
    reports: PermissionReports,
    seed: AtomicU64,
    /// Connections to instances that streams have given back.
    warm: WarmConnections,
}

/// Request for which an instance was found.
struct AcceptedStream {
    service: ServiceName,
    dialled: InstanceConnection,
    ready_after: Duration,
    rule: Rule,
    opened: OpenConnectionGuard,
    counted: PeerStreamGuard,
    /// Place for the connection to the instance, should the stream give it back.
    returns_to: Option<Box<(WarmPlace, WarmConnections)>>,
}

impl Ingress {
    #[must_use]
    pub fn new(
        config: IngressConfig,
        snapshots: Snapshots,
        metrics: Arc<ProxyMetrics>,
        access: AccessLog,
    ) -> Self {
        Self {
            shared: Arc::new(IngressShared {
                open: OpenConnections::new(config.threads, config.max_connections),
                config,
                warm: WarmConnections::new(snapshots.clone()),
                snapshots,
                reports: PermissionReports::new(Role::Ingress, metrics.clone()),
                metrics,
                access,
                peers: RwLock::default(),
                rate_limited: Mutex::new(RateLimited::new()),
                seed: AtomicU64::new(rand::random()),
            }),
        }
    }

    /// Waits for no stream that comes from now on; it is served all the same, for its gateway knows no other.
    pub fn drain(&self) {
        self.shared.open.drain();
        self.shared.warm.close();
    }

    /// Resets every connection that is open.
    pub fn cut(&self) {
        self.shared.open.cut();
    }

    /// Ends every open connection that this snapshot does not permit any more.
    pub fn recheck(&self, snapshot: &Snapshot) {
        permission::recheck(&self.shared, snapshot);
    }

    /// Has connections leave instances that are taken out, until the sender of `generation`, which tells of new snapshots, is gone. Runs
    /// until it is dropped, once.
    pub async fn keep_moving(&self, generation: watch::Receiver<u64>) {
        let following = FollowingConnections {
            role: Role::Ingress,
            open: self.shared.open.clone(),
            snapshots: self.shared.snapshots.clone(),
            metrics: self.shared.metrics.clone(),
        };
        following.keep_moving(generation).await;
    }

    #[cfg(test)]
    pub(crate) fn warm(&self) -> &WarmConnections {
        &self.shared.warm
    }

    #[must_use]
    pub fn open_connections(&self) -> &Arc<OpenConnections> {
        &self.shared.open
    }
}

impl StreamHandler for Ingress {
    fn handle(&self, stream: IncomingStream) -> BoxFuture<'static, ()> {
        let told = match &stream.kind {
            Kind::Connect(connect) => ConnectionId::told(connect.connection),
            _ => None,
        };
        let id = told.unwrap_or_else(|| ConnectionId::new(self.shared.rng().random()));
        // Off at the default level, as at the egress; see its `Arrival::span`.
        let span = tracing::debug_span!("ingress", connection = %id, trace_id = field::Empty, span_id = field::Empty);
        // Boxed apart, so that an open connection carries neither the state of its set-up nor the room for it.
        let setting_up = Box::pin(set_up(self.shared.clone(), stream, id));
        let serving = async move {
            if let Some(carrying) = setting_up.await {
                carrying.await;
            }
        };
        Box::pin(serving.instrument(span))
    }
}

/// Finds an instance, and returns what is left to do with it; `None`: there is none, which has been told.
async fn set_up(
    shared: Arc<IngressShared>,
    stream: IncomingStream,
    id: ConnectionId,
) -> Option<BoxFuture<'static, ()>> {
    let IncomingStream {
        kind,
        mut send,
        mut recv,
        tunnel,
    } = stream;
    let begun = Instant::now();
    let connect = match kind {
        Kind::Connect(connect) => connect,
        Kind::Opened(asked) => {
            opened::answer(&shared, &tunnel, asked, send).await;
            return None;
        }
        _ => {
            let refused = RefusedStream::bad_header("the header asks for nothing that this gateway serves");
            shared.refused(id, &Connect::default(), (&tunnel, begun), &refused, None);
            refuse::answer(refused, send, recv).await;
            return None;
        }
    };
    let mut trace = IngressTrace::begin(&shared, &connect);
    match accept(&shared, &tunnel, (&connect, trace.as_deref_mut()), id, &mut send).await {
        Ok(Some(accepted)) => {
            return Some(Box::pin(carry(
                shared,
                accepted,
                (tunnel, begun),
                Stream { send, recv },
                trace,
            )));
        }
        Ok(None) => {
            tracing::debug!(service = connect.service, peer = %tunnel.peer(), "the caller went elsewhere");
            if let Some(trace) = trace {
                trace.left(&connect.service);
            }
            let _ = send.reset(StreamCode::Reset);
            let _ = recv.stop(StreamCode::Reset);
        }
        Err(refused) => {
            let refused = refused.unless_alike(&connect, &shared.snapshots.load().topology);
            shared.refused(id, &connect, (&tunnel, begun), &refused, trace);
            refuse::answer(refused, send, recv).await;
        }
    }
    None
}

/// Finds and dials an instance and answers `ready`. `Ok(None)`: the caller gave up meanwhile.
async fn accept(
    shared: &Arc<IngressShared>,
    tunnel: &Arc<Tunnel>,
    (connect, mut trace): (&Connect, Option<&mut IngressTrace>),
    id: ConnectionId,
    send: &mut SendHalf,
) -> Result<Option<AcceptedStream>, RefusedStream> {
    let begun = Instant::now();
    let mut passage = shared.passage(connect, tunnel)?;
    let (snapshot, request, opened, counted) = permission::admit(shared, tunnel, connect, id)?;
    passage.port = request.port.target;
    if let Some(trace) = trace.as_deref_mut() {
        trace.dials(request.service.as_str());
    }
    let mut rng = shared.rng();
    let dialling = dial(
        &snapshot,
        &request.service,
        &request.tags,
        &shared.metrics,
        &*shared.config.failures,
        &passage,
        &mut rng,
    );
    let gone = send.stopped();
    let dialled = tokio::select! {
        dialled = dialling => dialled?,
        _ = gone => return Ok(None),
        () = opened.handle().cut().cancelled() => return Err(permission::taken_back(opened.handle())),
    };
    if let Some(trace) = trace {
        trace.dialled(&dialled);
    }
    if !dialled.is_warm {
        let (keepalive, stall) = (shared.config.keepalive, shared.config.stall_limit);
        set_timeouts(&dialled.socket, keepalive, stall);
    }
    let address = passage.address_of(&dialled.instance);
    let returns_to = passage
        .warm
        .map(|warm| Box::new((warm.place(&dialled.instance, address), warm.warm)));
    if refuse::write_ready(send, &dialled, returns_to.is_some())
        .await
        .is_err()
    {
        return Ok(None);
    }
    let placement = Placement::at_instance(request.service.clone(), request.tags, &dialled.instance.id);
    opened.handle().carried_to(placement);
    Ok(Some(AcceptedStream {
        service: request.service,
        dialled,
        ready_after: begun.elapsed(),
        rule: request.verdict.rule,
        opened,
        counted,
        returns_to,
    }))
}

/// Counts one stream of a peer for as long as it lives.
struct PeerStreamGuard(Arc<AtomicUsize>);

impl Drop for PeerStreamGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl IngressShared {
    /// Takes a place for the connection, within the limits.
    fn admit(
        self: &Arc<Self>,
        tunnel: &Tunnel,
        (service, port): (&ServiceName, Option<&PortName>),
        id: ConnectionId,
    ) -> Result<(OpenConnectionGuard, PeerStreamGuard), RefusedStream> {
        let streams = self.peer(tunnel.peer());
        let before = streams.fetch_add(1, Ordering::Relaxed);
        let counted = PeerStreamGuard(streams);
        if before >= self.config.max_streams_per_peer {
            return Err(RefusedStream::overloaded("too many streams from this gateway"));
        }
        let connection = OpenConnection {
            id,
            role: Role::Ingress,
            service: service.clone(),
            port: port.cloned(),
            client: None,
            local: None,
            peer: Some(tunnel.peer().clone()),
            shown: None,
            since: Instant::now(),
        };
        let opened = self.open.enter(tunnel.thread(), connection);
        let opened = opened.ok_or_else(|| RefusedStream::overloaded("too many connections"))?;
        Ok((opened, counted))
    }

    fn peer(&self, peer: &GatewayId) -> Arc<AtomicUsize> {
        if let Some(streams) = self.peers.read().get(peer) {
            return streams.clone();
        }
        self.peers.write().entry(peer.clone()).or_default().clone()
    }

    fn rng(&self) -> SmallRng {
        SmallRng::seed_from_u64(self.seed.fetch_add(1, Ordering::Relaxed))
    }
}
