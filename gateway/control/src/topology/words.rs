//! Words of the log and the metrics on applied topologies.

use causeway_federation::{
    edition::Edition,
    name::GatewayId,
    topology::{
        Diff,
        applied::{Applied, OfferedTopology, TopologyConflict, TopologyDocument, TopologyRefusal},
    },
};
use causeway_zone_sync::topology::applied::TopologyFileError;

use crate::ControlMetrics;

/// Most changes that one log line names.
const MAX_CHANGES_LOGGED: usize = 20;

/// At the start.
pub(super) fn begun(applied: &Applied) {
    match applied.document() {
        Some(document) => tracing::info!(generation = %document.edition(), by = %document.by(),
            "the topology that was applied last is in force"),
        None => tracing::info!("the initial topology is in force; nothing was applied yet"),
    }
    for (edition, refused) in applied.refused() {
        tracing::error!(generation = %edition, by = %refused.by, in_force = %applied.edition(),
            error = &refused.why as &dyn std::error::Error,
            "this program cannot use a topology that was applied here; the one before it is in force");
    }
}

pub(super) fn taken(document: &TopologyDocument, changes: &Diff) {
    let named: Vec<String> = changes
        .changes
        .iter()
        .take(MAX_CHANGES_LOGGED)
        .map(ToString::to_string)
        .collect();
    tracing::info!(
        generation = %document.edition(),
        by = %document.by(),
        reason = document.reason(),
        changes = changes.changes.len(),
        "took up the applied topology: {}",
        if named.is_empty() { "it means the same".to_owned() } else { named.join("; ") }
    );
}

/// Tells the log and the metrics what became of a peer's document.
pub(super) fn offered(
    metrics: &ControlMetrics,
    peer: &GatewayId,
    document: &TopologyDocument,
    offered: &Result<OfferedTopology, TopologyRefusal>,
    applied: &Applied,
) {
    match offered {
        Ok(OfferedTopology::Nothing) => {}
        Ok(OfferedTopology::Taken { changes, conflict }) => {
            metrics.topology_document("taken");
            taken(document, changes);
            if let Some(conflict) = conflict {
                overruled(metrics, applied, *conflict);
            }
        }
        Ok(OfferedTopology::Overruled(conflict)) => overruled(metrics, applied, *conflict),
        Err(why) => {
            metrics.topology_document("refused");
            tracing::error!(%peer, generation = %document.edition(), by = %document.by(), reason = why.word(),
                in_force = %applied.edition(), error = why as &dyn std::error::Error,
                "an applied topology is refused and the old one stays in force; {}", why.hint());
        }
    }
}

/// A document that is not looked at any further.
pub(super) fn refused(metrics: &ControlMetrics, peer: &GatewayId, why: &TopologyRefusal) {
    metrics.topology_document("refused");
    tracing::warn!(%peer, reason = why.word(), error = why as &dyn std::error::Error,
        "did not take an applied topology from a gateway; {}", why.hint());
}

fn overruled(metrics: &ControlMetrics, applied: &Applied, conflict: TopologyConflict) {
    metrics.topology_document("overruled");
    let TopologyConflict { winner, loser } = conflict;
    tracing::error!(
        in_force = %winner, in_force_by = by(applied, winner), overruled = %loser, overruled_by = by(applied, loser),
        "two topologies were applied without knowing of each other: {} is in force, and {} is overruled. \
         It is kept: see `causeway get topology --history`, and apply what is still wanted of it",
        in_words(applied, winner), in_words(applied, loser)
    );
}

pub(super) fn not_stored(error: &TopologyFileError) {
    tracing::error!(
        error = error as &dyn std::error::Error,
        "the applied topology is in force, but not on disk: a restart would go back to an older one"
    );
}

/// `generation 7 (6a1b2c3d4e5f) of east/gw1`.
pub(super) fn in_words(applied: &Applied, edition: Edition) -> String {
    format!("generation {edition} of {}", by(applied, edition))
}

fn by(applied: &Applied, edition: Edition) -> String {
    let entries = applied.history();
    let found = entries.iter().find(|entry| entry.document.edition() == edition);
    found.map_or_else(
        || "an unknown gateway".to_owned(),
        |entry| entry.document.by().to_string(),
    )
}
