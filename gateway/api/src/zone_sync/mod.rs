//! `causeway zone-sync`: the registry of one zone, kept in etcd and served to the zone's gateways and registrants (7820/tcp).
//!
//! The process has no state of its own; as many of them as one likes run side by side, and none is special. What it
//! knows, and how, is `causeway_zone_sync::registry::etcd`'s; here it is served. It carries no traffic and talks to no
//! other zone.

mod admin;
mod attach;
mod listen;
mod replace;
mod serve;
mod service;
mod watch;

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use causeway_control::trust::Trusted;
use causeway_federation::{name::ZoneName, registry::wire::MAX_MESSAGE_BYTES};
use causeway_host::{beside::beside_name, descriptors::Descriptors, tasks::Tasks};
use causeway_identity::{LiveIdentity, Secure};
use causeway_proto::registry::registry_server::RegistryServer;
use causeway_zone_sync::registry::etcd::{EtcdClient, EtcdError, SharedRegistry, client::MAX_ENDPOINTS};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    admin::{AdminAddress, AdminConfig, AdminError},
    audit::Audit,
    credentials::{Gate, Grant, Guard, ListenerProof, Scope, TokenFile},
};
pub use admin::figures;
pub use listen::ListenAddress;
use listen::{ListenersOfZoneSync, ZoneSyncListener};
use service::RegistryService;

/// Settings that one zone-sync process needs.
#[derive(Debug, Clone)]
pub struct ZoneSyncConfig {
    pub zone: ZoneName,
    /// Members of etcd, as `http://HOST:PORT`; any of them, in any order.
    pub etcd: Vec<String>,
    pub listen: ListenAddress,
    /// An identity of the zone. Who comes from another host must prove to be a gateway of the zone as well.
    pub identity: Option<LiveIdentity>,
    /// Takes what gateways say of whom the federation trusts; `None`: the identity's files rule.
    pub trust: Option<Trusted>,
    /// Allows an address other than loopback without an identity, although everyone who reaches it may register.
    pub insecure: bool,
    /// `/livez`, `/readyz` and `/metrics`; `None`: nowhere.
    pub admin: Option<AdminConfig>,
    /// Tokens that are taken over loopback.
    pub tokens: Option<Arc<TokenFile>>,
    /// Log in which it is written down which changes were asked for.
    pub audit: Audit,
    /// Every task that lives as long as the process, which ends with the first that does.
    pub tasks: Tasks,
}

/// Reason why a zone-sync could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ZoneSyncError {
    #[error("cannot speak to etcd")]
    Etcd(#[from] EtcdError),
    #[error(
        "zone sync cannot listen on {0} without an identity: whoever reaches it could register instances"
    )]
    NotLoopback(SocketAddr),
    #[error("the identity is of zone {found}, and the registry of zone {zone}")]
    OtherZone { zone: ZoneName, found: ZoneName },
    #[error("cannot listen on {address} for registration")]
    Bind {
        address: ListenAddress,
        #[source]
        source: io::Error,
    },
    #[error("cannot listen on the unix socket beside {address}, over which this host changes things")]
    Beside {
        address: ListenAddress,
        #[source]
        source: io::Error,
    },
    #[error("cannot serve /readyz and /metrics")]
    Admin(#[source] AdminError),
}

impl ZoneSyncError {
    /// Says what the operator can do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Etcd(_) => {
                "for example --etcd http://10.0.0.1:2379,http://10.0.0.2:2379,http://10.0.0.3:2379"
            }
            Self::NotLoopback(_) => {
                "give it one with --identity, listen on 127.0.0.1 or a unix socket, or pass --insecure where only trusted \
                 hosts reach it"
            }
            Self::OtherZone { .. } => "issue a certificate for this zone, or correct --zone",
            Self::Bind { .. } => {
                "is the address this host's own and free? a gateway's own registry takes 7820 too: set --listen"
            }
            Self::Beside { .. } => {
                "another program of this host has its name: `ss -xlp` says which; end it, or set another --listen"
            }
            Self::Admin(AdminError::NotLoopback(_)) => "listen on 127.0.0.1 or a unix socket",
            Self::Admin(error) => error.hint(),
        }
    }
}

/// A running zone-sync.
#[derive(Debug)]
pub struct RunningZoneSync {
    address: ListenAddress,
    admin: Option<admin::ZoneSyncAdmin>,
    stop: CancellationToken,
    server: JoinHandle<()>,
    registry: SharedRegistry,
    tasks: Tasks,
}

/// Checks that it may listen where it is told to, and that its identity is of its zone.
fn check(config: &ZoneSyncConfig) -> Result<(), ZoneSyncError> {
    if let ListenAddress::Tcp(address) = &config.listen
        && !address.ip().to_canonical().is_loopback()
        && !config.insecure
        && config.identity.is_none()
    {
        return Err(ZoneSyncError::NotLoopback(*address));
    }
    let own = config
        .identity
        .as_ref()
        .map(|identity| identity.gateway().zone.clone());
    match own.filter(|found| *found != config.zone) {
        Some(found) => Err(ZoneSyncError::OtherZone {
            zone: config.zone.clone(),
            found,
        }),
        None => Ok(()),
    }
}

