//! Every zone of a topology on this host: gateways, the links between them, and built-in instances.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant},
};

use causeway_api::admin::{AdminAddress, AdminConfig};
use causeway_control::TopologySource;
use causeway_dns::DnsConfig;
use causeway_federation::{
    name::{GatewayId, PortName, ServiceName, ZoneName},
    topology::{CapacityRule, Protocol, Topology},
};
use causeway_host::tasks::Tasks;
use causeway_identity::{
    LiveIdentity,
    ca::{Ca, LEAF_VALIDITY},
};
use causeway_routing::snapshot::Snapshot;
use causeway_telemetry::{AccessLog, LineWriter};
use causeway_tunnel::TunnelConfig;
use causeway_zone_sync::replica::Ages;
use futures_util::future::join_all;
use tokio::{sync::watch, time::timeout};

use super::{
    DemoError,
    client::{ClientError, DemoClient},
    instance::Given,
    layout::{Path, authorities, gateway_name, gateways, move_ports, paths, start_instances, view},
    ranges::{self, InstanceHosts, Range},
    records::Records,
    sockets::SocketFolder,
};
use crate::gateway::{CertificateRenewal, Gateway, GatewayConfig, RegistryChoice, Storage, TrustAnchors};

/// Longest wait for every gateway to take up an edited topology.
const EDIT_PATIENCE: Duration = Duration::from_secs(20);
/// Longest that a gateway may drain at the end.
const DRAIN: Duration = Duration::from_secs(2);

/// One gateway of the demo.
pub(super) struct Member {
    pub(super) gateway: Gateway,
    pub(super) range: Range,
    topology: watch::Sender<Arc<Topology>>,
}

impl Member {
    pub(super) fn zone(&self) -> &ZoneName {
        &self.gateway.id().zone
    }

    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        self.gateway.snapshots().load_full()
    }

    /// Waits until `condition` holds for what this gateway knows; `false` after `patience`.
    pub(super) async fn until(&self, patience: Duration, condition: impl Fn(&Snapshot) -> bool) -> bool {
        let mut generation = self.gateway.generation();
        let holds = generation.wait_for(|_| condition(&self.gateway.snapshots().load()));
        timeout(patience, holds).await.is_ok_and(|held| held.is_ok())
    }
}

/// All zones, running.
pub(super) struct DemoFederation {
    /// As the file says it, with the addresses of built-in instances.
    pub(super) topology: Topology,
    /// In the order of their names; the first of each zone is the one that its applications use.
    pub(super) members: Vec<Member>,
    pub(super) given: Arc<Given>,
    pub(super) records: Records,
    /// Services whose port needs a privilege, with the port that stands in for it.
    pub(super) moved_ports: Vec<(ServiceName, u16)>,
    paths: Vec<Path>,
    numbers: Arc<AtomicU64>,
    _hosts: InstanceHosts,
    /// Given up last: gateways take their sockets out of it.
    _sockets: Option<SocketFolder>,
}

impl DemoFederation {
    /// Starts everything. The gateways do not know each other's addresses before [`DemoFederation::connect`].
    pub(super) async fn start(file: &Topology) -> Result<Self, DemoError> {
        let given = Arc::<Given>::default();
        let mut topology = file.clone();
        // Traffic comes in bursts here, which say nothing about what instances can take in a second.
        let spills = topology.services.values_mut();
        spills
            .filter_map(|service| service.spill.as_mut())
            .for_each(|spill| spill.capacity = CapacityRule::Ignore);
        let moved_ports = move_ports(&mut topology);
        let hosts = start_instances(&mut topology, &given).await?;
        let paths = paths(&topology).await?;
        let records = Records::default();
        let log = LineWriter::start("access log", records.sink(), &Tasks::default());
        let log = AccessLog::Json(log.map_err(DemoError::AccessLog)?);
        let cas = authorities(&mut topology)?;
        let sockets = SocketFolder::make();
        let starting = gateways(&topology).map(|id| start(&topology, id, &cas, &log, sockets.as_ref()));
        let members = join_all(starting).await.into_iter().collect::<Result<_, _>>()?;
        Ok(Self {
            topology,
            members,
            given,
            records,
            moved_ports,
            paths,
            numbers: Arc::new(AtomicU64::new(1)),
            _hosts: hosts,
            _sockets: sockets,
        })
    }

