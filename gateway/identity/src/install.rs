//! Putting a new identity into its folder so that no crash leaves half of it: the whole set is written aside, becomes
//! valid by one rename, and is then moved into place file by file. What a crash interrupts is finished at the next start.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use causeway_federation::trust::{StoredTrust, Trust};
use causeway_host::files::{self, PRIVATE, PUBLIC};
use pkcs8::{LineEnding, der::pem};
use rcgen::KeyPair;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::{
    Identity, SpiffeId,
    ca::{CaError, request},
    next_key,
    pem_files::{self, CERTIFICATE_FILE, IdentityFileError, KEY_FILE, ROOTS_FILE},
};

/// A request for a certificate that is to be signed by hand.
const REQUEST_FILE: &str = "request.pem";
/// Folder that a set is written to: it counts for nothing.
const UNFINISHED: &str = ".renewing";
/// Folder in which a whole set waits to be moved: it counts, and what is beside it is old.
const FINISHED: &str = ".renewed";

/// An identity that was checked whole and is not on disk yet.
pub struct NewIdentity {
    identity: Identity,
    key: String,
    chain: String,
    roots: String,
}

/// Prints who it is, never the key.
impl std::fmt::Debug for NewIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("NewIdentity").field(self.id()).finish()
    }
}

impl NewIdentity {
    /// Takes parts that came from a CA.
    ///
    /// # Errors
    /// When they are not an identity that peers would believe now.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        roots: Vec<CertificateDer<'static>>,
        now: SystemTime,
    ) -> Result<Self, IdentityFileError> {
        let key_text = text("PRIVATE KEY", [key.secret_der()]);
        let chain_text = text("CERTIFICATE", chain.iter().map(AsRef::as_ref));
        let roots_text = text("CERTIFICATE", roots.iter().map(AsRef::as_ref));
        let roots = pem_files::usable_roots(Path::new(ROOTS_FILE), roots)?;
        // The CA's own word for its roots; what the gateway trusts has its say when the files are taken up.
        let trust = Trust::new("", StoredTrust::default());
        let mut identity =
            pem_files::put_together(Path::new(""), chain, key, (roots, Vec::new()), &trust, now)?;
        match identity.doubt.take() {
            Some(doubt) => Err(doubt),
            None => Ok(Self {
                identity,
                key: key_text,
                chain: chain_text,
                roots: roots_text,
            }),
        }
    }

    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        self.identity.id()
    }

    #[must_use]
    pub fn not_after(&self) -> Option<SystemTime> {
        self.identity.not_after()
    }

    /// Writes it to `folder`, which is made for its owner alone if it is not there. What was there before is replaced,
    /// whole or not at all.
    ///
    /// # Errors
    /// When it cannot be written; then nothing has changed.
    pub fn install(&self, folder: &Path) -> io::Result<()> {
        files::make_folder(folder)?;
        finish(folder)?;
        let unfinished = folder.join(UNFINISHED);
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished)?;
        }
        files::make_folder(&unfinished)?;
        for (name, text, mode) in [
            (KEY_FILE, &self.key, PRIVATE),
            (CERTIFICATE_FILE, &self.chain, PUBLIC),
            (ROOTS_FILE, &self.roots, PUBLIC),
        ] {
            files::create_file(&unfinished.join(name), text, mode)?;
        }
        fs::rename(&unfinished, folder.join(FINISHED))?;
        fs::File::open(folder)?.sync_all()?;
        finish(folder)?;
        next_key::remove(folder)
    }
}

/// Makes a key and a request for a certificate for it, to be signed by hand; `key.pem` and `request.pem` in `folder`. Returns
/// where the request is.
///
/// # Errors
/// When a key is there already, or they cannot be written.
pub fn write_request(folder: &Path, id: &SpiffeId) -> Result<PathBuf, CaError> {
    let key = KeyPair::generate().map_err(CaError::Certificate)?;
    let request = request::request_pem(id, &key)?;
    let write = |path: &Path, source| CaError::Write {
        path: path.to_owned(),
        source,
    };
    files::make_folder(folder).map_err(|source| write(folder, source))?;
    let path = folder.join(KEY_FILE);
    files::create_file(&path, &key.serialize_pem(), PRIVATE).map_err(|source| write(&path, source))?;
    let path = folder.join(REQUEST_FILE);
    files::write_public(&path, &request).map_err(|source| write(&path, source))?;
    Ok(path)
}

/// Finds out whether an identity could be written to `folder`, which is made if it is not there, before a token is spent.
///
/// # Errors
/// When it could not.
pub fn check_writable(folder: &Path) -> io::Result<()> {
    files::make_folder(folder)?;
    let probe = folder.join(UNFINISHED);
    if probe.exists() {
        fs::remove_dir_all(&probe)?;
    }
    files::make_folder(&probe)?;
    fs::remove_dir(&probe)
}

