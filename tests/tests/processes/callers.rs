//! Callers that are known by their own certificate, between real gateways: the TLS listener of east takes them, to a service
//! of east itself and to one of west.

use std::{
    fs,
    net::TcpListener,
    time::{Duration, Instant},
};

use causeway_tests::{
    authority::{Authority, Leaf, Validity},
    federation::{Federation, PATIENCE, Plan, TRUST_DOMAIN},
    http,
    instance::{Behaviour, Instance},
    measured::measured,
    process::run,
    talk::{Client, say},
    wait::until_true,
};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

const WEB: &str = "spiffe://test.internal/app/web";
const BATCH: &str = "spiffe://test.internal/app/batch";
/// Of the certificate that a test revokes.
const SERIAL: u64 = 0x7e57;

type Tls = Client<TlsStream<TcpStream>>;

/// orders run in west, stock in east; web may call both.
struct Shop {
    federation: Federation,
    // Serve as long as the test runs; two of east, so that the kernel's word on this user names nobody.
    _instances: [Instance; 3],
}

impl Shop {
    async fn open() -> Self {
        let shop = Self::laid_out().await;
        shop.started().await
    }

    async fn laid_out() -> Self {
        let start = async |name| Instance::start(name, Behaviour::Name).await.unwrap();
        let (west, east, tools) = (start("west").await, start("east").await, start("tools").await);
        let plan = Plan::new().zone("east").instance("stock", east.address(), "{}");
        let plan = plan.instance("tools", tools.address(), "{}").zone("west");
        let plan = plan.instance("orders", west.address(), "{}");
        let allow = format!("allow: [\"{WEB}\"]");
        let plan = plan.service("orders", &format!("port: 9000, protocol: tcp, {allow}"));
        let plan = plan.service("stock", &format!("port: 9001, {allow}"));
        let plan = plan.service("tools", "port: 9002, allow: []");
        let plan = plan.takes_callers().argument("--access-log").argument("json");
        Self {
            federation: plan.prepare().await.unwrap(),
            _instances: [west, east, tools],
        }
    }

    async fn started(mut self) -> Self {
        for name in ["east", "west"] {
            self.federation.start_zone(name).unwrap();
        }
        for name in ["east", "west"] {
            self.federation.ready(name).await;
        }
        self.federation.wait_export("east", "west", "orders").await;
        self
    }

    /// A certificate with this SPIFFE id.
    fn leaf(&self, id: &str) -> Leaf {
        leaf(self.federation.authority(), id)
    }

    async fn call(&self, name: &str, leaf: Option<&Leaf>) -> anyhow::Result<Tls> {
        Client::call(self.federation.zone("east").callers, name, leaf).await
    }

    /// Refusal as the caller hears it; over TCP an alert is not lost, since the gateway waits for the client to go.
    async fn refusal(&self, name: &str, leaf: Option<&Leaf>) -> String {
        let asked = async { self.call(name, leaf).await?.say("hello").await };
        format!("{:#}", asked.await.unwrap_err())
    }

    async fn edit(&self, zone: &str, from: &str, to: &str) {
        let path = &self.federation.zone(zone).topology;
        let text = fs::read_to_string(path).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(path, text.replace(from, to)).unwrap();
    }
}

fn leaf(authority: &Authority, id: &str) -> Leaf {
    let mut wish = authority.wish("east", "gw1");
    wish.uris = vec![id.to_owned()];
    wish.purposes = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    wish.serial = (id == BATCH).then_some(SERIAL);
    authority.sign(&wish).unwrap()
}

