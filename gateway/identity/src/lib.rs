//! The identity of a gateway, and whom it believes: its certificate and key, the trust roots, and the TLS settings made of them.
//!
//! Identities are checked whole when they are loaded, so that a bad file is an error with advice at start and not a refused
//! handshake later. What only time or another file can mend (an expired certificate, an issuer that is not among the own
//! roots) is a [doubt](Identity::doubt) and no error: a gateway that restarts with it still serves its own zone. A renewed
//! set of files is taken up while the gateway runs ([`IdentityFolder`]), and so is what the SPIFFE Workload API says
//! ([`workload_api`]). Asking a CA for one, and when that is done for a running gateway, is
//! the business of the crates `authority` and `control`. Private keys are never printed: nothing that holds one derives
//! `Debug`.

#![warn(unreachable_pub)]

use std::{
    fmt,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use causeway_federation::{
    name::GatewayId,
    trust::{CertificateHash, Roots, StoredTrust, Trust},
};
use causeway_proto::tunnel::ALPN;
use rustls::{
    CertificateError,
    client::Resumption,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime},
    server::danger::ClientCertVerifier,
    version::TLS13,
};

mod admitted;
mod anchors;
mod api;
pub mod ca;
mod caller;
mod chain;
mod dns_name;
mod federated;
mod guarded;
mod handshake_word;
mod held;
mod install;
mod leaf;
mod lifetime;
mod live;
mod metrics;
mod next_key;
mod peers;
mod pem_files;
mod revocation;
mod secret_hash;
mod secure;
mod spiffe;
mod statement;
#[cfg(any(test, feature = "test-util"))]
pub mod testbed;
mod trusted;
pub mod workload_api;

pub use admitted::{Admitted, AdmittedPeer, CallsLayer, CountedCalls};
pub use anchors::{Anchors, Cryptography, describe_root};
pub use api::{ApiClient, ApiClientError, identify_client};
pub use caller::NoCaller;
use chain::ChainVerifier;
pub(crate) use chain::is_not_yet_valid;
pub use dns_name::{DnsName, DnsNameError, dns_names, dns_names_of};
pub use federated::Federated;
pub use guarded::{Distrust, Guarded, distrust};
pub use handshake_word::handshake_word;
pub use held::{HeldIdentity, IdentityOrigin};
pub use install::pem_of;
pub use install::{NewIdentity, check_writable, write_request};
pub use leaf::{LeafError, begin_of, end_of, identify};
pub use lifetime::{Lifetime, Urgency};
pub use live::{IdentityFolder, LiveIdentity, RefreshOutcome, RenewalError};
pub use metrics::IdentityMetrics;
pub use next_key::NextKey;
pub use peers::{AFTER_THE_END, ShownCertificate};
pub use pem_files::certificates;
pub use pem_files::{CERTIFICATE_FILE, IdentityFileError, KEY_FILE, REVOCATIONS_FILE, ROOTS_FILE};
pub use revocation::{List, ListOrigin, RevocationError, Serial};
pub use secret_hash::SecretHash;
pub use secure::{Secure, SecureError, begins_with_tls};
pub use spiffe::{MAX_TRUST_DOMAIN_BYTES, SpiffeError, SpiffeId, check_trust_domain};
pub use trusted::{TrustStoreError, TrustView};

/// Key exchanges that are offered and accepted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum KeyExchange {
    /// X25519MLKEM768 first, which a recording of the traffic keeps its secrets from future quantum computers with, and
    /// then classical ones.
    #[default]
    HybridFirst,
    /// X25519MLKEM768 and nothing else.
    HybridOnly,
}

/// A gateway's certificate chain, its private key and the roots that it trusts.
pub struct Identity {
    id: SpiffeId,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    /// Roots by the files alone.
    file_roots: Roots,
    file_lists: Vec<List>,
    /// Trust anchors, after the trust document had its say.
    anchors: Anchors,
    doubt: Option<IdentityFileError>,
}

/// Prints who it is, never the key.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// Reason why TLS settings could not be made of an identity.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot use the certificate and key of {id} for TLS")]
    Certificate {
        id: SpiffeId,
        #[source]
        source: rustls::Error,
    },
    #[error("cannot use the trust roots of {id}")]
    Roots {
        id: SpiffeId,
        #[source]
        source: rustls::server::VerifierBuilderError,
    },
}

impl Identity {
    /// Reads `cert.pem` (leaf first), `key.pem` and `ca.pem` (roots) from a folder and checks that they belong together.
    /// Whether peers will believe them at this moment is told by [`Identity::doubt`].
    ///
    /// # Errors
    /// Names the file, what is wrong with it, and what to do.
    pub fn load(folder: &Path) -> Result<Self, IdentityFileError> {
        let trust = Trust::new("", StoredTrust::default());
        pem_files::load(folder, &trust, SystemTime::now())
    }

