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
    time::{Instant, sleep_until},
};

use super::Conditions;

/// Largest datagram in bytes.
const MAX_DATAGRAM_BYTES: usize = 65_535;
/// Datagrams under way in one direction; what comes on top is lost, as in a router's queue.
const MAX_UNDER_WAY: usize = 16_384;
/// Senders that one front remembers; a gateway has one for each data thread.
const MAX_SENDERS: usize = 1_024;
/// Kernel buffer of each socket in bytes.
const SOCKET_BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// A datagram and when it arrives.
type Parcel = (Instant, Vec<u8>);

/// Opens a front and starts to forward.
pub(super) async fn open(
    address: SocketAddr,
    gateway: SocketAddr,
    conditions: watch::Receiver<Conditions>,
) -> io::Result<SocketAddr> {
    let socket = Arc::new(socket(address)?);
    let own = socket.local_addr()?;
    tokio::spawn(forward(socket, gateway, conditions));
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
async fn forward(front: Arc<UdpSocket>, gateway: SocketAddr, conditions: watch::Receiver<Conditions>) {
    let mut senders: HashMap<SocketAddr, mpsc::Sender<Parcel>> = HashMap::new();
    let mut buffer = vec![0; MAX_DATAGRAM_BYTES];
    // A fixed seed: which datagrams are lost depends only on how many came before.
    let mut rng = SmallRng::seed_from_u64(1);
    loop {
        let Ok((length, from)) = front.recv_from(&mut buffer).await else {
            // A port that answered "unreachable" once says nothing about the next datagram.
            continue;
        };
        if !senders.contains_key(&from) {
            if senders.len() >= MAX_SENDERS {
                continue;
            }
            let Ok(line) = connect(&front, from, gateway, conditions.clone()).await else {
                continue;
            };
            senders.insert(from, line);
        }
        if let Some(line) = senders.get(&from) {
            post(line, &buffer[..length], *conditions.borrow(), &mut rng);
        }
    }
}

/// Opens the socket towards the gateway for a new sender and starts both delay lines. Returns the one to the gateway.
async fn connect(
    front: &Arc<UdpSocket>,
    sender: SocketAddr,
    gateway: SocketAddr,
    conditions: watch::Receiver<Conditions>,
) -> io::Result<mpsc::Sender<Parcel>> {
    let unspecified = match gateway.ip() {
        IpAddr::V4(_) => SocketAddr::from(([127, 0, 0, 1], 0)),
        IpAddr::V6(_) => SocketAddr::from(([0; 8], 0)),
    };
    let upstream = Arc::new(socket(unspecified)?);
    upstream.connect(gateway).await?;
    let (there, line_there) = mpsc::channel(MAX_UNDER_WAY);
    let (back, line_back) = mpsc::channel(MAX_UNDER_WAY);
    let to_gateway = upstream.clone();
    tokio::spawn(deliver(
        line_there,
        conditions.clone(),
        async move |datagram: &[u8]| to_gateway.send(datagram).await,
    ));
    let front = front.clone();
    tokio::spawn(deliver(
        line_back,
        conditions.clone(),
        async move |datagram: &[u8]| front.send_to(datagram, sender).await,
    ));
    tokio::spawn(answer(upstream, back, conditions));
    Ok(there)
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
