//! Table of open connections: their number, for limits, and who they are, so that a shutdown can name what it cuts.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use causeway_federation::{
    name::{GatewayId, PortName, ServiceName},
    topology::Topology,
};
use causeway_routing::{
    callers::FoundCaller,
    permit::{Caller, Permission, RequestLine, Rule, Verdict, decide},
    route::Placement,
};
use causeway_telemetry::{ConnectionId, ConnectionOutcome, Role};
use parking_lot::Mutex;
use rustls_pki_types::CertificateDer;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// One connection under way.
#[derive(Debug, Clone)]
pub struct OpenConnection {
    pub id: ConnectionId,
    pub role: Role,
    pub service: ServiceName,
    /// Port of the service; `None`: its primary one.
    pub port: Option<PortName>,
    /// The client's socket (egress).
    pub client: Option<SocketAddr>,
    /// The address that it connected to (egress).
    pub local: Option<SocketAddr>,
    /// The certificates that the client showed, its own first (egress).
    pub(crate) shown: Option<Arc<[CertificateDer<'static>]>>,
    /// The gateway that asked for it (ingress).
    pub peer: Option<GatewayId>,
    pub since: Instant,
}

/// State that the task of a connection shares with those who may end it.
#[derive(Debug)]
pub(crate) struct ConnectionHandle {
    pub(crate) connection: OpenConnection,
    cut: CancellationToken,
    caller: Mutex<Option<FoundCaller>>,
    termination: OnceLock<Termination>,
    /// Place that its bytes are carried to as they are.
    placement: OnceLock<Box<Placement>>,
    /// Request that it left HTTP with, or would.
    upgrade: Mutex<Option<Box<UpgradeRequest>>>,
    judged: AtomicBool,
    /// It was asked to end once its requests have.
    asked_to_leave: AtomicBool,
    leave: Notify,
}

/// Method and path of a request for another protocol, by which what comes of it is permitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UpgradeRequest {
    pub(crate) method: String,
    pub(crate) path: String,
}

/// Reason that an open connection is ended by this gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Termination {
    /// For the access log.
    pub(crate) outcome: ConnectionOutcome,
    pub(crate) rule: Option<Rule>,
}

impl ConnectionHandle {
    /// Cancelled when the connection is to end at once.
    #[must_use]
    pub(crate) fn cut(&self) -> &CancellationToken {
        &self.cut
    }

    /// Tells whether it is cut for no reason of its own, because the gateway shuts down.
    pub(crate) fn is_cut(&self) -> bool {
        self.cut.is_cancelled() && self.termination().is_none()
    }

    /// Returns whom the connection is carried for, once that is known.
    #[must_use]
    pub(crate) fn caller(&self) -> Option<FoundCaller> {
        self.caller.lock().clone()
    }

    pub(crate) fn set_caller(&self, found: FoundCaller) {
        *self.caller.lock() = Some(found);
    }

    /// Has changes of permissions pass it over until there is a caller again.
    pub(crate) fn forget_caller(&self) {
        *self.caller.lock() = None;
    }

    /// Request that its bytes are carried for, if they are no HTTP any more.
    pub(crate) fn upgrade(&self) -> Option<Box<UpgradeRequest>> {
        self.placement.get()?;
        self.upgrade.lock().clone()
    }

    /// Notes the request by which it may leave HTTP.
    pub(crate) fn may_upgrade(&self, request: UpgradeRequest) {
        *self.upgrade.lock() = Some(Box::new(request));
    }

    /// Decides about it as about a new one. One that has left HTTP was permitted by the request that it did so with.
    pub(crate) fn decide(&self, topology: &Topology, caller: &Caller) -> Verdict {
        let name = &self.connection.service;
        let (known, upgrade) = (topology.services.get(name), self.upgrade());
        let line = match known.zip(upgrade.as_deref()) {
            Some((known, request)) => RequestLine::read(known, &request.method, &request.path),
            None => Ok(None),
        };
        match line {
            Ok(line) => decide(topology, caller, name, line.as_ref()),
            // It would not be taken as a new one either.
            Err(_) => Verdict {
                permission: match topology.permissions.dry_run {
                    true => Permission::DryRun,
                    false => Permission::Forbidden,
                },
                rule: Rule::NotAllowed(name.clone()),
            },
        }
    }

    /// Tells whether each of its requests is looked at by itself.
    pub(crate) fn is_judged(&self) -> bool {
        self.judged.load(Ordering::Relaxed)
    }

    /// Each of its requests is looked at by itself.
    pub(crate) fn set_judged(&self) {
        self.judged.store(true, Ordering::Relaxed);
    }

    /// Ends the connection; the first reason stands.
    pub(crate) fn terminate(&self, why: Termination) {
        // A second reason changes nothing: it is being ended already.
        let _ = self.termination.set(why);
        self.cut.cancel();
    }

    /// Place that its bytes are carried to as they are; `None`: there is none, or each request has its own.
    pub(crate) fn placement(&self) -> Option<&Placement> {
        self.placement.get().map(|placement| &**placement)
    }

    /// Its bytes are carried to this place from now on, as they are.
    pub(crate) fn carried_to(&self, placement: Placement) {
        // There is a second one only where nothing is carried any more.
        let _ = self.placement.set(Box::new(placement));
    }

    /// Ends the connection so that its client makes a new one: where requests are made on it, once those under way have been
    /// answered.
    pub(crate) fn send_away(&self, outcome: ConnectionOutcome) {
        match self.placement() {
            Some(_) => self.terminate(Termination { outcome, rule: None }),
            None => {
                self.asked_to_leave.store(true, Ordering::Relaxed);
                self.leave.notify_one();
            }
        }
    }

