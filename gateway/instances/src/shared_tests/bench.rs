//! Ground of the tests of a shared registry: gateways of one zone, and HTTP instances that count the probes they get.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use causeway_federation::{
    name::{GatewayId, GatewayName, ServiceName, ZoneName},
    registry::{InstanceKey, Registration},
    topology::{Topology, parse},
};
use causeway_host::{resolve::NameResolver, tasks::Tasks};
use causeway_routing::snapshot::{Health, Published};
use causeway_telemetry::MetricsRegistry;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::watch,
    task::JoinHandle,
    time::Instant,
};

use crate::{
    InstanceStatus, Instances, InstancesConfig,
    attach::{AttachConfig, AttachStatus, testing::Server},
};

/// Longest that a test waits for what must come; no test waits this long when it passes.
pub(super) const LIMIT: Duration = Duration::from_secs(30);
pub(super) const EVERY: Duration = Duration::from_millis(100);

/// One HTTP instance that counts the probes it gets.
pub(super) struct Probed {
    pub(super) address: SocketAddr,
    pub(super) probes: Arc<AtomicUsize>,
    pub(super) well: Arc<AtomicBool>,
    serving: JoinHandle<()>,
}

impl Probed {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (probes, well) = (Arc::<AtomicUsize>::default(), Arc::new(AtomicBool::new(true)));
        let address = listener.local_addr().unwrap();
        let (count, state) = (probes.clone(), well.clone());
        let serving = tokio::spawn(async move {
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                let status = if state.load(Ordering::Relaxed) {
                    "200 OK"
                } else {
                    "503 Down"
                };
                tokio::spawn(async move {
                    let _ = socket.read(&mut [0; 1024]).await;
                    let answer =
                        format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                    let _ = socket.write_all(answer.as_bytes()).await;
                });
            }
        });
        Self {
            address,
            probes,
            well,
            serving,
        }
    }

    pub(super) async fn some(count: usize) -> Vec<Self> {
        let mut all = Vec::new();
        for _ in 0..count {
            all.push(Self::start().await);
        }
        all
    }

    pub(super) fn probes(&self) -> usize {
        self.probes.load(Ordering::Relaxed)
    }

    pub(super) fn id(&self) -> String {
        self.address.to_string()
    }
}

impl Drop for Probed {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// One gateway's instances.
pub(super) struct Gateway {
    pub(super) name: String,
    pub(super) instances: Instances,
    pub(super) metrics: MetricsRegistry,
    pub(super) published: watch::Receiver<Published>,
    topology: watch::Sender<Arc<Topology>>,
}

pub(super) fn topology(every: Duration, fixed: &[&Probed]) -> Arc<Topology> {
    let fixed: String = fixed
        .iter()
        .map(|i| format!("      - {{ service: orders, address: \"{}\" }}\n", i.address))
        .collect();
    let fixed = if fixed.is_empty() {
        fixed
    } else {
        format!("    instances:\n{fixed}")
    };
    with_zone_keys(every, &format!("    loopback_instances: true\n{fixed}"))
}

/// One that takes no instance at a loopback address from others.
pub(super) fn without_loopback(every: Duration) -> Arc<Topology> {
    with_zone_keys(every, "")
}

fn with_zone_keys(every: Duration, keys: &str) -> Arc<Topology> {
    let text = format!(
        "version: 1\ntrust_domain: acme.internal\nzones:\n  east:\n    gateways: [\"127.0.0.1:7800\"]\n{keys}services:\n  orders: {{ port: 80, health: {{ http: /healthz, every: {every:?}, timeout: 100ms, fall: 2, rise: 1 }} }}\n"
    );
    Arc::new(
        parse(&text, "test.yaml")
            .unwrap_or_else(|error| panic!("{error:?}\n{text}"))
            .topology,
    )
}

pub(super) fn orders() -> ServiceName {
    ServiceName::new("orders").unwrap()
}

pub(super) fn key(instance: &Probed) -> InstanceKey {
    super::super::super::key(&orders(), &instance.id())
}

pub(super) fn registration(instance: &Probed) -> Registration {
    Registration {
        service: orders(),
        id: instance.id(),
        address: instance.address,
        tags: Default::default(),
        weight: 1,
        capacity_per_second: None,
        time_to_live: Some(Duration::from_secs(10)),
        provenance: causeway_federation::registry::Provenance::Elsewhere,
    }
}

impl Gateway {
    pub(super) fn start(name: &str, servers: &[&Server], topology: Arc<Topology>) -> Self {
        Self::start_in(name, servers, topology, None)
    }