    /// Tells every gateway where the others are.
    pub(super) fn connect(&self) {
        for path in &self.paths {
            if let Some(member) = self.members.iter().find(|member| *member.gateway.id() == path.to) {
                path.link.lead_to(member.gateway.tunnel_address());
            }
        }
        self.publish();
    }

    /// Edits the topology, as an operator edits the file, and waits until it is in force everywhere. Gives how long that
    /// took.
    pub(super) async fn edit(&mut self, change: impl FnOnce(&mut Topology)) -> Result<Duration, DemoError> {
        let begun = Instant::now();
        change(&mut self.topology);
        self.publish();
        for member in &self.members {
            let wanted = member.topology.borrow().clone();
            let in_force = |snapshot: &Snapshot| Arc::ptr_eq(&snapshot.topology, &wanted);
            if !member.until(EDIT_PATIENCE, in_force).await {
                return Err(DemoError::Late("the edited topology is in force in every zone"));
            }
        }
        Ok(begun.elapsed())
    }

    /// Drops every packet to and from a zone, or no longer.
    pub(super) fn set_cut(&self, zone: &ZoneName, cut: bool) {
        let touched = |path: &&Path| path.from.zone == *zone || path.to.zone == *zone;
        for path in self.paths.iter().filter(touched) {
            path.link.set_cut(cut);
        }
    }

    /// The gateway that a zone's applications use.
    pub(super) fn member(&self, zone: &ZoneName) -> Result<&Member, DemoError> {
        let mut members = self.members.iter();
        members
            .find(|member| member.zone() == zone)
            .ok_or_else(|| DemoError::NoSuchZone(zone.clone()))
    }

    /// An application of `zone` that has resolved `service`.
    pub(super) async fn client(
        &self,
        zone: &ZoneName,
        service: &ServiceName,
    ) -> Result<DemoClient, DemoError> {
        let declared = self.topology.services.get(service);
        let primary = declared.map(|declared| &declared.ports.primary);
        let is_grpc = primary.is_some_and(|port| port.protocol == Protocol::Grpc);
        let port = primary.map_or(0, |port| port.number);
        let (dns, domain) = (self.dns(zone)?, self.topology.dns.domain.as_str());
        let client = DemoClient::resolve((zone, service), (dns, domain), port, self.numbers.clone());
        let client = client.await.map_err(|source| unresolved(zone, source))?;
        Ok(client.calling(is_grpc))
    }

    /// An application of `zone` that has asked for the SRV record of this port of `service`.
    pub(super) async fn client_of_port(
        &self,
        zone: &ZoneName,
        service: &ServiceName,
        port: &PortName,
    ) -> Result<DemoClient, DemoError> {
        let (dns, domain) = (self.dns(zone)?, self.topology.dns.domain.as_str());
        let numbers = self.numbers.clone();
        let client = DemoClient::resolve_port((zone, service), port, (dns, domain), numbers);
        client.await.map_err(|source| unresolved(zone, source))
    }

    fn dns(&self, zone: &ZoneName) -> Result<SocketAddr, DemoError> {
        let addresses = self.member(zone)?.gateway.dns_addresses();
        let first = addresses.first().copied();
        first.ok_or_else(|| DemoError::NoSuchZone(zone.clone()))
    }

