//! Listener of zone sync: TCP and a unix socket beside it, or a unix socket alone, with a limit on connections. It knows nothing of what
//! is served.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, RawFd},
    path::PathBuf,
    str::FromStr,
    sync::Arc,
    time::{Duration, Instant},
};

use causeway_host::{
    accept::{AcceptConnection, AcceptLimits, AcceptRefusal, Listen, accept},
    beside::bind_beside,
    descriptors::Descriptors,
    held::{is_taken, open_held},
    listen::{Io, bind_unix},
    share::host_of,
};
use causeway_identity::Admitted;
use causeway_telemetry::RateLimited;
use parking_lot::Mutex;
use tokio::{
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::mpsc,
};
use tokio_stream::{Stream, StreamExt as _, wrappers::ReceiverStream};

use crate::actor::{AskingConnection, Proof};
use causeway_identity::{Secure, SecureError, begins_with_tls};

/// Connections served at once. One for each host of a large zone.
const MAX_CONNECTIONS: usize = 4_096;
/// Of one host, or one user of this host.
pub(super) const MAX_CONNECTIONS_OF_HOST: usize = 256;
/// Connections that were admitted and wait to be served.
const ADMITTED: usize = 64;
/// Until a connection is set up: the first byte of a client of this host, and a handshake.
const SETUP_LIMIT: Duration = Duration::from_secs(10);
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

/// Error of a text that is no address to listen on.
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
pub(super) enum ZoneSyncListener {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
    /// Beside a TCP listener of this address.
    Beside(UnixListener, SocketAddr),
}

impl ZoneSyncListener {
    pub(super) fn bind(address: &ListenAddress) -> io::Result<Self> {
        open_held(is_taken, || Self::bind_once(address))
    }

    fn bind_once(address: &ListenAddress) -> io::Result<Self> {
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

    /// Binds the unix socket over which this host changes things, where the address is one that this host alone is served at in the clear.
    pub(super) fn bind_beside(address: &ListenAddress) -> io::Result<Option<Self>> {
        match address {
            ListenAddress::Tcp(address) if serves_this_host(address.ip()) => {
                let listener = bind_beside(*address)?;
                Ok(Some(Self::Beside(listener, *address)))
            }
            ListenAddress::Tcp(_) | ListenAddress::Unix(_) => Ok(None),
        }
    }

    pub(super) fn address(&self) -> io::Result<ListenAddress> {
        match self {
            Self::Tcp(listener) => listener.local_addr().map(ListenAddress::Tcp),
            Self::Unix(_, path) => Ok(ListenAddress::Unix(path.clone())),
            Self::Beside(_, address) => Ok(ListenAddress::Tcp(*address)),
        }
    }
}

impl Listen for ZoneSyncListener {
    type Stream = ZoneSyncConnection;

    async fn accept(&self) -> io::Result<(ZoneSyncConnection, Option<SocketAddr>)> {
        Ok(match self {
            Self::Tcp(listener) => {
                let (stream, from) = Listen::accept(listener).await?;
                (ZoneSyncConnection::Tcp(stream), from)
            }
            Self::Unix(listener, _) | Self::Beside(listener, _) => {
                let (stream, _) = listener.accept().await?;
                let user = stream.peer_cred().map(|credentials| credentials.uid());
                (ZoneSyncConnection::Local(stream, user.ok()), None)
            }
        })
    }

    fn own_end(connection: &ZoneSyncConnection) -> Option<SocketAddr> {
        match connection {
            ZoneSyncConnection::Tcp(stream) => stream.local_addr().ok(),
            ZoneSyncConnection::Local(..) => None,
        }
    }

    fn local_user(connection: &ZoneSyncConnection) -> Option<u32> {
        match connection {
            ZoneSyncConnection::Tcp(_) => None,
            ZoneSyncConnection::Local(_, user) => *user,
        }
    }
}

/// Tells whether programs of this host connect to it over loopback.
fn serves_this_host(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    ip.is_loopback() || ip.is_unspecified()
}

/// Connection that was accepted, before it is known to be welcome.
pub(super) enum ZoneSyncConnection {
    Tcp(TcpStream),
    Local(UnixStream, Option<u32>),
}

impl AsRawFd for ZoneSyncConnection {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Self::Tcp(stream) => stream.as_raw_fd(),
            Self::Local(stream, _) => stream.as_raw_fd(),
        }
    }
}

