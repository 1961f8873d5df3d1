//! Getting the trust document from peers that announce a newer one.

use std::{sync::Arc, time::Duration};

use causeway_federation::{
    catalog::Record,
    edition::Edition,
    name::GatewayId,
    trust::{MAX_DOCUMENT_BYTES, TrustDocument, TrustDocumentError},
};
use causeway_identity::{Identity, LiveIdentity};
use causeway_proto::tunnel::{Trust, stream_header::Kind};

use super::{
    Trusted,
    wanted::{self, PACE},
};
use crate::documents::{AnswerLimits, DocumentPeers, FetchCandidate, FetchError, FetchPace, Replicated};

/// An answer is the one document that rules, or nothing.
const LIMITS: AnswerLimits = AnswerLimits {
    documents: 1,
    document_bytes: MAX_DOCUMENT_BYTES,
    answer_bytes: MAX_DOCUMENT_BYTES,
    time: Duration::from_secs(30),
};

/// The trust document as a kind of replicated document.
pub struct FetchedTrust {
    trusted: Trusted,
    /// Another root may make a document welcome that was not.
    identity: LiveIdentity,
}

impl Trusted {
    /// Makes what [`crate::documents::keep_fetching`] gets from peers.
    #[must_use]
    pub fn fetched(&self) -> FetchedTrust {
        FetchedTrust {
            trusted: self.clone(),
            identity: self.held.identity(),
        }
    }
}

impl Replicated for FetchedTrust {
    type Document = TrustDocument;
    type DecodeError = TrustDocumentError;
    type Question = GatewayId;
    type InForce = Arc<Identity>;

    const PACE: FetchPace = PACE;
    const LIMITS: AnswerLimits = LIMITS;

    fn announced(record: &Record) -> Edition {
        record.trust
    }

    fn candidates(identity: &Self::InForce, peers: &DocumentPeers) -> Vec<FetchCandidate<GatewayId>> {
        wanted::candidates(peers, |peer| mine(identity, peer))
    }

    fn is_current(_: &Self::InForce, peers: &DocumentPeers, peer: &GatewayId) -> bool {
        peers.contains_key(peer)
    }

    fn header(identity: &Self::InForce, peer: &GatewayId) -> Kind {
        let mine = mine(identity, peer).unwrap_or_default();
        Kind::Trust(Trust {
            generation: mine.generation,
            fingerprint: mine.fingerprint.0.to_vec(),
        })
    }

    fn decode(bytes: &[u8]) -> Result<TrustDocument, TrustDocumentError> {
        TrustDocument::decode(bytes)
    }

    fn in_force(&mut self) -> Self::InForce {
        self.identity.current()
    }

    async fn changed(&mut self) {
        self.identity.changed().await;
    }

    async fn take(&self, peer: &GatewayId, documents: Vec<Arc<TrustDocument>>) -> bool {
        let Some(document) = documents.into_iter().next() else {
            tracing::debug!(%peer, "it has no newer trust document");
            return false;
        };
        self.trusted.receive(peer, document).await
    }

    fn failed(&self, peer: &GatewayId, error: &FetchError<TrustDocumentError>) {
        self.trusted.metrics.trust_document("fetch_failed");
        if error.is_closed() {
            return tracing::debug!(%peer, "the tunnel was closed under a question for the trust document; it is asked again");
        }
        tracing::warn!(%peer, error = error as &dyn std::error::Error,
            "cannot fetch the trust document that a gateway has in force; it is tried again");
    }
}

/// The trust document that is in force here for the trust domain of a peer; `None`: its zone is of none that is known.
fn mine(identity: &Identity, peer: &GatewayId) -> Option<Edition> {
    Some(identity.anchors().of_zone(&peer.zone)?.edition)
}
