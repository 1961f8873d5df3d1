//! The admin API: health endpoints, `/metrics` and the JSON under `/v1/` that the `causeway` commands read. It shows
//! state and takes registrations; it decides nothing, and whoever holds the state hands it in as [`AdminState`].
//!
//! It has no authentication yet, so it listens on loopback or on a unix socket that only its owner can open.

mod address;
mod api;
mod bulk;
mod checks;
mod error;
mod explain;
mod guard;
mod instances;
pub(crate) mod server;
mod topology;
mod trust;
pub mod view;

use std::{fmt, sync::Arc, time::Instant};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use address::{AdminAddress, AdminError};
pub use bulk::{ListedInstance, ListedKey, MAX_ELEMENTS, OutcomeView, ReplacedView};
pub use checks::{Check, Readiness, Status};
pub use explain::{Candidate, Explanation, Step, Verdict};
pub use instances::{InstanceBody, RegisteredView};

use crate::{
    identity::LiveIdentity,
    instances::Instances,
    snapshot::Snapshots,
    target::Bindings,
    telemetry::{AccessLog, Metrics, SyncReadings},
    topology::AppliedTopology,
    trust::Trusted,
    tunnel::TunnelSet,
};

/// Where the admin API listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminConfig {
    pub listen: AdminAddress,
    /// Allows an address other than loopback although everyone who reaches it may do everything.
    pub insecure: bool,
}

/// What the admin API shows, as handles to state that others own.
#[derive(Clone)]
pub struct AdminState {
    pub snapshots: Snapshots,
    pub tunnels: Arc<TunnelSet>,
    pub metrics: Arc<Metrics>,
    pub instances: Instances,
    pub readiness: Readiness,
    /// What zone sync knows of each other gateway now.
    pub sync: Arc<dyn Fn() -> SyncReadings + Send + Sync>,
    /// What the egress listens on now.
    pub bindings: Arc<dyn Fn() -> Bindings + Send + Sync>,
    /// Applied topologies; `None`: a file rules.
    pub applied: Option<AppliedTopology>,
    /// Of this gateway; only who it is and whom it believes is shown.
    pub identity: LiveIdentity,
    /// The trust document; `None`: none can be handed in.
    pub trust: Option<Trusted>,
    /// Only its count of dropped lines is shown.
    pub access: AccessLog,
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
    server: JoinHandle<()>,
}

impl Admin {
    /// Binds the address and serves on the current runtime until [`Admin::shutdown`].
    ///
    /// # Errors
    /// When the address is not allowed or cannot be bound.
    pub async fn start(config: AdminConfig, state: AdminState) -> Result<Self, AdminError> {
        config.listen.check(config.insecure)?;
        let listener = server::Listener::bind(&config.listen).await?;
        let address = listener.address();
        let router = api::router(state, guard::Hosts::of(&address, config.insecure));
        let stop = CancellationToken::new();
        let server = tokio::spawn(server::serve(listener, router, stop.clone()));
        tracing::info!(%address, "the admin API listens");
        Ok(Self {
            address,
            stop,
            server,
        })
    }

    /// Where it listens, with the port that the system chose if 0 was asked for.
    #[must_use]
    pub fn local_addr(&self) -> &AdminAddress {
        &self.address
    }

    /// Stops accepting, finishes the requests under way within a few seconds and removes the unix socket.
    pub async fn shutdown(self) {
        self.stop.cancel();
        // The server task ends by itself; an error here means it panicked, which was logged where it happened.
        let _ = self.server.await;
    }
}
