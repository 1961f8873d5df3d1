//! One document of what the federation trusts: its content, and who signed it. The statement is kept as the bytes that
//! it came in, so that what a newer program wrote is passed on whole.

use std::{collections::BTreeSet, fmt, sync::Arc};

use causeway_proto::trust as proto;
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use super::{
    Roots, TrustCryptography,
    revoked_names::{MAX_REVOKED_NAME_BYTES, MAX_REVOKED_NAMES, RevokedNames},
};
use crate::{
    edition::{Edition, Fingerprint, MAX_GENERATION},
    signing::MAX_SIGNATURE_BYTES,
};

/// Most roots that a document names: two during a rotation, and room for those of a merged federation.
pub const MAX_ROOTS: usize = 8;
/// Largest root certificate in bytes.
pub(super) const MAX_ROOT_BYTES: usize = 16 * 1024;
/// Largest revocation list in bytes: some 7,000 certificates.
pub const MAX_REVOCATIONS_BYTES: usize = 256 * 1024;
/// Longest trust domain in bytes, as SPIFFE has it.
const MAX_TRUST_DOMAIN_BYTES: usize = 255;
/// Largest encoded document in bytes: every root with a full list, every name, signatures and room for newer fields.
pub const MAX_DOCUMENT_BYTES: usize = MAX_ROOTS * (MAX_ROOT_BYTES + MAX_REVOCATIONS_BYTES)
    + MAX_REVOKED_NAMES * MAX_REVOKED_NAME_BYTES
    + 64 * 1024;
/// Prefix of a statement under a signature, so that one made for it is worth nothing elsewhere.
const PURPOSE: &[u8] = b"causeway trust document\0";

/// SHA-256 of a certificate.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CertificateHash(pub [u8; 32]);

impl CertificateHash {
    /// Of a certificate, DER.
    #[must_use]
    pub fn of(certificate: &[u8]) -> Self {
        Self(Sha256::digest(certificate).into())
    }

    /// `None` when these are not as many bytes as a hash has.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Display for CertificateHash {
    /// All 64 hexadecimal digits, as `openssl x509 -fingerprint -sha256` has them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for CertificateHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CertificateHash({self})")
    }
}

/// Content of a document.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Content {
    pub trust_domain: String,
    /// Certificates, DER; at least one, no two alike.
    pub roots: Vec<Vec<u8>>,
    /// X.509 revocation lists, DER.
    pub revocations: Vec<Vec<u8>>,
    /// Names of this trust domain whose certificates are revoked, beside those on the lists.
    pub revoked_names: RevokedNames,
    /// The root that new certificates are issued from; one of `roots`.
    pub preferred: Option<CertificateHash>,
}

impl Content {
    #[must_use]
    pub fn roots_by_hash(&self) -> Roots {
        let hashed = |root: &Vec<u8>| (CertificateHash::of(root), root.clone());
        self.roots.iter().map(hashed).collect()
    }

    fn check(&self) -> Result<(), TrustDocumentError> {
        let domain = self.trust_domain.len();
        if domain == 0 || domain > MAX_TRUST_DOMAIN_BYTES {
            return Err(TrustDocumentError::Field("trust domain"));
        }
        let sizes = self.roots.iter().map(Vec::len);
        let hashes: BTreeSet<_> = self.roots.iter().map(|root| CertificateHash::of(root)).collect();
        if !(1..=MAX_ROOTS).contains(&self.roots.len())
            || hashes.len() != self.roots.len()
            || sizes.clone().any(|bytes| bytes == 0 || bytes > MAX_ROOT_BYTES)
        {
            return Err(TrustDocumentError::Field("set of roots"));
        }
        let lists = &self.revocations;
        if lists.len() > self.roots.len() || lists.iter().any(|list| list.len() > MAX_REVOCATIONS_BYTES) {
            return Err(TrustDocumentError::Field("set of revocation lists"));
        }
        match self.preferred {
            Some(preferred) if !hashes.contains(&preferred) => {
                Err(TrustDocumentError::Field("preferred issuer"))
            }
            _ => Ok(()),
        }
    }
}

/// Signed word on what the federation trusts from one generation on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustDocument {
    edition: Edition,
    content: Content,
    made_at_milliseconds: u64,
    words: Arc<[u8]>,
    signatures: Vec<(CertificateHash, Vec<u8>)>,
}

