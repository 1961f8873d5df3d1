//! Test bed of the data path: zones in one process, joined by real QUIC tunnels over loopback, with instances that
//! record every byte they are given. Identity and dialling are not tested here, so the tunnels are made by hand.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use causeway_federation::{
    catalog::{Age, Catalog},
    topology::Topology,
};
use causeway_proto::tunnel::{FRAME_PREFIX_BYTES, StreamHeader, decode_frame, frame_length};
pub(crate) use causeway_routing::testbed::*;
use causeway_routing::{
    snapshot::{Instance, Snapshot, Snapshots},
    target::{Bindings, Target},
};
use causeway_telemetry::{AccessLog, MetricsRegistry};
use causeway_tunnel::{
    IncomingStream, Stream, StreamHandler, Tunnel, TunnelMetrics, TunnelSet, testbed::pair,
};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

use crate::ProxyMetrics;
use crate::{
    egress::{Egress, EgressConfig},
    ingress::{Ingress, IngressConfig},
};

/// Longest that a test waits for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Both ends of a new stream: the opener's and the acceptor's, and what keeps them up.
pub(crate) async fn streams() -> (Stream, Stream, (Arc<Tunnel>, Arc<Tunnel>)) {
    let (near, far) = pair(gateway("home"), gateway("east")).await;
    let mut opened = near.open_bare().await.unwrap();
    // A stream is only seen by the peer once something was written.
    opened.send.write_all(b"!").await.unwrap();
    let mut accepted = far.accept_bare().await.unwrap();
    accepted.recv.read_exact(&mut [0]).await.unwrap();
    (opened, accepted, (near, far))
}

/// Both ends of a new TCP connection over loopback.
pub(crate) async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let connecting = TcpStream::connect(listener.local_addr().unwrap());
    let (connected, accepted) = tokio::join!(connecting, listener.accept());
    (connected.unwrap(), accepted.unwrap().0)
}

/// An address of 127.128.0.0/9 that no other test uses, outside the default virtual addresses, with a port that is free.
pub(crate) fn vip() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let [_, _, high, low] = number.to_be_bytes();
    let process = u8::try_from(std::process::id() % 100).unwrap();
    let ip = IpAddr::from([127, 128 + process, high, low]);
    let probe = std::net::TcpListener::bind((ip, 0)).unwrap();
    probe.local_addr().unwrap()
}

