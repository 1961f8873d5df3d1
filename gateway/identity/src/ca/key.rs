//! The private key of a CA as it lies on disk: PKCS #8, in the clear or encrypted under a passphrase the way that openssl
//! reads and writes it (PBES2, RFC 8018 §6.2). Where the passphrase comes from is the caller's business.

use std::fmt;

use pkcs8::{
    EncryptedPrivateKeyInfo, LineEnding, PrivateKeyInfo, SecretDocument,
    pkcs5::{pbes2, scrypt},
};
use rcgen::KeyPair;
use rustls::pki_types::PrivatePkcs8KeyDer;

use super::{CaError, random};

/// Shortest passphrase in bytes that a new key is put under.
pub(crate) const MIN_PASSPHRASE_BYTES: usize = 8;
/// The label of a PEM section with an encrypted key (RFC 7468 §11).
const ENCRYPTED: &str = "ENCRYPTED PRIVATE KEY";
/// Cost of a guess at the passphrase, as log2(N), r and p of scrypt (RFC 7914): 16 MiB of memory, five times. More
/// memory would be more than openssl is ready to spend.
const SCRYPT: (u8, u32, u32) = (14, 8, 5);
/// Bytes of an AES-256 key.
const AES_KEY_BYTES: usize = 32;

/// Passphrase that a CA's key is encrypted under. Never printed.
#[derive(Clone)]
pub struct Passphrase(String);

impl Passphrase {
    /// Takes a text without the line end that editors put behind it; `None` if nothing is left.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim_end_matches(['\r', '\n']);
        (!text.is_empty()).then(|| Self(text.to_owned()))
    }

    #[must_use]
    pub(crate) fn is_too_short(&self) -> bool {
        self.0.len() < MIN_PASSPHRASE_BYTES
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase")
    }
}

/// Reason why a key cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CaKeyError {
    #[error("it is encrypted, and no passphrase was given")]
    NoPassphrase,
    #[error("it does not open with this passphrase")]
    WrongPassphrase,
    #[error("a passphrase needs at least {MIN_PASSPHRASE_BYTES} bytes")]
    TooShort,
    #[error("it is no private key in PKCS #8")]
    Malformed,
    #[error("it cannot be encrypted: {0}")]
    Encrypt(String),
    #[error("it is a key that cannot be used here")]
    Unusable(#[source] rcgen::Error),
}

/// The text of the key file.
///
/// # Errors
/// When the passphrase is too short, or there is no randomness.
pub(super) fn write(key: &KeyPair, passphrase: Option<&Passphrase>) -> Result<String, CaError> {
    let Some(passphrase) = passphrase else {
        return Ok(key.serialize_pem());
    };
    let failed = |source| CaError::Encrypt { source };
    if passphrase.is_too_short() {
        return Err(failed(CaKeyError::TooShort));
    }
    let (salt, iv) = (random::<16>()?, random::<16>()?);
    let encrypted = encrypt(key, passphrase, &salt, &iv).map_err(failed)?;
    let text = encrypted.to_pem(ENCRYPTED, LineEnding::LF);
    let text = text.map_err(|error| failed(CaKeyError::Encrypt(error.to_string())))?;
    Ok(String::clone(&text))
}

fn encrypt(
    key: &KeyPair,
    passphrase: &Passphrase,
    salt: &[u8],
    iv: &[u8; 16],
) -> Result<SecretDocument, CaKeyError> {
    let told = |error: &dyn fmt::Display| CaKeyError::Encrypt(error.to_string());
    let (log_n, r, p) = SCRYPT;
    let cost = scrypt::Params::new(log_n, r, p, AES_KEY_BYTES).map_err(|error| told(&error))?;
    let scheme = pbes2::Parameters::scrypt_aes256cbc(cost, salt, iv).map_err(|error| told(&error))?;
    let plain = PrivateKeyInfo::try_from(key.serialized_der()).map_err(|error| told(&error))?;
    plain
        .encrypt_with_params(scheme, passphrase.0.as_bytes())
        .map_err(|error| told(&error))
}

/// Reads the text of a key file. A key in the clear needs no passphrase, and does not mind one.
pub(super) fn read(text: &[u8], passphrase: Option<&Passphrase>) -> Result<KeyPair, CaKeyError> {
    let text = std::str::from_utf8(text).map_err(|_| CaKeyError::Malformed)?;
    if !text.contains(ENCRYPTED) {
        return KeyPair::from_pem(text).map_err(CaKeyError::Unusable);
    }
    let (_, document) = SecretDocument::from_pem(text.trim()).map_err(|_| CaKeyError::Malformed)?;
    let encrypted =
        EncryptedPrivateKeyInfo::try_from(document.as_bytes()).map_err(|_| CaKeyError::Malformed)?;
    let passphrase = passphrase.ok_or(CaKeyError::NoPassphrase)?;
    let plain = encrypted
        .decrypt(passphrase.0.as_bytes())
        .map_err(|_| CaKeyError::WrongPassphrase)?;
    KeyPair::try_from(&PrivatePkcs8KeyDer::from(plain.as_bytes())).map_err(CaKeyError::Unusable)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passphrase(text: &str) -> Passphrase {
        Passphrase::new(text).unwrap()
    }

    #[test]
    fn a_key_opens_with_its_passphrase_and_no_other() {
        let key = KeyPair::generate().unwrap();
        let text = write(&key, Some(&passphrase("correct horse"))).unwrap();
        assert!(
            text.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----"),
            "{text}"
        );
        let opened = read(text.as_bytes(), Some(&passphrase("correct horse\n"))).unwrap();
        assert_eq!(opened.serialized_der(), key.serialized_der());
        let wrong = read(text.as_bytes(), Some(&passphrase("correct house")));
        assert!(matches!(wrong, Err(CaKeyError::WrongPassphrase)));
        assert!(matches!(
            read(text.as_bytes(), None),
            Err(CaKeyError::NoPassphrase)
        ));
        let short = write(&key, Some(&passphrase("short")));
        assert!(matches!(
            short,
            Err(CaError::Encrypt {
                source: CaKeyError::TooShort
            })
        ));
    }

    #[test]
    fn a_key_in_the_clear_needs_none_and_nonsense_is_told() {
        let key = KeyPair::generate().unwrap();
        let text = write(&key, None).unwrap();
        for given in [None, Some(passphrase("whatever it is"))] {
            let opened = read(text.as_bytes(), given.as_ref()).unwrap();
            assert_eq!(opened.serialized_der(), key.serialized_der());
        }
        assert!(Passphrase::new("\n").is_none());
        let cut = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        assert!(matches!(read(cut.as_bytes(), None), Err(CaKeyError::Malformed)));
        assert!(read(b"nonsense", None).is_err());
    }
}
