//! Registration over gRPC (7820/tcp): the service of `registry.proto` over this gateway's own registry, and the standard
//! health service beside it.
//!
//! It is served over TCP and on a unix socket beside it, and who may do what is as at the admin API (`credentials`). `Attach` is not served
//! here: it is what several gateways of one zone share a registry with, and `causeway zone-sync` serves that.

mod changes;
mod gated;
mod replace;
mod server;
mod service;
mod watch;
mod whole;

use std::{
    fmt, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use causeway_federation::registry::wire::MAX_MESSAGE_BYTES;
use causeway_host::{
    descriptors::Descriptors, handed::HandedSockets, held::bind_held, listen::SocketFile, tasks::Tasks,
};
use causeway_identity::LiveIdentity;
use causeway_instances::Instances;
use causeway_proto::registry::registry_server::RegistryServer;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) use gated::{GatedLayer, counted, noted, objects, rights};
use server::{Incoming, serve};
pub use service::Registrar;

use crate::{
    admin::{
        AdminAddress,
        server::{AdminListener, bind_tcp},
    },
    credentials::{Acceptor, Gate, ListenerProof},
};

/// Protocol that gRPC is spoken over.
const ALPN: &[&[u8]] = &[b"h2"];

/// Addresses at which registrations are taken, and whether they may be open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistrationConfig {
    pub listen: SocketAddr,
    /// Path of a unix socket beside it, for the gateway's user and root.
    pub socket: Option<PathBuf>,
    /// Allows an address other than loopback although everyone who reaches it may register.
    pub insecure: bool,
}

/// `--registry`: an address, or `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegistrationAddress {
    Off,
    At(SocketAddr),
}

impl FromStr for RegistrationAddress {
    type Err = RegistrationError;

    fn from_str(text: &str) -> Result<Self, RegistrationError> {
        match (text, text.parse()) {
            ("off", _) => Ok(Self::Off),
            (_, Ok(address)) => Ok(Self::At(address)),
            (_, Err(_)) => Err(RegistrationError::Address(text.to_owned())),
        }
    }
}

impl fmt::Display for RegistrationAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::At(address) => write!(f, "{address}"),
        }
    }
}

/// Reason why registration over gRPC could not be started.
#[derive(Debug, thiserror::Error)]
pub enum RegistrationError {
    #[error("`{0}` is no address for registration: give IP:PORT, or `off`")]
    Address(String),
    #[error(
        "registration cannot listen on {0} without credentials for those who reach it: anybody could register instances"
    )]
    NotLoopback(SocketAddr),
    #[error("cannot listen on {address} for registration")]
    Bind {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
}

impl RegistrationError {
    /// Says what the operator can do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Address(_) => "for example 127.0.0.1:7820",
            Self::NotLoopback(_) => {
                "give it --admin-tokens FILE (see `causeway admin-token`) or --admin-allow SCOPE=SPIFFE-ID, listen on 127.0.0.1, \
                 or pass --registry-insecure where only trusted hosts reach it"
            }
            Self::Bind { .. } => {
                "does another gateway, or `causeway zone-sync`, have it? give each its own --registry address, or `off`"
            }
        }
    }
}

/// Registration over gRPC, running.
#[derive(Debug)]
pub struct RegistrationServer {
    address: SocketAddr,
    socket: Option<Arc<SocketFile>>,
    stop: CancellationToken,
    server: JoinHandle<()>,
}

impl RegistrationServer {
    /// Binds the address and serves on the current runtime until [`RegistrationServer::shutdown`]. `identity`: what TLS is spoken
    /// with where others than this host reach it.
    ///
    /// # Errors
    /// When the address is not allowed or cannot be bound.
    pub async fn start(
        config: RegistrationConfig,
        instances: Instances,
        gate: Gate,
        identity: Option<LiveIdentity>,
        handed: &HandedSockets,
        (tasks, descriptors): (&Tasks, Descriptors),
    ) -> Result<Self, RegistrationError> {
        let wanted = config.listen;
        let guarded = !wanted.ip().to_canonical().is_loopback() && !config.insecure;
        let acceptor = match identity {
            Some(identity) if guarded && gate.is_guarded() => Some(Acceptor::new(identity, ALPN)),
            _ => None,
        };
        if guarded && acceptor.is_none() {
            return Err(RegistrationError::NotLoopback(wanted));
        }
        let bind = |source| RegistrationError::Bind {
            address: wanted,
            source,
        };
        let listener = bind_tcp(wanted, handed).await.map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        let socket = match config.socket.clone() {
            Some(path) => beside(&path, handed).await,
            None => None,
        };
        let file = match &socket {
            Some(AdminListener::Unix(_, file)) => Some(file.clone()),
            _ => None,
        };
        let stop = CancellationToken::new();
        let service = RegistryServer::new(Registrar::new(instances, stop.clone()))
            .max_decoding_message_size(MAX_MESSAGE_BYTES);
        let incoming = Incoming {
            listener: AdminListener::Tcp(listener, AdminAddress::Tcp(address)),
            socket,
            descriptors,
            acceptor,
            gate,
            access: ListenerProof::of(config.insecure),
        };
        let tls = incoming.acceptor.is_some();
        let serving = serve(incoming, service, stop.clone());
        let server = tokio::spawn(tasks.keep("registration over gRPC", serving));
        tracing::info!(%address, tls, "registration over gRPC listens");
        Ok(Self {
            address,
            socket: file,
            stop,
            server,
        })
    }

    /// Returns the address that it listens on, with the port that the system chose if 0 was asked for.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Stops accepting, ends every watch, and finishes the calls under way within a few seconds.
    pub async fn shutdown(self) {
        self.stop.cancel();
        // The server task ends by itself; an error here means it panicked, which was logged where it happened.
        let _ = self.server.await;
        if let Some(socket) = self.socket {
            socket.remove();
        }
    }
}

/// Binds the unix socket. One that cannot be had, as on some file systems, costs what it is for and nothing else.
async fn beside(path: &Path, handed: &HandedSockets) -> Option<AdminListener> {
    let bound = bind_held(|| AdminListener::bind_socket(path, handed)).await;
    bound
        .inspect_err(|error| {
            tracing::warn!(socket = %path.display(), %error, "instances of this host register over TCP alone, with a token");
        })
        .ok()
}

#[cfg(test)]
mod gated_tests;
#[cfg(test)]
mod tests;
