//! `trust.pb`: the document in force, so that a restart neither forgets a revocation nor trusts a retired root. The file is
//! written beside and renamed, with a checksum, so it is whole or the one before it. Everything here blocks.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use causeway_proto::trust as proto;
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use super::{CertificateHash, Document, DocumentError, MAX_DECIDED, MAX_DOCUMENT_BYTES, Stored};

/// Name of the file in the data folder.
pub const FILE: &str = "trust.pb";
/// SHA-256 of what follows it.
const CHECKSUM_BYTES: usize = 32;
/// Largest file that is read: a document, and 34 bytes for each decided root.
const MAX_FILE_BYTES: usize = CHECKSUM_BYTES + MAX_DOCUMENT_BYTES + 34 * MAX_DECIDED + 64;

/// Where the document in force is kept.
#[derive(Debug, Clone)]
pub struct Store {
    path: PathBuf,
}

/// Why the file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot use {path}", path = path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the file is damaged: {0}")]
    Damaged(&'static str),
    #[error("the file holds no document")]
    Document(#[source] DocumentError),
}

/// A file that could not be read, and where it is kept now.
#[derive(Debug)]
pub struct SetAside {
    pub kept: PathBuf,
    pub why: StoreError,
}

impl Store {
    /// Reads what is kept in `folder`. A damaged file is renamed to `trust.pb.corrupt-<unix seconds>`; the last value
    /// names it.
    ///
    /// # Errors
    /// When the disk does not let it. Nothing is set aside then.
    pub fn open(folder: &Path, unix_seconds: u64) -> Result<(Self, Stored, Option<SetAside>), StoreError> {
        let store = Self {
            path: folder.join(FILE),
        };
        match store.read() {
            Ok(stored) => Ok((store, stored, None)),
            Err(error @ StoreError::File { .. }) => Err(error),
            Err(why) => {
                let kept = folder.join(format!("{FILE}.corrupt-{unix_seconds}"));
                fs::rename(&store.path, &kept).map_err(|source| store.failed(source))?;
                Ok((store, Stored::default(), Some(SetAside { kept, why })))
            }
        }
    }

    /// Makes the file hold exactly `stored`; on disk when this returns.
    ///
    /// # Errors
    /// When the disk does not let it. What was there before is there still.
    pub fn write(&self, stored: &Stored) -> Result<(), StoreError> {
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

    fn read(&self) -> Result<Stored, StoreError> {
        let file = match fs::File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Stored::default()),
            Err(error) => return Err(self.failed(error)),
        };
        let mut bytes = Vec::new();
        let limit = MAX_FILE_BYTES as u64 + 1;
        file.take(limit)
            .read_to_end(&mut bytes)
            .map_err(|source| self.failed(source))?;
        if bytes.len() > MAX_FILE_BYTES {
            return Err(StoreError::Damaged("it is too long"));
        }
        let (checksum, body) = bytes
            .split_at_checked(CHECKSUM_BYTES)
            .ok_or(StoreError::Damaged("it is too short"))?;
        if Sha256::digest(body).as_slice() != checksum {
            return Err(StoreError::Damaged("its checksum is wrong"));
        }
        decode(body)
    }

    fn failed(&self, source: io::Error) -> StoreError {
        StoreError::File {
            path: self.path.clone(),
            source,
        }
    }
}

fn encode(stored: &Stored) -> Vec<u8> {
    let message = proto::Stored {
        document: stored.document.as_ref().map(|document| document.message()),
        decided: stored.decided.iter().map(|hash| hash.0.to_vec()).collect(),
    };
    message.encode_to_vec()
}

fn decode(body: &[u8]) -> Result<Stored, StoreError> {
    let stored = proto::Stored::decode(body).map_err(|_| StoreError::Damaged("it is not a valid message"))?;
    let decided: Option<_> = stored
        .decided
        .iter()
        .map(|hash| CertificateHash::read(hash))
        .collect();
    let document = stored.document.map(Document::of_message).transpose();
    Ok(Stored {
        document: document.map_err(StoreError::Document)?.map(Arc::new),
        decided: decided.ok_or(StoreError::Damaged("a hash has another length"))?,
    })
}
