//! Feeds the registry's changes to its file in batches, so that a thousand registrations cost a few disk syncs, and so
//! that a full disk costs durability and nothing else.
//!
//! The owner of the registry hands over every change and keeps awaiting [`Writer::progress`]. While one batch is being
//! committed on a blocking thread, the next one gathers (group commit). When a commit fails, the changes stay here, the
//! callers are told that they are not on disk, and the commit is tried again every [`RETRY_EVERY`].

use std::{
    collections::HashSet,
    future, mem,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use causeway_federation::registry::{InstanceSource, Registration};
use serde::Serialize;
use tokio::{
    sync::oneshot,
    task::{JoinHandle, spawn_blocking},
    time::{Instant, sleep_until, timeout_at},
};

use super::{Batch, Opened, RegistryStore, RegistryStoreError, StoredKey};

/// Time between two attempts to write to a disk that refused.
pub(super) const RETRY_EVERY: Duration = Duration::from_secs(5);
/// Most callers that may wait for one commit; the owner takes no further changes while [`Writer::is_full`].
pub const MAX_WAITING: usize = 16_384;

/// Durability of a change: does it outlive the process?
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// On disk.
    Durable,
    /// In memory only: this gateway has no data directory.
    NoStore,
    /// In memory only for now: the disk refused it, and is tried again every few seconds.
    WriteFailed,
}

/// Reason why [`Writer::progress`] returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// A commit ended, well or not.
    Committed,
    /// The file had to be begun anew: the owner must [`Writer::put`] everything again.
    StoreReplaced,
}

/// Opens a store; called on a blocking thread, again after every failure.
type Open = Arc<dyn Fn() -> Result<Opened, RegistryStoreError> + Send + Sync>;

/// Writer of the registry: holds what is not on disk yet, and the commit that is under way.
pub struct Writer {
    /// `None`: nothing is ever written.
    open: Option<Open>,
    /// Here unless a commit is under way or the last one failed.
    store: Option<RegistryStore>,
    pending: Batch,
    waiting: Vec<oneshot::Sender<Durability>>,
    commit: Option<JoinHandle<Commit>>,
    /// Set while the disk refuses.
    retry_at: Option<Instant>,
    /// The same for others to see.
    failing: Arc<AtomicBool>,
    /// [`RETRY_EVERY`], except in tests.
    retry_every: Duration,
    /// Keys that are in the file. Without it, instances that come and go while the disk is full would pile up here as removals.
    stored: HashSet<StoredKey>,
}

/// One attempt, carried to a blocking thread and back.
struct Commit {
    batch: Batch,
    waiting: Vec<oneshot::Sender<Durability>>,
    store: Result<RegistryStore, RegistryStoreError>,
    replaced: bool,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer")
            .field("pending", &self.pending.len())
            .field("waiting", &self.waiting.len())
            .field("failing", &self.retry_at.is_some())
            .finish_non_exhaustive()
    }
}

impl Writer {
    /// A writer that keeps nothing, for a gateway without a data directory.
    #[must_use]
    pub fn none() -> Self {
        Self::new(None, None, HashSet::new())
    }

    /// Opens the file at `path` and reads it. Blocks, so call it before the async work begins or on a blocking thread.
    ///
    /// # Errors
    /// See [`RegistryStore::open`].
    pub fn open(path: &Path) -> Result<(Self, Vec<(InstanceSource, Registration)>), RegistryStoreError> {
        let path: PathBuf = path.to_owned();
        Self::with_open(Arc::new(move || RegistryStore::open(&path, SystemTime::now())))
    }

    fn with_open(open: Open) -> Result<(Self, Vec<(InstanceSource, Registration)>), RegistryStoreError> {
        let opened = open()?;
        let stored = opened.registrations.iter();
        let stored = stored.map(|(source, registration)| (source.clone(), registration.key()));
        let stored = stored.collect();
        let writer = Self::new(Some(open), Some(opened.store), stored);
        Ok((writer, opened.registrations))
    }

    fn new(open: Option<Open>, store: Option<RegistryStore>, stored: HashSet<StoredKey>) -> Self {
        Self {
            open,
            store,
            pending: Batch::new(),
            waiting: Vec::new(),
            commit: None,
            retry_at: None,
            failing: Arc::default(),
            retry_every: RETRY_EVERY,
            stored,
        }
    }

    /// Writes what a source says, soon. `answer` is told when it is on disk, or that it is not.
    pub fn put(
        &mut self,
        source: InstanceSource,
        registration: Registration,
        answer: Option<oneshot::Sender<Durability>>,
    ) {
        if self.open.is_some() {
            self.pending
                .insert((source, registration.key()), Some(registration));
        }
        self.wait(answer);
    }

    /// Removes what a source said from the file, soon.
    pub fn remove(&mut self, key: StoredKey, answer: Option<oneshot::Sender<Durability>>) {
        // The batch that is under way may hold this key, so it counts as stored until that is known.
        if self.stored.contains(&key) || self.commit.is_some() {
            self.pending.insert(key, None);
        } else {
            self.pending.remove(&key);
        }
        self.wait(answer);
    }

