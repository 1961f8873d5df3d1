//! Giving applied topologies to a gateway that asks, on a stream of the tunnel.

use causeway_federation::{edition::Edition, name::GatewayId};
use causeway_proto::tunnel::Topology;
use causeway_tunnel::IncomingStream;

use super::AppliedTopology;
use crate::documents::Answers;

/// Answers gateways that ask. Clones share the limit.
#[derive(Debug, Clone)]
pub struct TopologyServer {
    /// `None`: a file rules here, and there is nothing to give.
    applied: Option<AppliedTopology>,
    answers: Answers,
}

impl TopologyServer {
    #[must_use]
    pub fn new(applied: Option<AppliedTopology>) -> Self {
        Self {
            applied,
            answers: Answers::new("topology"),
        }
    }

    /// Answers one question to its end.
    pub async fn answer(&self, question: Topology, stream: IncomingStream) {
        let edition = (question.generation, question.fingerprint.as_slice());
        let newer = |asked: Edition, peer: &GatewayId| match &self.applied {
            Some(applied) => applied.given_to(peer, asked, question.only),
            None => Vec::new(),
        };
        self.answers.answer(edition, stream, newer).await;
    }
}

impl AppliedTopology {
    /// The encoded documents for a peer that has `asked` in force, or wants `only` that one.
    fn given_to(&self, peer: &GatewayId, asked: Edition, only: bool) -> Vec<Vec<u8>> {
        let view = self.view();
        let documents = match only {
            true => view.applied.held(asked).cloned().into_iter().collect(),
            false => view.applied.newer_than(asked),
        };
        if !only {
            self.heard_of(asked, peer);
        }
        documents.iter().map(|document| document.encode()).collect()
    }

    /// A peer has this in force. If it is a rival of what is in force here, it is wanted, even if it has lost.
    fn heard_of(&self, edition: Edition, peer: &GatewayId) {
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
