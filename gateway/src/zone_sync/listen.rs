//! Where zone sync listens: TCP or a unix socket, with a limit on connections. It knows nothing of what is served.

use std::{fmt, io, net::SocketAddr, path::PathBuf, str::FromStr, sync::Arc};

use causeway_zone_sync::name::GatewayId;
use tokio::{
    net::{TcpListener, TcpStream, UnixListener},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};
use tokio_stream::wrappers::ReceiverStream;

use super::secure::{Secure, SecureError, begins_with_tls};
use crate::listen::{ACCEPT_PAUSE, Admitted, Io, bind_unix};

/// Connections served at once; further ones wait in the system's queue. One for each host of a large zone.
const MAX_CONNECTIONS: usize = 4_096;
/// Connections that were admitted and wait to be served.
const ADMITTED: usize = 64;
/// Connections that the system keeps until they are accepted.
const BACKLOG: u32 = 1_024;
/// Only the owner of the process and their group may open the unix socket.
const SOCKET_MODE: u32 = 0o660;

/// `127.0.0.1:7820`, or `unix:/run/causeway/zone-sync.sock`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// What is no address to listen on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an address to listen on: give IP:PORT or unix:/PATH")]
pub struct ListenAddressError(String);

impl FromStr for ListenAddress {
    type Err = ListenAddressError;

    fn from_str(text: &str) -> Result<Self, ListenAddressError> {
        let bad = || ListenAddressError(text.to_owned());
        match text.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            Some(_) => Err(bad()),
            None => text.parse().map(Self::Tcp).map_err(|_| bad()),
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A bound listener.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

impl Listener {
    pub(super) fn bind(address: &ListenAddress) -> io::Result<Self> {
        match address {
            ListenAddress::Tcp(address) => {
                let domain = socket2::Domain::for_address(*address);
                let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
                socket.set_nonblocking(true)?;
                // A process that was killed is replaced at once, without waiting for its old connections to time out.
                socket.set_reuse_address(true)?;
                socket.bind(&(*address).into())?;
                socket.listen(BACKLOG.cast_signed())?;
                TcpListener::from_std(socket.into()).map(Self::Tcp)
            }
            ListenAddress::Unix(path) => {
                if std::os::unix::net::UnixStream::connect(path).is_ok() {
                    return Err(io::ErrorKind::AddrInUse.into());
                }
                Ok(Self::Unix(bind_unix(path, SOCKET_MODE)?, path.clone()))
            }
        }
    }

    pub(super) fn address(&self) -> io::Result<ListenAddress> {
        match self {
            Self::Tcp(listener) => listener.local_addr().map(ListenAddress::Tcp),
            Self::Unix(_, path) => Ok(ListenAddress::Unix(path.clone())),
        }
    }

    async fn accept(&self) -> io::Result<Accepted> {
        Ok(match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                // Calls are small and answered at once. Where the option cannot be set, they are merely slower.
                let _ = stream.set_nodelay(true);
                Accepted::Tcp(stream, peer.ip().to_canonical().is_loopback())
            }
            Self::Unix(listener, _) => Accepted::Local(Box::new(listener.accept().await?.0)),
        })
    }
}

/// What was accepted, before it is known to be welcome.
enum Accepted {
    /// Whether it comes from this host.
    Tcp(TcpStream, bool),
    Local(Box<dyn Io>),
}

impl Accepted {
    /// Where it comes from; `None`: a unix socket.
    fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(stream, _) => stream.peer_addr().ok(),
            Self::Local(_) => None,
        }
    }

    /// The byte stream, and who is at its other end where that was proved. With an identity, who comes from elsewhere
    /// must prove who they are; on this host it is as they like.
    async fn admit(self, secure: Option<&Secure>) -> Result<(Box<dyn Io>, Peer), SecureError> {
        match (self, secure) {
            (Self::Local(io), _) => Ok((io, Peer(None))),
            (Self::Tcp(stream, _), None) => Ok((Box::new(stream), Peer(None))),
            (Self::Tcp(stream, is_local), Some(secure)) => {
                if is_local && !begins_with_tls(&stream).await.map_err(SecureError::Handshake)? {
                    return Ok((Box::new(stream), Peer(None)));
                }
                let (stream, gateway) = secure.accept(stream).await?;
                Ok((Box::new(stream), Peer(Some(gateway))))
            }
        }
    }
}

/// A connection and its place among [`MAX_CONNECTIONS`].
pub(super) type Connection = Admitted<Box<dyn Io>, Peer, OwnedSemaphorePermit>;

/// Which gateway is at the other end; `None`: somebody on a host or network that is trusted.
#[derive(Debug, Clone)]
pub(super) struct Peer(pub(super) Option<GatewayId>);

/// The connections that are welcome, as they come. Each is looked at by itself, so that a slow one holds up no other.
pub(super) fn connections(
    listener: Listener,
    secure: Option<Secure>,
) -> ReceiverStream<io::Result<Connection>> {
    let (sender, receiver) = mpsc::channel(ADMITTED);
    tokio::spawn(async move {
        tokio::select! {
            () = accept(listener, secure, &sender) => {}
            () = sender.closed() => {}
        }
    });
    ReceiverStream::new(receiver)
}

async fn accept(listener: Listener, secure: Option<Secure>, admitted: &mpsc::Sender<io::Result<Connection>>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // A free place first, so that what cannot be served is not accepted. The semaphore is never closed.
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok(accepted) => {
                let (secure, admitted) = (secure.clone(), admitted.clone());
                let address = accepted.address();
                tokio::spawn(async move {
                    match accepted.admit(secure.as_ref()).await {
                        Ok((stream, from)) => {
                            // When nobody takes connections any more, this one is not wanted either.
                            let _ = admitted.send(Ok(Connection::new(stream, from, place))).await;
                        }
                        Err(error) => {
                            let cause = std::error::Error::source(&error).map(ToString::to_string);
                            let address = address.map(tracing::field::display);
                            tracing::warn!(reason = error.word(), address, %error, cause, "zone sync refused a connection");
                        }
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "zone sync cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