    pub(super) fn start_in(
        name: &str,
        servers: &[&Server],
        topology: Arc<Topology>,
        data_dir: Option<PathBuf>,
    ) -> Self {
        let shared = AttachConfig {
            id: GatewayId::new(ZoneName::new("east").unwrap(), GatewayName::new(name).unwrap()),
            servers: servers.iter().map(|server| server.server_address()).collect(),
            secure: None,
            resolver: NameResolver::default(),
        };
        Self::with(name, Some(shared), topology, data_dir)
    }

    /// One that keeps its registry for itself.
    pub(super) fn alone(topology: Arc<Topology>, data_dir: Option<PathBuf>) -> Self {
        Self::with("gw1", None, topology, data_dir)
    }

    fn with(
        name: &str,
        shared: Option<AttachConfig>,
        topology: Arc<Topology>,
        data_dir: Option<PathBuf>,
    ) -> Self {
        let (topology, receiver) = watch::channel(topology);
        let mut metrics = MetricsRegistry::default();
        metrics.services().set([&orders()]);
        let config = InstancesConfig {
            health: Default::default(),
            zone: ZoneName::new("east").unwrap(),
            data_dir,
            shared,
            listeners: watch::channel(Default::default()).1,
            tasks: Tasks::default(),
        };
        let instances = Instances::start(
            config,
            receiver,
            Arc::new(crate::InstanceMetrics::new(&mut metrics)),
        )
        .unwrap();
        Self {
            name: name.to_owned(),
            published: instances.subscribe(),
            instances,
            metrics,
            topology,
        }
    }

    pub(super) fn set_topology(&self, topology: Arc<Topology>) {
        self.topology.send_replace(topology);
    }

    /// Waits until the instances of `orders` are as `wanted`, each with its id and health.
    pub(super) async fn until(&self, wanted: impl Fn(&[(String, Health)]) -> bool) {
        let of = |published: &Published| -> Vec<_> {
            let list = published
                .get(&orders())
                .map(|list| list.iter().map(|i| (i.id.clone(), i.health)).collect());
            list.unwrap_or_default()
        };
        let mut changes = self.published.clone();
        let reached = changes.wait_for(|published| wanted(&of(published)));
        if tokio::time::timeout(LIMIT, reached).await.is_err() {
            panic!("{}: still {:?}", self.name, of(&self.published.borrow()));
        }
    }

    pub(super) async fn until_healthy(&self, count: usize) {
        self.until(|all| all.len() == count && all.iter().all(|(_, health)| *health == Health::Healthy))
            .await;
    }

    pub(super) async fn until_is(&self, instance: &Probed, health: Health) {
        self.until(|all| all.contains(&(instance.id(), health))).await;
    }

    pub(super) async fn until_attached(&self, wanted: impl Fn(&AttachStatus) -> bool) -> AttachStatus {
        let mut status = self.instances.attachment().unwrap().status();
        let reached = tokio::time::timeout(LIMIT, status.wait_for(|status| wanted(status))).await;
        match reached {
            Ok(status) => status.unwrap().clone(),
            Err(_) => panic!(
                "{}: still {:?}",
                self.name,
                self.instances.attachment().unwrap().status().borrow()
            ),
        }
    }

    /// Waits until it knows that these gateways are present.
    pub(super) async fn until_with(&self, names: &[&str]) {
        let is = |status: &AttachStatus| status.attached.as_ref().is_ok_and(|a| a.gateways == names);
        self.until_attached(is).await;
    }

    /// Checks that this gateway has made.
    pub(super) fn checks(&self) -> usize {
        let mut text = String::new();
        self.metrics.encode(&mut text).unwrap();
        let lines = text
            .lines()
            .filter(|line| line.starts_with("causeway_health_checks_total{service=\"orders\""));
        let counts = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok());
        counts.sum()
    }

    pub(super) async fn status(&self, instance: &Probed) -> InstanceStatus {
        let all = self.instances.status(None).await.unwrap();
        all.into_iter()
            .find(|status| status.instance.id == instance.id())
            .unwrap()
    }
}

pub(super) async fn eventually(what: &str, mut reached: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !reached() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(super) fn total(instances: &[Probed]) -> usize {
    instances.iter().map(Probed::probes).sum()
}
