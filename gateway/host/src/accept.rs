//! The one loop that takes connections of this process's own APIs: so many at once, so many of one address, a time limit
//! until each is set up (a handshake, say), and a pause while the machine gives no more. What is set up is handed on with
//! the place that it holds; who is let in is the [`AcceptConnection`]'s business, and what is served on it the receiver's, who
//! ends a connection when its place is given to another one (`places`).
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
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    descriptors::Descriptors,
    kernel::client_user,
    places::{Place, Places},
    share::ShareHolder,
};

/// First pause after an accept that would fail again at once; doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// Longest pause of that kind.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Most connections that have given way and are about to end.
const MAX_ENDING: usize = 64;

/// A bound listener of any kind.
pub trait Listen: Send + Sync + 'static {
    type Stream: Send + 'static;

    /// Takes the next connection, and says where it comes from; `None`: from this host, over a unix socket. Cancel-safe.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Option<SocketAddr>)>> + Send;

    /// Returns the own end of a connection over TCP.
    fn own_end(_: &Self::Stream) -> Option<SocketAddr> {
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

/// Listener whose connections take no descriptor that is kept for what the process needs to go on: those beyond are closed.
#[derive(Debug)]
pub struct WithinDescriptors<L> {
    pub listener: L,
    pub descriptors: Descriptors,
}

impl<L: Listen<Stream: AsRawFd>> Listen for WithinDescriptors<L> {
    type Stream = L::Stream;

    async fn accept(&self) -> io::Result<(L::Stream, Option<SocketAddr>)> {
        loop {
            let (stream, from) = self.listener.accept().await?;
            if self.descriptors.may_hold(&stream) {
                return Ok((stream, from));
            }
            tracing::debug!(
                from = from.map(tracing::field::display),
                "closed a connection: no descriptors are left for it"
            );
        }
    }

    fn own_end(stream: &L::Stream) -> Option<SocketAddr> {
        L::own_end(stream)
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
    pub place: Arc<Place>,
}

/// Names the party that takes a place with a connection. On this host that is a user: any program can use any address here.
fn holder(from: Option<SocketAddr>, own_end: Option<SocketAddr>) -> ShareHolder {
    let Some(from) = from else {
        return ShareHolder::ThisHost;
    };
    match (ShareHolder::at(from.ip()), own_end) {
        (ShareHolder::ThisHost, Some(own)) => {
            client_user(from, own).map_or(ShareHolder::ThisHost, ShareHolder::User)
        }
        (holder, _) => holder,
    }
}

/// Accepts until nobody takes the connections any more, and then gives up those that are being set up. `what` names the
/// listener in the log.
pub async fn accept<L: Listen, D: AcceptConnection<L::Stream>>(
    what: &'static str,
    listener: L,
    limits: AcceptLimits,
    acceptor: D,
    entered: mpsc::Sender<(D::Connection, ConnectionPlace)>,
) {
    tokio::select! {
        () = accept_all(what, listener, limits, acceptor, &entered) => {}
        () = entered.closed() => {}
    }
}

async fn accept_all<L: Listen, D: AcceptConnection<L::Stream>>(
    what: &'static str,
    listener: L,
    limits: AcceptLimits,
    acceptor: D,
    entered: &mpsc::Sender<(D::Connection, ConnectionPlace)>,
) {
    let (acceptor, places) = (Arc::new(acceptor), Places::new(limits.connections));
    let accepted = Arc::new(Semaphore::new(limits.connections + MAX_ENDING));
    let mut entering = JoinSet::new();
    let mut pause = None;
    loop {
        // A free place first, so that what cannot be served is not accepted. The semaphore is never closed.
        let Ok(permit) = Arc::clone(&accepted).acquire_owned().await else {
            return;
        };
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                let next = pause_after(&error, pause);
                if let (None, Some(first)) = (pause, next) {
                    tracing::warn!(%error, "{what} cannot accept connections; it is tried again after {first:?} and more");
                }
                pause = next;
                sleep(next.unwrap_or_default()).await;
                continue;
            }
        };
        pause = None;
        while entering.try_join_next().is_some() {}
        let most = from.map_or(limits.connections, |_| limits.of_address);
        let holder = holder(from, L::own_end(&stream));
        let Some((place, gone)) = places.take(holder, from, most, Instant::now()) else {
            acceptor.refused(from, AcceptRefusal::Crowded);
            continue;
        };
        if gone.is_some() {
            acceptor.refused(gone, AcceptRefusal::Crowded);
        }
        let place = ConnectionPlace {
            _accepted: permit,
            place,
        };
        let (acceptor, entered) = (Arc::clone(&acceptor), entered.clone());
        // Each by itself, so that a slow one holds up no other.
        entering.spawn(async move {
            let setting_up = timeout(limits.setup, acceptor.enter(stream, from));
            let set_up = place.place.gives_way().run_until_cancelled(setting_up).await;
            match set_up {
                // When nobody takes connections any more, this one is not wanted either.
                Some(Ok(Ok(connection))) => drop(entered.send((connection, place)).await),
                Some(Ok(Err(error))) => acceptor.refused(from, AcceptRefusal::Failed(error)),
                Some(Err(_)) => acceptor.refused(from, AcceptRefusal::Slow),
                // It has given way, which was told.
                None => {}
            }
        });
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
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        sync::Notify,
    };

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);
    const LIMITS: AcceptLimits = AcceptLimits {
        connections: 2,
        of_address: 2,
        setup: PATIENCE,
    };

    /// Lets in whoever says so with a byte, and tells why others were not.
    struct Knock(mpsc::UnboundedSender<&'static str>);

    impl AcceptConnection<TcpStream> for Knock {
        type Connection = TcpStream;
        type Error = io::Error;

        async fn enter(&self, mut stream: TcpStream, _: Option<SocketAddr>) -> io::Result<TcpStream> {
            match stream.read_u8().await? {
                b'y' => Ok(stream),
                _ => Err(io::ErrorKind::PermissionDenied.into()),
            }
        }

        fn refused(&self, _: Option<SocketAddr>, why: AcceptRefusal<io::Error>) {
            let _ = self.0.send(match why {
                AcceptRefusal::Crowded => "crowded",
                AcceptRefusal::Slow => "slow",
                AcceptRefusal::Failed(_) => "failed",
            });
        }
    }

    struct Bench {
        address: SocketAddr,
        entered: mpsc::Receiver<(TcpStream, ConnectionPlace)>,
        refused: mpsc::UnboundedReceiver<&'static str>,
    }

    impl Bench {
        async fn start(limits: AcceptLimits) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let (telling, refused) = mpsc::unbounded_channel();
            let (entering, entered) = mpsc::channel(1);
            tokio::spawn(accept("a test", listener, limits, Knock(telling), entering));
            Self {
                address,
                entered,
                refused,
            }
        }

        async fn knock(&self, word: &[u8]) -> TcpStream {
            let mut client = TcpStream::connect(self.address).await.unwrap();
            client.write_all(word).await.unwrap();
            client
        }

        async fn next(&mut self) -> (TcpStream, ConnectionPlace) {
            let next = timeout(PATIENCE, self.entered.recv()).await;
            next.expect("a connection in time").expect("a connection")
        }

        async fn refusal(&mut self) -> &'static str {
            let next = timeout(PATIENCE, self.refused.recv()).await;
            next.expect("a refusal in time").expect("a refusal")
        }
    }

    #[tokio::test]
    async fn a_slow_client_holds_up_no_other_and_is_given_up() {
        let setup = Duration::from_millis(200);
        let mut bench = Bench::start(AcceptLimits { setup, ..LIMITS }).await;
        let silent = bench.knock(b"").await;
        let welcome = bench.knock(b"y").await;
        let (served, place) = bench.next().await;
        assert_eq!(served.peer_addr().unwrap(), welcome.local_addr().unwrap());
        assert_eq!(bench.refusal().await, "slow");
        drop((silent, place));
        bench.knock(b"n").await;
        assert_eq!(bench.refusal().await, "failed");
    }

    #[tokio::test]
    async fn the_idlest_gives_way_to_who_comes_and_who_has_all_in_use_is_closed() {
        let mut bench = Bench::start(LIMITS).await;
        let _clients = [bench.knock(b"y").await, bench.knock(b"y").await];
        let ((_, first), (_, second)) = (bench.next().await, bench.next().await);
        let _third = bench.knock(b"y").await;
        let (_, third) = bench.next().await;
        assert!(first.place.gives_way().is_cancelled() && !second.place.gives_way().is_cancelled());
        assert_eq!(bench.refusal().await, "crowded");
        let _calls = (second.place.call(), third.place.call());
        let mut closed = TcpStream::connect(bench.address).await.unwrap();
        assert_eq!(bench.refusal().await, "crowded");
        let end = timeout(PATIENCE, closed.read(&mut [0])).await.unwrap();
        assert_eq!(end.unwrap(), 0);
        drop(third);
    }

    #[tokio::test]
    async fn who_is_being_set_up_gives_way_too() {
        let mut bench = Bench::start(LIMITS).await;
        let mut silent = bench.knock(b"").await;
        let (_, _welcome) = (bench.knock(b"y").await, bench.next().await);
        let _another = bench.knock(b"y").await;
        bench.next().await;
        assert_eq!(bench.refusal().await, "crowded");
        let end = timeout(PATIENCE, silent.read(&mut [0])).await.unwrap();
        assert_eq!(end.unwrap(), 0);
    }

    #[tokio::test]
    async fn the_listener_is_closed_once_nobody_takes_connections() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (entering, entered) = mpsc::channel(1);
        let accepting = accept(
            "a test",
            listener,
            LIMITS,
            Knock(mpsc::unbounded_channel().0),
            entering,
        );
        let accepting = tokio::spawn(accepting);
        drop(entered);
        timeout(PATIENCE, accepting).await.unwrap().unwrap();
        assert!(TcpStream::connect(address).await.is_err());
    }

    #[tokio::test]
    async fn a_connection_takes_no_descriptor_that_is_kept() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let descriptors = Descriptors::limited_to(0);
        let listener = WithinDescriptors {
            listener,
            descriptors: descriptors.clone(),
        };
        let accepting = tokio::spawn(async move { Listen::accept(&listener).await });
        let mut closed = TcpStream::connect(address).await.unwrap();
        let end = timeout(PATIENCE, closed.read(&mut [0])).await.unwrap();
        assert_eq!(end.unwrap(), 0);
        descriptors.set_limit(1_000_000);
        let client = TcpStream::connect(address).await.unwrap();
        let accepted = timeout(PATIENCE, accepting).await.unwrap().unwrap().unwrap();
        assert_eq!(accepted.1, client.local_addr().ok());
    }

    /// A listener of a process without descriptors for the first few tries.
    struct Exhausted {
        tries: Arc<AtomicUsize>,
        tried: Arc<Notify>,
    }

    impl Listen for Exhausted {
        type Stream = TcpStream;

        async fn accept(&self) -> io::Result<(TcpStream, Option<SocketAddr>)> {
            self.tries.fetch_add(1, Ordering::Relaxed);
            self.tried.notify_one();
            Err(io::Error::from_raw_os_error(Errno::MFILE.raw_os_error()))
        }
    }

    #[tokio::test]
    async fn a_lack_of_descriptors_is_waited_out_with_growing_pauses() {
        let (tries, tried) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let listener = Exhausted {
            tries: tries.clone(),
            tried: tried.clone(),
        };
        let (entering, _entered) = mpsc::channel(1);
        let knock = Knock(mpsc::unbounded_channel().0);
        let accepting = tokio::spawn(accept("a test", listener, LIMITS, knock, entering));
        let begun = std::time::Instant::now();
        while tries.load(Ordering::Relaxed) < 4 {
            timeout(PATIENCE, tried.notified()).await.unwrap();
        }
        assert!(begun.elapsed() >= FIRST_PAUSE * (1 + 2 + 4), "it did not pause");
        accepting.abort();
    }

    #[test]
    fn a_pause_has_a_longest_and_clients_that_went_away_cost_none() {
        let gone = io::Error::from_raw_os_error(Errno::CONNABORTED.raw_os_error());
        assert_eq!(pause_after(&gone, Some(FIRST_PAUSE)), None);
        let exhausted = io::Error::from_raw_os_error(Errno::NFILE.raw_os_error());
        assert_eq!(pause_after(&exhausted, None), Some(FIRST_PAUSE));
        assert_eq!(pause_after(&exhausted, Some(LONGEST_PAUSE)), Some(LONGEST_PAUSE));
    }
}
