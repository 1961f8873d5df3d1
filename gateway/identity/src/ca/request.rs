//! Requests for a certificate (PKCS #10, RFC 2986): made by who wants to be a gateway, checked by the CA. Of a request
//! only the key and the SPIFFE id count; everything else in a certificate is the CA's to say.

use rcgen::{CertificateParams, CertificateSigningRequestParams, KeyPair, SanType, SubjectPublicKeyInfo};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, pem::PemObject as _};
use x509_parser::{
    certification_request::X509CertificationRequest, prelude::FromDer as _, public_key::PublicKey,
};

use super::{CaError, name, uri};
use crate::{SpiffeError, SpiffeId, leaf};

/// Largest request in bytes. One with an RSA key of 4,096 bits has about 1,300.
pub const MAX_REQUEST_BYTES: usize = 8 * 1024;
/// Smallest and largest RSA key that is certified, in bits.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=4096;

/// Reason why a request is not signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    #[error("the request has {0} bytes; the limit is {MAX_REQUEST_BYTES}")]
    TooLarge(usize),
    #[error("the request is not PKCS #10: {0}")]
    Malformed(String),
    #[error("the request is not signed with the key that it asks a certificate for")]
    Signature,
    #[error(
        "the request has {0}; ECDSA with P-256 or P-384, Ed25519, and RSA of 2,048 to 4,096 bits are certified"
    )]
    Key(String),
    #[error("the request names {0} URIs; it needs exactly one, the SPIFFE id of the gateway")]
    NotOneUri(usize),
    #[error("the URI of the request is not the SPIFFE id of a gateway")]
    Spiffe(#[from] SpiffeError),
}

/// A request whose own signature is good and whose key is one that may be certified.
#[derive(Debug)]
pub struct SigningRequest {
    id: SpiffeId,
    key: SubjectPublicKeyInfo,
}

impl SigningRequest {
    /// # Errors
    /// Why nobody should sign it.
    pub fn from_der(der: &[u8]) -> Result<Self, RequestError> {
        if der.len() > MAX_REQUEST_BYTES {
            return Err(RequestError::TooLarge(der.len()));
        }
        // First, so that a signature that cannot be checked here is told as what it is: an unusual key.
        let key = public_key(der)?;
        let request = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(der));
        let request = request.map_err(|error| match error {
            rcgen::Error::InvalidCertificationRequestSignature => RequestError::Signature,
            error => RequestError::Malformed(error.to_string()),
        })?;
        let mut uris = request
            .params
            .subject_alt_names
            .iter()
            .filter_map(|name| match name {
                SanType::URI(uri) => Some(uri.as_str()),
                _ => None,
            });
        let id = match (uris.next(), uris.count()) {
            (Some(uri), 0) => uri.parse()?,
            (first, more) => return Err(RequestError::NotOneUri(usize::from(first.is_some()) + more)),
        };
        Ok(Self { id, key })
    }

    /// # Errors
    /// As [`SigningRequest::from_der`].
    pub fn from_pem(text: &[u8]) -> Result<Self, RequestError> {
        let der = CertificateSigningRequestDer::from_pem_slice(text);
        let der = der.map_err(|_| {
            RequestError::Malformed("there is no `-----BEGIN CERTIFICATE REQUEST-----`".to_owned())
        })?;
        Self::from_der(&der)
    }

    /// Identity that wants to be certified.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// SHA-256 of the key that is to be certified, as `issued.jsonl` has it.
    #[must_use]
    pub fn key_hash(&self) -> String {
        super::key_hash(&self.key)
    }

    pub(super) fn key(&self) -> &SubjectPublicKeyInfo {
        &self.key
    }
}

/// The key that a request is about, if it is of a kind and size that is certified. Its signature is not looked at.
fn public_key(der: &[u8]) -> Result<SubjectPublicKeyInfo, RequestError> {
    let malformed = |error: &dyn std::fmt::Display| RequestError::Malformed(error.to_string());
    let (_, request) = X509CertificationRequest::from_der(der).map_err(|error| malformed(&error))?;
    let subject = &request.certification_request_info.subject_pki;
    let kind = &subject.algorithm.algorithm;
    match subject.parsed() {
        // A point of P-256 has 65 bytes, one of P-384 has 97.
        Ok(PublicKey::EC(point)) if !matches!(point.data().len(), 65 | 97) => {
            let bytes = point.data().len();
            Err(RequestError::Key(format!("an ECDSA key of {bytes} bytes")))
        }
        Ok(PublicKey::RSA(key)) if !RSA_BITS.contains(&key.key_size()) => {
            let bits = key.key_size();
            Err(RequestError::Key(format!("an RSA key of {bits} bits")))
        }
        _ => SubjectPublicKeyInfo::from_der(subject.raw)
            .map_err(|_| RequestError::Key(format!("a key of the kind {kind}"))),
    }
}

