//! Settings that a gateway is started with, and why it may not start.

use std::{
    collections::BTreeSet,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use causeway_api::{
    admin::{AdminConfig, AdminError, view::SettingView},
    credentials::Gate,
    registration::{RegistrationConfig, RegistrationError},
};
use causeway_control::{TopologySource, renewal::Renewal, trust::Trusted};
use causeway_dns::{DnsConfig, DnsError, vips};
use causeway_federation::name::{GatewayId, ZoneName};
use causeway_history::HistoryLimits;
use causeway_host::{files::make_private_folder, handed::HandedSockets, resolve::NameResolver, tasks::Tasks};
use causeway_identity::{LiveIdentity, Secure, TlsError};
use causeway_instances::{
    InstancesError, KnownHealth,
    attach::{AttachConfig, ServerAddress},
};
use causeway_proxy::egress::{Outlive, RedirectError};
use causeway_routing::{
    capacity::CarriedEstimate, failback::CarriedTier, limits::CarriedLimits, outlier::CarriedEjection,
    shift::CarriedShift,
};
use causeway_telemetry::{AccessLog, OtlpSettings};
use causeway_tunnel as tunnel;
use causeway_zone_sync::{replica::Ages, service};

/// Everything that a gateway is started with.
#[derive(Debug)]
pub struct GatewayConfig {
    /// Says which zone and gateway this is.
    pub identity: LiveIdentity,
    /// Source of the topology, which may change it at any time.
    pub topology: TopologySource,
    pub anchors: TrustAnchors,
    pub storage: Storage,
    /// Time and room for which what happened is kept.
    pub history: HistoryLimits,
    pub registry: RegistryChoice,
    pub renewal: CertificateRenewal,
    pub tunnel: tunnel::TunnelConfig,
    /// Addresses at which clients that show a certificate are taken over TLS; empty: nowhere.
    pub tls_listen: Vec<SocketAddr>,
    /// Time for which connections there may outlive their clients' certificates.
    pub tls_outlive: Outlive,
    /// Port that the kernel redirects clients of virtual addresses to; `None`: each address is listened on.
    pub redirect_port: Option<u16>,
    /// Time for which virtual addresses are still taken after the zone's `vips` have changed.
    pub keep_vips: Duration,
    /// No listen address: no DNS.
    pub dns: DnsConfig,
    /// Addresses that the admin API listens on; empty: nowhere.
    pub admin: Vec<AdminConfig>,
    /// The folder whose files hold instances; `None`: there is none.
    pub instances_folder: Option<PathBuf>,
    /// `None`: no registration over gRPC.
    pub registration: Option<RegistrationConfig>,
    /// Gate that knows who may use the admin API and registration from elsewhere, and writes down what was asked of them.
    pub gate: Gate,
    pub access: AccessLog,
    /// Receiver of telemetry; `None`: it is sent nowhere, and there are no traces.
    pub otlp: Option<OtlpSettings>,
    /// Ages up to which other zones' exports are believed.
    pub ages: Ages,
    /// Longest time that bytes of a connection between zones may wait of which the other side takes none.
    pub stall_limit: Duration,
    /// Longest time without a byte once one side of a connection has finished; `None`: any.
    pub half_closed_limit: Option<Duration>,
    /// Silence after which the sockets of clients and instances are probed; `None`: never.
    pub keepalive: Option<Duration>,
    /// Counted by every part; the holder of the topology counts reloads in it.
    pub metrics: super::GatewayMetrics,
    /// Every task that lives as long as the gateway.
    pub tasks: Tasks,
    /// Data threads; one per core is best.
    pub threads: usize,
    /// Flags that all this comes from, to be shown.
    pub settings: Arc<[SettingView]>,
    pub handed: Handed,
}

/// Things that a gateway has found out and counted, and the gateways of other zones that it has tunnels with.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Findings {
    pub health: KnownHealth,
    pub ejections: Vec<CarriedEjection>,
    pub failback: Vec<CarriedTier>,
    pub shifts: Vec<CarriedShift>,
    pub estimates: Vec<CarriedEstimate>,
    pub limits: CarriedLimits,
    pub linked: BTreeSet<GatewayId>,
}

/// Things that a process has of the one whose place it takes; by default none.
#[derive(Debug, Clone, Default)]
pub struct Handed {
    pub sockets: HandedSockets,
    pub findings: Findings,
    /// `None`: it takes nobody's place.
    pub tunnels: Option<tunnel::Predecessor>,
}

