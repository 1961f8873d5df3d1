//! Tests that need no etcd: addresses, and what is answered before etcd was reached.

use std::{net::TcpListener, time::Duration};

use causeway_federation::{name::GatewayId, registry::wire::UNTOUCHED};
use causeway_host::{beside::connect_beside, tasks::TaskEnding};
use causeway_proto::registry::{
    AttachRequest, HeartbeatRequest, RegisterRequest, Registration, WatchRequest,
    registry_client::RegistryClient,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::*;
use crate::credentials::{Rights, Scope, issue};

/// Longer than any wait of these tests takes when all is well.
const PATIENCE: Duration = Duration::from_secs(20);

/// An address at which nothing listens.
fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

fn config(listen: &str) -> ZoneSyncConfig {
    ZoneSyncConfig {
        tasks: Tasks::default(),
        zone: "east".parse().unwrap(),
        etcd: vec![nobody()],
        listen: listen.parse().unwrap(),
        identity: None,
        trust: None,
        tokens: None,
        insecure: false,
        admin: Some(AdminConfig {
            listen: "127.0.0.1:0".parse().unwrap(),
            insecure: false,
        }),
        audit: Audit::default(),
    }
}

fn tcp(zone_sync: &RunningZoneSync) -> String {
    format!("http://{}", zone_sync.address())
}

/// A client over the unix socket beside the address that it listens at.
async fn beside(zone_sync: &RunningZoneSync) -> RegistryClient<Channel> {
    let ListenAddress::Tcp(address) = *zone_sync.address() else {
        panic!("it listens at a unix socket alone");
    };
    let dial = tower::service_fn(move |_: http::Uri| async move {
        let socket = connect_beside(address).await?;
        std::io::Result::Ok(TokioIo::new(socket.expect("a socket")))
    });
    let endpoint = Endpoint::from_static("http://zone-sync");
    RegistryClient::new(endpoint.connect_with_connector(dial).await.unwrap())
}

/// Content of a log, once it has two lines.
async fn two_lines(log: &Path) -> String {
    let reading = async {
        loop {
            let lines = std::fs::read_to_string(log).unwrap();
            if lines.matches('\n').count() >= 2 {
                return lines;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.unwrap()
}

/// Answer to `/readyz`, once the first try to reach etcd has failed.
async fn readiness(zone_sync: &RunningZoneSync) -> String {
    let Some(AdminAddress::Tcp(address)) = zone_sync.admin_address() else {
        panic!("it has an admin port");
    };
    let asking = async {
        loop {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let request = b"GET /readyz HTTP/1.1\r\nHost: any\r\nConnection: close\r\n\r\n";
            stream.write_all(request).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            if answer.contains("yet: ") {
                return answer;
            }
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.unwrap()
}

fn one() -> RegisterRequest {
    let registrations = vec![Registration {
        service: "orders".to_owned(),
        address: "10.0.0.1:80".to_owned(),
        ..Registration::default()
    }];
    RegisterRequest { registrations }
}

#[test]
fn an_address_to_listen_on_reads_back_as_it_is_written() {
    for text in ["127.0.0.1:7820", "[::1]:0", "unix:/run/causeway/zone-sync.sock"] {
        assert_eq!(text.parse::<ListenAddress>().unwrap().to_string(), text);
    }
    for bad in ["", "7820", "localhost:1", "unix:", "unix:relative"] {
        assert!(bad.parse::<ListenAddress>().is_err(), "{bad}");
    }
}

#[tokio::test]
async fn an_address_that_others_can_reach_is_refused_unless_it_is_meant() {
    let refused = RunningZoneSync::start(config("0.0.0.0:0")).await.unwrap_err();
    assert!(matches!(refused, ZoneSyncError::NotLoopback(_)), "{refused}");
    let mut meant = config("0.0.0.0:0");
    meant.insecure = true;
    RunningZoneSync::start(meant).await.unwrap().shutdown().await;
}

#[tokio::test]
async fn before_etcd_was_reached_every_call_is_unavailable_and_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let audit_log = folder.path().join("audit.log");
    let mut config = config("127.0.0.1:0");
    config.audit = Audit::file(&audit_log, &crate::ApiMetrics::default(), &Tasks::default()).unwrap();
    let zone_sync = RunningZoneSync::start(config).await.unwrap();
    let mut client = beside(&zone_sync).await;
    let refused = client.register(one()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(
        refused.message().contains("etcd at http://127.0.0.1:"),
        "{}",
        refused.message()
    );
    assert!(
        refused.metadata().contains_key(UNTOUCHED),
        "nothing was registered"
    );
    let ready = readiness(&zone_sync).await;
    let why = "has not been reached yet: no member of etcd answered in time to read";
    assert!(
        ready.starts_with("HTTP/1.1 503") && ready.contains(why),
        "{ready}"
    );
    let beat = client.heartbeat(HeartbeatRequest::default()).await.unwrap_err();
    let watch = client.watch(WatchRequest::default()).await.unwrap_err();
    let attach = client
        .attach(tokio_stream::pending::<AttachRequest>())
        .await
        .unwrap_err();
    assert!(
        [beat, watch, attach]
            .iter()
            .all(|refused| refused.code() == Code::Unavailable)
    );

    let channel = Endpoint::from_shared(tcp(&zone_sync))
        .unwrap()
        .connect()
        .await
        .unwrap();
    let request = HealthCheckRequest {
        service: "causeway.registry.v1.Registry".to_owned(),
    };
    let health = HealthClient::new(channel)
        .check(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(health.status(), ServingStatus::NotServing);
    zone_sync.shutdown().await;
    // What would have changed something is written down, and nothing else.
    let lines = two_lines(&audit_log).await;
    assert_eq!(lines.matches('\n').count(), 2, "{lines}");
    assert!(
        lines.starts_with('{') && lines.contains("\"result\":\"asked\""),
        "{lines}"
    );
    for part in [
        "\"who\":\"local uid ",
        "Registry/Register\"",
        "\"result\":\"failed\"",
    ] {
        assert!(lines.contains(part), "{part} in {lines}");
    }
}

#[tokio::test]
async fn over_loopback_one_may_watch_and_neither_attach_nor_register_without_a_token() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens.json");
    let token = issue(
        &file,
        &"ci".parse().unwrap(),
        &Rights::of(Scope::Register),
        None,
        &[7; 32],
    )
    .unwrap();
    let mut config = config("127.0.0.1:0");
    config.tokens = Some(Arc::new(TokenFile::open(&file).unwrap()));
    let zone_sync = RunningZoneSync::start(config).await.unwrap();
    let mut client = RegistryClient::connect(tcp(&zone_sync)).await.unwrap();
    // What is let in hears that there is no etcd.
    let watch = client.watch(WatchRequest::default()).await.unwrap_err();
    assert_eq!(watch.code(), Code::Unavailable);
    let attach = client.attach(tokio_stream::pending::<AttachRequest>()).await;
    let register = client.register(one()).await;
    let beat = client.heartbeat(HeartbeatRequest::default()).await;
    let refused = [
        attach.map(drop).unwrap_err(),
        register.map(drop).unwrap_err(),
        beat.map(drop).unwrap_err(),
    ];
    for refused in refused {
        assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
        let way = format!("unix-abstract:causeway/{}", zone_sync.address());
        assert!(refused.message().contains(&way), "{refused}");
    }
    let with_token = |header: &str| {
        let mut request = tonic::Request::new(one());
        request
            .metadata_mut()
            .insert("authorization", header.parse().unwrap());
        request
    };
    let good = with_token(&format!("Bearer {}", token.reveal()));
    let admitted = client.register(good).await.unwrap_err();
    assert_eq!(admitted.code(), Code::Unavailable, "{admitted}");
    let bad = client.register(with_token("Bearer nonsense")).await.unwrap_err();
    assert_eq!(bad.code(), Code::Unauthenticated);
    zone_sync.shutdown().await;
}

#[tokio::test]
async fn whoever_connects_may_do_everything_where_the_operator_said_so() {
    let mut config = config("127.0.0.1:0");
    config.insecure = true;
    let zone_sync = RunningZoneSync::start(config).await.unwrap();
    let mut client = RegistryClient::connect(tcp(&zone_sync)).await.unwrap();
    let admitted = client.register(one()).await.unwrap_err();
    assert_eq!(admitted.code(), Code::Unavailable, "{admitted}");
    zone_sync.shutdown().await;
}

#[tokio::test]
async fn connections_that_are_kept_open_keep_nobody_out_and_end_no_call() {
    let zone_sync = RunningZoneSync::start(config("127.0.0.1:0")).await.unwrap();
    let ListenAddress::Tcp(address) = *zone_sync.address() else {
        panic!("it listens at a unix socket alone");
    };
    let channel = Endpoint::from_shared(tcp(&zone_sync))
        .unwrap()
        .connect()
        .await
        .unwrap();
    let watching = HealthClient::new(channel)
        .watch(HealthCheckRequest::default())
        .await
        .unwrap();
    let mut kept = Vec::new();
    for _ in 0..listen::MAX_CONNECTIONS_OF_HOST {
        kept.push(TcpStream::connect(address).await.unwrap());
    }
    // Not the first, on which a call is under way, but the second one gives way.
    let mut said = Vec::new();
    let end = tokio::time::timeout(PATIENCE, kept[0].read_to_end(&mut said)).await;
    assert!(end.is_ok(), "the idlest gives way");
    for _ in 0..3 {
        let mut client = RegistryClient::connect(tcp(&zone_sync)).await.unwrap();
        let heard = client.register(one()).await.unwrap_err();
        assert_eq!(heard.code(), Code::Unauthenticated, "{heard}");
    }
    drop((watching, kept));
    zone_sync.shutdown().await;
}

#[tokio::test]
async fn a_list_that_is_too_long_is_refused_whole() {
    let zone_sync = RunningZoneSync::start(config("127.0.0.1:0")).await.unwrap();
    let mut client = beside(&zone_sync).await;
    let registrations = vec![Registration::default(); 1_001];
    let refused = client
        .register(RegisterRequest { registrations })
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    zone_sync.shutdown().await;
}

#[tokio::test]
async fn a_unix_socket_is_served_replaced_when_it_was_left_behind_and_removed_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("zone-sync.sock");
    let listen = format!("unix:{}", path.display());
    // Left behind by a process that was killed.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let zone_sync = RunningZoneSync::start(config(&listen)).await.unwrap();
    tokio::net::UnixStream::connect(&path).await.unwrap();
    let second = RunningZoneSync::start(config(&listen)).await.unwrap_err();
    assert!(matches!(second, ZoneSyncError::Bind { .. }), "{second}");
    zone_sync.shutdown().await;
    assert!(!path.exists());
}

mod between_hosts {
    //! As if client and server were on different hosts: both speak TLS.

    use std::sync::Arc;

    use tokio::net::TcpListener;

    use super::*;
    use causeway_identity::{Identity, LiveIdentity, Secure, SecureError, SpiffeId, ca::Ca};

    const DAY: std::time::Duration = std::time::Duration::from_secs(86_400);

    fn identity(ca: &Ca, id: &str) -> LiveIdentity {
        let (zone, gateway) = id.split_once('/').unwrap();
        let id = GatewayId::new(zone.parse().unwrap(), gateway.parse().unwrap());
        let identity: Identity = ca.issue(&id, DAY).unwrap();
        LiveIdentity::from(Arc::new(identity))
    }

    /// Shakes hands; answers what the server says, and what the client says.
    async fn meet(
        server: LiveIdentity,
        client: LiveIdentity,
    ) -> (Result<SpiffeId, SecureError>, Result<(), SecureError>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepting = async {
            let (stream, _) = listener.accept().await.unwrap();
            Secure::new(server).accept(stream).await.map(|(_, peer)| peer)
        };
        let connecting = async {
            let stream = TcpStream::connect(address).await.unwrap();
            Secure::new(client).connect(stream).await.map(drop)
        };
        tokio::join!(accepting, connecting)
    }

    #[tokio::test]
    async fn gateways_of_the_own_zone_are_welcome_and_nobody_else() {
        let (ca, other_ca) = (
            Ca::new("acme.internal").unwrap(),
            Ca::new("acme.internal").unwrap(),
        );
        let (accepted, connected) = meet(identity(&ca, "east/sync"), identity(&ca, "east/gw1")).await;
        assert_eq!(accepted.unwrap().gateway.to_string(), "east/gw1");
        connected.unwrap();

        let (accepted, connected) = meet(identity(&ca, "east/sync"), identity(&ca, "west/gw1")).await;
        assert!(
            matches!(accepted, Err(SecureError::Stranger { .. })),
            "{accepted:?}"
        );
        assert!(
            matches!(connected, Err(SecureError::Stranger { .. })),
            "{connected:?}"
        );

        let (accepted, connected) = meet(identity(&ca, "east/sync"), identity(&other_ca, "east/gw1")).await;
        assert!(
            accepted.is_err() && matches!(connected, Err(SecureError::Handshake(_))),
            "{connected:?}"
        );
    }

    #[tokio::test]
    async fn an_identity_of_another_zone_cannot_serve_this_one() {
        let mut config = config("127.0.0.1:0");
        config.identity = Some(identity(&Ca::new("acme.internal").unwrap(), "west/gw1"));
        let refused = RunningZoneSync::start(config).await.unwrap_err();
        assert!(matches!(refused, ZoneSyncError::OtherZone { .. }), "{refused}");
    }

    #[tokio::test]
    async fn with_an_identity_this_host_may_speak_plainly_or_over_tls() {
        let ca = Ca::new("acme.internal").unwrap();
        let mut config = config("127.0.0.1:0");
        config.identity = Some(identity(&ca, "east/sync"));
        let zone_sync = RunningZoneSync::start(config).await.unwrap();
        let mut client = RegistryClient::connect(tcp(&zone_sync)).await.unwrap();
        let plain = client.watch(WatchRequest::default()).await.unwrap_err();
        assert_eq!(plain.code(), Code::Unavailable);

        let secure = Secure::new(identity(&ca, "east/gw1"));
        let address = zone_sync.address().to_string();
        let dial = tower::service_fn(move |_: http::Uri| {
            let (secure, address) = (secure.clone(), address.clone());
            async move {
                let stream = TcpStream::connect(address).await?;
                let stream = secure.connect(stream).await.map_err(std::io::Error::other)?;
                std::io::Result::Ok(TokioIo::new(stream))
            }
        });
        let channel = Endpoint::from_static("http://zone-sync")
            .connect_with_connector(dial)
            .await
            .unwrap();
        let mut over_tls = RegistryClient::new(channel);
        let watch = over_tls.watch(WatchRequest::default()).await.unwrap_err();
        let register = over_tls.register(one()).await.unwrap_err();
        let attaching = over_tls.attach(tokio_stream::pending::<AttachRequest>());
        let attach = attaching.await.unwrap_err();
        for admitted in [watch, register, attach] {
            assert_eq!(admitted.code(), Code::Unavailable, "{admitted}");
        }
        zone_sync.shutdown().await;
    }
}

#[tokio::test]
async fn every_task_is_known_by_name_when_it_ends_and_none_when_all_are_told_to() {
    let wanted = [
        "changes in etcd",
        "leases in etcd",
        "readiness and metrics",
        "registry over gRPC",
        "upkeep of etcd",
        "writes to etcd, lane 0",
        "writes to etcd, lane 1",
        "writes to etcd, lane 2",
        "writes to etcd, lane 3",
    ];
    for (number, name) in wanted.into_iter().enumerate() {
        let config = config("127.0.0.1:0");
        let tasks = config.tasks.clone();
        let zone_sync = RunningZoneSync::start(config).await.unwrap();
        assert_eq!(tasks.names(), wanted);
        let ending = if number % 2 == 0 {
            TaskEnding::Panicked
        } else {
            TaskEnding::Returned
        };
        tasks.end(name, ending);
        let first = tokio::time::timeout(PATIENCE, tasks.first_ended()).await.unwrap();
        assert_eq!((first.name.as_ref(), first.ending), (name, ending));
        zone_sync.shutdown().await;
    }
    let config = config("127.0.0.1:0");
    let tasks = config.tasks.clone();
    RunningZoneSync::start(config).await.unwrap().shutdown().await;
    assert_eq!(tasks.ended().first, []);
}
