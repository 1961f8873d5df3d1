//! The admin API: health endpoints, `/metrics` and the JSON under `/v1/` that the `causeway` commands read. It shows
//! state and takes registrations; it decides nothing, and whoever holds the state hands it in as [`AdminState`].
//!
//! On a unix socket, which only its owner and root can open, one may do everything; on loopback one may read, and change
//! something with a token. Elsewhere it speaks TLS with the gateway's identity, and clients show a token or a certificate
//! (`credentials`). What is asked to be changed is in the audit log wherever it comes from.

mod address;
mod api;
mod arm_checks;
mod bulk;
mod checks;
mod drains;
mod entry;
mod error;
mod explain;
mod explain_query;
mod explain_request;
mod guard;
mod history;
mod instances;
mod large;
mod netcheck;
mod permission;
mod ping;
mod reader;
mod readings;
mod scrape;
pub(crate) mod server;
mod shift_checks;
mod shift_metrics;
mod shifts;
mod stalled;
mod topology;
mod trust;
pub mod view;
mod zone_checks;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use causeway_control::{TopologySource, demand::DemandBook, trust::Trusted};
use causeway_history::History;
use causeway_host::{descriptors::Descriptors, handed::HandedSockets, tasks::Tasks};
use causeway_identity::LiveIdentity;
use causeway_instances::Instances;
use causeway_routing::{snapshot::Snapshots, target::Bindings};
use causeway_telemetry::{AccessLog, MetricsRegistry};
use causeway_tunnel::{TunnelMetrics, TunnelSet};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use address::{AdminAddress, AdminError};
pub(crate) use api::pages;
pub use bulk::{ListedInstance, ListedKey, MAX_ELEMENTS, OutcomeView, ReplacedView};
pub use checks::{REFUSED_LATELY_SECONDS, Readiness, diagnose_zone};
pub use drains::{DrainedView, stays_open};
pub(crate) use error::ApiError;
pub use explain::{ExplainedCandidate, ExplainedStep, ExplainedVerdict, Explanation};
pub use history::{EventsView, FiguresView};
pub use instances::{InstanceBody, RegisteredView};
pub(crate) use large::held;
pub use netcheck::{HeardView, ProbedView};
pub use permission::{CallersVerdict, CallersView, PermissionVerdict, PermissionView};
pub use ping::EchoView;
pub(crate) use reader::PageReader;
pub use readings::{LatestRefusal, OwnReading, ProcessReading, SyncReading, SyncReadings, TunnelReading};
pub use scrape::{ScrapeState, read as read_metrics, scrape};
pub use shifts::ShiftOrder;

use crate::{
    credentials::{ADMIN_API, Acceptor, Gate, ListenerProof},
    elsewhere::Elsewhere,
};

/// Protocol that is spoken over TLS.
const ALPN: &[&[u8]] = &[b"http/1.1"];

/// Address that the admin API listens on, and whether it may be open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminConfig {
    pub listen: AdminAddress,
    /// Allows an address other than loopback although everyone who reaches it may do everything.
    pub insecure: bool,
}

/// State that the admin API shows, as handles to state that others own.
#[derive(Clone)]
pub struct AdminState {
    pub snapshots: Snapshots,
    pub tunnels: Arc<TunnelSet>,
    pub metrics: Arc<MetricsRegistry>,
    /// Keeps the totals of tunnels that have ended.
    pub tunnel_metrics: Arc<TunnelMetrics>,
    pub instances: Instances,
    /// Knows what the clients of this gateway ask for.
    pub demand: DemandBook,
    pub readiness: Readiness,
    /// Reads what zone sync knows of each other gateway now.
    pub sync: Arc<dyn Fn() -> SyncReadings + Send + Sync>,
    /// Reads what the egress listens on now.
    pub bindings: Arc<dyn Fn() -> Bindings + Send + Sync>,
    /// Source of the topology that rules.
    pub topology: TopologySource,
    /// Of this gateway: TLS is spoken with it; who it is and whom it believes is shown.
    pub identity: LiveIdentity,
    /// The trust document; `None`: none can be handed in.
    pub trust: Option<Trusted>,
    /// Only its count of dropped lines is shown.
    pub access: AccessLog,
    /// Gate that knows who may do what, and writes it down.
    pub gate: Gate,
    /// Way to the admin APIs of other zones.
    pub elsewhere: Elsewhere,
    /// Record of what happened.
    pub history: History,
    /// Every task that lives as long as the gateway.
    pub tasks: Tasks,
    /// Descriptors that connections may take.
    pub descriptors: Descriptors,
    /// Sockets of the process before, and those for the next.
    pub handed: HandedSockets,
    /// Flags that this process was started with.
    pub settings: Arc<[view::SettingView]>,
    pub started: Instant,
}

impl fmt::Debug for AdminState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminState").finish_non_exhaustive()
    }
}

/// The running admin API.
#[derive(Debug)]
pub struct Admin {
    address: AdminAddress,
    stop: CancellationToken,
    /// Another process accepts at its socket.
    is_succeeded: Arc<AtomicBool>,
    server: JoinHandle<()>,
}

impl Admin {
    /// Binds the address and serves on the current runtime until [`Admin::shutdown`].
    ///
    /// # Errors
    /// When the address is not allowed or cannot be bound.
    pub async fn start(config: AdminConfig, state: AdminState) -> Result<Self, AdminError> {
        let guarded = config.listen.is_open() && !config.insecure;
        let acceptor =
            (guarded && state.gate.is_guarded()).then(|| Acceptor::new(state.identity.clone(), ALPN));
        config.listen.check(config.insecure || acceptor.is_some())?;
        let listener = server::AdminListener::bind(&config.listen, &state.handed).await?;
        let address = listener.address();
        let tls = acceptor.is_some();
        let doorway = server::Doorway::new(ADMIN_API, acceptor, state.gate.clone());
        let entry = entry::GatedListener {
            gate: state.gate.clone(),
            access: ListenerProof::of(config.insecure),
        };
        let (tasks, descriptors) = (state.tasks.clone(), state.descriptors.clone());
        let (hosts, stop) = (
            guard::Hosts::of(&address, config.insecure),
            CancellationToken::new(),
        );
        let router = api::router(state, entry, hosts, stop.clone());
        let is_succeeded = Arc::<AtomicBool>::default();
        let serving = server::serve(
            (listener, descriptors),
            doorway,
            router,
            (stop.clone(), is_succeeded.clone()),
        );
        let server = tokio::spawn(tasks.keep(format!("admin API at {address}"), serving));
        tracing::info!(%address, tls, "the admin API listens");
        if config.insecure && config.listen.is_open() {
            tracing::warn!(%address, "whoever reaches the admin API may do everything: it was started with --admin-insecure");
        }
        Ok(Self {
            address,
            stop,
            is_succeeded,
            server,
        })
    }

    /// Returns the address that it listens on, with the port that the system chose if 0 was asked for.
    #[must_use]
    pub fn local_addr(&self) -> &AdminAddress {
        &self.address
    }

    /// Leaves the socket to another process: stops accepting, and finishes the requests under way, of those too who have just connected.
    pub async fn hand_over(self) {
        self.is_succeeded.store(true, Ordering::Relaxed);
        self.shutdown().await;
    }

    /// Stops accepting, finishes the requests under way within a few seconds and removes the unix socket.
    pub async fn shutdown(self) {
        self.stop.cancel();
        // The server task ends by itself; an error here means it panicked, which was logged where it happened.
        let _ = self.server.await;
    }
}
