//! One zone's gateway, assembled: starts every part, connects them, and takes them apart again in order.
//!
//! Nothing is decided here. Several gateways can live in one process, as they do in the demo and in tests.
//!
//! # Tasks, channels and what bounds them
//!
//! Paths are below `gateway/`, and those of zone-sync and its registry below `zone-sync/src/`. *control* is the runtime that
//! [`Gateway::start`] was called on, *data* the data threads of [`threads`], *zone-sync* the process `causeway zone-sync`.
//!
//! | task | runtime | owns | reached by |
//! | --- | --- | --- | --- |
//! | `src/gateway/publish.rs` | control | the current `Snapshot` | watches the topology, instances, catalog and tunnels |
//! | `src/gateway/sessions.rs` | control | which peers have a zone sync session | watches the tunnels |
//! | `src/gateway/recheck.rs` | control | nothing: has egress and ingress look at their open connections again | watches snapshots: a new topology, or who is registered where |
//! | `proxy/src/moving.rs` | control | since when which open connections have not belonged where they are | watches snapshots; a look every 100 ms to 5 s, where a service has `connections` |
//! | `src/gateway/exports.rs` | control | nothing: tells zone sync what is exported | watches the topology and instances |
//! | `telemetry/src/otlp/batches.rs`, for spans and for the log | control | batches on their way to a receiver, where one is configured | a queue of 2,048; a message has 10 s |
//! | `telemetry/src/otlp/readings.rs` | control | metrics on their way to it | a look every minute; one export at a time, of 30 s |
//! | `history/src/history.rs` | control | the files of the history | a bounded queue of 1,024 events |
//! | `src/gateway/history.rs` | control | the latest picture of what this gateway knows, the figures of the minute | watches snapshots; a look every 250 ms |
//! | `src/gateway/sync_status.rs` | control | what zone sync says of itself | a bounded channel of events; a look every 500 ms |
//! | `instances/src/task.rs` | control | registry, health, `registry.redb` | a bounded channel of commands; hints of failed connects |
//! | `instances/src/attach/task.rs` | control | the one attachment to a zone-sync | bounded channels to and from `instances/src/task.rs`; forwarded registrations use its client |
//! | `instances/src/carried.rs` | control | registrations of the time before the registry was shared, until a zone-sync has them | nobody; a try every 1 to 30 s |
//! | `instances/src/sources/`: the folder, DNS | control | what they know | `notify` and a look every 10 s; the times to live |
//! | `control/src/renewal/task.rs` | control | when the certificate is renewed, and what was said of failures | watches the identity; one try at a time |
//! | `control/src/renewal/relay.rs`, for each stream | control | a stream of another zone and a connection to the CA | 16 at once, 30 s and 512 KiB each |
//! | `control/src/topology/fetch.rs` | control | what was asked of whom | watches what peers announce and the tunnels; one question at a time |
//! | `control/src/trust/fetch.rs` | control | whom it asked for a newer trust document | watches what peers announce; at most four questions at once |
//! | `control/src/trust/mod.rs`: following the topology | control | nothing | watches the topology; puts the bundles of other trust domains into the identity |
//! | `control/src/demand/` | control | what clients ask for, and how instances answer, here and at other gateways | a look each second; 256 questions at once, 900 ms and 512 KiB each |
//! | `gateway/apart.rs` | control | whether it has said that the zone has other gateways | watches the topology |
//! | `control/src/reload/watch.rs` | control | the topology file's last content | `notify`, SIGHUP, and a look every 10 s |
//! | `identity/src/workload_api/source.rs` | control | the call to the agent that an identity comes from | one call, 4 MiB an answer; asked anew after 5 min of silence, and after failures with waits of up to 30 s |
//! | `service/task.rs` | control | the `Replica`, `catalog.redb` | a bounded channel; local changes by a watch in which the latest wins |
//! | `dns/src/vips/table.rs` | control | virtual addresses, `vips.redb` | watches snapshots |
//! | `dns/src/serve.rs`, `api/src/admin/server.rs` | control | their sockets | bounded questions and connections |
//! | `api/src/registration/watch.rs`, for each watcher | control | what it was told last | bounded connections, calls and watchers; a watcher skips what it missed |
//! | `tunnel/src/accept.rs`, `dial.rs`, and `session.rs` for each tunnel | data | the endpoints of that thread | the `TunnelSet`, which readers never wait for |
//! | `proxy/src/egress/listen.rs`, `accept.rs`, and `connection.rs` for each connection | data | the listening sockets for which that thread accepts | watches the bindings; 1,024 clients that another thread accepted for it |
//! | `proxy/src/egress/redirect/keep.rs` | control | the table of nftables that redirects clients, if there is one | watches the bindings; a look every 3 s; `nft` has 5 s |
//! | `proxy/src/egress/tls/`, in the task of a connection | data | its handshake | 1,024 at once, 5 s each |
//! | `proxy/src/egress/tls/`: open connections looked at again | control | nothing | watches the identity |
//! | `proxy/src/ingress/`, for each stream | data | one connection to an instance | the tunnel's `StreamHandler` |
//! | `registry/etcd/follow.rs` | zone-sync | reading and watching etcd, and the word whether it is in reach | a view behind a lock that is never held over a wait |
//! | `registry/etcd/lane.rs` ×4 | zone-sync | writing: transactions of up to 100 changes | 16,384 orders each, by hash of the key, so that a key's stay in order |
//! | `registry/etcd/upkeep.rs` | zone-sync | renewing leases, deleting what fell silent, health reports | looks every 250 ms |
//! | `api/src/zone_sync/watch.rs`, for each watcher | zone-sync | what one watcher is told | 256 events, then a shared ring of 65,536; who falls behind begins anew |

