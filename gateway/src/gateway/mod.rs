//! One zone's gateway, assembled: starts every part, connects them, and takes them apart again in order.
//!
//! Nothing is decided here. Several gateways can live in one process, as they do in the demo and in tests.

mod certificate;
mod config;
mod exports;
mod labels;
mod publish;
mod readiness;
mod recheck;
mod sessions;
mod shutdown;
mod start;
mod streams;
mod sync_status;
mod threads;

pub use config::{GatewayConfig, StartError};
pub use shutdown::Cut;
pub(crate) use start::make_private_folder;

use std::{net::SocketAddr, sync::Arc};

use causeway_zone_sync::{name::GatewayId, service::ZoneSync};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admin::{Admin, AdminAddress},
    dns::Dns,
    egress::Egress,
    ingress::Ingress,
    instances::Instances,
    registration::Registration,
    snapshot::Snapshots,
    telemetry::Metrics,
    tunnel::Tunnels,
    vips::VipTable,
};
use threads::DataThreads;

/// A running gateway. Dropping it without [`Gateway::shutdown`] ends it at once, as a crash would.
pub struct Gateway {
    id: GatewayId,
    snapshots: Snapshots,
    generation: watch::Receiver<u64>,
    metrics: Arc<Metrics>,
    instances: Instances,
    zone_sync: ZoneSync,
    vips: Arc<VipTable>,
    tunnels: Tunnels,
    egress: Egress,
    ingress: Ingress,
    dns: Option<Dns>,
    admin: Vec<Admin>,
    registration: Option<Registration>,
    draining: Arc<std::sync::atomic::AtomicBool>,
    /// Ends the tasks of `tasks`.
    stop: CancellationToken,
    tasks: TaskTracker,
    threads: DataThreads,
}

impl Gateway {
    #[must_use]
    pub fn id(&self) -> &GatewayId {
        &self.id
    }

    #[must_use]
    pub fn snapshots(&self) -> &Snapshots {
        &self.snapshots
    }

    /// Counts up with every snapshot: wait on it to see a change.
    #[must_use]
    pub fn generation(&self) -> watch::Receiver<u64> {
        self.generation.clone()
    }

    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    #[must_use]
    pub fn vips(&self) -> &Arc<VipTable> {
        &self.vips
    }

    /// The UDP address on which tunnels are accepted.
    #[must_use]
    pub fn tunnel_address(&self) -> SocketAddr {
        self.tunnels.local_addr()
    }

    #[must_use]
    pub fn dns_addresses(&self) -> &[SocketAddr] {
        self.dns.as_ref().map_or(&[], Dns::local_addrs)
    }

    /// The first of the addresses that the admin API listens on.
    #[must_use]
    pub fn admin_address(&self) -> Option<&AdminAddress> {
        self.admin.first().map(Admin::local_addr)
    }

    /// Where registrations are taken over gRPC.
    #[must_use]
    pub fn registration_address(&self) -> Option<SocketAddr> {
        self.registration.as_ref().map(Registration::local_addr)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
