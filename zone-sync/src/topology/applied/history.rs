//! What is kept of the past: for `get topology --history`, for `rollback`, and for gateways that were away.

use std::sync::Arc;

use super::{Applied, Document, Edition};

/// How a kept document stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    InForce,
    /// It was in force, and the one after it was applied on top of it.
    Former,
    /// It was applied without knowing of another of its generation, which rules.
    Overruled,
    /// Newer than what is in force, but this program cannot use it.
    Unusable,
}

impl Standing {
    /// A stable word for programs, and for people.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::InForce => "in force",
            Self::Former => "former",
            Self::Overruled => "overruled",
            Self::Unusable => "unusable",
        }
    }
}

/// One line of the history.
#[derive(Debug, Clone)]
pub struct Entry {
    pub document: Arc<Document>,
    pub standing: Standing,
}

impl Applied {
    /// Every kept document, newest first. It follows from parent to parent, so that it reads as what came to pass at
    /// the gateways that the rule was fed by.
    #[must_use]
    pub fn history(&self) -> Vec<Entry> {
        let mut next = self.edition();
        let newest_first = self.documents.iter().rev();
        let entry = |(edition, document): (&Edition, &Arc<Document>)| {
            let in_line = *edition == next || edition.generation < next.generation;
            let standing = if *edition > self.edition() {
                Standing::Unusable
            } else if *edition == self.edition() {
                Standing::InForce
            } else if in_line {
                Standing::Former
            } else {
                Standing::Overruled
            };
            if in_line {
                next = document.parent();
            }
            Entry {
                document: document.clone(),
                standing,
            }
        };
        newest_first.map(entry).collect()
    }

    /// The documents that a gateway lacks which has `edition` in force: what rules over it, and what that grew from,
    /// oldest first. The last one is in force here.
    #[must_use]
    pub fn newer_than(&self, edition: Edition) -> Vec<Arc<Document>> {
        let line = self
            .history()
            .into_iter()
            .filter(|entry| matches!(entry.standing, Standing::InForce | Standing::Former))
            .map(|entry| entry.document)
            .take_while(|document| {
                document.edition().generation >= edition.generation && document.edition() != edition
            });
        let mut documents: Vec<_> = line.collect();
        documents.reverse();
        documents
    }
}
