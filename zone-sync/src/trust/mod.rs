//! What a federation trusts: the roots that vouch for its gateways, and what was revoked. It is one document that the CA
//! signs, and gateways hand it to each other.
//!
//! Everything but the file is pure: documents come in, and [`Trust`] says which one rules and which roots count. The
//! rule is the total order of [`Edition`], as for applied topologies: the higher generation rules; of two with one
//! generation, the one with the lower fingerprint, loudly. A document counts only if a root signed it that is trusted
//! *before* it, so a new root is introduced by an old one.
//!
//! How this goes together with the roots that somebody else keeps in a file: a document decides about every root that
//! was in the file when it was taken, and about every root that it or an earlier document names. A root that comes into
//! the file later is trusted beside it.
//!
//! The cryptography is the gateway's ([`Authority`]), and so is how documents travel.

mod bundle;
mod document;
mod refusal;
mod store;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

pub use bundle::{Bundle, BundleError};
pub use document::{
    CertificateHash, Content, Document, DocumentError, MAX_DOCUMENT_BYTES, MAX_REVOCATIONS_BYTES, MAX_ROOTS,
    bytes_to_sign,
};
pub use refusal::Refusal;
pub use store::{FILE, SetAside, Store, StoreError};

pub use crate::topology::applied::{Edition, edition};

/// Most roots whose fate is remembered: far more than a federation will ever have had.
pub const MAX_DECIDED: usize = 4_096;

/// Root certificates, DER, by their hash.
pub type Roots = BTreeMap<CertificateHash, Vec<u8>>;

/// What the core asks of cryptography. Certificates and lists are DER.
pub trait Authority {
    /// Whether the key of `root` made `signature` over `message`.
    fn signed(&self, root: &[u8], message: &[u8], signature: &[u8]) -> bool;

    /// Whether a document with these roots and revocation lists can be used: each root is one that can be trusted, and
    /// each list is signed by one of them.
    ///
    /// # Errors
    /// Says what is wrong, for a person.
    fn check(&self, content: &Content) -> Result<(), String>;
}

/// Two documents were made without knowing of each other. It lasts until the next generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conflict {
    /// What is in force.
    pub winner: Edition,
    pub loser: Edition,
}

/// What became of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offered {
    /// It is in force already, or older than what is.
    Nothing,
    /// It is in force now.
    Taken { conflict: Option<Conflict> },
    /// Another of its generation rules.
    Overruled(Conflict),
}

/// What is to be kept on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stored {
    pub document: Option<Arc<Document>>,
    pub decided: BTreeSet<CertificateHash>,
}

/// Which document rules at this gateway, and which roots count.
#[derive(Debug, Clone)]
pub struct Trust {
    trust_domain: String,
    document: Option<Arc<Document>>,
    /// The roots that documents have had the say about.
    decided: BTreeSet<CertificateHash>,
    conflict: Option<Conflict>,
}

impl Trust {
    /// What rules in a trust domain, given what was kept. A document of another trust domain is not taken up.
    #[must_use]
    pub fn new(trust_domain: &str, stored: Stored) -> Self {
        let ours = |document: &Arc<Document>| document.content().trust_domain == trust_domain;
        let document = stored.document.filter(ours);
        Self {
            decided: document.as_ref().map(|_| stored.decided).unwrap_or_default(),
            trust_domain: trust_domain.to_owned(),
            document,
            conflict: None,
        }
    }

    /// Generation 0 while there is no document.
    #[must_use]
    pub fn edition(&self) -> Edition {
        let edition = |document: &Arc<Document>| document.edition();
        self.document.as_ref().map(edition).unwrap_or_default()
    }

    #[must_use]
    pub fn document(&self) -> Option<&Arc<Document>> {
        self.document.as_ref()
    }

    #[must_use]
    pub fn conflict(&self) -> Option<Conflict> {
        self.conflict
    }

    /// The roots that count, of those in the document and those in the file.
    #[must_use]
    pub fn roots(&self, file: &Roots) -> Roots {
        let Some(document) = &self.document else {
            return file.clone();
        };
        let undecided = file.iter().filter(|(hash, _)| !self.decided.contains(hash));
        let mut roots: Roots = undecided.map(|(hash, root)| (*hash, root.clone())).collect();
        roots.extend(document.content().roots_by_hash());
        roots
    }

    /// Takes a document up if it rules over the one in force; `file` are the roots in the file now.
    ///
    /// # Errors
    /// When it must not be taken. Nothing changes then.
    pub fn offer(
        &mut self,
        document: &Arc<Document>,
        file: &Roots,
        authority: &dyn Authority,
    ) -> Result<Offered, Refusal> {
        let (edition, now) = (document.edition(), self.edition());
        if edition.generation < now.generation || edition == now {
            return Ok(Offered::Nothing);
        }
        let content = document.content();
        if content.trust_domain != self.trust_domain {
            return Err(Refusal::TrustDomain {
                edition,
                is: self.trust_domain.clone(),
                would_be: content.trust_domain.clone(),
            });
        }
        if !document.is_signed_by_any(&self.roots(file), authority) {
            return Err(Refusal::Unsigned { edition });
        }
        if edition < now {
            let conflict = Conflict {
                winner: now,
                loser: edition,
            };
            self.conflict = Some(conflict);
            return Ok(Offered::Overruled(conflict));
        }
        authority
            .check(content)
            .map_err(|why| Refusal::Unusable { edition, why })?;
        let mut decided = self.decided.clone();
        decided.extend(file.keys().copied());
        decided.extend(content.roots_by_hash().into_keys());
        if decided.len() > MAX_DECIDED {
            return Err(Refusal::TooManyRoots { edition });
        }
        self.decided = decided;
        self.conflict = (edition.generation == now.generation).then_some(Conflict {
            winner: edition,
            loser: now,
        });
        self.document = Some(document.clone());
        Ok(Offered::Taken {
            conflict: self.conflict,
        })
    }

    /// What is to be kept on disk.
    #[must_use]
    pub fn stored(&self) -> Stored {
        Stored {
            document: self.document.clone(),
            decided: self.decided.clone(),
        }
    }
}
