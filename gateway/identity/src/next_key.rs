//! Key that the next certificate of an identity is asked for with. It is kept until that certificate is installed: who asks again
//! with the same key, because the answer was lost, is given the same certificate, and nobody else is.

use std::{
    fs,
    io::{self, Read as _},
    path::Path,
};

use causeway_host::files::{self, PRIVATE};
use rcgen::KeyPair;

use super::{
    Identity,
    ca::{CaError, request},
};

/// In the folder of the identity.
const FILE: &str = ".next-key.pem";
/// Longest file in bytes.
const MAX_BYTES: u64 = 16 * 1024;

/// A key that no certificate has been installed for yet.
pub struct NextKey(KeyPair);

/// Prints nothing of it.
impl std::fmt::Debug for NextKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NextKey")
    }
}

impl NextKey {
    /// Reads the next key of `own`, which lies in `folder`, or makes it. Blocks on the disk.
    ///
    /// # Errors
    /// When it cannot be made, or not be written: the certificate could not be either.
    pub fn kept_in(folder: &Path, own: &Identity) -> Result<Self, CaError> {
        let path = folder.join(FILE);
        let kept = read(&path).filter(|key| {
            // One whose certificate was installed a moment before a crash is the key in use.
            !own.chain().first().is_some_and(|leaf| request::is_for(leaf, key))
        });
        if let Some(key) = kept {
            return Ok(Self(key));
        }
        let key = KeyPair::generate().map_err(CaError::Certificate)?;
        let written = files::replace_file(&path, key.serialize_pem(), PRIVATE);
        written.map_err(|source| CaError::Write { path, source })?;
        Ok(Self(key))
    }

    #[must_use]
    pub fn pair(&self) -> &KeyPair {
        &self.0
    }
}

/// `None`: there is none, or none that can be used; another takes its place.
fn read(path: &Path) -> Option<KeyPair> {
    let mut text = String::new();
    let file = fs::File::open(path).ok()?;
    file.take(MAX_BYTES).read_to_string(&mut text).ok()?;
    KeyPair::from_pem(&text).ok()
}

/// Forgets the key of the certificate that was installed.
pub(super) fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_file(folder.join(FILE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt as _, time::SystemTime};

    use causeway_federation::name::GatewayId;

    use super::*;
    use crate::{
        KEY_FILE, NewIdentity,
        ca::{Ca, LEAF_VALIDITY},
    };

    fn install_fresh(ca: &Ca, folder: &Path) -> Identity {
        let gateway = GatewayId::new("east".parse().unwrap(), "gw1".parse().unwrap());
        let made = ca.issue(&gateway, LEAF_VALIDITY).unwrap();
        let roots = vec![ca.certificate().clone()];
        let new = NewIdentity::new(made.chain().to_vec(), made.key(), roots, SystemTime::now()).unwrap();
        new.install(folder).unwrap();
        Identity::load(folder).unwrap()
    }

    #[test]
    fn the_next_key_is_kept_until_its_certificate_is_installed() {
        let (ca, folder) = (Ca::new("acme.internal").unwrap(), tempfile::tempdir().unwrap());
        let (folder, file) = (folder.path(), folder.path().join(FILE));
        let own = install_fresh(&ca, folder);
        let next = |own| NextKey::kept_in(folder, own).unwrap().0.serialize_pem();
        let first = next(&own);
        assert_eq!(next(&own), first, "asked again, by another process too");
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, PRIVATE);

        let own = install_fresh(&ca, folder);
        assert!(!file.exists());
        let second = next(&own);
        assert_ne!(second, first);
        fs::write(&file, "nonsense").unwrap();
        assert_ne!(next(&own), second);
        // As a crash leaves it, after the last file was moved.
        fs::copy(folder.join(KEY_FILE), &file).unwrap();
        let in_use = fs::read_to_string(folder.join(KEY_FILE)).unwrap();
        assert_ne!(next(&own).trim(), in_use.trim());
    }
}
