//! `vips.redb`: the allocations that survive a restart. A corrupt file is set aside and started afresh: names then get
//! the address that their hash points to, which for nearly all of them is the one they had.

use std::{
    io,
    path::{Path, PathBuf},
};

use causeway_host::{files, held::open_held};
use causeway_routing::target::Target;
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError, TableDefinition};
use serde::{Deserialize, Serialize};

use super::{allocator::Allocation, former::FormerVip, names::Vip};

/// Target as JSON to addresses and time as JSON: readable by any version and by eye.
const VIPS: TableDefinition<'_, &str, &str> = TableDefinition::new("vips");
/// Former addresses as JSON, in the order in which they were kept.
const FORMER: TableDefinition<'_, u64, &str> = TableDefinition::new("former");

#[derive(Debug, Serialize, Deserialize)]
struct Row {
    #[serde(flatten)]
    vip: Vip,
    seen: u64,
}

/// Reason why the allocations could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum VipStoreError {
    #[error("cannot open {path}")]
    Open {
        path: PathBuf,
        #[source]
        source: Box<redb::Error>,
    },
    #[error("cannot set the corrupt {path} aside")]
    SetAside {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot write virtual addresses to {path}")]
    Write {
        path: PathBuf,
        #[source]
        source: Box<redb::Error>,
    },
}

#[derive(Debug)]
pub(super) struct VipStore {
    database: Database,
    path: PathBuf,
}

/// Tells whether the file itself is bad, as opposed to the disk, its permissions or another process that holds it.
fn is_corrupt(error: &redb::Error) -> bool {
    match error {
        redb::Error::Io(error) => matches!(
            error.kind(),
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
        ),
        redb::Error::DatabaseAlreadyOpen | redb::Error::LockPoisoned(_) => false,
        _ => true,
    }
}

impl VipStore {
    /// Opens or makes the file at `path` and reads it. `now` (seconds since the Unix epoch) names a corrupt one.
    ///
    /// # Errors
    /// When the file cannot be opened for a reason that setting it aside would not cure.
    pub(super) fn open(path: &Path, now: u64) -> Result<(Self, Vec<(Target, Allocation)>), VipStoreError> {
        match Self::try_open(path) {
            Ok(opened) => Ok(opened),
            Err(error) if is_corrupt(&error) => {
                set_aside(path, now, &error)?;
                Self::try_open(path).map_err(|source| open_error(path, source))
            }
            Err(source) => Err(open_error(path, source)),
        }
    }

    fn try_open(path: &Path) -> Result<(Self, Vec<(Target, Allocation)>), redb::Error> {
        let is_held = |error: &DatabaseError| matches!(error, DatabaseError::DatabaseAlreadyOpen);
        let database = open_held(is_held, || Database::create(path)).map_err(|error| match error {
            // A file shorter than its header reads as an end of file, not as corruption.
            DatabaseError::Storage(StorageError::Io(error)) => redb::Error::Io(error),
            error => error.into(),
        })?;
        let transaction = database.begin_write()?;
        transaction.open_table(VIPS)?;
        transaction.open_table(FORMER)?;
        transaction.commit()?;
        let rows = read(&database)?;
        let path = path.to_owned();
        Ok((Self { database, path }, rows))
    }

    /// Writes `changed` and forgets `removed`, in one transaction. Blocks until it is on disk.
    ///
    /// # Errors
    /// When the disk refuses. The file is then as it was.
    pub(super) fn write(
        &self,
        changed: &[(Target, Allocation)],
        removed: &[Target],
    ) -> Result<(), VipStoreError> {
        self.try_write(changed, removed)
            .map_err(|source| VipStoreError::Write {
                path: self.path.clone(),
                source: Box::new(source),
            })
    }

