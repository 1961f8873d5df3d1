//! Which connections are open: their number, for limits, and who they are, so that a shutdown can name what it cuts.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use causeway_zone_sync::name::{GatewayId, ServiceName};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::telemetry::Role;

/// One connection under way.
#[derive(Debug, Clone)]
pub struct OpenConnection {
    pub role: Role,
    pub service: ServiceName,
    /// The client's socket (egress).
    pub client: Option<SocketAddr>,
    /// The gateway that asked for it (ingress).
    pub peer: Option<GatewayId>,
    pub since: Instant,
}

/// All open connections of one role. Each data thread has a shard of its own, so that its lock is never waited for,
/// except by the rare reader of the whole list.
#[derive(Debug)]
pub struct OpenConnections {
    shards: Vec<Mutex<HashMap<u64, OpenConnection>>>,
    count: AtomicUsize,
    limit: usize,
    next: AtomicU64,
    closed: Notify,
}

impl OpenConnections {
    /// For `threads` data threads and at most `limit` connections at once.
    #[must_use]
    pub fn new(threads: usize, limit: usize) -> Arc<Self> {
        Arc::new(Self {
            shards: (0..threads.max(1)).map(|_| Mutex::default()).collect(),
            count: AtomicUsize::new(0),
            limit,
            next: AtomicU64::new(0),
            closed: Notify::new(),
        })
    }

    /// Enters a connection for as long as the guard lives; `None` at the limit.
    #[must_use]
    pub fn enter(self: &Arc<Self>, thread: usize, connection: OpenConnection) -> Option<OpenGuard> {
        if self.count.fetch_add(1, Ordering::Relaxed) >= self.limit {
            self.count.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let key = self.next.fetch_add(1, Ordering::Relaxed);
        let shard = thread % self.shards.len();
        self.shards[shard].lock().insert(key, connection);
        Some(OpenGuard {
            set: self.clone(),
            shard,
            key,
        })
    }

    #[must_use]
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// A copy of the list, oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<OpenConnection> {
        let copy =
            |shard: &Mutex<HashMap<u64, OpenConnection>>| shard.lock().values().cloned().collect::<Vec<_>>();
        let mut all: Vec<OpenConnection> = self.shards.iter().flat_map(copy).collect();
        all.sort_by_key(|connection| connection.since);
        all
    }

    /// Waits until none is open, at most `longest`. Returns whether none is.
    pub async fn emptied(&self, longest: Duration) -> bool {
        let wait = async {
            loop {
                let closed = self.closed.notified();
                if self.count() == 0 {
                    return;
                }
                closed.await;
            }
        };
        tokio::time::timeout(longest, wait).await.is_ok()
    }
}

/// Keeps one connection in the list.
#[derive(Debug)]
pub struct OpenGuard {
    set: Arc<OpenConnections>,
    shard: usize,
    key: u64,
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.set.shards[self.shard].lock().remove(&self.key);
        if self.set.count.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.set.closed.notify_waiters();
        }
    }
}
