//! Which topology rules a gateway: a file (`--topology`), or what was applied last, beginning with `--initial-topology`.

use std::{path::Path, sync::Arc};

use causeway_zone_sync::topology::{Topology, applied};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Exit, Failure, gateway::Args};
use crate::{
    identity::{LiveIdentity, TlsError},
    reload::{LoadError, ReloadState, TopologyFile},
    telemetry::Metrics,
    topology::{AppliedConfig, AppliedTopology, Keys, OpenError},
};

/// What holds the topology of this gateway.
pub(super) enum Ruling {
    File(Arc<TopologyFile>),
    Applied {
        applied: AppliedTopology,
        /// Never changes: no file is read again.
        reload: watch::Sender<ReloadState>,
    },
}

impl Ruling {
    /// The inner error is a bad topology, which has lines to show.
    pub fn open(
        args: &Args,
        identity: &LiveIdentity,
        metrics: &Arc<Metrics>,
    ) -> Result<Result<Self, LoadError>, Failure> {
        if let Some(path) = &args.topology {
            if args.data.join(applied::FILE).exists() {
                tracing::info!(file = %path.display(),
                    "the file rules; what was applied to this gateway before is kept and not in force");
            }
            return Ok(TopologyFile::open(path.clone()).map(|file| Self::File(Arc::new(file))));
        }
        let config = AppliedConfig {
            id: identity.gateway().clone(),
            keys: keys(identity).map_err(|error| {
                Failure::new("cannot sign topologies with this gateway's key").because(&error)
            })?,
            trust_domain: identity.trust_domain().to_owned(),
            initial: args.initial_topology.clone(),
            data_dir: Some(args.data.clone()),
            metrics: metrics.clone(),
        };
        match AppliedTopology::open(config) {
            Ok(applied) => Ok(Ok(Self::Applied {
                applied,
                reload: watch::Sender::default(),
            })),
            Err(OpenError::Initial(error)) => Ok(Err(error)),
            Err(error) => Err(explain(&error, &args.data)),
        }
    }

    pub fn topology(&self) -> watch::Receiver<Arc<Topology>> {
        match self {
            Self::File(file) => file.topology(),
            Self::Applied { applied, .. } => applied.topology(),
        }
    }

    pub fn reload(&self) -> watch::Receiver<ReloadState> {
        match self {
            Self::File(file) => file.state(),
            Self::Applied { reload, .. } => reload.subscribe(),
        }
    }

    pub fn applied(&self) -> Option<AppliedTopology> {
        match self {
            Self::File(_) => None,
            Self::Applied { applied, .. } => Some(applied.clone()),
        }
    }

    /// Follows the file, if one rules, until `stop`. Holds on to what others receive from.
    pub async fn watch(self, metrics: Arc<Metrics>, stop: CancellationToken) {
        match self {
            Self::File(file) => file.watch(metrics, stop).await,
            Self::Applied { .. } => stop.cancelled().await,
        }
    }
}

fn keys(identity: &LiveIdentity) -> Result<Keys, TlsError> {
    Ok(Keys {
        signer: identity.signer()?,
        verifier: identity.verifier()?,
    })
}

fn explain(error: &OpenError, data: &Path) -> Failure {
    let failure = Failure::new("cannot start the gateway").because(error);
    match error {
        OpenError::DataDir { .. } => failure.hint("--data must be a folder that this user may write"),
        OpenError::Store { .. } => failure.hint("does another gateway use the same --data folder?"),
        OpenError::Nothing => failure.exit(Exit::Usage).hint(
            "give --topology FILE (the file rules) or --initial-topology FILE (`causeway apply` rules)",
        ),
        OpenError::Initial(_) | OpenError::Unusable(_) => failure.exit(Exit::BadInput).hint(format!(
            "run the version that applied them; or move {} away and give --initial-topology FILE",
            data.join(applied::FILE).display()
        )),
    }
}
