//! The gRPC server around a registry service: its listener, in the clear or over TLS, the limits of each connection, and
//! how it ends. It knows nothing of registrations.

use std::{io, time::Duration};

use causeway_host::{
    accept::{AcceptLimits, accept},
    descriptors::Descriptors,
};
use causeway_identity::{Admitted, CallsLayer};
use causeway_proto::registry::registry_server::{Registry, RegistryServer};
use tokio::sync::mpsc;
use tokio_stream::{Stream, StreamExt as _, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use super::gated::GatedLayer;
use crate::{
    actor::AskingConnection,
    admin::server::{AdminListener, Doorway},
    credentials::{Acceptor, Gate, HANDSHAKE_LIMIT, ListenerProof, Secured},
};

/// Name of this API in the log.
const API: &str = "registration";
/// Connections served at once. One for each host of a large zone.
const MAX_CONNECTIONS: usize = 4096;
/// Of one host, or one user of this host. The unix socket has places of its own.
const MAX_CONNECTIONS_OF_HOST: usize = 256;
/// Calls under way on one connection; further ones wait.
const MAX_STREAMS: u32 = 64;
/// Longest head of a call in bytes.
const MAX_HEAD_BYTES: u32 = 16 * 1024;
/// Longest that a call may take until its answer begins. A whole source of 200,000 instances fits in.
const CALL_TIMEOUT: Duration = Duration::from_secs(120);
/// Interval at which a silent client is asked whether it is still there, and the time that it has to answer.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// For the calls under way once a shutdown has begun.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(3);
/// Connections that were taken up and wait to be served.
const ADMITTED: usize = 64;

/// Source of connections, and what they have to prove.
pub(super) struct Incoming {
    pub(super) listener: AdminListener,
    /// Unix socket beside it, with places of its own.
    pub(super) socket: Option<AdminListener>,
    /// Descriptors that connections may take.
    pub(super) descriptors: Descriptors,
    /// `None`: in the clear.
    pub(super) acceptor: Option<Acceptor>,
    pub(super) gate: Gate,
    /// Proof that clients have to give.
    pub(super) access: ListenerProof,
}

/// Serves until `stop`, then finishes what is under way within a few seconds.
pub(super) async fn serve<S: Registry>(
    incoming: Incoming,
    service: RegistryServer<S>,
    stop: CancellationToken,
) {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<RegistryServer<S>>().await;
    let gated = GatedLayer {
        gate: incoming.gate.clone(),
        access: incoming.access,
    };
    let serving = Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .http2_max_header_list_size(MAX_HEAD_BYTES)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .timeout(CALL_TIMEOUT)
        .layer(CallsLayer::<AskingConnection>::default())
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
type Taken = Admitted<Secured, AskingConnection>;

/// The connections that were taken up, as they come.
fn connections(incoming: Incoming) -> impl Stream<Item = io::Result<Taken>> {
    let (entered, waiting) = mpsc::channel(ADMITTED);
    let limits = AcceptLimits {
        connections: MAX_CONNECTIONS,
        of_address: MAX_CONNECTIONS_OF_HOST,
        setup: HANDSHAKE_LIMIT,
    };
    let Incoming {
        listener,
        socket,
        descriptors,
        acceptor,
        gate,
        ..
    } = incoming;
    let doorway = Doorway::new(API, acceptor, gate);
    if let Some(socket) = socket {
        let socket = (socket, descriptors.clone());
        tokio::spawn(accept(API, socket, limits, doorway.clone(), entered.clone()));
    }
    // When they end, so does the stream, and with it the server.
    tokio::spawn(accept(API, (listener, descriptors), limits, doorway, entered));
    ReceiverStream::new(waiting).map(|((stream, from), place)| Ok(Taken::new(stream, from, place)))
}
