//! Revoking reaches every kind of connection that gateways, zone-sync and the CA serve, and leaves everybody else's alone.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use causeway_proto::{
    registry::{WatchRequest, registry_client::RegistryClient},
    tunnel::{Connect, StreamHeader, encode_frame, stream_header::Kind},
};
use causeway_tests::{
    authority::Leaf,
    ca::{CaServer, causeway, text},
    etcd::Etcd,
    federation::{Federation, PATIENCE, Plan, TRUST_DOMAIN},
    instance::{Behaviour, Instance},
    matrix::{
        clients::Credential,
        held::{grpc, hold, hold_http2},
    },
    measured::measured,
    peer::Peer,
    process::{Process, program},
    talk::Client,
    wait::until,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    task::JoinSet,
    time::timeout,
};

const HOUR: Duration = Duration::from_secs(3600);
/// Beginning of the log line of a listener that every address of this host leads to.
const OPEN: &str = "address=0.0.0.0:";

/// A question to an admin API on a connection that stays open.
const ASK: &[u8] = b"GET /v1/trust HTTP/1.1\r\nHost: any.invalid\r\n\r\n";

/// east, whose APIs others reach, west with its zone-sync, and the CA.
struct World {
    federation: Federation,
    ca: CaServer,
    zone_sync: SocketAddr,
    admin: SocketAddr,
    registration: SocketAddr,
    _zone_sync: Process,
    _etcd: Etcd,
    _instances: [Instance; 2],
}

impl World {
    async fn start() -> Self {
        let start = async |name| Instance::start(name, Behaviour::Name).await.unwrap();
        let instances = [start("east").await, start("west").await];
        let plan = Plan::new()
            .zone("east")
            .instance("orders", instances[0].address(), "{}")
            .zone("west")
            .instance("stock", instances[1].address(), "{}")
            .service("orders", "port: 9000, protocol: tcp")
            .service("stock", "port: 9001, protocol: tcp")
            .takes_callers();
        let ca = CaServer::start(TRUST_DOMAIN, HOUR).await.unwrap();
        let mut federation = plan.prepare().await.unwrap();
        ca.admit(&federation).unwrap();
        let etcd = Etcd::start(1).await.unwrap();
        let (zone_sync, process) = start_zone_sync(&etcd, &federation.zone("west").identity);
        let east = federation.zone_mut("east");
        east.registry = SocketAddr::from(([0, 0, 0, 0], 0));
        let allow = format!("write=spiffe://{TRUST_DOMAIN}/zone/west/*");
        let arguments = ["--admin", "0.0.0.0:0", "--admin-allow", &allow];
        east.arguments = arguments.map(str::to_owned).to_vec();
        let arguments = ["--zone-sync", &zone_sync.to_string()];
        federation.zone_mut("west").arguments = arguments.map(str::to_owned).to_vec();
        for name in ["east", "west"] {
            federation.start_zone(name).unwrap();
        }
        for name in ["east", "west"] {
            federation.ready(name).await;
        }
        let west = federation.zone("west");
        west.wait_log(&["attached to a zone-sync"]).await;
        Self {
            admin: open_at(&federation, "the admin API listens").await,
            registration: open_at(&federation, "registration over gRPC listens").await,
            federation,
            ca,
            zone_sync,
            _zone_sync: process,
            _etcd: etcd,
            _instances: instances,
        }
    }

    /// Issues a certificate to a gateway of west by hand.
    fn issue(&self, gateway: &str) -> Leaf {
        let (folder, out): (PathBuf, PathBuf) = (self.ca.ca(), self.ca.ca().with_file_name(gateway));
        let base = ["ca", "issue", "--zone", "west", "--gateway", gateway];
        let more = ["--ca", text(&folder).unwrap(), "--out", text(&out).unwrap()];
        let issued = causeway(&[&base[..], &more].concat()).unwrap();
        assert!(issued.status.success(), "{issued:?}");
        let read = |name: &str| fs::read_to_string(out.join(name)).unwrap();
        Leaf {
            certificate: read("cert.pem"),
            key: read("key.pem"),
        }
    }
}

fn start_zone_sync(etcd: &Etcd, identity: &Path) -> (SocketAddr, Process) {
    let host = etcd.block().host(100);
    let (listen, admin) = (SocketAddr::new(host, 7820), SocketAddr::new(host, 7821));
    let mut command = Command::new(program().unwrap());
    command
        .args([
            "zone-sync",
            "--zone",
            "west",
            "--etcd",
            &etcd.addresses().join(","),
        ])
        .args(["--listen", &listen.to_string(), "--admin", &admin.to_string()])
        .arg("--identity")
        .arg(identity);
    let process = Process::start("zone-sync", &mut command, &etcd.folder().join("zone-sync.log"));
    (listen, process.unwrap())
}

/// Address of a listener of east that other hosts reach, whose port the system has chosen.
async fn open_at(federation: &Federation, message: &str) -> SocketAddr {
    let east = federation.zone("east");
    let what = format!("a line with `{message}`");
    let port = until(&what, PATIENCE, async || {
        let log = east.log();
        let line = log
            .lines()
            .find(|line| line.contains(message) && line.contains(OPEN))?;
        let rest = line.split(OPEN).nth(1)?;
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    });
    SocketAddr::new(east.listen.ip(), port.await)
}