    /// Ends every gateway in good order.
    pub(super) async fn shutdown(self) {
        let ending = self.members.into_iter().map(|member| {
            // The topology's sender lives until the gateway has ended, so that nothing takes its end for a failure.
            let Member {
                gateway, topology, ..
            } = member;
            async move {
                gateway.shutdown(DRAIN, std::future::pending()).await;
                drop(topology);
            }
        });
        join_all(ending).await;
    }

    fn publish(&self) {
        for member in &self.members {
            let mut seen = view(&self.topology, member.range.net);
            for (name, zone) in seen.zones.iter_mut().filter(|(name, _)| *name != member.zone()) {
                for (number, entry) in zone.gateways.iter_mut().enumerate() {
                    let path = self.paths.iter().find(|path| {
                        path.from == *member.gateway.id()
                            && path.to.zone == *name
                            && path.to.gateway.as_str() == gateway_name(number)
                    });
                    entry.addresses = path
                        .map(|path| path.link.address().to_string())
                        .into_iter()
                        .collect();
                }
            }
            member.topology.send_replace(Arc::new(seen));
        }
    }
}

fn unresolved(zone: &ZoneName, source: ClientError) -> DemoError {
    DemoError::Resolve {
        zone: zone.clone(),
        source,
    }
}

async fn start(
    topology: &Topology,
    id: GatewayId,
    cas: &BTreeMap<String, Ca>,
    access: &AccessLog,
    sockets: Option<&SocketFolder>,
) -> Result<Member, DemoError> {
    let ca = cas.get(topology.trust_domain_of(&id.zone));
    let ca = ca.ok_or_else(|| DemoError::NoSuchZone(id.zone.clone()))?;
    let identity = ca.issue(&id, LEAF_VALIDITY)?.federated(topology);
    let identity = LiveIdentity::from(Arc::new(identity));
    let range = ranges::take().map_err(DemoError::Range)?;
    let mut first = view(topology, range.net);
    for (_, zone) in first.zones.iter_mut().filter(|(name, _)| **name != id.zone) {
        // Nothing to dial before every gateway has an address.
        zone.gateways.clear();
    }
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let topology = watch::Sender::new(Arc::new(first));
    let socket = sockets.map(|folder| AdminAddress::Unix(folder.socket(&id)));
    let admin = [AdminAddress::Tcp(any)].into_iter().chain(socket);
    let admin = admin.map(|listen| AdminConfig {
        listen,
        insecure: false,
    });
    let admin = admin.collect();
    let config = GatewayConfig {
        tunnel: TunnelConfig::new(any, identity.clone()),
        identity,
        topology: TopologySource::Held(topology.subscribe()),
        anchors: TrustAnchors::IdentityFiles,
        storage: Storage::Memory,
        history: Default::default(),
        registry: RegistryChoice::Embedded,
        renewal: CertificateRenewal::Elsewhere,
        dns: DnsConfig {
            listen: vec![any],
            upstreams: Some(Vec::new()),
            allow: Vec::new(),
        },
        admin,
        tls_listen: Vec::new(),
        tls_outlive: Default::default(),
        redirect_port: None,
        settings: Arc::default(),
        keep_vips: Duration::ZERO,
        instances_folder: None,
        registration: None,
        gate: causeway_api::credentials::Gate::default(),
        access: access.clone(),
        otlp: None,
        handed: Default::default(),
        ages: Ages::default(),
        metrics: crate::gateway::GatewayMetrics::default(),
        stall_limit: causeway_proxy::relay::STALL_LIMIT,
        half_closed_limit: Some(causeway_proxy::relay::HALF_CLOSED_LIMIT),
        keepalive: Some(causeway_proxy::keepalive::KEEPALIVE),
        tasks: Tasks::default(),
        threads: 1,
    };
    let zone = id.zone;
    let gateway = Gateway::start(config).await;
    let gateway = gateway.map_err(|source| DemoError::Gateway {
        zone,
        source: Box::new(source),
    })?;
    Ok(Member {
        gateway,
        range,
        topology,
    })
}
