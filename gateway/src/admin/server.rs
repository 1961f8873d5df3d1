//! The listener of the admin API: TCP, in the clear or over TLS, or a unix socket, with a limit on connections and on the
//! time that each may take to say what it wants. It knows nothing of what is served; who is at the other end of a
//! connection goes along with each request, as a [`Connection`] among its extensions.

use std::{fs, io, path::PathBuf, sync::Arc, time::Duration};

use axum::{Router, extract::Request};
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;

use super::{AdminAddress, AdminError};
use crate::{
    credentials::{Acceptor, Connection, Gate, Secured, enter},
    listen::{ACCEPT_PAUSE, bind_unix},
};

/// Connections served at once; further ones wait in the system's queue.
const MAX_CONNECTIONS: usize = 256;
/// For the head of a request, and for a kept-alive connection to send its next one.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest request head in bytes.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// For the requests under way once a shutdown has begun.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(3);
/// Only the owner of the process may open the unix socket.
const SOCKET_MODE: u32 = 0o600;

pub(crate) enum Listener {
    Tcp(TcpListener, AdminAddress),
    Unix(UnixListener, PathBuf),
}

impl Listener {
    pub async fn bind(address: &AdminAddress) -> Result<Self, AdminError> {
        let bind = |source: io::Error| AdminError::Bind {
            address: address.clone(),
            source,
        };
        match address {
            AdminAddress::Tcp(wanted) => {
                let listener = TcpListener::bind(wanted)
                    .await
                    .map_err(|source| match source.kind() {
                        io::ErrorKind::AddrInUse => AdminError::InUse(address.clone()),
                        _ => bind(source),
                    })?;
                let local = listener.local_addr().map_err(bind)?;
                Ok(Self::Tcp(listener, AdminAddress::Tcp(local)))
            }
            AdminAddress::Unix(path) => {
                if UnixStream::connect(path).await.is_ok() {
                    return Err(AdminError::InUse(address.clone()));
                }
                let listener = bind_unix(path, SOCKET_MODE).map_err(bind)?;
                Ok(Self::Unix(listener, path.clone()))
            }
        }
    }

    pub fn address(&self) -> AdminAddress {
        match self {
            Self::Tcp(_, address) => address.clone(),
            Self::Unix(_, path) => AdminAddress::Unix(path.clone()),
        }
    }

    async fn accept(&self) -> io::Result<Accepted> {
        Ok(match self {
            Self::Tcp(listener, _) => {
                let (stream, from) = listener.accept().await?;
                Accepted::Tcp(stream, Connection::plain(from))
            }
            Self::Unix(listener, _) => Accepted::Unix(listener.accept().await?.0),
        })
    }
}

enum Accepted {
    Tcp(TcpStream, Connection),
    Unix(UnixStream),
}

/// How TCP connections become requests: in the clear, or over TLS, whose failures are told to the gate.
#[derive(Debug, Clone, Default)]
pub(crate) enum Doorway {
    #[default]
    Plain,
    Tls(Acceptor, Gate),
}

impl Doorway {
    /// `None`: it did not become a connection, which was told.
    async fn enter(&self, accepted: Accepted) -> Option<(Secured, Connection)> {
        let (stream, from) = match accepted {
            Accepted::Unix(stream) => {
                let uid = stream.peer_cred().ok().map(|user| user.uid());
                return Some((Box::new(stream), Connection::local(uid)));
            }
            Accepted::Tcp(stream, from) => (stream, from),
        };
        let door = match self {
            Self::Plain => None,
            Self::Tls(acceptor, gate) => Some((acceptor, gate)),
        };
        enter(door, "admin", stream, from).await
    }
}

/// Serves until `stop`, then finishes what is under way.
pub(crate) async fn serve(listener: Listener, doorway: Doorway, router: Router, stop: CancellationToken) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let connections = TaskTracker::new();
    loop {
        let (slot, accepted) = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            next = next_connection(&listener, &slots) => next,
        };
        match accepted {
            Ok(accepted) => {
                let (doorway, router, stop) = (doorway.clone(), router.clone(), stop.clone());
                connections.spawn(async move {
                    if let Some((stream, connection)) = doorway.enter(accepted).await {
                        serve_connection(stream, connection, router, stop).await;
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the admin API cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
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
    if let Listener::Unix(_, path) = &listener {
        let _ = fs::remove_file(path);
    }
}

/// Waits for a free slot first, so that what cannot be served is not accepted.
async fn next_connection(
    listener: &Listener,
    slots: &Arc<Semaphore>,
) -> (Option<OwnedSemaphorePermit>, io::Result<Accepted>) {
    // The semaphore is never closed, so there always is a permit in the end.
    let slot = slots.clone().acquire_owned().await.ok();
    (slot, listener.accept().await)
}

async fn serve_connection(stream: Secured, from: Connection, router: Router, stop: CancellationToken) {
    let service = router.map_request(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(from.clone());
        request
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    tokio::pin!(connection);
    let ended = tokio::select! {
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