mod apart;
mod apis;
mod background;
mod certificate;
mod config;
mod descriptors;
mod disk;
mod exports;
mod failback;
mod handover;
mod history;
mod labels;
mod listeners;
mod local_sockets;
mod metrics;
mod otlp;
mod publish;
mod pulses;
mod readiness;
mod recheck;
mod redirect;
mod sessions;
mod shifts;
mod shutdown;
mod start;
mod streams;
mod sync_metrics;
mod sync_status;
mod threads;
mod unread;

pub use config::{
    CertificateRenewal, Findings, GatewayConfig, GatewayStartError, Handed, RegistryChoice, ServerProof,
    Storage, TrustAnchors,
};
pub use metrics::GatewayMetrics;
pub use shutdown::Cut;

use std::{net::SocketAddr, sync::Arc};

use causeway_api::{
    admin::{Admin, AdminAddress},
    registration::RegistrationServer,
};
use causeway_control::{TopologySource, demand::DemandBook};
use causeway_dns::{DnsServer, vips::VipTable};
use causeway_federation::name::GatewayId;
use causeway_history::History;
use causeway_host::{handed::HandedSockets, tasks::Tasks};
use causeway_instances::Instances;
use causeway_proxy::{egress::Egress, ingress::Ingress};
use causeway_routing::snapshot::Snapshots;
use causeway_telemetry::OtlpExport;
use causeway_tunnel::Tunnels;
use causeway_zone_sync::service::ZoneSync;
use tokio::{sync::watch, task::JoinHandle};

use background::BackgroundTasks;
use failback::FailbackKeeper;
use threads::DataThreads;

use crate::handover::HandoverServer;

/// A running gateway. Dropping it without [`Gateway::shutdown`] ends it at once, as a crash would.
pub struct Gateway {
    id: GatewayId,
    snapshots: Snapshots,
    generation: watch::Receiver<u64>,
    metrics: GatewayMetrics,
    history: History,
    instances: Instances,
    zone_sync: ZoneSync,
    vips: Arc<VipTable>,
    tunnels: Tunnels,
    egress: Egress,
    ingress: Ingress,
    dns: Option<DnsServer>,
    admin: Vec<Admin>,
    registration: Option<RegistrationServer>,
    draining: Arc<std::sync::atomic::AtomicBool>,
    background: BackgroundTasks,
    failback: FailbackKeeper,
    demand: DemandBook,
    /// `None`: telemetry goes nowhere over OTLP.
    otlp: Option<OtlpExport>,
    /// Sockets that a successor is to have.
    handed: HandedSockets,
    /// Until it is taken.
    handover: Option<HandoverServer>,
    topology: TopologySource,
    /// A successor has taken the place of this process, which finishes what it holds.
    is_succeeded: bool,
    /// Calls of the APIs that had not finished when it did.
    late_calls: Option<JoinHandle<()>>,
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
    pub fn metrics(&self) -> &GatewayMetrics {
        &self.metrics
    }

    #[must_use]
    pub fn vips(&self) -> &Arc<VipTable> {
        &self.vips
    }

    /// Every task of this gateway that lives as long as it does.
    #[must_use]
    pub fn tasks(&self) -> &Tasks {
        self.background.tasks()
    }

    /// The UDP address on which tunnels are accepted.
    #[must_use]
    pub fn tunnel_address(&self) -> SocketAddr {
        self.tunnels.local_addr()
    }

    #[must_use]
    pub fn dns_addresses(&self) -> &[SocketAddr] {
        self.dns.as_ref().map_or(&[], DnsServer::local_addrs)
    }

    /// The first of the addresses that the admin API listens on.
    #[must_use]
    pub fn admin_address(&self) -> Option<&AdminAddress> {
        self.admin.first().map(Admin::local_addr)
    }

    /// Returns the address at which registrations are taken over gRPC.
    #[must_use]
    pub fn registration_address(&self) -> Option<SocketAddr> {
        self.registration.as_ref().map(RegistrationServer::local_addr)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.background.stop();
    }
}
