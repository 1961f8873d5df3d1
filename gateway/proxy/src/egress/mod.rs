//! Egress: takes local clients' connections to virtual addresses and gives each to an instance, here or in another zone.
//!
//! Two promises hold together (see `ARCHITECTURE.md`): a connection that no instance has been given is never lost to a
//! dead zone, and no instance is ever given bytes that another was given. The client's bytes stay in the kernel until
//! one candidate has answered `ready`; until then, any candidate can be left for the next.
//!
//! The exception: for a service marked `early`, the first bytes travel with the header, and are kept to be given to the
//! next candidate too. The first promise holds for it; the second does not. The same holds for a request of HTTP that may be made
//! twice: it travels with the header of a stream beside which no other is asked for.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use causeway_dns::vips::Listening;
use causeway_federation::name::ServiceName;
use causeway_host::{
    descriptors::Descriptors,
    handed::HandedSockets,
    own_sockets::{OwnSockets, SocketPair},
    port_holder::PortHolders,
    tasks::Tasks,
};
use causeway_routing::{
    budget::Budgets,
    failures::ConnectFailures,
    limit_shares::LimitUse,
    limits::CarriedLimits,
    outlier::CarriedEjection,
    reach::OwnListeners,
    snapshot::{Snapshot, Snapshots},
    target::Bindings,
};
use causeway_telemetry::{AccessLog, ConnectionId, RateLimited, Role, Tracer};
use causeway_tunnel::TunnelSet;
use parking_lot::Mutex;
use rand::{Rng as _, SeedableRng, rngs::SmallRng};
use tokio::sync::{Semaphore, SetOnce, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    ProxyMetrics,
    callers::{Callers, Endpoints},
    http::limits::MAX_MIRRORED,
    moving::FollowingConnections,
    open::OpenConnections,
    reports::PermissionReports,
};
use dispatch::DispatchEnds;
use http::UnreadBytes;
use limits::ServiceLimits;
use listen::{AcceptingThread, Opening};
use outliers::Outliers;
use recent::RecentSnapshots;
use redirect::Redirect;
use returning::Returning;
use tls::TlsEntrance;

mod accept;
mod arrival;
mod ask;
mod bind;
mod carried;
mod client;
mod connect;
mod connection;
mod coverage;
mod dispatch;
mod early;
mod giving_way;
mod http;
mod layout;
mod limits;
mod listen;
mod order;
mod outliers;
mod pace;
mod permission;
mod recent;
mod redirect;
mod returning;
mod routes;
mod shift_ends;
#[cfg(test)]
mod tests;
mod tls;
mod trace;
mod upstream;

pub use bind::BindFailure;
pub use redirect::{REDIRECT_PORT, RedirectConfig, RedirectError, RedirectStatus};
pub use tls::{Outlive, TlsListen};

/// Local connections that one gateway carries at once.
const DEFAULT_MAX_CONNECTIONS: usize = 100_000;
/// Connections that one virtual address and port carries at once, per data thread.
const DEFAULT_MAX_CONNECTIONS_PER_LISTENER: usize = 50_000;
/// Longest time that a client waits for an instance before it is reset.
const DEFAULT_SETUP_DEADLINE: Duration = Duration::from_secs(5);
/// Time for which clients still wait for a service to come back after nobody could serve it any more.
const DEFAULT_GRACE: Duration = Duration::from_secs(3);

