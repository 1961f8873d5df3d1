//! The gRPC server around a registry service: its listener, in the clear or over TLS, the limits of each connection, and
//! how it ends. It knows nothing of registrations.

use std::{io, sync::Arc, time::Duration};

use causeway_proto::registry::registry_server::{Registry, RegistryServer};
use tokio::{
    net::TcpListener,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use super::gated::GatedLayer;
use crate::{
    credentials::{Acceptor, Connection, Gate, Secured, enter},
    listen::{ACCEPT_PAUSE, Admitted},
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
/// Connections that were taken up and wait to be served.
const ADMITTED: usize = 64;

/// Where connections come from, and what they have to prove.
#[derive(Debug)]
pub struct Incoming {
    pub listener: TcpListener,
    /// `None`: in the clear.
    pub acceptor: Option<Acceptor>,
    pub gate: Gate,
    /// Whether clients have to prove who they are.
    pub guarded: bool,
}

/// Serves until `stop`, then finishes what is under way within a few seconds.
pub async fn serve<S: Registry>(incoming: Incoming, service: RegistryServer<S>, stop: CancellationToken) {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<RegistryServer<S>>().await;
    let gated = GatedLayer {
        gate: incoming.gate.clone(),
        guarded: incoming.guarded,
    };
    let serving = Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .http2_max_header_list_size(MAX_HEAD_BYTES)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .timeout(CALL_TIMEOUT)
        .layer(gated)
        .add_service(health)
        .add_service(service)
        .serve_with_incoming_shutdown(connections(incoming), stop.clone().cancelled_owned());
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
type Taken = Admitted<Secured, Connection, OwnedSemaphorePermit>;

/// The connections that were taken up, as they come. Each handshake runs by itself, so that a slow one holds up no other.
fn connections(incoming: Incoming) -> ReceiverStream<io::Result<Taken>> {
    let (sender, receiver) = mpsc::channel(ADMITTED);
    tokio::spawn(async move {
        tokio::select! {
            () = accept(incoming, &sender) => {}
            () = sender.closed() => {}
        }
    });
    ReceiverStream::new(receiver)
}

async fn accept(incoming: Incoming, admitted: &mpsc::Sender<io::Result<Taken>>) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let Incoming {
        listener,
        acceptor,
        gate,
        ..
    } = incoming;
    loop {
        // A free place first, so that what cannot be served is not accepted. The semaphore is never closed.
        let Ok(slot) = slots.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, from)) => {
                // Calls are small and answered at once. Where the option cannot be set, they are merely slower.
                let _ = stream.set_nodelay(true);
                let (acceptor, gate, admitted) = (acceptor.clone(), gate.clone(), admitted.clone());
                tokio::spawn(async move {
                    let from = Connection::plain(from);
                    let door = acceptor.as_ref().map(|acceptor| (acceptor, &gate));
                    if let Some((stream, from)) = enter(door, "registration", stream, from).await {
                        let place = slot;
                        // When nobody takes connections any more, this one is not wanted either.
                        let _ = admitted.send(Ok(Taken::new(stream, from, place))).await;
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "registration cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
