//! Where zone sync listens: TCP or a unix socket, with a limit on connections. It knows nothing of what is served.

use std::{fmt, io, net::SocketAddr, path::PathBuf, str::FromStr, sync::Arc};

use tokio::{
    net::{TcpListener, TcpStream, UnixListener},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};
use tokio_stream::wrappers::ReceiverStream;

use super::secure::{Secure, SecureError, begins_with_tls};
use crate::{
    credentials::{Connection, Proof},
    listen::{ACCEPT_PAUSE, Admitted, Io, bind_unix},
};

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
                Accepted::Tcp(stream, peer)
            }
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                let user = stream.peer_cred().map(|credentials| credentials.uid());
                Accepted::Local(Box::new(stream), user.ok())
            }
        })
    }
}

/// What was accepted, before it is known to be welcome.
enum Accepted {
    Tcp(TcpStream, SocketAddr),
    Local(Box<dyn Io>, Option<u32>),
}

impl Accepted {
    /// Where it comes from; `None`: a unix socket.
    fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(_, from) => Some(*from),
            Self::Local(..) => None,
        }
    }

    /// The byte stream, and who is at its other end where that was proved. With an identity, who comes from elsewhere
    /// must prove who they are; on this host it is as they like.
    async fn admit(self, secure: Option<&Secure>) -> Result<(Box<dyn Io>, Connection), SecureError> {
        match (self, secure) {
            (Self::Local(io, uid), _) => Ok((io, Connection::local(uid))),
            (Self::Tcp(stream, from), None) => Ok((Box::new(stream), Connection::plain(from))),
            (Self::Tcp(stream, from), Some(secure)) => {
                let plain = Connection::plain(from);
                let is_local = from.ip().to_canonical().is_loopback();
                if is_local && !begins_with_tls(&stream).await.map_err(SecureError::Handshake)? {
                    return Ok((Box::new(stream), plain));
                }
                let (stream, gateway) = secure.accept(stream).await?;
                let proof = Proof::Identity(gateway.to_string().into());
                Ok((Box::new(stream), Connection { proof, ..plain }))
            }
        }
    }
}

/// A connection and its place among [`MAX_CONNECTIONS`].
pub(super) type Taken = Admitted<Box<dyn Io>, Connection, OwnedSemaphorePermit>;

/// The connections that are welcome, as they come. Each is looked at by itself, so that a slow one holds up no other.
pub(super) fn connections(listener: Listener, secure: Option<Secure>) -> ReceiverStream<io::Result<Taken>> {
    let (sender, receiver) = mpsc::channel(ADMITTED);
    tokio::spawn(async move {
        tokio::select! {
            () = accept(listener, secure, &sender) => {}
            () = sender.closed() => {}
        }
    });
    ReceiverStream::new(receiver)
}

async fn accept(listener: Listener, secure: Option<Secure>, admitted: &mpsc::Sender<io::Result<Taken>>) {
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
                            let _ = admitted.send(Ok(Taken::new(stream, from, place))).await;
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