/// Limits of the egress.
#[derive(Debug, Clone)]
pub struct EgressConfig {
    /// Number of data threads.
    pub threads: usize,
    pub max_connections: usize,
    pub max_connections_per_listener: usize,
    pub setup_deadline: Duration,
    /// Longest time that bytes may wait of which the other side takes none.
    pub stall_limit: Duration,
    /// Longest time without a byte once one side of a connection has finished; `None`: any.
    pub half_closed_limit: Option<Duration>,
    /// Silence after which the sockets of clients and instances are probed; `None`: never.
    pub keepalive: Option<Duration>,
    /// Time for which clients still wait, instead of being reset at once, after nobody could serve a service any more.
    pub grace: Duration,
    /// Is told which addresses are listened on.
    pub listening: Arc<Listening>,
    /// Addresses at which this process listens; told of those at every address of the host, too.
    pub own: watch::Sender<OwnListeners>,
    /// Is told which instances do not accept.
    pub failures: Arc<dyn ConnectFailures>,
    /// Finds out who local clients are.
    pub callers: Callers,
    /// Takes clients that show a certificate; `None`: nowhere.
    pub tls: Option<TlsListen>,
    /// Has the kernel redirect clients to one port; `None`: every virtual address is listened on.
    pub redirect: Option<RedirectConfig>,
    /// Descriptors that clients and listeners may take.
    pub descriptors: Descriptors,
    /// Every task that lives as long as the gateway.
    pub tasks: Tasks,
    /// Connections that this gateway has opened itself.
    pub own_sockets: OwnSockets,
    /// Sockets of the process before, and those for the next.
    pub handed: HandedSockets,
    /// Ejections of the process before.
    pub ejections: Vec<CarriedEjection>,
    /// Limits as the process before has left them.
    pub limits: CarriedLimits,
    /// Clients are accepted only once [`Egress::accept_clients`] says so: the process before serves them.
    pub holds_back: bool,
    /// Makes spans of connections and requests.
    pub tracer: Tracer,
}

impl EgressConfig {
    #[must_use]
    pub fn new(threads: usize) -> Self {
        Self {
            threads,
            max_connections: DEFAULT_MAX_CONNECTIONS,
            max_connections_per_listener: DEFAULT_MAX_CONNECTIONS_PER_LISTENER,
            setup_deadline: DEFAULT_SETUP_DEADLINE,
            stall_limit: crate::relay::STALL_LIMIT,
            half_closed_limit: Some(crate::relay::HALF_CLOSED_LIMIT),
            keepalive: Some(crate::keepalive::KEEPALIVE),
            grace: DEFAULT_GRACE,
            listening: Arc::default(),
            own: watch::Sender::default(),
            failures: Arc::new(()),
            callers: Callers::default(),
            tls: None,
            redirect: None,
            descriptors: Descriptors::default(),
            tasks: Tasks::default(),
            own_sockets: OwnSockets::default(),
            handed: HandedSockets::default(),
            ejections: Vec::new(),
            limits: CarriedLimits::default(),
            holds_back: false,
            tracer: Tracer::default(),
        }
    }

    /// Connections that one virtual address and port carries at once, on all data threads.
    fn max_connections_per_address(&self) -> usize {
        self.max_connections_per_listener
            .saturating_mul(self.threads.max(1))
    }
}

/// The egress of one gateway, on all data threads. A cheap handle; clones are the same egress.
#[derive(Debug, Clone)]
pub struct Egress {
    shared: Arc<EgressShared>,
}

