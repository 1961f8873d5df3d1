//! The gRPC server around the registry: the limits of each connection, the standard health service, and how it ends.

use std::time::Duration;

use causeway_identity::{CallsLayer, Secure};
use causeway_proto::registry::registry_server::RegistryServer;
use causeway_zone_sync::registry::etcd::Contact;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use super::{
    listen::{ListenersOfZoneSync, connections},
    service::RegistryService,
};
use crate::{
    actor::AskingConnection,
    credentials::{Gate, ListenerProof},
    registration::GatedLayer,
};

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

/// Serves until `stop`, then finishes what is under way within a few seconds. The health service says `SERVING` from the
/// moment that something is known: also while etcd is away, because what is known is served then.
pub(super) async fn serve(
    listeners: ListenersOfZoneSync,
    secure: Option<Secure>,
    service: RegistryServer<RegistryService>,
    (gate, access): (Gate, ListenerProof),
    mut contact: watch::Receiver<Contact>,
    stop: CancellationToken,
) {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter
        .set_not_serving::<RegistryServer<RegistryService>>()
        .await;
    let serving = Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .http2_max_header_list_size(MAX_HEAD_BYTES)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .timeout(CALL_TIMEOUT)
        .layer(CallsLayer::<AskingConnection>::default())
        .layer(GatedLayer { gate, access })
        .add_service(health)
        .add_service(service)
        .serve_with_incoming_shutdown(connections(listeners, secure), stop.clone().cancelled_owned());
    let report = async {
        if contact
            .wait_for(|contact| *contact != Contact::Never)
            .await
            .is_ok()
        {
            reporter.set_serving::<RegistryServer<RegistryService>>().await;
        }
        stop.cancelled().await;
        reporter
            .set_not_serving::<RegistryServer<RegistryService>>()
            .await;
        tokio::time::sleep(SHUTDOWN_DEADLINE).await;
    };
    let overdue = async {
        tokio::select! {
            () = report => {}
            () = async { stop.cancelled().await; tokio::time::sleep(SHUTDOWN_DEADLINE).await } => {}
        }
    };
    tokio::select! {
        served = serving => if let Err(error) = served {
            tracing::error!(error = &error as &dyn std::error::Error, "zone sync has broken down");
        },
        () = overdue => tracing::info!("calls were cut at the deadline"),
    }
}
