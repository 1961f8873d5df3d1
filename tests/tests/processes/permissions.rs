//! Permissions between real gateways: web may call orders and batch may not, wherever they ask, whatever a zone
//! claims, and as soon as a topology says so.
//!
//! Both run in east as one user, and are told apart by the loopback address that each has for itself.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use causeway_proto::tunnel::{
    Connect, RefusalReason, StreamHeader, stream_header::Kind, stream_reply::Outcome,
};
use causeway_tests::{
    authority::Validity,
    federation::{Federation, PATIENCE, Plan},
    http,
    instance::{Behaviour, Instance},
    measured::measured,
    peer::Peer,
    process::run,
    talk::{Client, say},
    wait::until_true,
};

const WEB: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 2, 0, 1));
const BATCH: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 2, 0, 2));

/// web and batch run in east, orders in west; north is there.
struct Shop {
    federation: Federation,
    /// Address at which a client in east finds orders.
    orders: SocketAddr,
    west: Instance,
    // Serve as long as the test runs.
    _web: Instance,
    _batch: Instance,
}

impl Shop {
    /// `orders` are further keys of that service, `permissions` those of the federation.
    async fn open(orders: &str, permissions: &str) -> Self {
        let (shop, names) = Self::laid_out(orders, permissions).await;
        shop.started(&names).await
    }

