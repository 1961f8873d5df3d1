//! The trust bundle of another trust domain, as an operator puts it into a topology: the certificates of its CAs, PEM.

use std::fmt;

use rustls_pki_types::pem::{self, SectionKind};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName};

use super::{CertificateHash, MAX_ROOTS, Roots, document::MAX_ROOT_BYTES};

const SCHEME: &str = "spiffe://";

/// Reason why a text is no trust bundle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    #[error("it is not PEM: {0}")]
    Pem(String),
    #[error("it holds no certificate")]
    Empty,
    #[error("it holds a private key, which everybody who reads the topology knows now")]
    PrivateKey,
    #[error("it holds something that is not a certificate")]
    NotACertificate,
    #[error("it holds more than {MAX_ROOTS} certificates")]
    TooMany,
    #[error("certificate {nth} has {bytes} bytes; at most {MAX_ROOT_BYTES} are allowed")]
    TooLarge { nth: usize, bytes: usize },
    #[error("certificate {nth} cannot be parsed")]
    Malformed { nth: usize },
    #[error("certificate {nth} ({subject}) is not a CA's")]
    NotACa { nth: usize, subject: String },
    #[error("certificate {nth} is the CA of `{found}`")]
    OtherDomain { nth: usize, found: String },
}

impl BundleError {
    /// Advice on what to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::PrivateKey => "take it out, and replace that CA: its key is not secret any more",
            Self::OtherDomain { .. } => "put it under the trust domain that it is the CA of",
            Self::NotACa { .. } => "put the certificate of the CA here, not one that it issued",
            Self::TooMany => "take out those that nothing is issued from any more",
            _ => "write `bundle: |` and below it, indented, the CA's certificate as its `ca.pem` has it",
        }
    }
}

/// The roots of one trust domain.
#[derive(Clone, PartialEq, Eq)]
pub struct Bundle(Roots);

/// Prints which roots, not their bytes.
impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.keys()).finish()
    }
}

impl Bundle {
    /// Of roots that were looked at before; at least one.
    #[must_use]
    pub fn new(roots: Roots) -> Self {
        Self(roots)
    }

    /// Reads the bundle of `trust_domain`. What the certificates are worth by their dates is not looked at.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(text: &str, trust_domain: &str) -> Result<Self, BundleError> {
        let (mut roots, mut rest) = (Roots::new(), text.as_bytes());
        while let Some((kind, der)) =
            pem::from_buf(&mut rest).map_err(|error| BundleError::Pem(format!("{error:?}")))?
        {
            match kind {
                SectionKind::Certificate => {}
                SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey => {
                    return Err(BundleError::PrivateKey);
                }
                _ => return Err(BundleError::NotACertificate),
            }
            let nth = roots.len() + 1;
            if nth > MAX_ROOTS {
                return Err(BundleError::TooMany);
            }
            check_root(&der, nth, trust_domain)?;
            roots.insert(CertificateHash::of(&der), der);
        }
        match roots.is_empty() {
            true => Err(BundleError::Empty),
            false => Ok(Self(roots)),
        }
    }

    #[must_use]
    pub fn roots(&self) -> &Roots {
        &self.0
    }
}

fn check_root(der: &[u8], nth: usize, trust_domain: &str) -> Result<(), BundleError> {
    if der.len() > MAX_ROOT_BYTES {
        return Err(BundleError::TooLarge {
            nth,
            bytes: der.len(),
        });
    }
    let Ok((_, root)) = x509_parser::parse_x509_certificate(der) else {
        return Err(BundleError::Malformed { nth });
    };
    if !root.is_ca() {
        let subject = root.subject().to_string().chars().take(80).collect();
        return Err(BundleError::NotACa { nth, subject });
    }
    match named(&root) {
        Some(found) if found != trust_domain => Err(BundleError::OtherDomain {
            nth,
            found: found.chars().take(80).collect(),
        }),
        _ => Ok(()),
    }
}

/// The trust domain that a CA's certificate names, if it names one (X509-SVID §3.2: a signing certificate may).
fn named<'a>(root: &'a X509Certificate<'_>) -> Option<&'a str> {
    let names = root.subject_alternative_name().ok()??;
    names.value.general_names.iter().find_map(|name| match name {
        GeneralName::URI(uri) => {
            let rest = uri.strip_prefix(SCHEME)?;
            Some(rest.split_once('/').map_or(rest, |(domain, _)| domain))
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn arbitrary_text_is_refused_without_a_panic(text in "(?s).{0,300}") {
            prop_assert!(Bundle::read(&text, "acme.internal").is_err());
        }

        #[test]
        fn arbitrary_certificates_are_refused_without_a_panic(body in "[A-Za-z0-9+/]{0,200}") {
            let text = format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n");
            prop_assert!(Bundle::read(&text, "acme.internal").is_err());
        }
    }
}