    /// Reads the former addresses.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(super) fn former(&self) -> Result<Vec<FormerVip>, VipStoreError> {
        read_former(&self.database).map_err(|source| open_error(&self.path, source))
    }

    /// Writes the former addresses in the place of those that are there. Blocks until they are on disk.
    ///
    /// # Errors
    /// When the disk refuses. The file is then as it was.
    pub(super) fn write_former(&self, former: &[FormerVip]) -> Result<(), VipStoreError> {
        self.try_write_former(former)
            .map_err(|source| VipStoreError::Write {
                path: self.path.clone(),
                source: Box::new(source),
            })
    }

    fn try_write_former(&self, former: &[FormerVip]) -> Result<(), redb::Error> {
        let transaction = self.database.begin_write()?;
        transaction.delete_table(FORMER)?;
        {
            let mut table = transaction.open_table(FORMER)?;
            for (number, former) in (0..).zip(former) {
                table.insert(number, json(former)?.as_str())?;
            }
        }
        transaction.commit()?;
        Ok(())
    }

    fn try_write(&self, changed: &[(Target, Allocation)], removed: &[Target]) -> Result<(), redb::Error> {
        let transaction = self.database.begin_write()?;
        {
            let mut table = transaction.open_table(VIPS)?;
            for target in removed {
                table.remove(json(target)?.as_str())?;
            }
            for (target, allocation) in changed {
                let row = Row {
                    vip: allocation.vip,
                    seen: allocation.seen,
                };
                table.insert(json(target)?.as_str(), json(&row)?.as_str())?;
            }
        }
        transaction.commit()?;
        Ok(())
    }
}

fn read(database: &Database) -> Result<Vec<(Target, Allocation)>, redb::Error> {
    let table = database.begin_read()?.open_table(VIPS)?;
    let mut rows = Vec::new();
    for row in table.iter()? {
        let (key, value) = row?;
        let target = serde_json::from_str(key.value()).map_err(invalid)?;
        let Row { vip, seen } = serde_json::from_str(value.value()).map_err(invalid)?;
        rows.push((target, Allocation { vip, seen }));
    }
    Ok(rows)
}

fn read_former(database: &Database) -> Result<Vec<FormerVip>, redb::Error> {
    let table = database.begin_read()?.open_table(FORMER)?;
    let mut former = Vec::new();
    for row in table.iter()? {
        // What another version wrote and this one does not understand is passed over.
        former.extend(serde_json::from_str::<FormerVip>(row?.1.value()).ok());
    }
    Ok(former)
}

fn json(value: &impl Serialize) -> Result<String, redb::Error> {
    serde_json::to_string(value).map_err(invalid)
}

fn invalid(error: serde_json::Error) -> redb::Error {
    redb::Error::Io(io::Error::new(io::ErrorKind::InvalidData, error))
}

fn open_error(path: &Path, source: redb::Error) -> VipStoreError {
    VipStoreError::Open {
        path: path.to_owned(),
        source: Box::new(source),
    }
}

fn set_aside(path: &Path, now: u64, error: &redb::Error) -> Result<(), VipStoreError> {
    let kept = files::set_aside(path, now).map_err(|source| VipStoreError::SetAside {
        path: path.to_owned(),
        source,
    })?;
    tracing::error!(
        file = %path.display(), kept_as = %kept.display(), %error,
        "the file of virtual addresses is corrupt and was set aside; names get their addresses anew"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use causeway_federation::name::{ServiceName, ZoneName};

    fn row() -> (Target, Allocation) {
        let target = Target {
            service: ServiceName::new("orders").unwrap(),
            tags: [("version", "v2")].into_iter().collect(),
            zone: Some(ZoneName::new("west").unwrap()),
        };
        let vip = Vip {
            v4: Some([127, 64, 3, 9].into()),
            v6: None,
        };
        (target, Allocation { vip, seen: 17 })
    }

    #[test]
    fn what_was_written_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vips.redb");
        let (store, rows) = VipStore::open(&path, 1).unwrap();
        assert_eq!(rows, []);
        store.write(&[row()], &[]).unwrap();
        drop(store);
        let (store, rows) = VipStore::open(&path, 2).unwrap();
        assert_eq!(rows, [row()]);
        store.write(&[], &[row().0]).unwrap();
        drop(store);
        assert_eq!(VipStore::open(&path, 3).unwrap().1, []);
    }

    #[test]
    fn a_corrupt_file_is_set_aside() {
        for garbage in [b"not a database at all".as_slice(), &[0x55; 70_000]] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("vips.redb");
            std::fs::write(&path, garbage).unwrap();
            let (store, rows) = VipStore::open(&path, 1234).unwrap();
            assert_eq!(rows, []);
            store.write(&[row()], &[]).unwrap();
            let aside = std::fs::read(folder.path().join("vips.redb.corrupt-1234")).unwrap();
            assert_eq!(aside, garbage);
        }
    }

    #[test]
    fn a_file_that_another_process_holds_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vips.redb");
        let _held = VipStore::open(&path, 1).unwrap();
        assert!(matches!(
            VipStore::open(&path, 2),
            Err(VipStoreError::Open { .. })
        ));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
