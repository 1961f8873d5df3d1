//! One front: a socket that stands for a gateway, and a socket towards the gateway for each sender that it has seen.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use rand::{SeedableRng, rngs::SmallRng};
use tokio::{
    net::UdpSocket,
    sync::{mpsc, watch},
    task::AbortHandle,
    time::{Instant, sleep_until},
};

use super::Conditions;

/// Largest datagram in bytes.
const MAX_DATAGRAM_BYTES: usize = 65_535;
/// Datagrams under way in one direction; what comes on top is lost, as in a router's queue.
const MAX_UNDER_WAY: usize = 16_384;
/// Senders that one front remembers; a gateway has one for each data thread, and others after each restart. The one that
/// was silent longest makes room.
const MAX_SENDERS: usize = 256;
/// Kernel buffer of each socket in bytes.
const SOCKET_BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// A datagram and when it arrives.
type Parcel = (Instant, Vec<u8>);

/// The conditions of the two directions between one sender and the gateway.
#[derive(Debug, Clone)]
pub(super) struct Way {
    pub there: watch::Receiver<Conditions>,
    pub back: watch::Receiver<Conditions>,
}

/// Says by which way a sender reaches the gateway; who has none is not served.
pub(super) type Ways = Box<dyn Fn(IpAddr) -> Option<Way> + Send>;

/// Memory of a front of one sender.
struct Sender {
    line: mpsc::Sender<Parcel>,
    there: watch::Receiver<Conditions>,
    seen: Instant,
    answering: AbortHandle,
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.answering.abort();
    }
}

/// Opens a front and starts to forward.
pub(super) async fn open(address: SocketAddr, gateway: SocketAddr, ways: Ways) -> io::Result<SocketAddr> {
    let socket = Arc::new(socket(address)?);
    let own = socket.local_addr()?;
    tokio::spawn(forward(socket, gateway, ways));
    Ok(own)
}

fn socket(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind(address)?;
    socket.set_nonblocking(true)?;
    // More than the default, so that a burst is not lost before the emulation has seen it; best effort.
    let _ = rustix::net::sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER_BYTES);
    UdpSocket::from_std(socket)
}

/// Receives at the front, and passes on over one delay line per sender.
async fn forward(front: Arc<UdpSocket>, gateway: SocketAddr, ways: Ways) {
    let mut senders: HashMap<SocketAddr, Sender> = HashMap::new();
    let mut buffer = vec![0; MAX_DATAGRAM_BYTES];
    // A fixed seed: which datagrams are lost depends only on how many came before.
    let mut rng = SmallRng::seed_from_u64(1);
    loop {
        let Ok((length, from)) = front.recv_from(&mut buffer).await else {
            // A port that answered "unreachable" once says nothing about the next datagram.
            continue;
        };
        if !senders.contains_key(&from) {
            let Some(way) = ways(from.ip()) else { continue };
            let Ok(sender) = connect(&front, from, gateway, way).await else {
                continue;
            };
            make_room(&mut senders);
            senders.insert(from, sender);
        }
        if let Some(sender) = senders.get_mut(&from) {
            sender.seen = Instant::now();
            post(&sender.line, &buffer[..length], *sender.there.borrow(), &mut rng);
        }
    }
}

fn make_room(senders: &mut HashMap<SocketAddr, Sender>) {
    if senders.len() < MAX_SENDERS {
        return;
    }
    let silent = senders.iter().min_by_key(|(_, sender)| sender.seen);
    if let Some(address) = silent.map(|(address, _)| *address) {
        senders.remove(&address);
    }
}

/// Opens the socket towards the gateway for a new sender and starts both delay lines.
async fn connect(
    front: &Arc<UdpSocket>,
    sender: SocketAddr,
    gateway: SocketAddr,
    way: Way,
) -> io::Result<Sender> {
    // A loopback address cannot send to another network.
    let own = match gateway.ip() {
        IpAddr::V4(address) if address.is_loopback() => SocketAddr::from(([127, 0, 0, 1], 0)),
        IpAddr::V4(_) => SocketAddr::from(([0; 4], 0)),
        IpAddr::V6(_) => SocketAddr::from(([0; 8], 0)),
    };
    let upstream = Arc::new(socket(own)?);
    upstream.connect(gateway).await?;
    let (there, line_there) = mpsc::channel(MAX_UNDER_WAY);
    let (back, line_back) = mpsc::channel(MAX_UNDER_WAY);
    let to_gateway = upstream.clone();
    tokio::spawn(deliver(
        line_there,
        way.there.clone(),
        async move |datagram: &[u8]| to_gateway.send(datagram).await,
    ));
    let front = front.clone();
    tokio::spawn(deliver(
        line_back,
        way.back.clone(),
        async move |datagram: &[u8]| front.send_to(datagram, sender).await,
    ));
    let answering = tokio::spawn(answer(upstream, back, way.back));
    Ok(Sender {
        line: there,
        there: way.there,
        seen: Instant::now(),
        answering: answering.abort_handle(),
    })
}

/// Receives what the gateway sends back to one sender.
async fn answer(
    upstream: Arc<UdpSocket>,
    line: mpsc::Sender<Parcel>,
    conditions: watch::Receiver<Conditions>,
) {
    let mut buffer = vec![0; MAX_DATAGRAM_BYTES];
    let mut rng = SmallRng::seed_from_u64(2);
    loop {
        match upstream.recv(&mut buffer).await {
            Ok(length) => post(&line, &buffer[..length], *conditions.borrow(), &mut rng),
            // The gateway is not there (yet): nothing to pass on, but do not spin.
            Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
}

fn post(line: &mpsc::Sender<Parcel>, datagram: &[u8], conditions: Conditions, rng: &mut SmallRng) {
    if conditions.pass(rng) {
        let _ = line.try_send((Instant::now() + conditions.delay, datagram.to_vec()));
    }
}

/// Hands datagrams over when they are due. What is under way when the link is cut is lost too.
async fn deliver(
    mut line: mpsc::Receiver<Parcel>,
    conditions: watch::Receiver<Conditions>,
    send: impl AsyncFn(&[u8]) -> io::Result<usize>,
) {
    while let Some((due, datagram)) = line.recv().await {
        if due > Instant::now() {
            sleep_until(due).await;
        }
        if !conditions.borrow().cut {
            let _ = send(&datagram).await;
        }
    }
}
