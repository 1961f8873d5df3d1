//! A small world to test tunnels in: a CA, gateways on loopback, peers that misbehave, and the log they leave.

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use causeway_federation::{name::GatewayId, topology::Topology};
use causeway_identity::{LiveIdentity, ca::Ca};
use causeway_proto::tunnel::{
    Connect, Ready, StreamHeader, StreamReply, stream_header::Kind, stream_reply::Outcome,
};
use causeway_telemetry::MetricsRegistry;
use causeway_tunnel::{
    IncomingStream, Stream, StreamHandler, Tunnel, TunnelConfig, TunnelMetrics, TunnelSet, Tunnels,
    write_frame,
};
use futures_util::future::BoxFuture;
use quinn::{ClientConfig, Connection, Endpoint, crypto::rustls::QuicClientConfig};
use tokio::{net::UdpSocket, runtime::Handle, sync::watch};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    subscriber::DefaultGuard,
};
use tracing_subscriber::{Layer, layer::Context, prelude::*};

pub const DOMAIN: &str = "acme.internal";
pub const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Long enough for any wait in these tests on a busy machine; nothing waits this long when all is well.
const PATIENCE: Duration = Duration::from_secs(20);

pub fn id(zone: &str) -> GatewayId {
    GatewayId::new(zone.parse().unwrap(), "gw1".parse().unwrap())
}

/// Zones and, for each, its gateways' addresses.
pub type Zones<'a> = [(&'a str, Vec<Vec<String>>)];

pub fn topology(zones: &Zones<'_>) -> Arc<Topology> {
    use std::fmt::Write;
    let mut file = format!("version: 1\ntrust_domain: {DOMAIN}\nzones:\n");
    for (zone, gateways) in zones {
        let entries = gateways
            .iter()
            .map(|addresses| format!("{{ addresses: {addresses:?} }}"));
        let entries = entries.collect::<Vec<_>>().join(", ");
        writeln!(file, "  {zone}: {{ gateways: [{entries}] }}").unwrap();
    }
    file.push_str("services: {}\n");
    let parsed = causeway_federation::topology::parse(&file, "test.yaml");
    Arc::new(
        parsed
            .unwrap_or_else(|findings| panic!("{findings:?}\n{file}"))
            .topology,
    )
}

pub fn none() -> Vec<Vec<String>> {
    Vec::new()
}

pub fn one(address: impl ToString) -> Vec<Vec<String>> {
    vec![vec![address.to_string()]]
}

/// A running gateway, as far as tunnels go.
pub struct Gate {
    pub tunnels: Tunnels,
    pub set: Arc<TunnelSet>,
    pub topology: watch::Sender<Arc<Topology>>,
    metrics: MetricsRegistry,
}

impl Gate {
    pub fn new(identity: impl Into<LiveIdentity>, zones: &Zones<'_>) -> Self {
        Self::on(
            "127.0.0.1:0".parse().unwrap(),
            identity,
            zones,
            &[Handle::current()],
        )
    }

    pub fn on(
        listen: SocketAddr,
        identity: impl Into<LiveIdentity>,
        zones: &Zones<'_>,
        threads: &[Handle],
    ) -> Self {
        Self::start(
            listen,
            identity.into(),
            topology(zones),
            threads,
            Arc::new(Echo),
            |_| {},
        )
    }

    /// A gateway on any port with settings of its own, whose streams `handler` takes.
    pub fn serving(
        identity: impl Into<LiveIdentity>,
        zones: &Zones<'_>,
        handler: Arc<dyn StreamHandler>,
        set: impl FnOnce(&mut TunnelConfig),
    ) -> Self {
        let listen = "127.0.0.1:0".parse().unwrap();
        let threads = [Handle::current()];
        Self::start(listen, identity.into(), topology(zones), &threads, handler, set)
    }

    /// A gateway on any port with settings of its own.
    pub fn with(
        identity: impl Into<LiveIdentity>,
        zones: &Zones<'_>,
        threads: &[Handle],
        set: impl FnOnce(&mut TunnelConfig),
    ) -> Self {
        let listen = "127.0.0.1:0".parse().unwrap();
        Self::start(
            listen,
            identity.into(),
            topology(zones),
            threads,
            Arc::new(Echo),
            set,
        )
    }

    pub fn under(identity: impl Into<LiveIdentity>, topology: Arc<Topology>) -> Self {
        let listen = "127.0.0.1:0".parse().unwrap();
        let threads = [Handle::current()];
        Self::start(
            listen,
            identity.into(),
            topology,
            &threads,
            Arc::new(Echo),
            |_| {},
        )
    }

