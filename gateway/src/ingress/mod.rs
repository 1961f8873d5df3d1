//! Ingress: takes the streams that other zones open to instances of this zone.
//!
//! It checks what the calling zone and the caller that it vouches for may ask for, picks and dials a healthy instance, answers `ready` or a refusal that
//! says whether another gateway can help, and relays. It never forwards to a third zone, so streams cannot loop.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use causeway_proto::tunnel::{Connect, stream_header::Kind};
use causeway_zone_sync::name::{GatewayId, ServiceName};
use futures_util::future::BoxFuture;
use parking_lot::{Mutex, RwLock};
use quinn::{RecvStream, SendStream};
use rand::{SeedableRng, rngs::SmallRng};

use crate::{
    instances::ConnectFailures,
    permit::{Reports, Rule},
    relay::{self, Meters, OpenConnection, OpenConnections, OpenGuard},
    snapshot::{Snapshot, Snapshots},
    telemetry::{AccessLog, AccessRecord, Metrics, Role},
    tunnel::{IncomingStream, Quiet, StreamHandler, Tunnel},
};

mod dial;
mod permission;
mod refuse;
mod report;
#[cfg(test)]
mod tests;

pub use dial::{DialError, Dialled, dial};
pub use refuse::Refused;

/// Connections from other zones that one gateway carries at once.
const DEFAULT_MAX_CONNECTIONS: usize = 100_000;
/// Streams that one peer gateway may have open at once, over all of its tunnels.
const DEFAULT_MAX_STREAMS_PER_PEER: usize = 50_000;
/// Longest wait for the last bytes of a finished connection to be acknowledged, while it still counts as open.
pub(crate) const MAX_LINGER: Duration = Duration::from_secs(5);

/// Limits of the ingress.
#[derive(Debug, Clone)]
pub struct IngressConfig {
    /// Number of data threads.
    pub threads: usize,
    pub max_connections: usize,
    pub max_streams_per_peer: usize,
    /// Is told which instances do not accept.
    pub failures: ConnectFailures,
}

impl IngressConfig {
    #[must_use]
    pub fn new(threads: usize) -> Self {
        Self {
            threads,
            max_connections: DEFAULT_MAX_CONNECTIONS,
            max_streams_per_peer: DEFAULT_MAX_STREAMS_PER_PEER,
            failures: ConnectFailures::default(),
        }
    }
}

/// Takes `connect` streams, on all data threads. A cheap handle; clones are the same ingress.
#[derive(Debug, Clone)]
pub struct Ingress {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: IngressConfig,
    snapshots: Snapshots,
    metrics: Arc<Metrics>,
    access: AccessLog,
    open: Arc<OpenConnections>,
    /// Streams under way by peer. Written only when a peer is seen for the first time.
    peers: RwLock<BTreeMap<GatewayId, Arc<AtomicUsize>>>,
    /// What was refused to whom, so that a peer that asks for ever does not fill the log.
    quiet: Mutex<Quiet<(GatewayId, &'static str)>>,
    /// Tells what permissions forbid.
    reports: Reports,
    draining: AtomicBool,
    seed: AtomicU64,
}

/// What a request has become when an instance was found.
struct Accepted {
    service: ServiceName,
    dialled: Dialled,
    ready_after: Duration,
    rule: Rule,
    opened: OpenGuard,
    counted: PeerGuard,
}

impl Ingress {
    #[must_use]
    pub fn new(
        config: IngressConfig,
        snapshots: Snapshots,
        metrics: Arc<Metrics>,
        access: AccessLog,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                open: OpenConnections::new(config.threads, config.max_connections),
                config,
                snapshots,
                reports: Reports::new(Role::Ingress, metrics.clone()),
                metrics,
                access,
                peers: RwLock::default(),
                quiet: Mutex::new(Quiet::new()),
                draining: AtomicBool::new(false),
                seed: AtomicU64::new(rand::random()),
            }),
        }
    }

    /// Refuses new streams from now on, with a reason that sends them elsewhere.
    pub fn drain(&self) {
        self.shared.draining.store(true, Ordering::Relaxed);
    }

    /// Resets every connection that is open.
    pub fn cut(&self) {
        self.shared.open.cut();
    }

    /// Ends every open connection that this snapshot does not permit any more.
    pub fn recheck(&self, snapshot: &Snapshot) {
        permission::recheck(&self.shared, snapshot);
    }

    #[must_use]
    pub fn open_connections(&self) -> &Arc<OpenConnections> {
        &self.shared.open
    }
}

impl StreamHandler for Ingress {
    fn handle(&self, stream: IncomingStream) -> BoxFuture<'static, ()> {
        Box::pin(serve(self.shared.clone(), stream))
    }
}

async fn serve(shared: Arc<Shared>, stream: IncomingStream) {
    let IncomingStream {
        header,
        mut send,
        mut recv,
        tunnel,
    } = stream;
    let begun = Instant::now();
    let Some(Kind::Connect(connect)) = header.kind else {
        let refused = Refused::bad_header("the header asks for nothing that this gateway serves");
        shared.refused(&Connect::default(), &tunnel, begun, &refused);
        return refuse::answer(refused, send, recv).await;
    };
    // Boxed, so that a connection does not carry the state of its setup for the rest of its life.
    let accepted = Box::pin(accept(&shared, &tunnel, &connect, &mut send)).await;
    match accepted {
        Ok(Some(accepted)) => carry(&shared, accepted, &tunnel, begun, &mut send, &mut recv).await,
        Ok(None) => {
            tracing::debug!(service = connect.service, peer = %tunnel.peer(), "the caller went elsewhere");
            let _ = send.reset(relay::code::RESET);
            let _ = recv.stop(relay::code::RESET);
        }
        Err(refused) => {
            shared.refused(&connect, &tunnel, begun, &refused);
            refuse::answer(refused, send, recv).await;
        }
    }
}

