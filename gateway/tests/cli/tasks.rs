//! Readiness of a gateway of which a task has ended: every task that lives as long as the gateway is ended once.

use std::{fs, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use causeway::gateway::{
    CertificateRenewal, Gateway, GatewayConfig, GatewayMetrics, RegistryChoice, ServerProof, Storage,
    TrustAnchors,
};
use causeway_api::{
    admin::{AdminAddress, AdminConfig},
    credentials::Gate,
    registration::RegistrationConfig,
};
use causeway_control::{
    TopologySource,
    renewal::Renewal,
    topology::{AppliedConfig, AppliedTopology, Keys},
    trust::Trusted,
};
use causeway_dns::DnsConfig;
use causeway_federation::name::GatewayId;
use causeway_host::tasks::{TaskEnding, Tasks};
use causeway_identity::{IdentityFolder, ca};
use causeway_telemetry::AccessLog;
use causeway_tunnel::TunnelConfig;
use causeway_zone_sync::replica::Ages;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Longer than any wait here takes when all is well.
const PATIENCE: Duration = Duration::from_secs(30);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const TOPOLOGY: &str = "\
version: 1
trust_domain: acme.internal
zones:
  east: { gateways: [] }
  west: { gateways: [127.0.0.1:9] }
services: {}
";
const ATTACHMENT: &str = "attachment to the shared registry";
const FOLDER: &str = "folder of instances";
/// Every long-lived task of a gateway that has all its parts, in the order of the names, and whether only its panic is a fault.
const TASKS: [(&str, bool); 40] = [
    ("TLS listener at ", true),
    ("admin API at ", false),
    (ATTACHMENT, false),
    ("capacity", false),
    ("certificate renewal", false),
    ("certificates of open connections", false),
    ("count of ended connections", false),
    ("data thread 0", false),
    ("events", false),
    ("exports", false),
    ("failback", false),
    (FOLDER, false),
    ("history", false),
    ("identity of tunnels", false),
    ("instances", false),
    ("instances from DNS", false),
    ("listeners of data thread 0", false),
    ("mesh DNS over TCP", false),
    ("mesh DNS over UDP", false),
    ("names of services in metrics", false),
    ("number of tunnels", false),
    ("open connections that follow", false),
    ("permissions of open connections", false),
    ("redirect of clients", false),
    ("registration over gRPC", false),
    ("shifts", false),
    ("signatures of the topology", false),
    ("snapshots", false),
    ("status of zone sync", false),
    ("topologies of other gateways", false),
    ("trust documents of other gateways", false),
    ("trust domains of the topology", false),
    ("tunnels dialled by data thread 0", false),
    ("tunnels taken by data thread 0", false),
    ("tunnels to west by data thread 0", true),
    ("virtual addresses", false),
    ("word of the trust document", false),
    ("word of the zone's other gateways", false),
    ("zone sync", false),
    ("zone sync sessions", false),
];

fn any() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// Makes a folder with everything that [`config`] names.
fn prepared_folder() -> tempfile::TempDir {
    let made = tempfile::tempdir().unwrap();
    let folder = made.path();
    ca::init(&folder.join("ca"), "acme.internal").unwrap();
    let id = GatewayId::new("east".parse().unwrap(), "gw1".parse().unwrap());
    ca::issue(&folder.join("ca"), &id, &folder.join("identity"), DAY).unwrap();
    fs::write(folder.join("topology.yaml"), TOPOLOGY).unwrap();
    fs::create_dir(folder.join("instances")).unwrap();
    made
}

/// The settings of a gateway that has every part, in a folder of its own. `attached`: its registry is shared, and away, in
/// place of a folder of instances, which a start would wait for in vain.
fn config(folder: &Path, attached: bool) -> GatewayConfig {
    let identity = Arc::new(IdentityFolder::open(&folder.join("identity")).unwrap());
    let live = identity.identity();
    let metrics = GatewayMetrics::default();
    let applied = AppliedTopology::open(AppliedConfig {
        id: live.gateway().clone(),
        keys: Keys {
            signer: live.signer().unwrap(),
            verifier: live.verifier().unwrap(),
        },
        trust_domain: live.trust_domain().to_owned(),
        initial: Some(folder.join("topology.yaml")),
        data_dir: None,
        metrics: metrics.control.clone(),
    });
    let admin = AdminConfig {
        listen: AdminAddress::Tcp(any()),
        insecure: false,
    };
    GatewayConfig {
        tunnel: TunnelConfig::new(any(), live.clone()),
        topology: TopologySource::Applied(applied.unwrap()),
        anchors: TrustAnchors::Document(Trusted::new(identity.held().clone(), metrics.control.clone())),
        storage: Storage::Memory,
        history: Default::default(),
        registry: match attached {
            false => RegistryChoice::Embedded,
            true => RegistryChoice::Shared {
                servers: vec!["127.0.0.1:9".parse().unwrap()],
                proof: ServerProof::Nothing,
            },
        },
        renewal: CertificateRenewal::FromCa(Renewal::new(identity, None)),
        identity: live,
        dns: DnsConfig {
            listen: vec![any()],
            upstreams: Some(Vec::new()),
            allow: Vec::new(),
        },
        // Two, so that one can say of the other that it has ended.
        admin: vec![admin.clone(), admin],
        tls_listen: vec![any()],
        tls_outlive: Default::default(),
        redirect_port: None,
        settings: Arc::default(),
        keep_vips: Duration::ZERO,
        instances_folder: (!attached).then(|| folder.join("instances")),
        registration: Some(RegistrationConfig {
            listen: any(),
            socket: Some(folder.join("registry.sock")),
            insecure: false,
        }),
        gate: Gate::default(),
        access: AccessLog::Off,
        otlp: None,
        handed: Default::default(),
        ages: Ages::default(),
        metrics,
        stall_limit: causeway_proxy::relay::STALL_LIMIT,
        half_closed_limit: None,
        keepalive: None,
        tasks: Tasks::default(),
        threads: 1,
    }
}

/// The answer of `/readyz?verbose` at the first admin address, head and body.
async fn readiness(gateway: &Gateway) -> String {
    let Some(AdminAddress::Tcp(address)) = gateway.admin_address() else {
        panic!("no admin address");
    };
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = b"GET /readyz?verbose HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

/// The full name of the task that `wanted` stands for. Of the two admin APIs: the one that is not asked.
fn full_name(gateway: &Gateway, wanted: &str) -> String {
    let asked = format!("admin API at {}", gateway.admin_address().unwrap());
    let names = gateway.tasks().names();
    let like = |name: &str| match wanted.ends_with("at ") {
        true => name.starts_with(wanted) && name != asked,
        false => name == wanted,
    };
    let found = names.iter().find(|name| like(name));
    let found = found.unwrap_or_else(|| panic!("no task `{wanted}` among {names:?}"));
    found.clone().into_owned()
}

fn kind_of(name: &str) -> &str {
    name.find(" at ").map_or(name, |end| &name[..end + 4])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_has_ended_for_whatever_reason_ends_the_readiness_of_its_gateway() {
    let folder = prepared_folder();
    let folder = folder.path();
    for (number, (wanted, only_panics)) in TASKS.into_iter().enumerate() {
        let attached = wanted == ATTACHMENT;
        let gateway = Gateway::start(config(folder, attached)).await.unwrap();
        let left_out = if attached { FOLDER } else { ATTACHMENT };
        let kinds = TASKS.into_iter().map(|(name, _)| name);
        let kinds: Vec<&str> = kinds.filter(|name| *name != left_out).collect();
        let started = async {
            // Two of them are admin APIs.
            while gateway.tasks().names().len() < kinds.len() + 1 {
                tokio::task::yield_now().await;
            }
        };
        let started = tokio::time::timeout(PATIENCE, started).await;
        let names = gateway.tasks().names();
        let mut found: Vec<&str> = names.iter().map(|name| kind_of(name)).collect();
        found.dedup();
        assert_eq!(found, kinds, "a task was added or is gone: {started:?}");
        assert!(readiness(&gateway).await.contains("every task runs"));

        let name = full_name(&gateway, wanted);
        let ending = match only_panics || number % 2 == 0 {
            true => TaskEnding::Panicked,
            false => TaskEnding::Returned,
        };
        gateway.tasks().end(&name, ending);
        // Others that lived on what it did may end with it, and even be seen first.
        let is_known = || {
            let ended = gateway.tasks().ended().first;
            ended
                .iter()
                .any(|task| task.name == name && task.ending == ending)
        };
        let seen = async {
            while !is_known() {
                tokio::task::yield_now().await;
            }
        };
        let seen = tokio::time::timeout(PATIENCE, seen).await;
        seen.unwrap_or_else(|_| panic!("nobody saw that `{name}` has ended"));
        let said = readiness(&gateway).await;
        assert!(said.starts_with("HTTP/1.1 503"), "{name}: {said}");
        assert!(said.contains(&name), "{said}");
    }
}

#[tokio::test]
async fn a_gateway_that_is_told_to_end_does_not_say_that_its_tasks_have_ended() {
    let folder = prepared_folder();
    let folder = folder.path();
    let config = config(folder, true);
    let tasks = config.tasks.clone();
    let gateway = Gateway::start(config).await.unwrap();
    gateway.shutdown(Duration::ZERO, std::future::pending()).await;
    assert_eq!(tasks.ended().first, []);
    assert_eq!(tasks.names(), Vec::<String>::new(), "a task outlived its gateway");
}
