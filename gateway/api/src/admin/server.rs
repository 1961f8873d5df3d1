//! The listener of the admin API: TCP, in the clear or over TLS, or a unix socket, with a limit on connections and on the
//! time that each may take to say what it wants. It knows nothing of what is served; who is at the other end of a
//! connection goes along with each request, as a [`Connection`] among its extensions.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    os::fd::{AsRawFd, RawFd},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{Router, extract::Request};
use causeway_host::{
    accept::{AcceptConnection, AcceptLimits, AcceptRefusal, Listen, accept_until},
    descriptors::Descriptors,
    handed::HandedSockets,
    held::bind_held,
    listen::heard,
    listen::{SocketFile, bind_unix, connect_unix},
    places::Place,
};
use http_body_util::BodyExt as _;
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::mpsc,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;

use super::{
    AdminAddress, AdminError,
    stalled::{STALL_LIMIT, WithinStall},
};
use crate::{
    actor::{AskingConnection, Proof},
    credentials::{ADMIN_API, AcceptError, Acceptor, ApiEntrance, Gate, HANDSHAKE_LIMIT, Secured},
};

/// Connections served at once.
const MAX_CONNECTIONS: usize = 256;
/// Of one host, or one user of this host. The unix socket has places of its own.
const MAX_CONNECTIONS_OF_HOST: usize = 64;
/// Connections that are set up and wait to be served.
const ENTERED: usize = 16;
/// For the head of a request, and for a kept-alive connection to send its next one, of a client that has shaken hands.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// The same of one that comes in the clear, and may be anybody.
const PLAIN_HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest request head in bytes.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// For those that were accepted and have not said anything yet once a shutdown has begun: a request that is on its way is answered.
const ENTERING_MAY_TAKE: Duration = Duration::from_millis(100);
/// The same once another process has taken the place of this one, where nobody waits for it: a client that has just connected may be slow.
const ENTERING_MAY_TAKE_IN_HANDOVER: Duration = Duration::from_secs(1);
/// For the requests under way once a shutdown has begun.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(3);
/// Only the owner of the process may open the unix socket.
const SOCKET_MODE: u32 = 0o600;

pub(crate) enum AdminListener {
    Tcp(Arc<TcpListener>, AdminAddress),
    Unix(Arc<UnixListener>, Arc<SocketFile>),
}

impl AdminListener {
    /// Binds the address, or goes on with the socket of the process before.
    pub(crate) async fn bind(address: &AdminAddress, handed: &HandedSockets) -> Result<Self, AdminError> {
        let bind = |source: io::Error| AdminError::Bind {
            address: address.clone(),
            source,
        };
        match address {
            AdminAddress::Tcp(wanted) => {
                let listener = bind_tcp(*wanted, handed)
                    .await
                    .map_err(|source| match source.kind() {
                        io::ErrorKind::AddrInUse => AdminError::InUse(address.clone()),
                        _ => bind(source),
                    })?;
                let local = listener.local_addr().map_err(bind)?;
                Ok(Self::Tcp(listener, AdminAddress::Tcp(local)))
            }
            AdminAddress::Unix(path) => {
                let bound = bind_held(|| Self::bind_socket(path, handed)).await;
                bound.map_err(|source| match source.kind() {
                    io::ErrorKind::AddrInUse => AdminError::InUse(address.clone()),
                    _ => bind(source),
                })
            }
        }
    }

    /// Binds a unix socket, in the place of one that a killed process left behind, or goes on with that of the process before.
    pub(crate) async fn bind_socket(path: &Path, handed: &HandedSockets) -> io::Result<Self> {
        let listener = match handed.take_unix(path) {
            Some(listener) => UnixListener::from_std(listener)?,
            None if connect_unix(path).await.is_ok() => return Err(io::ErrorKind::AddrInUse.into()),
            None => bind_unix(path, SOCKET_MODE)?,
        };
        let (listener, file) = (Arc::new(listener), Arc::new(SocketFile::new(path)));
        handed.keep_unix(&file, &listener);
        Ok(Self::Unix(listener, file))
    }

    pub(crate) fn address(&self) -> AdminAddress {
        match self {
            Self::Tcp(_, address) => address.clone(),
            Self::Unix(_, file) => AdminAddress::Unix(file.path().to_owned()),
        }
    }
}

/// Binds a TCP address, once it is free, or goes on with the socket of the process before.
pub(crate) async fn bind_tcp(address: SocketAddr, handed: &HandedSockets) -> io::Result<Arc<TcpListener>> {
    let listener = match handed.take_listener(address) {
        Some(listener) => TcpListener::from_std(listener)?,
        None => bind_held(|| TcpListener::bind(address)).await?,
    };
    let listener = Arc::new(listener);
    handed.keep(&listener);
    Ok(listener)
}

impl Listen for AdminListener {
    type Stream = AdminConnection;

    async fn accept(&self) -> io::Result<(AdminConnection, Option<SocketAddr>)> {
        Ok(match self {
            Self::Tcp(listener, _) => {
                let (stream, from) = Listen::accept(listener).await?;
                (AdminConnection::Tcp(stream), from)
            }
            Self::Unix(listener, _) => (AdminConnection::Unix(listener.accept().await?.0), None),
        })
    }

