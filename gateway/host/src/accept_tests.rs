//! Tests of the loop that takes connections of APIs.

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
        Self::start_with(limits, Descriptors::default()).await
    }

    async fn start_with(limits: AcceptLimits, descriptors: Descriptors) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (telling, refused) = mpsc::unbounded_channel();
        let (entering, entered) = mpsc::channel(1);
        tokio::spawn(accept(
            "a test",
            (listener, descriptors),
            limits,
            Knock(telling),
            entering,
        ));
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
        (listener, Descriptors::default()),
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
async fn who_finds_no_descriptor_has_one_that_is_kept_and_then_that_of_another() {
    let file = std::fs::File::open("/dev/null").unwrap();
    let descriptors = Descriptors::limited_to(1_024);
    let limits = AcceptLimits {
        connections: 64,
        of_address: 64,
        ..LIMITS
    };
    let mut bench = Bench::start_with(limits, descriptors.clone()).await;
    let mut held = Vec::new();
    for user in 0..100 {
        let holder = ShareHolder::Named(user.to_string().into());
        held.extend(std::iter::from_fn(|| descriptors.hold(&file, &holder).ok()));
    }
    let kept = descriptors.kept_for_listener() as usize;
    let (mut clients, mut places) = (Vec::new(), Vec::new());
    for _ in 0..kept + 3 {
        clients.push(bench.knock(b"y").await);
        places.push(bench.next().await.1);
    }
    let gone = |places: &[ConnectionPlace]| {
        let gone = places
            .iter()
            .take_while(|taken| taken.place.gives_way().is_cancelled());
        gone.count()
    };
    assert_eq!(gone(&places), 3, "of {kept} and three more");
    // Once there are some, they count in their holder's share, and nobody gives way.
    drop(held);
    clients.push(bench.knock(b"y").await);
    places.push(bench.next().await.1);
    assert_eq!(gone(&places), 3);
    let most = descriptors.largest_holder().unwrap();
    assert_eq!(most.held, places.len() as u64);
    drop((clients, places));
    assert_eq!(descriptors.largest_holder(), None);
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
    let accepting = tokio::spawn(accept(
        "a test",
        (listener, Descriptors::default()),
        LIMITS,
        knock,
        entering,
    ));
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