/// Door of a zone-sync. With an identity, who comes from elsewhere must prove who they are; on this host it is as they like, and what they
/// may do follows from that.
#[derive(Clone)]
struct Threshold {
    secure: Option<Secure>,
    /// Keeps a host that comes again and again from filling the log.
    crowded: Arc<Mutex<RateLimited<IpAddr>>>,
}

impl AcceptConnection<ZoneSyncConnection> for Threshold {
    type Connection = (Box<dyn Io>, AskingConnection);
    type Error = SecureError;

    /// The byte stream, and who is at its other end where that was proved.
    async fn enter(
        &self,
        accepted: ZoneSyncConnection,
        from: Option<SocketAddr>,
    ) -> Result<(Box<dyn Io>, AskingConnection), SecureError> {
        let stream = match accepted {
            ZoneSyncConnection::Local(stream, uid) => {
                return Ok((Box::new(stream), AskingConnection::local(uid)));
            }
            ZoneSyncConnection::Tcp(stream) => stream,
        };
        let from = match from {
            Some(from) => from,
            None => stream.peer_addr().map_err(SecureError::Handshake)?,
        };
        let plain = AskingConnection::plain(from);
        let Some(secure) = &self.secure else {
            return Ok((Box::new(stream), plain));
        };
        let is_local = from.ip().to_canonical().is_loopback();
        if is_local && !begins_with_tls(&stream).await.map_err(SecureError::Handshake)? {
            return Ok((Box::new(stream), plain));
        }
        let (stream, gateway) = secure.accept(stream).await?;
        let proof = Proof::Identity(gateway.to_string().into());
        Ok((Box::new(stream), AskingConnection { proof, ..plain }))
    }

    fn refused(&self, from: Option<SocketAddr>, why: AcceptRefusal<SecureError>) {
        let error = match why {
            AcceptRefusal::Crowded => {
                let Some(from) = from else { return };
                if let Some(repeats) = self.crowded.lock().admit(Instant::now(), host_of(from.ip())) {
                    tracing::warn!(reason = "crowded", address = %from, repeats, "zone sync refused a connection");
                }
                return;
            }
            AcceptRefusal::Slow => SecureError::Slow,
            AcceptRefusal::Failed(error) => error,
        };
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        let address = from.map(tracing::field::display);
        tracing::warn!(reason = error.word(), address, %error, cause, "zone sync refused a connection");
    }
}

/// A connection and its place among [`MAX_CONNECTIONS`].
pub(super) type Taken = Admitted<Box<dyn Io>, AskingConnection>;

/// Listener of a zone-sync, the socket beside it, and the descriptors that their connections may take.
pub(super) struct ListenersOfZoneSync {
    pub(super) listener: ZoneSyncListener,
    pub(super) socket: Option<ZoneSyncListener>,
    pub(super) descriptors: Descriptors,
}

/// The connections that are welcome, as they come.
pub(super) fn connections(
    listeners: ListenersOfZoneSync,
    secure: Option<Secure>,
) -> impl Stream<Item = io::Result<Taken>> {
    let (entered, waiting) = mpsc::channel(ADMITTED);
    let limits = AcceptLimits {
        connections: MAX_CONNECTIONS,
        of_address: MAX_CONNECTIONS_OF_HOST,
        setup: SETUP_LIMIT,
    };
    // When it ends, so does the stream, and with it the server.
    let threshold = Threshold {
        secure,
        crowded: Arc::new(Mutex::new(RateLimited::new())),
    };
    let ListenersOfZoneSync {
        listener,
        socket,
        descriptors,
    } = listeners;
    if let Some(socket) = socket {
        let (socket, threshold) = ((socket, descriptors.clone()), threshold.clone());
        let entered = entered.clone();
        tokio::spawn(accept("zone sync", socket, limits, threshold, entered));
    }
    let listener = (listener, descriptors);
    tokio::spawn(accept("zone sync", listener, limits, threshold, entered));
    ReceiverStream::new(waiting).map(|((stream, from), place)| Ok(Taken::new(stream, from, place)))
}
