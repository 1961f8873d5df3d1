//! Refusals of peers and streams: each with its own counter and log line, and nothing else is disturbed.
//!
//! In every case a connection from east to west is open the whole time, and must go on.

use std::{
    fs,
    net::SocketAddr,
    process::Command,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use causeway_proto::tunnel::{
    Connect, RefusalReason, StreamHeader, StreamReply, stream_header::Kind, stream_reply::Outcome,
};
use causeway_tests::{
    authority::{Authority, Leaf, Validity},
    dns,
    federation::{Federation, PATIENCE, Plan, TRUST_DOMAIN},
    instance::{Behaviour, Instance},
    link::Network,
    peer::Peer,
    process::program,
    talk::{Client, say},
    wait::until_true,
};
use hickory_proto::{op::ResponseCode, rr::RecordType};
use tokio::net::UdpSocket;

/// east and west trust each other and talk. north is in the topology, but not started.
struct Bystanders {
    federation: Federation,
    talk: Client,
    // Serves as long as the test runs.
    _west: Instance,
}

impl Bystanders {
    async fn start() -> Self {
        let west = Instance::start("west", Behaviour::Name).await.unwrap();
        let plan = Plan::new()
            .zone("east")
            .zone("west")
            .instance("orders", west.address(), "{}");
        let plan = plan.instance("secret", west.address(), "{}").zone("north");
        let plan = plan.service("orders", "port: 9000, protocol: tcp");
        let plan = plan.service("secret", "port: 9001, protocol: tcp, export_to: [west]");
        let mut federation = plan.prepare().await.unwrap();
        for name in ["east", "west"] {
            federation.start_zone(name).unwrap();
        }
        federation.ready("east").await;
        federation.wait_export("east", "west", "orders").await;
        let service = federation.service_address("east", "orders", 9000).await;
        let mut talk = Client::connect(service).await.unwrap();
        assert_eq!(talk.say("before").await.unwrap(), "west before");
        Self {
            federation,
            talk,
            _west: west,
        }
    }

    /// Starts north with this identity; it will dial both, and both will dial it.
    fn start_north(&mut self, leaf: &Leaf) {
        let root = self.federation.authority().root_pem().to_owned();
        self.federation.set_identity("north", leaf, &root).unwrap();
        self.federation.start_zone("north").unwrap();
    }

    fn leaf(&self, zone: &str, validity: Validity) -> Leaf {
        self.federation.authority().leaf(zone, "gw1", validity).unwrap()
    }

    /// Waits until `zone` has counted a refusal, by its own side or by the peer's.
    async fn wait_refused(&self, zone: &str, family: &str, side: &str, reason: &str) {
        let name = format!("causeway_{family}_refused_total");
        let labels = [("side", side), ("reason", reason)];
        self.federation.zone(zone).wait_metric(&name, &labels, 1.0).await;
    }

    /// Both sides count and log the refusal of a tunnel between east and north.
    async fn wait_tunnel_refused(&self, reason: &str) {
        self.wait_refused("east", "tunnel", "local", reason).await;
        self.wait_refused("north", "tunnel", "peer", reason).await;
        for zone in ["east", "north"] {
            self.federation.zone(zone).wait_log(&["WARN", reason]).await;
        }
    }

    /// The connection that was open all along still works, and so does a new one.
    async fn assert_undisturbed(mut self) {
        assert_eq!(self.talk.say("after").await.unwrap(), "west after");
        let service = self.federation.service_address("east", "orders", 9000).await;
        assert_eq!(say(service, "new").await.unwrap(), "west new");
    }
}

fn connect(service: &str) -> StreamHeader {
    StreamHeader {
        kind: Some(Kind::Connect(Connect {
            service: service.to_owned(),
            attempt: 1,
            ..Connect::default()
        })),
    }
}

fn refusal(reply: StreamReply) -> Option<RefusalReason> {
    match reply.outcome {
        Some(Outcome::Refusal(refusal)) => Some(refusal.reason()),
        _ => None,
    }
}

#[tokio::test]
async fn a_certificate_of_another_ca_is_refused() {
    let mut bystanders = Bystanders::start().await;
    let foreign = Authority::new(TRUST_DOMAIN).unwrap();
    bystanders.start_north(&foreign.leaf("north", "gw1", Validity::Current).unwrap());
    bystanders.wait_tunnel_refused("unknown_issuer").await;
    bystanders.assert_undisturbed().await;
}

#[tokio::test]
async fn a_certificate_of_another_zone_is_refused() {
    let mut bystanders = Bystanders::start().await;
    let leaf = bystanders.leaf("west", Validity::Current);
    let root = bystanders.federation.authority().root_pem().to_owned();
    // The program itself refuses to serve a zone with another zone's certificate.
    bystanders.federation.set_identity("north", &leaf, &root).unwrap();
    bystanders.federation.start_zone("north").unwrap();
    let status = bystanders
        .federation
        .zone_mut("north")
        .gateway()
        .wait(PATIENCE)
        .await;
    assert!(!status.success(), "it started with another zone's certificate");
    assert!(
        bystanders.federation.zone("north").log().contains("error:"),
        "it says why"
    );
    bystanders.assert_undisturbed().await;
}

#[tokio::test]
async fn a_gateway_that_answers_for_another_zone_is_refused() {
    // Who dials north finds west's certificate there. (A topology that says so itself is not accepted.)
    let west = Instance::start("west", Behaviour::Name).await.unwrap();
    let plan = Plan::new()
        .zone("east")
        .zone("west")
        .instance("orders", west.address(), "{}")
        .zone("north");
    let mut federation = plan
        .service("orders", "port: 9000, protocol: tcp")
        .prepare()
        .await
        .unwrap();
    let detour = Network::new().unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let front = detour
        .connect(("east", "north"), any, federation.zone("west").listen)
        .await
        .unwrap();
    let east = federation.zone("east");
    let text = fs::read_to_string(&east.topology).unwrap();
    let north = federation.zone("north").listen;
    fs::write(
        &east.topology,
        text.replace(&north.to_string(), &front.to_string()),
    )
    .unwrap();
    for name in ["east", "west"] {
        federation.start_zone(name).unwrap();
    }
    let east = federation.zone("east");
    east.wait_ready().await;
    let labels = [("side", "local"), ("reason", "wrong_zone")];
    east.wait_metric("causeway_tunnel_refused_total", &labels, 1.0)
        .await;
    east.wait_log(&["WARN", "wrong_zone"]).await;
    federation.zone("west").wait_log(&["WARN", "wrong_zone"]).await;
    federation.wait_export("east", "west", "orders").await;
    let service = federation.service_address("east", "orders", 9000).await;
    assert_eq!(say(service, "hello").await.unwrap(), "west hello");
}

#[tokio::test]
async fn an_expired_certificate_is_refused() {
    let mut bystanders = Bystanders::start().await;
    let leaf = bystanders.leaf("north", Validity::Expired);
    bystanders.start_north(&leaf);
    bystanders.wait_tunnel_refused("expired").await;
    bystanders.assert_undisturbed().await;
}

#[tokio::test]
async fn a_peer_without_a_certificate_is_refused() {
    let bystanders = Bystanders::start().await;
    let peer = Peer::connect(bystanders.federation.zone("west").listen, None).await;
    // In TLS 1.3 the client hears of the refusal only after its own side of the handshake.
    if let Ok(peer) = peer {
        let closed = tokio::time::timeout(PATIENCE, peer.connection.closed()).await;
        assert!(
            closed
                .unwrap()
                .to_string()
                .contains("cryptographic handshake failed")
        );
    }
    bystanders
        .wait_refused("west", "tunnel", "local", "no_certificate")
        .await;
    bystanders
        .federation
        .zone("west")
        .wait_log(&["WARN", "no_certificate"])
        .await;
    bystanders.assert_undisturbed().await;
}

#[tokio::test]
async fn garbage_before_and_after_the_handshake_is_refused() {
    let bystanders = Bystanders::start().await;
    let west = bystanders.federation.zone("west").listen;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for length in [1, 20, 1200, 60_000] {
        socket.send_to(&vec![0xa5; length], west).await.unwrap();
    }
    // A trusted peer whose control stream and streams hold nonsense.
    let leaf = bystanders.leaf("north", Validity::Current);
    let peer = Peer::connect(west, Some(&leaf)).await.unwrap();
    let mut control = peer.connection.open_uni().await.unwrap();
    control.write_all(&[0, 4, 0xff, 0xff, 0xff, 0xff]).await.unwrap();
    let closed = tokio::time::timeout(PATIENCE, peer.connection.closed()).await;
    closed.expect("a peer that sends garbage is dropped");
    bystanders
        .wait_refused("west", "tunnel", "local", "garbage")
        .await;
    bystanders
        .federation
        .zone("west")
        .wait_log(&["WARN", "garbage"])
        .await;
    bystanders.assert_undisturbed().await;
}

#[tokio::test]
async fn a_stream_header_that_is_too_long_or_unreadable_is_refused() {
    let bystanders = Bystanders::start().await;
    let leaf = bystanders.leaf("north", Validity::Current);
    let mut peer = Peer::connect(bystanders.federation.zone("west").listen, Some(&leaf))
        .await
        .unwrap();
    peer.hello().await.unwrap();
    let long = [vec![0xff, 0xff], vec![0; 20_000]].concat();
    let reply = peer.ask_raw(Bytes::from(long)).await.unwrap();
    assert_eq!(refusal(reply), Some(RefusalReason::HeaderTooLong));
    let reply = peer
        .ask_raw(Bytes::from_static(&[0, 3, 0xff, 0xff, 0xff]))
        .await
        .unwrap();
    assert_eq!(refusal(reply), Some(RefusalReason::BadHeader));
    // The tunnel itself goes on: one bad stream does not take the others with it.
    let reply = peer.ask(&connect("orders")).await.unwrap();
    assert!(matches!(reply.outcome, Some(Outcome::Ready(_))), "{reply:?}");
    for reason in ["header_too_long", "bad_header"] {
        bystanders.wait_refused("west", "stream", "local", reason).await;
        bystanders
            .federation
            .zone("west")
            .wait_log(&["WARN", reason])
            .await;
    }
    bystanders.assert_undisturbed().await;
}

#[tokio::test]
async fn a_gateway_whose_clock_is_hours_behind_is_told_of() {
    let bystanders = Bystanders::start().await;
    let west = bystanders.federation.zone("west");
    let leaf = bystanders.leaf("north", Validity::Current);
    let mut peer = Peer::connect(west.listen, Some(&leaf)).await.unwrap();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let behind = now - Duration::from_secs(2 * 3_600);
    peer.hello_at(u64::try_from(behind.as_millis()).unwrap())
        .await
        .unwrap();
    let check = || {
        let mut command = Command::new(program().unwrap());
        let output = command
            .args(["check", "--admin", &west.admin.to_string()])
            .output();
        String::from_utf8_lossy(&output.unwrap().stdout).into_owned()
    };
    until_true("check says so", PATIENCE, async || {
        check().contains("zone north: its clock is 2h behind this host's")
    })
    .await;
    // East's is right, and is not named.
    assert_eq!(check().matches("its clock is").count(), 1);
    bystanders.assert_undisturbed().await;
}

#[tokio::test]
async fn a_service_that_is_not_exported_to_the_caller_is_refused() {
    let bystanders = Bystanders::start().await;
    let leaf = bystanders.leaf("north", Validity::Current);
    let mut peer = Peer::connect(bystanders.federation.zone("west").listen, Some(&leaf))
        .await
        .unwrap();
    peer.hello().await.unwrap();
    assert_eq!(
        refusal(peer.ask(&connect("secret")).await.unwrap()),
        Some(RefusalReason::NotExported)
    );
    assert_eq!(
        refusal(peer.ask(&connect("nothing")).await.unwrap()),
        Some(RefusalReason::UnknownService)
    );
    for reason in ["not_exported", "unknown_service"] {
        bystanders.wait_refused("west", "stream", "local", reason).await;
        bystanders
            .federation
            .zone("west")
            .wait_log(&["WARN", reason])
            .await;
    }
    // For clients in east the name does not even exist.
    let answer = dns::ask(
        bystanders.federation.zone("east").dns,
        "secret.mesh.",
        RecordType::A,
    )
    .await
    .unwrap();
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    bystanders.assert_undisturbed().await;
}
