//! Giving the trust document to a gateway that asks, on a stream of the tunnel.

use std::{sync::Arc, time::Duration};

use causeway_proto::tunnel::{RefusalReason, Trust};
use causeway_zone_sync::{name::GatewayId, trust::edition};
use tokio::{sync::Semaphore, time::timeout};

use crate::{
    identity::LiveIdentity,
    tunnel::{IncomingStream, refuse_documents, send_documents},
};

/// Answers under way at once, over all peers; each may hold a few MiB.
const MAX_ANSWERS: usize = 32;
/// For one answer, from its first byte to its last.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Answers gateways that ask. Clones share the limit.
#[derive(Debug, Clone)]
pub struct Server {
    identity: LiveIdentity,
    answers: Arc<Semaphore>,
}

impl Server {
    #[must_use]
    pub fn new(identity: LiveIdentity) -> Self {
        Self {
            identity,
            answers: Arc::new(Semaphore::new(MAX_ANSWERS)),
        }
    }

    /// Answers one question to its end.
    pub async fn answer(&self, question: Trust, mut stream: IncomingStream) {
        let peer = stream.tunnel.peer().clone();
        let Ok(_permit) = self.answers.try_acquire() else {
            refuse(
                &peer,
                &mut stream,
                RefusalReason::Overloaded,
                "too many questions at once",
            )
            .await;
            return;
        };
        let Some(theirs) = edition(question.generation, &question.fingerprint) else {
            refuse(
                &peer,
                &mut stream,
                RefusalReason::BadHeader,
                "the fingerprint is not one",
            )
            .await;
            return;
        };
        let document = self.identity.trust().document.clone();
        let newer = document.filter(|document| document.edition() > theirs);
        let bytes = newer.as_ref().map(|document| document.encode());
        match timeout(ANSWER_TIMEOUT, send_documents(&mut stream.send, bytes)).await {
            Ok(Ok(())) => tracing::debug!(%peer, newer = newer.is_some(), "answered for the trust document"),
            Ok(Err(error)) => {
                tracing::debug!(%peer, error = &error as &dyn std::error::Error, "an answer broke off");
            }
            Err(_) => {
                tracing::warn!(%peer, "gave up on a peer that does not take the trust document it asked for")
            }
        }
    }
}

async fn refuse(peer: &GatewayId, stream: &mut IncomingStream, reason: RefusalReason, why: &str) {
    tracing::warn!(%peer, why, "did not answer a question for the trust document");
    // Who does not take the refusal has gone, and needs none.
    let _ = refuse_documents(&mut stream.send, reason, why).await;
}