    /// Answers when all changes so far are on disk, or are known not to be.
    pub fn wait(&mut self, answer: Option<oneshot::Sender<Durability>>) {
        let Some(answer) = answer else { return };
        let now = if self.open.is_none() {
            Some(Durability::NoStore)
        } else if self.retry_at.is_some() {
            Some(Durability::WriteFailed)
        } else if self.pending.is_empty() && self.commit.is_none() {
            Some(Durability::Durable)
        } else {
            None
        };
        match now {
            // A caller that no longer listens is nothing to report.
            Some(durability) => drop(answer.send(durability)),
            None => self.waiting.push(answer),
        }
    }

    /// Flag that is set while the disk refuses.
    #[must_use]
    pub fn failing(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.failing)
    }

    /// Tells whether as many callers wait as may.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.waiting.len() >= MAX_WAITING
    }

    /// Commits what there is, and returns at the end of each attempt; waits for ever while there is nothing to do.
    /// Cancel-safe: nothing is lost when the future is dropped.
    pub async fn progress(&mut self) -> Progress {
        if self.commit.is_none() {
            if self.pending.is_empty() {
                return future::pending().await;
            }
            if let Some(retry_at) = self.retry_at {
                sleep_until(retry_at).await;
            }
            self.begin();
        }
        let Some(commit) = &mut self.commit else {
            return future::pending().await;
        };
        let ended = commit.await;
        self.commit = None;
        let is_written = ended.as_ref().is_ok_and(|commit| commit.store.is_ok());
        self.failing.store(!is_written, Ordering::Relaxed);
        match ended {
            Ok(commit) => self.settle(commit),
            Err(error) => {
                // redb panicked, and the batch is gone with it: only writing everything again makes the file true. What
                // the owner does not put again is to go.
                for key in &self.stored {
                    self.pending.entry(key.clone()).or_insert(None);
                }
                tracing::error!(%error, "the registry store broke down; writing everything again");
                self.retry_at = Some(Instant::now() + self.retry_every);
                Progress::StoreReplaced
            }
        }
    }

    /// Writes everything that is left, until `deadline`. Says whether all of it is on disk.
    pub async fn flush(&mut self, deadline: Instant) -> bool {
        // The last attempt is made at once, not when the next one happens to be due.
        self.retry_at = None;
        while self.open.is_some() && (self.commit.is_some() || !self.pending.is_empty()) {
            if timeout_at(deadline, self.progress()).await.is_err() || self.retry_at.is_some() {
                return false;
            }
        }
        true
    }

    fn begin(&mut self) {
        let Some(open) = self.open.clone() else { return };
        let store = self.store.take();
        let batch = mem::take(&mut self.pending);
        let waiting = mem::take(&mut self.waiting);
        self.commit = Some(spawn_blocking(move || attempt(store, &open, batch, waiting)));
    }

    fn settle(&mut self, commit: Commit) -> Progress {
        let durability = match commit.store {
            Ok(store) => {
                self.store = Some(store);
                for (key, change) in commit.batch {
                    match change {
                        Some(_) => self.stored.insert(key),
                        None => self.stored.remove(&key),
                    };
                }
                if self.retry_at.take().is_some() {
                    tracing::info!("the registry can be written again");
                }
                Durability::Durable
            }
            Err(error) => {
                self.keep_for_later(commit.batch, &error);
                Durability::WriteFailed
            }
        };
        for answer in commit.waiting {
            // A caller that no longer listens is nothing to report.
            let _ = answer.send(durability);
        }
        if commit.replaced {
            self.stored.clear();
            return Progress::StoreReplaced;
        }
        Progress::Committed
    }

    fn keep_for_later(&mut self, mut batch: Batch, error: &RegistryStoreError) {
        if self.retry_at.is_none() {
            let cause = std::error::Error::source(error).map(ToString::to_string);
            tracing::error!(%error, cause, retry_every = ?self.retry_every,
                "registrations cannot be written and will not survive a restart; is the disk full?");
        }
        // What came while the commit ran is newer.
        batch.append(&mut self.pending);
        batch.retain(|key, change| change.is_some() || self.stored.contains(key));
        self.pending = batch;
        self.retry_at = Some(Instant::now() + self.retry_every);
        for answer in mem::take(&mut self.waiting) {
            // As above.
            let _ = answer.send(Durability::WriteFailed);
        }
    }
}

/// One commit, with the store opened anew if the last attempt lost it.
fn attempt(
    store: Option<RegistryStore>,
    open: &Open,
    batch: Batch,
    waiting: Vec<oneshot::Sender<Durability>>,
) -> Commit {
    let mut replaced = false;
    let store = match store {
        Some(store) => Ok(store),
        None => open().map(|opened| {
            replaced = opened.set_aside.is_some();
            opened.store
        }),
    };
    let store = store.and_then(|store| store.commit(&batch).map(|()| store));
    Commit {
        batch,
        waiting,
        store,
        replaced,
    }
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
