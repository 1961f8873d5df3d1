//! Requests by who makes them, between real gateways. Permissions by method and path: web may read what lies below /api and nothing else, on
//! a connection that stays open, and the zone that serves decides whatever the one that calls goes by. Routes by caller.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use causeway_tests::{
    federation::{Federation, PATIENCE, Plan},
    http,
    instance::{Behaviour, Instance},
    process::run,
    wait::until_true,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpSocket, TcpStream},
};

const WEB: Ipv4Addr = Ipv4Addr::new(127, 2, 0, 7);
const RULE: &str = "{ service: web, methods: [GET], path_prefix: /api }";

/// A client's connection that stays open.
struct KeptClient(BufReader<TcpStream>);

/// Status of an answer, and its `causeway-reason`.
type Told = (u16, Option<String>);

impl KeptClient {
    async fn connect(service: SocketAddr) -> Self {
        Self::connect_from(WEB, service).await
    }

    async fn connect_from(source: Ipv4Addr, service: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from((source, 0))).unwrap();
        Self(BufReader::new(socket.connect(service).await.unwrap()))
    }

    async fn ask(&mut self, method: &str, path: &str) -> Told {
        let head = format!("{method} {path} HTTP/1.1\r\nHost: orders.mesh\r\nContent-Length: 0\r\n\r\n");
        self.0.write_all(head.as_bytes()).await.unwrap();
        let (mut status, mut reason, mut length) = (0, None, 0);
        loop {
            let mut line = String::new();
            let read = tokio::time::timeout(PATIENCE, self.0.read_line(&mut line)).await;
            assert!(read.unwrap().unwrap() > 0, "the connection has ended");
            let line = line.trim().to_ascii_lowercase();
            match line.split_once(": ") {
                _ if line.is_empty() => break,
                Some(("content-length", value)) => length = value.parse().unwrap(),
                Some(("causeway-reason", value)) => reason = Some(value.to_owned()),
                None => status = line.split(' ').nth(1).unwrap().parse().unwrap(),
                Some(_) => {}
            }
        }
        self.0.read_exact(&mut vec![0; length]).await.unwrap();
        (status, reason)
    }
}

fn forbidden() -> Told {
    (403, Some("forbidden".to_owned()))
}

/// web runs in east, orders in `home`.
async fn federation(orders: &Instance, web: &Instance, home: &str) -> Federation {
    let plan = Plan::new().zone("east").instance("web", web.address(), "{}");
    let plan = match home {
        "east" => plan.instance("orders", orders.address(), "{}").zone("west"),
        _ => plan.zone(home).instance("orders", orders.address(), "{}"),
    };
    let plan = plan
        .service("orders", &format!("port: 9000, protocol: http, allow: [{RULE}]"))
        .service("web", "port: 9001, allow: [\"*\"]")
        .argument("--access-log")
        .argument("json");
    let federation = plan.start().await.unwrap();
    if home != "east" {
        federation.wait_export("east", home, "orders").await;
    }
    federation
}

async fn instances() -> (Instance, Instance) {
    let orders = Instance::start("orders", Behaviour::Http).await.unwrap();
    let at = SocketAddr::new(IpAddr::V4(WEB), 0);
    let web = Instance::start_at("web", Behaviour::Name, at).await.unwrap();
    (orders, web)
}

fn is_told_of(orders: &Instance, what: &str) -> bool {
    let received = orders.received();
    let mut all = received.iter().map(|one| String::from_utf8_lossy(&one.bytes));
    all.any(|text| text.contains(what))
}

#[tokio::test]
async fn a_caller_makes_the_requests_it_may_and_no_others() {
    let (orders, web) = instances().await;
    let federation = federation(&orders, &web, "east").await;
    let east = federation.zone("east");
    let mut client = KeptClient::connect(federation.service_address("east", "orders", 9000).await).await;
    for _ in 0..2 {
        assert_eq!(client.ask("GET", "/api/read").await, (200, None));
        assert_eq!(client.ask("POST", "/api/write").await, forbidden());
        assert_eq!(client.ask("GET", "/admin").await, forbidden());
        assert_eq!(client.ask("GET", "/api/../admin").await.0, 400);
    }
    assert!(is_told_of(&orders, "/api/read") && !is_told_of(&orders, "/api/write"));
    assert!(!is_told_of(&orders, "/admin"));
    let line = ["\"outcome\":\"forbidden\"", "\"caller\":\"web@east\""];
    east.wait_log(&[&line[..], &["\"rule\":\"services.orders.allow\""]].concat())
        .await;
    let line = ["\"outcome\":\"served\"", "\"caller\":\"web@east\""];
    east.wait_log(&[&line[..], &["\"rule\":\"services.orders.allow[0]\""]].concat())
        .await;

    let admin = east.admin.to_string();
    let explain = ["explain", "orders", "--admin", &admin, "--caller", "web"];
    let may = run([&explain[..], &["--path", "/api/x"]].concat()).unwrap();
    assert!(
        may.contains("web@east may call: services.orders.allow[0] allows `web: GET of /api and below`"),
        "{may}"
    );
    run([&explain[..], &["--path", "/api/x", "--method", "POST"]].concat()).unwrap_err();
    let open = run(explain).unwrap();
    assert!(open.contains("it depends on the request"), "{open}");
}