/// Reason why something is not a document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustDocumentError {
    #[error("the document has {bytes} bytes; at most {MAX_DOCUMENT_BYTES} are allowed")]
    TooLarge { bytes: usize },
    #[error("the document is not a valid message")]
    Malformed(#[source] prost::DecodeError),
    #[error("the document's {0} cannot be used")]
    Field(&'static str),
}

/// The bytes under a signature.
#[must_use]
pub fn bytes_to_sign(statement: &[u8]) -> Vec<u8> {
    [PURPOSE, statement].concat()
}

impl TrustDocument {
    /// A new document, not signed yet.
    ///
    /// # Errors
    /// When the content breaks a limit, or names a preferred issuer that is not among its roots.
    pub fn new(
        generation: u64,
        content: Content,
        made_at_milliseconds: u64,
    ) -> Result<Self, TrustDocumentError> {
        let statement = proto::Statement {
            generation,
            trust_domain: content.trust_domain.clone(),
            roots: content.roots.clone(),
            revocations: content.revocations.clone(),
            preferred_issuer: content.preferred.map(|hash| hash.0.to_vec()).unwrap_or_default(),
            made_at_milliseconds,
            revoked_names: content.revoked_names.message(),
        };
        Self::read(statement.encode_to_vec(), Vec::new())
    }

    /// Adds what the key of `root` made of [`Document::bytes_to_sign`].
    #[must_use]
    pub fn signed(mut self, root: CertificateHash, signature: Vec<u8>) -> Self {
        self.signatures.retain(|(by, _)| *by != root);
        self.signatures.push((root, signature));
        self
    }

    #[must_use]
    pub fn bytes_to_sign(&self) -> Vec<u8> {
        bytes_to_sign(&self.words)
    }

    /// Tells whether one of `roots` has signed it.
    #[must_use]
    pub fn is_signed_by_any(&self, roots: &Roots, authority: &dyn TrustCryptography) -> bool {
        let message = self.bytes_to_sign();
        self.signatures.iter().any(|(by, signature)| {
            let root = roots.get(by);
            root.is_some_and(|root| authority.signed(root, &message, signature))
        })
    }

    /// # Errors
    /// When the bytes are too many, or are no document.
    pub fn decode(bytes: &[u8]) -> Result<Self, TrustDocumentError> {
        if bytes.len() > MAX_DOCUMENT_BYTES {
            return Err(TrustDocumentError::TooLarge { bytes: bytes.len() });
        }
        let document = proto::Document::decode(bytes).map_err(TrustDocumentError::Malformed)?;
        Self::of_message(document)
    }

    /// Reads a document from its message.
    ///
    /// # Errors
    /// When it breaks a limit, or is no document.
    pub fn of_message(document: proto::Document) -> Result<Self, TrustDocumentError> {
        if document.signatures.len() > MAX_ROOTS {
            return Err(TrustDocumentError::Field("set of signatures"));
        }
        let read = |signed: proto::Signature| {
            let root = CertificateHash::read(&signed.root)?;
            let bounded = signed.signature.len() <= MAX_SIGNATURE_BYTES;
            bounded.then_some((root, signed.signature))
        };
        let signatures: Option<Vec<_>> = document.signatures.into_iter().map(read).collect();
        let signatures = signatures.ok_or(TrustDocumentError::Field("set of signatures"))?;
        Self::read(document.statement, signatures)
    }

    fn read(words: Vec<u8>, signatures: Vec<(CertificateHash, Vec<u8>)>) -> Result<Self, TrustDocumentError> {
        if words.len() > MAX_DOCUMENT_BYTES {
            return Err(TrustDocumentError::TooLarge { bytes: words.len() });
        }
        let statement = proto::Statement::decode(words.as_slice()).map_err(TrustDocumentError::Malformed)?;
        if !(1..=MAX_GENERATION).contains(&statement.generation) {
            return Err(TrustDocumentError::Field("generation"));
        }
        let preferred = match statement.preferred_issuer.as_slice() {
            [] => None,
            bytes => Some(CertificateHash::read(bytes).ok_or(TrustDocumentError::Field("preferred issuer"))?),
        };
        let content = Content {
            trust_domain: statement.trust_domain,
            roots: statement.roots,
            revocations: statement.revocations,
            revoked_names: RevokedNames::read(&statement.revoked_names)
                .ok_or(TrustDocumentError::Field("set of revoked names"))?,
            preferred,
        };
        content.check()?;
        Ok(Self {
            edition: Edition {
                generation: statement.generation,
                fingerprint: Fingerprint(Sha256::digest(&words).into()),
            },
            content,
            made_at_milliseconds: statement.made_at_milliseconds,
            words: words.into(),
            signatures,
        })
    }

    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.message().encode_to_vec()
    }

    /// Gives the message that [`Document::encode`] encodes.
    #[must_use]
    pub fn message(&self) -> proto::Document {
        let signature = |(root, signature): &(CertificateHash, Vec<u8>)| proto::Signature {
            root: root.0.to_vec(),
            signature: signature.clone(),
        };
        proto::Document {
            statement: self.words.to_vec(),
            signatures: self.signatures.iter().map(signature).collect(),
        }
    }

    #[must_use]
    pub fn edition(&self) -> Edition {
        self.edition
    }

    #[must_use]
    pub fn content(&self) -> &Content {
        &self.content
    }

    /// The roots whose keys are said to have signed it.
    pub fn signers(&self) -> impl Iterator<Item = &CertificateHash> {
        self.signatures.iter().map(|(root, _)| root)
    }
}
