//! A hand-made state as zone east sees it: west is up, plant was heard of before its tunnel went.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use causeway::gateway::GatewayMetrics;
use causeway_api::{
    admin::{
        Admin, AdminAddress, AdminConfig, AdminState, LatestRefusal, OwnReading, Readiness, SyncReading,
        SyncReadings,
    },
    audit::Audit,
    credentials::Gate,
    elsewhere::Elsewhere,
};
use causeway_control::{TopologySource, demand::DemandBook};
use causeway_federation::{
    catalog::{Age, Catalog, CatalogEntry, Export, Exports, Record},
    name::{GatewayId, ServiceName, Tags, ZoneName},
    registry::InstanceSource,
    topology::{self, Topology},
};
use causeway_history::{History, HistoryConfig, HistoryLimits};
use causeway_host::{descriptors::Descriptors, handed::HandedSockets, tasks::Tasks};
use causeway_identity::{
    Identity,
    ca::{Ca, LEAF_VALIDITY},
};
use causeway_instances::{InstanceMetrics, Instances, InstancesConfig};
use causeway_routing::{
    route::Why,
    snapshot::{Health, Instance, InstanceLoad, Link, Snapshot},
    target::{Bindings, Target},
};
use causeway_telemetry::{AccessLog, Check, Role, Side};
use causeway_tunnel::TunnelSet;
use causeway_zone_sync::replica::Stamp;
use tokio::sync::watch;

pub const TOPOLOGY: &str = "
version: 1
trust_domain: acme.internal
dns: { domain: mesh, ttl: 5s }
zones:
  east:
    tags: { region: us }
    gateways: [gw.east.acme.internal:7800]
    instances:
      - { service: orders, address: 10.1.0.11:8080, tags: { version: v1 } }
  plant:
    tags: { region: eu }
    gateways: []
  west:
    tags: { region: us }
    gateways: [gw1.west.acme.internal:7800]
services:
  billing:
    port: 9000
  orders:
    port: 8080
    protocol: http
    split:
      - { tags: { version: v1 }, weight: 95 }
      - { tags: { version: v2 }, weight: 5 }
    allow: [billing]
    deny: ['*@west']
";

pub fn service(name: &str) -> ServiceName {
    ServiceName::new(name).unwrap()
}

fn gateway(zone: &str, gateway: &str) -> GatewayId {
    GatewayId::new(ZoneName::new(zone).unwrap(), gateway.parse().unwrap())
}

fn version(version: &str) -> Tags {
    [("version", version)].into_iter().collect()
}

fn parsed() -> Topology {
    topology::parse(TOPOLOGY, "topology.yaml").unwrap().topology
}

fn instance(id: &str, port: u16, health: Health) -> Arc<Instance> {
    Arc::new(Instance {
        id: id.to_owned(),
        service: service("orders"),
        address: SocketAddr::from(([10, 1, 0, 11], port)),
        tags: version("v1"),
        weight: 1,
        capacity_per_second: None,
        time_to_live: None,
        source: InstanceSource::Topology,
        health,
        drain: None,
        load: Arc::new(InstanceLoad::default()),
        provenance: causeway_federation::registry::Provenance::ThisHost,
    })
}

fn entry(
    origin: GatewayId,
    age: Age,
    topology: causeway_federation::edition::Fingerprint,
    exports: &[(&str, &str, u32)],
) -> CatalogEntry {
    let mut set = Exports::default();
    for (name, tag, healthy) in exports {
        set.insert(Export {
            service: service(name),
            tags: version(tag),
            instances: 2,
            healthy: *healthy,
            weight: u64::from(*healthy),
            capacity_per_second: None,
        });
    }
    let record = Record {
        origin,
        incarnation: 1,
        version: 3,
        exports: set,
        draining: false,
        topology,
        topology_generation: 0,
        trust: Default::default(),
        trust_ended: 0,
        shifts: Default::default(),
        signed: None,
    };
    CatalogEntry {
        record: Arc::new(record),
        age,
        via: None,
    }
}

