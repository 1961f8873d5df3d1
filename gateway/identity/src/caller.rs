//! Certificates of callers: programs that are no gateways, call a service over TLS, and show who they are. Their chains are
//! verified like everybody's; then a certificate has to name somebody whom this gateway may speak for.

use std::sync::Arc;

use causeway_federation::name::{CallerIdentity, SpiffeIdError as NameError, ZoneName};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    pki_types::{CertificateDer, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};

use super::{Identity, LeafError, TlsError, chain::ChainVerifier, identify_client, provider};

/// Reason why a certificate that can be believed names no caller of this zone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoCaller {
    #[error(transparent)]
    Leaf(#[from] LeafError),
    #[error("the certificate's URI is no SPIFFE id of a caller")]
    Name(#[from] NameError),
    #[error("{identity} is not of {own}")]
    TrustDomain { identity: CallerIdentity, own: String },
    #[error("{identity} is of another zone, and only that zone speaks for it; this is {own}")]
    Zone { identity: CallerIdentity, own: ZoneName },
}

impl NoCaller {
    /// The word for logs and metrics.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Leaf(_) | Self::Name(_) => "bad_identity",
            Self::TrustDomain { .. } => "wrong_trust_domain",
            Self::Zone { .. } => "wrong_zone",
        }
    }

    /// Finds the one that rustls kept as the reason why a handshake failed.
    #[must_use]
    pub fn of(cause: &CertificateError) -> Option<&Self> {
        match cause {
            CertificateError::Other(other) => other.0.downcast_ref(),
            _ => None,
        }
    }
}

/// Names that a gateway may speak for.
#[derive(Debug, Clone)]
struct Ours {
    trust_domain: String,
    zone: ZoneName,
}

impl Ours {
    fn caller(&self, leaf: &CertificateDer<'_>) -> Result<CallerIdentity, NoCaller> {
        let (_, id) = identify_client(leaf)?;
        let identity: CallerIdentity = id.parse()?;
        if identity.trust_domain() != self.trust_domain {
            let own = self.trust_domain.clone();
            return Err(NoCaller::TrustDomain { identity, own });
        }
        if !identity.names_no_zone_but(&self.zone) {
            let own = self.zone.clone();
            return Err(NoCaller::Zone { identity, own });
        }
        Ok(identity)
    }
}

impl Identity {
    /// TLS settings for taking callers: TLS 1.3 only, and a client shows a certificate that names a caller of this zone.
    ///
    /// # Errors
    /// When the key does not fit the certificate, or there are no roots.
    pub fn caller_tls(&self) -> Result<rustls::ServerConfig, TlsError> {
        let provider = provider();
        let verifier = CallerVerifier {
            chain: self.verifier(&provider)?,
            ours: self.ours(),
        };
        self.serving(provider, verifier)
    }

    /// The caller that a certificate names.
    ///
    /// # Errors
    /// When it is a CA's, has not exactly one URI name, or that is no SPIFFE id that this gateway may speak for.
    pub fn caller(&self, leaf: &CertificateDer<'_>) -> Result<CallerIdentity, NoCaller> {
        self.ours().caller(leaf)
    }

    fn ours(&self) -> Ours {
        Ours {
            trust_domain: self.trust_domain().to_owned(),
            zone: self.gateway().zone.clone(),
        }
    }
}

/// Verifies the chain, and then whom it names, so that both are told in the handshake.
#[derive(Debug)]
struct CallerVerifier {
    chain: ChainVerifier,
    ours: Ours,
}

impl ClientCertVerifier for CallerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client(leaf, rest, now)?;
        match self.ours.caller(leaf) {
            Ok(_) => Ok(verified),
            Err(error) => Err(CertificateError::Other(OtherError(Arc::new(error))).into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ClientCertVerifier::verify_tls12_signature(&self.chain, message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ClientCertVerifier::verify_tls13_signature(&self.chain, message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ClientCertVerifier::supported_verify_schemes(&self.chain)
    }
}
