//! The connections of those who ask the CA: accepted, limited, and made secure before anything is read from them.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;

use super::current::{Current, Served};
use crate::{
    credentials::handshake_word,
    listen::{ACCEPT_PAUSE, Admitted},
    tunnel::Quiet,
};

/// Connections served at once, handshakes included; further ones are closed.
const MAX_CONNECTIONS: usize = 512;
/// Of one address. A gateway that passes on what others ask has as many.
const MAX_CONNECTIONS_OF_ADDRESS: usize = 32;
/// Connections that are secure and wait to be served.
const SECURE: usize = 16;
/// For the handshake; what takes longer is nobody who wants a certificate.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);

/// Who is at the other end.
#[derive(Clone)]
pub(super) struct Peer {
    pub address: SocketAddr,
    /// The chain that was shown and verified; empty: none was.
    pub chain: Vec<CertificateDer<'static>>,
    /// The CA whose certificate this connection was answered with.
    pub served: Arc<Served>,
}

/// A secure connection and its place.
pub(super) type Connection = Admitted<TlsStream<TcpStream>, Peer, Place>;

/// The places that are taken, by address.
#[derive(Debug, Clone, Default)]
struct Places(Arc<Mutex<BTreeMap<IpAddr, usize>>>);

/// One of them; it is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Places,
    address: IpAddr,
}

impl Places {
    fn take(&self, address: IpAddr) -> Option<Place> {
        let mut taken = self.0.lock();
        if taken.values().sum::<usize>() >= MAX_CONNECTIONS {
            return None;
        }
        let of_address = taken.entry(address).or_default();
        if *of_address >= MAX_CONNECTIONS_OF_ADDRESS {
            return None;
        }
        *of_address += 1;
        let places = self.clone();
        Some(Place { places, address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.0.lock();
        if let Some(count) = taken.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.address);
            }
        }
    }
}

/// The secure connections, as they come. A slow handshake holds up no other.
pub(super) fn connections(
    listener: TcpListener,
    current: Arc<Current>,
) -> ReceiverStream<io::Result<Connection>> {
    let (sender, receiver) = mpsc::channel(SECURE);
    tokio::spawn(async move {
        tokio::select! {
            () = accept(listener, current, &sender) => {}
            () = sender.closed() => {}
        }
    });
    ReceiverStream::new(receiver)
}

async fn accept(listener: TcpListener, current: Arc<Current>, secure: &mpsc::Sender<io::Result<Connection>>) {
    let places = Places::default();
    // Keeps an address that fails all the time from filling the log.
    let quiet = Arc::new(Mutex::new(Quiet::<IpAddr>::new()));
    loop {
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "the CA cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let ip = address.ip().to_canonical();
        let Some(place) = places.take(ip) else {
            if let Some(repeats) = quiet.lock().admit(Instant::now(), ip) {
                tracing::warn!(%address, repeats, "refused a connection: too many at once");
            }
            continue;
        };
        let (current, secure, quiet) = (current.clone(), secure.clone(), quiet.clone());
        tokio::spawn(async move {
            let failure = match timeout(HANDSHAKE_LIMIT, handshake(stream, address, current)).await {
                Ok(Ok((stream, from))) => {
                    let connection = Connection::new(stream, from, place);
                    // When nobody takes connections any more, this one is not wanted either.
                    let _ = secure.send(Ok(connection)).await;
                    return;
                }
                // Connected and gone, as load balancers do to see whether anybody listens.
                Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return,
                Ok(Err(error)) => (handshake_word(&error), error.to_string()),
                Err(_) => ("slow", format!("it took longer than {HANDSHAKE_LIMIT:?}")),
            };
            if let Some(repeats) = quiet.lock().admit(Instant::now(), ip) {
                let (reason, error) = failure;
                tracing::warn!(reason, %address, repeats, error, "a TLS handshake with the CA failed");
            }
        });
    }
}

async fn handshake(
    stream: TcpStream,
    address: SocketAddr,
    current: Arc<Current>,
) -> io::Result<(TlsStream<TcpStream>, Peer)> {
    // Calls are small and answered at once. Where the option cannot be set, they are merely slower.
    let _ = stream.set_nodelay(true);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_does_not_take_every_place_and_gives_its_own_back() {
        let places = Places::default();
        let greedy = IpAddr::from([192, 0, 2, 1]);
        let mut taken: Vec<_> = std::iter::from_fn(|| places.take(greedy)).collect();
        assert_eq!(taken.len(), MAX_CONNECTIONS_OF_ADDRESS);
        assert!(places.take(IpAddr::from([192, 0, 2, 2])).is_some());
        taken.pop();
        assert!(places.take(greedy).is_some());
        drop(taken);
        assert!(places.0.lock().is_empty());
    }
}
