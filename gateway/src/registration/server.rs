//! The gRPC server around a registry service: its listener, the limits of each connection, and how it ends. It knows
//! nothing of registrations.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use causeway_proto::registry::registry_server::{Registry, RegistryServer};
use futures_util::{Stream, stream};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::sync::CancellationToken;
use tonic::transport::{
    Server,
    server::{Connected, TcpConnectInfo},
};

/// Connections served at once; further ones wait in the system's queue. One for each host of a large zone.
const MAX_CONNECTIONS: usize = 4096;
/// Calls under way on one connection; further ones wait.
const MAX_STREAMS: u32 = 64;
/// Longest head of a call in bytes.
const MAX_HEAD_BYTES: u32 = 16 * 1024;
/// Longest that a call may take until its answer begins. A whole source of 200,000 instances fits in.
const CALL_TIMEOUT: Duration = Duration::from_secs(120);
/// How often a silent client is asked whether it is still there, and how long it has to answer.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// For the calls under way once a shutdown has begun.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(3);
/// After a failed accept (no file descriptors left, say), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `stop`, then finishes what is under way within a few seconds.
pub async fn serve<S: Registry>(listener: TcpListener, service: RegistryServer<S>, stop: CancellationToken) {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<RegistryServer<S>>().await;
    let serving = Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .http2_max_header_list_size(MAX_HEAD_BYTES)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .timeout(CALL_TIMEOUT)
        .add_service(health)
        .add_service(service)
        .serve_with_incoming_shutdown(incoming(listener), stop.clone().cancelled_owned());
    let overdue = async {
        stop.cancelled().await;
        reporter.set_not_serving::<RegistryServer<S>>().await;
        tokio::time::sleep(SHUTDOWN_DEADLINE).await;
    };
    tokio::select! {
        served = serving => if let Err(error) = served {
            tracing::error!(error = &error as &dyn std::error::Error, "registration over gRPC has broken down");
        },
        () = overdue => tracing::info!("registration calls were cut at the deadline"),
    }
}

/// A connection and its place among [`MAX_CONNECTIONS`].
struct Place {
    stream: TcpStream,
    _slot: OwnedSemaphorePermit,
}

/// Waits for a free place first, so that what cannot be served is not accepted.
fn incoming(listener: TcpListener) -> impl Stream<Item = io::Result<Place>> {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    stream::unfold((listener, slots), |(listener, slots)| async move {
        // The semaphore is never closed.
        let slot = slots.clone().acquire_owned().await.ok()?;
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    // Calls are small and answered at once. Where the option cannot be set, they are merely slower.
                    let _ = stream.set_nodelay(true);
                    return Some((Ok(Place { stream, _slot: slot }), (listener, slots)));
                }
                Err(error) => {
                    tracing::warn!(%error, "registration cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    })
}

impl Connected for Place {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Place {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Place {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
