//! One applied topology: its text, and what the gateway that took it says of it. Both are kept as the bytes that they
//! came in, so that what a newer program wrote is passed on whole.

use std::{cmp::Ordering, fmt, sync::Arc};

use causeway_proto::topology as proto;
use prost::Message as _;

use super::super::{Fingerprint, MAX_FILE_BYTES};
use crate::{
    name::{GatewayId, GatewayName, ZoneName},
    signing::{Credential, MAX_SIGNATURE_BYTES, Purpose, SignError, Signed, Signer, Unproven, Verifier},
};

/// Largest encoded statement, signature and credential together, in bytes: a certificate chain is a few KiB.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// Largest encoded document in bytes.
pub const MAX_DOCUMENT_BYTES: usize = MAX_FILE_BYTES + MAX_HEAD_BYTES;
/// The last generation there can be: what JSON numbers hold exactly (RFC 8259 §6).
pub const MAX_GENERATION: u64 = (1 << 53) - 1;

/// Tells one applied topology from every other. Of two, the greater one rules: the higher generation, and within one
/// generation the *lower* fingerprint, which everybody can tell alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Edition {
    pub generation: u64,
    pub fingerprint: Fingerprint,
}

impl Ord for Edition {
    fn cmp(&self, other: &Self) -> Ordering {
        let fingerprints = other.fingerprint.compared().cmp(self.fingerprint.compared());
        self.generation.cmp(&other.generation).then(fingerprints)
    }
}

impl PartialOrd for Edition {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// `7 (6a1b2c3d4e5f)`.
impl fmt::Display for Edition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.generation, self.fingerprint)
    }
}

/// A topology that was applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    edition: Edition,
    parent: Edition,
    by: GatewayId,
    applied_at_milliseconds: u64,
    text: Arc<str>,
    signed: Signed,
}

/// Why bytes are not a document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    #[error("the document has {bytes} bytes; at most {MAX_DOCUMENT_BYTES} are allowed")]
    TooLarge { bytes: usize },
    #[error("the document is not a valid message")]
    Malformed(#[source] prost::DecodeError),
    #[error("the document's {0} cannot be used")]
    Field(&'static str),
    #[error("the document's text is not the one that its statement names")]
    OtherText,
}

impl Document {
    /// A new document that follows `parent`, not signed yet.
    #[must_use]
    pub fn new(parent: Edition, text: Arc<str>, by: GatewayId, applied_at_milliseconds: u64) -> Self {
        let edition = Edition {
            generation: parent.generation + 1,
            fingerprint: Fingerprint::of(&text),
        };
        let statement = proto::Statement {
            generation: edition.generation,
            fingerprint: edition.fingerprint.0.to_vec(),
            zone: by.zone.to_string(),
            gateway: by.gateway.to_string(),
            applied_at_milliseconds,
            parent_generation: parent.generation,
            parent_fingerprint: parent.fingerprint.0.to_vec(),
        };
        Self {
            signed: Signed {
                words: statement.encode_to_vec().into(),
                signature: [].into(),
                credential: Arc::default(),
            },
            edition,
            parent,
            by,
            applied_at_milliseconds,
            text,
        }
    }

    /// Signs it as the gateway that it names.
    ///
    /// # Errors
    /// When the key cannot be used.
    pub fn sign(self, signer: &dyn Signer) -> Result<Self, SignError> {
        let signed = Signed::by(signer, Purpose::Topology, &self.by, &self.signed.words)?;
        Ok(Self { signed, ..self })
    }

    /// Whether the gateway that it names has signed it.
    ///
    /// # Errors
    /// Says why that is not believed.
    pub fn verify(&self, verifier: &dyn Verifier) -> Result<(), Unproven> {
        self.signed.check_lasting(verifier, Purpose::Topology, &self.by)
    }

    /// # Errors
    /// When the bytes are too many, are no document, or the text is not the one that the statement names.
    pub fn decode(bytes: &[u8]) -> Result<Self, DocumentError> {
        if bytes.len() > MAX_DOCUMENT_BYTES {
            return Err(DocumentError::TooLarge { bytes: bytes.len() });
        }
        let document = proto::Document::decode(bytes).map_err(DocumentError::Malformed)?;
        let statement =
            proto::Statement::decode(document.statement.as_slice()).map_err(DocumentError::Malformed)?;
        let edition = edition(statement.generation, &statement.fingerprint)
            .filter(|edition| (1..=MAX_GENERATION).contains(&edition.generation))
            .ok_or(DocumentError::Field("generation or fingerprint"))?;
        let parent = edition_of_parent(&statement, edition.generation)?;
        let credential = Credential(document.credential);
        if !credential.is_bounded() || document.signature.len() > MAX_SIGNATURE_BYTES {
            return Err(DocumentError::Field("signature"));
        }
        let text = String::from_utf8(document.text).map_err(|_| DocumentError::Field("text"))?;
        if text.len() > MAX_FILE_BYTES {
            return Err(DocumentError::TooLarge { bytes: text.len() });
        }
        // Of the fingerprint all bytes count here, not only those that zone sync carries.
        if Fingerprint::of(&text).0 != edition.fingerprint.0 {
            return Err(DocumentError::OtherText);
        }
        Ok(Self {
            edition,
            parent,
            by: gateway(&statement)?,
            applied_at_milliseconds: statement.applied_at_milliseconds,
            text: text.into(),
            signed: Signed {
                words: document.statement.into(),
                signature: document.signature.into(),
                credential: Arc::new(credential),
            },
        })
    }

    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let document = proto::Document {
            statement: self.signed.words.to_vec(),
            text: self.text.as_bytes().to_vec(),
            signature: self.signed.signature.to_vec(),
            credential: self.signed.credential.0.clone(),
        };
        document.encode_to_vec()
    }

    #[must_use]
    pub fn edition(&self) -> Edition {
        self.edition
    }

    /// What was in force where it was applied.
    #[must_use]
    pub fn parent(&self) -> Edition {
        self.parent
    }

    /// The gateway that took it.
    #[must_use]
    pub fn by(&self) -> &GatewayId {
        &self.by
    }

    /// By the clock of that gateway, since 1970.
    #[must_use]
    pub fn applied_at_milliseconds(&self) -> u64 {
        self.applied_at_milliseconds
    }

    #[must_use]
    pub fn text(&self) -> &Arc<str> {
        &self.text
    }

    /// What is signed.
    #[must_use]
    pub fn statement(&self) -> &[u8] {
        &self.signed.words
    }
}

/// `None` when the fingerprint is not one.
#[must_use]
pub fn edition(generation: u64, fingerprint: &[u8]) -> Option<Edition> {
    let fingerprint = Fingerprint(fingerprint.try_into().ok()?);
    Some(Edition {
        generation,
        fingerprint,
    })
}

fn edition_of_parent(statement: &proto::Statement, generation: u64) -> Result<Edition, DocumentError> {
    edition(statement.parent_generation, &statement.parent_fingerprint)
        .filter(|parent| parent.generation < generation)
        .ok_or(DocumentError::Field("parent"))
}

fn gateway(statement: &proto::Statement) -> Result<GatewayId, DocumentError> {
    let zone = ZoneName::new(&statement.zone).map_err(|_| DocumentError::Field("zone"))?;
    let gateway = GatewayName::new(&statement.gateway).map_err(|_| DocumentError::Field("gateway"))?;
    Ok(GatewayId::new(zone, gateway))
}
