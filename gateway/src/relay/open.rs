//! Which connections are open: their number, for limits, and who they are, so that a shutdown can name what it cuts.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use causeway_zone_sync::name::{GatewayId, ServiceName};
use parking_lot::Mutex;
use rustls_pki_types::CertificateDer;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{callers::Found, permit::Rule, telemetry::Role};

/// One connection under way.
#[derive(Debug, Clone)]
pub struct OpenConnection {
    pub role: Role,
    pub service: ServiceName,
    /// The client's socket (egress).
    pub client: Option<SocketAddr>,
    /// The address that it connected to (egress).
    pub local: Option<SocketAddr>,
    /// The certificates that the client showed, its own first (egress).
    pub shown: Option<Arc<[CertificateDer<'static>]>>,
    /// The gateway that asked for it (ingress).
    pub peer: Option<GatewayId>,
    pub since: Instant,
}

/// What the task of a connection shares with those who may end it.
#[derive(Debug)]
pub struct Hold {
    pub connection: OpenConnection,
    cut: CancellationToken,
    caller: Mutex<Option<Found>>,
    withdrawn: OnceLock<Withdrawn>,
}

/// Why an open connection is ended by this gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Withdrawn {
    /// The word for the access log.
    pub outcome: &'static str,
    pub rule: Option<Rule>,
}

impl Hold {
    /// Cancelled when the connection is to end at once.
    #[must_use]
    pub fn cut(&self) -> &CancellationToken {
        &self.cut
    }

    /// Who the connection is carried for, once that is known.
    #[must_use]
    pub fn caller(&self) -> Option<Found> {
        self.caller.lock().clone()
    }

    pub fn set_caller(&self, found: Found) {
        *self.caller.lock() = Some(found);
    }

    /// Ends the connection; the first reason stands.
    pub fn withdraw(&self, why: Withdrawn) {
        // A second reason changes nothing: it is being ended already.
        let _ = self.withdrawn.set(why);
        self.cut.cancel();
    }

    /// Why it was ended; `None` for a plain cut.
    #[must_use]
    pub fn withdrawn(&self) -> Option<&Withdrawn> {
        self.withdrawn.get()
    }
}

/// The connections of one data thread.
#[derive(Debug)]
struct Shard {
    connections: Mutex<HashMap<u64, Arc<Hold>>>,
    /// A child of the one that cuts all, so that threads do not wait for each other when they make children of it.
    cut: CancellationToken,
}

/// All open connections of one role. Each data thread has a shard of its own, so that its lock is never waited for,
/// except by the rare reader of the whole list.
#[derive(Debug)]
pub struct OpenConnections {
    shards: Vec<Shard>,
    cut: CancellationToken,
    count: AtomicUsize,
    limit: usize,
    next: AtomicU64,
    closed: Notify,
}

impl OpenConnections {
    /// For `threads` data threads and at most `limit` connections at once.
    #[must_use]
    pub fn new(threads: usize, limit: usize) -> Arc<Self> {
        let cut = CancellationToken::new();
        let shard = |_| Shard {
            connections: Mutex::default(),
            cut: cut.child_token(),
        };
        Arc::new(Self {
            shards: (0..threads.max(1)).map(shard).collect(),
            cut,
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
        let hold = Arc::new(Hold {
            connection,
            cut: self.shards[shard].cut.child_token(),
            caller: Mutex::new(None),
            withdrawn: OnceLock::new(),
        });
        self.shards[shard].connections.lock().insert(key, hold.clone());
        Some(OpenGuard {
            set: self.clone(),
            hold,
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
        let mut all: Vec<OpenConnection> = self.holds().map(|hold| hold.connection.clone()).collect();
        all.sort_by_key(|connection| connection.since);
        all
    }

    /// Every connection that is open now, in no order. A thread's list is locked for as long as it takes to copy it.
    pub fn holds(&self) -> impl Iterator<Item = Arc<Hold>> {
        self.shards.iter().flat_map(|shard| {
            let holds: Vec<Arc<Hold>> = shard.connections.lock().values().cloned().collect();
            holds
        })
    }

    /// Ends every connection, those that are still to come too.
    pub fn cut(&self) {
        self.cut.cancel();
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
    hold: Arc<Hold>,
    shard: usize,
    key: u64,
}

impl OpenGuard {
    #[must_use]
    pub fn hold(&self) -> &Hold {
        &self.hold
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.set.shards[self.shard].connections.lock().remove(&self.key);
        if self.set.count.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.set.closed.notify_waiters();
        }
    }
}