    /// Puts parts together unchecked; [`Identity::load`] and the built-in CA know what they hand over.
    fn assemble(
        id: SpiffeId,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        roots: Roots,
    ) -> Self {
        Self {
            id,
            chain,
            key,
            anchors: Anchors::of_file(roots.clone()),
            file_roots: roots,
            file_lists: Vec::new(),
            doubt: None,
        }
    }

    /// The same, believing whom `trust` says. What peers would make of it is to be looked at anew.
    fn under(&self, trust: &Trust) -> Self {
        Self {
            anchors: Anchors {
                federated: self.anchors.federated.clone(),
                ..Anchors::new(&self.file_roots, &self.file_lists, trust)
            },
            ..self.copy()
        }
    }

    /// The same, without a doubt.
    fn copy(&self) -> Self {
        Self {
            id: self.id.clone(),
            chain: self.chain.clone(),
            key: self.key.clone_key(),
            anchors: self.anchors.clone(),
            file_roots: self.file_roots.clone(),
            file_lists: self.file_lists.clone(),
            doubt: None,
        }
    }

    /// Trust anchors of this identity.
    #[must_use]
    pub fn anchors(&self) -> &Anchors {
        &self.anchors
    }

    /// Tells whether the root that the federation prefers has issued this certificate; also when it prefers none. If not, a
    /// new one is due, whatever its dates say.
    #[must_use]
    pub fn is_from_preferred_issuer(&self) -> bool {
        let preferred = self.anchors.preferred;
        preferred.is_none_or(|preferred| self.anchors.issuer_of(&self.chain) == Some(preferred))
    }

    /// The serial number of the leaf certificate; `None` if it cannot be read.
    #[must_use]
    pub fn serial(&self) -> Option<Serial> {
        Serial::of(self.chain.first()?)
    }

    /// The root that issued this certificate; `None`: none that counts.
    #[must_use]
    pub fn issuer(&self) -> Option<CertificateHash> {
        self.anchors.issuer_of(&self.chain)
    }