/// Finds and dials an instance and answers `ready`. `Ok(None)`: the caller gave up meanwhile.
async fn accept(
    shared: &Arc<Shared>,
    tunnel: &Arc<Tunnel>,
    connect: &Connect,
    send: &mut SendStream,
) -> Result<Option<Accepted>, Refused> {
    let begun = Instant::now();
    let (snapshot, request, opened, counted) = permission::admit(shared, tunnel, connect)?;
    let mut rng = shared.rng();
    let dialling = dial(
        &snapshot,
        &request.service,
        &request.tags,
        &shared.metrics,
        &shared.config.failures,
        &mut rng,
    );
    let gone = send.stopped();
    let dialled = tokio::select! {
        dialled = dialling => dialled?,
        _ = gone => return Ok(None),
        () = opened.hold().cut().cancelled() => return Err(permission::taken_back(opened.hold())),
    };
    if refuse::write_ready(send, &dialled.instance.tags).await.is_err() {
        return Ok(None);
    }
    Ok(Some(Accepted {
        service: request.service,
        dialled,
        ready_after: begun.elapsed(),
        rule: request.verdict.rule,
        opened,
        counted,
    }))
}

async fn carry(
    shared: &Shared,
    accepted: Accepted,
    tunnel: &Tunnel,
    begun: Instant,
    send: &mut SendStream,
    recv: &mut RecvStream,
) {
    let Accepted {
        service,
        dialled,
        ready_after,
        rule,
        opened,
        counted,
    } = accepted;
    let hold = opened.hold();
    let Dialled {
        mut socket,
        instance,
        load,
    } = dialled;
    shared
        .metrics
        .connection_opened(Role::Ingress.word(), service.as_str());
    let meter = shared.metrics.meter(Role::Ingress.word(), service.as_str());
    let meters = Meters {
        sent: meter.down,
        received: meter.up,
    };
    let relayed = relay::stream(&mut socket, send, recv, meters, hold.cut()).await;
    drop((socket, load));
    let zone = shared.snapshots.load().zone.clone();
    let (outcome, rule) = match hold.withdrawn() {
        Some(why) if relayed.end == relay::End::Cut => (why.outcome, why.rule.clone()),
        _ => (outcome(relayed.end), Some(rule)),
    };
    let record = AccessRecord {
        role: Role::Ingress,
        service,
        tags: instance.tags.clone(),
        client: None,
        from_zone: tunnel.peer().zone.clone(),
        to_zone: Some(zone),
        peer: Some(tunnel.peer().clone()),
        instance: Some(instance.id.clone()),
        outcome,
        attempts: 1,
        ready_after: Some(ready_after),
        duration: begun.elapsed(),
        bytes_up: relayed.received,
        bytes_down: relayed.sent,
        caller: hold.caller().map(|found| found.caller),
        rule,
    };
    shared.finish(&record);
    drop((record, counted));
    linger(relayed.end, send).await;
    drop(opened);
}

/// Keeps a finished connection in the list until its last bytes have arrived, so that a shutdown does not cut them off.
pub(crate) async fn linger(end: relay::End, send: &SendStream) {
    if end == relay::End::Finished {
        let _ = tokio::time::timeout(MAX_LINGER, send.stopped()).await;
    }
}

fn outcome(end: relay::End) -> &'static str {
    match end {
        relay::End::Finished => "served",
        relay::End::SocketReset => "instance_reset",
        relay::End::PeerReset => "client_reset",
        relay::End::LostRace => "lost_race",
        relay::End::TunnelLost => "tunnel_lost",
        relay::End::Cut => "cut",
    }
}

/// Counts one stream of a peer for as long as it lives.
struct PeerGuard(Arc<AtomicUsize>);

impl Drop for PeerGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shared {
    /// Takes a place for the connection, within the limits.
    fn admit(
        self: &Arc<Self>,
        tunnel: &Tunnel,
        service: &ServiceName,
    ) -> Result<(OpenGuard, PeerGuard), Refused> {
        if self.draining.load(Ordering::Relaxed) {
            return Err(Refused::draining());
        }
        let streams = self.peer(tunnel.peer());
        let before = streams.fetch_add(1, Ordering::Relaxed);
        let counted = PeerGuard(streams);
        if before >= self.config.max_streams_per_peer {
            return Err(Refused::overloaded("too many streams from this gateway"));
        }
        let connection = OpenConnection {
            role: Role::Ingress,
            service: service.clone(),
            client: None,
            local: None,
            peer: Some(tunnel.peer().clone()),
            shown: None,
            since: Instant::now(),
        };
        let opened = self.open.enter(tunnel.thread(), connection);
        let opened = opened.ok_or_else(|| Refused::overloaded("too many connections"))?;
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
