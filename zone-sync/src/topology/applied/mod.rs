//! Applied topologies: which one is in force, which were before it, and what happens when two are applied at once.
//!
//! Everything here is pure: documents come in, from an operator or from other gateways, and [`Applied`] says what is in
//! force. The rule is a total order that everybody can tell alike ([`Edition`]): the higher generation rules; of two with
//! one generation, the one with the lower fingerprint. So gateways that have seen the same documents agree, in whatever
//! order these came, however often, and the generation in force never goes back.
//!
//! How documents travel and who may reach the admin API is the gateway's business.

mod document;
mod history;
mod refusal;
mod store;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc};

pub use document::{Document, DocumentError, Edition, MAX_DOCUMENT_BYTES, MAX_GENERATION, edition};
pub use history::{Entry, Standing};
pub use refusal::Refusal;
pub use store::{FILE, SetAside, Store, StoreError, Stored};

use super::{Diff, Topology, diff, parse};
use crate::name::{GatewayId, ZoneName};

/// Most documents that are kept, the one in force included.
pub const MAX_HISTORY: usize = 10;
/// Most text that is kept in all documents together, in bytes; the one in force and the one before it stay regardless.
pub const MAX_HISTORY_BYTES: usize = 16 * 1024 * 1024;
/// Most refused documents that are remembered, so that they are not fetched again and again.
const MAX_REFUSED: usize = 16;
/// The name that findings in an applied text have for their file.
const TEXT_NAME: &str = "topology";

/// What a topology must fit to be taken by this gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    pub zone: ZoneName,
    /// Of this gateway's certificate.
    pub trust_domain: String,
}

/// What this gateway knows of applied topologies. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Applied {
    own: Own,
    /// What rules while nothing is applied.
    initial: Option<Arc<Topology>>,
    documents: BTreeMap<Edition, Arc<Document>>,
    in_force: Option<Arc<Topology>>,
    refused: BTreeMap<Edition, Refused>,
    conflict: Option<Conflict>,
}

/// A document of another gateway that was not taken.
#[derive(Debug, Clone)]
pub struct Refused {
    pub by: GatewayId,
    pub why: Refusal,
}

/// Two topologies were applied without knowing of each other. It lasts until the next generation is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conflict {
    /// What is in force.
    pub winner: Edition,
    /// What was overruled; it is kept in the history.
    pub loser: Edition,
}

/// What became of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Offered {
    /// It is held already, or older than what is in force.
    Nothing,
    /// It is in force now; these are the changes.
    Taken {
        changes: Diff,
        conflict: Option<Conflict>,
    },
    /// It was applied without knowing of what is in force, which stays in force; it is kept.
    Overruled(Conflict),
}

/// A topology that may be applied here and now.
#[derive(Debug, Clone)]
pub struct Draft {
    /// What it follows.
    pub parent: Edition,
    pub text: Arc<str>,
    pub changes: Diff,
    /// Warnings only.
    pub warnings: super::Diagnostics,
    /// The text is that of the topology in force: there is nothing to apply.
    pub same: bool,
}

impl Applied {
    /// What rules from `stored` documents and, while there are none, an `initial` topology. A stored document that this
    /// program cannot read (it was written by a newer one) is kept, and the newest that it can read rules.
    #[must_use]
    pub fn new(own: Own, initial: Option<Topology>, stored: Stored) -> Self {
        let documents = stored
            .documents
            .into_iter()
            .map(|document| (document.edition(), document));
        let mut applied = Self {
            own,
            initial: initial.map(Arc::new),
            documents: documents.collect(),
            in_force: None,
            refused: BTreeMap::new(),
            conflict: stored.conflict,
        };
        let newest_first: Vec<_> = applied.documents.values().rev().cloned().collect();
        for document in newest_first {
            match applied.read(&document) {
                Ok(topology) => {
                    applied.in_force = Some(Arc::new(topology));
                    break;
                }
                Err(why) => applied.refuse(&document, why),
            }
        }
        applied
    }

    /// The topology that rules; `None` while there is neither an applied nor an initial one.
    #[must_use]
    pub fn topology(&self) -> Option<&Arc<Topology>> {
        self.in_force.as_ref().or(self.initial.as_ref())
    }

