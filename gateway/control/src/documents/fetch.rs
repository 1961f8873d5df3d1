//! Getting documents from peers that announce what is newer: one loop for every kind.

use std::{
    error::Error,
    sync::Arc,
    time::{Duration, Instant},
};

use causeway_federation::{catalog::Catalog, name::GatewayId};
use causeway_host::moment::until;
use causeway_proto::tunnel::{StreamHeader, stream_header::Kind};
use causeway_tunnel::{AskError, TunnelSet, ask_for_documents, read_document};
use rand::{SeedableRng, rngs::SmallRng};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    sync::watch,
    task::JoinSet,
    time::timeout,
};

use super::{
    AnswerLimits, DocumentPeers, FetchCandidate, FetchError, FetchQuestion, Replicated,
    schedule::{FetchSchedule, Plan},
};

/// Longest wait for the beginning of an answer, of a peer that has said that it has one.
const BEGINS_WITHIN: Duration = Duration::from_secs(3);

type Documents<K> = Result<Vec<Arc<<K as Replicated>::Document>>, FetchError<<K as Replicated>::DecodeError>>;

/// A question that has come to an end.
struct Answer<K: Replicated> {
    asked: FetchCandidate<K::Question>,
    documents: Documents<K>,
}

/// Follows what the peers announce and fetches what is newer, until the future is dropped.
pub async fn keep_fetching<K: Replicated>(
    mut kind: K,
    tunnels: Arc<TunnelSet>,
    mut catalog: watch::Receiver<Arc<Catalog>>,
) {
    let mut links = tunnels.changed();
    let mut schedule = FetchSchedule::new(K::PACE);
    let mut asking: JoinSet<Answer<K>> = JoinSet::new();
    let mut rng = SmallRng::from_os_rng();
    loop {
        links.mark_unchanged();
        let peers = peers::<K>(&tunnels, &catalog.borrow_and_update());
        let in_force = kind.in_force();
        let candidates = K::candidates(&in_force, &peers);
        let is_current = |question: &K::Question| K::is_current(&in_force, &peers, question);
        let wait = match schedule.plan(Instant::now(), candidates, is_current) {
            Plan::Ask(candidate) => {
                schedule.asked(Instant::now(), &candidate.question);
                let header = K::header(&in_force, &candidate.question);
                asking.spawn(question::<K>(tunnels.clone(), candidate, header));
                continue;
            }
            Plan::Wait(until) => Some(until),
            Plan::Nothing => None,
        };
        let waited = until(wait);
        // A sender that is gone is only seen while the gateway ends, and then this future is dropped.
        tokio::select! {
            Some(answer) = asking.join_next() => match answer {
                Ok(Answer { asked, documents }) => match take(&kind, &asked.question, documents).await {
                    true => schedule.answered(&asked.question),
                    false => schedule.unanswered(Instant::now(), &asked, &mut rng),
                },
                // It panicked, and nobody knows which one it was: without an end here it would hold its place for ever.
                Err(error) => error.try_into_panic().map_or((), |panic| std::panic::resume_unwind(panic)),
            },
            Ok(()) = links.changed() => {}
            Ok(()) = catalog.changed() => {}
            () = kind.changed() => {}
            () = waited => {}
        }
    }
}

/// Everybody who can be asked, and what they announce.
fn peers<K: Replicated>(tunnels: &TunnelSet, catalog: &Catalog) -> DocumentPeers {
    tunnels
        .usable()
        .map(|peer| {
            let announced = catalog.entry(&peer).map(|entry| K::announced(&entry.record));
            (peer, announced)
        })
        .collect()
}

async fn question<K: Replicated>(
    tunnels: Arc<TunnelSet>,
    asked: FetchCandidate<K::Question>,
    header: Kind,
) -> Answer<K> {
    let documents = ask::<K>(&tunnels, asked.question.peer(), header);
    let documents = timeout(K::LIMITS.time, documents).await;
    Answer {
        documents: documents.unwrap_or(Err(FetchError::Late(K::LIMITS.time))),
        asked,
    }
}

async fn ask<K: Replicated>(tunnels: &TunnelSet, peer: &GatewayId, kind: Kind) -> Documents<K> {
    let header = StreamHeader { kind: Some(kind) };
    let begun = timeout(BEGINS_WITHIN, async {
        let mut recv = BufReader::new(ask_for_documents(tunnels, peer, &header).await?);
        // What is wrong with it is told by reading on.
        let _ = recv.fill_buf().await;
        Ok::<_, AskError>(recv)
    });
    let mut recv = begun.await.map_err(|_| FetchError::Silent(BEGINS_WITHIN))??;
    read_documents(&mut recv, K::LIMITS, K::decode).await
}

/// Takes what came. Says whether any of it was new.
async fn take<K: Replicated>(kind: &K, question: &K::Question, documents: Documents<K>) -> bool {
    match documents {
        Ok(documents) => kind.take(question, documents).await,
        Err(error) => {
            kind.failed(question, &error);
            false
        }
    }
}

/// Reads documents until the stream ends, each behind its length.
pub(crate) async fn read_documents<D, E: Error + 'static>(
    recv: &mut (impl AsyncRead + Unpin),
    limits: AnswerLimits,
    decode: impl Fn(&[u8]) -> Result<D, E>,
) -> Result<Vec<Arc<D>>, FetchError<E>> {
    let mut documents = Vec::new();
    let mut left = limits.answer_bytes;
    while let Some(bytes) = read_document(recv, limits.document_bytes.min(left)).await? {
        if documents.len() == limits.documents {
            return Err(FetchError::TooLong(limits.documents));
        }
        left -= bytes.len();
        documents.push(Arc::new(decode(&bytes).map_err(FetchError::Document)?));
    }
    Ok(documents)
}