/// Source of the roots and revocations that a gateway believes.
#[derive(Debug, Clone)]
pub enum TrustAnchors {
    /// The files of its identity alone.
    IdentityFiles,
    /// The trust document that the federation hands on, beginning with those files.
    Document(Trusted),
}

impl TrustAnchors {
    #[must_use]
    pub fn document(&self) -> Option<&Trusted> {
        match self {
            Self::IdentityFiles => None,
            Self::Document(trusted) => Some(trusted),
        }
    }
}

/// Place of catalog, registrations and virtual addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Storage {
    /// They end with the gateway.
    Memory,
    /// They outlive a restart in this folder.
    Folder(PathBuf),
}

impl Storage {
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        match self {
            Self::Memory => None,
            Self::Folder(path) => Some(path),
        }
    }
}

/// Registry of the zone's instances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegistryChoice {
    /// Of this gateway alone, and kept by it.
    Embedded,
    /// Shared with the zone's other gateways, and kept by these zone-sync processes.
    Shared {
        servers: Vec<ServerAddress>,
        proof: ServerProof,
    },
}

/// Proof that zone-sync processes on other hosts must give of who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerProof {
    /// A certificate of the zone, over TLS.
    Certificate,
    /// None: they are trusted as they are, in the clear.
    Nothing,
}

/// Renewal of the gateway's certificate.
#[derive(Debug, Clone)]
pub enum CertificateRenewal {
    /// Somebody else's business, such as that of a SPIFFE agent.
    Elsewhere,
    /// The gateway asks the CA, where the folder of its identity says how.
    FromCa(Renewal),
}

impl CertificateRenewal {
    #[must_use]
    pub fn from_ca(&self) -> Option<&Renewal> {
        match self {
            Self::Elsewhere => None,
            Self::FromCa(renewal) => Some(renewal),
        }
    }
}

impl GatewayConfig {
    /// Way to the registry that the gateways of the zone share.
    pub(super) fn shared_registry(&self) -> Option<AttachConfig> {
        let RegistryChoice::Shared { servers, proof } = &self.registry else {
            return None;
        };
        Some(AttachConfig {
            id: self.id().clone(),
            servers: servers.clone(),
            secure: match proof {
                ServerProof::Certificate => Some(Secure::new(self.identity.clone())),
                ServerProof::Nothing => None,
            },
            resolver: NameResolver::default(),
        })
    }

    #[must_use]
    pub fn id(&self) -> &GatewayId {
        self.identity.gateway()
    }

    /// Tells whether this gateway keeps a registry that no other gateway of its zone has.
    pub(super) fn is_apart(&self) -> bool {
        matches!(self.registry, RegistryChoice::Embedded)
    }

    pub(super) fn make_data_folder(&self) -> Result<(), GatewayStartError> {
        let Some(path) = self.storage.folder() else {
            return Ok(());
        };
        make_private_folder(path).map_err(|source| GatewayStartError::DataDir {
            path: path.to_owned(),
            source,
        })
    }

    pub(super) fn check_zone(&self) -> Result<(), GatewayStartError> {
        let zone = &self.id().zone;
        match self.topology.current().zones.contains_key(zone) {
            true => Ok(()),
            false => Err(GatewayStartError::UnknownZone(zone.clone())),
        }
    }
}

/// Reason why a gateway did not start. Nothing of it is left running.
#[derive(Debug, thiserror::Error)]
pub enum GatewayStartError {
    #[error("the topology has no zone `{0}`, which this gateway's certificate names")]
    UnknownZone(ZoneName),
    #[error("cannot use the data directory {}", path.display())]
    DataDir {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot send telemetry: {0}")]
    Otlp(String),
    #[error("cannot keep the keys of tunnels")]
    EndpointKeys(#[from] tunnel::EndpointKeysError),
    #[error("cannot start {count} data threads")]
    Threads {
        count: usize,
        #[source]
        source: io::Error,
    },
    #[error("cannot look after instances")]
    Instances(#[from] InstancesError),
    #[error("cannot sign what is told to other zones")]
    Identity(#[from] TlsError),
    #[error("cannot start zone sync")]
    ZoneSync(#[from] service::SyncStartError),
    #[error("cannot keep virtual addresses")]
    Vips(#[from] vips::VipStoreError),
    #[error("cannot start tunnels")]
    Tunnels(#[from] tunnel::TunnelsStartError),
    #[error("cannot have the kernel redirect clients")]
    Redirect(#[from] RedirectError),
    #[error("cannot start mesh DNS")]
    Dns(#[from] DnsError),
    #[error("cannot start the admin API")]
    Admin(#[from] AdminError),
    #[error("cannot take registrations over gRPC")]
    Registration(#[from] RegistrationError),
}
