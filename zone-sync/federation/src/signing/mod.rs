//! Signed words of a gateway: what lets others pass on what it said, and everyone check it.
//!
//! Only the shapes are here. The real signer uses the key of the gateway's certificate and lives with it; [`keyed`] is a
//! cheap stand-in for tests and simulations.

pub mod keyed;

use std::{fmt::Debug, sync::Arc};

use crate::name::GatewayId;

/// Most certificates in a credential: a chain of a few, not a bundle.
pub(crate) const MAX_CREDENTIAL_CERTIFICATES: usize = 8;
/// Most bytes of them together.
pub const MAX_CREDENTIAL_BYTES: usize = 16 * 1024;
/// Longest signature in bytes: RSA with 4,096 bits.
pub const MAX_SIGNATURE_BYTES: usize = 512;

/// Purpose of a signature, so that one made for a purpose is worth nothing for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The head of a zone sync record.
    Record,
    /// Proof of life.
    Beat,
    /// A topology that was applied.
    Topology,
    /// A topology that another gateway applied, and this one runs.
    Endorsement,
    /// A request for a certificate by a gateway whose own has ended.
    Rejoin,
}

impl Purpose {
    fn words(self) -> &'static [u8] {
        match self {
            Self::Record => b"causeway zone sync record",
            Self::Beat => b"causeway zone sync beat",
            Self::Topology => b"causeway applied topology",
            Self::Endorsement => b"causeway endorsed topology",
            Self::Rejoin => b"causeway rejoin request",
        }
    }
}

/// A certificate chain, DER, leaf first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Credential(pub Vec<Vec<u8>>);

impl Credential {
    /// Tells whether it is within [`MAX_CREDENTIAL_CERTIFICATES`] and [`MAX_CREDENTIAL_BYTES`].
    #[must_use]
    pub fn is_bounded(&self) -> bool {
        self.0.len() <= MAX_CREDENTIAL_CERTIFICATES
            && self.0.iter().map(Vec::len).sum::<usize>() <= MAX_CREDENTIAL_BYTES
    }
}

/// An origin's words, its signature and who it is. The words are the bytes that came, never written anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    pub words: Arc<[u8]>,
    /// Empty when the origin has no key.
    pub signature: Arc<[u8]>,
    pub credential: Arc<Credential>,
}

/// The bytes under a signature: the purpose, the origin and its words, each but the last with its length before it.
#[must_use]
pub fn bytes_to_sign(purpose: Purpose, origin: &GatewayId, words: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(words.len() + 128);
    for part in [
        purpose.words(),
        origin.zone.as_str().as_bytes(),
        origin.gateway.as_str().as_bytes(),
    ] {
        // None is longer than 63 bytes.
        bytes.push(u8::try_from(part.len()).unwrap_or(u8::MAX));
        bytes.extend_from_slice(part);
    }
    bytes.extend_from_slice(words);
    bytes
}

/// Reason why something was not signed.
#[derive(Debug, thiserror::Error)]
#[error("cannot sign with this gateway's key")]
pub struct SignError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// Reason why a signature is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unproven {
    #[error("it is not signed")]
    Unsigned,
    #[error("the certificate that it was signed with names another gateway")]
    OtherGateway,
    #[error("the certificate that it was signed with is not believed: {0}")]
    Credential(String),
    #[error("the signature does not fit what it stands under")]
    Signature,
}

/// A signature, and what verifiers need to check it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    pub bytes: Vec<u8>,
    pub credential: Arc<Credential>,
}

/// Signs as one gateway.
pub trait Signer: Debug + Send + Sync {
    /// # Errors
    /// When the key cannot be used.
    fn sign(&self, message: &[u8]) -> Result<Signature, SignError>;

    /// The credential that the next signature would come with. It changes when the gateway's certificate is renewed.
    fn credential(&self) -> Arc<Credential>;
}

/// Checks what any gateway of the federation signed.
pub trait Verifier: Debug + Send + Sync {
    /// Checks that `credential` is valid now and names `origin`, and its key signed `message`.
    ///
    /// # Errors
    /// Says which of these does not hold.
    fn verify(
        &self,
        origin: &GatewayId,
        credential: &Credential,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), Unproven>;

    /// As [`Verifier::verify`], for words that outlive the certificate: it may have ended since.
    ///
    /// # Errors
    /// Says which of these does not hold.
    fn verify_lasting(
        &self,
        origin: &GatewayId,
        credential: &Credential,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), Unproven> {
        self.verify(origin, credential, message, signature)
    }
}

impl Signed {
    /// Has `words` signed for `purpose`.
    ///
    /// # Errors
    /// When the key cannot be used.
    pub fn by(
        signer: &dyn Signer,
        purpose: Purpose,
        origin: &GatewayId,
        words: &[u8],
    ) -> Result<Self, SignError> {
        let signature = signer.sign(&bytes_to_sign(purpose, origin, words))?;
        Ok(Self {
            words: words.into(),
            signature: signature.bytes.into(),
            credential: signature.credential,
        })
    }

    /// # Errors
    /// When `origin` did not sign these words for this purpose.
    pub fn check(
        &self,
        verifier: &dyn Verifier,
        purpose: Purpose,
        origin: &GatewayId,
    ) -> Result<(), Unproven> {
        if self.signature.is_empty() {
            return Err(Unproven::Unsigned);
        }
        let message = bytes_to_sign(purpose, origin, &self.words);
        verifier.verify(origin, &self.credential, &message, &self.signature)
    }

    /// As [`Signed::check`], for words that outlive the certificate: it may have ended since.
    ///
    /// # Errors
    /// When `origin` did not sign these words for this purpose.
    pub fn check_lasting(
        &self,
        verifier: &dyn Verifier,
        purpose: Purpose,
        origin: &GatewayId,
    ) -> Result<(), Unproven> {
        if self.signature.is_empty() {
            return Err(Unproven::Unsigned);
        }
        let message = bytes_to_sign(purpose, origin, &self.words);
        verifier.verify_lasting(origin, &self.credential, &message, &self.signature)
    }
}
