//! A hand-made state as zone east sees it: west is up, plant was heard of before its tunnel went.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use causeway::{
    admin::{Admin, AdminAddress, AdminConfig, AdminState, Check, Readiness},
    credentials::Gate,
    identity::{
        Identity,
        ca::{Ca, LEAF_VALIDITY},
    },
    instances::{Instances, InstancesConfig},
    snapshot::{Health, Instance, Link, Load, Snapshot},
    target::{Bindings, Target},
    telemetry::{AccessLog, LatestRefusal, Metrics, OwnReading, Side, SyncReading, SyncReadings},
    tunnel::TunnelSet,
};
use causeway_zone_sync::{
    catalog::{Age, Catalog, Entry, Export, Exports, Record},
    name::{GatewayId, ServiceName, Tags, ZoneName},
    registry::Source,
    replica::Stamp,
    topology::{self, Topology},
};
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
        source: Source::Topology,
        health,
        load: Arc::new(Load::default()),
    })
}

fn entry(
    origin: GatewayId,
    age: Age,
    topology: topology::Fingerprint,
    exports: &[(&str, &str, u32)],
) -> Entry {
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
        signed: None,
    };
    Entry {
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
            topology::Fingerprint::default(),
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
    }
}

/// Of east/gw1, by a CA that nobody else knows.
fn identity() -> Identity {
    let ca = Ca::new("acme.internal").unwrap();
    ca.issue(&gateway("east", "gw1"), LEAF_VALIDITY).unwrap()
}

/// Its registry is a real one without a disk; it holds the instance that the topology fixes.
pub fn state() -> AdminState {
    let snapshot = snapshot();
    let metrics = Metrics::default();
    metrics.set_services(snapshot.topology.services.keys());
    metrics.connection_opened("egress", "orders");
    metrics.decided("orders", "own_zone");
    let vip = "127.64.0.1:8080".parse().unwrap();
    let bindings: Bindings = Arc::new(BTreeMap::from([(vip, Target::service(service("orders")))]));
    let heard = SyncReadings {
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
    };
    let metrics = Arc::new(metrics);
    AdminState {
        instances: instances(&snapshot, metrics.clone()),
        snapshots: Arc::new(ArcSwap::from_pointee(snapshot)),
        tunnels: Arc::new(TunnelSet::default()),
        metrics,
        readiness: Readiness::default()
            .with(|| Check::ok("gateway", "listeners", "2 addresses"))
            .with(|| Check::warn("gateway", "mesh DNS", "no upstream", "see /etc/resolv.conf")),
        sync: Arc::new(move || heard.clone()),
        bindings: Arc::new(move || bindings.clone()),
        applied: None,
        identity: identity().into(),
        trust: None,
        access: AccessLog::Off,
        gate: Gate::default(),
        started: Instant::now(),
    }
}

fn instances(snapshot: &Snapshot, metrics: Arc<Metrics>) -> Instances {
    let config = InstancesConfig {
        zone: snapshot.zone.clone(),
        data_dir: None,
        shared: None,
    };
    let (_, topology) = watch::channel(snapshot.topology.clone());
    Instances::start(config, topology, metrics).unwrap()
}

/// What was registered beside what the topology fixes.
pub async fn registered(instances: &Instances) -> Vec<String> {
    let statuses = instances.status(None).await.unwrap();
    let registered = statuses
        .iter()
        .filter(|status| status.source == Source::Registered);
    let line = |i: &Instance| {
        format!(
            "{}/{} {} {} weight {}",
            i.service, i.id, i.address, i.tags, i.weight
        )
    };
    registered.map(|status| line(&status.instance)).collect()
}

/// Serves the state on a free port of loopback.
pub async fn serve(state: AdminState) -> Admin {
    let listen = AdminAddress::Tcp("127.0.0.1:0".parse().unwrap());
    Admin::start(
        AdminConfig {
            listen,
            insecure: false,
        },
        state,
    )
    .await
    .unwrap()
}

/// One request as plain bytes; gives the status and the whole answer, head and body.
pub async fn ask(admin: &Admin, head: &str, body: &str) -> (u16, String) {
    let AdminAddress::Tcp(address) = *admin.local_addr() else {
        panic!("not on TCP");
    };
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
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
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
