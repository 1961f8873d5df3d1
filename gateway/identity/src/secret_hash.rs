//! The trace that is kept of a secret which somebody else holds: a hash, and a comparison that tells nothing by the time it takes.

use std::fmt;

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use hmac::{Hmac, Mac as _};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq as _;

/// SHA-256 of a secret. Secrets here hold 256 random bits, so that a slow hash would add nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SecretHash([u8; 32]);

impl SecretHash {
    #[must_use]
    pub fn of(secret: &[u8]) -> Self {
        Self(Sha256::digest(secret).into())
    }

    /// Reads what [`fmt::Display`] writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()?;
        bytes.try_into().ok().map(Self)
    }

    /// Vouches for `words` without telling the secret: HMAC-SHA256 (RFC 2104) with this as the key.
    #[must_use]
    pub fn vouch(&self, words: &[u8]) -> Vec<u8> {
        self.over(words)
            .map(|mac| mac.finalize().into_bytes().to_vec())
            .unwrap_or_default()
    }

    /// Tells whether `vouched` is what the holder of the secret makes of `words`, in a time that does not depend on where the two differ.
    #[must_use]
    pub fn has_vouched(&self, words: &[u8], vouched: &[u8]) -> bool {
        self.over(words)
            .is_some_and(|mac| mac.verify_slice(vouched).is_ok())
    }

    /// `None` never comes: any key will do.
    fn over(&self, words: &[u8]) -> Option<Hmac<Sha256>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).ok()?;
        mac.update(words);
        Some(mac)
    }

    /// Compares in a time that does not depend on where the two differ.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Display for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash(…)")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_secret_vouches_for_is_known_to_its_hash_and_to_no_other() {
        let (own, other) = (SecretHash::of(b"cwa_ci_1"), SecretHash::of(b"cwa_ci_2"));
        let vouched = own.vouch(b"west/gw1 may be asked");
        assert_eq!(vouched.len(), 32);
        assert!(SecretHash::of(b"cwa_ci_1").has_vouched(b"west/gw1 may be asked", &vouched));
        assert!(!own.has_vouched(b"north/gw1 may be asked", &vouched));
        assert!(!other.has_vouched(b"west/gw1 may be asked", &vouched));
        assert!(!own.has_vouched(b"west/gw1 may be asked", &vouched[1..]) && !own.has_vouched(b"", b""));
    }

    proptest! {
        #[test]
        fn arbitrary_text_is_no_hash_and_no_panic(text in ".{0,70}") {
            let read = SecretHash::parse(&text);
            prop_assert_eq!(read.map(|hash| hash.to_string()), read.map(|_| text.to_ascii_lowercase()));
        }
    }
}
