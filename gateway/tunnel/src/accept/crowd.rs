//! A host that begins handshakes without end, over real QUIC: others still get in.

use std::{
    io::{self, IoSliceMut},
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Instant,
};

use quinn::{
    AsyncUdpSocket, ClientConfig, EndpointConfig, Runtime as _, TokioRuntime, UdpPoller,
    udp::{RecvMeta, Transmit},
};

use super::*;
use crate::testbed::credentials;

/// Handshakes that the hostile host begins: more than there are places for all.
const HOSTILE: usize = MAX_HANDSHAKES + 88;
/// Of them, those that it begins at once, so that the kernel loses none.
const WAVE: usize = 40;
const PATIENCE: Duration = Duration::from_secs(20);
/// Time in which others get in.
const SOON: Duration = Duration::from_secs(3);

/// Effect of a socket on what passes it.
#[derive(Debug)]
enum Passage {
    /// Shows 127.0.0.N as 10.0.0.N: all of loopback is one host, and these are several.
    Apart,
    /// Hears nothing but that an address has to be shown (RFC 9000 §17.2.5), and counts how often: so its handshakes never end.
    Deaf(Arc<AtomicUsize>),
}

#[derive(Debug)]
struct OddSocket {
    socket: Arc<dyn AsyncUdpSocket>,
    passage: Passage,
}

fn in_network(address: SocketAddr, network: u8) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => {
            let [_, a, b, c] = ip.octets();
            SocketAddr::new(Ipv4Addr::new(network, a, b, c).into(), address.port())
        }
        IpAddr::V6(_) => address,
    }
}

/// A Retry: a long header, and type 3.
fn is_retry(datagram: &[u8]) -> bool {
    datagram.first().is_some_and(|first| first & 0xb0 == 0xb0)
}

impl AsyncUdpSocket for OddSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.socket).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let destination = match self.passage {
            Passage::Apart => in_network(transmit.destination, 127),
            Passage::Deaf(_) => transmit.destination,
        };
        self.socket.try_send(&Transmit {
            destination,
            ecn: transmit.ecn,
            contents: transmit.contents,
            segment_size: transmit.segment_size,
            src_ip: None,
        })
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let received = ready!(self.socket.poll_recv(cx, bufs, metas))?;
        for (meta, buf) in metas.iter_mut().zip(bufs.iter()).take(received) {
            match &self.passage {
                Passage::Apart => meta.addr = in_network(meta.addr, 10),
                Passage::Deaf(retries) if is_retry(buf) => drop(retries.fetch_add(1, Ordering::Relaxed)),
                Passage::Deaf(_) => meta.len = 0,
            }
        }
        Poll::Ready(Ok(received))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.socket.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.socket.max_receive_segments()
    }
}

/// Endpoint at 127.0.0.`host`.
fn endpoint(host: u8, passage: Option<Passage>, server: Option<quinn::ServerConfig>) -> Endpoint {
    let socket = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, host), 0)).unwrap();
    let mut socket = TokioRuntime.wrap_udp_socket(socket).unwrap();
    if let Some(passage) = passage {
        socket = Arc::new(OddSocket { socket, passage });
    }
    let config = EndpointConfig::default();
    Endpoint::new_with_abstract_socket(config, server, socket, Arc::new(TokioRuntime)).unwrap()
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_host_that_begins_handshakes_without_end_keeps_no_other_out() {
    let (config, roots) = credentials();
    let server = endpoint(1, Some(Passage::Apart), Some(config));
    let address = server.local_addr().unwrap();
    let (begun_here, welcomed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (seen, counted) = (begun_here.clone(), welcomed.clone());
    let is_draining = move || {
        seen.fetch_add(1, Ordering::Relaxed);
        false
    };
    // No handshake is given up, so that no place is free by itself.
    let taking = take(server.clone(), is_draining, move |incoming, place| {
        counted.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(async move {
            if let Ok(connection) = incoming.await {
                drop(place);
                connection.closed().await;
            }
        });
    });
    let taking = tokio::spawn(taking);

    let client = ClientConfig::with_root_certificates(Arc::new(roots)).unwrap();
    let retries = Arc::new(AtomicUsize::new(0));
    let hostile = endpoint(66, Some(Passage::Deaf(retries.clone())), None);
    let begin = |_| {
        hostile
            .connect_with(client.clone(), address, "localhost")
            .unwrap()
    };
    let mut begun: Vec<_> = Vec::new();
    while begun.len() < HOSTILE {
        begun.extend((0..WAVE).map(begin));
        let heard = || {
            welcomed
                .load(Ordering::Relaxed)
                .min(VALIDATE_FROM_HANDSHAKES_OF_HOST)
        };
        until("every handshake is answered", || {
            retries.load(Ordering::Relaxed) + heard() >= begun.len()
        })
        .await;
    }
    until("it has all the places that it may have", || {
        // All but the first have begun twice, the second time with what shows their address.
        let twice = 2 * begun.len() - VALIDATE_FROM_HANDSHAKES_OF_HOST;
        welcomed.load(Ordering::Relaxed) >= MAX_HANDSHAKES_OF_HOST
            && begun_here.load(Ordering::Relaxed) >= twice
    })
    .await;
    let honest = endpoint(2, None, None);
    let connecting = honest.connect_with(client, address, "localhost").unwrap();
    let connected = timeout(SOON, connecting).await;
    assert!(connected.is_ok_and(|connected| connected.is_ok()));
    taking.abort();
}
