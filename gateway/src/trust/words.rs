//! What the log and the metrics are told of trust documents.

use causeway_zone_sync::{
    name::GatewayId,
    trust::{Conflict, Document, Refusal},
};

use crate::telemetry::Metrics;

/// `peer`: who had it; `None`: an operator handed it in.
pub(super) fn taken(document: &Document, peer: Option<&GatewayId>) {
    let content = document.content();
    let from = peer.map_or_else(|| "an operator".to_owned(), ToString::to_string);
    tracing::info!(generation = %document.edition(), trust_domain = content.trust_domain, from, roots = content.roots.len(),
        revocation_lists = content.revocations.len(), preferred = content.preferred.map(|root| root.to_string()),
        "took up the trust document");
}

/// What to do about a document that is refused; `own`: it is of this gateway's trust domain.
pub(super) fn hint(why: &Refusal, own: bool) -> &'static str {
    match why {
        Refusal::Unsigned { .. } if !own => {
            "put the root that signed it into the bundle of that trust domain, in the topology, if its operators say so"
        }
        why => why.hint(),
    }
}

pub(super) fn refused(peer: &GatewayId, why: &Refusal, hint: &str) {
    tracing::error!(%peer, generation = %why.edition(), reason = why.word(), error = why as &dyn std::error::Error,
        "a trust document is refused and what was trusted before is trusted still; {hint}");
}

pub(super) fn overruled(metrics: &Metrics, conflict: Conflict) {
    metrics.trust_document("overruled");
    let Conflict { winner, loser } = conflict;
    tracing::error!(in_force = %winner, overruled = %loser,
        "two trust documents were made without knowing of each other: {winner} is in force, and {loser} is overruled. \
         Is the CA's folder in use in two places? Make the next one with `causeway revoke` or `causeway ca rotate`");
}
