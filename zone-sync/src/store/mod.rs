//! The store of what survives a restart: the other zones' records and the own incarnation, in one redb file.
//!
//! Records are stored row by row, so that a small change of a large record is a small write. Everything here blocks;
//! the service calls it off the hot path. What the records mean, and how long they are believed, is the replica's.

mod error;
mod rows;

use std::{
    collections::BTreeMap,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
};

use causeway_federation::{catalog::Record, name::GatewayId};
use causeway_host::{files::set_aside, held::open_held};
use redb::{
    Database, DatabaseError, ReadableDatabase as _, ReadableTable as _, StorageBackend, TableDefinition,
};

pub use self::{
    error::CatalogStoreError,
    rows::{head_row, read_head},
};

/// Name of the file in the data folder.
pub const FILE: &str = "catalog.redb";

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// Origin to the record without its exports.
const RECORDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("records");
/// Origin and encoded export key to the export.
const EXPORTS: TableDefinition<'_, (&str, &[u8]), &[u8]> = TableDefinition::new("exports");
const INCARNATION: &str = "incarnation";
/// Memory that the store may use to cache pages, in bytes.
const CACHE_BYTES: usize = 8 * 1024 * 1024;

/// The records by origin.
pub type StoredRecords = BTreeMap<GatewayId, Arc<Record>>;

/// An open store. It remembers what is on disk, so that a write stores only the difference.
#[derive(Debug)]
pub struct CatalogStore {
    database: Database,
    stored: StoredRecords,
}

impl CatalogStore {
    /// Opens the store in `folder`, which is made if need be, and reads all of it. A file that cannot be read as a
    /// store is renamed to `catalog.redb.corrupt-<unix seconds>` and a new one begun; the second value names it.
    ///
    /// # Errors
    /// When the disk does not let it. Nothing is set aside then.
    pub fn open(
        folder: &Path,
        unix_seconds: u64,
    ) -> Result<(Self, Option<StoreSetAside>), CatalogStoreError> {
        fs::create_dir_all(folder).map_err(CatalogStoreError::folder)?;
        let path = folder.join(FILE);
        match read_file(&path) {
            Err(why) if why.is_corrupt() => {
                let kept = set_aside(&path, unix_seconds).map_err(CatalogStoreError::folder)?;
                Ok((read_file(&path)?, Some(StoreSetAside { kept, why })))
            }
            result => result.map(|store| (store, None)),
        }
    }

    /// Opens a store that lies on something other than a file, and reads all of it. Nothing is set aside.
    ///
    /// # Errors
    /// When it cannot be read as a store.
    pub fn on(backend: impl StorageBackend) -> Result<Self, CatalogStoreError> {
        let mut builder = Database::builder();
        read(builder.set_cache_size(CACHE_BYTES).create_with_backend(backend)?)
    }

    /// Records on disk.
    #[must_use]
    pub fn records(&self) -> &StoredRecords {
        &self.stored
    }

    /// An incarnation that is greater than `clock` and than any that this store ever gave out; on disk when this
    /// returns.
    ///
    /// # Errors
    /// When the disk does not let it.
    pub fn next_incarnation(&mut self, clock: u64) -> Result<u64, CatalogStoreError> {
        let next = clock.max(self.incarnation()?).saturating_add(1);
        let records = self.stored.clone();
        self.write(next, records)?;
        Ok(next)
    }

    fn incarnation(&self) -> Result<u64, CatalogStoreError> {
        let reading = self.database.begin_read()?;
        let stored = reading.open_table(META)?.get(INCARNATION)?;
        Ok(stored.map_or(0, |value| value.value()))
    }

    /// Makes the file hold exactly `records`, in one transaction. The stored incarnation never goes down.
    ///
    /// # Errors
    /// When the disk does not let it; the store must be opened anew then.
    pub fn write(&mut self, incarnation: u64, records: StoredRecords) -> Result<(), CatalogStoreError> {
        let writing = self.database.begin_write()?;
        {
            let mut meta = writing.open_table(META)?;
            let before = meta.get(INCARNATION)?.map_or(0, |value| value.value());
            if incarnation > before {
                meta.insert(INCARNATION, incarnation)?;
            }
            let mut headers = writing.open_table(RECORDS)?;
            let mut exports = writing.open_table(EXPORTS)?;
            for (origin, old) in &self.stored {
                if !records.contains_key(origin) {
                    rows::remove(&mut headers, &mut exports, old)?;
                }
            }
            for (origin, record) in &records {
                rows::replace(&mut headers, &mut exports, self.stored.get(origin), record)?;
            }
        }
        writing.commit()?;
        self.stored = records;
        Ok(())
    }
}

/// A file that was not a store, and where it is kept now.
#[derive(Debug)]
pub struct StoreSetAside {
    pub kept: PathBuf,
    pub why: CatalogStoreError,
}

/// Opens and reads a file whole. A damaged file can make the library panic as well as fail; both are one error here.
fn read_file(path: &Path) -> Result<CatalogStore, CatalogStoreError> {
    catch_unwind(AssertUnwindSafe(|| read_file_unguarded(path))).unwrap_or(Err(CatalogStoreError::Panicked))
}

fn read_file_unguarded(path: &Path) -> Result<CatalogStore, CatalogStoreError> {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    read(open_held(is_held, || builder.create(path))?)
}

/// Tells whether another process has the file.
fn is_held(error: &DatabaseError) -> bool {
    matches!(error, DatabaseError::DatabaseAlreadyOpen)
}

fn read(mut database: Database) -> Result<CatalogStore, CatalogStoreError> {
    // Opening alone verifies no checksum of the rows, and a row that changed on the disk could be a valid one.
    database.check_integrity()?;
    let writing = database.begin_write()?;
    // Made here once, so that readers need not tell a missing table from an empty one.
    writing.open_table(META)?;
    writing.open_table(RECORDS)?;
    writing.open_table(EXPORTS)?;
    writing.commit()?;
    let reading = database.begin_read()?;
    let stored = rows::read_all(&reading.open_table(RECORDS)?, &reading.open_table(EXPORTS)?)?;
    drop(reading);
    Ok(CatalogStore { database, stored })
}
