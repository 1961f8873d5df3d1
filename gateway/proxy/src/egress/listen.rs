//! The sockets that listen for clients, kept as the bindings say.
//!
//! Each belongs to one data thread, which accepts there for all: the number of sockets does not grow with that of threads. A
//! socket that cannot be bound is reported and tried again, and disturbs no other; mesh DNS does not give out what it is for meanwhile.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use causeway_federation::topology::Vips;
use causeway_routing::{
    route::{Request, route},
    target::{Binding, Bindings},
};
use parking_lot::Mutex;
use rand::{SeedableRng as _, rngs::SmallRng};
use tokio::{net::TcpListener, sync::watch, task::JoinSet, time::timeout};
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};

use super::{
    EgressShared,
    accept::AcceptLoop,
    arrival::Entrance,
    bind::{BindError, BindFailure, SocketPlace, advice},
    coverage::{Coverage, SocketState},
    dispatch::Dispatch,
    layout::{Covered, accepting_thread, layout},
    redirect::Redirect,
    routes::Routes,
};
use crate::keepalive;

/// First pause before a bind that failed is tried again; doubles each time.
const REBIND_AFTER: Duration = Duration::from_millis(250);
/// Longest pause before a bind is tried again.
const MAX_REBIND_AFTER: Duration = Duration::from_secs(10);

/// Longest wait for the first sockets: far more than it takes, and they listen when they can all the same.
const OPENING_MAY_TAKE: Duration = Duration::from_secs(5);

/// A listening socket of this thread.
struct Listener {
    coverage: Arc<Coverage>,
    stop: CancellationToken,
}

/// A data thread that accepts, and the way from there to the others.
#[derive(Clone)]
pub(super) struct AcceptingThread {
    pub(super) shared: Arc<EgressShared>,
    pub(super) thread: usize,
    pub(super) dispatch: Dispatch,
}

/// First sockets of all data threads, until each of them has been tried.
#[derive(Debug)]
pub(super) struct Opening {
    untried: TaskTracker,
    /// One for each data thread that has not begun.
    threads: Mutex<Vec<TaskTrackerToken>>,
}

impl Opening {
    pub(super) fn new(threads: usize) -> Self {
        let untried = TaskTracker::new();
        let threads = (0..threads).map(|_| untried.token()).collect();
        untried.close();
        Self {
            untried,
            threads: Mutex::new(threads),
        }
    }

    /// Gives a data thread what it shares among its first sockets, each of which lets go of it once it was tried.
    pub(super) fn begin(&self) -> Option<TaskTrackerToken> {
        self.threads.lock().pop()
    }

    /// Waits until the first sockets of all data threads have been tried, within a limit.
    pub(super) async fn done(&self) {
        if timeout(OPENING_MAY_TAKE, self.untried.wait()).await.is_err() {
            tracing::warn!(longest = ?OPENING_MAY_TAKE, "not every service is listened for yet");
        }
    }
}

/// Keeps the sockets of a data thread as `bindings` says, until the egress is closed or the sender is gone. The first ones let go of
/// `opening`.
pub(super) async fn reconcile(
    here: AcceptingThread,
    mut bindings: watch::Receiver<Bindings>,
    mut opening: Option<TaskTrackerToken>,
) {
    let shared = &here.shared;
    let mut listeners: BTreeMap<SocketAddr, Listener> = BTreeMap::new();
    let mut tasks = JoinSet::new();
    let mut routes = Routes::default();
    let mut apart = shared.apart.subscribe();
    let mut redirected = shared.redirect.as_ref().map(Redirect::changes);
    loop {
        let wanted = bindings.borrow_and_update().clone();
        let mut sockets = here.sockets(&wanted, &apart.borrow_and_update());
        match &mut redirected {
            // The kernel takes redirected clients on their way, wherever the addresses are routed.
            Some(redirected) => drop(redirected.borrow_and_update()),
            None => routes.keep_routed(shared, &mut sockets).await,
        }
        listeners.retain(|socket, listener| {
            let keep = sockets.contains_key(socket);
            if !keep {
                listener.stop.cancel();
            }
            keep
        });
        for (socket, covered) in sockets {
            if let Some(listener) = listeners.get(&socket) {
                listener.coverage.take_up(covered);
                continue;
            }
            let coverage = Arc::new(Coverage::new(covered, shared.config.listening.clone()));
            let stop = shared.closed.child_token();
            let entrance = match redirected {
                Some(_) => Entrance::Redirect(coverage.clone()),
                None => Entrance::VirtualAddresses(coverage.clone()),
            };
            let listening = listen(here.clone(), socket, entrance, stop.clone(), opening.clone());
            let name = format!("listener at {socket}");
            tasks.spawn(shared.config.tasks.guard(name, listening));
            listeners.insert(socket, Listener { coverage, stop });
        }
        opening = None;
        while tasks.try_join_next().is_some() {}
        let changed = async {
            tokio::select! {
                changed = bindings.changed() => changed.is_ok(),
                changed = apart.changed() => changed.is_ok(),
                changed = changed(&mut redirected) => changed,
                () = routes.look_again() => true,
            }
        };
        if shared.closed.run_until_cancelled(changed).await != Some(true) {
            break;
        }
    }
    listeners.values().for_each(|listener| listener.stop.cancel());
    while tasks.join_next().await.is_some() {}
    routes.forget(shared);
}

