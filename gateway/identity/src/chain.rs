//! Chain verification for rustls, without DNS names: a peer is who its SPIFFE id says, and that is checked after the
//! handshake, where a refusal can carry a reason. Here: a path to a trust root, the dates, the purpose, and whether anything
//! on that path was revoked. Which roots count is decided by the trust domain that the leaf names: a CA vouches for its own
//! trust domain and for no other.

use std::{collections::BTreeMap, sync::Arc};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    client::verify_server_cert_signed_by_trust_anchor,
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        ParsedCertificate, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};

use super::{anchors::Anchors, leaf, revocation::Revocations};

/// Verifies the chains of both kinds of peer: gateways that are dialled, and gateways that dial.
#[derive(Debug)]
pub(super) struct ChainVerifier {
    own: Issuers,
    /// By trust domain.
    others: BTreeMap<String, Issuers>,
    algorithms: WebPkiSupportedAlgorithms,
    /// Tells whether a client may show no certificate at all.
    or_nobody: bool,
}

/// Issuers of certificates in one trust domain, and what was revoked of those.
#[derive(Debug)]
struct Issuers {
    roots: Arc<RootCertStore>,
    revocations: Vec<Arc<Revocations>>,
    dialling_peers: Arc<dyn ClientCertVerifier>,
}

impl Issuers {
    fn new(
        roots: &Arc<RootCertStore>,
        revocations: Vec<Arc<Revocations>>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, rustls::server::VerifierBuilderError> {
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(provider));
        Ok(Self {
            dialling_peers: builder.clear_root_hint_subjects().build()?,
            roots: Arc::clone(roots),
            revocations,
        })
    }

    /// Comes last, so that only what would be believed otherwise is called revoked.
    fn check_revocation(&self, leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>]) -> Result<(), Error> {
        let chain = || std::slice::from_ref(leaf).iter().chain(rest);
        let mut revoked = self.revocations.iter();
        match revoked.find_map(|lists| chain().find_map(|one| lists.of(std::slice::from_ref(one)))) {
            None => Ok(()),
            Some(serial) => {
                tracing::debug!(%serial, "a peer's certificate was revoked");
                Err(CertificateError::Revoked.into())
            }
        }
    }
}

/// A certificate whose validity has not begun.
///
/// It travels as the alert `certificate_unknown`, because TLS has one alert for "expired" and "not yet valid" and an
/// operator mends the one by a new certificate and the other by setting a clock.
#[derive(Debug, thiserror::Error)]
#[error("the certificate is not valid yet")]
struct NotYetValid;

impl ChainVerifier {
    pub(super) fn new(
        anchors: &Anchors,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, rustls::server::VerifierBuilderError> {
        let own = Arc::clone(&anchors.revocations);
        // A bundle of which nothing can be used is told of elsewhere, and must not keep others from being believed. Lists
        // beside the own identity may be of another trust domain's CA.
        let others = anchors.federated.domains.iter().filter_map(|(domain, anchors)| {
            let revocations = vec![Arc::clone(&anchors.revocations), Arc::clone(&own)];
            let issuers = Issuers::new(&anchors.store, revocations, provider).ok()?;
            Some((domain.clone(), issuers))
        });
        Ok(Self {
            others: others.collect(),
            own: Issuers::new(&anchors.store, vec![own], provider)?,
            algorithms: provider.signature_verification_algorithms,
            or_nobody: false,
        })
    }

    /// Lets clients in that show no certificate: those that do are verified all the same.
    pub(super) fn or_nobody(self) -> Self {
        Self {
            or_nobody: true,
            ..self
        }
    }

    pub(super) fn verify_server(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let issuers = self.issuers_of(leaf);
        let parsed = ParsedCertificate::try_from(leaf).map_err(plain)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &issuers.roots, rest, now, self.algorithms.all)
            .map_err(plain)?;
        issuers.check_revocation(leaf, rest)
    }

    pub(super) fn verify_client(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let issuers = self.issuers_of(leaf);
        let verified = issuers.dialling_peers.verify_client_cert(leaf, rest, now);
        let verified = verified.map_err(plain)?;
        issuers.check_revocation(leaf, rest)?;
        Ok(verified)
    }

    /// Issuers that a certificate may have: the CAs of the trust domain that it names, and of no other.
    fn issuers_of(&self, leaf: &CertificateDer<'_>) -> &Issuers {
        if self.others.is_empty() {
            return &self.own;
        }
        let domain = leaf::trust_domain(leaf);
        let other = domain.and_then(|domain| self.others.get(&domain));
        other.unwrap_or(&self.own)
    }
}

/// Maps webpki's errors so that each cause has one TLS alert of its own, on the wire and so for both sides.
fn plain(error: Error) -> Error {
    let Error::InvalidCertificate(cause) = error else {
        return error;
    };
    Error::InvalidCertificate(match cause {
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            CertificateError::Other(OtherError(Arc::new(NotYetValid)))
        }
        // A root of the same name with another key: another CA all the same.
        CertificateError::BadSignature => CertificateError::UnknownIssuer,
        CertificateError::Other(other) => {
            tracing::debug!(%other, "a peer's certificate is not acceptable");
            CertificateError::BadEncoding
        }
        cause => cause,
    })
}

/// Tells whether `cause` is this module's word for a validity that has not begun.
pub(crate) fn is_not_yet_valid(cause: &CertificateError) -> bool {
    matches!(cause, CertificateError::Other(other) if other.0.is::<NotYetValid>())
}

impl ServerCertVerifier for ChainVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify_server(leaf, rest, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for ChainVerifier {
    fn client_auth_mandatory(&self) -> bool {
        !self.or_nobody
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify_client(leaf, rest, now)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
