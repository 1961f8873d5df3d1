//! The one loop that takes connections of this process's own APIs: so many at once, so many of one address, a time limit
//! until each is set up (a handshake, say), and a pause while the machine gives no more. What is set up is handed on with
//! the place that it holds; who is let in is the [`AcceptConnection`]'s business, and what is served on it the receiver's, who
//! ends a connection when its place is given to another one (`places`).
//!
//! Every connection counts in its holder's share of this process's descriptors, as the clients of services do. Whoever has no share left, or
//! finds none, is served with one of those that are kept: each listener has a few, and where those are used the idlest of whoever
//! has most connections gives way.
//!
//! The clients of services and the tunnels have loops of their own: they are one for each data thread, and hand nothing on.

use std::{
    io,
    net::SocketAddr,
    os::fd::AsRawFd,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::io::Errno;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::{JoinSet, yield_now},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    descriptors::{Descriptors, HeldDescriptor},
    kernel::{Host, Kernel, UserId},
    places::{DescriptorOf, Place, Places},
    share::{NoShare, ShareHolder},
};

/// First pause after an accept that would fail again at once; doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// Longest pause of that kind.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Most connections that have given way and are about to end.
const MAX_ENDING: usize = 64;

/// A bound listener of any kind.
pub trait Listen: Send + Sync + 'static {
    type Stream: AsRawFd + Send + 'static;

    /// Takes the next connection, and says where it comes from; `None`: from this host, over a unix socket. Cancel-safe.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Option<SocketAddr>)>> + Send;

    /// Returns the own end of a connection over TCP.
    fn own_end(_: &Self::Stream) -> Option<SocketAddr> {
        None
    }

    /// Returns the user at the other end of a connection over a unix socket.
    fn local_user(_: &Self::Stream) -> Option<UserId> {
        None
    }
}

impl Listen for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, Option<SocketAddr>)> {
        let (stream, from) = Self::accept(self).await?;
        // What is asked of an API is small and answered at once. Where the option cannot be set, it is merely slower.
        let _ = stream.set_nodelay(true);
        Ok((stream, Some(from)))
    }

    fn own_end(stream: &TcpStream) -> Option<SocketAddr> {
        stream.local_addr().ok()
    }
}

impl<L: Listen> Listen for Arc<L> {
    type Stream = L::Stream;

    fn accept(&self) -> impl Future<Output = io::Result<(L::Stream, Option<SocketAddr>)>> + Send {
        L::accept(self)
    }

    fn own_end(stream: &L::Stream) -> Option<SocketAddr> {
        L::own_end(stream)
    }

    fn local_user(stream: &L::Stream) -> Option<UserId> {
        L::local_user(stream)
    }
}

/// Decides who gets in.
pub trait AcceptConnection<S>: Send + Sync + 'static {
    type Connection: Send + 'static;
    type Error: Send + 'static;

    /// Makes a connection out of what was accepted.
    fn enter(
        &self,
        stream: S,
        from: Option<SocketAddr>,
    ) -> impl Future<Output = Result<Self::Connection, Self::Error>> + Send;

    /// Is told whom nobody serves.
    fn refused(&self, from: Option<SocketAddr>, why: AcceptRefusal<Self::Error>);
}

/// Reason why a connection that was accepted is not served.
#[derive(Debug)]
pub enum AcceptRefusal<E> {
    /// Its address or user has as many as one may have, and each is in use; or it had a place, and has given way.
    Crowded,
    /// It was not set up in time.
    Slow,
    /// It was turned away.
    Failed(E),
}

/// Limits of one listener.
#[derive(Debug, Clone, Copy)]
pub struct AcceptLimits {
    /// Connections at once, those that are being set up included. A further one takes the place of the idlest of whoever has most.
    pub connections: usize,
    /// Of those, for one host (see [`crate::share::host_of`]), or one user of this host. A further one takes the place of its idlest, or is closed where
    /// all are in use. A unix socket is one user's, who has all places.
    pub of_address: usize,
    /// Longest time until a connection is set up.
    pub setup: Duration,
}

