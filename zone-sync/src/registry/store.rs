//! The file that registrations survive a restart in (`registry.redb`).
//!
//! It holds what was registered and never when a lease ends: how long the gateway was away is unknown, so every lease
//! starts its full time to live again when the gateway does. Renewals are therefore never written. Every call blocks;
//! [`super::Writer`] keeps them off the async threads.

use std::{
    collections::BTreeMap,
    io,
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
    time::SystemTime,
};

use causeway_federation::registry::{InstanceKey, InstanceSource, Registration};
use causeway_host::{files, held::open_held};
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError, TableDefinition};

/// `(service, id)` to a [`Registration`] as JSON. The name carries the version of that form.
const REGISTRATIONS: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("registrations.v1");
/// `(source, service, id)` to a [`Registration`] as JSON: what programs handed over under a name. A table of its own, so
/// that a program of before reads the file as it did.
const NAMED: TableDefinition<'_, (&str, &str, &str), &[u8]> = TableDefinition::new("sources.v1");
/// Pages that redb may keep in memory, in bytes. The file is read once and then only written.
const CACHE_BYTES: usize = 8 << 20;

/// Key of what one source says under one key.
pub type StoredKey = (InstanceSource, InstanceKey);

/// Changes for one transaction: the last one per key, `None` for a removal.
pub type Batch = BTreeMap<StoredKey, Option<Registration>>;

