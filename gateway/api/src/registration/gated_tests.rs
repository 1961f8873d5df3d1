//! Registration where others than this host reach it: over TLS, with tokens and certificates.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use causeway_federation::name::{GatewayId, ZoneName};
use causeway_host::{descriptors::Descriptors, handed::HandedSockets, tasks::Tasks};
use causeway_identity::{ApiClient, IdentityFolder, ca};
use causeway_instances::InstancesConfig;
use causeway_proto::registry::{
    HeartbeatRequest, InstanceKey, RegisterRequest, Registration as Message, WatchRequest,
    registry_client::RegistryClient,
};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tempfile::TempDir;
use tokio::{net::TcpStream, sync::watch};
use tokio_rustls::TlsConnector;
use tonic::{
    Code, Request,
    transport::{Channel, Endpoint},
};

use super::*;
use crate::{
    audit::Audit,
    credentials::{Guard, Rights, Scope, TokenFile, issue},
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

struct Bench {
    folder: TempDir,
    registration: RegistrationServer,
    token: String,
}

fn identity(folder: &TempDir, zone: &str, gateway: &str) -> std::path::PathBuf {
    let (authority, out) = (
        folder.path().join("ca"),
        folder.path().join(format!("{zone}-{gateway}")),
    );
    if !authority.exists() {
        ca::init(&authority, "acme.internal").unwrap();
    }
    let id = GatewayId::new(zone.parse().unwrap(), gateway.parse().unwrap());
    ca::issue(&authority, &id, &out, DAY).unwrap();
    out
}

async fn start() -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let text = "version: 1\ntrust_domain: acme.internal\nzones:\n  east: { gateways: [] }\nservices:\n  orders: { port: 80 }\n";
    let parsed = causeway_federation::topology::parse(text, "test.yaml").unwrap();
    let (_sender, topology) = watch::channel(Arc::new(parsed.topology));
    let config = InstancesConfig {
        health: Default::default(),
        listeners: tokio::sync::watch::channel(Default::default()).1,
        zone: ZoneName::new("east").unwrap(),
        data_dir: None,
        shared: None,
        tasks: Tasks::default(),
    };
    let instances = Instances::start(config, topology, Arc::default()).unwrap();
    let tokens = folder.path().join("tokens.json");
    let token = issue(
        &tokens,
        &"viewer".parse().unwrap(),
        &Rights::of(Scope::Read),
        None,
        &[5; 32],
    )
    .unwrap();
    let guard = Guard {
        tokens: Some(Arc::new(TokenFile::open(&tokens).unwrap())),
        grants: vec!["register=spiffe://acme.internal/zone/east/*".parse().unwrap()],
    };
    let metrics = Arc::new(crate::ApiMetrics::default());
    let audit = Audit::file(&folder.path().join("audit.log"), &metrics, &Tasks::default()).unwrap();
    let gate = Gate::new(Some(Arc::new(guard)), audit, metrics);
    let own = IdentityFolder::open(&identity(&folder, "east", "gw1")).unwrap();
    let config = RegistrationConfig {
        socket: None,
        listen: "0.0.0.0:0".parse().unwrap(),
        insecure: false,
    };
    let tasks = Tasks::default();
    let handed = HandedSockets::default();
    let started = RegistrationServer::start(
        config,
        instances,
        gate,
        Some(own.identity()),
        &handed,
        (&tasks, Descriptors::default()),
    );
    Bench {
        registration: started.await.unwrap(),
        token: token.reveal().to_owned(),
        folder,
    }
}

impl Bench {
    /// A client over TLS; `client` says whether it has a certificate.
    async fn connect(&self, client: ApiClient) -> RegistryClient<Channel> {
        let mut tls = client.tls().unwrap();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let connector = TlsConnector::from(Arc::new(tls));
        let port = self.registration.local_addr().port();
        let connect = tower::service_fn(move |_| {
            let connector = connector.clone();
            async move {
                let stream = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).await?;
                let name = ServerName::try_from("any.invalid").unwrap();
                Ok::<_, io::Error>(TokioIo::new(connector.connect(name, stream).await?))
            }
        });
        let endpoint = Endpoint::from_static("http://any.invalid");
        let channel = endpoint.connect_with_connector(connect);
        RegistryClient::new(channel.await.unwrap())
    }

    async fn as_gateway(&self, zone: &str, gateway: &str) -> RegistryClient<Channel> {
        let folder = identity(&self.folder, zone, gateway);
        self.connect(ApiClient::load(&folder).unwrap()).await
    }

    async fn as_nobody(&self) -> RegistryClient<Channel> {
        let roots = self.folder.path().join("ca").join("ca.pem");
        self.connect(ApiClient::anonymous(&roots).unwrap()).await
    }
}

fn one() -> RegisterRequest {
    RegisterRequest {
        registrations: vec![Message {
            service: "orders".to_owned(),
            id: "a".to_owned(),
            address: "10.0.0.1:80".to_owned(),
            ..Default::default()
        }],
    }
}

fn shown<T>(message: T, token: &str) -> Request<T> {
    let mut request = Request::new(message);
    let value = format!("Bearer {token}").parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    request
}

#[tokio::test]
async fn who_is_granted_it_registers_and_is_written_down() {
    let bench = start().await;
    let mut client = bench.as_gateway("east", "gw2").await;
    let reply = client.register(one()).await.unwrap().into_inner();
    assert_eq!(reply.outcomes[0].refusal, "");
    let keys = vec![InstanceKey {
        service: "orders".to_owned(),
        id: "a".to_owned(),
    }];
    client.heartbeat(HeartbeatRequest { keys }).await.unwrap();
    bench.registration.shutdown().await;
    let log = bench.folder.path().join("audit.log");
    let end = std::time::Instant::now() + Duration::from_secs(20);
    let read = || std::fs::read_to_string(&log).unwrap();
    while read().lines().count() < 2 && std::time::Instant::now() < end {
        tokio::task::yield_now().await;
    }
    let lines: Vec<serde_json::Value> = read()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(
        (lines.len(), &lines[0]["result"]),
        (2, &"asked".into()),
        "{lines:?}"
    );
    assert_eq!(lines[0]["who"], "spiffe://acme.internal/zone/east/gateway/gw2");
    assert_eq!(lines[0]["path"], "/causeway.registry.v1.Registry/Register");
    assert_eq!(
        (&lines[1]["done"], &lines[1]["result"]),
        (&1.into(), &"done".into())
    );
}

#[tokio::test]
async fn a_call_needs_credentials_with_its_scope() {
    let bench = start().await;
    let mut nobody = bench.as_nobody().await;
    let refused = nobody.register(one()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(refused.message().starts_with("no_credentials: "), "{refused}");
    assert!(
        nobody
            .watch(shown(WatchRequest::default(), &bench.token))
            .await
            .is_ok()
    );
    let refused = nobody.register(shown(one(), &bench.token)).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().starts_with("scope: "), "{refused}");
    let refused = nobody.register(shown(one(), "cwa_viewer_00")).await.unwrap_err();
    assert!(refused.message().starts_with("bad_token: "), "{refused}");
    let mut west = bench.as_gateway("west", "gw1").await;
    let refused = west.register(one()).await.unwrap_err();
    assert!(refused.message().starts_with("not_granted: "), "{refused}");
    // In the clear nothing is taken at all.
    let port = bench.registration.local_addr().port();
    let plain = RegistryClient::connect(format!("http://127.0.0.1:{port}")).await;
    if let Ok(mut plain) = plain {
        assert!(plain.register(one()).await.is_err(), "it was taken in the clear");
    }
}