pub fn snapshot() -> Snapshot {
    let topology = parsed();
    let same = topology.fingerprint;
    let catalog = Catalog::new([
        entry(
            gateway("west", "gw1"),
            Age::Fresh,
            same,
            &[("orders", "v1", 2), ("orders", "v2", 1)],
        ),
        entry(
            gateway("plant", "gw1"),
            Age::Suspect,
            causeway_federation::edition::Fingerprint::default(),
            &[("billing", "v1", 1)],
        ),
    ]);
    let own = vec![
        instance("a1", 8080, Health::Healthy),
        instance("a2", 8081, Health::Unhealthy),
    ];
    Snapshot {
        generation: 7,
        zone: ZoneName::new("east").unwrap(),
        topology: Arc::new(topology),
        callers: Arc::default(),
        instances: Arc::new(BTreeMap::from([(service("orders"), own.into())])),
        catalog: Arc::new(catalog),
        links: Arc::new(BTreeMap::from([(gateway("west", "gw1"), Link::Up)])),
        listeners: Arc::default(),
        ejections: Arc::default(),
        ceilings: Arc::default(),
        shifts: Arc::default(),
        capacity: Arc::default(),
        compiled: Default::default(),
    }
}

/// Of east/gw1, by a CA that nobody else knows.
fn identity() -> Identity {
    let ca = Ca::new("acme.internal").unwrap();
    ca.issue(&gateway("east", "gw1"), LEAF_VALIDITY).unwrap()
}

/// Words of west, and of this gateway itself.
fn heard() -> SyncReadings {
    SyncReadings {
        own: Some(OwnReading {
            origin: gateway("east", "gw1"),
            stamp: Stamp {
                incarnation: 5,
                version: 9,
            },
            draining: false,
        }),
        peers: vec![SyncReading {
            origin: gateway("west", "gw1"),
            heard_ago: Some(Duration::from_millis(400)),
            session: true,
            protocol: Some(2),
            lag_versions: Some(2),
            behind_versions: Some(0),
            sent_bytes: 700,
            received_bytes: 300,
            refusals: BTreeMap::from([((Side::Peer, "too_fast"), 3)]),
            refused: Some(LatestRefusal {
                side: Side::Peer,
                reason: "too_fast",
                ago: Duration::from_secs(5),
            }),
        }],
    }
}

/// Its registry is a real one without a disk; it holds the instance that the topology fixes.
pub fn state() -> AdminState {
    let snapshot = snapshot();
    let snapshot_topology = snapshot.topology.clone();
    let metrics = GatewayMetrics::default();
    metrics.registry.services().set(snapshot.topology.services.keys());
    metrics.proxy.connection_opened(Role::Egress, "orders");
    metrics.proxy.decided(
        "orders",
        Why::Taken {
            tier: Some(1),
            own: true,
            age: Age::Fresh,
            link: Link::Up,
            draining: false,
            failing: false,
            spilled: false,
            panic: false,
        },
    );
    let vip = "127.64.0.1:8080".parse().unwrap();
    let bindings: Bindings = Arc::new(BTreeMap::from([(vip, Target::service(service("orders")).into())]));
    let heard = heard();
    let instances = instances(&snapshot, metrics.instances.clone());
    let snapshots = Arc::new(ArcSwap::from_pointee(snapshot));
    AdminState {
        instances,
        demand: DemandBook::carrying_on(&gateway("east", "gw1"), &[]),
        snapshots: snapshots.clone(),
        tunnels: Arc::new(TunnelSet::default()),
        metrics: metrics.registry,
        tunnel_metrics: metrics.tunnels,
        readiness: Readiness::default()
            .with(|| Check::ok("gateway", "listeners", "2 addresses"))
            .with(|| Check::warn("gateway", "mesh DNS", "no upstream", "see /etc/resolv.conf")),
        sync: Arc::new(move || heard.clone()),
        bindings: Arc::new(move || bindings.clone()),
        topology: TopologySource::Held(watch::channel(snapshot_topology).1),
        identity: identity().into(),
        trust: None,
        access: AccessLog::Off,
        elsewhere: Elsewhere::new(
            gateway("east", "gw1"),
            Arc::default(),
            snapshots,
            metrics.api.clone(),
        ),
        gate: Gate::new(None, Audit::default(), metrics.api),
        history: history(),
        tasks: Tasks::default(),
        descriptors: Descriptors::default(),
        handed: HandedSockets::default(),
        settings: Arc::default(),
        started: Instant::now(),
    }
}

/// A history in memory.
fn history() -> History {
    let history = History::new(HistoryConfig {
        own: GatewayId::new(ZoneName::new("east").unwrap(), "gw1".parse().unwrap()),
        data: None,
        limits: HistoryLimits::default(),
        metrics: Default::default(),
    });
    tokio::spawn(history.clone().keep());
    history
}