#[tokio::test]
async fn the_zone_that_serves_decides_about_each_request() {
    let (orders, web) = instances().await;
    let federation = federation(&orders, &web, "west").await;
    let west = federation.zone("west");
    let mut client = KeptClient::connect(federation.service_address("east", "orders", 9000).await).await;
    assert_eq!(client.ask("GET", "/api/read").await, (200, None));
    assert_eq!(client.ask("POST", "/api/write").await, forbidden());

    // Only the zone that serves knows of the change.
    let generation = async || {
        let answer = http::get(west.admin, "/v1/topology").await.unwrap();
        let page: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        page["items"][0]["fingerprint"].as_str().unwrap().to_owned()
    };
    let before = generation().await;
    let text = fs::read_to_string(&west.topology).unwrap();
    assert!(text.contains("path_prefix: /api }"), "{text}");
    fs::write(
        &west.topology,
        text.replace("path_prefix: /api }", "path: /api/read }"),
    )
    .unwrap();
    until_true("the topology is in force", PATIENCE, async || {
        generation().await != before
    })
    .await;
    assert_eq!(client.ask("GET", "/api/read").await, (200, None));
    assert_eq!(client.ask("GET", "/api/secret").await, forbidden());
    assert_eq!(
        client.ask("GET", "/api/read").await,
        (200, None),
        "the client's connection stays"
    );
    assert!(is_told_of(&orders, "/api/read") && !is_told_of(&orders, "/api/secret"));
    let line = [
        "\"role\":\"ingress\"",
        "\"outcome\":\"forbidden\"",
        "\"caller\":\"web@east\"",
    ];
    west.wait_log(&[&line[..], &["\"rule\":\"services.orders.allow\""]].concat())
        .await;
}

#[tokio::test]
async fn a_route_for_a_caller_rules_the_requests_of_that_caller() {
    let (orders, web) = instances().await;
    let routes = "[{ name: tester, match: { caller: web@east }, answer: { status: 203 } }, \
        { match: { caller: [anonymous, batch], path_prefix: /closed }, answer: { status: 410 } }]";
    let plan = Plan::new().zone("east").instance("web", web.address(), "{}");
    let plan = plan
        .instance("orders", orders.address(), "{}")
        .service("orders", &format!("port: 9000, protocol: http, routes: {routes}"))
        .service("web", "port: 9001")
        .argument("--access-log")
        .argument("json");
    let federation = plan.start().await.unwrap();
    let east = federation.zone("east");
    let address = federation.service_address("east", "orders", 9000).await;
    let mut client = KeptClient::connect(address).await;
    assert_eq!(client.ask("GET", "/closed").await.0, 203);
    // Nobody knows who that is.
    let mut other = KeptClient::connect_from(Ipv4Addr::LOCALHOST, address).await;
    assert_eq!(other.ask("GET", "/closed").await.0, 410);
    assert_eq!(other.ask("GET", "/open").await, (200, None));
    east.wait_log(&["\"route\":\"tester\"", "\"caller\":\"web@east\""])
        .await;

    let admin = east.admin.to_string();
    let explain = ["explain", "orders", "--admin", &admin, "--path", "/closed"];
    let told = run([&explain[..], &["--caller", "web"]].concat()).unwrap();
    assert!(
        told.contains("by tester the gateway answers itself: status 203"),
        "{told}"
    );
    let told = run([&explain[..], &["--caller", "batch"]].concat()).unwrap();
    assert!(
        told.contains("the caller is not web@east") && told.contains("status 410"),
        "{told}"
    );
}