/// A connection's place among those that are served at once. It is free again when this is dropped.
#[derive(Debug)]
pub struct ConnectionPlace {
    _accepted: OwnedSemaphorePermit,
    _descriptor: HeldDescriptor,
    pub place: Arc<Place>,
}

/// Names the party that takes a place with a connection. On this host that is a user: any program can use any address here.
fn holder<L: Listen>(kernel: &dyn Host, stream: &L::Stream, from: Option<SocketAddr>) -> ShareHolder {
    let Some(from) = from else {
        return L::local_user(stream).map_or(ShareHolder::ThisHost, ShareHolder::User);
    };
    let client = from.ip().to_canonical();
    let is_here = || client.is_loopback() || kernel.addresses().is_some_and(|own| own.contains(&client));
    let own_end = L::own_end(stream).filter(|_| is_here());
    let user = own_end.and_then(|own| kernel.sockets().ok()?.client(from, own));
    user.map_or_else(|| ShareHolder::at(client), ShareHolder::User)
}

/// Accepts until nobody takes the connections any more, and then gives up those that are being set up. `what` names the
/// listener in the log; `descriptors` are those that the process has for all.
pub async fn accept<L: Listen, D: AcceptConnection<L::Stream>>(
    what: &'static str,
    (listener, descriptors): (L, Descriptors),
    limits: AcceptLimits,
    acceptor: D,
    entered: mpsc::Sender<(D::Connection, ConnectionPlace)>,
) {
    // Nobody cancels it.
    let never = CancellationToken::new();
    accept_until(&never, what, (listener, descriptors), limits, acceptor, entered).await;
}

/// Does the same until `stop`, and then waits for those that are being set up: what was accepted is handed on.
pub async fn accept_until<L: Listen, D: AcceptConnection<L::Stream>>(
    stop: &CancellationToken,
    what: &'static str,
    (listener, descriptors): (L, Descriptors),
    limits: AcceptLimits,
    acceptor: D,
    entered: mpsc::Sender<(D::Connection, ConnectionPlace)>,
) {
    let loops = ApiListener {
        what,
        listener,
        kernel: Kernel::default(),
        descriptors,
        limits,
        places: Places::new(limits.connections),
        acceptor: Arc::new(acceptor),
    };
    tokio::select! {
        () = loops.accept_all(stop, &entered) => {}
        () = entered.closed() => {}
    }
}

/// Listener of one API.
struct ApiListener<L, D> {
    what: &'static str,
    listener: L,
    kernel: Kernel,
    descriptors: Descriptors,
    limits: AcceptLimits,
    places: Arc<Places>,
    acceptor: Arc<D>,
}

