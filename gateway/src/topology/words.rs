//! What the log and the metrics are told of applied topologies.

use causeway_zone_sync::{
    name::GatewayId,
    topology::{
        Diff,
        applied::{Applied, Conflict, Document, Edition, Offered, Refusal, StoreError},
    },
};

use crate::telemetry::Metrics;

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

pub(super) fn taken(document: &Document, changes: &Diff) {
    let named: Vec<String> = changes
        .changes
        .iter()
        .take(MAX_CHANGES_LOGGED)
        .map(ToString::to_string)
        .collect();
    tracing::info!(
        generation = %document.edition(),
        by = %document.by(),
        changes = changes.changes.len(),
        "took up the applied topology: {}",
        if named.is_empty() { "it means the same".to_owned() } else { named.join("; ") }
    );
}

/// What became of a peer's document.
pub(super) fn offered(
    metrics: &Metrics,
    peer: &GatewayId,
    document: &Document,
    offered: &Result<Offered, Refusal>,
    applied: &Applied,
) {
    match offered {
        Ok(Offered::Nothing) => {}
        Ok(Offered::Taken { changes, conflict }) => {
            metrics.topology_document("taken");
            taken(document, changes);
            if let Some(conflict) = conflict {
                overruled(metrics, applied, *conflict);
            }
        }
        Ok(Offered::Overruled(conflict)) => overruled(metrics, applied, *conflict),
        Err(why) => {
            metrics.topology_document("refused");
            tracing::error!(%peer, generation = %document.edition(), by = %document.by(), reason = why.word(),
                in_force = %applied.edition(), error = why as &dyn std::error::Error,
                "an applied topology is refused and the old one stays in force; {}", why.hint());
        }
    }
}

/// A document that is not looked at any further.
pub(super) fn refused(metrics: &Metrics, peer: &GatewayId, why: &Refusal) {
    metrics.topology_document("refused");
    tracing::warn!(%peer, reason = why.word(), error = why as &dyn std::error::Error,
        "did not take an applied topology from a gateway; {}", why.hint());
}

fn overruled(metrics: &Metrics, applied: &Applied, conflict: Conflict) {
    metrics.topology_document("overruled");
    let Conflict { winner, loser } = conflict;
    tracing::error!(
        in_force = %winner, in_force_by = by(applied, winner), overruled = %loser, overruled_by = by(applied, loser),
        "two topologies were applied without knowing of each other: {} is in force, and {} is overruled. \
         It is kept: see `causeway get topology --history`, and apply what is still wanted of it",
        in_words(applied, winner), in_words(applied, loser)
    );
}

pub(super) fn not_stored(error: &StoreError) {
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