    /// Tells what rules: generation 0 is the initial one.
    #[must_use]
    pub fn edition(&self) -> Edition {
        self.topology()
            .map(|topology| topology.edition())
            .unwrap_or_default()
    }

    /// The applied topology in force; `None` while none is.
    #[must_use]
    pub fn document(&self) -> Option<&Arc<Document>> {
        self.documents.get(&self.edition())
    }

    /// A kept document, in force or not.
    #[must_use]
    pub fn held(&self, edition: Edition) -> Option<&Arc<Document>> {
        self.documents.get(&edition)
    }

    /// Whether this gateway holds or has refused it, so that there is no point in asking for it.
    #[must_use]
    pub fn knows(&self, edition: Edition) -> bool {
        self.edition() == edition
            || self.documents.contains_key(&edition)
            || self.refused.contains_key(&edition)
    }

    #[must_use]
    pub fn conflict(&self) -> Option<Conflict> {
        self.conflict
    }

    /// Documents of other gateways that were not taken, newest last.
    pub fn refused(&self) -> impl Iterator<Item = (&Edition, &Refused)> {
        self.refused.iter()
    }

    /// What is to be kept on disk.
    #[must_use]
    pub fn stored(&self) -> Stored {
        Stored {
            documents: self.documents.values().cloned().collect(),
            conflict: self.conflict,
        }
    }

    /// Whether `text` may be applied here on top of generation `expected`, and what it would change.
    ///
    /// # Errors
    /// Says why not. Nothing changes either way.
    pub fn draft(&self, expected: u64, text: &str) -> Result<Draft, Refusal> {
        let parent = self.edition();
        if parent.generation != expected {
            return Err(Refusal::Stale {
                expected,
                in_force: parent.generation,
                by: self.document().map(|document| document.by().clone()),
            });
        }
        if let Some((newer, refused)) = self
            .refused
            .iter()
            .find(|(edition, refused)| edition.generation > expected && refused.why.leaves_behind())
        {
            return Err(Refusal::Behind {
                newer: *newer,
                by: refused.by.clone(),
            });
        }
        if parent.generation >= MAX_GENERATION {
            return Err(Refusal::LastGeneration(MAX_GENERATION));
        }
        self.judge(self.topology(), &self.own.zone)?;
        let parsed = parse(text, TEXT_NAME).map_err(|findings| Refusal::Invalid(Box::new(findings)))?;
        self.fits(&parsed.topology)?;
        Ok(Draft {
            parent,
            text: text.into(),
            changes: self.changes(&parsed.topology),
            warnings: parsed.warnings,
            same: parsed.topology.fingerprint == parent.fingerprint,
        })
    }

    /// Offers what another gateway sent, in its order. A conflict that comes up among these documents lasts, although
    /// a later one of them may have settled it: nobody here has heard of it yet.
    pub fn receive(&mut self, documents: &[Arc<Document>]) -> Vec<Result<Offered, Refusal>> {
        let mut arisen = None;
        let mut offer = |document| {
            let offered = self.offer(document);
            arisen = match &offered {
                Ok(Offered::Overruled(conflict)) => Some(*conflict),
                Ok(Offered::Taken { conflict, .. }) => conflict.or(arisen),
                Ok(Offered::Nothing) | Err(_) => arisen,
            };
            offered
        };
        let offered = documents.iter().map(&mut offer).collect();
        if let Some(conflict) = arisen {
            self.conflict = Some(Conflict {
                winner: self.edition(),
                ..conflict
            });
        }
        offered
    }

