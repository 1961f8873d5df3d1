//! `topology.redb`: the applied topologies that survive a restart. Each write is one transaction, so a gateway that is
//! killed at any moment starts with the last whole state. Everything here blocks.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
};

use causeway_federation::{
    edition::{Edition, edition},
    topology::applied::{
        MAX_DOCUMENT_BYTES, StoredTopology, TopologyConflict, TopologyDocument, TopologyDocumentError,
    },
};
use causeway_host::{files::set_aside, held::open_held};
use redb::{Database, DatabaseError, ReadableDatabase as _, ReadableTable as _, TableDefinition};

/// Name of the file in the data folder.
pub const FILE: &str = "topology.redb";
/// Generation and fingerprint to an encoded document. The name carries the version of that form.
const DOCUMENTS: TableDefinition<'_, (u64, &[u8]), &[u8]> = TableDefinition::new("documents.v1");
/// `winner` and `loser` to generation and fingerprint; empty while there is no conflict.
const CONFLICT: TableDefinition<'_, &str, (u64, &[u8])> = TableDefinition::new("conflict.v1");
const WINNER: &str = "winner";
const LOSER: &str = "loser";
/// Memory that the store may use to cache pages, in bytes; it is read once and written seldom.
const CACHE_BYTES: usize = 1024 * 1024;

