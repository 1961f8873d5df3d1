//! Getting applied topologies from peers.

use std::{sync::Arc, time::Duration};

use causeway_federation::{
    catalog::Record,
    edition::Edition,
    topology::applied::{
        MAX_DOCUMENT_BYTES, MAX_HISTORY, MAX_HISTORY_BYTES, TopologyDocument, TopologyDocumentError,
    },
};
use causeway_proto::tunnel::{Topology, stream_header::Kind};
use tokio::sync::watch;

use super::{
    AppliedTopology, RulingTopology,
    wanted::{self, Ask, PACE, Rivals, TopologyQuestion},
};
use crate::documents::{AnswerLimits, DocumentPeers, FetchCandidate, FetchError, FetchPace, Replicated};

/// A whole history fits into one answer.
const LIMITS: AnswerLimits = AnswerLimits {
    documents: MAX_HISTORY,
    document_bytes: MAX_DOCUMENT_BYTES,
    answer_bytes: MAX_HISTORY_BYTES + 2 * MAX_DOCUMENT_BYTES,
    time: Duration::from_secs(60),
};

/// Applied topologies as a kind of replicated document.
pub struct FetchedTopologies {
    applied: AppliedTopology,
    own: watch::Receiver<Arc<RulingTopology>>,
    rivals: watch::Receiver<Rivals>,
}

impl AppliedTopology {
    /// Makes what [`crate::documents::keep_fetching`] gets from peers.
    #[must_use]
    pub fn fetched(&self) -> FetchedTopologies {
        FetchedTopologies {
            applied: self.clone(),
            own: self.changed(),
            rivals: self.0.rivals.subscribe(),
        }
    }
}

impl Replicated for FetchedTopologies {
    type Document = TopologyDocument;
    type DecodeError = TopologyDocumentError;
    type Question = TopologyQuestion;
    type InForce = (Arc<RulingTopology>, Rivals);

    const PACE: FetchPace = PACE;
    const LIMITS: AnswerLimits = LIMITS;

    fn announced(record: &Record) -> Edition {
        Edition {
            generation: record.topology_generation,
            fingerprint: record.topology,
        }
    }

    fn candidates(
        (view, rivals): &Self::InForce,
        peers: &DocumentPeers,
    ) -> Vec<FetchCandidate<TopologyQuestion>> {
        wanted::candidates(&view.applied, peers, rivals)
    }

    fn is_current((view, _): &Self::InForce, peers: &DocumentPeers, question: &TopologyQuestion) -> bool {
        wanted::is_current(question, &view.applied, peers)
    }

    fn header(_: &Self::InForce, question: &TopologyQuestion) -> Kind {
        let (edition, only) = match question.ask {
            Ask::NewerThan(edition) => (edition, false),
            Ask::Only(edition) => (edition, true),
        };
        Kind::Topology(Topology {
            generation: edition.generation,
            fingerprint: edition.fingerprint.0.to_vec(),
            only,
        })
    }

    fn decode(bytes: &[u8]) -> Result<TopologyDocument, TopologyDocumentError> {
        TopologyDocument::decode(bytes)
    }

    fn in_force(&mut self) -> Self::InForce {
        let view = self.own.borrow_and_update().clone();
        (view, self.rivals.borrow_and_update().clone())
    }

    async fn changed(&mut self) {
        tokio::select! {
            Ok(()) = self.own.changed() => {}
            Ok(()) = self.rivals.changed() => {}
            // Nobody is left who could change anything.
            else => std::future::pending().await,
        }
    }

    async fn take(&self, question: &TopologyQuestion, documents: Vec<Arc<TopologyDocument>>) -> bool {
        let peer = &question.peer;
        if documents.is_empty() {
            tracing::debug!(%peer, ask = ?question.ask, "it has no newer topology");
            return false;
        }
        self.applied.receive(peer.clone(), documents).await
    }

    fn failed(&self, question: &TopologyQuestion, error: &FetchError<TopologyDocumentError>) {
        self.applied.0.metrics.topology_document("fetch_failed");
        if error.is_closed() {
            return tracing::debug!(peer = %question.peer, "the tunnel was closed under a question for the topology; it is asked again");
        }
        tracing::warn!(peer = %question.peer, error = error as &dyn std::error::Error,
            "cannot fetch the topology that a gateway has in force; it is tried again");
    }
}

#[cfg(test)]
mod tests {
    use causeway_federation::name::GatewayId;
    use causeway_tunnel::ReadDocumentError;
    use tokio::io::AsyncRead;

    use super::*;
    use crate::documents;

    async fn read_documents(
        recv: &mut (impl AsyncRead + Unpin),
    ) -> Result<Vec<Arc<TopologyDocument>>, FetchError<TopologyDocumentError>> {
        documents::read_documents(recv, LIMITS, TopologyDocument::decode).await
    }

    fn document() -> TopologyDocument {
        let by = GatewayId::new("west".parse().unwrap(), "gw1".parse().unwrap());
        TopologyDocument::new(Edition::default(), "a text".into(), by, 1)
    }

    fn framed(document: &[u8]) -> Vec<u8> {
        let length = u32::try_from(document.len()).unwrap().to_be_bytes();
        [&length, document].concat()
    }

    #[tokio::test]
    async fn an_answer_is_read_to_its_end_and_never_beyond_its_limits() {
        let one = framed(&document().encode());
        let read = read_documents(&mut one.repeat(2).as_slice()).await.unwrap();
        assert_eq!(read, [Arc::new(document()), Arc::new(document())]);
        assert!(read_documents(&mut [].as_slice()).await.unwrap().is_empty());
        for cut in 1..one.len() {
            let broken = read_documents(&mut &one[..cut]).await;
            assert!(
                matches!(broken, Err(FetchError::Read(ReadDocumentError::Broken(_)))),
                "cut at {cut}: {broken:?}"
            );
        }
        let too_many = read_documents(&mut one.repeat(MAX_HISTORY + 1).as_slice()).await;
        assert!(matches!(too_many, Err(FetchError::TooLong(_))));
        // The length alone is enough: nothing is allocated for it.
        let too_long = read_documents(&mut [0xff_u8; 4].as_slice()).await;
        assert!(matches!(
            too_long,
            Err(FetchError::Read(ReadDocumentError::TooLong(_)))
        ));
        let nonsense = read_documents(&mut framed(b"no document").as_slice()).await;
        assert!(matches!(nonsense, Err(FetchError::Document(_))));
    }
}
