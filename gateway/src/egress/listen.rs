//! The listeners of one data thread: one for each virtual address and port, kept as the bindings say.
//!
//! Each data thread has its own (`SO_REUSEPORT`); the kernel spreads clients over them. A port that cannot be bound is
//! reported and tried again, and disturbs no other.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::{
    Shared,
    accept::{self, Serves},
};
use crate::target::{Bindings, Target};

/// Connections that may wait to be accepted, per listener and thread. The kernel's own limit may be lower.
const BACKLOG: i32 = 4096;
/// First pause before a bind that failed is tried again; doubles each time.
const REBIND_AFTER: Duration = Duration::from_millis(250);
/// Longest pause before a bind is tried again.
const MAX_REBIND_AFTER: Duration = Duration::from_secs(10);

/// An address and port that clients cannot connect to.
#[derive(Debug, Clone)]
pub struct BindFailure {
    pub address: SocketAddr,
    /// What is missing there: a target, or the TLS listener.
    pub serves: String,
    pub error: String,
    pub since: Instant,
}

/// A listener of this thread, and what it listens for.
struct Listener {
    target: Target,
    stop: CancellationToken,
}

/// Keeps the listeners of data thread `thread` as `bindings` says, until the egress drains or the sender is gone.
pub(super) async fn reconcile(shared: Arc<Shared>, thread: usize, mut bindings: watch::Receiver<Bindings>) {
    let mut listeners: BTreeMap<SocketAddr, Listener> = BTreeMap::new();
    let mut tasks = JoinSet::new();
    loop {
        let wanted = bindings.borrow_and_update().clone();
        listeners.retain(|address, listener| {
            let keep = wanted.get(address) == Some(&listener.target);
            if !keep {
                listener.stop.cancel();
            }
            keep
        });
        for (address, target) in wanted.iter() {
            listeners.entry(*address).or_insert_with(|| {
                let stop = shared.drain.child_token();
                let target = target.clone();
                tasks.spawn(listen(
                    shared.clone(),
                    thread,
                    *address,
                    Serves::Target(target.clone()),
                    stop.clone(),
                ));
                Listener { target, stop }
            });
        }
        while tasks.try_join_next().is_some() {}
        if !matches!(
            shared.drain.run_until_cancelled(bindings.changed()).await,
            Some(Ok(()))
        ) {
            break;
        }
    }
    listeners.values().for_each(|listener| listener.stop.cancel());
    while tasks.join_next().await.is_some() {}
}

/// Listens on data thread `thread` where clients with certificates come in, until the egress drains.
pub(super) async fn take_callers(shared: Arc<Shared>, thread: usize) {
    let (Some(tls), Some(door)) = (&shared.config.tls, &shared.door) else {
        return;
    };
    let mut tasks = JoinSet::new();
    for address in &tls.addresses {
        let (serves, stop) = (Serves::Callers(door.clone()), shared.drain.child_token());
        tasks.spawn(listen(shared.clone(), thread, *address, serves, stop));
    }
    while tasks.join_next().await.is_some() {}
}

/// Binds, as often as it takes, and accepts until `stop`.
async fn listen(
    shared: Arc<Shared>,
    thread: usize,
    address: SocketAddr,
    serves: Serves,
    stop: CancellationToken,
) {
    let binding = bind_until_bound(&shared, thread, address, &serves);
    let bound = stop.run_until_cancelled(binding).await;
    shared.bind_failures.lock().remove(&(address, thread));
    if let Some(listener) = bound {
        let listening = shared.config.listening.clone();
        listening.began(address);
        accept::run(shared, thread, listener, (address, serves), stop).await;
        listening.ended(address);
    }
}

async fn bind_until_bound(
    shared: &Shared,
    thread: usize,
    address: SocketAddr,
    serves: &Serves,
) -> TcpListener {
    let mut pause = REBIND_AFTER;
    let since = Instant::now();
    loop {
        let error = match bind(address) {
            Ok(listener) => return listener,
            Err(error) => error.to_string(),
        };
        let failure = BindFailure {
            address,
            serves: serves.to_string(),
            error,
            since,
        };
        let before = shared
            .bind_failures
            .lock()
            .insert((address, thread), failure.clone());
        if before.is_none_or(|before| before.error != failure.error) {
            let error = failure.error;
            tracing::warn!(%address, %serves, thread, error, "an address for clients cannot be listened on; it is tried again");
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(MAX_REBIND_AFTER);
    }
}

/// A listener that shares its port with those of the other data threads.
fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
        // Linux binds IPv4 addresses of a local route as they are, and IPv6 ones only so.
        #[cfg(target_os = "linux")]
        socket.set_freebind_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}
