//! Reads what a leaf certificate says about its holder. Whether it can be believed is `chain`'s business.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::CertificateDer;
use x509_parser::{certificate::X509Certificate, extensions::GeneralName};

use super::spiffe::{SpiffeError, SpiffeId, trust_domain_of};

/// Reason why a certificate names no gateway.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeafError {
    #[error("the certificate cannot be parsed")]
    Malformed,
    #[error("the certificate is a CA's, not a gateway's")]
    IsCa,
    #[error("the certificate carries {0} URI names; a gateway's carries exactly one, its SPIFFE id")]
    NotOneUri(usize),
    #[error("the certificate's URI is not the SPIFFE id of a gateway")]
    Spiffe(#[from] SpiffeError),
}

/// Reads the SPIFFE id of a gateway out of its leaf certificate.
///
/// # Errors
/// When it is a CA certificate, or has not exactly one URI name, or that is no gateway's SPIFFE id (X509-SVID §2 to §4).
pub fn identify(leaf: &CertificateDer<'_>) -> Result<SpiffeId, LeafError> {
    let certificate = parse_leaf(leaf)?;
    let id = only_uri(&certificate)?;
    Ok(id.parse()?)
}

/// Parses a certificate that must not be a CA's.
pub(super) fn parse_leaf<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, LeafError> {
    let certificate = parse(der)?;
    let signs = certificate
        .key_usage()
        .map_err(|_| LeafError::Malformed)?
        .is_some_and(|usage| usage.value.key_cert_sign() || usage.value.crl_sign());
    if certificate.is_ca() || signs {
        return Err(LeafError::IsCa);
    }
    Ok(certificate)
}

/// Time at which a certificate ends; `None` if it cannot be read.
#[must_use]
pub fn end_of(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    time(parse(certificate).ok()?.validity().not_after.timestamp())
}

/// Time at which a certificate begins to be valid; `None` if it cannot be read.
#[must_use]
pub fn begin_of(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    time(parse(certificate).ok()?.validity().not_before.timestamp())
}

fn time(seconds: i64) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(seconds).ok()?))
}

/// The trust domain that a leaf names, if it names one at all. Nothing is checked.
pub(super) fn trust_domain(leaf: &CertificateDer<'_>) -> Option<String> {
    let certificate = parse(leaf).ok()?;
    trust_domain_of(only_uri(&certificate).ok()?).ok()
}

/// The one URI among the subject's alternative names.
pub(super) fn only_uri<'a>(certificate: &'a X509Certificate<'_>) -> Result<&'a str, LeafError> {
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| LeafError::Malformed)?;
    let all = names.iter().flat_map(|extension| &extension.value.general_names);
    let mut uris = all.filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    match (uris.next(), uris.count()) {
        (Some(uri), 0) => Ok(uri),
        (None, _) => Err(LeafError::NotOneUri(0)),
        (Some(_), more) => Err(LeafError::NotOneUri(1 + more)),
    }
}

pub(super) fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, LeafError> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).map_err(|_| LeafError::Malformed)?;
    Ok(certificate)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn arbitrary_bytes_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(identify(&CertificateDer::from(bytes)).is_err());
        }
    }
}
