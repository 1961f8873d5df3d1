//! Tunnels for the tests of crates above this one: two ends joined by real QUIC over loopback, without identity, topology
//! or liveness; and what a test may do to a tunnel that the program does not.

#![allow(clippy::unwrap_used, reason = "what fails in a test's set-up fails the test")]

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, mpsc},
};

use causeway_federation::name::GatewayId;
use quinn::{ClientConfig, Connection, Endpoint, ServerConfig};
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::{runtime::Builder, sync::oneshot};

use super::{
    Capabilities, Close, Ended, LinkError, MemoryBudget, OPENED, PORTS, RecvHalf, SendHalf, Stream, Tunnel,
};

/// Joins gateways `near` and `far`. Gives the tunnel to `far`, as `near` has dialled it, and the tunnel to `near`.
///
/// # Panics
/// When loopback does not work.
pub async fn pair(near: GatewayId, far: GatewayId) -> (Arc<Tunnel>, Arc<Tunnel>) {
    // Those that need no session of their own.
    pair_telling(near, far, &[OPENED, PORTS]).await
}

/// As [`pair`], where `far` has told these capabilities.
///
/// # Panics
/// When loopback does not work.
pub async fn pair_telling(near: GatewayId, far: GatewayId, told: &[&str]) -> (Arc<Tunnel>, Arc<Tunnel>) {
    let (here, there) = connections().await;
    let memory = MemoryBudget::default();
    let heard = |told: &[&str]| Capabilities::heard(told.iter().map(ToString::to_string).collect());
    let (far_told, near_told) = (heard(told), heard(&[OPENED, PORTS]));
    (
        Arc::new(Tunnel::new(here, far, 0, true).with_capabilities(far_told, &memory)),
        Arc::new(Tunnel::new(there, near, 0, false).with_capabilities(near_told, &memory)),
    )
}

/// Joins this side to gateway `far`, whose process does nothing any more: what is sent to it arrives and is not even
/// acknowledged. It stays so until what is returned beside the tunnel is dropped.
///
/// # Panics
/// When loopback does not work.
pub async fn paused(far: GatewayId) -> (Arc<Tunnel>, mpsc::Sender<()>) {
    let (config, roots) = credentials();
    let (told, address) = oneshot::channel();
    let (hold, held) = mpsc::channel();
    let (up, is_up) = oneshot::channel();
    std::thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let accepted = runtime.block_on(async {
            let server = Endpoint::server(config, SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
            told.send(server.local_addr().unwrap()).unwrap();
            let connection = server.accept().await.unwrap().await.unwrap();
            is_up.await.unwrap();
            (server, connection)
        });
        // Its sender is dropped.
        held.recv().unwrap_err();
        drop(accepted);
    });
    let connected = dial(address.await.unwrap(), roots).await;
    up.send(()).unwrap();
    (Arc::new(Tunnel::new(connected, far, 0, true)), hold)
}

pub(super) fn credentials() -> (ServerConfig, rustls::RootCertStore) {
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let certificate = certified.cert.der().clone();
    let key = PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
    let server = ServerConfig::with_single_cert(vec![certificate.clone()], key.into()).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    (server, roots)
}

async fn dial(address: SocketAddr, roots: rustls::RootCertStore) -> Connection {
    let client = Endpoint::client(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let config = ClientConfig::with_root_certificates(Arc::new(roots)).unwrap();
    let connecting = client.connect_with(config, address, "localhost").unwrap();
    connecting.await.unwrap()
}

async fn connections() -> (Connection, Connection) {
    let (config, roots) = credentials();
    let server = Endpoint::server(config, SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let dialling = dial(server.local_addr().unwrap(), roots);
    let accepting = async { server.accept().await.unwrap().await.unwrap() };
    tokio::join!(dialling, accepting)
}

impl Tunnel {
    /// Waits for a stream that the peer opens, its header unread.
    ///
    /// # Errors
    /// When the tunnel is gone.
    pub async fn accept_bare(&self) -> Result<Stream, LinkError> {
        self.connection()
            .accept_bi()
            .await
            .map(Stream::of)
            .map_err(LinkError)
    }

    /// Waits until the tunnel has ended.
    pub async fn closed(&self) -> Ended {
        Ended::of(&self.connection().closed().await)
    }

    /// Bytes that this side has written to streams that carry connections and the peer has not taken, where that is counted.
    #[must_use]
    pub fn untaken_bytes(&self) -> u64 {
        self.credit().map_or(0, |credit| credit.untaken_bytes())
    }

    /// Ends the tunnel in good order.
    pub fn close(&self) {
        self.connection().close(Close::UNNEEDED.code(), b"a test ends it");
    }
}

impl From<quinn::SendStream> for SendHalf {
    fn from(send: quinn::SendStream) -> Self {
        Self::of(send)
    }
}

impl From<quinn::RecvStream> for RecvHalf {
    fn from(recv: quinn::RecvStream) -> Self {
        Self::of(recv)
    }
}

impl Ended {
    /// Reads how a connection ended that a test has made by itself.
    #[must_use]
    pub fn of_connection(error: &quinn::ConnectionError) -> Self {
        Self::of(error)
    }
}