/// One connection of each kind, and tasks that end with them.
struct Held {
    ends: JoinSet<(&'static str, Instant)>,
    // Hold what their connections live by.
    _peer: Peer,
}

impl Held {
    async fn open(world: &World, leaf: &Leaf) -> Self {
        let mut ends = JoinSet::new();
        let credential = Credential::of(leaf.clone());
        let east = world.federation.zone("east").listen;
        let mut peer = Peer::connect(east, Some(leaf)).await.unwrap();
        peer.hello().await.unwrap();
        let connection = peer.connection.clone();
        ends.spawn(async move {
            connection.closed().await;
            ("tunnel", Instant::now())
        });
        let (mut send, mut recv) = peer.connection.open_bi().await.unwrap();
        let header = StreamHeader {
            kind: Some(Kind::Connect(Connect {
                service: "orders".to_owned(),
                attempt: 1,
                ..Connect::default()
            })),
        };
        send.write_chunk(encode_frame(&header).unwrap()).await.unwrap();
        send.write_all(b"hello\n").await.unwrap();
        let mut heard = Vec::new();
        while !heard.ends_with(b"east hello\n") {
            let chunk = recv.read_chunk(1024, true).await.unwrap().unwrap();
            heard.extend_from_slice(&chunk.bytes);
        }
        ends.spawn(async move {
            let _send = send;
            while let Ok(Some(_)) = recv.read_chunk(1024, true).await {}
            ("stream", Instant::now())
        });
        let mut admin = hold(&credential, b"http/1.1", world.admin, ASK).await.unwrap();
        ends.spawn(async move {
            let mut bytes = [0; 4096];
            // One that asks nothing is closed after a while, whoever it is.
            while admin.write_all(ASK).await.is_ok()
                && admin.read(&mut bytes).await.is_ok_and(|read| read > 0)
            {}
            ("admin API", Instant::now())
        });
        for (kind, at) in [
            ("registration", world.registration),
            ("zone-sync", world.zone_sync),
            ("CA", world.ca.address),
        ] {
            let held = hold_http2(&credential, at).await.unwrap();
            ends.spawn(ended(kind, held));
        }
        let channel = grpc(&credential, world.registration).await.unwrap();
        let watching = RegistryClient::new(channel).watch(WatchRequest::default()).await;
        let mut events = watching.unwrap().into_inner();
        events.message().await.unwrap();
        ends.spawn(async move {
            while let Ok(Some(_)) = events.message().await {}
            ("watch", Instant::now())
        });
        let callers = world.federation.zone("west").callers;
        let mut caller = Client::call(callers, "stock.mesh", Some(leaf)).await.unwrap();
        assert_eq!(caller.say("hello").await.unwrap(), "west hello");
        ends.spawn(async move {
            while caller.say("still").await.is_ok_and(|answer| !answer.is_empty()) {}
            ("TLS caller", Instant::now())
        });
        Self { ends, _peer: peer }
    }

    /// Waits until all have ended. Gives the kinds and how long after `begun` each ended, the last one last.
    async fn all_ended(mut self, begun: Instant) -> Vec<(&'static str, Duration)> {
        let mut ended = Vec::new();
        while !self.ends.is_empty() {
            let next = timeout(PATIENCE, self.ends.join_next()).await;
            let next = next.unwrap_or_else(|_| panic!("of the connections only these have ended: {ended:?}"));
            let (kind, at) = next.unwrap().unwrap();
            ended.push((kind, at.duration_since(begun)));
        }
        ended
    }
}

/// Reads until the connection has ended.
async fn ended(kind: &'static str, mut stream: impl AsyncRead + Unpin + Send) -> (&'static str, Instant) {
    let mut bytes = [0; 4096];
    while stream.read(&mut bytes).await.is_ok_and(|read| read > 0) {}
    (kind, Instant::now())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_connection_of_a_revoked_gateway_ends_and_none_of_another() {
    let world = World::start().await;
    let revoked = Held::open(&world, &world.issue("gw9")).await;
    let mut other = Held::open(&world, &world.issue("gw8")).await;
    let kinds = revoked.ends.len();
    let (folder, east) = (world.ca.ca(), world.federation.zone("east").admin.to_string());
    let folder = text(&folder).unwrap().to_owned();
    let begun = Instant::now();
    let revoking = tokio::task::spawn_blocking(move || {
        let revoke = ["revoke", "gateway", "west/gw9", "--ca", &folder, "--admin", &east];
        causeway(&revoke).unwrap()
    });
    let ended = revoked.all_ended(begun).await;
    let done = revoking.await.unwrap();
    assert!(done.status.success(), "{done:?}");
    assert_eq!(ended.len(), kinds);
    assert_eq!(
        kinds, 8,
        "tunnel, stream, admin, registration, watch, zone-sync, TLS caller, CA"
    );
    let (last, longest) = ended.last().unwrap();
    measured(&format!(
        "the last connection of a revoked gateway, of kind {last}, was closed {longest:?} after the command was started; all: {ended:?}"
    ));
    while let Some(ended) = other.ends.try_join_next() {
        // On a slow machine: the CA serves no connection for longer than half a minute.
        assert_eq!(ended.unwrap().0, "CA", "of another gateway");
    }
}
