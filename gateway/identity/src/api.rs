//! TLS settings for the gateway's own APIs (admin, registration), whose clients need not be gateways: the server shows its
//! identity and takes a client's certificate or none; a client checks the server's chain, and whom it names afterwards.

use std::{path::Path, sync::Arc};

use rustls::{
    Error,
    pki_types::{CertificateDer, PrivateKeyDer},
    version::TLS13,
};

use super::{
    Anchors, CERTIFICATE_FILE, Identity, IdentityFileError, KEY_FILE, LeafError, ROOTS_FILE, TlsError,
    chain::ChainVerifier, leaf, pem_files, provider, spiffe::trust_domain_of,
};

impl Identity {
    /// TLS settings for serving an API: TLS 1.3 only, a client's certificate is welcome and not demanded.
    ///
    /// # Errors
    /// When the key does not fit the certificate, or there are no roots.
    pub fn api_tls(&self) -> Result<rustls::ServerConfig, TlsError> {
        let provider = provider();
        let verifier = self.verifier(&provider)?.or_nobody();
        self.serving(provider, verifier)
    }
}

/// Reads whom a client's certificate names: its trust domain and its whole SPIFFE id, whose path may be any.
///
/// # Errors
/// When it is a CA certificate, or has not exactly one URI name, or that is no SPIFFE id.
pub fn identify_client(leaf: &CertificateDer<'_>) -> Result<(String, String), LeafError> {
    let certificate = leaf::parse_leaf(leaf)?;
    let id = leaf::only_uri(&certificate)?;
    Ok((trust_domain_of(id)?, id.to_owned()))
}

/// Means of a client of an API: whom to believe, and perhaps who it is itself.
pub struct ApiClient {
    roots: Anchors,
    own: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
}

impl std::fmt::Debug for ApiClient {
    /// The key stays out of it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiClient").finish_non_exhaustive()
    }
}

/// Reason why a client cannot use its files.
#[derive(Debug, thiserror::Error)]
pub enum ApiClientError {
    #[error(transparent)]
    Files(#[from] IdentityFileError),
    #[error("cannot use the certificate and key for TLS")]
    Certificate(#[source] Error),
    #[error("cannot use the trust roots")]
    Roots(#[source] rustls::server::VerifierBuilderError),
}

impl ApiClient {
    /// Believes the roots of a PEM file, and shows no certificate.
    ///
    /// # Errors
    /// Names the file, what is wrong with it, and what to do.
    pub fn anonymous(roots: &Path) -> Result<Self, ApiClientError> {
        Ok(Self {
            roots: Anchors::of_file(pem_files::roots(roots)?),
            own: None,
        })
    }

    /// Reads `cert.pem`, `key.pem` and `ca.pem`. Unlike a gateway's identity it may name anybody.
    ///
    /// # Errors
    /// Names the file, what is wrong with it, and what to do.
    pub fn load(folder: &Path) -> Result<Self, ApiClientError> {
        Self::load_with_roots(folder, &folder.join(ROOTS_FILE))
    }

    /// The same, with the roots of another file.
    ///
    /// # Errors
    /// Names the file, what is wrong with it, and what to do.
    pub fn load_with_roots(folder: &Path, roots: &Path) -> Result<Self, ApiClientError> {
        Ok(Self {
            roots: Anchors::of_file(pem_files::roots(roots)?),
            own: Some((
                pem_files::certificates(&folder.join(CERTIFICATE_FILE))?,
                pem_files::private_key(&folder.join(KEY_FILE))?,
            )),
        })
    }

    /// The trust domain and SPIFFE id of the own certificate, where there is one and it has them.
    #[must_use]
    pub fn own_id(&self) -> Option<(String, String)> {
        let (chain, _) = self.own.as_ref()?;
        identify_client(chain.first()?).ok()
    }

    /// Settings to connect with: TLS 1.3 only; the server's chain is checked, and no host name.
    ///
    /// # Errors
    /// When the key does not fit the certificate, or there are no roots.
    pub fn tls(self) -> Result<rustls::ClientConfig, ApiClientError> {
        let provider = provider();
        let verifier = ChainVerifier::new(&self.roots, &provider).map_err(ApiClientError::Roots)?;
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(ApiClientError::Certificate)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match self.own {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => builder
                .with_client_auth_cert(chain, key)
                .map_err(ApiClientError::Certificate)?,
        };
        config.resumption = rustls::client::Resumption::disabled();
        config.enable_sni = false;
        Ok(config)
    }
}
