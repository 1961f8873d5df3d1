//! Settings by which an identity is renewed, in a file beside it: `renew.json`, which `causeway join` writes and
//! operators may edit. An identity without it is renewed by somebody else, or not at all.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use causeway_authority::join::CaAddress;
use causeway_host::files::write_public;
use serde::{Deserialize, Serialize};

/// In the folder of an identity.
pub const SETTINGS_FILE: &str = "renew.json";
/// Largest file in bytes.
const MAX_FILE_BYTES: u64 = 64 * 1024;
/// Most addresses.
const MAX_ADDRESSES: usize = 16;

/// Content of `renew.json`. Keys that are not known are left to newer programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Addresses at which the CA is served, best first.
    pub ca: Vec<CaAddress>,
}

/// Reason why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("cannot read {path}", path = path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is not of the form {{\"ca\": [\"HOST:PORT\"]}}", path = path.display())]
    Malformed {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("{path} needs 1 to {MAX_ADDRESSES} addresses of a CA, and no more than {MAX_FILE_BYTES} bytes", path = path.display())]
    Count { path: PathBuf },
}

impl Settings {
    /// Reads them; `None`: there are none.
    ///
    /// # Errors
    /// When the file is there and is not what it should be.
    pub fn read(folder: &Path) -> Result<Option<Self>, SettingsError> {
        let path = folder.join(SETTINGS_FILE);
        let text = match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Ok(file) if file.len() > MAX_FILE_BYTES => return Err(SettingsError::Count { path }),
            file => file.and_then(|_| fs::read(&path)),
        };
        let text = text.map_err(|source| SettingsError::Read {
            path: path.clone(),
            source,
        })?;
        let settings: Self = match serde_json::from_slice(&text) {
            Ok(settings) => settings,
            Err(source) => return Err(SettingsError::Malformed { path, source }),
        };
        match settings.ca.len() {
            1..=MAX_ADDRESSES => Ok(Some(settings)),
            _ => Err(SettingsError::Count { path }),
        }
    }

    /// Writes them beside an identity.
    ///
    /// # Errors
    /// When that is not possible.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        write_public(&folder.join(SETTINGS_FILE), &text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_as_they_were_written_and_mistakes_are_told() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Settings::read(folder.path()).unwrap(), None);
        let settings = Settings {
            ca: vec![
                "ca.acme.internal".parse().unwrap(),
                "10.0.0.1:99".parse().unwrap(),
            ],
        };
        settings.write(folder.path()).unwrap();
        assert_eq!(Settings::read(folder.path()).unwrap(), Some(settings));
        for bad in [
            "",
            "{}",
            r#"{"ca": []}"#,
            r#"{"ca": ["a b"]}"#,
            r#"{"ca": "ca:1"}"#,
        ] {
            fs::write(folder.path().join(SETTINGS_FILE), bad).unwrap();
            assert!(Settings::read(folder.path()).is_err(), "{bad}");
        }
        fs::write(folder.path().join(SETTINGS_FILE), r#"{"ca": ["ca"], "newer": 1}"#).unwrap();
        assert!(Settings::read(folder.path()).is_ok());
    }
}
