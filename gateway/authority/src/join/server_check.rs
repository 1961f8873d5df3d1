//! Is this the CA? Whoever joins knows its certificate's fingerprint, from the token; whoever renews knows the trust roots.
//! Either way the server must hold a certificate for the CA's own SPIFFE id under that root: every gateway has one under
//! it too, and none of them is the CA.

use std::sync::{Arc, OnceLock};

use causeway_identity::ca::{fingerprint, server_trust_domain};
use rustls::{
    CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    client::verify_server_cert_signed_by_trust_anchor,
    crypto::{CryptoProvider, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};

/// Reason that a server is not the CA that was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotTheCa {
    #[error("no certificate that the server shows has the fingerprint in the token")]
    Fingerprint,
    #[error("the server's certificate is not one of a CA server: {0}")]
    NotACa(String),
    #[error("the server's certificate does not stand up under the CA's: {0}")]
    Chain(String),
    #[error("the server serves the CA of trust domain {found}, not {expected}")]
    TrustDomain { found: String, expected: String },
}

/// Sign that the CA is known by.
#[derive(Debug, Clone)]
pub(super) enum CaPin {
    /// SHA-256 of its certificate.
    Fingerprint([u8; 32]),
    /// The roots and the trust domain of an identity.
    Roots {
        roots: Arc<RootCertStore>,
        trust_domain: String,
    },
}

/// Checks the server in the handshake. What it found stays here: TLS has no words for it.
#[derive(Debug)]
pub(super) struct ServerCheck {
    known: CaPin,
    provider: Arc<CryptoProvider>,
    /// Reason that the server was refused.
    refused: OnceLock<NotTheCa>,
    /// The root that vouches for the server, when it is known by its fingerprint.
    root: OnceLock<CertificateDer<'static>>,
}

impl ServerCheck {
    pub(crate) fn new(known: CaPin, provider: Arc<CryptoProvider>) -> Self {
        Self {
            known,
            provider,
            refused: OnceLock::new(),
            root: OnceLock::new(),
        }
    }

    pub(crate) fn refused(&self) -> Option<NotTheCa> {
        self.refused.get().cloned()
    }

    /// The root that bears the fingerprint, once the handshake is done.
    pub(crate) fn root(&self) -> Option<CertificateDer<'static>> {
        self.root.get().cloned()
    }

    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), NotTheCa> {
        let found = server_trust_domain(leaf).map_err(|error| NotTheCa::NotACa(error.to_string()))?;
        let roots = match &self.known {
            CaPin::Roots { roots, trust_domain } => {
                if found != *trust_domain {
                    return Err(NotTheCa::TrustDomain {
                        found,
                        expected: trust_domain.clone(),
                    });
                }
                roots.clone()
            }
            CaPin::Fingerprint(expected) => {
                let root = rest
                    .iter()
                    .find(|certificate| fingerprint(certificate) == *expected);
                let root = root.ok_or(NotTheCa::Fingerprint)?.clone().into_owned();
                let mut roots = RootCertStore::empty();
                roots
                    .add(root.clone())
                    .map_err(|error| NotTheCa::Chain(error.to_string()))?;
                let _ = self.root.set(root);
                Arc::new(roots)
            }
        };
        let told = |error: Error| NotTheCa::Chain(error.to_string());
        let leaf = ParsedCertificate::try_from(leaf).map_err(told)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&leaf, &roots, rest, now, algorithms).map_err(told)
    }
}

impl ServerCertVerifier for ServerCheck {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.check(leaf, rest, now) {
            Ok(()) => Ok(ServerCertVerified::assertion()),
            Err(why) => {
                let _ = self.refused.set(why);
                // The server's log then says that its CA is unknown here.
                Err(Error::InvalidCertificate(CertificateError::UnknownIssuer))
            }
        }
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
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use super::*;
    use causeway_identity::{ca::Ca, provider};

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn now() -> UnixTime {
        UnixTime::since_unix_epoch(SystemTime::now().duration_since(UNIX_EPOCH).unwrap())
    }

    fn by_fingerprint(ca: &Ca) -> ServerCheck {
        ServerCheck::new(CaPin::Fingerprint(ca.fingerprint()), provider())
    }

    fn by_roots(ca: &Ca, trust_domain: &str) -> ServerCheck {
        let mut roots = RootCertStore::empty();
        roots.add(ca.certificate().clone()).unwrap();
        let known = CaPin::Roots {
            roots: Arc::new(roots),
            trust_domain: trust_domain.to_owned(),
        };
        ServerCheck::new(known, provider())
    }

    #[test]
    fn the_ca_is_known_by_its_fingerprint_or_by_the_roots() {
        let ca = Ca::new("acme.internal").unwrap();
        let (leaf, _) = ca.server(DAY).unwrap();
        let root = [ca.certificate().clone()];
        for check in [by_fingerprint(&ca), by_roots(&ca, "acme.internal")] {
            assert_eq!(check.check(&leaf, &root, now()), Ok(()));
        }
        let other = by_roots(&ca, "other.internal").check(&leaf, &root, now());
        assert!(matches!(other, Err(NotTheCa::TrustDomain { .. })), "{other:?}");
    }

    #[test]
    fn somebody_elses_ca_is_refused_even_if_it_shows_the_right_root() {
        let (ca, stranger) = (
            Ca::new("acme.internal").unwrap(),
            Ca::new("acme.internal").unwrap(),
        );
        let (leaf, _) = stranger.server(DAY).unwrap();
        let check = by_fingerprint(&ca);
        assert_eq!(
            check.check(&leaf, &[stranger.certificate().clone()], now()),
            Err(NotTheCa::Fingerprint)
        );
        let borrowed = check.check(&leaf, &[ca.certificate().clone()], now());
        assert!(matches!(borrowed, Err(NotTheCa::Chain(_))), "{borrowed:?}");
    }

    #[test]
    fn a_gateway_of_the_federation_is_not_the_ca() {
        let ca = Ca::new("acme.internal").unwrap();
        let gateway = "west".parse().unwrap();
        let gateway = causeway_federation::name::GatewayId::new(gateway, "gw1".parse().unwrap());
        let identity = ca.issue(&gateway, DAY).unwrap();
        let root = [ca.certificate().clone()];
        for check in [by_fingerprint(&ca), by_roots(&ca, "acme.internal")] {
            let refused = check.check(&identity.chain()[0], &root, now());
            assert!(matches!(refused, Err(NotTheCa::NotACa(_))), "{refused:?}");
        }
    }
}
