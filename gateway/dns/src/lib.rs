//! Mesh DNS: answers for the mesh domain from the current snapshot, for virtual addresses in reverse, and everything else
//! from the upstream resolvers.
//!
//! A service that no zone can serve at the moment still resolves: its address is stable, and connecting tells the truth
//! sooner than a cached "no such name" would. A service that is not in the topology, or not exported to this zone, does not
//! exist here. Nothing below the mesh domain is ever asked upstream.
//!
//! Where it listens on a wildcard address, a host with several addresses may answer from another one than was asked;
//! resolvers drop such answers, so list the addresses instead.

#![warn(unreachable_pub)]

mod access;
mod answer;
mod forward;
mod handler;
mod metrics;
mod place;
mod rate;
mod resolver;
mod serve;
mod status;
#[cfg(test)]
mod tests;
pub mod vips;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use causeway_host::{
    descriptors::Descriptors,
    handed::HandedSockets,
    held::{is_taken, open_held},
    tasks::Tasks,
};
use ipnet::IpNet;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use causeway_routing::snapshot::Snapshots;

use crate::vips::VipTable;
use access::QueryAccess;
use forward::{Forwarder, system_upstreams};
use handler::Handler;
pub use metrics::DnsMetrics;
pub use place::target_of;
use rate::QueryRates;
pub use resolver::{HostResolver, Lookup, LookupError};
use serve::{DnsState, MAX_WAITING, bind};

/// Time for which the answers under way are waited for at the end.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// Settings of mesh DNS: how it is reached, and whom it asks.
#[derive(Debug, Clone, Default)]
pub struct DnsConfig {
    /// UDP and TCP; port 0 picks one that is free for both.
    pub listen: Vec<SocketAddr>,
    /// Resolvers for everything that is not about the mesh, in order. `None`: those of `/etc/resolv.conf`.
    pub upstreams: Option<Vec<SocketAddr>>,
    /// Networks that may ask besides this host.
    pub allow: Vec<IpNet>,
}

/// Reason why mesh DNS could not start.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    #[error("cannot listen for DNS on {address}")]
    Bind {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
}

/// A running mesh DNS server.
#[derive(Debug)]
pub struct DnsServer {
    addresses: Vec<SocketAddr>,
    taking: CancellationToken,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl DnsServer {
    /// Binds every address of `config` and serves it on the current tokio runtime.
    ///
    /// # Errors
    /// When an address cannot be bound; nothing is left running then.
    pub fn start(
        config: DnsConfig,
        snapshots: Snapshots,
        vips: Arc<VipTable>,
        metrics: Arc<DnsMetrics>,
        handed: &HandedSockets,
        (tasks, descriptors): (&Tasks, Descriptors),
    ) -> Result<Self, DnsError> {
        let mut sockets = Vec::with_capacity(config.listen.len());
        let mut addresses = Vec::with_capacity(config.listen.len());
        for address in config.listen {
            let bound = open_held(is_taken, || bind(address, handed)).and_then(|(udp, tcp)| {
                addresses.push(udp.local_addr()?);
                Ok((udp, tcp))
            });
            sockets.push(bound.map_err(|source| DnsError::Bind { address, source })?);
        }
        let service = DnsState {
            handler: Arc::new(Handler {
                snapshots,
                vips,
                forwarder: Forwarder::new(told(upstreams(config.upstreams, &addresses))),
                access: QueryAccess::new(config.allow),
                rates: Mutex::new(QueryRates::default()),
                metrics,
                servers: servers(&addresses),
            }),
            waiting: Arc::new(Semaphore::new(MAX_WAITING)),
            descriptors,
            taking: CancellationToken::new(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        for (udp, tcp) in sockets {
            service.serve(udp, tcp, tasks);
        }
        Ok(Self {
            addresses,
            taking: service.taking,
            stop: service.stop,
            tasks: service.tasks,
        })
    }

    /// Leaves the sockets to a successor; questions that were taken are answered.
    pub fn hand_over(&self) {
        self.taking.cancel();
    }

    /// Addresses at which it listens, in the order of the configuration.
    #[must_use]
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Stops listening and gives up what is under way.
    pub async fn shutdown(self) {
        self.taking.cancel();
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(STOP_TIMEOUT, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!(left = self.tasks.len(), "mesh DNS ended with work under way");
        }
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.taking.cancel();
        self.stop.cancel();
    }
}

fn upstreams(configured: Option<Vec<SocketAddr>>, listen: &[SocketAddr]) -> Vec<SocketAddr> {
    configured.unwrap_or_else(|| system_upstreams(listen))
}

/// Says which resolvers are asked: where mesh DNS is served, and not once more where the gateway asks for itself.
fn told(upstreams: Vec<SocketAddr>) -> Vec<SocketAddr> {
    if upstreams.is_empty() {
        tracing::warn!(
            hint = "name resolvers with --dns-upstream ADDR where hosts ask nobody else",
            "there is no upstream resolver: names outside the mesh domain are refused"
        );
    } else {
        tracing::info!(?upstreams, "other names are asked of the upstream resolvers");
    }
    upstreams
}

fn servers(addresses: &[SocketAddr]) -> Vec<IpAddr> {
    let mut servers: Vec<IpAddr> = addresses.iter().map(SocketAddr::ip).collect();
    servers.retain(|address| !address.is_unspecified());
    servers.sort_unstable();
    servers.dedup();
    servers
}