    /// Takes a document up if it rules over what is in force. Its signature has been verified.
    ///
    /// # Errors
    /// When this gateway cannot or must not take it; it is remembered as refused.
    pub fn offer(&mut self, document: &Arc<Document>) -> Result<Offered, Refusal> {
        let (edition, now) = (document.edition(), self.edition());
        if edition.generation < now.generation || self.documents.contains_key(&edition) {
            return Ok(Offered::Nothing);
        }
        let checked = self
            .judge(self.judge_of(edition).as_ref(), &document.by().zone)
            .and_then(|()| self.read(document));
        let topology = match checked {
            Ok(topology) => topology,
            Err(why) => {
                self.refuse(document, why.clone());
                return Err(why);
            }
        };
        self.documents.insert(edition, document.clone());
        if edition < now {
            let conflict = Conflict {
                winner: now,
                loser: edition,
            };
            self.conflict = Some(conflict);
            self.forget_oldest();
            return Ok(Offered::Overruled(conflict));
        }
        let changes = self.changes(&topology);
        self.conflict = overrules(document, now).then_some(Conflict {
            winner: edition,
            loser: now,
        });
        self.in_force = Some(Arc::new(topology));
        // What was not allowed before may be now.
        self.refused
            .retain(|refused, why| *refused > edition && why.why.leaves_behind());
        self.forget_oldest();
        Ok(Offered::Taken {
            changes,
            conflict: self.conflict,
        })
    }

    /// Remembers a document that was not taken.
    pub fn refuse(&mut self, document: &Document, why: Refusal) {
        let by = document.by().clone();
        self.refused.insert(document.edition(), Refused { by, why });
        while self.refused.len() > MAX_REFUSED {
            self.refused.pop_first();
        }
    }

    fn changes(&self, to: &Topology) -> Diff {
        self.topology()
            .map(|topology| diff(topology, to))
            .unwrap_or_default()
    }

    fn judge(&self, judge: Option<&Arc<Topology>>, zone: &ZoneName) -> Result<(), Refusal> {
        match judge {
            Some(topology) if !topology.may_apply(zone) => Err(Refusal::NotAllowed {
                zone: zone.clone(),
                generation: topology.generation,
            }),
            _ => Ok(()),
        }
    }

    /// The topology that says who may apply `edition`: what is in force, or, for a rival of that, what was before both.
    /// Thus two rivals are judged alike, whichever comes first.
    fn judge_of(&self, edition: Edition) -> Option<Arc<Topology>> {
        if edition.generation > self.edition().generation {
            return self.topology().cloned();
        }
        let older = self.documents.range(
            ..Edition {
                generation: edition.generation,
                ..WORST
            },
        );
        let before = older.rev().find_map(|(_, document)| self.read(document).ok());
        before.map(Arc::new).or_else(|| self.initial.clone())
    }

    fn read(&self, document: &Document) -> Result<Topology, Refusal> {
        let parsed =
            parse(document.text(), TEXT_NAME).map_err(|findings| Refusal::Invalid(Box::new(findings)))?;
        self.fits(&parsed.topology)?;
        Ok(Topology {
            generation: document.edition().generation,
            ..parsed.topology
        })
    }

    fn fits(&self, topology: &Topology) -> Result<(), Refusal> {
        let would_be = topology.trust_domain_of(&self.own.zone);
        if would_be != self.own.trust_domain {
            return Err(Refusal::TrustDomain {
                is: self.own.trust_domain.clone(),
                would_be: would_be.to_owned(),
            });
        }
        if !topology.zones.contains_key(&self.own.zone) {
            return Err(Refusal::NoOwnZone(self.own.zone.clone()));
        }
        Ok(())
    }

    fn forget_oldest(&mut self) {
        let bytes = |documents: &BTreeMap<Edition, Arc<Document>>| -> usize {
            documents.values().map(|document| document.text().len()).sum()
        };
        while self.documents.len() > MAX_HISTORY
            || (self.documents.len() > 2 && bytes(&self.documents) > MAX_HISTORY_BYTES)
        {
            match self.documents.first_key_value() {
                Some((oldest, _)) if *oldest < self.edition() => drop(self.documents.pop_first()),
                _ => break,
            }
        }
    }
}

impl Topology {
    /// Tells this topology from every other that was in force.
    #[must_use]
    pub fn edition(&self) -> Edition {
        Edition {
            generation: self.generation,
            fingerprint: self.fingerprint,
        }
    }
}

/// No edition of its generation comes before it.
const WORST: Edition = Edition {
    generation: 0,
    fingerprint: super::Fingerprint([0xff; 32]),
};

/// Whether `document` was applied without knowing of `now`, which was in force here.
fn overrules(document: &Document, now: Edition) -> bool {
    now.generation > 0 && document.parent().generation <= now.generation && document.parent() != now
}
