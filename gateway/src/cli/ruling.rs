//! Topology that rules a gateway: a file (`--topology`), or what was applied last, beginning with `--initial-topology`.

use std::{path::Path, sync::Arc};

use causeway_control::{
    ControlMetrics, TopologySource,
    reload::{LoadError, TopologyFile},
    topology::{AppliedConfig, AppliedTopology, Keys, TopologyOpenError},
};
use causeway_federation::topology::Style;
use causeway_identity::{LiveIdentity, TlsError};
use tokio_util::sync::CancellationToken;

use super::{Exit, Failure, gateway::GatewayArgs, start_failure::DATA_HINT};

/// Opens what the command line names. `None`: a topology cannot be used, and every finding was shown.
pub(super) fn open(
    args: &GatewayArgs,
    identity: &LiveIdentity,
    metrics: &Arc<ControlMetrics>,
) -> Result<Option<TopologySource>, Failure> {
    match &args.topology {
        Some(path) => {
            let kept = args.data.join(causeway_zone_sync::topology::applied::FILE);
            if kept.exists() {
                tracing::info!(file = %path.display(),
                    "the file rules; what was applied to this gateway before is kept and not in force");
            }
            match TopologyFile::open(path.clone()) {
                Ok(file) => Ok(Some(TopologySource::File(Arc::new(file)))),
                Err(error) => show(&error),
            }
        }
        None => open_applied(args, identity, metrics),
    }
}

fn open_applied(
    args: &GatewayArgs,
    identity: &LiveIdentity,
    metrics: &Arc<ControlMetrics>,
) -> Result<Option<TopologySource>, Failure> {
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
        Ok(applied) => Ok(Some(TopologySource::Applied(applied))),
        Err(TopologyOpenError::Initial(error)) => show(&error),
        Err(error) => Err(explain(&error, &args.data)),
    }
}

/// It has its own `error:` and `hint:` lines, one for each finding.
fn show(error: &LoadError) -> Result<Option<TopologySource>, Failure> {
    crate::output::tell(&error.render(Style::Colour));
    Ok(None)
}

/// Follows the file, if one rules, until `stop`.
pub(super) async fn watch(source: TopologySource, metrics: Arc<ControlMetrics>, stop: CancellationToken) {
    match source {
        TopologySource::File(file) => file.watch(metrics, stop).await,
        TopologySource::Applied(_) | TopologySource::Held(_) => stop.cancelled().await,
    }
}

fn keys(identity: &LiveIdentity) -> Result<Keys, TlsError> {
    Ok(Keys {
        signer: identity.signer()?,
        verifier: identity.verifier()?,
    })
}

fn explain(error: &TopologyOpenError, data: &Path) -> Failure {
    let failure = Failure::new("cannot start the gateway").because(error);
    match error {
        TopologyOpenError::DataDir { .. } => failure.hint("--data must be a folder that this user may write"),
        TopologyOpenError::Store { .. } => failure.hint(DATA_HINT),
        TopologyOpenError::Nothing => failure.exit(Exit::Usage).hint(
            "give --topology FILE (the file rules) or --initial-topology FILE (`causeway apply` rules)",
        ),
        TopologyOpenError::Initial(_) | TopologyOpenError::Unusable(_) => {
            failure.exit(Exit::BadInput).hint(format!(
                "run the version that applied them; or move {} away and give --initial-topology FILE",
                data.join(causeway_zone_sync::topology::applied::FILE).display()
            ))
        }
    }
}