/// Moves a whole set into place that an earlier process wrote and could not.
///
/// # Errors
/// When it cannot be moved.
pub(super) fn finish(folder: &Path) -> io::Result<()> {
    let finished = folder.join(FINISHED);
    if !finished.exists() {
        return Ok(());
    }
    for name in [KEY_FILE, CERTIFICATE_FILE, ROOTS_FILE] {
        match fs::rename(finished.join(name), folder.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            // Moved before the crash.
            _ => {}
        }
    }
    fs::remove_dir(&finished)?;
    fs::File::open(folder)?.sync_all()
}

fn text<'a>(label: &str, sections: impl IntoIterator<Item = &'a [u8]>) -> String {
    let sections = sections
        .into_iter()
        .map(|der| pem::encode_string(label, LineEnding::LF, der));
    // A label of letters and a key or certificate of a few KiB can always be written; one that could not be read again
    // is noticed when the set is checked.
    sections.map(Result::unwrap_or_default).collect()
}

/// Certificates, DER, as PEM.
pub fn pem_of<'a>(certificates: impl IntoIterator<Item = &'a [u8]>) -> String {
    text("CERTIFICATE", certificates)
}

/// The newest of the times at which the files of an identity were written.
pub(super) fn written_at(folder: &Path) -> Option<SystemTime> {
    let paths = [KEY_FILE, CERTIFICATE_FILE, ROOTS_FILE].map(|name| -> PathBuf { folder.join(name) });
    let times = paths
        .iter()
        .filter_map(|path| fs::metadata(path).ok()?.modified().ok());
    times.max()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use causeway_federation::name::GatewayId;

    use super::*;
    use crate::ca::{Ca, LEAF_VALIDITY};

    fn fresh(ca: &Ca) -> NewIdentity {
        let gateway = GatewayId::new("east".parse().unwrap(), "gw1".parse().unwrap());
        let made = ca.issue(&gateway, LEAF_VALIDITY).unwrap();
        let roots = vec![ca.certificate().clone()];
        NewIdentity::new(made.chain, made.key, roots, SystemTime::now()).unwrap()
    }

    #[test]
    fn a_set_is_installed_with_the_right_modes_and_read_back() {
        let (ca, folder) = (Ca::new("acme.internal").unwrap(), tempfile::tempdir().unwrap());
        let at = folder.path().join("identity");
        check_writable(&at).unwrap();
        for _ in 0..2 {
            let made = fresh(&ca);
            made.install(&at).unwrap();
            assert!(Identity::load(&at).unwrap().same_files(&made.identity));
        }
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&at), 0o700);
        assert_eq!(mode(&at.join(KEY_FILE)), 0o600);
        assert_eq!(mode(&at.join(CERTIFICATE_FILE)), 0o644);
        assert_eq!(fs::read_dir(&at).unwrap().count(), 3, "nothing is left behind");
    }

    #[test]
    fn a_crash_at_any_step_leaves_the_old_set_or_the_new_one() {
        let ca = Ca::new("acme.internal").unwrap();
        for moved in 0..=3 {
            let folder = tempfile::tempdir().unwrap();
            let (old, new) = (fresh(&ca), fresh(&ca));
            old.install(folder.path()).unwrap();
            // As `install` would have left it after the rename and `moved` files.
            let finished = folder.path().join(FINISHED);
            new.install(&finished).unwrap();
            for name in [KEY_FILE, CERTIFICATE_FILE, ROOTS_FILE].iter().take(moved) {
                fs::rename(finished.join(name), folder.path().join(name)).unwrap();
            }
            finish(folder.path()).unwrap();
            assert!(
                Identity::load(folder.path()).unwrap().same_files(&new.identity),
                "after {moved} files"
            );
        }
        let folder = tempfile::tempdir().unwrap();
        let old = fresh(&ca);
        old.install(folder.path()).unwrap();
        fresh(&ca).install(&folder.path().join(UNFINISHED)).unwrap();
        finish(folder.path()).unwrap();
        assert!(Identity::load(folder.path()).unwrap().same_files(&old.identity));
        fresh(&ca).install(folder.path()).unwrap();
    }

    #[test]
    fn parts_that_peers_would_refuse_are_no_identity() {
        let (ca, stranger) = (
            Ca::new("acme.internal").unwrap(),
            Ca::new("acme.internal").unwrap(),
        );
        let gateway = GatewayId::new("east".parse().unwrap(), "gw1".parse().unwrap());
        let made = ca.issue(&gateway, LEAF_VALIDITY).unwrap();
        let roots = vec![stranger.certificate().clone()];
        let refused = NewIdentity::new(made.chain, made.key, roots, SystemTime::now());
        assert!(matches!(refused, Err(IdentityFileError::UnknownIssuer { .. })));
    }
}
