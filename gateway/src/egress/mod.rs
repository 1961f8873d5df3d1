//! Egress: takes local clients' connections to virtual addresses and gives each to an instance, here or in another zone.
//!
//! Two promises hold together (see `ARCHITECTURE.md`): a connection that no instance has been given is never lost to a
//! dead zone, and no instance is ever given bytes that another was given. The client's bytes stay in the kernel until
//! one candidate has answered `ready`; until then, any candidate can be left for the next.
//!
//! The exception: for a service marked `early`, the first bytes travel with the header, and are kept to be given to the
//! next candidate too. The first promise holds for it; the second does not.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use causeway_zone_sync::name::ServiceName;
use parking_lot::Mutex;
use rand::{SeedableRng, rngs::SmallRng};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    callers::Callers,
    instances::ConnectFailures,
    permit::Reports,
    relay::OpenConnections,
    snapshot::{Snapshot, Snapshots},
    target::Bindings,
    telemetry::{AccessLog, Metrics, Role},
    tunnel::{Quiet, TunnelSet},
    vips::Listening,
};
use tls::Door;

mod accept;
mod ask;
mod client;
mod connect;
mod connection;
mod listen;
mod pace;
mod permission;
#[cfg(test)]
mod tests;
mod tls;

pub use listen::BindFailure;
pub use tls::TlsListen;

/// Local connections that one gateway carries at once.
const DEFAULT_MAX_CONNECTIONS: usize = 100_000;
/// Connections that one virtual address and port carries at once, per data thread.
const DEFAULT_MAX_CONNECTIONS_PER_LISTENER: usize = 50_000;
/// How long a client waits for an instance before it is reset.
const DEFAULT_SETUP_DEADLINE: Duration = Duration::from_secs(5);

/// Limits of the egress.
#[derive(Debug, Clone)]
pub struct EgressConfig {
    /// Number of data threads.
    pub threads: usize,
    pub max_connections: usize,
    pub max_connections_per_listener: usize,
    pub setup_deadline: Duration,
    /// Is told which addresses are listened on.
    pub listening: Arc<Listening>,
    /// Is told which instances do not accept.
    pub failures: ConnectFailures,
    /// Finds out who local clients are.
    pub callers: Callers,
    /// Takes clients that show a certificate; `None`: nowhere.
    pub tls: Option<TlsListen>,
}

impl EgressConfig {
    #[must_use]
    pub fn new(threads: usize) -> Self {
        Self {
            threads,
            max_connections: DEFAULT_MAX_CONNECTIONS,
            max_connections_per_listener: DEFAULT_MAX_CONNECTIONS_PER_LISTENER,
            setup_deadline: DEFAULT_SETUP_DEADLINE,
            listening: Arc::default(),
            failures: ConnectFailures::default(),
            callers: Callers::default(),
            tls: None,
        }
    }
}

/// The egress of one gateway, on all data threads. A cheap handle; clones are the same egress.
#[derive(Debug, Clone)]
pub struct Egress {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: EgressConfig,
    snapshots: Snapshots,
    tunnels: Arc<TunnelSet>,
    metrics: Arc<Metrics>,
    access: AccessLog,
    open: Arc<OpenConnections>,
    /// By address and data thread.
    bind_failures: Mutex<BTreeMap<(SocketAddr, usize), BindFailure>>,
    /// Which services could not be reached and why, so that an outage does not fill the log.
    quiet: Mutex<Quiet<(ServiceName, &'static str)>>,
    /// Tells what permissions forbid.
    reports: Reports,
    /// Where clients with certificates come in.
    door: Option<Arc<Door>>,
    drain: CancellationToken,
    seed: AtomicU64,
}

impl Egress {
    #[must_use]
    pub fn new(
        config: EgressConfig,
        snapshots: Snapshots,
        tunnels: Arc<TunnelSet>,
        metrics: Arc<Metrics>,
        access: AccessLog,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                open: OpenConnections::new(config.threads, config.max_connections),
                door: config.tls.as_ref().map(|listen| Arc::new(Door::new(listen))),
                config,
                snapshots,
                tunnels,
                reports: Reports::new(Role::Egress, metrics.clone()),
                metrics,
                access,
                bind_failures: Mutex::default(),
                quiet: Mutex::new(Quiet::new()),
                drain: CancellationToken::new(),
                seed: AtomicU64::new(rand::random()),
            }),
        }
    }

    /// Listens and serves on this data thread, until [`Egress::drain`] or until the sender of `bindings` is gone. Must run
    /// on the runtime of data thread `thread`, once for each; connections live on after it returns.
    pub async fn run(&self, thread: usize, bindings: watch::Receiver<Bindings>) {
        tokio::join!(
            listen::reconcile(self.shared.clone(), thread, bindings),
            listen::take_callers(self.shared.clone(), thread),
        );
    }

    /// Ends connections whose client's certificate is not believed any more. Runs until it is dropped, once.
    pub async fn keep_checking_certificates(&self) {
        match &self.shared.config.tls {
            Some(listen) => tls::keep_checking(self.shared.clone(), listen.identity.clone()).await,
            None => std::future::pending().await,
        }
    }

    /// Addresses that some data thread cannot listen on now, one entry for each address.
    #[must_use]
    pub fn bind_failures(&self) -> Vec<BindFailure> {
        let failures = self.shared.bind_failures.lock();
        let by_address: BTreeMap<SocketAddr, &BindFailure> =
            failures.values().map(|f| (f.address, f)).collect();
        by_address.into_values().cloned().collect()
    }

    /// Stops accepting. Connections under way go on.
    pub fn drain(&self) {
        self.shared.drain.cancel();
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

impl Shared {
    fn rng(&self) -> SmallRng {
        SmallRng::seed_from_u64(self.seed.fetch_add(1, Ordering::Relaxed))
    }
}
