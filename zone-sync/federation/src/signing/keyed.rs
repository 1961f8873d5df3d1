//! Signatures by a shared secret, for tests and simulations: NOT FOR PRODUCTION, because whoever can check one can make one.
//!
//! Cheap enough for a thousand gateways in one process, and as long on the wire as the real ones.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use super::{Credential, SignError, Signature, Signer, Unproven, Verifier};
use crate::name::GatewayId;

/// As long as an ECDSA signature with P-256.
const SIGNATURE_BYTES: usize = 64;

/// Signs as one gateway, with a key that is made of the shared secret and the gateway's name.
#[derive(Debug)]
pub struct KeyedSigner {
    secret: [u8; 32],
    name: String,
    /// Stands for the certificate: each has a key of its own.
    serial: AtomicU64,
}

/// Checks the signatures of every [`KeyedSigner`] with the same secret.
#[derive(Debug, Clone, Default)]
pub struct KeyedVerifier {
    secret: [u8; 32],
}

fn key_of(secret: &[u8; 32], credential: &Credential) -> [u8; 32] {
    let parts = credential.0.join(&b'/');
    *blake3::keyed_hash(secret, &parts).as_bytes()
}

fn signature(key: &[u8; 32], message: &[u8]) -> Vec<u8> {
    let mut signature = vec![0; SIGNATURE_BYTES];
    let mut hasher = blake3::Hasher::new_keyed(key);
    hasher.update(message).finalize_xof().fill(&mut signature);
    signature
}

impl KeyedSigner {
    #[must_use]
    pub fn new(secret: [u8; 32], origin: &GatewayId) -> Self {
        Self {
            secret,
            name: origin.to_string(),
            serial: AtomicU64::new(0),
        }
    }

    /// As when a certificate is renewed: another key, and another credential.
    pub fn renew(&self) {
        self.serial.fetch_add(1, Ordering::Relaxed);
    }
}

impl KeyedVerifier {
    #[must_use]
    pub fn new(secret: [u8; 32]) -> Self {
        Self { secret }
    }
}

impl Signer for KeyedSigner {
    fn sign(&self, message: &[u8]) -> Result<Signature, SignError> {
        let credential = self.credential();
        Ok(Signature {
            bytes: signature(&key_of(&self.secret, &credential), message),
            credential,
        })
    }

    fn credential(&self) -> Arc<Credential> {
        let serial = self.serial.load(Ordering::Relaxed).to_le_bytes().to_vec();
        Arc::new(Credential(vec![self.name.clone().into_bytes(), serial]))
    }
}

impl Verifier for KeyedVerifier {
    fn verify(
        &self,
        origin: &GatewayId,
        credential: &Credential,
        message: &[u8],
        given: &[u8],
    ) -> Result<(), Unproven> {
        let name = credential.0.first().ok_or(Unproven::Unsigned)?;
        if *name != origin.to_string().into_bytes() {
            return Err(Unproven::OtherGateway);
        }
        match signature(&key_of(&self.secret, credential), message) == given {
            true => Ok(()),
            false => Err(Unproven::Signature),
        }
    }
}
