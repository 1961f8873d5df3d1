//! The connections of those who ask the CA: accepted, limited, and made secure before anything is read from them.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use causeway_host::{
    accept::{AcceptConnection, AcceptLimits, AcceptRefusal, accept},
    descriptors::Descriptors,
};
use causeway_identity::{Admitted, Guarded, Serial, handshake_word};
use causeway_telemetry::RateLimited;
use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::{Stream, StreamExt as _, wrappers::ReceiverStream};

use super::{
    current::{Current, Served},
    revoking::{self, CaRevocations},
    service::Shown,
};

/// Connections served at once, handshakes included.
const MAX_CONNECTIONS: usize = 512;
/// Of one host, or one user of this host. A gateway that passes on what others ask has as many.
pub(super) const MAX_CONNECTIONS_OF_HOST: usize = 32;
/// Connections that are secure and wait to be served.
const SECURE: usize = 16;
/// For the handshake; what takes longer is nobody who wants a certificate.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);

/// Client at the other end.
#[derive(Clone)]
pub(super) struct Peer {
    pub address: SocketAddr,
    /// The chain that was shown and verified; empty: none was.
    pub chain: Vec<CertificateDer<'static>>,
    /// The CA whose certificate this connection was answered with.
    pub served: Arc<Served>,
}

/// A secure connection and its place.
pub(super) type CaConnection = Admitted<Guarded<TlsStream<TcpStream>>, Peer>;

/// Listener of the CA: TLS with the certificate that is in use at that moment.
struct CaListener {
    current: Arc<Current>,
    shown: Shown,
    revocations: CaRevocations,
    /// Keeps an address that fails all the time from filling the log.
    rate_limited: Mutex<RateLimited<IpAddr>>,
}

impl AcceptConnection<TcpStream> for CaListener {
    type Connection = (Guarded<TlsStream<TcpStream>>, Peer);
    type Error = io::Error;

    async fn enter(&self, stream: TcpStream, from: Option<SocketAddr>) -> io::Result<Self::Connection> {
        let address = from.map_or_else(|| stream.peer_addr(), Ok)?;
        let (stream, peer) = handshake(stream, address, self.current.clone()).await?;
        if let Some(serial) = peer.chain.first().and_then(|leaf| Serial::of(leaf)) {
            self.shown.note(serial, Instant::now());
        }
        let stream = revoking::guard(stream, &peer.chain, self.revocations.clone());
        Ok((stream, peer))
    }

    fn refused(&self, from: Option<SocketAddr>, why: AcceptRefusal<io::Error>) {
        let Some(address) = from else { return };
        // Connected and gone, as load balancers do to see whether anybody listens.
        if matches!(&why, AcceptRefusal::Failed(error) if error.kind() == io::ErrorKind::UnexpectedEof) {
            return;
        }
        let ip = address.ip().to_canonical();
        let Some(repeats) = self.rate_limited.lock().admit(Instant::now(), ip) else {
            return;
        };
        let (reason, error) = match why {
            AcceptRefusal::Crowded => {
                return tracing::warn!(%address, repeats, "refused a connection: too many at once");
            }
            AcceptRefusal::Slow => ("slow", format!("it took longer than {HANDSHAKE_LIMIT:?}")),
            AcceptRefusal::Failed(error) => (handshake_word(&error), error.to_string()),
        };
        tracing::warn!(reason, %address, repeats, error, "a TLS handshake with the CA failed");
    }
}

/// The secure connections, as they come.
pub(super) fn connections(
    listener: TcpListener,
    current: Arc<Current>,
    shown: Shown,
    revocations: CaRevocations,
) -> impl Stream<Item = io::Result<CaConnection>> {
    let (entered, waiting) = mpsc::channel(SECURE);
    let limits = AcceptLimits {
        connections: MAX_CONNECTIONS,
        of_address: MAX_CONNECTIONS_OF_HOST,
        setup: HANDSHAKE_LIMIT,
    };
    let entrance = CaListener {
        current,
        shown,
        revocations,
        rate_limited: Mutex::new(RateLimited::new()),
    };
    let listener = (listener, Descriptors::default());
    // When it ends, so does the stream, and with it the server.
    tokio::spawn(accept("the CA", listener, limits, entrance, entered));
    ReceiverStream::new(waiting).map(|((stream, from), place)| Ok(CaConnection::new(stream, from, place)))
}

async fn handshake(
    stream: TcpStream,
    address: SocketAddr,
    current: Arc<Current>,
) -> io::Result<(TlsStream<TcpStream>, Peer)> {
    let look = tokio::task::spawn_blocking(move || current.fresh(SystemTime::now()));
    let served = look.await.map_err(io::Error::other)?;
    let stream = TlsAcceptor::from(served.tls.clone()).accept(stream).await?;
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let peer = Peer {
        address,
        chain: chain.to_vec(),
        served,
    };
    Ok((stream, peer))
}
