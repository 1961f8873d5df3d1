//! Getting applied topologies from peers: one question at a time, so that no document is fetched twice at once.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use causeway_proto::tunnel::{StreamHeader, Topology, stream_header::Kind};
use causeway_zone_sync::{
    catalog::{Catalog, Record},
    name::GatewayId,
    topology::applied::{
        Document, DocumentError, Edition, MAX_DOCUMENT_BYTES, MAX_HISTORY, MAX_HISTORY_BYTES,
    },
};
use rand::{SeedableRng, rngs::SmallRng};
use tokio::{io::AsyncRead, sync::watch, time::timeout};

use super::{
    AppliedTopology,
    wanted::{Ask, Plan, Question, Wanted},
};
use crate::tunnel::{AskError, ReadDocumentError, TunnelSet, ask_for_documents, read_document};

/// For one question, from opening the stream to the last byte of the answer.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(60);
/// Most bytes of one answer: a whole history.
const MAX_ANSWER_BYTES: usize = MAX_HISTORY_BYTES + 2 * MAX_DOCUMENT_BYTES;

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error(transparent)]
    Read(#[from] ReadDocumentError),
    #[error("the answer holds more than {MAX_HISTORY} documents")]
    TooLong,
    #[error("the answer holds what is not a document")]
    Document(#[from] DocumentError),
    #[error("there was no whole answer within {QUESTION_TIMEOUT:?}")]
    Late,
}

/// Follows what the peers announce and fetches what is newer, until the future is dropped.
pub async fn keep_fetching(
    applied: AppliedTopology,
    tunnels: Arc<TunnelSet>,
    mut catalog: watch::Receiver<Arc<Catalog>>,
) {
    let (mut links, mut own) = (tunnels.changed(), applied.changed());
    let mut rivals = applied.0.rivals.subscribe();
    let mut wanted = Wanted::default();
    let mut rng = SmallRng::from_os_rng();
    loop {
        links.mark_unchanged();
        own.mark_unchanged();
        let peers = peers(&tunnels, &catalog.borrow_and_update());
        let view = applied.view();
        let known_rivals = rivals.borrow_and_update().clone();
        let plan = wanted.plan(Instant::now(), &view.applied, &peers, &known_rivals);
        let wait = match plan {
            Plan::Ask(question) => {
                let announced = peers.get(&question.peer).copied().flatten();
                match fetch(&applied, &tunnels, &question).await {
                    true => wanted.answered(&question),
                    false => wanted.unanswered(Instant::now(), &question, announced, &mut rng),
                }
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
            Ok(()) = links.changed() => {}
            Ok(()) = own.changed() => {}
            Ok(()) = catalog.changed() => {}
            Ok(()) = rivals.changed() => {}
            () = waited => {}
            else => return,
        }
    }
}

/// Everybody who can be asked, and what they announce.
fn peers(tunnels: &TunnelSet, catalog: &Catalog) -> BTreeMap<GatewayId, Option<Edition>> {
    tunnels
        .usable()
        .map(|peer| {
            let announced = catalog.entry(&peer).map(|entry| announced(&entry.record));
            (peer, announced)
        })
        .collect()
}

fn announced(record: &Record) -> Edition {
    Edition {
        generation: record.topology_generation,
        fingerprint: record.topology,
    }
}

/// Asks, and takes what comes. Says whether anything of it was new.
async fn fetch(applied: &AppliedTopology, tunnels: &TunnelSet, question: &Question) -> bool {
    let asked = timeout(QUESTION_TIMEOUT, ask(tunnels, question)).await;
    let (peer, asked) = (&question.peer, asked.unwrap_or(Err(FetchError::Late)));
    match asked {
        Ok(documents) if documents.is_empty() => {
            tracing::debug!(%peer, ask = ?question.ask, "it has no newer topology");
            false
        }
        Ok(documents) => applied.receive(peer.clone(), documents).await,
        Err(error) => {
            applied.0.metrics.topology_document("fetch_failed");
            tracing::warn!(%peer, error = &error as &dyn std::error::Error,
                "cannot fetch the topology that a gateway has in force; it is tried again");
            false
        }
    }
}

async fn ask(tunnels: &TunnelSet, question: &Question) -> Result<Vec<Arc<Document>>, FetchError> {
    let (edition, only) = match question.ask {
        Ask::NewerThan(edition) => (edition, false),
        Ask::Only(edition) => (edition, true),
    };
    let header = StreamHeader {
        kind: Some(Kind::Topology(Topology {
            generation: edition.generation,
            fingerprint: edition.fingerprint.0.to_vec(),
            only,
        })),
    };
    let mut recv = ask_for_documents(tunnels, &question.peer, &header).await?;
    read_documents(&mut recv).await
}

/// Reads documents until the stream ends, each behind its length.
async fn read_documents(recv: &mut (impl AsyncRead + Unpin)) -> Result<Vec<Arc<Document>>, FetchError> {
    let mut documents = Vec::new();
    let mut left = MAX_ANSWER_BYTES;
    while let Some(bytes) = read_document(recv, MAX_DOCUMENT_BYTES.min(left)).await? {
        if documents.len() == MAX_HISTORY {
            return Err(FetchError::TooLong);
        }
        left -= bytes.len();
        documents.push(Arc::new(Document::decode(&bytes)?));
    }
    Ok(documents)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document() -> Document {
        let by = GatewayId::new("west".parse().unwrap(), "gw1".parse().unwrap());
        Document::new(Edition::default(), "a text".into(), by, 1)
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
        assert!(matches!(too_many, Err(FetchError::TooLong)));
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
