//! Keys of a gateway's QUIC endpoints, all derived from one secret that outlives a restart: so a peer that still sends to
//! the process before is told at once that its connection is gone (RFC 9000 §10.3), and does not wait for silence.
//!
//! Two keys belong together. A stateless reset is sent only for a connection id that this gateway could have made, so the
//! key that marks connection ids must be the one before too. And what knows a connection must be asked first: a reset for
//! one that lives on another data thread would end it; see `steering`.

use std::{
    fmt, fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use aws_lc_rs::hmac::{self, HMAC_SHA256, Key};
use causeway_host::files::{PRIVATE, replace_file};
use quinn::EndpointConfig;
use rand::{
    Rng as _, SeedableRng as _, TryRngCore as _,
    rngs::{OsRng, StdRng},
};

use super::steering::ConnectionIds;

/// Name of the secret's file in the data directory.
const FILE: &str = "quic.key";
/// Bytes of the secret: as many as the hash has, so that guessing it is no easier than guessing its output.
const SECRET_BYTES: usize = 32;
/// Bits of a file's mode that let others than its owner read or change it.
const OTHERS: u32 = 0o077;
/// Labels that keep the derived keys apart.
const RESET_LABEL: &[u8] = b"causeway stateless reset";
const CONNECTION_ID_LABEL: &[u8] = b"causeway connection id";

/// Keys for stateless resets and connection ids.
#[derive(Clone)]
pub struct EndpointKeys {
    reset: Arc<Key>,
    connection_ids: Arc<Key>,
}

/// Failure to read or to make the secret.
#[derive(Debug, thiserror::Error)]
pub enum EndpointKeysError {
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot write {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("this host gives no random bytes")]
    Random(#[source] rand::rand_core::OsError),
}

impl fmt::Debug for EndpointKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EndpointKeys")
    }
}

impl EndpointKeys {
    /// Makes keys that nobody has after the end of this process.
    #[must_use]
    pub fn ephemeral() -> Self {
        let mut secret = [0; SECRET_BYTES];
        StdRng::from_os_rng().fill(&mut secret);
        Self::derive(&secret)
    }

    /// Reads the keys of the gateway whose data directory `folder` is, or makes them.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn kept_in(folder: &Path) -> Result<Self, EndpointKeysError> {
        let path = folder.join(FILE);
        match fs::read(&path) {
            Ok(_) if is_open(&path)? => {
                // Whoever has it can end this gateway's connections.
                tracing::warn!(path = %path.display(), "made a new key in the place of one that others than its owner may read");
            }
            Ok(secret) => match <&[u8; SECRET_BYTES]>::try_from(secret.as_slice()) {
                Ok(secret) => return Ok(Self::derive(secret)),
                // Nothing is lost with it but that peers notice one restart later.
                Err(_) => {
                    tracing::warn!(path = %path.display(), bytes = secret.len(), "made a new key in the place of one that is broken")
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(EndpointKeysError::Read { path, source }),
        }
        let mut secret = [0; SECRET_BYTES];
        OsRng
            .try_fill_bytes(&mut secret)
            .map_err(EndpointKeysError::Random)?;
        match replace_file(&path, secret, PRIVATE) {
            Ok(()) => Ok(Self::derive(&secret)),
            Err(source) => Err(EndpointKeysError::Write { path, source }),
        }
    }

    fn derive(secret: &[u8; SECRET_BYTES]) -> Self {
        let secret = Key::new(HMAC_SHA256, secret);
        let derived = |label| Arc::new(Key::new(HMAC_SHA256, hmac::sign(&secret, label).as_ref()));
        Self {
            reset: derived(RESET_LABEL),
            connection_ids: derived(CONNECTION_ID_LABEL),
        }
    }

    /// Connection ids of the endpoint of the data thread at this place.
    pub(super) fn connection_ids(&self, place: u16) -> ConnectionIds {
        ConnectionIds::new(Arc::clone(&self.connection_ids), place)
    }

    /// The endpoint configuration of the data thread at this place.
    pub(super) fn endpoint(&self, place: u16) -> EndpointConfig {
        let ids = self.connection_ids(place);
        let mut config = EndpointConfig::new(Arc::clone(&self.reset) as _);
        config.cid_generator(move || Box::new(ids.clone()));
        config
    }
}

/// Tells whether others than the owner of a file may read or change it.
fn is_open(path: &Path) -> Result<bool, EndpointKeysError> {
    match fs::metadata(path) {
        Ok(about) => Ok(about.permissions().mode() & OTHERS != 0),
        Err(source) => Err(EndpointKeysError::Read {
            path: path.to_owned(),
            source,
        }),
    }
}

#[cfg(test)]
mod tests {

    use quinn::ConnectionIdGenerator;

    use super::*;

    fn reset_token(keys: &EndpointKeys) -> Vec<u8> {
        hmac::sign(&keys.reset, b"an id").as_ref().to_vec()
    }

    #[test]
    fn keys_outlive_a_restart_and_their_file_is_for_the_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let before = EndpointKeys::kept_in(folder.path()).unwrap();
        let after = EndpointKeys::kept_in(folder.path()).unwrap();
        assert_eq!(reset_token(&before), reset_token(&after));
        let id = before.connection_ids(0).generate_cid();
        assert!(after.connection_ids(1).validate(&id).is_ok());
        let mode = fs::metadata(folder.path().join(FILE))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_key_that_others_may_read_is_replaced_by_one_that_they_may_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        for mode in [0o640, 0o604, 0o620] {
            let before = EndpointKeys::kept_in(folder.path()).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let after = EndpointKeys::kept_in(folder.path()).unwrap();
            assert_ne!(reset_token(&before), reset_token(&after), "{mode:o}");
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, PRIVATE);
        }
    }

    #[test]
    fn gateways_do_not_share_keys_and_a_broken_file_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FILE), b"short").unwrap();
        let one = EndpointKeys::kept_in(folder.path()).unwrap();
        let again = EndpointKeys::kept_in(folder.path()).unwrap();
        assert_eq!(reset_token(&one), reset_token(&again));
        let other = EndpointKeys::ephemeral();
        assert_ne!(reset_token(&one), reset_token(&other));
        let id = other.connection_ids(0).generate_cid();
        assert!(one.connection_ids(0).validate(&id).is_err());
    }

    #[test]
    fn the_secret_does_not_show() {
        assert_eq!(format!("{:?}", EndpointKeys::ephemeral()), "EndpointKeys");
    }
}