    /// The serial number of what was revoked of a chain that was verified before.
    #[must_use]
    pub fn revoked(&self, chain: &[CertificateDer<'_>]) -> Option<Serial> {
        let issuers = self.anchors.of_chain(chain);
        let revoked = issuers.revocations.of(chain);
        revoked.or_else(|| self.anchors.revocations.of(chain))
    }

    /// Reason why peers will probably refuse this identity, as it was when it was loaded; `None` when all is well.
    #[must_use]
    pub fn doubt(&self) -> Option<&IdentityFileError> {
        self.doubt.as_ref()
    }

    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    #[must_use]
    pub fn gateway(&self) -> &GatewayId {
        &self.id.gateway
    }

    #[must_use]
    pub fn trust_domain(&self) -> &str {
        &self.id.trust_domain
    }

    /// Time at which the leaf certificate ends; `None` if it cannot be read.
    #[must_use]
    pub fn not_after(&self) -> Option<SystemTime> {
        self.validity().map(|(_, not_after)| not_after)
    }

    /// From when until when the leaf certificate is valid; `None` if it cannot be read.
    #[must_use]
    pub fn validity(&self) -> Option<(SystemTime, SystemTime)> {
        let leaf = leaf::parse(self.chain.first()?).ok()?;
        let time = |seconds| UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(seconds).ok()?));
        let validity = leaf.validity();
        Some((
            time(validity.not_before.timestamp())?,
            time(validity.not_after.timestamp())?,
        ))
    }

    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    pub fn key(&self) -> PrivateKeyDer<'static> {
        self.key.clone_key()
    }

    pub fn roots(&self) -> Arc<rustls::RootCertStore> {
        self.anchors.store.clone()
    }

    /// TLS settings for dialling: TLS 1.3 only, both sides authenticated, no resumption, so that every tunnel proves its
    /// identity afresh.
    ///
    /// # Errors
    /// When the key does not fit the certificate, or there are no roots.
    pub fn client_tls(&self) -> Result<rustls::ClientConfig, TlsError> {
        self.client_tls_with(KeyExchange::default())
    }

    /// The same, with other key exchanges.
    ///
    /// # Errors
    /// When the key does not fit the certificate, or there are no roots.
    pub fn client_tls_with(&self, exchange: KeyExchange) -> Result<rustls::ClientConfig, TlsError> {
        let provider = provider_with(exchange);
        let verifier = self.verifier(&provider)?;
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(|source| self.unusable(source))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())
            .map_err(|source| self.unusable(source))?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        // Peers are known by SPIFFE id; a server name would only tell an eavesdropper which zone is called.
        config.enable_sni = false;
        Ok(config)
    }

    /// TLS settings for accepting; the counterpart of [`Identity::client_tls`].
    ///
    /// # Errors
    /// When the key does not fit the certificate, or there are no roots.
    pub fn server_tls(&self) -> Result<rustls::ServerConfig, TlsError> {
        self.server_tls_with(KeyExchange::default())
    }

    /// The same, with other key exchanges.
    ///
    /// # Errors
    /// When the key does not fit the certificate, or there are no roots.
    pub fn server_tls_with(&self, exchange: KeyExchange) -> Result<rustls::ServerConfig, TlsError> {
        let provider = provider_with(exchange);
        let verifier = self.verifier(&provider)?;
        let mut config = self.serving(provider, verifier)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(config)
    }

    /// Settings that everything served with this identity has in common: TLS 1.3 only, and no resumption.
    fn serving(
        &self,
        provider: Arc<CryptoProvider>,
        verifier: impl ClientCertVerifier + 'static,
    ) -> Result<rustls::ServerConfig, TlsError> {
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(|source| self.unusable(source))?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_single_cert(self.chain.clone(), self.key.clone_key())
            .map_err(|source| self.unusable(source))?;
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    /// Tells whether both were read from the same files.
    fn same_files(&self, other: &Self) -> bool {
        self.same_leaf(other) && self.file_roots == other.file_roots && self.file_lists == other.file_lists
    }

    /// Tells whether both present the same certificate.
    #[must_use]
    pub fn same_leaf(&self, other: &Self) -> bool {
        self.chain == other.chain && self.key == other.key
    }

    /// Checks that a peer that presented `chain` would be believed now, in whichever role its certificate is for.
    ///
    /// # Errors
    /// Why not.
    pub fn check_peer(&self, chain: &[CertificateDer<'_>], now: SystemTime) -> Result<(), rustls::Error> {
        let (leaf, rest) = chain
            .split_first()
            .ok_or(rustls::Error::NoCertificatesPresented)?;
        let verifier = self
            .verifier(&provider())
            .map_err(|_| rustls::CertificateError::UnknownIssuer)?;
        let now = unix_time(now);
        match verifier.verify_server(leaf, rest, now) {
            Err(rustls::Error::InvalidCertificate(cause)) if is_about_purpose(&cause) => {
                verifier.verify_client(leaf, rest, now).map(drop)
            }
            verified => verified,
        }
    }

    fn verifier(&self, provider: &Arc<CryptoProvider>) -> Result<ChainVerifier, TlsError> {
        ChainVerifier::new(&self.anchors, provider).map_err(|source| TlsError::Roots {
            id: self.id.clone(),
            source,
        })
    }

    fn unusable(&self, source: rustls::Error) -> TlsError {
        TlsError::Certificate {
            id: self.id.clone(),
            source,
        }
    }

    /// Checks that peers that trust the same roots will believe this identity at `now`, in both roles.
    fn check_chain(&self, now: SystemTime) -> Result<(), rustls::Error> {
        let verifier = self
            .verifier(&provider())
            .map_err(|_| rustls::CertificateError::UnknownIssuer)?;
        let now = unix_time(now);
        let (leaf, rest) = self
            .chain
            .split_first()
            .ok_or(rustls::Error::NoCertificatesPresented)?;
        verifier.verify_server(leaf, rest, now)?;
        verifier.verify_client(leaf, rest, now).map(drop)
    }
}

/// Tells whether a certificate is for another role than the one that it was looked at in.
fn is_about_purpose(cause: &CertificateError) -> bool {
    matches!(
        cause,
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. }
    )
}

fn unix_time(now: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap_or_default())
}

pub fn provider() -> Arc<CryptoProvider> {
    provider_with(KeyExchange::default())
}

/// aws-lc-rs with a hybrid post-quantum key exchange first, and the cipher that packets of 1,452 bytes cost least with.
pub(crate) fn provider_with(exchange: KeyExchange) -> Arc<CryptoProvider> {
    let classical = match exchange {
        KeyExchange::HybridFirst => vec![aws_lc_rs::kx_group::X25519, aws_lc_rs::kx_group::SECP256R1],
        KeyExchange::HybridOnly => Vec::new(),
    };
    let kx_groups = [vec![aws_lc_rs::kx_group::X25519MLKEM768], classical].concat();
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
            aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
            aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups,
        ..aws_lc_rs::default_provider()
    })
}

#[cfg(test)]
mod tests;
