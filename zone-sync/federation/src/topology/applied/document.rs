//! One applied topology: its text, and what the gateway that took it says of it. Both are kept as the bytes that they
//! came in, so that what a newer program wrote is passed on whole.

use std::sync::Arc;

use causeway_proto::topology as proto;
use prost::Message as _;

use super::super::{ChangeableParts, MAX_FILE_BYTES};
use crate::{
    edition::{Edition, Fingerprint, MAX_GENERATION, edition},
    name::{GatewayId, GatewayName, ZoneName},
    signing::{Credential, MAX_SIGNATURE_BYTES, Purpose, SignError, Signed, Signer, Unproven, Verifier},
};

/// Largest encoded statement, signatures and credentials together, in bytes: a certificate chain is a few KiB.
const MAX_HEAD_BYTES: usize = 128 * 1024;
/// Most gateways that sign a document again: one that is valid is enough, and a few outlive a zone that is away.
const MAX_ENDORSEMENTS: usize = 4;
/// Longest reason in bytes.
pub const MAX_REASON_BYTES: usize = 300;
/// Largest encoded document in bytes.
pub const MAX_DOCUMENT_BYTES: usize = MAX_FILE_BYTES + MAX_HEAD_BYTES;

/// A topology that was applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopologyDocument {
    edition: Edition,
    parent: Edition,
    by: GatewayId,
    applied_at_milliseconds: u64,
    /// Empty: nobody said why.
    reason: Arc<str>,
    of_services: bool,
    text: Arc<str>,
    signed: Signed,
    endorsements: Vec<Endorsement>,
}

/// Word of a gateway that it runs this topology.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Endorsement {
    by: GatewayId,
    /// Over the words of the document.
    signature: Arc<[u8]>,
    credential: Arc<Credential>,
}

impl Endorsement {
    fn check(&self, words: &Arc<[u8]>, verifier: &dyn Verifier) -> Result<(), Unproven> {
        let signed = Signed {
            words: words.clone(),
            signature: self.signature.clone(),
            credential: self.credential.clone(),
        };
        signed.check(verifier, Purpose::Endorsement, &self.by)
    }
}

