//! What the data path's tests share: zones in one process, joined by real QUIC tunnels over loopback, with instances that
//! record every byte they are given. Identity and dialling are not tested here, so the tunnels are made by hand.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use causeway_proto::tunnel::{FRAME_PREFIX_BYTES, StreamHeader, decode_frame, frame_length};
use causeway_zone_sync::{
    catalog::{Age, Catalog, Entry, Export, Record},
    name::{GatewayId, GatewayName, ServiceName, Tags, ZoneName},
    registry::Source,
    topology::{Fingerprint, Topology, parse},
};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use quinn::{Connection, Endpoint, RecvStream, SendStream};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

use crate::{
    callers,
    egress::{Egress, EgressConfig},
    identity::ca,
    ingress::{Ingress, IngressConfig},
    snapshot::{Health, Instance, Link, Snapshot, Snapshots},
    target::{Bindings, Target},
    telemetry::{AccessLog, Metrics},
    tunnel::{IncomingStream, StreamHandler, Tunnel, TunnelSet},
};

/// Longest that a test waits for anything.
const PATIENCE: Duration = Duration::from_secs(10);

pub fn zone(name: &str) -> ZoneName {
    ZoneName::new(name).unwrap()
}

pub fn service(name: &str) -> ServiceName {
    ServiceName::new(name).unwrap()
}

/// `west` is the gateway `west/gw1`, `west/gw2` itself.
pub fn gateway(name: &str) -> GatewayId {
    let (zone_name, gateway) = name.split_once('/').unwrap_or((name, "gw1"));
    GatewayId::new(zone(zone_name), GatewayName::new(gateway).unwrap())
}

pub fn tags(pairs: &[(&str, &str)]) -> Tags {
    pairs.iter().copied().collect()
}

/// A topology of these zones (YAML flow maps without their gateways) and services.
pub fn topology(zones: &str, services: &str) -> Arc<Topology> {
    let zones = zones
        .lines()
        .map(|zone| zone.replacen('{', "{ gateways: [], ", 1) + "\n")
        .collect::<String>();
    let text = format!("version: 1\ntrust_domain: test.internal\nzones:\n{zones}\nservices:\n{services}\n");
    match parse(&text, "test.yaml") {
        Ok(parsed) => Arc::new(parsed.topology),
        Err(findings) => panic!("{findings:?}\n{text}"),
    }
}

/// An instance of `orders`.
pub fn instance(id: &str, address: SocketAddr, weight: u32, tags: &[(&str, &str)]) -> Arc<Instance> {
    Arc::new(Instance {
        id: id.to_owned(),
        service: service("orders"),
        address,
        tags: self::tags(tags),
        weight,
        capacity_per_second: None,
        time_to_live: None,
        source: Source::Topology,
        health: Health::Healthy,
        load: Arc::default(),
    })
}

/// Tags, instances, and how many of those are healthy (each of weight 1).
pub type Exported<'a> = (&'a [(&'a str, &'a str)], u32, u32);

/// What `origin` exports of `orders`.
pub fn entry(origin: &str, age: Age, draining: bool, exports: &[Exported<'_>]) -> Entry {
    let export = |(tags, instances, healthy): &Exported<'_>| Export {
        service: service("orders"),
        tags: self::tags(tags),
        instances: *instances,
        healthy: *healthy,
        weight: u64::from(*healthy),
        capacity_per_second: None,
    };
    let exports = exports.iter().map(export);
    let record = Record {
        origin: gateway(origin),
        incarnation: 1,
        version: 1,
        exports: exports.collect(),
        draining,
        topology: Fingerprint::default(),
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

/// A snapshot of zone `own`.
pub fn snapshot(
    own: &str,
    topology: &Arc<Topology>,
    instances: Vec<Arc<Instance>>,
    entries: Vec<Entry>,
    links: &[(&str, Link)],
) -> Snapshot {
    let instances = Arc::new(BTreeMap::from([(service("orders"), instances.into())]));
    Snapshot {
        generation: 1,
        zone: zone(own),
        topology: topology.clone(),
        callers: callers::Index::of(&instances),
        instances,
        catalog: Arc::new(Catalog::new(entries)),
        links: Arc::new(links.iter().map(|(name, link)| (gateway(name), *link)).collect()),
    }
}

/// Both ends of a new QUIC connection over loopback.
pub async fn connections() -> (Connection, Connection) {
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let certificate = certified.cert.der().clone();
    let key = rustls_pki_types::PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
    let server = quinn::ServerConfig::with_single_cert(vec![certificate.clone()], key.into()).unwrap();
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let server = Endpoint::server(server, any).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    let client = Endpoint::client(any).unwrap();
    let config = quinn::ClientConfig::with_root_certificates(Arc::new(roots)).unwrap();
    let connecting = client
        .connect_with(config, server.local_addr().unwrap(), "localhost")
        .unwrap();
    let accepting = async { server.accept().await.unwrap().await.unwrap() };
    let (connected, accepted) = tokio::join!(connecting, accepting);
    (connected.unwrap(), accepted)
}

/// Both ends of a new bidirectional stream: the opener's and the acceptor's.
pub async fn streams() -> (
    (SendStream, RecvStream),
    (SendStream, RecvStream),
    (Connection, Connection),
) {
    let (a, b) = connections().await;
    let (mut send, recv) = a.open_bi().await.unwrap();
    // A stream is only seen by the peer once something was written.
    send.write_all(b"!").await.unwrap();
    let (far_send, mut far_recv) = b.accept_bi().await.unwrap();
    far_recv.read_exact(&mut [0]).await.unwrap();
    ((send, recv), (far_send, far_recv), (a, b))
}

/// Both ends of a new TCP connection over loopback.
pub async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let connecting = TcpStream::connect(listener.local_addr().unwrap());
    let (connected, accepted) = tokio::join!(connecting, listener.accept());
    (connected.unwrap(), accepted.unwrap().0)
}

/// An address of 127.0.0.0/8 that no other test uses, with a port that is free.
pub fn vip() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let [_, _, high, low] = number.to_be_bytes();
    let process = u8::try_from(std::process::id() % 100).unwrap();
    let ip = IpAddr::from([127, 100 + process, high, low]);
    let probe = std::net::TcpListener::bind((ip, 0)).unwrap();
    probe.local_addr().unwrap()
}