#[derive(Debug)]
struct EgressShared {
    config: EgressConfig,
    snapshots: Snapshots,
    tunnels: Arc<TunnelSet>,
    metrics: Arc<ProxyMetrics>,
    access: AccessLog,
    open: Arc<OpenConnections>,
    places: bind::SocketPlaces,
    opening: Opening,
    /// Sockets for a whole port that cannot be had: what they would cover is listened on address by address.
    apart: watch::Sender<BTreeSet<SocketAddr>>,
    bind_failures: Mutex<BTreeMap<SocketAddr, BindFailure>>,
    holders: PortHolders,
    dispatch: DispatchEnds,
    /// Services that could not be reached and why, so that an outage does not fill the log.
    rate_limited: Mutex<RateLimited<(ServiceName, &'static str)>>,
    /// Snapshots of the last few seconds.
    recent: RecentSnapshots,
    /// Allowance that is left for asking candidates again. Locked for one look-up.
    budgets: Mutex<Budgets>,
    outliers: Outliers,
    limits: ServiceLimits,
    /// Places of copies of requests.
    mirrors: Arc<Semaphore>,
    /// Bytes of answers that clients of HTTP/2 do not read.
    unread: UnreadBytes,
    /// Tells what permissions forbid.
    reports: PermissionReports,
    /// Clients that are connections of other gateways.
    returning: Returning,
    /// Entrance of clients with certificates.
    tls: Option<Arc<TlsEntrance>>,
    redirect: Option<Redirect>,
    /// Clients that can come back are asked to, those that ask for something within this time.
    drain: SetOnce<Duration>,
    /// Nobody is accepted any more.
    closed: CancellationToken,
    /// Cancelled once clients are to be accepted.
    accepts: CancellationToken,
    /// Data threads that accept or start clients.
    accepting: watch::Sender<usize>,
    seed: AtomicU64,
}

impl Egress {
    #[must_use]
    pub fn new(
        config: EgressConfig,
        snapshots: Snapshots,
        tunnels: Arc<TunnelSet>,
        metrics: Arc<ProxyMetrics>,
        access: AccessLog,
    ) -> Self {
        let open = OpenConnections::new(config.threads, config.max_connections);
        Self {
            shared: Arc::new(EgressShared {
                dispatch: DispatchEnds::new(config.threads, &open),
                opening: Opening::new(config.threads),
                open,
                places: bind::SocketPlaces::new(
                    config.own.clone(),
                    config.descriptors.clone(),
                    config.handed.clone(),
                ),
                apart: watch::Sender::default(),
                recent: RecentSnapshots::new(config.grace),
                budgets: Mutex::default(),
                outliers: Outliers::carrying_on(&config.ejections, &snapshots.load()),
                limits: ServiceLimits::carrying_on(&config.limits),
                mirrors: Arc::new(Semaphore::new(MAX_MIRRORED)),
                unread: UnreadBytes::default(),
                tls: config
                    .tls
                    .as_ref()
                    .map(|listen| Arc::new(TlsEntrance::new(listen))),
                redirect: config.redirect.clone().map(Redirect::new),
                config,
                snapshots,
                tunnels,
                reports: PermissionReports::new(Role::Egress, metrics.clone()),
                returning: Returning::default(),
                metrics,
                access,
                bind_failures: Mutex::default(),
                holders: PortHolders::default(),
                rate_limited: Mutex::new(RateLimited::new()),
                drain: SetOnce::new(),
                closed: CancellationToken::new(),
                accepts: CancellationToken::new(),
                accepting: watch::Sender::default(),
                seed: AtomicU64::new(rand::random()),
            }),
        }
    }

    /// Listens and serves on this data thread, until [`Egress::close`] or until the sender of `bindings` is gone, and no
    /// data thread accepts any more. Must run on the runtime of data thread `thread`, once for each; connections live on after it
    /// returns.
    pub async fn run(&self, thread: usize, bindings: watch::Receiver<Bindings>) {
        let shared = self.shared.clone();
        let Some((dispatch, given)) = shared.dispatch.take(thread) else {
            return;
        };
        let _accepting = Accepting::new(shared.clone());
        let here = AcceptingThread {
            shared: shared.clone(),
            thread,
            dispatch,
        };
        let opening = shared.opening.begin();
        let listening = async move {
            tokio::join!(
                listen::reconcile(here.clone(), bindings, opening.clone()),
                listen::listen_for_tls(here, opening),
            );
        };
        let serving = async {
            tokio::join!(listening, accept::serve_given(shared, thread, given));
        };
        if thread == 0 {
            let keeping = self.shared.recent.keep(&self.shared.snapshots);
            let letting_back = self
                .shared
                .outliers
                .keep(&self.shared.snapshots, &self.shared.metrics);
            tokio::select! {
                () = serving => {}
                () = keeping => {}
                () = letting_back => {}
            }
        } else {
            serving.await;
        }
    }

    /// Waits until every socket that is wanted from the start listens, so that clients can connect. One that cannot be bound is not waited
    /// for. Data threads must run by now.
    pub async fn opened(&self) {
        self.shared.opening.done().await;
    }

    /// Ends connections whose client's certificate is not believed any more. Runs until it is dropped, once.
    pub async fn keep_checking_certificates(&self) {
        match &self.shared.tls {
            Some(entrance) => tls::recheck_certificates(self.shared.clone(), entrance.clone()).await,
            None => std::future::pending().await,
        }
    }

