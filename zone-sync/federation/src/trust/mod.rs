//! Trust of a federation: the roots that vouch for its gateways, and what was revoked. It is one document that the CA
//! signs, and gateways hand it to each other.
//!
//! Everything here is pure: documents come in, and [`Trust`] says which one rules and which roots count. The higher generation
//! rules; a second document of the generation in force is refused, loudly, whatever it says: its author could choose anything that
//! a rule compared, its fingerprint too. A document counts only if a root signed it that is trusted *before* it, so a new root is
//! introduced by an old one.
//!
//! How this goes together with the roots that somebody else keeps in a file: a document decides about every root that
//! was in the file when it was taken, and about every root that it or an earlier document names. A root that comes into
//! the file later is trusted beside it.
//!
//! The file is the store's (`causeway-zone-sync`). The cryptography is the gateway's ([`TrustCryptography`]), and so is how
//! documents travel.

mod bundle;
mod document;
mod refusal;
mod revoked_names;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

pub use bundle::{Bundle, BundleError};
pub use document::{
    CertificateHash, Content, MAX_DOCUMENT_BYTES, MAX_REVOCATIONS_BYTES, MAX_ROOTS, TrustDocument,
    TrustDocumentError, bytes_to_sign,
};
pub use refusal::TrustRefusal;
pub use revoked_names::{MAX_REVOKED_NAMES, RevokedName, RevokedNames, RevokedUntil};

use crate::edition::Edition;

/// Most roots whose fate is remembered: far more than a federation will ever have had.
pub const MAX_DECIDED: usize = 4_096;

/// Root certificates, DER, by their hash.
pub type Roots = BTreeMap<CertificateHash, Vec<u8>>;

/// Cryptography that the core asks for. Certificates and lists are DER.
pub trait TrustCryptography {
    /// Tells whether the key of `root` made `signature` over `message`.
    fn signed(&self, root: &[u8], message: &[u8], signature: &[u8]) -> bool;

    /// Checks that a document with these roots and revocation lists can be used: each root is one that can be trusted, and
    /// each list is signed by one of them.
    ///
    /// # Errors
    /// Says what is wrong, for a person.
    fn check(&self, content: &Content) -> Result<(), String>;
}

/// Two documents were made without knowing of each other. It lasts until the next generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrustConflict {
    /// Edition in force.
    pub winner: Edition,
    pub loser: Edition,
}

/// Outcome of offering a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OfferedTrust {
    /// It is in force already, or older than what is.
    Nothing,
    /// It is in force now.
    Taken,
    /// Another of its generation was here before, and rules on.
    Overruled(TrustConflict),
}

/// Documents to be kept on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoredTrust {
    pub document: Option<Arc<TrustDocument>>,
    pub decided: BTreeSet<CertificateHash>,
}

/// Trust of this gateway: the document that rules, and the roots that count.
#[derive(Debug, Clone)]
pub struct Trust {
    trust_domain: String,
    document: Option<Arc<TrustDocument>>,
    /// The roots that documents have had the say about.
    decided: BTreeSet<CertificateHash>,
    conflict: Option<TrustConflict>,
}

impl Trust {
    /// Works out what rules in a trust domain, given what was kept. A document of another trust domain is not taken up.
    #[must_use]
    pub fn new(trust_domain: &str, stored: StoredTrust) -> Self {
        let ours = |document: &Arc<TrustDocument>| document.content().trust_domain == trust_domain;
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
        let edition = |document: &Arc<TrustDocument>| document.edition();
        self.document.as_ref().map(edition).unwrap_or_default()
    }

    #[must_use]
    pub fn document(&self) -> Option<&Arc<TrustDocument>> {
        self.document.as_ref()
    }

    #[must_use]
    pub fn conflict(&self) -> Option<TrustConflict> {
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
        document: &Arc<TrustDocument>,
        file: &Roots,
        authority: &dyn TrustCryptography,
    ) -> Result<OfferedTrust, TrustRefusal> {
        let (edition, now) = (document.edition(), self.edition());
        if edition.generation < now.generation || edition == now {
            return Ok(OfferedTrust::Nothing);
        }
        let content = document.content();
        if content.trust_domain != self.trust_domain {
            return Err(TrustRefusal::TrustDomain {
                edition,
                is: self.trust_domain.clone(),
                would_be: content.trust_domain.clone(),
            });
        }
        if !document.is_signed_by_any(&self.roots(file), authority) {
            return Err(TrustRefusal::Unsigned { edition });
        }
        if edition.generation == now.generation {
            let conflict = TrustConflict {
                winner: now,
                loser: edition,
            };
            self.conflict = Some(conflict);
            return Ok(OfferedTrust::Overruled(conflict));
        }
        authority
            .check(content)
            .map_err(|why| TrustRefusal::Unusable { edition, why })?;
        let mut decided = self.decided.clone();
        decided.extend(file.keys().copied());
        decided.extend(content.roots_by_hash().into_keys());
        if decided.len() > MAX_DECIDED {
            return Err(TrustRefusal::TooManyRoots { edition });
        }
        self.decided = decided;
        self.conflict = None;
        self.document = Some(document.clone());
        Ok(OfferedTrust::Taken)
    }

    /// Documents to be kept on disk.
    #[must_use]
    pub fn stored(&self) -> StoredTrust {
        StoredTrust {
            document: self.document.clone(),
            decided: self.decided.clone(),
        }
    }
}