/// Waits until `condition` holds.
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait)
        .await
        .unwrap_or_else(|_| panic!("never: {what}"));
}

/// An instance that greets with its name, answers with what it was sent, and records it.
pub struct Recorder {
    pub address: SocketAddr,
    name: String,
    given: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Recorder {
    pub async fn start(name: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let recorder = Self {
            address: listener.local_addr().unwrap(),
            name: name.to_owned(),
            given: Arc::default(),
        };
        let (name, given) = (name.to_owned(), recorder.given.clone());
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let mut all = given.lock();
                all.push(Vec::new());
                tokio::spawn(record(socket, format!("{name}\n"), all.len() - 1, given.clone()));
            }
        });
        recorder
    }

    pub fn instance(&self, weight: u32, tags: &[(&str, &str)]) -> Arc<Instance> {
        instance(&self.name, self.address, weight, tags)
    }

    /// The bytes of every connection, in the order in which they came.
    pub fn given(&self) -> Vec<Vec<u8>> {
        self.given.lock().clone()
    }
}

async fn record(mut socket: TcpStream, greeting: String, index: usize, given: Arc<Mutex<Vec<Vec<u8>>>>) {
    if socket.write_all(greeting.as_bytes()).await.is_err() {
        return;
    }
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = socket.read(&mut buffer).await {
        given.lock()[index].extend_from_slice(&buffer[..count]);
        if socket.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

/// One zone with an egress and an ingress on the test's own runtime.
pub struct Zone {
    pub name: String,
    pub snapshots: Snapshots,
    pub tunnels: Arc<TunnelSet>,
    pub egress: Egress,
    pub ingress: Ingress,
    pub bindings: watch::Sender<Bindings>,
    /// Where its clients reach `orders`.
    pub vip: SocketAddr,
}

impl Zone {
    pub fn start(name: &str, topology: &Arc<Topology>, instances: Vec<Arc<Instance>>) -> Self {
        Self::with_config(name, topology, instances, EgressConfig::new(1))
    }

    pub fn with_config(
        name: &str,
        topology: &Arc<Topology>,
        instances: Vec<Arc<Instance>>,
        config: EgressConfig,
    ) -> Self {
        let first = snapshot(name, topology, instances, Vec::new(), &[]);
        let snapshots: Snapshots = Arc::new(ArcSwap::from_pointee(first));
        let tunnels = Arc::new(TunnelSet::default());
        let metrics = Arc::new(Metrics::default());
        let egress = Egress::new(
            config,
            snapshots.clone(),
            tunnels.clone(),
            metrics.clone(),
            AccessLog::default(),
        );
        let ingress = Ingress::new(
            IngressConfig::new(1),
            snapshots.clone(),
            metrics,
            AccessLog::default(),
        );
        let vip = vip();
        let target = Target::service(service("orders"));
        let bindings = watch::Sender::new(Arc::new(BTreeMap::from([(vip, target)])));
        let (running, receiver) = (egress.clone(), bindings.subscribe());
        tokio::spawn(async move { running.run(0, receiver).await });
        Self {
            name: name.to_owned(),
            snapshots,
            tunnels,
            egress,
            ingress,
            bindings,
            vip,
        }
    }

    /// Changes the snapshot.
    pub fn change(&self, edit: impl FnOnce(&mut Snapshot)) {
        let mut next = Snapshot::clone(&self.snapshots.load());
        edit(&mut next);
        next.generation += 1;
        self.snapshots.store(Arc::new(next));
    }

    /// Joins a gateway of another zone, whose streams `handler` takes, and which exports one healthy instance of `orders`.
    /// Returns the far end of the tunnel.
    pub async fn join(&self, far: &str, handler: impl StreamHandler) -> Connection {
        let (here, there) = connections().await;
        let tunnel = Arc::new(Tunnel::new(here.clone(), gateway(far), 0, true));
        self.tunnels.add(tunnel.clone());
        let links = self.tunnels.links();
        let exported = entry(far, Age::Fresh, false, &[(&[], 1, 1)]);
        self.change(|snapshot| {
            snapshot.links = Arc::new(links);
            let entries = snapshot.catalog.entries().cloned().chain([exported]);
            snapshot.catalog = Arc::new(Catalog::new(entries));
        });
        let far_tunnel = Arc::new(Tunnel::new(there.clone(), gateway(&self.name), 0, false));
        tokio::spawn(accept_streams(there.clone(), far_tunnel, handler));
        let (tunnels, snapshots) = (self.tunnels.clone(), self.snapshots.clone());
        tokio::spawn(async move {
            here.closed().await;
            tunnels.remove(&tunnel);
            let mut next = Snapshot::clone(&snapshots.load());
            next.links = Arc::new(tunnels.links());
            snapshots.store(Arc::new(next));
        });
        there
    }

    /// A client that is connected to `orders`.
    pub async fn client(&self) -> Client {
        Client(connect(self.vip).await)
    }
}

/// Connects to a virtual address, once it is listened on.
pub async fn connect(address: SocketAddr) -> TcpStream {
    let wait = async {
        loop {
            match TcpStream::connect(address).await {
                Ok(socket) => return socket,
                Err(_) => tokio::time::sleep(Duration::from_millis(2)).await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, wait)
        .await
        .expect("the virtual address is listened on")
}

async fn accept_streams(connection: Connection, tunnel: Arc<Tunnel>, handler: impl StreamHandler) {
    while let Ok((send, mut recv)) = connection.accept_bi().await {
        let mut prefix = [0; FRAME_PREFIX_BYTES];
        if recv.read_exact(&mut prefix).await.is_err() {
            continue;
        }
        let mut body = vec![0; frame_length(prefix).unwrap()];
        recv.read_exact(&mut body).await.unwrap();
        let header: StreamHeader = decode_frame(&body).unwrap();
        let tunnel = tunnel.clone();
        let stream = IncomingStream {
            header,
            send,
            recv,
            tunnel,
        };
        tokio::spawn(handler.handle(stream));
    }
}

/// A client of the mesh.
pub struct Client<S = TcpStream>(pub S);

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    /// The name of the instance that serves it, or the error that it was ended with.
    pub async fn greeting(&mut self) -> std::io::Result<String> {
        let mut name = Vec::new();
        loop {
            match tokio::time::timeout(PATIENCE, self.0.read_u8())
                .await
                .expect("an answer in time")?
            {
                b'\n' => return Ok(String::from_utf8(name).unwrap()),
                byte => name.push(byte),
            }
        }
    }

    /// Sends `text` and expects it back.
    pub async fn echo(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
        self.expect(text.as_bytes()).await;
    }

    /// Expects these bytes next.
    pub async fn expect(&mut self, bytes: &[u8]) {
        let mut next = vec![0; bytes.len()];
        let read = self.0.read_exact(&mut next);
        tokio::time::timeout(PATIENCE, read)
            .await
            .expect("bytes in time")
            .unwrap();
        assert_eq!(next, bytes);
    }

    /// Reads until the end, or until the error that ended it.
    pub async fn rest(&mut self) -> std::io::Result<Vec<u8>> {
        let mut rest = Vec::new();
        let read = self.0.read_to_end(&mut rest);
        tokio::time::timeout(PATIENCE, read)
            .await
            .expect("an end in time")?;
        Ok(rest)
    }
}

/// Makes a handler of a function.
pub struct Handler<F>(pub F);

impl<F> StreamHandler for Handler<F>
where
    F: Fn(IncomingStream) -> BoxFuture<'static, ()> + Send + Sync + 'static,
{
    fn handle(&self, stream: IncomingStream) -> BoxFuture<'static, ()> {
        (self.0)(stream)
    }
}

/// The trust domain of most zones of [`partners`], and of its zone plant.
pub const OURS: &str = "acme.internal";
pub const THEIRS: &str = "partner.example";

/// Two trust domains, whose bundles hold these CAs: north is of [`OURS`], plant of [`THEIRS`], and east of `east`.
pub fn partners(east: &str, ours: &ca::Ca, theirs: &[&ca::Ca]) -> Topology {
    let indented = |ca: &ca::Ca| ca.roots_pem().trim_end().replace('\n', "\n      ");
    let theirs: Vec<_> = theirs.iter().map(|ca| indented(ca)).collect();
    let text = format!(
        "version: 1\ntrust_domain: {OURS}\ntrust_domains:\n  {OURS}:\n    bundle: |\n      {}\n  {THEIRS}:\n    bundle: |\n      \
         {}\nzones:\n  east: {{ gateways: [gw.east:7800], trust_domain: {east} }}\n  north: {{ gateways: [gw.north:7800] }}\n  plant: {{ \
         gateways: [gw.plant:7800], trust_domain: {THEIRS} }}\n",
        indented(ours),
        theirs.join("\n      "),
    );
    let parsed = parse(&text, "test.yaml").unwrap_or_else(|findings| panic!("{findings:?}\n{text}"));
    parsed.topology
}