impl RunningZoneSync {
    /// Binds its addresses, begins to follow etcd and serves until [`RunningZoneSync::shutdown`]. etcd need not be there yet:
    /// until it was read once, calls are answered as unavailable.
    ///
    /// # Errors
    /// When an address is not allowed or cannot be bound, or what is said of etcd makes no sense.
    pub async fn start(config: ZoneSyncConfig) -> Result<Self, ZoneSyncError> {
        check(&config)?;
        let client = EtcdClient::new(&config.etcd)?
            .starting_at(SmallRng::from_os_rng().random_range(0..MAX_ENDPOINTS));
        let bind = |source| ZoneSyncError::Bind {
            address: config.listen.clone(),
            source,
        };
        let listener = ZoneSyncListener::bind(&config.listen).map_err(bind)?;
        let address = listener.address().map_err(bind)?;
        let socket = ZoneSyncListener::bind_beside(&address).map_err(|source| ZoneSyncError::Beside {
            address: address.clone(),
            source,
        })?;
        let registry = SharedRegistry::start(config.zone.clone(), client, config.tasks.clone());
        let descriptors = Descriptors::default();
        let admin = match config.admin {
            Some(admin) => {
                let with = (&config.tasks, descriptors.clone());
                let started = admin::ZoneSyncAdmin::start(admin, registry.clone(), with);
                Some(started.await.map_err(ZoneSyncError::Admin)?)
            }
            None => None,
        };
        let stop = CancellationToken::new();
        // What a handshake admits is a gateway of the zone.
        let own_zone = config.identity.as_ref().map(|identity| {
            let below = format!("spiffe://{}/zone/{}/", identity.trust_domain(), config.zone);
            Grant::below(Scope::Write, below)
        });
        let (told, access) = proof_wanted(&address, config.insecure);
        let secure = config.identity.map(Secure::new);
        let service = RegistryServer::new(RegistryService::new(registry.clone(), config.trust, stop.clone()))
            .max_decoding_message_size(MAX_MESSAGE_BYTES);
        let guard = Guard {
            tokens: config.tokens,
            grants: own_zone.into_iter().collect(),
        };
        let gate = Gate::new(Some(Arc::new(guard)), config.audit, Arc::default());
        let serving = serve::serve(
            ListenersOfZoneSync {
                listener,
                socket,
                descriptors,
            },
            secure,
            service,
            (gate.with_socket(told), access),
            registry.contact(),
            stop.clone(),
        );
        let server = tokio::spawn(config.tasks.keep("registry over gRPC", serving));
        tracing::info!(zone = %config.zone, %address, etcd = config.etcd.join(","), "zone sync listens");
        Ok(Self {
            address,
            admin,
            stop,
            server,
            registry,
            tasks: config.tasks,
        })
    }

    /// Returns the address that it listens on, with the port that the system chose if 0 was asked for.
    #[must_use]
    pub fn address(&self) -> &ListenAddress {
        &self.address
    }

    /// Returns the address at which `/readyz` and `/metrics` are served.
    #[must_use]
    pub fn admin_address(&self) -> Option<&AdminAddress> {
        self.admin.as_ref().map(admin::ZoneSyncAdmin::address)
    }

    #[must_use]
    pub fn registry(&self) -> &SharedRegistry {
        &self.registry
    }

    /// Stops accepting, ends every watch and attachment, and finishes the calls under way within a few seconds. Gateways
    /// stay present in etcd for the seconds that they need to attach elsewhere.
    pub async fn shutdown(self) {
        self.tasks.stop();
        self.registry.stop();
        self.stop.cancel();
        // The server task ends by itself; an error here means it panicked, which was logged where it happened.
        let _ = self.server.await;
        if let Some(admin) = self.admin {
            admin.shutdown().await;
        }
        if let ListenAddress::Unix(path) = &self.address {
            remove(path);
        }
    }
}

/// Name of the socket to be told to who is refused on loopback, and the proof that is wanted. A socket that the operator has named is for
/// whom its folder and its mode let open it.
fn proof_wanted(address: &ListenAddress, insecure: bool) -> (Option<Arc<Path>>, ListenerProof) {
    match address {
        ListenAddress::Tcp(address) => {
            let name = format!("unix-abstract:{}", beside_name(*address));
            (Some(Path::new(&name).into()), ListenerProof::of(insecure))
        }
        ListenAddress::Unix(_) => (None, ListenerProof::Open),
    }
}

fn remove(path: &PathBuf) {
    if let Err(error) = std::fs::remove_file(path) {
        tracing::debug!(path = %path.display(), %error, "the socket could not be removed");
    }
}

#[cfg(test)]
mod tests;
