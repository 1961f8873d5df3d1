//! A small world to test tunnels in: a CA, gateways on loopback, peers that misbehave, and the log they leave.

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use causeway::{
    identity::{LiveIdentity, ca::Ca},
    snapshot::Snapshot,
    telemetry::{Metrics, ProcessReading, ScrapeState, scrape},
    tunnel::{IncomingStream, StreamHandler, Tunnel, TunnelConfig, TunnelSet, Tunnels, write_frame},
};
use causeway_proto::tunnel::{
    Connect, Ready, StreamHeader, StreamReply, stream_header::Kind, stream_reply::Outcome,
};
use causeway_zone_sync::{name::GatewayId, topology::Topology};
use futures_util::future::BoxFuture;
use quinn::{ClientConfig, Connection, Endpoint, crypto::rustls::QuicClientConfig};
use tokio::{runtime::Handle, sync::watch};
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
    let parsed = causeway_zone_sync::topology::parse(&file, "test.yaml");
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
    metrics: Arc<Metrics>,
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
        Self::start(listen, identity.into(), topology(zones), threads)
    }

    pub fn under(identity: impl Into<LiveIdentity>, topology: Arc<Topology>) -> Self {
        let listen = "127.0.0.1:0".parse().unwrap();
        Self::start(listen, identity.into(), topology, &[Handle::current()])
    }

    fn start(
        listen: SocketAddr,
        identity: LiveIdentity,
        topology: Arc<Topology>,
        threads: &[Handle],
    ) -> Self {
        let config = TunnelConfig {
            keep_alive: Duration::from_millis(100),
            ..TunnelConfig::new(listen, identity)
        };
        let set = Arc::new(TunnelSet::default());
        let metrics = Arc::new(Metrics::default());
        let (topology, receiver) = watch::channel(topology);
        let tunnels = Tunnels::start(
            config,
            threads,
            receiver,
            Arc::clone(&set),
            Arc::new(Echo),
            Arc::clone(&metrics),
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
        let own = id("own");
        let snapshot = Snapshot {
            generation: 1,
            zone: own.zone,
            topology: self.topology.borrow().clone(),
            callers: Arc::default(),
            instances: Arc::default(),
            catalog: Arc::default(),
            links: Arc::default(),
        };
        let state = ScrapeState {
            snapshot: &snapshot,
            tunnels: &[],
            sync: &causeway::telemetry::SyncReadings::default(),
            process: &ProcessReading::default(),
            up_seconds: 0.0,
            access_dropped: 0,
        };
        let line = format!("\n{line} ");
        until(&line, || {
            scrape(&self.metrics, &state)
                .unwrap()
                .contains(&line)
                .then_some(())
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
            while let Ok(Some(chunk)) = stream.recv.read_chunk(64 * 1024, true).await {
                if stream.send.write_chunk(chunk.bytes).await.is_err() {
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
    let (mut send, mut recv) = tunnel.open(&connect_header()).await.unwrap();
    let reply = causeway::tunnel::read_reply(&mut recv).await.unwrap();
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

/// Everything this test's thread logs at WARN and above, each line as its message and fields.
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
        if *event.metadata().level() <= Level::WARN {
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
