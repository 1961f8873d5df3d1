//! The one loop that takes connections of this process's own APIs: so many at once, so many of one address, a time limit
//! until each is set up (a handshake, say), and a pause while the machine gives no more. What is set up is handed on with
//! the place that it holds; who is let in is the [`AcceptConnection`]'s business, and what is served on it the receiver's.
//!
//! The clients of services and the tunnels have loops of their own: they are one for each data thread, and hand nothing on.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsRawFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::io::Errno;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::descriptors::Descriptors;

/// First pause after an accept that would fail again at once; doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// Longest pause of that kind.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A bound listener of any kind.
pub trait Listen: Send + Sync + 'static {
    type Stream: Send + 'static;

    /// Takes the next connection, and says where it comes from; `None`: from this host, over a unix socket. Cancel-safe.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Option<SocketAddr>)>> + Send;
}

impl Listen for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, Option<SocketAddr>)> {
        let (stream, from) = Self::accept(self).await?;
        // What is asked of an API is small and answered at once. Where the option cannot be set, it is merely slower.
        let _ = stream.set_nodelay(true);
        Ok((stream, Some(from)))
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
    /// Its address has as many as one may have.
    Crowded,
    /// It was not set up in time.
    Slow,
    /// It was turned away.
    Failed(E),
}

/// Limits of one listener.
#[derive(Debug, Clone, Copy)]
pub struct AcceptLimits {
    /// Connections at once, those that are being set up included. Further ones wait in the system's queue.
    pub connections: usize,
    /// Of those, for one host (see [`host_of`]); `None`: as many as there are. Further ones are closed.
    pub of_address: Option<usize>,
    /// Longest time until a connection is set up.
    pub setup: Duration,
}

/// A connection's place among those that are served at once. It is free again when this is dropped.
#[derive(Debug)]
pub struct ConnectionPlace {
    _of_all: OwnedSemaphorePermit,
    _of_host: Option<HostPlace>,
}

/// Places that are taken, by host.
#[derive(Debug, Clone, Default)]
pub struct HostPlaces(Arc<Mutex<BTreeMap<IpAddr, usize>>>);

/// Place of one host. It is free again when this is dropped.
#[derive(Debug)]
pub struct HostPlace {
    taken: HostPlaces,
    host: IpAddr,
}

impl HostPlaces {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one of `most` places of the host that `address` is of; `None`: all are taken.
    #[must_use]
    pub fn take(&self, address: IpAddr, most: usize) -> Option<HostPlace> {
        let host = host_of(address);
        let mut all = self.lock();
        let count = all.entry(host).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        let taken = self.clone();
        Some(HostPlace { taken, host })
    }
}

impl Drop for HostPlace {
    fn drop(&mut self) {
        let mut all = self.taken.lock();
        if let Some(count) = all.get_mut(&self.host) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.host);
            }
        }
    }
}

/// Address that stands for all those which one host can choose among: its network of 64 bits in IPv6, and all of loopback.
#[must_use]
pub fn host_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        ip if ip.is_loopback() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V4(ip) => ip.into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
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
    let (acceptor, places) = (Arc::new(acceptor), Arc::new(Semaphore::new(limits.connections)));
    let hosts = HostPlaces::default();
    let mut entering = JoinSet::new();
    let mut pause = None;
    loop {
        // A free place first, so that what cannot be served is not accepted. The semaphore is never closed.
        let Ok(of_all) = Arc::clone(&places).acquire_owned().await else {
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
        let of_host = match (limits.of_address, from) {
            (Some(most), Some(from)) => match hosts.take(from.ip(), most) {
                Some(place) => Some(place),
                None => {
                    acceptor.refused(Some(from), AcceptRefusal::Crowded);
                    continue;
                }
            },
            _ => None,
        };
        let place = ConnectionPlace {
            _of_all: of_all,
            _of_host: of_host,
        };
        let (acceptor, entered) = (Arc::clone(&acceptor), entered.clone());
        // Each by itself, so that a slow one holds up no other.
        entering.spawn(async move {
            match timeout(limits.setup, acceptor.enter(stream, from)).await {
                // When nobody takes connections any more, this one is not wanted either.
                Ok(Ok(connection)) => drop(entered.send((connection, place)).await),
                Ok(Err(error)) => acceptor.refused(from, AcceptRefusal::Failed(error)),
                Err(_) => acceptor.refused(from, AcceptRefusal::Slow),
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
        of_address: None,
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
    async fn who_finds_no_place_waits_and_who_has_too_many_is_closed() {
        let mut bench = Bench::start(LIMITS).await;
        let clients = [
            bench.knock(b"y").await,
            bench.knock(b"y").await,
            bench.knock(b"y").await,
        ];
        let (first, _second) = (bench.next().await, bench.next().await);
        let third = timeout(Duration::from_millis(100), bench.entered.recv()).await;
        assert!(third.is_err(), "only two are served at once");
        drop(first);
        bench.next().await;
        drop(clients);

        let of_address = Some(1);
        let mut bench = Bench::start(AcceptLimits { of_address, ..LIMITS }).await;
        let _client = bench.knock(b"y").await;
        let first = bench.next().await;
        let mut closed = TcpStream::connect(bench.address).await.unwrap();
        assert_eq!(bench.refusal().await, "crowded");
        assert_eq!(
            timeout(PATIENCE, closed.read(&mut [0])).await.unwrap().unwrap(),
            0
        );
        drop(first);
        let _client = bench.knock(b"y").await;
        bench.next().await;
    }

    #[test]
    fn addresses_that_one_host_can_choose_among_count_as_one() {
        let host = |address: &str| host_of(address.parse().unwrap());
        for (one, other, alike) in [
            ("127.0.0.1", "127.9.0.2", true),
            ("127.0.0.1", "::1", true),
            ("10.0.0.1", "::ffff:10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("2001:db8::1", "2001:db8::ffff:0:0:2", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
        ] {
            assert_eq!(host(one) == host(other), alike, "{one} {other}");
        }
        let places = HostPlaces::default();
        let take = |address: &str| places.take(address.parse().unwrap(), 1);
        let first = take("2001:db8::1");
        assert!(first.is_some() && take("2001:db8::2").is_none() && take("2001:db8:1::1").is_some());
        drop(first);
        assert!(take("2001:db8::2").is_some());
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
