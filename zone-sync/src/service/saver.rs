//! Keeps the store up to date without making anyone wait: the latest catalog wins, at most one write runs at a time,
//! and a disk that fails is tried again while zone sync goes on.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use causeway_federation::catalog::{Age, Catalog};
use tokio::task::{JoinError, JoinHandle, spawn_blocking};

use super::{status::Disk, unix_milliseconds};
use crate::store::{CatalogStore, CatalogStoreError, StoreSetAside, StoredRecords};

/// At most one write in this time.
const WRITE_INTERVAL: Duration = Duration::from_millis(100);
/// Time for which a failing disk is left alone.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);

type Written = Result<CatalogStore, CatalogStoreError>;

enum State {
    /// No data folder was configured.
    Absent,
    Idle(CatalogStore),
    Writing(JoinHandle<Written>),
    /// The store must be opened anew.
    Failed,
}

pub(super) struct Saver {
    folder: PathBuf,
    state: State,
    /// Tells whether the catalog or the incarnation is newer than what was last written.
    dirty: bool,
    not_before: Option<Instant>,
    /// Tells whether the failure was logged: once is enough.
    failing: bool,
    incarnation: u64,
    /// An incarnation that may be used as soon as it is on disk.
    awaited: Option<u64>,
}

impl Saver {
    /// Opens the store and takes an incarnation from it. Without a working disk the clock (Unix milliseconds) is the
    /// incarnation: it grows too, as long as nobody puts the clock back.
    pub(super) async fn start(
        folder: Option<PathBuf>,
        clock: u64,
    ) -> Result<(Self, u64, StoredRecords), JoinError> {
        let mut saver = Self {
            folder: folder.clone().unwrap_or_default(),
            state: State::Absent,
            dirty: false,
            not_before: None,
            failing: false,
            incarnation: clock,
            awaited: None,
        };
        let Some(folder) = folder else {
            return Ok((saver, clock, StoredRecords::new()));
        };
        let opened = spawn_blocking(move || {
            let mut store = open(&folder)?;
            let incarnation = store.next_incarnation(clock)?;
            Ok((store, incarnation))
        });
        match opened.await? {
            Ok((store, incarnation)) => {
                let records = store.records().clone();
                saver.incarnation = incarnation;
                saver.state = State::Idle(store);
                Ok((saver, incarnation, records))
            }
            Err(error) => {
                saver.failed(None, &error);
                Ok((saver, clock, StoredRecords::new()))
            }
        }
    }

    pub(super) fn disk(&self) -> Disk {
        match self.state {
            State::Absent => Disk::Absent,
            _ if self.failing => Disk::Failing,
            _ => Disk::Working,
        }
    }

    /// The catalog has changed.
    pub(super) fn note_change(&mut self) {
        self.dirty = true;
    }

    /// Asks for a later incarnation; [`Saver::turn`] answers when it may be used.
    pub(super) fn raise(&mut self, incarnation: u64) {
        if incarnation > self.incarnation {
            self.incarnation = incarnation;
            self.awaited = Some(incarnation);
            self.dirty = true;
        }
    }

    /// Waits until there is something for [`Saver::turn`] to do. Cancel-safe.
    pub(super) async fn due(&mut self) {
        match &mut self.state {
            State::Writing(writing) => {
                // Kept for `turn`, which must not poll it again.
                let written = writing.await.unwrap_or(Err(CatalogStoreError::Panicked));
                self.state = self.ended(written);
            }
            State::Absent if self.awaited.is_none() => std::future::pending().await,
            _ if !self.dirty => std::future::pending().await,
            _ => {
                if let Some(at) = self.not_before {
                    tokio::time::sleep_until(at.into()).await;
                }
            }
        }
    }

    /// Begins a write if one is due; answers an incarnation that may now be used.
    pub(super) fn turn(&mut self, now: Instant, catalog: &Catalog) -> Option<u64> {
        let early = self.not_before.is_some_and(|at| now < at);
        if self.dirty && !early {
            match std::mem::replace(&mut self.state, State::Failed) {
                State::Idle(store) => self.write(now, Some(store), catalog),
                State::Failed => self.write(now, None, catalog),
                other => self.state = other,
            }
        }
        let waits =
            matches!(self.state, State::Writing(_)) || (self.dirty && matches!(self.state, State::Idle(_)));
        if waits { None } else { self.awaited.take() }
    }

    fn write(&mut self, now: Instant, store: Option<CatalogStore>, catalog: &Catalog) {
        let records = worth_storing(catalog);
        let (folder, incarnation) = (self.folder.clone(), self.incarnation);
        self.dirty = false;
        self.not_before = Some(now + WRITE_INTERVAL);
        self.state = State::Writing(spawn_blocking(move || {
            let mut store = match store {
                Some(store) => store,
                None => open(&folder)?,
            };
            store.write(incarnation, records)?;
            Ok(store)
        }));
    }

    fn ended(&mut self, written: Written) -> State {
        match written {
            Ok(store) => {
                if self.failing {
                    tracing::info!(folder = %self.folder.display(), "the catalog is stored again");
                }
                self.failing = false;
                State::Idle(store)
            }
            Err(error) => {
                let now = tokio::time::Instant::now().into_std();
                self.failed(Some(now), &error);
                State::Failed
            }
        }
    }

    fn failed(&mut self, now: Option<Instant>, error: &CatalogStoreError) {
        if !self.failing {
            let source = std::error::Error::source(error).map(tracing::field::display);
            tracing::error!(folder = %self.folder.display(), %error, source,
                "cannot store the catalog; zone sync goes on without it and tries again");
        }
        self.failing = true;
        self.dirty = true;
        self.state = State::Failed;
        self.not_before = now.map(|now| now + RETRY_INTERVAL);
    }

    /// Writes what is not on disk yet, once, and waits for it.
    pub(super) async fn finish(mut self, catalog: &Catalog) {
        if matches!(self.state, State::Writing(_)) {
            self.due().await;
        }
        if let (true, State::Idle(mut store)) = (self.dirty, self.state) {
            let (incarnation, records) = (self.incarnation, worth_storing(catalog));
            let written = spawn_blocking(move || store.write(incarnation, records)).await;
            if let Ok(Err(error)) = written {
                tracing::error!(%error, "cannot store the catalog at the end");
            }
        }
    }
}

/// A withdrawn record must not be believed again after a restart.
fn worth_storing(catalog: &Catalog) -> StoredRecords {
    let believed = catalog.entries().filter(|entry| entry.age != Age::Withdrawn);
    believed
        .map(|entry| (entry.record.origin.clone(), Arc::clone(&entry.record)))
        .collect()
}

fn open(folder: &std::path::Path) -> Written {
    let (store, set_aside) = CatalogStore::open(folder, unix_milliseconds() / 1000)?;
    if let Some(StoreSetAside { kept, why }) = set_aside {
        tracing::error!(kept = %kept.display(), %why,
            "the stored catalog was damaged and is set aside; a new one is filled from the other zones");
    }
    Ok(store)
}