    fn start(
        listen: SocketAddr,
        identity: LiveIdentity,
        topology: Arc<Topology>,
        threads: &[Handle],
        handler: Arc<dyn StreamHandler>,
        settings: impl FnOnce(&mut TunnelConfig),
    ) -> Self {
        let mut config = TunnelConfig {
            keep_alive: Duration::from_millis(100),
            idle_timeout: Duration::from_secs(3),
            ..TunnelConfig::new(listen, identity)
        };
        settings(&mut config);
        let set = Arc::new(TunnelSet::default());
        let mut metrics = MetricsRegistry::default();
        let (topology, receiver) = watch::channel(topology);
        let tunnels = Tunnels::start(
            config,
            threads,
            receiver,
            Arc::clone(&set),
            handler,
            Arc::new(TunnelMetrics::new(&mut metrics)),
        );
        Self {
            tunnels: tunnels.unwrap(),
            set,
            topology,
            metrics,
        }
    }

    /// Waits until this line, such as `causeway_x_total{a="b"}`, is among the metrics with a count.
    pub async fn counts(&self, line: &str) {
        let line = format!("\n{line} ");
        until(&line, || {
            let mut text = String::new();
            self.metrics.encode(&mut text).unwrap();
            text.contains(&line).then_some(())
        })
        .await;
    }

    /// Waits until a refusal of a tunnel is counted, `side` being `local` or `peer`.
    pub async fn counts_refusal(&self, side: &str, reason: &str) {
        let labels = format!("side=\"{side}\",reason=\"{reason}\"");
        self.counts(&format!("causeway_tunnel_refused_total{{{labels}}}"))
            .await;
    }

    pub fn address(&self) -> SocketAddr {
        self.tunnels.local_addr()
    }

    /// Waits for a tunnel to `zone`'s gateway.
    pub async fn tunnel_to(&self, zone: &str) -> Arc<Tunnel> {
        let peer = id(zone);
        until("a tunnel", || self.set.choose(&peer, 0)).await
    }

    pub async fn no_tunnel_to(&self, zone: &str) {
        let peer = id(zone);
        until("the tunnel to go", || (self.set.count(&peer) == 0).then_some(())).await;
    }
}

/// Handles of four data threads, all of them this one.
pub fn four_threads() -> [Handle; 4] {
    std::array::from_fn(|_| Handle::current())
}

/// East, and plant, which dials it with four data threads and settings of its own.
pub fn east_and_plant(ca: &Ca, set: impl FnOnce(&mut TunnelConfig)) -> (Gate, Gate) {
    let known = [("east", none()), ("plant", none())];
    let east = Gate::new(ca.issue(&id("east"), DAY).unwrap(), &known);
    let zones = [("east", one(east.address())), ("plant", none())];
    let plant = Gate::with(ca.issue(&id("plant"), DAY).unwrap(), &zones, &four_threads(), set);
    (east, plant)
}

/// Two zones that know each other: `east` listens, `plant` only dials.
pub async fn pair(ca: &Ca) -> (Gate, Gate) {
    let east = Gate::new(
        ca.issue(&id("east"), DAY).unwrap(),
        &[("east", none()), ("plant", none())],
    );
    let zones = [("east", one(east.address())), ("plant", none())];
    let plant = Gate::new(ca.issue(&id("plant"), DAY).unwrap(), &zones);
    plant.tunnel_to("east").await;
    east.tunnel_to("plant").await;
    (east, plant)
}

/// A relay of datagrams between diallers that share an address and a gateway, as a NAT is.
pub struct Detour {
    pub address: SocketAddr,
    state: watch::Sender<DetourState>,
}

#[derive(Debug, Clone, Copy)]
struct DetourState {
    cut: bool,
    to: SocketAddr,
    /// Counts the addresses that the gateway has seen.
    binding: u64,
}

impl Detour {
    pub async fn to(to: SocketAddr) -> Self {
        let front = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = front.local_addr().unwrap();
        let state = watch::Sender::new(DetourState {
            cut: false,
            to,
            binding: 0,
        });
        tokio::spawn(relay(front, state.subscribe()));
        Self { address, state }
    }

    /// Swallows everything from now on, or nothing.
    pub fn cut(&self, cut: bool) {
        self.state.send_modify(|state| state.cut = cut);
    }

    /// Leads to another gateway from now on.
    pub fn lead(&self, to: SocketAddr) {
        self.state.send_modify(|state| state.to = to);
    }

    /// Has the gateway see another address from now on.
    pub fn rebind(&self) {
        self.state.send_modify(|state| state.binding += 1);
    }
}

