//! Applied topologies: which one is in force, which were before it, and what happens when two are applied at once.
//!
//! Everything here is pure: documents come in, from an operator or from other gateways, and [`Applied`] says what is in
//! force. The rule is a total order that everybody can tell alike ([`TopologyRank`]): the higher generation rules; of two with one
//! generation, the one that was applied at the gateway with the lower name, which whoever applies cannot choose. So gateways that
//! have seen the same documents agree, in whatever order these came, however often, and the generation in force never goes back.
//!
//! A document counts only while somebody stands for it who may apply: the gateway that took it, or one that runs it and signed it
//! again, with a certificate that is believed now ([`Document::vouchers`]). What is in force here stays so, whatever becomes of those.
//!
//! How documents are kept on disk is the store's business (`causeway-zone-sync`); how they travel and who may reach the
//! admin API is the gateway's.

mod document;
mod history;
mod rank;
mod refusal;
#[cfg(test)]
mod tests;

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

pub use document::{MAX_DOCUMENT_BYTES, MAX_REASON_BYTES, TopologyDocument, TopologyDocumentError};
pub use history::{HistoryEntry, HistoryStanding};
pub use rank::TopologyRank;
pub use refusal::TopologyRefusal;

use super::{Diff, Topology, diff, parse, under_shift};
use crate::{
    edition::{Edition, Fingerprint, MAX_GENERATION},
    name::{GatewayId, ServiceName, ZoneName},
};

/// Most documents that are kept, the one in force included.
pub const MAX_HISTORY: usize = 10;
/// Most text that is kept in all documents together, in bytes; the one in force and the one before it stay regardless.
pub const MAX_HISTORY_BYTES: usize = 16 * 1024 * 1024;
/// Most refused documents that are remembered, so that they are not fetched again and again.
const MAX_REFUSED: usize = 16;
/// The name that findings in an applied text have for their file.
const TEXT_NAME: &str = "topology";

/// Facts about this gateway that a topology must fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    pub zone: ZoneName,
    /// Of this gateway's certificate.
    pub trust_domain: String,
}

/// Applied topologies as this gateway knows them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Applied {
    own: Own,
    /// Topology that rules while nothing is applied.
    initial: Option<Arc<Topology>>,
    documents: BTreeMap<Edition, Arc<TopologyDocument>>,
    in_force: Option<Arc<Topology>>,
    refused: BTreeMap<Edition, RefusedTopology>,
    conflict: Option<TopologyConflict>,
}

/// A document of another gateway that was not taken.
#[derive(Debug, Clone)]
pub struct RefusedTopology {
    pub by: GatewayId,
    pub why: TopologyRefusal,
}

/// Two topologies were applied without knowing of each other. It lasts until the next generation is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopologyConflict {
    /// Edition in force.
    pub winner: Edition,
    /// Edition that was overruled; it is kept in the history.
    pub loser: Edition,
}

/// Documents that are kept on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoredTopology {
    /// Oldest first.
    pub documents: Vec<Arc<TopologyDocument>>,
    pub conflict: Option<TopologyConflict>,
}

/// A document of another gateway, and the gateways that stand for it now.
#[derive(Debug, Clone)]
pub struct Vouched {
    pub document: Arc<TopologyDocument>,
    pub by: Vec<GatewayId>,
    /// Whoever it names has signed it, whether that certificate has ended or not. If not, it overrules nothing of its generation:
    /// the name by which such ties are decided is not proven.
    pub author_is_proven: bool,
}

impl Vouched {
    /// A document that whoever it names stands for.
    #[must_use]
    pub fn by_author(document: Arc<TopologyDocument>) -> Self {
        Self {
            by: vec![document.by().clone()],
            document,
            author_is_proven: true,
        }
    }
}

/// Outcome of offering a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OfferedTopology {
    /// It is held already, or older than what is in force.
    Nothing,
    /// It is in force now; these are the changes.
    Taken {
        changes: Diff,
        conflict: Option<TopologyConflict>,
    },
    /// It was applied without knowing of what is in force, which stays in force; it is kept.
    Overruled(TopologyConflict),
}

/// A topology that may be applied here and now.
#[derive(Debug, Clone)]
pub struct Draft {
    /// Edition that it follows.
    pub parent: Edition,
    pub text: Arc<str>,
    pub changes: Diff,
    /// Warnings only.
    pub warnings: super::Diagnostics,
    /// The text is that of the topology in force: there is nothing to apply.
    pub same: bool,
    /// Services that it changes, and that are under a shift before or afterwards.
    pub under_shift: Vec<ServiceName>,
}

