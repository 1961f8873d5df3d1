//! The CA that is served, as its files are now: read again when they change, so that a rotation needs no restart. Files
//! that cannot be used leave the CA before them in use, and are complained about once.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use causeway_host::files::FileStamp;
use causeway_identity::{
    ROOTS_FILE,
    ca::{CA_KEY_FILE, Ca, CaError, key::Passphrase},
    provider,
};
use parking_lot::Mutex;
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    server::{VerifierBuilderError, WebPkiClientVerifier},
    version::TLS13,
};

/// Protocol that gRPC is spoken over.
const ALPN: &[u8] = b"h2";
/// Time that the server's own certificate is valid. It is made anew after half of that.
const SERVER_VALIDITY: Duration = Duration::from_secs(24 * 3600);

/// Reason that a CA cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Ca(#[from] CaError),
    #[error("cannot look at the files of the CA in {folder}", folder = folder.display())]
    Look {
        folder: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot use the CA's certificate for TLS")]
    Tls(#[from] rustls::Error),
    #[error("cannot use the CA's roots for TLS")]
    Roots(#[from] VerifierBuilderError),
}

/// A CA, and the TLS settings that it is served with.
pub(super) struct Served {
    pub ca: Ca,
    pub tls: Arc<ServerConfig>,
    renew_tls_at: SystemTime,
}

struct State {
    served: Arc<Served>,
    /// Of the files that were last looked at, whether they could be used or not.
    seen: [FileStamp; 2],
}

/// The CA in a folder.
pub(super) struct Current {
    folder: PathBuf,
    passphrase: Option<Passphrase>,
    state: Mutex<State>,
}

impl Current {
    pub(crate) fn open(folder: &Path, passphrase: Option<Passphrase>) -> Result<Self, ServeError> {
        let seen = stamp(folder)?;
        let ca = Ca::open(folder, passphrase.as_ref())?;
        let served = Arc::new(Served::new(ca, SystemTime::now())?);
        Ok(Self {
            folder: folder.to_owned(),
            passphrase,
            state: Mutex::new(State { served, seen }),
        })
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The CA as it is now. Blocks on the disk, and for a moment on an encrypted key that has changed.
    pub(crate) fn fresh(&self, now: SystemTime) -> Arc<Served> {
        let mut state = self.state.lock();
        let changed = match stamp(&self.folder) {
            Ok(stamp) if stamp != state.seen => Some(stamp),
            Ok(_) => None,
            Err(error) => {
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "cannot look at the CA's files"
                );
                None
            }
        };
        if changed.is_none() && now < state.served.renew_tls_at {
            return state.served.clone();
        }
        let read = Ca::open(&self.folder, self.passphrase.as_ref()).map_err(ServeError::from);
        match read.and_then(|ca| Served::new(ca, now)) {
            Ok(served) => {
                if changed.is_some() {
                    tracing::info!(folder = %self.folder.display(), "took up the changed files of the CA");
                }
                state.served = Arc::new(served);
            }
            Err(error) => tracing::error!(
                error = &error as &dyn std::error::Error,
                "the files of the CA have changed and cannot be used; the CA before them stays in use"
            ),
        }
        if let Some(seen) = changed {
            state.seen = seen;
        }
        state.served.clone()
    }
}

impl Served {
    fn new(ca: Ca, now: SystemTime) -> Result<Self, ServeError> {
        let (certificate, key) = ca.server(SERVER_VALIDITY)?;
        let mut roots = RootCertStore::empty();
        for root in ca.roots() {
            roots.add(root.clone())?;
        }
        let provider = provider();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .clear_root_hint_subjects()
            .allow_unauthenticated()
            .build()?;
        let mut tls = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(
                // The root goes along: who joins has nothing but its fingerprint.
                vec![certificate, ca.certificate().clone()],
                PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())),
            )?;
        tls.alpn_protocols = vec![ALPN.to_vec()];
        tls.send_tls13_tickets = 0;
        Ok(Self {
            ca,
            tls: Arc::new(tls),
            renew_tls_at: now + SERVER_VALIDITY / 2,
        })
    }
}

fn stamp(folder: &Path) -> Result<[FileStamp; 2], ServeError> {
    let look = |name| {
        FileStamp::of(&folder.join(name)).map_err(|source| ServeError::Look {
            folder: folder.to_owned(),
            source,
        })
    };
    Ok([look(ROOTS_FILE)?, look(CA_KEY_FILE)?])
}

#[cfg(test)]
mod tests {
    use std::fs;

    use causeway_identity::ca;

    use super::*;

    #[test]
    fn changed_files_are_taken_up_and_bad_ones_change_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let first = ca::init(folder.path(), "acme.internal").unwrap();
        let current = Current::open(folder.path(), None).unwrap();
        let now = SystemTime::now();
        let fingerprint = || current.fresh(now).ca.fingerprint();
        assert_eq!(fingerprint(), first.fingerprint());

        let other = tempfile::tempdir().unwrap();
        let second = ca::init(other.path(), "acme.internal").unwrap();
        // Half a rotation: the certificate of one and the key of another.
        fs::rename(other.path().join(ROOTS_FILE), folder.path().join(ROOTS_FILE)).unwrap();
        assert_eq!(fingerprint(), first.fingerprint());
        fs::rename(other.path().join(CA_KEY_FILE), folder.path().join(CA_KEY_FILE)).unwrap();
        assert_eq!(fingerprint(), second.fingerprint());
        fs::write(folder.path().join(CA_KEY_FILE), "nonsense").unwrap();
        assert_eq!(fingerprint(), second.fingerprint());
        fs::remove_file(folder.path().join(CA_KEY_FILE)).unwrap();
        assert_eq!(fingerprint(), second.fingerprint());
    }

    #[test]
    fn the_servers_own_certificate_is_renewed_in_time() {
        let folder = tempfile::tempdir().unwrap();
        ca::init(folder.path(), "acme.internal").unwrap();
        let current = Current::open(folder.path(), None).unwrap();
        let now = SystemTime::now();
        let before = current.fresh(now);
        assert!(Arc::ptr_eq(&before, &current.fresh(now)));
        let after = current.fresh(now + SERVER_VALIDITY / 2 + Duration::from_secs(1));
        assert!(!Arc::ptr_eq(&before.tls, &after.tls));
    }
}