    async fn laid_out(orders: &str, permissions: &str) -> (Self, [&'static str; 3]) {
        let west = Instance::start("west", Behaviour::Name).await.unwrap();
        let at = |ip| SocketAddr::new(ip, 0);
        let web = Instance::start_at("web", Behaviour::Name, at(WEB)).await.unwrap();
        let batch = Instance::start_at("batch", Behaviour::Name, at(BATCH))
            .await
            .unwrap();
        let plan = Plan::new().zone("east").instance("web", web.address(), "{}");
        let plan = plan.instance("batch", batch.address(), "{}");
        let plan = plan
            .zone("north")
            .zone("west")
            .instance("orders", west.address(), "{}");
        let plan = plan.service("orders", &format!("port: 9000, protocol: tcp{orders}"));
        let plan = plan.service("web", "port: 9001, run_in: [east], allow: [\"*\"]");
        let plan = plan.service("batch", "port: 9002, allow: [\"*\"]");
        let plan = plan
            .permissions(permissions)
            .argument("--access-log")
            .argument("json");
        let federation = plan.prepare().await.unwrap();
        let shop = Self {
            federation,
            orders: SocketAddr::from(([127, 0, 0, 1], 0)),
            west,
            _web: web,
            _batch: batch,
        };
        (shop, ["east", "north", "west"])
    }

    async fn started(mut self, names: &[&str]) -> Self {
        for name in names {
            self.federation.start_zone(name).unwrap();
        }
        for name in names {
            self.federation.ready(name).await;
        }
        self.federation.wait_export("east", "west", "orders").await;
        self.orders = self.federation.service_address("east", "orders", 9000).await;
        self
    }

    async fn client(&self, source: IpAddr) -> Client {
        Client::connect_from(source, self.orders).await.unwrap()
    }

    async fn assert_refused(&self, source: IpAddr) {
        let asked = async {
            Client::connect_from(source, self.orders)
                .await?
                .say("hello")
                .await
        };
        let error = asked.await.unwrap_err();
        assert!(format!("{error:#}").contains("reset"), "{error:#}");
    }

    /// Edits the topology of one zone, and waits until it is in force there.
    async fn edit(&self, zone: &str, from: &str, to: &str) {
        let before = self.fingerprint(zone).await;
        let path = &self.federation.zone(zone).topology;
        let text = fs::read_to_string(path).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(path, text.replace(from, to)).unwrap();
        until_true("the topology is in force", PATIENCE, async || {
            self.fingerprint(zone).await != before
        })
        .await;
    }

    async fn fingerprint(&self, zone: &str) -> String {
        let answer = http::get(self.federation.zone(zone).admin, "/v1/topology")
            .await
            .unwrap();
        let page: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        page["items"][0]["fingerprint"].as_str().unwrap().to_owned()
    }

    async fn wait_forbidden(&self, zone: &str, role: &str, rule: &str, result: &str) {
        let labels = [
            ("role", role),
            ("service", "orders"),
            ("rule", rule),
            ("result", result),
        ];
        let zone = self.federation.zone(zone);
        zone.wait_metric("causeway_forbidden_total", &labels, 1.0).await;
    }
}

async fn assert_closed(client: &mut Client) {
    // The line that is said may be what meets the reset.
    let answer = client.say("anybody there?").await;
    assert!(
        answer.as_ref().is_err() || answer.as_ref().is_ok_and(String::is_empty),
        "{answer:?}"
    );
}

#[tokio::test]
async fn web_may_call_and_batch_may_not() {
    let shop = Shop::open(", allow: [web@east]", "default: deny").await;
    let mut web = shop.client(WEB).await;
    assert_eq!(web.say("hello").await.unwrap(), "west hello");
    shop.assert_refused(BATCH).await;
    let north = shop.federation.service_address("north", "orders", 9000).await;
    say(north, "hello").await.unwrap_err();

    let (east, west) = (shop.federation.zone("east"), shop.federation.zone("west"));
    shop.wait_forbidden("east", "egress", "allow", "refused").await;
    shop.wait_forbidden("north", "egress", "allow", "refused").await;
    east.wait_log(&["WARN", "may not call", "batch@east", "services.orders.allow"])
        .await;
    let line = [
        "\"role\":\"egress\"",
        "\"outcome\":\"forbidden\"",
        "\"caller\":\"batch@east\"",
    ];
    east.wait_log(&[&line[..], &["\"rule\":\"services.orders.allow\""]].concat())
        .await;
    drop(web);
    let line = [
        "\"outcome\":\"served\"",
        "\"caller\":\"web@east\"",
        "\"rule\":\"services.orders.allow[0]\"",
    ];
    east.wait_log(&[&line[..], &["\"role\":\"egress\""]].concat())
        .await;
    west.wait_log(&[&line[..], &["\"role\":\"ingress\""]].concat())
        .await;
    assert_eq!(shop.west.lines(), ["hello"]);

    let admin = east.admin.to_string();
    let told = run(["explain", "orders", "--caller", "web", "--admin", &admin]).unwrap();
    assert!(
        told.contains("web@east may call: services.orders.allow[0]"),
        "{told}"
    );
    let refused = run(["explain", "orders", "--caller", "batch", "--admin", &admin]).unwrap_err();
    assert!(format!("{refused:#}").contains("79"), "{refused:#}");
}

#[tokio::test]
async fn a_changed_topology_closes_what_is_open_and_leaves_the_rest() {
    let shop = Shop::open(", allow: [web, batch]", "default: allow").await;
    let (mut web, mut batch) = (shop.client(WEB).await, shop.client(BATCH).await);
    assert_eq!(web.say("one").await.unwrap(), "west one");
    assert_eq!(batch.say("two").await.unwrap(), "west two");

    // Only the zone that serves knows of the change: it decides.
    let written = Instant::now();
    shop.edit(
        "west",
        ", allow: [web, batch]",
        ", allow: [web, batch], deny: [batch]",
    )
    .await;
    let begun = Instant::now();
    assert_closed(&mut batch).await;
    let took = begun.elapsed();
    measured(&format!(
        "what a topology forbids was closed {took:?} after it was seen in force, {:?} after its file was written",
        written.elapsed()
    ));
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!(web.say("three").await.unwrap(), "west three");
    shop.wait_forbidden("west", "ingress", "deny", "closed").await;
    let west = shop.federation.zone("west");
    west.wait_log(&[
        "WARN",
        "closed a connection",
        "batch@east",
        "east/gw1",
        "services.orders.deny[0]",
    ])
    .await;
    let line = [
        "\"outcome\":\"forbidden\"",
        "\"caller\":\"batch@east\"",
        "\"bytes_up\":4",
    ];
    west.wait_log(&line).await;
    // east still permits, so it asks, and is told.
    shop.assert_refused(BATCH).await;
    shop.wait_forbidden("west", "ingress", "deny", "refused").await;

    // Now the zone of the caller: its gateway closes what its own topology forbids.
    shop.edit("east", ", allow: [web, batch]", ", allow: [batch]")
        .await;
    assert_closed(&mut web).await;
    shop.wait_forbidden("east", "egress", "allow", "closed").await;
}

#[tokio::test]
async fn a_dry_run_lets_everything_through_and_says_what_it_would_refuse() {
    let shop = Shop::open(", allow: [web]", "default: deny, dry_run: true").await;
    let mut batch = shop.client(BATCH).await;
    assert_eq!(batch.say("hello").await.unwrap(), "west hello");
    for (zone, role) in [("east", "egress"), ("west", "ingress")] {
        shop.wait_forbidden(zone, role, "allow", "dry_run").await;
        let zone = shop.federation.zone(zone);
        zone.wait_log(&["INFO", "dry run", "batch@east", "services.orders.allow"])
            .await;
        let ready = http::get(zone.admin, "/readyz?verbose").await.unwrap().body;
        assert!(
            ready.contains("[warn] clients: permissions:") && ready.contains("dry run: 1"),
            "{ready}"
        );
    }
    shop.edit("west", ", dry_run: true", "").await;
    assert_closed(&mut batch).await;
}

/// A stream as a peer of north asks for it, saying that this is who calls.
fn claim(service: &str, identity: &str) -> StreamHeader {
    StreamHeader {
        kind: Some(Kind::Connect(Connect {
            service: "orders".to_owned(),
            caller: service.to_owned(),
            caller_identity: identity.to_owned(),
            attempt: 1,
            ..Connect::default()
        })),
    }
}

#[tokio::test]
async fn a_gateway_that_speaks_for_callers_of_another_zone_is_refused_and_named() {
    let (shop, _) = Shop::laid_out(", allow: [web, batch@east, batch@north]", "default: deny").await;
    // north is played by a liar, who has a valid certificate.
    let shop = shop.started(&["east", "west"]).await;
    let mut web = shop.client(WEB).await;
    assert_eq!(web.say("before").await.unwrap(), "west before");
    let west = shop.federation.zone("west");
    let leaf = shop
        .federation
        .authority()
        .leaf("north", "gw1", Validity::Current)
        .unwrap();
    let mut liar = Peer::connect(west.listen, Some(&leaf)).await.unwrap();
    liar.hello().await.unwrap();
    let reason = async |service: &str, identity: &str| match liar
        .ask(&claim(service, identity))
        .await
        .unwrap()
        .outcome
    {
        Some(Outcome::Refusal(refusal)) => Some(refusal.reason()),
        _ => None,
    };
    assert_eq!(reason("web", "").await, Some(RefusalReason::Unvouched));
    let of_east = "spiffe://test.internal/zone/east/app/web";
    assert_eq!(reason("batch", of_east).await, Some(RefusalReason::Unvouched));
    assert_eq!(reason("", "").await, Some(RefusalReason::Forbidden));
    assert_eq!(reason("other", "").await, Some(RefusalReason::Forbidden));
    // What its zone may say is believed.
    assert_eq!(reason("batch", "").await, None);

    for (reason, rule) in [
        ("unvouched", "run_in"),
        ("unvouched", "identity"),
        ("forbidden", "allow"),
    ] {
        let labels = [("side", "local"), ("reason", reason)];
        west.wait_metric("causeway_stream_refused_total", &labels, 1.0)
            .await;
        shop.wait_forbidden("west", "ingress", rule, "refused").await;
        west.wait_log(&["WARN", reason, "north/gw1"]).await;
    }
    west.wait_log(&["WARN", "may not vouch for web@north", "services.web.run_in"])
        .await;
    west.wait_log(&[
        "\"outcome\":\"unvouched\"",
        "\"caller\":\"web@north\"",
        "\"peer\":\"north/gw1\"",
    ])
    .await;
    assert_eq!(web.say("after").await.unwrap(), "west after");
}

#[tokio::test]
async fn a_zone_that_claims_a_service_that_may_not_run_there_gets_none_of_its_clients() {
    let own = ", run_in: [west], failover: [{ zone: north }, { zone: west }]";
    let (shop, names) = Shop::laid_out(own, "default: allow").await;
    let stolen = Instance::start("north", Behaviour::Name).await.unwrap();
    // north runs a topology of its own, by which it has orders, and says so to everybody.
    let path = &shop.federation.zone("north").topology;
    let text = fs::read_to_string(path).unwrap();
    let text = text.replace("run_in: [west], ", "");
    let claim = format!(
        "    instances:\n      - {{ service: orders, address: {} }}\n  west:",
        stolen.address()
    );
    fs::write(path, text.replacen("  west:", &claim, 1)).unwrap();
    let shop = shop.started(&names).await;
    shop.federation.wait_export("east", "north", "orders").await;
    for _ in 0..5 {
        assert_eq!(say(shop.orders, "hello").await.unwrap(), "west hello");
    }
    let admin = shop.federation.zone("east").admin.to_string();
    let told = run(["explain", "orders", "--admin", &admin]).unwrap();
    let north = told
        .lines()
        .find(|line| line.contains("gateway north/gw1"))
        .unwrap();
    assert!(north.contains("run_in leaves it out"), "{told}");
    assert!(stolen.received().is_empty());
}
