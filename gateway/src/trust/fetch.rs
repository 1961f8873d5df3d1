//! Getting the trust document from peers that announce a newer one.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use causeway_proto::tunnel::{StreamHeader, Trust, stream_header::Kind};
use causeway_zone_sync::{
    catalog::Catalog,
    name::GatewayId,
    trust::{Document, DocumentError, Edition, MAX_DOCUMENT_BYTES},
};
use rand::{SeedableRng, rngs::SmallRng};
use tokio::{sync::watch, task::JoinSet, time::timeout};

use super::{
    Trusted,
    wanted::{Announced, Plan, Wanted},
};
use crate::{
    identity::Anchors,
    tunnel::{AskError, ReadDocumentError, TunnelSet, ask_for_documents, read_document},
};

/// For one question, from opening the stream to the last byte of the answer.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error(transparent)]
    Read(#[from] ReadDocumentError),
    #[error("the answer holds what is not a document")]
    Document(#[from] DocumentError),
    #[error("there was no whole answer within {QUESTION_TIMEOUT:?}")]
    Late,
}

/// What one question came to.
struct Answer {
    peer: GatewayId,
    announced: Edition,
    document: Result<Option<Arc<Document>>, FetchError>,
}

/// Follows what the peers announce and fetches what is newer, until the future is dropped.
pub async fn keep_fetching(
    trusted: Trusted,
    tunnels: Arc<TunnelSet>,
    mut catalog: watch::Receiver<Arc<Catalog>>,
) {
    let mut links = tunnels.changed();
    let mut identity = trusted.held.identity();
    let mut wanted = Wanted::default();
    let mut asking: JoinSet<Answer> = JoinSet::new();
    let mut rng = SmallRng::from_os_rng();
    loop {
        links.mark_unchanged();
        let current = identity.current();
        let peers = peers(&tunnels, &catalog.borrow_and_update(), current.anchors());
        let wait = match wanted.plan(Instant::now(), &peers) {
            Plan::Ask(peer) => {
                wanted.asked(Instant::now(), &peer);
                let Announced { mine, announced } = peers.get(&peer).copied().unwrap_or_default();
                asking.spawn(question(tunnels.clone(), peer, announced, mine));
                continue;
            }
            Plan::Wait(until) => Some(until),
            Plan::Nothing => None,
        };
        let waited = async {
            match wait {
                Some(until) => tokio::time::sleep_until(until.into()).await,
                None => std::future::pending().await,
            }
        };
        // A sender that is gone is only seen while the gateway ends, and then this future is dropped.
        tokio::select! {
            Some(Ok(answer)) = asking.join_next() => match take(&trusted, &answer).await {
                true => wanted.answered(&answer.peer),
                false => wanted.unanswered(Instant::now(), &answer.peer, answer.announced, &mut rng),
            },
            Ok(()) = links.changed() => {}
            Ok(()) = catalog.changed() => {}
            // Another root may make a document welcome that was not.
            () = identity.changed() => {}
            () = waited => {}
        }
    }
}

/// Everybody who can be asked and has told something, with what they announce and what is in force here for their trust
/// domain.
fn peers(tunnels: &TunnelSet, catalog: &Catalog, anchors: &Anchors) -> BTreeMap<GatewayId, Announced> {
    tunnels
        .usable()
        .filter_map(|peer| {
            let announced = catalog.entry(&peer)?.record.trust;
            let mine = anchors.of_zone(&peer.zone)?.edition;
            Some((peer, Announced { announced, mine }))
        })
        .collect()
}

async fn question(tunnels: Arc<TunnelSet>, peer: GatewayId, announced: Edition, mine: Edition) -> Answer {
    let asked = timeout(QUESTION_TIMEOUT, ask(&tunnels, &peer, mine)).await;
    Answer {
        document: asked.unwrap_or(Err(FetchError::Late)),
        peer,
        announced,
    }
}

async fn ask(
    tunnels: &TunnelSet,
    peer: &GatewayId,
    mine: Edition,
) -> Result<Option<Arc<Document>>, FetchError> {
    let header = StreamHeader {
        kind: Some(Kind::Trust(Trust {
            generation: mine.generation,
            fingerprint: mine.fingerprint.0.to_vec(),
        })),
    };
    let mut recv = ask_for_documents(tunnels, peer, &header).await?;
    let bytes = read_document(&mut recv, MAX_DOCUMENT_BYTES).await?;
    Ok(bytes
        .map(|bytes| Document::decode(&bytes))
        .transpose()?
        .map(Arc::new))
}

/// Takes what came. Says whether it was new.
async fn take(trusted: &Trusted, answer: &Answer) -> bool {
    let peer = &answer.peer;
    match &answer.document {
        Ok(Some(document)) => trusted.receive(peer, document.clone()).await,
        Ok(None) => {
            tracing::debug!(%peer, "it has no newer trust document");
            false
        }
        Err(error) => {
            trusted.metrics.trust_document("fetch_failed");
            tracing::warn!(%peer, error = error as &dyn std::error::Error,
                "cannot fetch the trust document that a gateway has in force; it is tried again");
            false
        }
    }
}