impl Applied {
    /// Works out what rules from `stored` documents and, while there are none, an `initial` topology. A stored document that this
    /// program cannot read (it was written by a newer one) is kept, and the newest that it can read rules.
    #[must_use]
    pub fn new(own: Own, initial: Option<Topology>, stored: StoredTopology) -> Self {
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
        for document in applied.newest_first() {
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

    /// Rank of what rules.
    #[must_use]
    pub fn rank(&self) -> TopologyRank {
        TopologyRank::new(self.edition(), self.document().map(|document| document.by()))
    }

    /// Every kept document, the one that rules over all others first.
    fn newest_first(&self) -> Vec<Arc<TopologyDocument>> {
        let mut documents: Vec<_> = self.documents.values().cloned().collect();
        documents.sort_by_key(|document| Reverse(TopologyRank::of(document)));
        documents
    }

    /// Puts `document` in the place of the one in force, of which it is a copy with other signatures.
    pub fn endorsed(&mut self, document: Arc<TopologyDocument>) {
        if let Some(kept) = self.documents.get_mut(&document.edition()) {
            *kept = document;
        }
    }

    /// The applied topology in force; `None` while none is.
    #[must_use]
    pub fn document(&self) -> Option<&Arc<TopologyDocument>> {
        self.documents.get(&self.edition())
    }

    /// A kept document, in force or not.
    #[must_use]
    pub fn held(&self, edition: Edition) -> Option<&Arc<TopologyDocument>> {
        self.documents.get(&edition)
    }

    /// Tells whether this gateway holds or has refused it, so that there is no point in asking for it.
    #[must_use]
    pub fn knows(&self, edition: Edition) -> bool {
        self.edition() == edition
            || self.documents.contains_key(&edition)
            || self.refused.contains_key(&edition)
    }

    /// Tells whether a peer that has it in force is not to be asked for it. One that was overruled here by another of its generation is asked
    /// for again: the peer may hold the same text by an author who comes first.
    #[must_use]
    pub fn is_settled(&self, edition: Edition) -> bool {
        let now = self.edition();
        let is_former = edition.generation < now.generation && self.knows(edition);
        edition == now || is_former || self.refused.contains_key(&edition)
    }

    #[must_use]
    pub fn conflict(&self) -> Option<TopologyConflict> {
        self.conflict
    }

    /// Documents of other gateways that were not taken, newest last.
    pub fn refused(&self) -> impl Iterator<Item = (&Edition, &RefusedTopology)> {
        self.refused.iter()
    }

    /// Documents to be kept on disk.
    #[must_use]
    pub fn stored(&self) -> StoredTopology {
        StoredTopology {
            documents: self.documents.values().cloned().collect(),
            conflict: self.conflict,
        }
    }

    /// Tells whether `text` may be applied here on top of generation `expected`, and what it would change.
    ///
    /// # Errors
    /// Says why not. Nothing changes either way.
    pub fn draft(&self, expected: u64, text: &str) -> Result<Draft, TopologyRefusal> {
        self.expect_generation(expected)?;
        let parent = self.edition();
        if let Some((newer, refused)) = self
            .refused
            .iter()
            .find(|(edition, refused)| edition.generation > expected && refused.why.leaves_behind())
        {
            return Err(TopologyRefusal::Behind {
                newer: *newer,
                by: refused.by.clone(),
            });
        }
        if parent.generation >= MAX_GENERATION {
            return Err(TopologyRefusal::LastGeneration(MAX_GENERATION));
        }
        self.judge(self.topology(), &self.own.zone)?;
        let parsed =
            parse(text, TEXT_NAME).map_err(|findings| TopologyRefusal::Invalid(Box::new(findings)))?;
        self.fits(&parsed.topology)?;
        Ok(Draft {
            parent,
            text: text.into(),
            under_shift: under_shift(self.topology().map(|topology| &**topology), &parsed.topology),
            changes: self.changes(&parsed.topology),
            warnings: parsed.warnings,
            same: parsed.topology.fingerprint == parent.fingerprint,
        })
    }

    /// Offers what another gateway sent, in its order. A conflict that comes up among these documents lasts, although
    /// a later one of them may have settled it: nobody here has heard of it yet.
    pub fn receive(&mut self, documents: &[Vouched]) -> Vec<Result<OfferedTopology, TopologyRefusal>> {
        let mut arisen = None;
        let mut offer = |document| {
            let offered = self.offer(document);
            arisen = match &offered {
                Ok(OfferedTopology::Overruled(conflict)) => Some(*conflict),
                Ok(OfferedTopology::Taken { conflict, .. }) => conflict.or(arisen),
                Ok(OfferedTopology::Nothing) | Err(_) => arisen,
            };
            offered
        };
        let offered = documents.iter().map(&mut offer).collect();
        if let Some(conflict) = arisen {
            self.conflict = Some(TopologyConflict {
                winner: self.edition(),
                ..conflict
            });
        }
        offered
    }

    /// Takes a document up if it rules over what is in force. Its signatures have been verified.
    ///
    /// # Errors
    /// When this gateway cannot or must not take it; it is remembered as refused.
    pub fn offer(&mut self, vouched: &Vouched) -> Result<OfferedTopology, TopologyRefusal> {
        let document = &vouched.document;
        let (edition, now) = (document.edition(), self.edition());
        if edition.generation < now.generation {
            return Ok(OfferedTopology::Nothing);
        }
        let kept = self.documents.get(&edition).map(|kept| TopologyRank::of(kept));
        if let Some(kept) = &kept {
            // Two have applied one text: the author whose name is lower is kept, by whom ties with other texts are decided.
            let is_better = vouched.author_is_proven && TopologyRank::of(document) > *kept;
            if !is_better || self.judge_vouched(edition, vouched).is_err() {
                return Ok(OfferedTopology::Nothing);
            }
            if edition == now {
                self.documents.insert(edition, document.clone());
                return Ok(OfferedTopology::Nothing);
            }
        }
        let overruled = TopologyRank::of(document) < self.rank();
        if edition.generation == now.generation && !overruled && !vouched.author_is_proven {
            return Err(TopologyRefusal::Unproven {
                edition,
                by: document.by().clone(),
            });
        }
        let checked = self
            .judge_vouched(edition, vouched)
            .and_then(|()| self.read(document));
        let topology = match checked {
            Ok(topology) => topology,
            Err(why) => {
                self.refuse(document, why.clone());
                return Err(why);
            }
        };
        self.documents.insert(edition, document.clone());
        if overruled {
            let conflict = TopologyConflict {
                winner: now,
                loser: edition,
            };
            self.conflict = Some(conflict);
            self.forget_oldest();
            return Ok(OfferedTopology::Overruled(conflict));
        }
        let changes = self.changes(&topology);
        self.conflict = overrules(document, now).then_some(TopologyConflict {
            winner: edition,
            loser: now,
        });
        self.in_force = Some(Arc::new(topology));
        // What was not allowed before may be now.
        self.refused
            .retain(|refused, why| refused.generation > edition.generation && why.why.leaves_behind());
        self.forget_oldest();
        Ok(OfferedTopology::Taken {
            changes,
            conflict: self.conflict,
        })
    }

    /// Remembers a document that was not taken.
    pub fn refuse(&mut self, document: &TopologyDocument, why: TopologyRefusal) {
        let by = document.by().clone();
        self.refused
            .insert(document.edition(), RefusedTopology { by, why });
        while self.refused.len() > MAX_REFUSED {
            self.refused.pop_first();
        }
    }

    fn changes(&self, to: &Topology) -> Diff {
        self.topology()
            .map(|topology| diff(topology, to))
            .unwrap_or_default()
    }

    /// Tells whether somebody who stands for a document may apply.
    fn judge_vouched(&self, edition: Edition, vouched: &Vouched) -> Result<(), TopologyRefusal> {
        let judge = self.judge_of(edition);
        let allowed = |by: &GatewayId| self.judge(judge.as_ref(), &by.zone).is_ok();
        match vouched.by.iter().any(allowed) {
            true => Ok(()),
            false => {
                self.judge(judge.as_ref(), &vouched.document.by().zone)
                    .and(Err(TopologyRefusal::Lapsed {
                        edition,
                        by: vouched.document.by().clone(),
                    }))
            }
        }
    }

    fn judge(&self, judge: Option<&Arc<Topology>>, zone: &ZoneName) -> Result<(), TopologyRefusal> {
        match judge {
            Some(topology) if !topology.may_apply(zone) => Err(TopologyRefusal::NotAllowed {
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

    fn read(&self, document: &TopologyDocument) -> Result<Topology, TopologyRefusal> {
        let parsed = parse(document.text(), TEXT_NAME)
            .map_err(|findings| TopologyRefusal::Invalid(Box::new(findings)))?;
        self.fits(&parsed.topology)?;
        Ok(Topology {
            generation: document.edition().generation,
            ..parsed.topology
        })
    }

    fn fits(&self, topology: &Topology) -> Result<(), TopologyRefusal> {
        let would_be = topology.trust_domain_of(&self.own.zone);
        if would_be != self.own.trust_domain {
            return Err(TopologyRefusal::TrustDomain {
                is: self.own.trust_domain.clone(),
                would_be: would_be.to_owned(),
            });
        }
        if !topology.zones.contains_key(&self.own.zone) {
            return Err(TopologyRefusal::NoOwnZone(self.own.zone.clone()));
        }
        Ok(())
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
    fingerprint: Fingerprint([0xff; 32]),
};

/// Tells whether `document` was applied without knowing of `now`, which was in force here.
fn overrules(document: &TopologyDocument, now: Edition) -> bool {
    now.generation > 0 && document.parent().generation <= now.generation && document.parent() != now
}
