//! A hand-made state as zone east sees it: west is up, plant was heard of before its tunnel went.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use causeway::{
    admin::{
        Admin, AdminAddress, AdminConfig, AdminState, Candidate, Check, ExplainRequest, Explanation,
        InstanceRegistry, Readiness, RegistryRefusal, Step, Verdict,
    },
    snapshot::{Health, Instance, Link, Load, Snapshot},
    target::{Bindings, Target},
    telemetry::{Metrics, SyncReading},
    tunnel::TunnelSet,
};
use causeway_zone_sync::{
    catalog::{Age, Catalog, Entry, Export, Record},
    name::{GatewayId, ServiceName, Tags, ZoneName},
    registry::Registration,
    topology::{self, Topology},
};
use futures_util::future::BoxFuture;

const TOPOLOGY: &str = "
version: 1
trust_domain: acme.internal
dns: { domain: mesh, ttl: 5s }
zones:
  east:
    tags: { region: us }
    gateways: [gw.east.acme.internal:7800]
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
    health: { http: /healthz, every: 2s, timeout: 1s, fall: 2, rise: 2 }
    split:
      - { tags: { version: v1 }, weight: 95 }
      - { tags: { version: v2 }, weight: 5 }
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
    let export = |(name, tag, healthy): &(&str, &str, u32)| {
        let export = Export {
            service: service(name),
            tags: version(tag),
            instances: 2,
            healthy: *healthy,
            weight: u64::from(*healthy),
            capacity_per_second: None,
        };
        ((export.service.clone(), export.tags.clone()), export)
    };
    let record = Record {
        origin,
        incarnation: 1,
        version: 3,
        exports: exports.iter().map(export).collect(),
        draining: false,
        topology,
    };
    Entry {
        record: Arc::new(record),
        age,
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
        instances: Arc::new(BTreeMap::from([(service("orders"), own)])),
        catalog: Arc::new(catalog),
        links: Arc::new(BTreeMap::from([(gateway("west", "gw1"), Link::Up)])),
    }
}

/// Remembers what it was told, as `register orders/a9 …`, and knows the instance `a1` from the start.
#[derive(Default)]
pub struct FakeRegistry(pub Mutex<Vec<String>>);

impl FakeRegistry {
    pub fn calls(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    fn note(&self, call: String) {
        self.0.lock().unwrap().push(call);
    }

    fn known(&self, service: &ServiceName, id: &str) -> Result<(), RegistryRefusal> {
        let registered = format!("register {service}/{id} ");
        if id == "a1" || self.calls().iter().any(|call| call.starts_with(&registered)) {
            return Ok(());
        }
        Err(RegistryRefusal::NotFound {
            service: service.clone(),
            id: id.to_owned(),
        })
    }
}

impl InstanceRegistry for FakeRegistry {
    fn register(&self, r: Registration) -> BoxFuture<'_, Result<(), RegistryRefusal>> {
        let call = format!(
            "register {}/{} {} {} {} {:?}",
            r.service, r.id, r.address, r.tags, r.weight, r.time_to_live
        );
        self.note(call);
        Box::pin(async { Ok(()) })
    }

    fn renew<'a>(
        &'a self,
        service: &'a ServiceName,
        id: &'a str,
    ) -> BoxFuture<'a, Result<(), RegistryRefusal>> {
        self.note(format!("renew {service}/{id}"));
        Box::pin(async move { self.known(service, id) })
    }

    fn deregister<'a>(
        &'a self,
        service: &'a ServiceName,
        id: &'a str,
    ) -> BoxFuture<'a, Result<(), RegistryRefusal>> {
        self.note(format!("deregister {service}/{id}"));
        Box::pin(async move { self.known(service, id) })
    }
}

pub fn state(registry: Arc<FakeRegistry>) -> AdminState {
    let snapshot = snapshot();
    let metrics = Metrics::default();
    metrics.set_services(snapshot.topology.services.keys());
    metrics.connection_opened("egress", "orders");
    metrics.decided("orders", "own_zone");
    let vip = "127.64.0.1:8080".parse().unwrap();
    let bindings: Bindings = Arc::new(BTreeMap::from([(vip, Target::service(service("orders")))]));
    let heard = SyncReading {
        origin: gateway("west", "gw1"),
        heard_ago: Some(Duration::from_millis(400)),
        session: true,
    };
    AdminState {
        snapshots: Arc::new(ArcSwap::from_pointee(snapshot)),
        tunnels: Arc::new(TunnelSet::default()),
        metrics: Arc::new(metrics),
        instances: registry,
        readiness: Readiness::default()
            .with(|| Check::ok("gateway", "listeners", "2 addresses"))
            .with(|| Check::warn("gateway", "mesh DNS", "no upstream", "see /etc/resolv.conf")),
        sync: Arc::new(move || vec![heard.clone()]),
        bindings: Arc::new(move || bindings.clone()),
        explain: Arc::new(explain),
        started: Instant::now(),
    }
}

/// Stands for the routing decision, which has tests of its own.
fn explain(snapshot: &Snapshot, request: &ExplainRequest) -> Explanation {
    let step = Step {
        filter: "tier 1".to_owned(),
        subject: "east".to_owned(),
        verdict: Verdict::Taken,
        reason: "own zone, 1 healthy".to_owned(),
    };
    let candidate = Candidate {
        zone: snapshot.zone.to_string(),
        gateway: None,
        tags: request.target.tags.clone(),
        reason: "own zone".to_owned(),
    };
    Explanation {
        target: request.target.to_string(),
        from: snapshot.zone.to_string(),
        steps: vec![step],
        candidates: if request.target.zone.is_some() {
            vec![]
        } else {
            vec![candidate]
        },
    }
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
