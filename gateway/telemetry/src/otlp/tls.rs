//! TLS to the receiver: whom it is checked by.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};

/// Largest file with certificates in bytes.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// Reason that nobody could be believed.
#[derive(Debug, thiserror::Error)]
pub enum OtlpTlsError {
    #[error("cannot read the certificates of {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is larger than {MAX_FILE_BYTES} bytes; it should hold PEM and nothing else", path.display())]
    TooLarge { path: PathBuf },
    #[error("{} is not PEM; it should hold `-----BEGIN CERTIFICATE-----` sections", path.display())]
    Pem { path: PathBuf },
    #[error("{} holds no certificate", path.display())]
    Empty { path: PathBuf },
    #[error("a certificate in {} cannot be trusted: {source}", path.display())]
    Root { path: PathBuf, source: rustls::Error },
    #[error("this host has no certificates of CAs that could be used; --otlp-ca names a file of them")]
    NoneOfHost,
    #[error("the settings of TLS cannot be used: {0}")]
    Settings(rustls::Error),
}

/// Settings of TLS to a receiver.
#[derive(Clone)]
pub(super) struct OtlpTls(pub(super) ClientConfig);

impl fmt::Debug for OtlpTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OtlpTls").finish_non_exhaustive()
    }
}

impl OtlpTls {
    /// Believes the certificates of a file, or without one those of the host.
    pub(super) fn believing(file: Option<&Path>) -> Result<Self, OtlpTlsError> {
        let roots = match file {
            Some(path) => roots_of_file(path)?,
            None => roots_of_host()?,
        };
        Self::with(roots)
    }

    pub(super) fn believing_nobody() -> Result<Self, OtlpTlsError> {
        Self::with(RootCertStore::empty())
    }

    fn with(roots: RootCertStore) -> Result<Self, OtlpTlsError> {
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(OtlpTlsError::Settings)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self(config))
    }
}

/// Reads a file, of which every certificate has to be good.
fn roots_of_file(path: &Path) -> Result<RootCertStore, OtlpTlsError> {
    let path = || path.to_owned();
    let unread = |source| OtlpTlsError::Read { path: path(), source };
    if fs::metadata(path()).map_err(unread)?.len() > MAX_FILE_BYTES {
        return Err(OtlpTlsError::TooLarge { path: path() });
    }
    let text = fs::read(path()).map_err(unread)?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let certificate = certificate.map_err(|_| OtlpTlsError::Pem { path: path() })?;
        roots
            .add(certificate)
            .map_err(|source| OtlpTlsError::Root { path: path(), source })?;
    }
    match roots.is_empty() {
        true => Err(OtlpTlsError::Empty { path: path() }),
        false => Ok(roots),
    }
}

/// Reads what the host believes (`SSL_CERT_FILE` and `SSL_CERT_DIR` say where, if it is elsewhere), and passes over what cannot be used.
fn roots_of_host() -> Result<RootCertStore, OtlpTlsError> {
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    match added {
        0 => Err(OtlpTlsError::NoneOfHost),
        _ => Ok(roots),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_none_of_certificates_is_told_of() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let told = || {
            let error = OtlpTls::believing(Some(&path)).unwrap_err().to_string();
            assert!(error.contains("ca.pem"), "{error}");
            error
        };
        assert!(told().starts_with("cannot read the certificates of "));
        for (content, expected) in [
            ("", " holds no certificate"),
            ("nonsense", " holds no certificate"),
            (
                "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n",
                " is not PEM; it should hold ",
            ),
            (
                "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
                " cannot be trusted: ",
            ),
        ] {
            fs::write(&path, content).unwrap();
            let error = told();
            assert!(error.contains(expected), "{content}: {error}");
        }
    }
}
