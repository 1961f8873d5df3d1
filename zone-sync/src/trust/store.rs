//! `trust.pb`: the document in force, so that a restart neither forgets a revocation nor trusts a retired root. The file is
//! written beside and renamed, with a checksum, so it is whole or the one before it. Everything here blocks.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use causeway_federation::trust::{
    CertificateHash, MAX_DECIDED, MAX_DOCUMENT_BYTES, StoredTrust, TrustDocument, TrustDocumentError,
};
use causeway_host::files::set_aside;
use causeway_proto::trust as proto;
use prost::Message as _;
use sha2::{Digest as _, Sha256};

/// Name of the file in the data folder.
pub const FILE: &str = "trust.pb";
/// SHA-256 of what follows it.
const CHECKSUM_BYTES: usize = 32;
/// Largest file that is read: a document, and 34 bytes for each decided root.
const MAX_FILE_BYTES: usize = CHECKSUM_BYTES + MAX_DOCUMENT_BYTES + 34 * MAX_DECIDED + 64;

/// Store of the document in force.
#[derive(Debug, Clone)]
pub struct TrustStore {
    path: PathBuf,
}

/// Reason why the file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum TrustFileError {
    #[error("cannot use {path}", path = path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the file is damaged: {0}")]
    Damaged(&'static str),
    #[error("the file holds no document")]
    Document(#[source] TrustDocumentError),
}

/// A file that could not be read, and where it is kept now.
#[derive(Debug)]
pub struct TrustSetAside {
    pub kept: PathBuf,
    pub why: TrustFileError,
}

impl TrustStore {
    /// Reads what is kept in `folder`. A damaged file is renamed to `trust.pb.corrupt-<unix seconds>`; the last value
    /// names it.
    ///
    /// # Errors
    /// When the disk does not let it. Nothing is set aside then.
    pub fn open(
        folder: &Path,
        unix_seconds: u64,
    ) -> Result<(Self, StoredTrust, Option<TrustSetAside>), TrustFileError> {
        let store = Self {
            path: folder.join(FILE),
        };
        match store.read() {
            Ok(stored) => Ok((store, stored, None)),
            Err(error @ TrustFileError::File { .. }) => Err(error),
            Err(why) => {
                let kept = set_aside(&store.path, unix_seconds).map_err(|source| store.failed(source))?;
                Ok((store, StoredTrust::default(), Some(TrustSetAside { kept, why })))
            }
        }
    }

    /// Makes the file hold exactly `stored`; on disk when this returns.
    ///
    /// # Errors
    /// When the disk does not let it. What was there before is there still.
    pub fn write(&self, stored: &StoredTrust) -> Result<(), TrustFileError> {
        let body = encode(stored);
        let mut beside = self.path.clone().into_os_string();
        beside.push(format!(".new-{}", std::process::id()));
        let beside = PathBuf::from(beside);
        let written = (|| {
            let mut file = fs::File::create(&beside)?;
            file.write_all(&Sha256::digest(&body))?;
            file.write_all(&body)?;
            file.sync_all()?;
            fs::rename(&beside, &self.path)?;
            let folder = self.path.parent().unwrap_or(Path::new("."));
            fs::File::open(folder)?.sync_all()
        })();
        written.map_err(|source| {
            // Whatever half of it is there is of no use to anybody.
            let _ = fs::remove_file(&beside);
            self.failed(source)
        })
    }

    fn read(&self) -> Result<StoredTrust, TrustFileError> {
        let file = match fs::File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(StoredTrust::default()),
            Err(error) => return Err(self.failed(error)),
        };
        let mut bytes = Vec::new();
        let limit = MAX_FILE_BYTES as u64 + 1;
        file.take(limit)
            .read_to_end(&mut bytes)
            .map_err(|source| self.failed(source))?;
        if bytes.len() > MAX_FILE_BYTES {
            return Err(TrustFileError::Damaged("it is too long"));
        }
        let (checksum, body) = bytes
            .split_at_checked(CHECKSUM_BYTES)
            .ok_or(TrustFileError::Damaged("it is too short"))?;
        if Sha256::digest(body).as_slice() != checksum {
            return Err(TrustFileError::Damaged("its checksum is wrong"));
        }
        decode(body)
    }

    fn failed(&self, source: io::Error) -> TrustFileError {
        TrustFileError::File {
            path: self.path.clone(),
            source,
        }
    }
}

fn encode(stored: &StoredTrust) -> Vec<u8> {
    let message = proto::Stored {
        document: stored.document.as_ref().map(|document| document.message()),
        decided: stored.decided.iter().map(|hash| hash.0.to_vec()).collect(),
    };
    message.encode_to_vec()
}

fn decode(body: &[u8]) -> Result<StoredTrust, TrustFileError> {
    let stored =
        proto::Stored::decode(body).map_err(|_| TrustFileError::Damaged("it is not a valid message"))?;
    let decided: Option<_> = stored
        .decided
        .iter()
        .map(|hash| CertificateHash::read(hash))
        .collect();
    let document = stored.document.map(TrustDocument::of_message).transpose();
    Ok(StoredTrust {
        document: document.map_err(TrustFileError::Document)?.map(Arc::new),
        decided: decided.ok_or(TrustFileError::Damaged("a hash has another length"))?,
    })
}

#[cfg(test)]
mod tests {
    use causeway_federation::trust::{Content, OfferedTrust, Trust, TrustCryptography};

    use super::*;

    /// Believes every signature.
    struct Anything;

    impl TrustCryptography for Anything {
        fn signed(&self, _: &[u8], _: &[u8], _: &[u8]) -> bool {
            true
        }

        fn check(&self, _: &Content) -> Result<(), String> {
            Ok(())
        }
    }

    fn root(name: u8) -> Vec<u8> {
        vec![name; 8]
    }

    /// Gives a gateway that has roots `a` and `x` in its file and took a document of roots `a` and `b` up.
    fn taken() -> Trust {
        let content = |names: &[u8]| Content {
            trust_domain: "acme.internal".to_owned(),
            roots: names.iter().map(|name| root(*name)).collect(),
            ..Content::default()
        };
        let document = TrustDocument::new(1, content(b"ab"), 0).unwrap();
        let document = document.signed(CertificateHash::of(&root(b'a')), vec![7; 32]);
        let mut trust = Trust::new("acme.internal", StoredTrust::default());
        let offered = trust.offer(&Arc::new(document), &content(b"ax").roots_by_hash(), &Anything);
        assert_eq!(offered, Ok(OfferedTrust::Taken));
        trust
    }

    #[test]
    fn what_is_in_force_survives_a_restart_and_a_damaged_file_is_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        let (store, stored, aside) = TrustStore::open(folder.path(), 7).unwrap();
        assert!(aside.is_none() && stored == StoredTrust::default());
        let trust = taken();
        store.write(&trust.stored()).unwrap();
        let (_, stored, aside) = TrustStore::open(folder.path(), 7).unwrap();
        assert!(aside.is_none());
        assert_eq!(stored, trust.stored());

        let path = folder.path().join(FILE);
        let whole = fs::read(&path).unwrap();
        let mut altered = whole.clone();
        // Inside a root, where any byte makes sense.
        altered[60] ^= 1;
        for damaged in [&[], &whole[..10], &whole[..whole.len() - 1], &altered] {
            fs::write(&path, damaged).unwrap();
            let (_, stored, aside) = TrustStore::open(folder.path(), 7).unwrap();
            assert_eq!(stored, StoredTrust::default());
            assert_eq!(fs::read(aside.unwrap().kept).unwrap(), damaged);
            assert!(!path.exists());
        }
    }
}