impl<L: Listen, D: AcceptConnection<L::Stream>> ApiListener<L, D> {
    async fn accept_all(
        &self,
        stop: &CancellationToken,
        entered: &mpsc::Sender<(D::Connection, ConnectionPlace)>,
    ) {
        let accepted = Arc::new(Semaphore::new(self.limits.connections + MAX_ENDING));
        let mut entering = JoinSet::new();
        let mut pause = None;
        loop {
            // A free place first, so that what cannot be served is not accepted. The semaphore is never closed.
            let Ok(permit) = Arc::clone(&accepted).acquire_owned().await else {
                return;
            };
            let Some(accepted) = stop.run_until_cancelled(self.listener.accept()).await else {
                break;
            };
            let (stream, from) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    let next = pause_after(&error, pause);
                    if let (None, Some(first)) = (pause, next) {
                        let what = self.what;
                        tracing::warn!(%error, "{what} cannot accept connections; it is tried again after {first:?} and more");
                    }
                    pause = next;
                    sleep(next.unwrap_or_default()).await;
                    continue;
                }
            };
            pause = None;
            while entering.try_join_next().is_some() {}
            let Some((place, descriptor)) = self.take_place(&stream, from) else {
                self.acceptor.refused(from, AcceptRefusal::Crowded);
                continue;
            };
            let place = ConnectionPlace {
                _accepted: permit,
                _descriptor: descriptor,
                place,
            };
            let (acceptor, entered) = (Arc::clone(&self.acceptor), entered.clone());
            // Each by itself, so that a slow one holds up no other.
            entering.spawn(set_up(
                acceptor,
                (stream, from),
                place,
                self.limits.setup,
                entered,
            ));
            // Whoever has given way ends first, so that those who are about to end hold few descriptors.
            yield_now().await;
        }
        while entering.join_next().await.is_some() {}
    }

    /// Takes a place and a descriptor for a connection, if need be those of another one, which is told. `None`: it is closed.
    fn take_place(
        &self,
        stream: &L::Stream,
        from: Option<SocketAddr>,
    ) -> Option<(Arc<Place>, HeldDescriptor)> {
        let most = from.map_or(self.limits.connections, |_| self.limits.of_address);
        let holder = holder::<L>(&self.kernel, stream, from);
        let (descriptor, lack) = self.take_descriptor(stream, &holder)?;
        let of = match lack {
            None => DescriptorOf::Share,
            Some(_) => DescriptorOf::Kept(
                usize::try_from(self.descriptors.kept_for_listener()).unwrap_or(usize::MAX),
            ),
        };
        let taken = self.places.take(holder.clone(), from, (most, of), Instant::now());
        if let (None, Some(why)) = (&taken, lack) {
            self.descriptors.refused_to(&holder, why);
        }
        let (place, gone) = taken?;
        if gone.is_some() {
            self.acceptor.refused(gone, AcceptRefusal::Crowded);
        }
        Some((place, descriptor))
    }

    /// Takes a descriptor of the holder's share, or one that is kept and the reason for it.
    fn take_descriptor(
        &self,
        stream: &L::Stream,
        holder: &ShareHolder,
    ) -> Option<(HeldDescriptor, Option<NoShare>)> {
        match self.descriptors.hold_for_api(stream, holder) {
            Ok(held) => Some((held, None)),
            Err(why) => Some((self.descriptors.hold_kept(stream, holder)?, Some(why))),
        }
    }
}

/// Sets a connection up and hands it on, for as long as it does not have to give way.
async fn set_up<S, D: AcceptConnection<S>>(
    acceptor: Arc<D>,
    (stream, from): (S, Option<SocketAddr>),
    place: ConnectionPlace,
    limit: Duration,
    entered: mpsc::Sender<(D::Connection, ConnectionPlace)>,
) {
    let setting_up = timeout(limit, acceptor.enter(stream, from));
    let set_up = place.place.gives_way().run_until_cancelled(setting_up).await;
    match set_up {
        // When nobody takes connections any more, this one is not wanted either.
        Some(Ok(Ok(connection))) => drop(entered.send((connection, place)).await),
        Some(Ok(Err(error))) => acceptor.refused(from, AcceptRefusal::Failed(error)),
        Some(Err(_)) => acceptor.refused(from, AcceptRefusal::Slow),
        // It has given way, which was told.
        None => {}
    }
}

/// Pause before the next try. `None`: only this client went away, and the next is not concerned (accept(2), "Error
/// handling"). Everything else, such as a lack of descriptors, leaves the connection waiting and would fail again at once.
fn pause_after(error: &io::Error, before: Option<Duration>) -> Option<Duration> {
    let gone = [
        Errno::CONNABORTED,
        Errno::CONNRESET,
        Errno::INTR,
        Errno::PROTO,
        Errno::NOPROTOOPT,
        Errno::OPNOTSUPP,
        Errno::NETDOWN,
        Errno::NETUNREACH,
        Errno::HOSTDOWN,
        Errno::HOSTUNREACH,
    ];
    let code = error.raw_os_error().map(Errno::from_raw_os_error);
    if code.is_some_and(|code| gone.contains(&code)) {
        return None;
    }
    Some(before.map_or(FIRST_PAUSE, |before| (before * 2).min(LONGEST_PAUSE)))
}

#[cfg(test)]
#[path = "accept_tests.rs"]
mod tests;