/// Talks until the gateway closes the connection.
async fn wait_closed(client: &mut Tls) {
    let begun = Instant::now();
    while client.say("still").await.is_ok_and(|answer| !answer.is_empty()) {
        assert!(begun.elapsed() < PATIENCE, "it stays open");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_caller_gets_through_by_its_certificate_in_its_own_zone_and_another() {
    let shop = Shop::open().await;
    let (web, batch) = (shop.leaf(WEB), shop.leaf(BATCH));
    let mut near = shop.call("stock.mesh", Some(&web)).await.unwrap();
    assert_eq!(near.say("hello").await.unwrap(), "east hello");
    let mut far = shop.call("orders.mesh", Some(&web)).await.unwrap();
    assert_eq!(far.say("hello").await.unwrap(), "west hello");
    let mut there = shop.call("orders.west.zone.mesh", Some(&web)).await.unwrap();
    assert_eq!(there.say("hello").await.unwrap(), "west hello");

    // Another identity is refused, and so is who comes without TLS.
    for name in ["stock.mesh", "orders.mesh"] {
        let told = shop.refusal(name, Some(&batch)).await;
        assert!(told.contains("reset"), "{told}");
    }
    let orders = shop.federation.service_address("east", "orders", 9000).await;
    say(orders, "hello").await.unwrap_err();
    let east = shop.federation.zone("east");
    let caller = format!("{BATCH}@east");
    east.wait_log(&[
        "WARN",
        "may not call",
        &caller,
        "by_certificate",
        "services.stock.allow",
    ])
    .await;

    // Who shows no certificate, or one that will not do, hears why.
    let stranger = leaf(&Authority::new(TRUST_DOMAIN).unwrap(), WEB);
    let expired = shop
        .federation
        .authority()
        .leaf("east", "gw1", Validity::Expired)
        .unwrap();
    let elsewhere = shop.leaf("spiffe://test.internal/zone/west/app/web");
    for (leaf, word, alert) in [
        (None, "no_certificate", "CertificateRequired"),
        (Some(&stranger), "unknown_issuer", "UnknownCA"),
        (Some(&expired), "expired", "CertificateExpired"),
        (Some(&elsewhere), "wrong_zone", "CertificateUnknown"),
    ] {
        let told = shop.refusal("orders.mesh", leaf).await;
        assert!(told.contains(alert), "{word}: {told}");
        east.wait_metric("causeway_tls_refused_total", &[("reason", word)], 1.0)
            .await;
        east.wait_log(&["WARN", "refused a client of the TLS listener", word, "hint"])
            .await;
    }
    let told = shop.refusal("nobody.mesh", Some(&web)).await;
    assert!(told.contains("UnrecognisedName"), "{told}");

    // The access log of both ends names the caller.
    for client in [near, far, there] {
        client.end().await.unwrap();
    }
    let line = [
        "\"outcome\":\"served\"".to_owned(),
        format!("\"caller\":\"{WEB}@east\""),
        "\"rule\":\"services.orders.allow[0]\"".to_owned(),
    ];
    let line: Vec<&str> = line.iter().map(String::as_str).collect();
    east.wait_log(&[&line[..], &["\"role\":\"egress\""]].concat())
        .await;
    let west = shop.federation.zone("west");
    west.wait_log(&[&line[..], &["\"role\":\"ingress\""]].concat())
        .await;

    let admin = east.admin.to_string();
    let told = run(["explain", "orders", "--caller", WEB, "--admin", &admin]).unwrap();
    assert!(told.contains("may call: services.orders.allow[0]"), "{told}");
    run(["explain", "orders", "--caller", BATCH, "--admin", &admin]).unwrap_err();
    let topology = shop.federation.zone("east").topology.display().to_string();
    let valid = run(["validate", &topology]).unwrap();
    assert!(!valid.contains("not yet in force"), "{valid}");
}

#[tokio::test]
async fn a_revoked_certificate_ends_its_connections_and_a_renewed_identity_ends_none() {
    let shop = Shop::open().await;
    let everybody = "allow: [\"spiffe://test.internal/app/*\"]";
    let east = shop.federation.zone("east");
    for zone in ["east", "west"] {
        shop.edit(zone, &format!("allow: [\"{WEB}\"]"), everybody).await;
    }
    let (web, batch) = (shop.leaf(WEB), shop.leaf(BATCH));
    until_true("batch may call", PATIENCE, async || {
        let asked = async { shop.call("orders.mesh", Some(&batch)).await?.say("hello").await };
        asked.await.is_ok()
    })
    .await;
    let mut good = shop.call("orders.mesh", Some(&web)).await.unwrap();
    let mut bad = shop.call("orders.mesh", Some(&batch)).await.unwrap();
    assert_eq!(good.say("one").await.unwrap(), "west one");
    assert_eq!(bad.say("two").await.unwrap(), "west two");
    let revocations = shop.federation.authority().revocations(SERIAL).unwrap();
    fs::write(east.identity.join("crl.pem"), revocations).unwrap();
    let begun = Instant::now();
    wait_closed(&mut bad).await;
    let took = begun.elapsed();
    measured(&format!(
        "a revoked caller was cut off {took:?} after the list was written"
    ));
    east.wait_log(&["WARN", "closed a connection", "revoked", BATCH])
        .await;
    east.wait_log(&["\"outcome\":\"revoked\"", &format!("\"caller\":\"{BATCH}@east\"")])
        .await;
    let told = shop.refusal("orders.mesh", Some(&batch)).await;
    assert!(told.contains("CertificateRevoked"), "{told}");

    // A renewed identity is shown from the next handshake on, and what is open stays.
    let before = good.server().unwrap();
    let authority = shop.federation.authority();
    let own = authority.leaf("east", "gw1", Validity::Current).unwrap();
    shop.federation
        .set_identity("east", &own, authority.root_pem())
        .unwrap();
    until_true("the renewed certificate is shown", PATIENCE, async || {
        let again = shop.call("orders.mesh", Some(&web)).await;
        again.is_ok_and(|client| client.server() != Some(before.clone()))
    })
    .await;
    assert_eq!(good.say("three").await.unwrap(), "west three");
}

#[tokio::test]
async fn a_permission_that_is_withdrawn_closes_what_is_open_at_either_end() {
    let shop = Shop::open().await;
    let web = shop.leaf(WEB);
    let allowed = format!("allow: [\"{WEB}\"]");
    for (number, zone) in ["west", "east"].into_iter().enumerate() {
        let mut client = shop.call("orders.mesh", Some(&web)).await.unwrap();
        assert_eq!(client.say("one").await.unwrap(), "west one");
        shop.edit(zone, &allowed, "allow: []").await;
        wait_closed(&mut client).await;
        let role = ["ingress", "egress"][number];
        let labels = [("role", role), ("service", "orders"), ("result", "closed")];
        shop.federation
            .zone(zone)
            .wait_metric("causeway_forbidden_total", &labels, 1.0)
            .await;
        shop.edit(zone, "allow: []", &allowed).await;
        until_true("web may call again", PATIENCE, async || {
            let asked = async { shop.call("orders.mesh", Some(&web)).await?.say("hello").await };
            asked.await.is_ok()
        })
        .await;
    }
}

#[tokio::test]
async fn a_listener_that_cannot_be_bound_is_told_and_bound_once_it_can() {
    let shop = Shop::laid_out().await;
    let taken = TcpListener::bind(shop.federation.zone("east").callers).unwrap();
    let shop = shop.started().await;
    let admin = shop.federation.zone("east").admin;
    let ready = async || http::get(admin, "/readyz?verbose").await.unwrap().body;
    until_true("it is told", PATIENCE, async || {
        let told = ready().await;
        told.contains("[warn] clients: listeners:") && told.contains("the TLS listener")
    })
    .await;
    drop(taken);
    until_true("it listens", PATIENCE, async || {
        ready().await.contains("[ok] clients: listeners")
    })
    .await;
    let web = shop.leaf(WEB);
    let mut client = shop.call("stock.mesh", Some(&web)).await.unwrap();
    assert_eq!(client.say("hello").await.unwrap(), "east hello");
}