/// Reason why the registry file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum RegistryStoreError {
    #[error("cannot open the registry at {path}")]
    Open { path: PathBuf, source: Box<redb::Error> },
    #[error("cannot set the damaged registry at {path} aside")]
    SetAside { path: PathBuf, source: io::Error },
    #[error("cannot read the registry")]
    Read(#[source] Box<redb::Error>),
    #[error("cannot write to the registry")]
    Write(#[source] Box<redb::Error>),
    #[error("cannot put the registration of {key} in its stored form")]
    Encode {
        key: InstanceKey,
        source: serde_json::Error,
    },
    #[error("the registry file is damaged: {0}")]
    Damaged(String),
}

/// An open registry file.
#[derive(Debug)]
pub struct RegistryStore {
    database: Database,
}

/// Outcome of [`RegistryStore::open`].
#[derive(Debug)]
pub struct Opened {
    pub store: RegistryStore,
    pub registrations: Vec<(InstanceSource, Registration)>,
    /// Path of the damaged file now, if there was one.
    pub set_aside: Option<PathBuf>,
}

impl RegistryStore {
    /// Opens the file at `path`, or makes it. A damaged file is renamed to `<path>.corrupt-<seconds since 1970>`, taken
    /// from `now`, and an empty one is begun; a single row that cannot be read is skipped with a warning.
    ///
    /// # Errors
    /// When another process holds the file, when it cannot be created or read, or the damaged one cannot be renamed.
    pub fn open(path: &Path, now: SystemTime) -> Result<Opened, RegistryStoreError> {
        match Self::open_and_read(path) {
            Ok((store, registrations)) => Ok(Opened {
                store,
                registrations,
                set_aside: None,
            }),
            Err(RegistryStoreError::Damaged(why)) => {
                let aside = set_aside(path, now)?;
                tracing::error!(path = %path.display(), moved_to = %aside.display(), %why,
                    "the registry file is damaged and was set aside; registered instances must register again");
                let (store, registrations) = Self::open_and_read(path)?;
                Ok(Opened {
                    store,
                    registrations,
                    set_aside: Some(aside),
                })
            }
            Err(error) => Err(error),
        }
    }

    /// A store over storage that is not a file, such as one that fails on purpose.
    ///
    /// # Errors
    /// When the storage fails or holds something else.
    #[cfg(test)]
    pub(crate) fn with_backend(backend: impl redb::StorageBackend) -> Result<Self, RegistryStoreError> {
        let database = builder()
            .create_with_backend(backend)
            .map_err(|e| RegistryStoreError::Write(Box::new(e.into())))?;
        Ok(Self { database })
    }

    fn open_and_read(path: &Path) -> Result<(Self, Vec<(InstanceSource, Registration)>), RegistryStoreError> {
        // A database that was cut short or scribbled over makes redb return an error in most places and panic in a few;
        // both mean the same to us. Nothing of a half-opened database is used afterwards.
        let attempt = panic::catch_unwind(AssertUnwindSafe(|| {
            let is_held = |error: &DatabaseError| matches!(error, DatabaseError::DatabaseAlreadyOpen);
            let database =
                open_held(is_held, || builder().create(path)).map_err(|error| open_error(path, error))?;
            let store = Self { database };
            let registrations = store.read()?;
            Ok((store, registrations))
        }));
        attempt.unwrap_or_else(|_| Err(RegistryStoreError::Damaged("reading it failed".to_owned())))
    }

    /// Every registration in the file.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged.
    pub fn read(&self) -> Result<Vec<(InstanceSource, Registration)>, RegistryStoreError> {
        let transaction = self.database.begin_read().map_err(|e| read_error(e.into()))?;
        let mut registrations = Vec::new();
        if let Some(table) = table_if_there(transaction.open_table(REGISTRATIONS))? {
            for row in table.iter().map_err(|e| read_error(e.into()))? {
                let (key, value) = row.map_err(|e| read_error(e.into()))?;
                let (service, id) = key.value();
                let read = decode(service, id, value.value());
                registrations.extend(read.map(|registration| (InstanceSource::Registered, registration)));
            }
        }
        if let Some(table) = table_if_there(transaction.open_table(NAMED))? {
            for row in table.iter().map_err(|e| read_error(e.into()))? {
                let (key, value) = row.map_err(|e| read_error(e.into()))?;
                let (source, service, id) = key.value();
                let Ok(source) = InstanceSource::named(source) else {
                    tracing::warn!(source, "skipping what a source with an impossible name stored");
                    continue;
                };
                let read = decode(service, id, value.value());
                registrations.extend(read.map(|registration| (source, registration)));
            }
        }
        Ok(registrations)
    }

    /// Writes all of `batch` in one transaction, on disk when this returns.
    ///
    /// # Errors
    /// When nothing was written: the disk is full or failing. The store must then be dropped and opened anew.
    pub fn commit(&self, batch: &Batch) -> Result<(), RegistryStoreError> {
        let transaction = self.database.begin_write().map_err(|e| write_error(e.into()))?;
        {
            let open = |e: redb::TableError| write_error(e.into());
            let mut registered = transaction.open_table(REGISTRATIONS).map_err(open)?;
            let mut named = transaction.open_table(NAMED).map_err(open)?;
            for ((source, key), change) in batch {
                let (service, id) = (key.service.as_str(), key.id.as_str());
                let value = change.as_ref().map(encode).transpose()?;
                let failed = match (source, value.as_deref()) {
                    (InstanceSource::Registered, Some(value)) => {
                        registered.insert((service, id), value).err()
                    }
                    (InstanceSource::Registered, None) => registered.remove((service, id)).err(),
                    (source, Some(value)) => named.insert((source.as_str(), service, id), value).err(),
                    (source, None) => named.remove((source.as_str(), service, id)).err(),
                };
                if let Some(error) = failed {
                    return Err(write_error(error.into()));
                }
            }
        }
        transaction.commit().map_err(|e| write_error(e.into()))
    }
}

fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

/// A table is made by the first commit.
fn table_if_there<T>(opened: Result<T, redb::TableError>) -> Result<Option<T>, RegistryStoreError> {
    match opened {
        Ok(table) => Ok(Some(table)),
        Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(read_error(error.into())),
    }
}

/// `None` for a row that cannot be read, with a warning: one bad row must not cost all the others.
fn decode(service: &str, id: &str, value: &[u8]) -> Option<Registration> {
    serde_json::from_slice(value)
        .inspect_err(|error| {
            tracing::warn!(service, id, %error, "skipping a stored registration that cannot be read");
        })
        .ok()
}

fn encode(registration: &Registration) -> Result<Vec<u8>, RegistryStoreError> {
    serde_json::to_vec(registration).map_err(|source| RegistryStoreError::Encode {
        key: registration.key(),
        source,
    })
}

fn open_error(path: &Path, error: DatabaseError) -> RegistryStoreError {
    match error {
        DatabaseError::Storage(StorageError::Corrupted(why)) => RegistryStoreError::Damaged(why),
        DatabaseError::Storage(StorageError::Io(error)) if is_damage(error.kind()) => {
            RegistryStoreError::Damaged(error.to_string())
        }
        DatabaseError::UpgradeRequired(version) => {
            RegistryStoreError::Damaged(format!("its format, version {version}, is not ours"))
        }
        error => RegistryStoreError::Open {
            path: path.to_owned(),
            source: Box::new(error.into()),
        },
    }
}

fn read_error(error: redb::Error) -> RegistryStoreError {
    match error {
        redb::Error::Corrupted(why) => RegistryStoreError::Damaged(why),
        redb::Error::Io(error) if is_damage(error.kind()) => RegistryStoreError::Damaged(error.to_string()),
        redb::Error::TableTypeMismatch { .. } | redb::Error::TypeDefinitionChanged { .. } => {
            RegistryStoreError::Damaged(error.to_string())
        }
        error => RegistryStoreError::Read(Box::new(error)),
    }
}

fn write_error(error: redb::Error) -> RegistryStoreError {
    RegistryStoreError::Write(Box::new(error))
}

/// Tells whether redb reports a file in this way that is not a database or ends too early.
fn is_damage(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

fn set_aside(path: &Path, now: SystemTime) -> Result<PathBuf, RegistryStoreError> {
    let seconds = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |age| age.as_secs());
    files::set_aside(path, seconds).map_err(|source| RegistryStoreError::SetAside {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use causeway_federation::{name::ServiceName, registry::Provenance};

    fn registration(id: &str) -> Registration {
        Registration {
            service: ServiceName::new("orders").unwrap(),
            id: id.to_owned(),
            address: "10.0.0.1:80".parse().unwrap(),
            tags: [("version", "v1")].into_iter().collect(),
            weight: 3,
            capacity_per_second: Some(100),
            time_to_live: Some(Duration::from_millis(1_500)),
            provenance: Provenance::ThisHost,
        }
    }

    fn put(id: &str) -> (StoredKey, Option<Registration>) {
        put_by(&InstanceSource::Registered, id)
    }

    fn put_by(source: &InstanceSource, id: &str) -> (StoredKey, Option<Registration>) {
        let key = (source.clone(), registration(id).key());
        (key, Some(registration(id)))
    }

    fn registered(id: &str) -> (InstanceSource, Registration) {
        (InstanceSource::Registered, registration(id))
    }

    fn open(path: &Path) -> Opened {
        RegistryStore::open(path, SystemTime::UNIX_EPOCH + Duration::from_secs(42)).unwrap()
    }

    #[test]
    fn registrations_survive_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("registry.redb");
        let opened = open(&path);
        assert!(opened.registrations.is_empty());
        opened.store.commit(&Batch::from([put("1"), put("2")])).unwrap();
        let removal = ((InstanceSource::Registered, registration("1").key()), None);
        opened.store.commit(&Batch::from([removal])).unwrap();
        drop(opened);
        assert_eq!(open(&path).registrations, [registered("2")]);
    }

    #[test]
    fn the_side_from_which_an_instance_was_put_in_survives_a_restart_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("registry.redb");
        let far = Registration {
            provenance: Provenance::Elsewhere,
            ..registration("far")
        };
        let batch = Batch::from([
            put("near"),
            ((InstanceSource::Registered, far.key()), Some(far.clone())),
        ]);
        open(&path).store.commit(&batch).unwrap();
        let read = open(&path).registrations;
        assert_eq!(read, [(InstanceSource::Registered, far), registered("near")]);
        // As a program of before reads and writes it.
        let stored = encode(&registration("near")).unwrap();
        assert!(!String::from_utf8(stored).unwrap().contains("provenance"));
    }

    #[test]
    fn what_sources_say_of_one_instance_is_stored_side_by_side() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("registry.redb");
        let opened = open(&path);
        let consul = InstanceSource::named("consul").unwrap();
        let batch = Batch::from([put("1"), put_by(&consul, "1"), put_by(&consul, "2")]);
        opened.store.commit(&batch).unwrap();
        let removal = ((consul.clone(), registration("2").key()), None);
        opened.store.commit(&Batch::from([removal])).unwrap();
        drop(opened);
        let read = open(&path).registrations;
        assert_eq!(read, [registered("1"), (consul, registration("1"))]);
    }

    #[test]
    fn a_damaged_file_is_set_aside_and_the_store_starts_afresh() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("registry.redb");
        std::fs::write(&path, b"not a database, but long enough to look at".repeat(500)).unwrap();
        let opened = open(&path);
        let aside = folder.path().join("registry.redb.corrupt-42");
        assert_eq!(opened.set_aside.as_deref(), Some(aside.as_path()));
        assert!(aside.exists());
        opened.store.commit(&Batch::from([put("1")])).unwrap();
        drop(opened);
        assert_eq!(open(&path).registrations.len(), 1);
    }

    #[test]
    fn a_file_cut_short_or_scribbled_over_never_stops_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("registry.redb");
        let opened = open(&path);
        let batch = (0..500).map(|n| put(&n.to_string())).collect();
        opened.store.commit(&batch).unwrap();
        drop(opened);
        let good = std::fs::read(&path).unwrap();
        for keep in [1, 100, 4096, good.len() / 2, good.len() - 1] {
            std::fs::write(&path, &good[..keep]).unwrap();
            drop(open(&path));
        }
        for at in (0..good.len()).step_by(good.len() / 40) {
            let mut bad = good.clone();
            bad[at..].iter_mut().take(64).for_each(|byte| *byte ^= 0xa5);
            std::fs::write(&path, &bad).unwrap();
            drop(open(&path));
        }
    }

    #[test]
    fn a_row_of_another_form_is_skipped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("registry.redb");
        let opened = open(&path);
        opened.store.commit(&Batch::from([put("1")])).unwrap();
        let transaction = opened.store.database.begin_write().unwrap();
        let mut table = transaction.open_table(REGISTRATIONS).unwrap();
        table.insert(("orders", "2"), b"{}".as_slice()).unwrap();
        drop(table);
        transaction.commit().unwrap();
        drop(opened);
        assert_eq!(open(&path).registrations, [registered("1")]);
    }

    #[test]
    fn a_file_that_another_process_holds_is_an_error_and_stays_where_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("registry.redb");
        let _holder = open(&path);
        let error = RegistryStore::open(&path, SystemTime::UNIX_EPOCH).unwrap_err();
        assert!(matches!(error, RegistryStoreError::Open { .. }), "{error:?}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