async fn relay(front: UdpSocket, mut told: watch::Receiver<DetourState>) {
    let (mut out, mut home) = (vec![0; 65_536], vec![0; 65_536]);
    let mut back = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut state = *told.borrow_and_update();
    let mut client = None;
    loop {
        tokio::select! {
            changed = told.changed() => {
                if changed.is_err() {
                    return;
                }
                let before = state;
                state = *told.borrow_and_update();
                if state.binding != before.binding {
                    back = UdpSocket::bind("127.0.0.1:0").await.unwrap();
                }
            }
            Ok((n, from)) = front.recv_from(&mut out) => {
                client = Some(from);
                if !state.cut {
                    let _ = back.send_to(&out[..n], state.to).await;
                }
            }
            Ok((n, _)) = back.recv_from(&mut home) => {
                if let Some(client) = client.filter(|_| !state.cut) {
                    let _ = front.send_to(&home[..n], client).await;
                }
            }
        }
    }
}

/// Waits until `look` finds something.
pub async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let found = tokio::time::timeout(PATIENCE, async {
        loop {
            if let Some(found) = look() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    found
        .await
        .unwrap_or_else(|_| panic!("waited {PATIENCE:?} in vain for {what}"))
}

/// Answers ready and sends back what it is sent.
struct Echo;

impl StreamHandler for Echo {
    fn handle(&self, mut stream: IncomingStream) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let ready = StreamReply {
                outcome: Some(Outcome::Ready(Ready::default())),
            };
            if write_frame(&mut stream.send, &ready).await.is_err() {
                return;
            }
            while let Ok(Some(chunk)) = stream.recv.read_chunk(64 * 1024).await {
                if stream.send.write_chunk(chunk).await.is_err() {
                    return;
                }
            }
            let _ = stream.send.finish();
        })
    }
}

pub fn connect_header() -> StreamHeader {
    StreamHeader {
        kind: Some(Kind::Connect(Connect {
            service: "orders".to_owned(),
            ..Connect::default()
        })),
    }
}

/// Sends `bytes` over a new stream of the tunnel to [`Echo`] and checks that they come back.
pub async fn echo(tunnel: &Arc<Tunnel>, bytes: &[u8]) {
    let Stream { mut send, mut recv } = tunnel.open(&connect_header()).await.unwrap();
    let reply = causeway_tunnel::read_reply(&mut recv).await.unwrap();
    assert!(matches!(reply, Outcome::Ready(_)), "{reply:?}");
    let writing = async {
        send.write_all(bytes).await.unwrap();
        send.finish().unwrap();
    };
    let ((), back) = tokio::join!(writing, recv.read_to_end(bytes.len()));
    assert!(back.unwrap() == bytes, "the echo differs");
}

/// A peer that does as the test pleases.
pub struct RawPeer {
    pub endpoint: Endpoint,
    pub config: ClientConfig,
}

impl RawPeer {
    pub fn new(tls: rustls::ClientConfig) -> Self {
        let crypto = QuicClientConfig::try_from(tls).unwrap();
        Self {
            endpoint: Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap(),
            config: ClientConfig::new(Arc::new(crypto)),
        }
    }

    pub async fn connect(&self, to: SocketAddr) -> Result<Connection, quinn::ConnectionError> {
        let connecting = self
            .endpoint
            .connect_with(self.config.clone(), to, "any.invalid")
            .unwrap();
        connecting.await
    }
}

/// Everything this test's thread logs at INFO and above, each line as its message and fields.
pub struct Log {
    lines: Lines,
    _guard: DefaultGuard,
}

type Line = BTreeMap<String, String>;
type Lines = Arc<Mutex<Vec<Line>>>;

impl Log {
    pub fn capture() -> Self {
        let lines = Lines::default();
        let layer = Recorder(Arc::clone(&lines));
        let guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));
        Self { lines, _guard: guard }
    }

    /// Waits for a line with this message and these fields.
    pub async fn says(&self, message: &str, fields: &[(&str, &str)]) -> Line {
        let what = format!("the log line {message:?} with {fields:?}");
        let matches = |line: &Line| {
            let is = |(key, value): &(&str, &str)| line.get(*key).is_some_and(|v| v == value);
            line.get("message").is_some_and(|m| m == message) && fields.iter().all(is)
        };
        until(&what, || {
            self.lines.lock().unwrap().iter().find(|l| matches(l)).cloned()
        })
        .await
    }

    pub fn lines(&self) -> Vec<Line> {
        self.lines.lock().unwrap().clone()
    }
}

struct Recorder(Lines);

impl<S: Subscriber> Layer<S> for Recorder {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if *event.metadata().level() <= Level::INFO {
            let mut line = Fields::default();
            event.record(&mut line);
            self.0.lock().unwrap().push(line.0);
        }
    }
}

#[derive(Default)]
struct Fields(Line);

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }
}