    /// Has open connections follow what the topology says and where their services are, until the sender of `generation`, which
    /// tells of new snapshots, is gone. Runs until it is dropped, once.
    pub async fn keep_moving(&self, generation: watch::Receiver<u64>) {
        let following = FollowingConnections {
            role: Role::Egress,
            open: self.shared.open.clone(),
            snapshots: self.shared.snapshots.clone(),
            metrics: self.shared.metrics.clone(),
        };
        following.keep_moving(generation).await;
    }

    /// Has the kernel redirect clients, where that is wanted. Data threads must run by now.
    ///
    /// # Errors
    /// Clients cannot be redirected.
    pub async fn start_redirect(&self, bindings: &watch::Receiver<Bindings>) -> Result<(), RedirectError> {
        match &self.shared.redirect {
            Some(redirect) => redirect.start(&self.shared, bindings).await,
            None => Ok(()),
        }
    }

    /// Keeps clients redirected as `bindings` say. Runs until it is dropped, once.
    pub async fn keep_redirect(&self, bindings: watch::Receiver<Bindings>) {
        match &self.shared.redirect {
            Some(redirect) => redirect.keep(&self.shared, bindings).await,
            None => std::future::pending().await,
        }
    }

    /// Has the kernel redirect nobody any more, also not those whose connections are open.
    pub async fn remove_redirect(&self) {
        if let Some(redirect) = &self.shared.redirect {
            redirect.remove().await;
        }
    }

    /// State of the redirect; `None`: there is to be none.
    #[must_use]
    pub fn redirect_status(&self) -> Option<RedirectStatus> {
        self.shared.redirect.as_ref().map(Redirect::status)
    }

    /// Addresses that cannot be listened on now.
    #[must_use]
    pub fn bind_failures(&self) -> Vec<BindFailure> {
        self.shared.bind_failures.lock().values().cloned().collect()
    }

    /// Use of limits of services by clients, for the other gateways of the zone.
    #[must_use]
    pub fn limit_uses(&self) -> Vec<LimitUse> {
        self.shared.limits.uses()
    }

    /// Descriptors that clients and listeners may take.
    #[must_use]
    pub fn descriptors(&self) -> &Descriptors {
        &self.shared.config.descriptors
    }

    /// Asks every client of HTTP to come back on a new connection, with the answer to its next request if that comes `within` a time. Others go on,
    /// and whoever comes is served.
    pub fn drain(&self, within: Duration) {
        self.shared.open.drain();
        let _ = self.shared.drain.set(within);
    }

    /// Stops accepting. Connections under way go on.
    pub fn close(&self) {
        self.shared.closed.cancel();
    }

    /// Waits until every client that was accepted is among the open connections, and no other can come.
    pub async fn closed(&self) {
        let mut accepting = self.shared.accepting.subscribe();
        // The sender is held here.
        let _ = accepting.wait_for(|threads| *threads == 0).await;
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

/// Counts a data thread for as long as it accepts.
struct Accepting(Arc<EgressShared>);

impl Accepting {
    fn new(shared: Arc<EgressShared>) -> Self {
        shared.accepting.send_modify(|threads| *threads += 1);
        Self(shared)
    }
}

impl Drop for Accepting {
    fn drop(&mut self) {
        self.0.accepting.send_modify(|threads| *threads -= 1);
    }
}

#[cfg(test)]
impl Egress {
    fn unread_answers(&self) -> usize {
        self.shared.unread.count()
    }
}

impl EgressShared {
    /// Both ends of a client's connection, with which `open` of its service are under way, and the number of gateways that it
    /// has come through.
    async fn come_through(
        self: &Arc<Self>,
        ends: Endpoints,
        service: &ServiceName,
        open: u64,
    ) -> (SocketPair, u8) {
        let pair = SocketPair::new(ends.client, ends.local);
        let hops = match self.config.own_sockets.hops(pair) {
            Some(hops) => hops,
            None => returning::hops(self, ends.client, pair, service, open).await,
        };
        (pair, hops)
    }

    fn connection_id(&self) -> ConnectionId {
        ConnectionId::new(self.rng().random())
    }

    fn seed(&self) -> u64 {
        self.seed.fetch_add(1, Ordering::Relaxed)
    }

    fn rng(&self) -> SmallRng {
        SmallRng::seed_from_u64(self.seed())
    }
}
