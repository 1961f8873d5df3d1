//! What a gateway is started with, and why it may not start.

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc};

use causeway_zone_sync::{
    name::{GatewayId, ZoneName},
    replica::Ages,
    service,
    topology::Topology,
};
use tokio::sync::watch;

use crate::{
    admin::{AdminConfig, AdminError},
    attach::ServerAddress,
    credentials::Gate,
    dns::{DnsConfig, DnsError},
    identity::{LiveIdentity, TlsError},
    instances::InstancesError,
    registration::{RegistrationConfig, RegistrationError},
    reload::ReloadState,
    renewal::Renewal,
    telemetry::{AccessLog, Metrics},
    topology::AppliedTopology,
    trust::Trusted,
    tunnel, vips,
};

/// Everything that a gateway is started with.
#[derive(Debug)]
pub struct GatewayConfig {
    /// Says which zone and gateway this is.
    pub identity: LiveIdentity,
    /// The topology in force; whoever holds the sender may change it at any time.
    pub topology: watch::Receiver<Arc<Topology>>,
    /// How the last reload of the topology went, for `/readyz` and `causeway check`.
    pub reload: watch::Receiver<ReloadState>,
    /// Where the topology in force comes from when it is an applied one; `None`: a file rules, and nothing can be
    /// applied.
    pub applied: Option<AppliedTopology>,
    /// The trust document of this gateway; `None`: it knows none, and the files of its identity rule.
    pub trust: Option<Trusted>,
    /// Where catalog, registrations and virtual addresses outlive a restart; `None`: they do not.
    pub data_dir: Option<PathBuf>,
    /// The zone-sync processes that hold the registry which the gateways of the zone share; empty: it is embedded.
    pub zone_sync: Vec<ServerAddress>,
    /// Attaches to those on other hosts without proof of who they are.
    pub zone_sync_insecure: bool,
    /// Keeps the certificate renewed where its folder says how; `None`: nobody here does.
    pub renewal: Option<Renewal>,
    pub tunnel: tunnel::TunnelConfig,
    /// Where clients that show a certificate are taken over TLS; empty: nowhere.
    pub tls_listen: Vec<SocketAddr>,
    /// No listen address: no DNS.
    pub dns: DnsConfig,
    /// Where the admin API listens; empty: nowhere.
    pub admin: Vec<AdminConfig>,
    /// The folder whose files hold instances; `None`: there is none.
    pub instances_folder: Option<PathBuf>,
    /// `None`: no registration over gRPC.
    pub registration: Option<RegistrationConfig>,
    /// Who may use the admin API and registration from elsewhere, and where it is written down what was asked of them.
    pub gate: Gate,
    pub access: AccessLog,
    /// How long other zones' exports are believed.
    pub ages: Ages,
    /// Counted by every part; the holder of the topology counts reloads in it.
    pub metrics: Arc<Metrics>,
    /// Data threads; one per core is best.
    pub threads: usize,
}

impl GatewayConfig {
    #[must_use]
    pub fn id(&self) -> &GatewayId {
        self.identity.gateway()
    }
}

/// Why a gateway did not start. Nothing of it is left running.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the topology has no zone `{0}`, which this gateway's certificate names")]
    UnknownZone(ZoneName),
    #[error("cannot use the data directory {}", path.display())]
    DataDir {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
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
    ZoneSync(#[from] service::StartError),
    #[error("cannot keep virtual addresses")]
    Vips(#[from] vips::StoreError),
    #[error("cannot start tunnels")]
    Tunnels(#[from] tunnel::StartError),
    #[error("cannot start mesh DNS")]
    Dns(#[from] DnsError),
    #[error("cannot start the admin API")]
    Admin(#[from] AdminError),
    #[error("cannot take registrations over gRPC")]
    Registration(#[from] RegistrationError),
}
