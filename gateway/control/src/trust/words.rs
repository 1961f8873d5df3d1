//! Words of the log and the metrics on trust documents.

use causeway_federation::{
    name::GatewayId,
    trust::{TrustConflict, TrustDocument, TrustRefusal},
};

use crate::ControlMetrics;

/// `peer`: who had it; `None`: an operator handed it in.
pub(super) fn taken(document: &TrustDocument, peer: Option<&GatewayId>) {
    let content = document.content();
    let from = peer.map_or_else(|| "an operator".to_owned(), ToString::to_string);
    tracing::info!(generation = %document.edition(), trust_domain = content.trust_domain, from, roots = content.roots.len(),
        revocation_lists = content.revocations.len(), preferred = content.preferred.map(|root| root.to_string()),
        "took up the trust document");
}

/// Says what to do about a document that is refused; `own`: it is of this gateway's trust domain.
pub(super) fn hint(why: &TrustRefusal, own: bool) -> &'static str {
    match why {
        TrustRefusal::Unsigned { .. } if !own => {
            "put the root that signed it into the bundle of that trust domain, in the topology, if its operators say so"
        }
        why => why.hint(),
    }
}

pub(super) fn refused(peer: &GatewayId, why: &TrustRefusal, hint: &str) {
    tracing::error!(%peer, generation = %why.edition(), reason = why.word(), error = why as &dyn std::error::Error,
        "a trust document is refused and what was trusted before is trusted still; {hint}");
}

pub(super) fn overruled(metrics: &ControlMetrics, peer: &GatewayId, conflict: TrustConflict) {
    metrics.trust_document("overruled");
    let TrustConflict { winner, loser } = conflict;
    tracing::error!(%peer, in_force = %winner, overruled = %loser,
        "two trust documents have one generation: {winner} was here first and rules here, and {loser}, which {peer} has, is \
         overruled here. Is the CA's folder in use in two places? Make the next one with `causeway revoke` or `causeway ca rotate`");
}