    /// Tells whether it was sent away, and does as it was told.
    pub(crate) fn is_leaving(&self) -> bool {
        // What was asked while there were requests is not heard by what carries bytes.
        self.cut.is_cancelled() || (self.placement().is_none() && self.asked_to_leave.load(Ordering::Relaxed))
    }

    /// Waits until it is to end once its requests have. Whoever has heard it is not told again.
    pub(crate) async fn asked_to_leave(&self) {
        self.leave.notified().await;
    }

    /// Reason that it was ended; `None` for a plain cut.
    #[must_use]
    pub(crate) fn termination(&self) -> Option<&Termination> {
        self.termination.get()
    }
}

/// The connections of one data thread.
#[derive(Debug)]
struct Shard {
    connections: Mutex<HashMap<u64, Arc<ConnectionHandle>>>,
    /// Their number, which is read without the lock.
    count: AtomicUsize,
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
    /// Connections that came before [`OpenConnections::drain`].
    early: AtomicUsize,
    draining: AtomicBool,
}

impl OpenConnections {
    /// For `threads` data threads and at most `limit` connections at once.
    #[must_use]
    pub(crate) fn new(threads: usize, limit: usize) -> Arc<Self> {
        let cut = CancellationToken::new();
        let shard = |_| Shard {
            connections: Mutex::default(),
            count: AtomicUsize::new(0),
            cut: cut.child_token(),
        };
        Arc::new(Self {
            shards: (0..threads.max(1)).map(shard).collect(),
            cut,
            count: AtomicUsize::new(0),
            limit,
            next: AtomicU64::new(0),
            closed: Notify::new(),
            early: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
        })
    }

    /// Enters a connection for as long as the guard lives; `None` at the limit.
    #[must_use]
    pub(crate) fn enter(
        self: &Arc<Self>,
        thread: usize,
        connection: OpenConnection,
    ) -> Option<OpenConnectionGuard> {
        if self.count.fetch_add(1, Ordering::Relaxed) >= self.limit {
            self.count.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let key = self.next.fetch_add(1, Ordering::Relaxed);
        let shard = thread % self.shards.len();
        let handle = Arc::new(ConnectionHandle {
            connection,
            cut: self.shards[shard].cut.child_token(),
            caller: Mutex::new(None),
            termination: OnceLock::new(),
            placement: OnceLock::new(),
            upgrade: Mutex::new(None),
            judged: AtomicBool::new(false),
            asked_to_leave: AtomicBool::new(false),
            leave: Notify::new(),
        });
        self.shards[shard].connections.lock().insert(key, handle.clone());
        self.shards[shard].count.fetch_add(1, Ordering::Relaxed);
        let is_early = !self.draining.load(Ordering::SeqCst);
        if is_early {
            self.early.fetch_add(1, Ordering::SeqCst);
        }
        Some(OpenConnectionGuard {
            set: self.clone(),
            handle,
            shard,
            key,
            is_early,
        })
    }

    #[must_use]
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Number of those of one data thread.
    #[must_use]
    pub(crate) fn count_of(&self, thread: usize) -> usize {
        self.shards[thread % self.shards.len()]
            .count
            .load(Ordering::Relaxed)
    }

    /// A copy of the list, oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<OpenConnection> {
        let mut all: Vec<OpenConnection> = self.handles().map(|handle| handle.connection.clone()).collect();
        all.sort_by_key(|connection| connection.since);
        all
    }

    /// Every connection that is open now, in no order. A thread's list is locked for as long as it takes to copy it.
    pub(crate) fn handles(&self) -> impl Iterator<Item = Arc<ConnectionHandle>> {
        self.shards.iter().flat_map(|shard| {
            let handles: Vec<Arc<ConnectionHandle>> = shard.connections.lock().values().cloned().collect();
            handles
        })
    }

    /// Ends every connection, those that are still to come too.
    pub(crate) fn cut(&self) {
        self.cut.cancel();
    }

    /// Has those that come from now on count as late: [`OpenConnections::drained`] does not wait for them.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }

    /// Waits until none is open that came before [`OpenConnections::drain`].
    pub async fn drained(&self) {
        loop {
            let closed = self.closed.notified();
            if self.early.load(Ordering::SeqCst) == 0 {
                return;
            }
            closed.await;
        }
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
pub(crate) struct OpenConnectionGuard {
    set: Arc<OpenConnections>,
    handle: Arc<ConnectionHandle>,
    shard: usize,
    key: u64,
    /// It came before the drain.
    is_early: bool,
}

impl OpenConnectionGuard {
    #[must_use]
    pub(crate) fn handle(&self) -> &ConnectionHandle {
        &self.handle
    }

    /// As [`OpenConnectionGuard::handle`], to be kept.
    #[must_use]
    pub(crate) fn shared_handle(&self) -> Arc<ConnectionHandle> {
        self.handle.clone()
    }
}

impl Drop for OpenConnectionGuard {
    fn drop(&mut self) {
        let shard = &self.set.shards[self.shard];
        shard.connections.lock().remove(&self.key);
        shard.count.fetch_sub(1, Ordering::Relaxed);
        let is_last = self.set.count.fetch_sub(1, Ordering::Relaxed) == 1;
        let is_last_early = self.is_early && self.set.early.fetch_sub(1, Ordering::SeqCst) == 1;
        if is_last || is_last_early {
            self.set.closed.notify_waiters();
        }
    }
}
