//! The CA as a service (`causeway ca serve`, 7830/tcp): gateways join with a token and renew their certificates. Contract:
//! `ca.proto`.
//!
//! The process has the CA's folder and no other state; it is apart from every gateway, and federations work on while
//! it is away, to the end of their certificates. What is in the folder and how certificates are made is
//! [`causeway_identity::ca`]'s.

#![warn(unreachable_pub)]

mod current;
pub mod join;
mod listen;
pub mod protocol;
mod rate;
mod rejoin;
mod revoking;
mod service;

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration, time::SystemTime};

use causeway_federation::signing::MAX_CREDENTIAL_BYTES;
use causeway_host::{held::bind_held, tasks::Tasks};
use causeway_identity::CallsLayer;
use causeway_identity::ca::{key::Passphrase, request::MAX_REQUEST_BYTES, revoked::Revoked, tokens};
use causeway_proto::ca::certificate_authority_server::CertificateAuthorityServer;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle, time::MissedTickBehavior};
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use crate::protocol::MAX_ANSWER_BYTES;
use current::Current;
pub use current::ServeError;
use service::CaService;

/// Shortest and longest life of the leaves that are issued. Short ones are for tests: nobody's clock is that good.
pub const LEAF_LIFETIMES: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(5)..=Duration::from_secs(90 * 24 * 3600);
/// Calls under way on one connection; who joins or renews makes one.
const MAX_STREAMS: u32 = 4;
/// Longest head of a call in bytes.
const MAX_HEAD_BYTES: u32 = 8 * 1024;
/// Largest call in bytes: a request, the chain of a gateway that comes back, and what stands around them.
const MAX_MESSAGE_BYTES: usize = MAX_REQUEST_BYTES + MAX_CREDENTIAL_BYTES + 1024;
/// Longest that a call may take.
const CALL_LIMIT: Duration = Duration::from_secs(10);
/// After so long a connection is ended: nobody has more than a call or two to make.
const CONNECTION_LIMIT: Duration = Duration::from_secs(30);
/// For the calls under way once a shutdown has begun.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(3);
/// Pause between two searches for old tokens.
const SWEEP_EVERY: Duration = Duration::from_secs(3600);

/// Settings that serving a CA needs.
#[derive(Debug)]
pub struct AuthorityConfig {
    pub folder: PathBuf,
    pub passphrase: Option<Passphrase>,
    pub listen: SocketAddr,
    /// In [`LEAF_LIFETIMES`].
    pub leaf_lifetime: Duration,
    /// Every task that lives as long as the process, which ends with the first that does.
    pub tasks: Tasks,
}

/// Failure to serve a CA.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("cannot use the CA")]
    Ca(#[from] ServeError),
    #[error("certificates cannot live for {0:?}; between 5 s and 90 days is possible")]
    Lifetime(Duration),
    #[error("cannot listen on {address}")]
    Bind {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
}

/// A CA that is being served.
#[derive(Debug)]
pub struct Authority {
    address: SocketAddr,
    stop: CancellationToken,
    server: JoinHandle<()>,
    tasks: Tasks,
}

impl Authority {
    /// Binds its address and serves until [`Authority::shutdown`].
    ///
    /// # Errors
    /// When the CA cannot be read, or the address not be bound.
    pub async fn start(config: AuthorityConfig) -> Result<Self, AuthorityError> {
        if !LEAF_LIFETIMES.contains(&config.leaf_lifetime) {
            return Err(AuthorityError::Lifetime(config.leaf_lifetime));
        }
        let current = Arc::new(Current::open(&config.folder, config.passphrase)?);
        let bind = |source| AuthorityError::Bind {
            address: config.listen,
            source,
        };
        let listener = bind_held(|| TcpListener::bind(config.listen))
            .await
            .map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        let served = current.fresh(SystemTime::now());
        tracing::info!(%address, trust_domain = served.ca.trust_domain(), leaf_lifetime = ?config.leaf_lifetime,
            "the CA is served");
        let stop = CancellationToken::new();
        let shown = service::new_shown();
        let service = CaService::new(config.folder, config.leaf_lifetime, shown.clone());
        let (revocations, revoked) = watch::channel(Arc::default());
        let connections = listen::connections(listener, current.clone(), shown, revoked);
        let serving = serve(connections, (current, revocations), service, stop.clone());
        let server = tokio::spawn(config.tasks.keep("the CA over gRPC", serving));
        Ok(Self {
            address,
            stop,
            server,
            tasks: config.tasks,
        })
    }

    /// Address at which it listens, with the port that the system chose if 0 was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops accepting and finishes the calls under way within a few seconds.
    pub async fn shutdown(self) {
        self.tasks.stop();
        self.stop.cancel();
        // The server task ends by itself; an error here means it panicked, which was logged where it happened.
        let _ = self.server.await;
        tracing::info!("the CA is not served any more");
    }
}

async fn serve(
    connections: impl Stream<Item = io::Result<listen::CaConnection>>,
    (current, revocations): (Arc<Current>, watch::Sender<Arc<Revoked>>),
    service: CaService,
    stop: CancellationToken,
) {
    let service = CertificateAuthorityServer::new(service)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_ANSWER_BYTES);
    let following = revoking::follow(current.folder().to_owned(), revocations);
    let sweeping = sweep(current);
    let serving = Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .http2_max_header_list_size(MAX_HEAD_BYTES)
        .max_connection_age(CONNECTION_LIMIT)
        .max_connection_age_grace(CALL_LIMIT)
        .timeout(CALL_LIMIT)
        .layer(CallsLayer::<listen::Peer>::default())
        .add_service(service)
        .serve_with_incoming_shutdown(connections, stop.clone().cancelled_owned());
    let overdue = async {
        stop.cancelled().await;
        tokio::time::sleep(SHUTDOWN_DEADLINE).await;
    };
    tokio::select! {
        served = serving => if let Err(error) = served {
            tracing::error!(error = &error as &dyn std::error::Error, "serving the CA has broken down");
        },
        () = overdue => tracing::info!("calls were cut at the deadline"),
        () = sweeping => {}
        () = following => {}
    }
}

/// Forgets tokens that ended long ago.
async fn sweep(current: Arc<Current>) {
    let mut ticks = tokio::time::interval(SWEEP_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let current = current.clone();
        let swept = tokio::task::spawn_blocking(move || tokens::sweep(current.folder(), SystemTime::now()));
        match swept.await {
            Ok(Ok(0)) | Err(_) => {}
            Ok(Ok(count)) => tracing::info!(count, "forgot join tokens that ended long ago"),
            Ok(Err(error)) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "cannot look for old join tokens"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests;
