//! A rotation in the folder of its CA. Beside the CA lie `rotation.json`, `next/` until the next CA takes over, and
//! `previous/` after that, until it is set aside as `retired-<first digits>/`. Every function here can be called again
//! after a crash in the middle of it.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use causeway_federation::trust::CertificateHash;
use causeway_host::files::{PRIVATE, replace_file, write_public};
use causeway_identity::{
    ROOTS_FILE,
    ca::{
        self, CA_KEY_FILE, Ca, CaError,
        document::{ComposeError, TrustDraft, compose},
        key::Passphrase,
    },
    certificates, pem_of,
};
use rustix::fs::{FlockOperation, flock};
use rustls_pki_types::CertificateDer;

use super::{RotationStep, State};

/// Name of the file that says where a rotation stands.
pub(crate) const STATE_FILE: &str = "rotation.json";
/// Is there while a rotation is paused.
pub(crate) const PAUSE_FILE: &str = "rotation.paused";
const NEXT: &str = "next";
const PREVIOUS: &str = "previous";
/// Digits of a root's hash in the name of the folder where it is set aside.
const NAME_DIGITS: usize = 12;

/// Reason why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FolderError {
    #[error("another command is at work in {folder}; wait for it, or end it", folder = folder.display())]
    InUse { folder: PathBuf },
    #[error("cannot use {path}", path = path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} says nothing that can be understood; mend it, or move it away to begin a new rotation", path = path.display())]
    State {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error(transparent)]
    Ca(#[from] CaError),
    #[error(transparent)]
    Compose(#[from] ComposeError),
    #[error("the certificates of the CA cannot be read")]
    Roots(#[source] causeway_identity::IdentityFileError),
}

/// The folder of a CA that no other command changes meanwhile.
#[derive(Debug)]
pub(crate) struct CaFolder {
    path: PathBuf,
    passphrase: Option<Passphrase>,
    /// Unlocked when it is closed, by whatever end of the process.
    _lock: File,
}

impl CaFolder {
    /// # Errors
    /// When the folder is not there, or another command is at work in it.
    pub(crate) fn lock(path: &Path, passphrase: Option<Passphrase>) -> Result<Self, FolderError> {
        let lock = File::open(path).map_err(|source| failed(path, source))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
            rustix::io::Errno::WOULDBLOCK => FolderError::InUse {
                folder: path.to_owned(),
            },
            error => failed(path, error.into()),
        })?;
        Ok(Self {
            path: path.to_owned(),
            passphrase,
            _lock: lock,
        })
    }

    #[must_use]
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The present CA.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn ca(&self) -> Result<Ca, FolderError> {
        Ok(self.open(&self.path)?)
    }

    fn open(&self, folder: &Path) -> Result<Ca, CaError> {
        Ca::open(folder, self.passphrase.as_ref())
    }

    /// Makes the next CA, unless it is there, and has the present one trust it. Gives its hash.
    ///
    /// # Errors
    /// When something cannot be read or written.
    pub(crate) fn prepare(&self) -> Result<CertificateHash, FolderError> {
        let next = self.path.join(NEXT);
        if !next.exists() {
            let unfinished = self.path.join("next.new");
            remove_if_there(&unfinished)?;
            ca::init_under(&unfinished, self.ca()?.trust_domain(), self.passphrase.as_ref())?;
            fs::rename(&unfinished, &next).map_err(|source| failed(&next, source))?;
        }
        let coming = self.certificate(&next)?;
        let mut roots = self.roots(&self.path)?;
        if !roots.contains(&coming) {
            roots.push(coming.clone());
            self.write_roots(&roots)?;
        }
        Ok(CertificateHash::of(&coming))
    }

    /// Has the next CA take the place of the present one, which stays at hand to sign and goes on being trusted.
    ///
    /// # Errors
    /// When something cannot be read or written.
    pub(crate) fn exchange(&self, state: &State) -> Result<(), FolderError> {
        let (next, previous) = (self.path.join(NEXT), self.path.join(PREVIOUS));
        if !previous.exists() {
            let unfinished = self.path.join("previous.new");
            remove_if_there(&unfinished)?;
            causeway_host::files::make_private_folder(&unfinished)
                .map_err(|source| failed(&unfinished, source))?;
            let key = self.path.join(CA_KEY_FILE);
            let text = fs::read(&key).map_err(|source| failed(&key, source))?;
            let copy = unfinished.join(CA_KEY_FILE);
            replace_file(&copy, &text, PRIVATE).map_err(|source| failed(&copy, source))?;
            let own = unfinished.join(ROOTS_FILE);
            let certificate = self.certificate(&self.path)?;
            write_public(&own, &pem_of([certificate.as_ref()])).map_err(|source| failed(&own, source))?;
            fs::rename(&unfinished, &previous).map_err(|source| failed(&previous, source))?;
        }
        let (coming_key, key) = (next.join(CA_KEY_FILE), self.path.join(CA_KEY_FILE));
        if coming_key.exists() {
            // From here to the end of the next statement the folder holds a key and another's certificate, which whoever
            // reads it notices and waits out.
            fs::rename(&coming_key, &key).map_err(|source| failed(&key, source))?;
        }
        let new = state.new.as_deref().unwrap_or_default();
        let mut roots = self.roots(&self.path)?;
        if let Some(at) = roots
            .iter()
            .position(|root| CertificateHash::of(root).to_string() == new)
            && at > 0
        {
            roots[..=at].rotate_right(1);
            self.write_roots(&roots)?;
        }
        Ok(())
    }

    /// Has the CA no longer say that the old root is to be trusted.
    ///
    /// # Errors
    /// When something cannot be read or written.
    pub(crate) fn retire(&self, state: &State) -> Result<(), FolderError> {
        let mut roots = self.roots(&self.path)?;
        let before = roots.len();
        roots.retain(|root| CertificateHash::of(root).to_string() != state.old);
        match roots.len() == before {
            true => Ok(()),
            false => self.write_roots(&roots),
        }
    }

    /// Sets the old CA aside, where nothing uses it any more.
    ///
    /// # Errors
    /// When something cannot be moved.
    pub(crate) fn finish(&self, state: &State) -> Result<PathBuf, FolderError> {
        let next = self.path.join(NEXT);
        // A key is never thrown away.
        if !next.join(CA_KEY_FILE).exists() {
            remove_if_there(&next)?;
        }
        let digits: String = state.old.chars().take(NAME_DIGITS).collect();
        let aside = self.path.join(format!("retired-{digits}"));
        let previous = self.path.join(PREVIOUS);
        if previous.exists() {
            fs::rename(&previous, &aside).map_err(|source| failed(&aside, source))?;
        }
        Ok(aside)
    }

    /// Has the CA no longer say that the next root is to be trusted, and sets the next CA aside; a key is never thrown away.
    ///
    /// # Errors
    /// When something cannot be read, written or moved.
    pub(crate) fn abandon(&self, state: &State) -> Result<Option<PathBuf>, FolderError> {
        let next = self.path.join(NEXT);
        let new = match (&state.new, next.exists()) {
            (Some(new), _) => new.clone(),
            (None, true) => CertificateHash::of(&self.certificate(&next)?).to_string(),
            (None, false) => return Ok(None),
        };
        let mut roots = self.roots(&self.path)?;
        let before = roots.len();
        roots.retain(|root| CertificateHash::of(root).to_string() != new);
        if roots.len() != before {
            self.write_roots(&roots)?;
        }
        let digits: String = new.chars().take(NAME_DIGITS).collect();
        let aside = self.path.join(format!("abandoned-{digits}"));
        if next.exists() {
            fs::rename(&next, &aside).map_err(|source| failed(&aside, source))?;
        }
        Ok(aside.exists().then_some(aside))
    }

    /// Forgets that a rotation was begun.
    ///
    /// # Errors
    /// When its files cannot be removed.
    pub(crate) fn forget_rotation(&self) -> Result<(), FolderError> {
        remove_if_there(&self.path.join(STATE_FILE))?;
        remove_if_there(&self.path.join(PAUSE_FILE))
    }

    /// The document that the folder would have in force, signed by every CA that there is a key of.
    ///
    /// # Errors
    /// When something cannot be read or written.
    pub(crate) fn document(
        &self,
        in_force: (u64, &str),
        now: std::time::SystemTime,
    ) -> Result<std::sync::Arc<causeway_federation::trust::TrustDocument>, FolderError> {
        let mut signers = vec![self.ca()?];
        for beside in [NEXT, PREVIOUS].map(|name| self.path.join(name)) {
            if beside.join(CA_KEY_FILE).exists() {
                signers.push(self.open(&beside)?);
            }
        }
        let state = read_state(&self.path)?;
        let rotating =
            state.filter(|state| matches!(state.step, RotationStep::Issuing | RotationStep::Retiring));
        let wish = TrustDraft {
            preferred: rotating.map(|_| signers[0].hash()),
            signers: &signers,
            in_force,
        };
        Ok(compose(&self.path, &wish, now)?)
    }

    /// # Errors
    /// When it cannot be written.
    pub(crate) fn write_state(&self, state: &State) -> Result<(), FolderError> {
        let path = self.path.join(STATE_FILE);
        let text = serde_json::to_string_pretty(state).map_err(|source| FolderError::State {
            path: path.clone(),
            source,
        })?;
        write_public(&path, &format!("{text}\n")).map_err(|source| failed(&path, source))
    }

    fn certificate(&self, folder: &Path) -> Result<CertificateDer<'static>, FolderError> {
        let path = folder.join(ROOTS_FILE);
        let first = self.roots(folder)?.into_iter().next();
        first.ok_or_else(|| failed(&path, io::ErrorKind::UnexpectedEof.into()))
    }

    fn roots(&self, folder: &Path) -> Result<Vec<CertificateDer<'static>>, FolderError> {
        certificates(&folder.join(ROOTS_FILE)).map_err(FolderError::Roots)
    }

    fn write_roots(&self, roots: &[CertificateDer<'static>]) -> Result<(), FolderError> {
        let path = self.path.join(ROOTS_FILE);
        let text = pem_of(roots.iter().map(AsRef::as_ref));
        write_public(&path, &text).map_err(|source| failed(&path, source))
    }
}