/// Reason why bytes are not a document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopologyDocumentError {
    #[error("the document has {bytes} bytes; at most {MAX_DOCUMENT_BYTES} are allowed")]
    TooLarge { bytes: usize },
    #[error("the document is not a valid message")]
    Malformed(#[source] prost::DecodeError),
    #[error("the document's {0} cannot be used")]
    Field(&'static str),
    #[error("the document's text is not the one that its statement names")]
    OtherText,
}

impl TopologyDocument {
    /// A new document that follows `parent`, not signed yet.
    #[must_use]
    pub fn new(parent: Edition, text: Arc<str>, by: GatewayId, applied_at_milliseconds: u64) -> Self {
        let all = ChangeableParts::Everything;
        Self::because("", &all, parent, text, by, applied_at_milliseconds)
    }

    /// As [`TopologyDocument::new`], with the words of whoever applied it on why, of which what is longer than [`MAX_REASON_BYTES`] is cut, and what
    /// they may change.
    #[must_use]
    pub fn because(
        reason: &str,
        may: &ChangeableParts,
        parent: Edition,
        text: Arc<str>,
        by: GatewayId,
        applied_at_milliseconds: u64,
    ) -> Self {
        let reason = bounded(reason);
        let of_services = *may != ChangeableParts::Everything;
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
            reason: reason.to_owned(),
            of_services,
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
            reason: reason.into(),
            of_services,
            text,
            endorsements: Vec::new(),
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

    /// Has `by`, which runs this topology, sign it again, unless it stands for it already with the certificate that it has now.
    /// Signatures that are not believed any more make room.
    ///
    /// # Errors
    /// When the key cannot be used.
    pub fn endorse(
        &self,
        by: &GatewayId,
        signer: &dyn Signer,
        verifier: &dyn Verifier,
    ) -> Result<Option<Self>, SignError> {
        let credential = signer.credential();
        let own = self.endorsements.iter().find(|one| one.by == *by);
        let author = (self.by == *by).then_some(&self.signed.credential);
        if author
            .into_iter()
            .chain(own.map(|own| &own.credential))
            .any(|known| *known == credential)
        {
            return Ok(None);
        }
        let signed = Signed::by(signer, Purpose::Endorsement, by, &self.signed.words)?;
        let mut endorsed = self.clone();
        endorsed
            .endorsements
            .retain(|one| one.by != *by && one.check(&self.signed.words, verifier).is_ok());
        endorsed.endorsements.insert(
            0,
            Endorsement {
                by: by.clone(),
                signature: signed.signature,
                credential: signed.credential,
            },
        );
        endorsed.endorsements.truncate(MAX_ENDORSEMENTS);
        Ok(Some(endorsed))
    }

    /// Finds the gateways that stand for it now: whoever applied it and whoever signed it again, as far as their certificates are
    /// believed at this moment.
    ///
    /// # Errors
    /// When nobody does. Says why whoever applied it does not.
    pub fn vouchers(&self, verifier: &dyn Verifier) -> Result<Vec<GatewayId>, Unproven> {
        let author = self.signed.check(verifier, Purpose::Topology, &self.by);
        let again = self
            .endorsements
            .iter()
            .filter(|one| one.check(&self.signed.words, verifier).is_ok())
            .map(|one| one.by.clone());
        match author {
            Ok(()) => Ok(std::iter::once(self.by.clone()).chain(again).collect()),
            Err(why) => {
                let again: Vec<_> = again.collect();
                if again.is_empty() { Err(why) } else { Ok(again) }
            }
        }
    }

    /// Checks that the gateway that it names has signed it, whose certificate may have ended since.
    ///
    /// # Errors
    /// Says why that is not believed.
    pub fn verify_author(&self, verifier: &dyn Verifier) -> Result<(), Unproven> {
        self.signed.check_lasting(verifier, Purpose::Topology, &self.by)
    }

    /// # Errors
    /// When the bytes are too many, are no document, or the text is not the one that the statement names.
    pub fn decode(bytes: &[u8]) -> Result<Self, TopologyDocumentError> {
        if bytes.len() > MAX_DOCUMENT_BYTES {
            return Err(TopologyDocumentError::TooLarge { bytes: bytes.len() });
        }
        let document = proto::Document::decode(bytes).map_err(TopologyDocumentError::Malformed)?;
        let statement = proto::Statement::decode(document.statement.as_slice())
            .map_err(TopologyDocumentError::Malformed)?;
        let edition = edition(statement.generation, &statement.fingerprint)
            .filter(|edition| (1..=MAX_GENERATION).contains(&edition.generation))
            .ok_or(TopologyDocumentError::Field("generation or fingerprint"))?;
        let parent = edition_of_parent(&statement, edition.generation)?;
        let credential = Credential(document.credential);
        if !credential.is_bounded() || document.signature.len() > MAX_SIGNATURE_BYTES {
            return Err(TopologyDocumentError::Field("signature"));
        }
        let text = String::from_utf8(document.text).map_err(|_| TopologyDocumentError::Field("text"))?;
        if text.len() > MAX_FILE_BYTES {
            return Err(TopologyDocumentError::TooLarge { bytes: text.len() });
        }
        // Of the fingerprint all bytes count here, not only those that zone sync carries.
        if Fingerprint::of(&text).0 != edition.fingerprint.0 {
            return Err(TopologyDocumentError::OtherText);
        }
        Ok(Self {
            edition,
            parent,
            by: gateway(&statement.zone, &statement.gateway)?,
            endorsements: endorsements(document.endorsements)?,
            applied_at_milliseconds: statement.applied_at_milliseconds,
            // A longer one is no reason to be without the topology.
            reason: bounded(&statement.reason).into(),
            of_services: statement.of_services,
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
            endorsements: self.endorsements.iter().map(endorsement_message).collect(),
        };
        document.encode_to_vec()
    }

    #[must_use]
    pub fn edition(&self) -> Edition {
        self.edition
    }

    /// Edition that was in force where it was applied.
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

    /// Words of whoever applied it on why; `None`: they did not say.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        Some(&*self.reason).filter(|reason| !reason.is_empty())
    }

    /// Tells whether whoever made it may change single services only, or a shift made it.
    #[must_use]
    pub fn is_of_services(&self) -> bool {
        self.of_services
    }

    #[must_use]
    pub fn text(&self) -> &Arc<str> {
        &self.text
    }

    /// Bytes that are signed.
    #[must_use]
    pub fn statement(&self) -> &[u8] {
        &self.signed.words
    }
}

/// As much of a reason as is kept.
fn bounded(reason: &str) -> &str {
    let ends = reason.char_indices().map(|(at, char)| at + char.len_utf8());
    let end = ends.take_while(|end| *end <= MAX_REASON_BYTES).last();
    reason.get(..end.unwrap_or_default()).unwrap_or_default()
}

fn edition_of_parent(
    statement: &proto::Statement,
    generation: u64,
) -> Result<Edition, TopologyDocumentError> {
    edition(statement.parent_generation, &statement.parent_fingerprint)
        .filter(|parent| parent.generation < generation)
        .ok_or(TopologyDocumentError::Field("parent"))
}

fn gateway(zone: &str, gateway: &str) -> Result<GatewayId, TopologyDocumentError> {
    let zone = ZoneName::new(zone).map_err(|_| TopologyDocumentError::Field("zone"))?;
    let gateway = GatewayName::new(gateway).map_err(|_| TopologyDocumentError::Field("gateway"))?;
    Ok(GatewayId::new(zone, gateway))
}

fn endorsements(messages: Vec<proto::Endorsement>) -> Result<Vec<Endorsement>, TopologyDocumentError> {
    let bad = TopologyDocumentError::Field("set of endorsements");
    if messages.len() > MAX_ENDORSEMENTS {
        return Err(bad);
    }
    let mut read: Vec<Endorsement> = Vec::with_capacity(messages.len());
    for message in messages {
        let by = gateway(&message.zone, &message.gateway)?;
        let credential = Credential(message.credential);
        let again = read.iter().any(|one| one.by == by);
        if again || !credential.is_bounded() || message.signature.len() > MAX_SIGNATURE_BYTES {
            return Err(bad);
        }
        read.push(Endorsement {
            by,
            signature: message.signature.into(),
            credential: Arc::new(credential),
        });
    }
    Ok(read)
}

fn endorsement_message(endorsement: &Endorsement) -> proto::Endorsement {
    proto::Endorsement {
        zone: endorsement.by.zone.to_string(),
        gateway: endorsement.by.gateway.to_string(),
        signature: endorsement.signature.to_vec(),
        credential: endorsement.credential.0.clone(),
    }
}
