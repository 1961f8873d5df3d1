//! Statements that only the CA's key can make: which certificates are revoked, and what the federation trusts.

use std::{collections::BTreeMap, time::SystemTime};

use causeway_federation::trust::{CertificateHash, TrustDocument};
use rcgen::{CertificateRevocationListParams, KeyIdMethod, RevokedCertParams, SerialNumber, SigningKey as _};

use super::{CA_VALIDITY, CLOCK_SKEW, Ca, CaError};
use crate::revocation::Serial;

impl Ca {
    /// SHA-256 of the CA's certificate.
    #[must_use]
    pub fn hash(&self) -> CertificateHash {
        CertificateHash::of(&self.certificate)
    }

    /// A revocation list, DER: each serial number with when it was revoked. `number` counts up from list to list. It is
    /// not due to be replaced while the CA lives: the document that it travels in is what replaces it.
    ///
    /// # Errors
    /// When no list can be made of it.
    pub fn revocation_list(
        &self,
        revoked: &BTreeMap<Serial, SystemTime>,
        number: u64,
        now: SystemTime,
    ) -> Result<Vec<u8>, CaError> {
        let entry = |(serial, at): (&Serial, &SystemTime)| RevokedCertParams {
            serial_number: SerialNumber::from_slice(serial.bytes()),
            revocation_time: (*at).into(),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: (now - CLOCK_SKEW).into(),
            next_update: (now + CA_VALIDITY).into(),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(entry).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&self.issuer).map_err(CaError::Certificate)?;
        Ok(list.der().to_vec())
    }

    /// Adds this CA's signature to a trust document.
    ///
    /// # Errors
    /// When the key cannot sign.
    pub fn sign_trust(&self, document: TrustDocument) -> Result<TrustDocument, CaError> {
        let signature = self.issuer.key().sign(&document.bytes_to_sign());
        Ok(document.signed(self.hash(), signature.map_err(CaError::Certificate)?))
    }
}