/// Waits until something else is redirected; for ever where nothing is. Returns whether there may be more changes.
async fn changed<T>(redirected: &mut Option<watch::Receiver<T>>) -> bool {
    match redirected {
        Some(redirected) => redirected.changed().await.is_ok(),
        None => std::future::pending().await,
    }
}

/// Listens where clients with certificates come in, as far as that is this thread's, until the egress is closed.
pub(super) async fn listen_for_tls(here: AcceptingThread, opening: Option<TaskTrackerToken>) {
    let shared = &here.shared;
    let (Some(tls), Some(entrance)) = (&shared.config.tls, &shared.tls) else {
        return;
    };
    let mut tasks = JoinSet::new();
    for address in tls
        .addresses
        .iter()
        .copied()
        .filter(|address| here.accepts_at(*address))
    {
        let entrance = Entrance::tls(entrance.clone());
        let stop = shared.closed.child_token();
        let listening = listen(here.clone(), address, entrance, stop, opening.clone());
        let name = format!("TLS listener at {address}");
        tasks.spawn(shared.config.tasks.guard(name, listening));
    }
    drop(opening);
    while tasks.join_next().await.is_some() {}
}

impl AcceptingThread {
    fn accepts_at(&self, socket: SocketAddr) -> bool {
        accepting_thread(socket, self.shared.config.threads) == self.thread
    }

    /// Works out the sockets of this thread, and what each covers.
    fn sockets(
        &self,
        bindings: &BTreeMap<SocketAddr, Binding>,
        apart: &BTreeSet<SocketAddr>,
    ) -> BTreeMap<SocketAddr, Covered> {
        if let Some(redirect) = &self.shared.redirect {
            return redirect.sockets(&self.shared, bindings, |socket| self.accepts_at(socket));
        }
        let snapshot = self.shared.snapshots.load();
        let zone = snapshot.topology.zones.get(&snapshot.zone);
        let by_port = zone.is_some_and(|zone| matches!(zone.vips, Vips::Routed { .. }));
        // What this process listens on at one address would be in the way, or shut out.
        let others = self.shared.places.ports_of_others();
        let is_apart = |socket: SocketAddr| apart.contains(&socket) || others.contains(&socket.port());
        layout(bindings, by_port, is_apart, |socket| self.accepts_at(socket))
    }
}

/// Binds, as often as it takes, and accepts until `stop`. Lets go of `opening` after the first try.
async fn listen(
    here: AcceptingThread,
    socket: SocketAddr,
    entrance: Entrance,
    stop: CancellationToken,
    mut opening: Option<TaskTrackerToken>,
) {
    let shared = here.shared.clone();
    loop {
        let binding = bind_until_bound(&shared, socket, &entrance, &mut opening);
        let bound = stop.run_until_cancelled(binding).await.flatten();
        shared.bind_failures.lock().remove(&socket);
        let Some((listener, place)) = bound else {
            break;
        };
        keepalive::prepare(&listener, shared.config.keepalive, shared.config.stall_limit);
        entrance.set(SocketState::Listening);
        drop(opening.take());
        let until = stop.child_token();
        let accepting = AcceptLoop::new(here.clone(), socket, entrance.clone());
        let mut accepting = pin!(accepting.run(listener, until.clone()));
        tokio::select! {
            () = &mut accepting => break,
            () = shared.places.giving_way().until_turn(|| !shared.can_serve(&entrance)) => {}
        }
        // Before it closes, so that mesh DNS gives it out no more.
        entrance.set(SocketState::Failed);
        until.cancel();
        accepting.await;
        drop(place);
    }
    entrance.set(SocketState::Away);
}