/// Reads where a rotation in `folder` stands; `None`: there was none.
///
/// # Errors
/// When the file is there and cannot be understood.
pub(crate) fn read_state(folder: &Path) -> Result<Option<State>, FolderError> {
    let path = folder.join(STATE_FILE);
    match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|source| FolderError::State { path, source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(failed(&path, source)),
    }
}

#[must_use]
pub(crate) fn is_paused(folder: &Path) -> bool {
    folder.join(PAUSE_FILE).exists()
}

/// Pauses a rotation, or lets it go on.
///
/// # Errors
/// When the folder cannot be written.
pub(crate) fn set_paused(folder: &Path, paused: bool) -> Result<(), FolderError> {
    let path = folder.join(PAUSE_FILE);
    match paused {
        true => write_public(&path, "").map_err(|source| failed(&path, source)),
        false => remove_if_there(&path),
    }
}

fn remove_if_there(path: &Path) -> Result<(), FolderError> {
    let removed = match path.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(|source| failed(path, source)),
    }
}

fn failed(path: &Path, source: io::Error) -> FolderError {
    FolderError::File {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use tempfile::TempDir;

    use super::*;

    const DOMAIN: &str = "acme.internal";

    fn begun() -> (TempDir, CaFolder, State) {
        let folder = tempfile::tempdir().unwrap();
        let ca = ca::init(folder.path(), DOMAIN).unwrap();
        let locked = CaFolder::lock(folder.path(), None).unwrap();
        let state = State {
            step: RotationStep::Preparing,
            old: ca.hash().to_string(),
            new: None,
            begun_at: SystemTime::now(),
            without: Default::default(),
        };
        (folder, locked, state)
    }

    fn hashes(folder: &CaFolder) -> Vec<String> {
        let roots = folder.roots(folder.path()).unwrap();
        roots
            .iter()
            .map(|root| CertificateHash::of(root).to_string())
            .collect()
    }

    #[test]
    fn only_one_command_is_at_work_in_a_folder() {
        let (folder, locked, _) = begun();
        assert!(matches!(
            CaFolder::lock(folder.path(), None),
            Err(FolderError::InUse { .. })
        ));
        drop(locked);
        assert!(CaFolder::lock(folder.path(), None).is_ok());
    }

    #[test]
    fn each_step_can_be_done_again_and_the_document_follows() {
        let (_folder, folder, mut state) = begun();
        let now = SystemTime::now();
        let new = folder.prepare().unwrap();
        assert_eq!(folder.prepare().unwrap(), new, "once is enough");
        state.new = Some(new.to_string());
        let (old, new) = (state.old.clone(), new.to_string());
        state.step = RotationStep::Announcing;
        folder.write_state(&state).unwrap();
        assert_eq!(hashes(&folder), [old.clone(), new.clone()]);
        assert_eq!(folder.ca().unwrap().hash().to_string(), old);
        let both = folder.document((0, ""), now).unwrap();
        assert_eq!((both.content().roots.len(), both.content().preferred), (2, None));
        let again = folder
            .document((1, &both.edition().fingerprint.to_string()), now)
            .unwrap();
        assert_eq!(again.edition(), both.edition(), "the same wish makes nothing new");

        state.step = RotationStep::Issuing;
        folder.write_state(&state).unwrap();
        for _ in 0..2 {
            folder.exchange(&state).unwrap();
            assert_eq!(hashes(&folder), [new.clone(), old.clone()]);
            assert_eq!(folder.ca().unwrap().hash().to_string(), new);
        }
        let issuing = folder
            .document((1, &both.edition().fingerprint.to_string()), now)
            .unwrap();
        assert_eq!(issuing.edition().generation, 2);
        assert_eq!(issuing.content().preferred.unwrap().to_string(), new);
        assert_eq!(issuing.signers().count(), 2, "whoever trusts either believes it");

        state.step = RotationStep::Retiring;
        folder.write_state(&state).unwrap();
        for _ in 0..2 {
            folder.retire(&state).unwrap();
            assert_eq!(hashes(&folder), std::slice::from_ref(&new));
        }
        let last = folder
            .document((2, &issuing.edition().fingerprint.to_string()), now)
            .unwrap();
        assert_eq!((last.content().roots.len(), last.signers().count()), (1, 2));
        for _ in 0..2 {
            let aside = folder.finish(&state).unwrap();
            assert_eq!(Ca::load(&aside).unwrap().hash().to_string(), old);
        }
        state.step = RotationStep::Done;
        folder.write_state(&state).unwrap();
        let after = folder
            .document((3, &last.edition().fingerprint.to_string()), now)
            .unwrap();
        assert_eq!(after.signers().count(), 1);
    }

    #[test]
    fn an_exchange_that_was_cut_off_anywhere_is_finished() {
        for cut in 0..3 {
            let (_folder, folder, mut state) = begun();
            let new = folder.prepare().unwrap();
            state.new = Some(new.to_string());
            let at = |name: &str| folder.path().join(name);
            // What is there when the machine stops: a copy that is not whole, a whole one, and half of the exchange.
            match cut {
                0 => fs::create_dir(at("previous.new")).unwrap(),
                1 | 2 => {
                    fs::create_dir(at(PREVIOUS)).unwrap();
                    for name in [CA_KEY_FILE, ROOTS_FILE] {
                        fs::copy(at(name), at(PREVIOUS).join(name)).unwrap();
                    }
                    if cut == 2 {
                        fs::rename(at(NEXT).join(CA_KEY_FILE), at(CA_KEY_FILE)).unwrap();
                        assert!(folder.ca().is_err(), "nobody issues from half of it");
                    }
                }
                _ => {}
            }
            folder.exchange(&state).unwrap();
            assert_eq!(folder.ca().unwrap().hash(), new);
            let previous = folder.open(&at(PREVIOUS)).unwrap();
            assert_eq!(previous.hash().to_string(), state.old);
        }
    }
}