    fn own_end(connection: &AdminConnection) -> Option<SocketAddr> {
        match connection {
            AdminConnection::Tcp(stream) => stream.local_addr().ok(),
            AdminConnection::Unix(_) => None,
        }
    }

    fn local_user(connection: &AdminConnection) -> Option<u32> {
        match connection {
            AdminConnection::Tcp(_) => None,
            AdminConnection::Unix(stream) => stream.peer_cred().ok().map(|user| user.uid()),
        }
    }
}

pub(crate) enum AdminConnection {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl AsRawFd for AdminConnection {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Self::Tcp(stream) => stream.as_raw_fd(),
            Self::Unix(stream) => stream.as_raw_fd(),
        }
    }
}

/// Way in which what was accepted becomes a connection: in the clear, or TCP over TLS, whose failures are told to the gate.
#[derive(Debug, Clone)]
pub(crate) struct Doorway(ApiEntrance);

impl Default for Doorway {
    fn default() -> Self {
        Self::new(ADMIN_API, None, Gate::default())
    }
}

impl Doorway {
    pub(crate) fn new(api: &'static str, acceptor: Option<Acceptor>, gate: Gate) -> Self {
        Self(ApiEntrance { api, acceptor, gate })
    }
}

impl AcceptConnection<AdminConnection> for Doorway {
    type Connection = (Secured, AskingConnection);
    type Error = AcceptError;

    async fn enter(
        &self,
        accepted: AdminConnection,
        from: Option<SocketAddr>,
    ) -> Result<(Secured, AskingConnection), AcceptError> {
        match accepted {
            AdminConnection::Unix(stream) => {
                // Whoever has said nothing is not with hyper yet, which closes it at a shutdown.
                heard(&stream).await.map_err(AcceptError::Handshake)?;
                let uid = stream.peer_cred().ok().map(|user| user.uid());
                Ok((Box::new(stream), AskingConnection::local(uid)))
            }
            AdminConnection::Tcp(stream) => AcceptConnection::enter(&self.0, stream, from).await,
        }
    }

    fn refused(&self, from: Option<SocketAddr>, why: AcceptRefusal<AcceptError>) {
        self.0.refused(from, why);
    }
}

/// Serves until `stop`, then finishes what is under way. `is_succeeded`, as of then: another process accepts at the same socket.
pub(crate) async fn serve(
    (listener, descriptors): (AdminListener, Descriptors),
    doorway: Doorway,
    router: Router,
    (stop, is_succeeded): (CancellationToken, Arc<AtomicBool>),
) {
    let socket = match &listener {
        AdminListener::Unix(_, file) => Some(file.clone()),
        AdminListener::Tcp(..) => None,
    };
    let limits = AcceptLimits {
        connections: MAX_CONNECTIONS,
        of_address: MAX_CONNECTIONS_OF_HOST,
        setup: HANDSHAKE_LIMIT,
    };
    let connections = TaskTracker::new();
    let (entered, mut waiting) = mpsc::channel(ENTERED);
    let listening = (listener, descriptors);
    let accepting = accept_until(&stop, "the admin API", listening, limits, doorway, entered);
    let serving = async {
        while let Some(((stream, from), place)) = waiting.recv().await {
            let serving = serve_connection(stream, from, router.clone(), place.place.clone(), stop.clone());
            connections.spawn(async move {
                // Whoever has many connections loses the idlest one when another comes.
                place.place.gives_way().run_until_cancelled(serving).await;
            });
        }
    };
    let settled = async {
        stop.cancelled().await;
        let longest = match is_succeeded.load(Ordering::Relaxed) {
            true => ENTERING_MAY_TAKE_IN_HANDOVER,
            false => ENTERING_MAY_TAKE,
        };
        tokio::time::sleep(longest).await;
    };
    tokio::select! {
        biased;
        ((), ()) = async { tokio::join!(accepting, serving) } => {}
        () = settled => {}
    }
    connections.close();
    if tokio::time::timeout(SHUTDOWN_DEADLINE, connections.wait())
        .await
        .is_err()
    {
        tracing::info!(
            connections = connections.len(),
            "admin connections were cut at the deadline"
        );
    }
    if let Some(file) = socket {
        file.remove();
    }
}

async fn serve_connection(
    stream: Secured,
    from: AskingConnection,
    router: Router,
    place: Arc<Place>,
    stop: CancellationToken,
) {
    let header_timeout = match from.proof {
        Proof::Local(_) | Proof::Plain => PLAIN_HEADER_TIMEOUT,
        Proof::Nobody | Proof::Identity(_) | Proof::Useless { .. } => HEADER_TIMEOUT,
    };
    let service = tower::service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(from.clone());
        request.extensions_mut().insert(place.clone());
        let (call, answering) = (place.call(), router.clone().oneshot(request));
        async move {
            let answer = answering.await?;
            // Until the last byte of the answer is taken.
            Ok::<_, Infallible>(answer.map(|body| {
                body.inspect_frame(move |_| {
                    let _under_way = &call;
                })
            }))
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(
            TokioIo::new(WithinStall::new(stream, STALL_LIMIT)),
            TowerToHyperService::new(service),
        );
    tokio::pin!(connection);
    let ended = tokio::select! {
        // First, so that a request that is there is read: hyper closes a connection on which nothing was.
        biased;
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an admin connection ended early");
    }
}
