//! Giving documents to a gateway that asks, on a stream of the tunnel: limits, refusals, and the end of an answer.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use causeway_federation::{
    edition::{Edition, edition},
    name::GatewayId,
};
use causeway_proto::tunnel::RefusalReason;
use causeway_telemetry::RateLimited;
use causeway_tunnel::{IncomingStream, refuse_documents, send_documents};
use parking_lot::Mutex;
use tokio::time::timeout;

use crate::places::AnswerPlaces;

/// Answers of one kind under way at once for the gateways of one zone; each may hold a few MiB.
const AT_ONCE_FOR_ZONE: usize = 4;
/// For those of all zones together.
const AT_ONCE: usize = 64;
/// For one answer, from its first byte to its last.
const LONGEST: Duration = Duration::from_secs(30);

/// Answers gateways that ask for one kind of document. Clones share the limit.
#[derive(Debug, Clone)]
pub struct Answers {
    /// The document's name in the log.
    name: &'static str,
    places: AnswerPlaces,
    /// Peers whose questions were not answered, as the log was told.
    refused: Arc<Mutex<RateLimited<GatewayId>>>,
}

impl Answers {
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            places: AnswerPlaces::new(AT_ONCE_FOR_ZONE, AT_ONCE),
            refused: Arc::new(Mutex::new(RateLimited::new())),
        }
    }

    /// Answers one question to its end with the encoded documents that `newer` finds for the edition and the peer that ask.
    pub async fn answer(
        &self,
        (generation, fingerprint): (u64, &[u8]),
        mut stream: IncomingStream,
        newer: impl FnOnce(Edition, &GatewayId) -> Vec<Vec<u8>>,
    ) {
        let (peer, name) = (stream.tunnel.peer().clone(), self.name);
        let Some(_place) = self.places.take(&peer.zone) else {
            let (reason, why) = (RefusalReason::Overloaded, "too many questions at once");
            return self.refuse(&peer, stream, reason, why).await;
        };
        let Some(asked) = edition(generation, fingerprint) else {
            let (reason, why) = (RefusalReason::BadHeader, "the fingerprint is not one");
            return self.refuse(&peer, stream, reason, why).await;
        };
        let documents = newer(asked, &peer);
        let count = documents.len();
        match timeout(LONGEST, send_documents(&mut stream.send, documents)).await {
            Ok(Ok(())) => tracing::debug!(%peer, documents = count, "answered for the {name}"),
            Ok(Err(error)) => {
                tracing::debug!(%peer, error = &error as &dyn std::error::Error, "an answer broke off");
            }
            Err(_) => tracing::warn!(%peer, "gave up on a peer that does not take the {name} it asked for"),
        }
    }

    async fn refuse(&self, peer: &GatewayId, mut stream: IncomingStream, reason: RefusalReason, why: &str) {
        if let Some(repeats) = self.refused.lock().admit(Instant::now(), peer.clone()) {
            tracing::warn!(%peer, why, repeats, "did not answer a question for the {}", self.name);
        }
        // Who does not take the refusal has gone, and needs none.
        let _ = refuse_documents(&mut stream.send, reason, why).await;
    }
}
