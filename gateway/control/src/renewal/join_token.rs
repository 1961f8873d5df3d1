//! The file with the join token by which a gateway comes back after its certificate has ended.

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use causeway_authority::join::{JoinToken, JoinTokenError};
use causeway_federation::name::ZoneName;
use rustix::{
    fs::{Mode, OFlags, open},
    process::geteuid,
};

/// Largest file in bytes; a token has about 240.
const MAX_FILE_BYTES: u64 = 1024;
/// Bits of a mode that let others than the owner at a file.
const OTHERS: u32 = 0o077;
const ROOT: u32 = 0;

/// Reason why the token in a file cannot be used. It never repeats the token.
#[derive(Debug, thiserror::Error)]
pub enum JoinTokenFileError {
    #[error("cannot read {path}", path = path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("others than its owner can get at {path} (mode {mode:o}); `chmod 600` it, and revoke the token if somebody may have read it", path = path.display())]
    Open { path: PathBuf, mode: u32 },
    #[error("{path} is of user {owner}, and not of this process's user or root", path = path.display())]
    Owner { path: PathBuf, owner: u32 },
    #[error("{path} is no file", path = path.display())]
    NoFile { path: PathBuf },
    #[error("{path} has more than {MAX_FILE_BYTES} bytes; it holds a token and nothing else", path = path.display())]
    TooLarge { path: PathBuf },
    #[error("{path} holds no join token", path = path.display())]
    Token {
        path: PathBuf,
        #[source]
        source: JoinTokenError,
    },
    #[error("the token in {path} is for zone {found}, and this is zone {own}", path = path.display())]
    OtherZone {
        path: PathBuf,
        found: ZoneName,
        own: ZoneName,
    },
}

/// A file that a join token is read from whenever it is needed.
#[derive(Debug, Clone)]
pub struct JoinTokenFile {
    path: PathBuf,
    zone: ZoneName,
}

impl JoinTokenFile {
    /// Reads it for the first time, for a process of `zone`.
    ///
    /// # Errors
    /// Reason that the token in it cannot be used.
    pub fn open(path: &Path, zone: &ZoneName) -> Result<Self, JoinTokenFileError> {
        let file = Self {
            path: path.to_owned(),
            zone: zone.clone(),
        };
        file.read().map(|_| file)
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the token as it is now. Blocks on the disk.
    ///
    /// # Errors
    /// Reason that it cannot be used.
    pub fn read(&self) -> Result<JoinToken, JoinTokenFileError> {
        let path = || self.path.clone();
        let failed = |source| JoinTokenFileError::Read { path: path(), source };
        // One that would wait for a writer, such as a pipe, is not waited for; and what is looked at is what is read.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = open(&self.path, flags, Mode::empty()).map_err(|error| failed(error.into()))?;
        let opened = File::from(opened);
        let file = opened.metadata().map_err(failed)?;
        if !file.is_file() {
            return Err(JoinTokenFileError::NoFile { path: path() });
        }
        let (mode, owner) = (file.mode() & 0o777, file.uid());
        if mode & OTHERS != 0 {
            return Err(JoinTokenFileError::Open { path: path(), mode });
        }
        if owner != ROOT && owner != geteuid().as_raw() {
            return Err(JoinTokenFileError::Owner { path: path(), owner });
        }
        let mut text = String::new();
        let mut limited = opened.take(MAX_FILE_BYTES + 1);
        limited.read_to_string(&mut text).map_err(failed)?;
        if text.len() as u64 > MAX_FILE_BYTES {
            return Err(JoinTokenFileError::TooLarge { path: path() });
        }
        let token: JoinToken = text
            .parse()
            .map_err(|source| JoinTokenFileError::Token { path: path(), source })?;
        match token.zone == self.zone {
            true => Ok(token),
            false => Err(JoinTokenFileError::OtherZone {
                path: path(),
                found: token.zone,
                own: self.zone.clone(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use causeway_identity::ca::tokens::{Secret, TokenId};

    use super::*;

    fn written(text: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        (folder, path)
    }

    fn token() -> JoinToken {
        JoinToken {
            id: TokenId([1; 8]),
            secret: Secret([2; 32]),
            fingerprint: [3; 32],
            zone: "plant".parse().unwrap(),
        }
    }

    #[test]
    fn a_token_is_read_from_a_file_that_is_its_owners_alone() {
        let (plant, text) = ("plant".parse().unwrap(), format!("{}\n", token().reveal()));
        let (_folder, path) = written(&text, 0o400);
        let file = JoinTokenFile::open(&path, &plant).unwrap();
        assert_eq!(file.read().unwrap(), token());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let open = file.read().unwrap_err();
        assert!(open.to_string().contains("mode 640"), "{open}");
    }

    #[test]
    fn what_is_no_token_for_this_zone_is_told_without_repeating_it() {
        let (plant, text) = ("plant".parse().unwrap(), token().reveal());
        let refused = |text: &str, zone: &ZoneName| {
            let (_folder, path) = written(text, 0o600);
            JoinTokenFile::open(&path, zone).unwrap_err()
        };
        let other = refused(&text, &"depot".parse().unwrap()).to_string();
        assert!(
            other.contains("is for zone plant, and this is zone depot"),
            "{other}"
        );
        let cut = refused(&text[..90], &plant);
        assert!(matches!(cut, JoinTokenFileError::Token { .. }), "{cut:?}");
        assert!(!format!("{cut:?} {cut}").contains(&text[20..90]), "{cut:?}");
        let long = refused(&"x".repeat(2_000), &plant);
        assert!(matches!(long, JoinTokenFileError::TooLarge { .. }), "{long:?}");
        let (folder, _) = written("", 0o600);
        let folder = JoinTokenFile::open(folder.path(), &plant).unwrap_err();
        assert!(matches!(folder, JoinTokenFileError::NoFile { .. }), "{folder:?}");
        let gone = JoinTokenFile::open(Path::new("/nowhere/token"), &plant).unwrap_err();
        assert!(matches!(gone, JoinTokenFileError::Read { .. }), "{gone:?}");
    }
}
