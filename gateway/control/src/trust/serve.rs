//! Giving the trust document to a gateway that asks, on a stream of the tunnel.

use std::sync::Arc;

use causeway_federation::{edition::Edition, name::GatewayId, trust::TrustConflict};
use causeway_identity::LiveIdentity;
use causeway_proto::tunnel::Trust;
use causeway_tunnel::IncomingStream;
use parking_lot::Mutex;

use super::words;
use crate::{ControlMetrics, documents::Answers};

/// Answers gateways that ask. Clones share the limit.
#[derive(Debug, Clone)]
pub struct TrustServer {
    identity: LiveIdentity,
    answers: Answers,
    metrics: Arc<ControlMetrics>,
    /// Rival of the document in force that was told of last.
    rival: Arc<Mutex<Option<Edition>>>,
}

impl TrustServer {
    #[must_use]
    pub fn new(identity: LiveIdentity, metrics: Arc<ControlMetrics>) -> Self {
        Self {
            identity,
            answers: Answers::new("trust document"),
            metrics,
            rival: Arc::default(),
        }
    }

    /// Answers one question to its end.
    pub async fn answer(&self, question: Trust, stream: IncomingStream) {
        let edition = (question.generation, question.fingerprint.as_slice());
        let newer = |theirs: Edition, peer: &GatewayId| {
            let document = self.identity.trust().document.clone();
            self.heard_of(theirs, document.as_ref().map(|document| document.edition()), peer);
            let newer = document.filter(|document| document.edition() > theirs);
            newer.iter().map(|document| document.encode()).collect()
        };
        self.answers.answer(edition, stream, newer).await;
    }

    /// A peer has `theirs` in force. If that is a rival of what is in force here, both sides say so: the other one when it has
    /// refused the answer.
    fn heard_of(&self, theirs: Edition, mine: Option<Edition>, peer: &GatewayId) {
        let Some(winner) = mine.filter(|mine| mine.generation == theirs.generation && *mine != theirs) else {
            return;
        };
        let loser = theirs;
        if self.rival.lock().replace(loser) != Some(loser) {
            words::overruled(&self.metrics, peer, TrustConflict { winner, loser });
        }
    }
}