/// Waits until `condition` holds.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
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
pub(crate) struct Recorder {
    pub(crate) address: SocketAddr,
    name: String,
    given: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Recorder {
    pub(crate) async fn start(name: &str) -> Self {
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

    pub(crate) fn instance(&self, weight: u32, tags: &[(&str, &str)]) -> Arc<Instance> {
        instance(&self.name, self.address, weight, tags)
    }

    /// The bytes of every connection, in the order in which they came.
    pub(crate) fn given(&self) -> Vec<Vec<u8>> {
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
pub(crate) struct Zone {
    pub(crate) name: String,
    pub(crate) snapshots: Snapshots,
    pub(crate) tunnels: Arc<TunnelSet>,
    pub(crate) egress: Egress,
    pub(crate) ingress: Ingress,
    pub(crate) bindings: watch::Sender<Bindings>,
    pub(crate) metrics: MetricsRegistry,
    /// Address at which its clients reach `orders`.
    pub(crate) vip: SocketAddr,
    /// Tasks that run the egress, one for each data thread; they outlive the zone.
    pub(crate) running: Vec<JoinHandle<()>>,
}

impl Zone {
    pub(crate) fn start(name: &str, topology: &Arc<Topology>, instances: Vec<Arc<Instance>>) -> Self {
        Self::with_config(name, topology, instances, EgressConfig::new(1))
    }

    pub(crate) fn with_config(
        name: &str,
        topology: &Arc<Topology>,
        instances: Vec<Arc<Instance>>,
        config: EgressConfig,
    ) -> Self {
        Self::with_access_log(name, topology, instances, config, AccessLog::Off)
    }

    pub(crate) fn with_access_log(
        name: &str,
        topology: &Arc<Topology>,
        instances: Vec<Arc<Instance>>,
        config: EgressConfig,
        access: AccessLog,
    ) -> Self {
        let first = snapshot(name, topology, instances, Vec::new(), &[]);
        let snapshots: Snapshots = Arc::new(ArcSwap::from_pointee(first));
        let tunnels = Arc::new(TunnelSet::default());
        let mut registry = MetricsRegistry::default();
        let tunnel_metrics = Arc::new(TunnelMetrics::new(&mut registry));
        let metrics = Arc::new(ProxyMetrics::new(&mut registry, tunnel_metrics));
        let (threads, own_sockets) = (config.threads, config.own_sockets.clone());
        let tracer = config.tracer.clone();
        let egress = Egress::new(
            config,
            snapshots.clone(),
            tunnels.clone(),
            metrics.clone(),
            access.clone(),
        );
        let mut serving = IngressConfig::new(1);
        (serving.own_sockets, serving.tracer) = (own_sockets, tracer);
        let ingress = Ingress::new(serving, snapshots.clone(), metrics, access);
        let vip = vip();
        let target = Target::service(service("orders"));
        let bindings = watch::Sender::new(Arc::new(BTreeMap::from([(vip, target.into())])));
        let run = |thread| {
            let (egress, receiver) = (egress.clone(), bindings.subscribe());
            tokio::spawn(async move { egress.run(thread, receiver).await })
        };
        let running = (0..threads).map(run).collect();
        Self {
            name: name.to_owned(),
            snapshots,
            tunnels,
            egress,
            ingress,
            bindings,
            metrics: registry,
            vip,
            running,
        }
    }

    /// Changes the snapshot.
    pub(crate) fn change(&self, edit: impl FnOnce(&mut Snapshot)) {
        let mut next = Snapshot::clone(&self.snapshots.load());
        edit(&mut next);
        next.generation += 1;
        self.snapshots.store(Arc::new(next));
    }

    /// Joins a gateway of another zone, whose streams `handler` takes, and which exports one healthy instance of `orders`.
    /// Returns the far end of the tunnel.
    pub(crate) async fn join(&self, far: &str, handler: impl StreamHandler) -> Arc<Tunnel> {
        let ends = pair(gateway(&self.name), gateway(far)).await;
        self.join_over(ends, far, handler)
    }

    /// As [`Zone::join`], with both ends of the tunnel given.
    pub(crate) fn join_over(
        &self,
        (tunnel, there): (Arc<Tunnel>, Arc<Tunnel>),
        far: &str,
        handler: impl StreamHandler,
    ) -> Arc<Tunnel> {
        self.tunnels.add(tunnel.clone());
        let links = self.tunnels.links();
        let exported = entry(far, Age::Fresh, false, &[(&[], 1, 1)]);
        self.change(|snapshot| {
            snapshot.links = Arc::new(links);
            let entries = snapshot.catalog.entries().cloned().chain([exported]);
            snapshot.catalog = Arc::new(Catalog::new(entries));
        });
        tokio::spawn(accept_streams(there.clone(), handler));
        let (tunnels, snapshots) = (self.tunnels.clone(), self.snapshots.clone());
        tokio::spawn(async move {
            tunnel.closed().await;
            tunnels.remove(&tunnel);
            let mut next = Snapshot::clone(&snapshots.load());
            next.links = Arc::new(tunnels.links());
            snapshots.store(Arc::new(next));
        });
        there
    }

    /// A client that is connected to `orders`.
    pub(crate) async fn client(&self) -> Client {
        Client(connect(self.vip).await)
    }
}

/// Connects to a virtual address, once it is listened on.
pub(crate) async fn connect(address: SocketAddr) -> TcpStream {
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

async fn accept_streams(tunnel: Arc<Tunnel>, handler: impl StreamHandler) {
    while let Ok(Stream { send, mut recv }) = tunnel.accept_bare().await {
        let mut prefix = [0; FRAME_PREFIX_BYTES];
        if recv.read_exact(&mut prefix).await.is_err() {
            continue;
        }
        let mut body = vec![0; frame_length(prefix).unwrap()];
        recv.read_exact(&mut body).await.unwrap();
        let header: StreamHeader = decode_frame(&body).unwrap();
        let tunnel = tunnel.clone();
        let stream = IncomingStream {
            kind: header.kind.unwrap(),
            send,
            recv,
            tunnel,
        };
        tokio::spawn(handler.handle(stream));
    }
}

/// A client of the mesh.
pub(crate) struct Client<S = TcpStream>(pub S);

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    /// The name of the instance that serves it, or the error that it was ended with.
    pub(crate) async fn greeting(&mut self) -> std::io::Result<String> {
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
    pub(crate) async fn echo(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
        self.expect(text.as_bytes()).await;
    }

    /// Expects these bytes next.
    pub(crate) async fn expect(&mut self, bytes: &[u8]) {
        let mut next = vec![0; bytes.len()];
        let read = self.0.read_exact(&mut next);
        tokio::time::timeout(PATIENCE, read)
            .await
            .expect("bytes in time")
            .unwrap();
        assert_eq!(next, bytes);
    }

    /// Reads until the end, or until the error that ended it.
    pub(crate) async fn rest(&mut self) -> std::io::Result<Vec<u8>> {
        let mut rest = Vec::new();
        let read = self.0.read_to_end(&mut rest);
        tokio::time::timeout(PATIENCE, read)
            .await
            .expect("an end in time")?;
        Ok(rest)
    }
}

/// Makes a handler of a function.
pub(crate) struct Handler<F>(pub(crate) F);

impl<F> StreamHandler for Handler<F>
where
    F: Fn(IncomingStream) -> BoxFuture<'static, ()> + Send + Sync + 'static,
{
    fn handle(&self, stream: IncomingStream) -> BoxFuture<'static, ()> {
        (self.0)(stream)
    }
}
