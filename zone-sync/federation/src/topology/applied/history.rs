//! The past as far as it is kept: for `get topology --history`, for `rollback`, and for gateways that were away.

use std::sync::Arc;

use super::{Applied, TopologyDocument, TopologyRank};
use crate::edition::Edition;

/// Standing of a kept document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HistoryStanding {
    InForce,
    /// It was in force, and the one after it was applied on top of it.
    Former,
    /// It was applied without knowing of another of its generation, which rules.
    Overruled,
    /// Newer than what is in force, but this program cannot use it.
    Unusable,
}

impl HistoryStanding {
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
pub struct HistoryEntry {
    pub document: Arc<TopologyDocument>,
    pub standing: HistoryStanding,
}

impl Applied {
    /// Every kept document, newest first. It follows from parent to parent, so that it reads as what came to pass at
    /// the gateways that the rule was fed by.
    #[must_use]
    pub fn history(&self) -> Vec<HistoryEntry> {
        let (mut next, now) = (self.edition(), self.rank());
        let entry = |document: Arc<TopologyDocument>| {
            let edition = document.edition();
            let in_line = edition == next || edition.generation < next.generation;
            let standing = if TopologyRank::of(&document) > now {
                HistoryStanding::Unusable
            } else if edition == self.edition() {
                HistoryStanding::InForce
            } else if in_line {
                HistoryStanding::Former
            } else {
                HistoryStanding::Overruled
            };
            if in_line {
                next = document.parent();
            }
            HistoryEntry { document, standing }
        };
        self.newest_first().into_iter().map(entry).collect()
    }

    /// The documents that a gateway lacks which has `edition` in force: what rules over it, and what that grew from,
    /// oldest first. The last one is in force here.
    #[must_use]
    pub fn newer_than(&self, edition: Edition) -> Vec<Arc<TopologyDocument>> {
        let line = self
            .history()
            .into_iter()
            .filter(|entry| matches!(entry.standing, HistoryStanding::InForce | HistoryStanding::Former))
            .map(|entry| entry.document)
            .take_while(|document| {
                document.edition().generation >= edition.generation && document.edition() != edition
            });
        let mut documents: Vec<_> = line.collect();
        documents.reverse();
        documents
    }
}