/// Reason why the store could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum TopologyFileError {
    #[error("cannot use the data folder")]
    Folder(#[source] io::Error),
    #[error("cannot use the file of applied topologies")]
    File(#[source] redb::Error),
    #[error("the file of applied topologies holds a row that is not a document")]
    Row(#[source] TopologyDocumentError),
    #[error("the file of applied topologies is damaged: {0}")]
    Damaged(&'static str),
}

/// A file that was not a store, and where it is kept now.
#[derive(Debug)]
pub struct TopologySetAside {
    pub kept: PathBuf,
    pub why: TopologyFileError,
}

/// The open file.
#[derive(Debug)]
pub struct TopologyStore {
    database: Database,
}

impl TopologyStore {
    /// Opens the store in `folder` and reads it. A file that cannot be read as a store is renamed to
    /// `topology.redb.corrupt-<unix seconds>` and a new one begun; the last value names it.
    ///
    /// # Errors
    /// When the disk does not let it, or another process has the file open. Nothing is set aside then.
    pub fn open(
        folder: &Path,
        unix_seconds: u64,
    ) -> Result<(Self, StoredTopology, Option<TopologySetAside>), TopologyFileError> {
        let path = folder.join(FILE);
        match open_guarded(&path) {
            Err(why) if why.is_corrupt() => {
                let kept = set_aside(&path, unix_seconds).map_err(TopologyFileError::Folder)?;
                let (store, stored) = open_guarded(&path)?;
                Ok((store, stored, Some(TopologySetAside { kept, why })))
            }
            opened => opened.map(|(store, stored)| (store, stored, None)),
        }
    }

    /// Makes the file hold exactly `stored`, in one transaction; on disk when this returns.
    ///
    /// # Errors
    /// When the disk does not let it; the store must be opened anew then.
    pub fn write(&mut self, stored: &StoredTopology) -> Result<(), TopologyFileError> {
        let writing = self.database.begin_write()?;
        {
            let mut documents = writing.open_table(DOCUMENTS)?;
            let wanted = |generation: u64, fingerprint: &[u8]| {
                let same =
                    |document: &Arc<TopologyDocument>| key(&document.edition()) == (generation, fingerprint);
                stored.documents.iter().any(same)
            };
            documents.retain(|(generation, fingerprint), _| wanted(generation, fingerprint))?;
            for document in &stored.documents {
                let edition = document.edition();
                // Signatures are added to one that is there already.
                let encoded = document.encode();
                let is_kept = documents
                    .get(key(&edition))?
                    .is_some_and(|kept| kept.value() == encoded);
                if !is_kept {
                    documents.insert(key(&edition), encoded.as_slice())?;
                }
            }
            let mut conflict = writing.open_table(CONFLICT)?;
            conflict.retain(|_, _| false)?;
            if let Some(TopologyConflict { winner, loser }) = &stored.conflict {
                conflict.insert(WINNER, key(winner))?;
                conflict.insert(LOSER, key(loser))?;
            }
        }
        writing.commit()?;
        Ok(())
    }
}

fn key(edition: &Edition) -> (u64, &[u8]) {
    (edition.generation, &edition.fingerprint.0)
}

/// A damaged file can make the library panic as well as fail; both are one error here.
fn open_guarded(path: &Path) -> Result<(TopologyStore, StoredTopology), TopologyFileError> {
    catch_unwind(AssertUnwindSafe(|| open(path)))
        .unwrap_or(Err(TopologyFileError::Damaged("reading it failed half-way")))
}

fn open(path: &Path) -> Result<(TopologyStore, StoredTopology), TopologyFileError> {
    let is_held = |error: &DatabaseError| matches!(error, DatabaseError::DatabaseAlreadyOpen);
    let create = || Database::builder().set_cache_size(CACHE_BYTES).create(path);
    let mut database = open_held(is_held, create)?;
    // Opening alone verifies no checksum of the rows.
    database.check_integrity()?;
    let writing = database.begin_write()?;
    // Made here once, so that reading need not tell a missing table from an empty one.
    writing.open_table(DOCUMENTS)?;
    writing.open_table(CONFLICT)?;
    writing.commit()?;
    let stored = read(&database)?;
    Ok((TopologyStore { database }, stored))
}

fn read(database: &Database) -> Result<StoredTopology, TopologyFileError> {
    let reading = database.begin_read()?;
    let mut documents = Vec::new();
    for row in reading.open_table(DOCUMENTS)?.iter()? {
        let (key, value) = row?;
        if value.value().len() > MAX_DOCUMENT_BYTES {
            return Err(TopologyFileError::Damaged("a row is too long"));
        }
        let document = TopologyDocument::decode(value.value()).map_err(TopologyFileError::Row)?;
        let (generation, fingerprint) = key.value();
        if edition(generation, fingerprint) != Some(document.edition()) {
            return Err(TopologyFileError::Damaged("a document lies under another's name"));
        }
        documents.push(Arc::new(document));
    }
    documents.sort_by_key(|document| document.edition());
    let conflict = reading.open_table(CONFLICT)?;
    let side = |name: &str| -> Result<Option<Edition>, TopologyFileError> {
        let row = conflict.get(name)?;
        Ok(row.and_then(|row| {
            let (generation, fingerprint) = row.value();
            edition(generation, fingerprint)
        }))
    };
    let conflict = match (side(WINNER)?, side(LOSER)?) {
        (Some(winner), Some(loser)) => Some(TopologyConflict { winner, loser }),
        _ => None,
    };
    Ok(StoredTopology { documents, conflict })
}

impl TopologyFileError {
    /// Tells whether the file is at fault, rather than the disk or another process.
    #[must_use]
    pub fn is_corrupt(&self) -> bool {
        match self {
            Self::Row(_) | Self::Damaged(_) => true,
            Self::Folder(_) => false,
            Self::File(redb::Error::Io(error)) => matches!(
                error.kind(),
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
            ),
            Self::File(redb::Error::DatabaseAlreadyOpen | redb::Error::LockPoisoned(_)) => false,
            Self::File(_) => true,
        }
    }
}

/// redb has an error type for each kind of call; all of them convert into its general one.
macro_rules! from_redb {
    ($($kind:ty),*) => {$(
        impl From<$kind> for TopologyFileError {
            fn from(error: $kind) -> Self {
                Self::File(error.into())
            }
        }
    )*};
}

from_redb!(
    redb::DatabaseError,
    redb::StorageError,
    redb::TableError,
    redb::TransactionError,
    redb::CommitError
);

#[cfg(test)]
mod tests {
    use causeway_federation::{
        name::{GatewayId, ZoneName},
        topology::{
            applied::{Applied, Own, Vouched},
            parse,
        },
    };

    use super::*;

    fn text(more: &str) -> String {
        let zones = "zones: { z0: { gateways: [gw.z0:7800] }, z1: { gateways: [gw.z1:7800] } }";
        format!("version: 1\ntrust_domain: a.b\n{zones}\n{more}\n")
    }

    fn replica(zone: &str) -> Applied {
        let own = Own {
            zone: ZoneName::new(zone).unwrap(),
            trust_domain: "a.b".to_owned(),
        };
        let initial = parse(&text(""), "initial").unwrap().topology;
        Applied::new(own, Some(initial), StoredTopology::default())
    }

    /// Does what a gateway of `zone` does with an `apply`.
    fn apply(replica: &mut Applied, zone: &str, more: &str) {
        let draft = replica.draft(replica.edition().generation, &text(more)).unwrap();
        let by = GatewayId::new(ZoneName::new(zone).unwrap(), "gw1".parse().unwrap());
        let document = TopologyDocument::new(draft.parent, draft.text, by, 1);
        replica.offer(&Vouched::by_author(Arc::new(document))).unwrap();
    }

    #[test]
    fn the_store_keeps_documents_and_the_conflict_and_sets_a_corrupt_file_aside() {
        let folder = tempfile::tempdir().unwrap();
        let (mut east, mut west) = (replica("z0"), replica("z1"));
        apply(&mut east, "z0", "# one");
        apply(&mut west, "z1", "# two");
        let documents = west.newer_than(east.edition());
        east.receive(&documents.into_iter().map(Vouched::by_author).collect::<Vec<_>>());
        let (mut store, empty, _) = TopologyStore::open(folder.path(), 1).unwrap();
        assert_eq!(empty, StoredTopology::default());
        store.write(&east.stored()).unwrap();
        assert!(
            !TopologyStore::open(folder.path(), 1).unwrap_err().is_corrupt(),
            "it is in use"
        );
        drop(store);
        let (mut store, stored, aside) = TopologyStore::open(folder.path(), 2).unwrap();
        assert_eq!(stored, east.stored());
        assert!(stored.conflict.is_some() && aside.is_none());
        apply(&mut east, "z0", "# three");
        store.write(&east.stored()).unwrap();
        drop(store);
        assert_eq!(TopologyStore::open(folder.path(), 3).unwrap().1, east.stored());
        let path = folder.path().join(FILE);
        std::fs::write(&path, b"not a database").unwrap();
        let (_, stored, aside) = TopologyStore::open(folder.path(), 4).unwrap();
        assert_eq!(stored, StoredTopology::default());
        let kept = aside.expect("it is set aside").kept;
        assert_eq!(kept, folder.path().join("topology.redb.corrupt-4"));
        assert_eq!(std::fs::read(kept).unwrap(), b"not a database");
    }
}
