//! Documents that every gateway of a federation comes to hold: a gateway announces the edition that it has in force, peers
//! that want it ask, and take what comes. The topology ([`crate::topology`]) and the trust document ([`crate::trust`]) are
//! two kinds of them.
//!
//! A kind says what is worth asking of whom ([`Replicated`], pure), and takes what came; [`keep_fetching`] asks, with the
//! waits of [`schedule`], and [`Answers`] answers others. Nothing here knows what a document says.
//!
//! Adding a kind: a field of zone sync's record that announces it, a kind of stream header, an implementation of
//! [`Replicated`], and an [`Answers`] for those who ask.

mod fetch;
mod schedule;
mod serve;

use std::{collections::BTreeMap, error::Error, fmt::Debug, sync::Arc, time::Duration};

use causeway_federation::{catalog::Record, edition::Edition, name::GatewayId};
use causeway_proto::tunnel::stream_header::Kind;
use causeway_tunnel::{AskError, ReadDocumentError};

pub use fetch::keep_fetching;
#[cfg(test)]
pub(crate) use fetch::read_documents;
pub use schedule::{FetchCandidate, FetchPace, FetchQuestion};
#[cfg(test)]
pub(crate) use schedule::{FetchSchedule, Plan};
pub use serve::Answers;

/// The peers that can be asked, and what each announces; `None`: nothing was heard of it.
pub type DocumentPeers = BTreeMap<GatewayId, Option<Edition>>;

/// Most that one answer may hold.
#[derive(Debug, Clone, Copy)]
pub struct AnswerLimits {
    pub documents: usize,
    pub document_bytes: usize,
    pub answer_bytes: usize,
    /// From opening the stream to the last byte of the answer.
    pub time: Duration,
}

/// A kind of replicated documents, seen from a gateway that wants the newest.
pub trait Replicated: Send + Sync + 'static {
    type Document: Send + Sync + 'static;
    /// Reason why bytes are no document.
    type DecodeError: Error + Send + Sync + 'static;
    /// One question to one peer.
    type Question: FetchQuestion + Debug + Send + Sync + 'static;
    /// State in force here, as far as it decides what is worth asking.
    type InForce: Send + Sync;

    const PACE: FetchPace;
    const LIMITS: AnswerLimits;

    /// The edition that a record of zone sync announces.
    fn announced(record: &Record) -> Edition;

    /// The questions that are worth asking, the most urgent first.
    fn candidates(in_force: &Self::InForce, peers: &DocumentPeers) -> Vec<FetchCandidate<Self::Question>>;

    /// Tells whether a question could be asked once more; what became of others is forgotten.
    fn is_current(in_force: &Self::InForce, peers: &DocumentPeers, question: &Self::Question) -> bool;

    /// The header of the stream on which a question is asked.
    fn header(in_force: &Self::InForce, question: &Self::Question) -> Kind;

    fn decode(bytes: &[u8]) -> Result<Self::Document, Self::DecodeError>;

    /// Reads what is in force now; [`Replicated::changed`] waits for what comes after it.
    fn in_force(&mut self) -> Self::InForce;

    /// Waits until something changed here that may make another question worth asking. Cancel-safe.
    fn changed(&mut self) -> impl Future<Output = ()> + Send;

    /// Takes the answer to a question, which may be empty. Says whether anything of it was new.
    fn take(
        &self,
        question: &Self::Question,
        documents: Vec<Arc<Self::Document>>,
    ) -> impl Future<Output = bool> + Send;

    /// Tells that a question has no answer.
    fn failed(&self, question: &Self::Question, error: &FetchError<Self::DecodeError>);
}

/// Reason why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum FetchError<E: Error + 'static> {
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error(transparent)]
    Read(#[from] ReadDocumentError),
    #[error("the answer holds more than {0} documents")]
    TooLong(usize),
    #[error("the answer holds what is not a document")]
    Document(#[source] E),
    #[error("no answer has begun within {0:?}")]
    Silent(Duration),
    #[error("there was no whole answer within {0:?}")]
    Late(Duration),
}

impl<E: Error + 'static> FetchError<E> {
    /// Tells whether nothing is wrong but that the tunnel under the question was closed in good order.
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::Ask(error) if error.is_closed())
    }
}