fn instances(snapshot: &Snapshot, metrics: Arc<InstanceMetrics>) -> Instances {
    let config = InstancesConfig {
        health: Default::default(),
        listeners: tokio::sync::watch::channel(Default::default()).1,
        zone: snapshot.zone.clone(),
        data_dir: None,
        shared: None,
        tasks: Tasks::default(),
    };
    let (_, topology) = watch::channel(snapshot.topology.clone());
    Instances::start(config, topology, metrics).unwrap()
}

/// Lists what was registered beside what the topology fixes.
pub async fn registered(instances: &Instances) -> Vec<String> {
    let statuses = instances.status(None).await.unwrap();
    let registered = statuses
        .iter()
        .filter(|status| status.source == InstanceSource::Registered);
    let line = |i: &Instance| {
        format!(
            "{}/{} {} {} weight {}",
            i.service, i.id, i.address, i.tags, i.weight
        )
    };
    registered.map(|status| line(&status.instance)).collect()
}

/// Serves the state on a free port of loopback, and on a socket beside it.
pub async fn serve(state: AdminState) -> Admin {
    serve_at(state, SocketAddr::from(([127, 0, 0, 1], 0))).await
}

/// Serves the state at an address of loopback, and on a socket beside it for as long as the test runs.
pub async fn serve_at(state: AdminState, address: SocketAddr) -> Admin {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("admin.sock");
    let start = |listen, state| {
        let insecure = false;
        Admin::start(AdminConfig { listen, insecure }, state)
    };
    let beside = AdminAddress::Unix(socket.clone());
    start(beside, state.clone()).await.unwrap();
    tokio::spawn(async move {
        let _folder = folder;
        std::future::pending::<()>().await;
    });
    let gate = state.gate.clone().with_socket(Some(socket.into()));
    let listen = AdminAddress::Tcp(address);
    start(listen, AdminState { gate, ..state }).await.unwrap()
}

/// One request as plain bytes; gives the status and the whole answer, head and body. What may change something goes over the
/// socket that the admin API tells, if it tells one, unless the head is more than a line.
pub async fn ask(admin: &Admin, head: &str, body: &str) -> (u16, String) {
    if head.starts_with("GET ") || head.contains('\n') {
        return ask_over_tcp(admin, head, body).await;
    }
    match told_socket(admin).await {
        Some(socket) => ask_over_socket(socket, head, body).await,
        None => ask_over_tcp(admin, head, body).await,
    }
}

/// Path of the socket that the admin API tells.
pub async fn told_socket(admin: &Admin) -> Option<String> {
    let (status, told) = ask_over_tcp(admin, "GET /v1/socket", "").await;
    assert_eq!(status, 200, "{told}");
    let told: serde_json::Value = serde_json::from_str(told.split_once("\r\n\r\n").unwrap().1).unwrap();
    told["items"][0]["path"].as_str().map(str::to_owned)
}

/// As [`ask`], over a unix socket.
pub async fn ask_over_socket(socket: String, head: &str, body: &str) -> (u16, String) {
    exchange(move || UnixStream::connect(socket).unwrap(), head, body).await
}

/// As [`ask`], over TCP in any case.
pub async fn ask_over_tcp(admin: &Admin, head: &str, body: &str) -> (u16, String) {
    let AdminAddress::Tcp(address) = *admin.local_addr() else {
        panic!("not on TCP");
    };
    let connect = move || {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    };
    exchange(connect, head, body).await
}

async fn exchange<S: Read + Write>(
    connect: impl FnOnce() -> S + Send + 'static,
    head: &str,
    body: &str,
) -> (u16, String) {
    let host = if head.contains("Host:") {
        ""
    } else {
        "\r\nHost: localhost"
    };
    let (line, headers) = head.split_once('\n').unwrap_or((head, ""));
    let headers = if headers.is_empty() {
        String::new()
    } else {
        format!("\r\n{headers}")
    };
    let length = body.len();
    let text = format!(
        "{line} HTTP/1.1{host}{headers}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    let exchange = move || {
        let mut stream = connect();
        // The server may answer and close before it has read a body that is too large.
        let _ = stream.write_all(text.as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8(answer).unwrap()
    };
    let answer = tokio::task::spawn_blocking(exchange).await.unwrap();
    let status = answer.split(' ').nth(1).and_then(|word| word.parse().ok());
    (status.unwrap_or_else(|| panic!("no answer: {answer}")), answer)
}
