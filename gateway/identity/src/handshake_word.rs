//! The word for a TLS handshake that failed, the same wherever one is made.

use std::io;

use rustls::{AlertDescription, CertificateError, Error as TlsFailure, PeerIncompatible};

use crate::{NoCaller, is_not_yet_valid};

/// Reason why a handshake failed, in the words that refusals of tunnels have.
pub fn handshake_word(error: &io::Error) -> &'static str {
    let failure = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<TlsFailure>());
    match failure {
        Some(TlsFailure::InvalidCertificate(cause)) => match cause {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => "expired",
            // A root of the same name with another key is another CA all the same.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => "unknown_issuer",
            CertificateError::Revoked => "revoked",
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "not_yet_valid",
            cause if is_not_yet_valid(cause) => "not_yet_valid",
            cause => NoCaller::of(cause).map_or("bad_certificate", NoCaller::word),
        },
        Some(TlsFailure::NoCertificatesPresented) => "no_certificate",
        Some(TlsFailure::NoApplicationProtocol) => "wrong_alpn",
        Some(TlsFailure::PeerIncompatible(cause)) => match cause {
            PeerIncompatible::NoKxGroupsInCommon => "no_common_group",
            PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::SupportedVersionsExtensionRequired => "tls_version",
            _ => "handshake",
        },
        Some(TlsFailure::AlertReceived(alert)) => match alert {
            AlertDescription::CertificateExpired => "expired",
            AlertDescription::UnknownCA => "unknown_issuer",
            AlertDescription::CertificateRevoked => "revoked",
            AlertDescription::BadCertificate | AlertDescription::UnsupportedCertificate => "bad_certificate",
            _ => "handshake",
        },
        _ => "handshake",
    }
}