impl EgressShared {
    /// Tells whether a client of any address there could be served now.
    fn can_serve(&self, entrance: &Entrance) -> bool {
        let Entrance::VirtualAddresses(coverage) = entrance else {
            return true;
        };
        let snapshot = self.snapshots.load_full();
        coverage.any_target(|target| {
            // Any seed will do: whether there is a candidate does not hang on it.
            let rng = SmallRng::seed_from_u64(0);
            let request = Request::new(target.clone());
            route(&snapshot, &request, rng).first().is_some()
        })
    }

    /// Binds a socket, unless one is to have the descriptor whose clients could be served.
    fn bind(
        &self,
        socket: SocketAddr,
        can_serve: impl Fn() -> bool,
    ) -> Result<(Arc<TcpListener>, SocketPlace), BindError> {
        if self.places.giving_way().is_lack() && !can_serve() {
            return Err(BindError::NoDescriptor);
        }
        self.places.bind(socket)
    }
}

/// Binds a socket. `None`: its port is listened on address by address from now on.
async fn bind_until_bound(
    shared: &EgressShared,
    socket: SocketAddr,
    entrance: &Entrance,
    opening: &mut Option<TaskTrackerToken>,
) -> Option<(Arc<TcpListener>, SocketPlace)> {
    let mut pause = REBIND_AFTER;
    let since = Instant::now();
    let mut lacking = None;
    loop {
        let mut changed = shared.places.changed();
        let own_before = shared.places.is_in_the_way_of(socket);
        let can_serve = || shared.can_serve(entrance);
        let error = match shared.bind(socket, can_serve) {
            Ok(bound) => return Some(bound),
            Err(error) => error,
        };
        drop(opening.take());
        let is_taken = error.is_taken();
        if is_taken && (own_before || shared.places.is_in_the_way_of(socket)) {
            // A socket of before, which is being closed.
            if timeout(pause, changed.changed()).await.is_ok() {
                continue;
            }
        }
        if is_taken && entrance.is_shared_at(socket) {
            tracing::info!(address = %socket, serves = %entrance,
                "somebody else has this port at an address of the host; each virtual address gets a socket of its own there");
            shared.apart.send_modify(|apart| {
                apart.insert(socket);
            });
            return None;
        }
        entrance.set(SocketState::Failed);
        report(shared, socket, entrance, &error, since).await;
        if matches!(error, BindError::NoDescriptor) && can_serve() {
            lacking
                .get_or_insert_with(|| shared.places.giving_way().lack())
                .ask();
            let _ = timeout(pause, changed.changed()).await;
        } else {
            lacking = None;
            tokio::time::sleep(pause).await;
        }
        pause = (pause * 2).min(MAX_REBIND_AFTER);
    }
}

/// Notes why clients cannot connect and who is in the way, and tells it once for each reason.
async fn report(
    shared: &EgressShared,
    address: SocketAddr,
    entrance: &Entrance,
    error: &BindError,
    since: Instant,
) {
    let holder = match error.is_taken() {
        true => shared.holders.of(address).await,
        false => None,
    };
    let error_text = match holder {
        Some(holder) => format!("{error}: {holder}"),
        None => error.to_string(),
    };
    let failure = BindFailure {
        address,
        serves: entrance.to_string(),
        error: error_text,
        advice: match entrance {
            Entrance::Redirect(_) if error.is_taken() => {
                "a program or another gateway of this host has that port: give this gateway another with `--redirect-port`"
            }
            _ => advice(error),
        },
        lacks_descriptors: matches!(error, BindError::NoDescriptor),
        since,
    };
    let before = shared.bind_failures.lock().insert(address, failure.clone());
    if let (Entrance::Redirect(_), Some(redirect)) = (entrance, &shared.redirect) {
        redirect.listener_failed();
    }
    if before.is_none_or(|before| before.error != failure.error) {
        let BindFailure { error, advice, .. } = failure;
        tracing::warn!(%address, serves = %entrance, error, advice, "an address for clients cannot be listened on; it is tried again");
    }
}
