//! Giving applied topologies to a gateway that asks, on a stream of the tunnel.

use std::{sync::Arc, time::Duration};

use causeway_proto::tunnel::{RefusalReason, Topology};
use causeway_zone_sync::topology::applied::{Document, Edition, edition};
use tokio::{sync::Semaphore, time::timeout};

use super::AppliedTopology;
use crate::tunnel::{IncomingStream, refuse_documents, send_documents};

/// Answers under way at once, over all peers; each may hold a few MiB.
const MAX_ANSWERS: usize = 8;
/// For one answer, from its first byte to its last.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Answers gateways that ask. Clones share the limit.
#[derive(Debug, Clone)]
pub struct Server {
    /// `None`: a file rules here, and there is nothing to give.
    applied: Option<AppliedTopology>,
    answers: Arc<Semaphore>,
}

impl Server {
    #[must_use]
    pub fn new(applied: Option<AppliedTopology>) -> Self {
        Self {
            applied,
            answers: Arc::new(Semaphore::new(MAX_ANSWERS)),
        }
    }

    /// Answers one question to its end.
    pub async fn answer(&self, question: Topology, mut stream: IncomingStream) {
        let peer = stream.tunnel.peer().clone();
        let Ok(_permit) = self.answers.try_acquire() else {
            tracing::warn!(%peer, "did not answer a question for the topology: too many at once");
            let _ = refuse_documents(
                &mut stream.send,
                RefusalReason::Overloaded,
                "too many questions at once",
            )
            .await;
            return;
        };
        let Some(asked) = edition(question.generation, &question.fingerprint) else {
            let _ = refuse_documents(
                &mut stream.send,
                RefusalReason::BadHeader,
                "the fingerprint is not one",
            )
            .await;
            return;
        };
        let documents = self.documents(asked, question.only);
        if let (Some(applied), false) = (&self.applied, question.only) {
            applied.heard_of(asked, &peer);
        }
        let count = documents.len();
        let bytes = documents
            .into_iter()
            .map(|document: Arc<Document>| document.encode());
        let sent = timeout(ANSWER_TIMEOUT, send_documents(&mut stream.send, bytes)).await;
        match sent {
            Ok(Ok(())) => tracing::debug!(%peer, documents = count, "answered for the topology"),
            Ok(Err(error)) => {
                tracing::debug!(%peer, error = &error as &dyn std::error::Error, "an answer broke off");
            }
            Err(_) => tracing::warn!(%peer, "gave up on a peer that does not take the topology it asked for"),
        }
    }

    fn documents(&self, asked: Edition, only: bool) -> Vec<Arc<Document>> {
        let Some(applied) = &self.applied else {
            return Vec::new();
        };
        let view = applied.view();
        match only {
            true => view.applied.held(asked).cloned().into_iter().collect(),
            false => view.applied.newer_than(asked),
        }
    }
}

impl AppliedTopology {
    /// A peer has this in force. If it is a rival of what is in force here, it is wanted, even if it has lost.
    fn heard_of(&self, edition: Edition, peer: &causeway_zone_sync::name::GatewayId) {
        let view = self.view();
        let mine = view.applied.edition();
        if edition.generation == 0 || edition.generation != mine.generation || view.applied.knows(edition) {
            return;
        }
        self.0
            .rivals
            .send_if_modified(|rivals| rivals.heard(edition, peer));
    }
}