/// Makes a request for `id` with a key that stays with the caller. DER.
///
/// # Errors
/// When no request can be made of them.
pub fn request(id: &SpiffeId, key: &KeyPair) -> Result<Vec<u8>, CaError> {
    Ok(prepare(id, key)?.der().to_vec())
}

/// As [`request`], PEM.
///
/// # Errors
/// When no request can be made of them.
pub(crate) fn request_pem(id: &SpiffeId, key: &KeyPair) -> Result<String, CaError> {
    prepare(id, key)?.pem().map_err(CaError::Certificate)
}

fn prepare(id: &SpiffeId, key: &KeyPair) -> Result<rcgen::CertificateSigningRequest, CaError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = name(id.gateway.to_string());
    params.subject_alt_names = vec![uri(&id.to_string())?];
    params.serialize_request(key).map_err(CaError::Certificate)
}

/// Tells whether a certificate is for this key.
#[must_use]
pub fn is_for(certificate: &CertificateDer<'_>, key: &KeyPair) -> bool {
    leaf::parse(certificate)
        .is_ok_and(|leaf| *leaf.public_key().subject_public_key.data == *key.public_key_raw())
}

#[cfg(test)]
mod tests {
    use causeway_federation::name::GatewayId;
    use proptest::prelude::*;
    use rcgen::{PKCS_ECDSA_P384_SHA384, PKCS_ED25519};

    use super::*;

    fn id() -> SpiffeId {
        let gateway = GatewayId::new("west".parse().unwrap(), "gw1".parse().unwrap());
        SpiffeId::new("acme.internal", gateway)
    }

    fn with_uris(uris: &[&str]) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = uris.iter().map(|text| uri(text).unwrap()).collect();
        let key = KeyPair::generate().unwrap();
        params.serialize_request(&key).unwrap().der().to_vec()
    }

    #[test]
    fn a_good_request_says_who_wants_a_certificate() {
        for algorithm in [
            &rcgen::PKCS_ECDSA_P256_SHA256,
            &PKCS_ECDSA_P384_SHA384,
            &PKCS_ED25519,
        ] {
            let key = KeyPair::generate_for(algorithm).unwrap();
            let made = request(&id(), &key).unwrap();
            assert_eq!(*SigningRequest::from_der(&made).unwrap().id(), id());
            let text = request_pem(&id(), &key).unwrap();
            assert_eq!(*SigningRequest::from_pem(text.as_bytes()).unwrap().id(), id());
        }
    }

    #[test]
    fn each_flaw_has_its_own_name() {
        let good = request(&id(), &KeyPair::generate().unwrap()).unwrap();
        let mut forged = good;
        *forged.last_mut().unwrap() ^= 1;
        assert_eq!(
            SigningRequest::from_der(&forged).unwrap_err(),
            RequestError::Signature
        );
        let two = ["spiffe://acme.internal/zone/west/gateway/gw1"; 2];
        for (uris, count) in [(&two[..], 2), (&[], 0)] {
            assert_eq!(
                SigningRequest::from_der(&with_uris(uris)).unwrap_err(),
                RequestError::NotOneUri(count)
            );
        }
        let other = SigningRequest::from_der(&with_uris(&["spiffe://acme.internal"]));
        assert!(matches!(other, Err(RequestError::Spiffe(_))));
        let huge = vec![0; MAX_REQUEST_BYTES + 1];
        assert!(matches!(
            SigningRequest::from_der(&huge),
            Err(RequestError::TooLarge(_))
        ));
        let curve = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap();
        let unusual = SigningRequest::from_der(&request(&id(), &curve).unwrap());
        assert!(matches!(unusual, Err(RequestError::Key(_))), "{unusual:?}");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(SigningRequest::from_der(&bytes).is_err());
            prop_assert!(SigningRequest::from_pem(&bytes).is_err());
        }

        #[test]
        fn a_damaged_request_is_refused_or_says_the_same(at in 0usize..300, with in 1u8..) {
            let mut made = request(&id(), &KeyPair::generate().unwrap()).unwrap();
            let at = at % made.len();
            made[at] ^= with;
            // What the signature covers cannot change unnoticed.
            if let Ok(read) = SigningRequest::from_der(&made) {
                prop_assert_eq!(read.id(), &id());
            }
        }
    }
}
