//! An instance is drained, through real gateways: nothing new goes to it from any zone, what is open at it finishes until its deadline, and
//! a restart changes nothing about it.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use causeway_tests::{
    federation::{Federation, PATIENCE, Plan},
    http,
    process::run,
    wait::until_true,
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

const PORT: u16 = 9000;
/// Connections that show where new ones go: of as many that go to either of two instances at random, all go to one by chance once in a million.
const MANY: usize = 20;

/// A server that says its name to whoever connects, and then what it is told.
async fn server(name: u8) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut byte = [name];
                while socket.write_all(&byte).await.is_ok() {
                    if socket.read_exact(&mut byte).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

struct Scene {
    federation: Federation,
    a: SocketAddr,
}

impl Scene {
    async fn start() -> Self {
        let (a, b) = (server(b'a').await, server(b'b').await);
        let plan = Plan::new().zone("east").zone("west");
        let plan = plan
            .instance("orders", a, "{}")
            .instance("orders", b, "{}")
            .service("orders", &format!("port: {PORT}"));
        let federation = plan.start().await.unwrap();
        federation.wait_export("east", "west", "orders").await;
        Self { federation, a }
    }

    /// A connection of a client in `zone`, and the name of who serves it.
    async fn connect(&self, zone: &str) -> (TcpStream, char) {
        let orders = self.federation.service_address(zone, "orders", PORT).await;
        let mut socket = TcpStream::connect(orders).await.unwrap();
        let name = socket.read_u8().await.unwrap();
        (socket, char::from(name))
    }

    async fn served_by(&self, zone: &str) -> BTreeSet<char> {
        let mut names = BTreeSet::new();
        for _ in 0..MANY {
            names.insert(self.connect(zone).await.1);
        }
        names
    }

    fn at(&self, zone: &str, arguments: &[&str]) -> anyhow::Result<String> {
        let admin = self.federation.zone(zone).admin.to_string();
        run(arguments.iter().copied().chain(["--admin", &admin]))
    }

    fn instance(&self) -> String {
        format!("orders/{}", self.a)
    }

    /// Numbers of instances and of healthy ones that `east` knows of `west`.
    async fn exported(&self) -> Option<(u64, u64)> {
        let page = http::get(self.federation.zone("east").admin, "/v1/exports")
            .await
            .ok()?;
        let page: Value = serde_json::from_str(&page.body).ok()?;
        let export = page["items"]
            .as_array()?
            .iter()
            .find(|item| item["zone"] == "west")?;
        Some((export["instances"].as_u64()?, export["healthy"].as_u64()?))
    }

    async fn wait_exported(&self, counts: (u64, u64)) {
        let what = format!("east knows of {counts:?}");
        until_true(&what, PATIENCE, async || self.exported().await == Some(counts)).await;
    }
}

async fn shows_the_drain(scene: &Scene) {
    let listed = scene.at("west", &["get", "instances"]).unwrap();
    assert!(listed.contains("healthy, drains by 20"), "{listed}");
    let checked = run([
        "check",
        "--admin",
        &scene.federation.zone("west").admin.to_string(),
    ]);
    let checked = checked.unwrap_or_else(|error| format!("{error:#}"));
    assert!(checked.contains("drained: nothing new goes to it"), "{checked}");
    let metrics = http::get(scene.federation.zone("west").admin, "/metrics")
        .await
        .unwrap()
        .body;
    assert!(
        metrics.contains("causeway_instances_drained{service=\"orders\"} 1"),
        "{metrics}"
    );
}

async fn refuses_to_drain_the_last(scene: &Scene) {
    let page = http::get(scene.federation.zone("west").admin, "/v1/instances")
        .await
        .unwrap();
    let page: Value = serde_json::from_str(&page.body).unwrap();
    let mut others = page["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["id"].as_str().unwrap());
    let other = others.find(|id| *id != scene.a.to_string()).unwrap();
    let other = format!("orders/{other}");
    let refused = format!("{:#}", scene.at("west", &["drain", &other]).unwrap_err());
    assert!(
        refused.contains("is the last instance of its service in this zone"),
        "{refused}"
    );
    let unknown = scene.at("west", &["drain", "orders/10.9.9.9:80"]).unwrap_err();
    assert!(
        format!("{unknown:#}").contains("no instance `orders/10.9.9.9:80` is registered"),
        "{unknown:#}"
    );
}

async fn ends_what_is_open_at_the_deadline(scene: &Scene, mut open: Vec<TcpStream>) {
    for socket in &mut open {
        socket.write_all(b"x").await.unwrap();
        assert_eq!(socket.read_u8().await.unwrap(), b'x');
    }
    for mut socket in open {
        let ended = tokio::time::timeout(PATIENCE + Duration::from_secs(20), socket.read_u8()).await;
        assert!(ended.expect("it ends at the deadline").is_err());
    }
    let metrics = http::get(scene.federation.zone("west").admin, "/metrics")
        .await
        .unwrap()
        .body;
    let moved = "causeway_followed_total{service=\"orders\",why=\"draining\"} 2";
    assert!(metrics.contains(moved), "{metrics}");
}

#[tokio::test]
async fn a_drained_instance_finishes_what_it_has_and_gets_nothing_new_from_any_zone() {
    let mut scene = Scene::start().await;
    // One of a client of its own zone, and one that another zone has sent.
    let mut open = Vec::new();
    for zone in ["west", "east"] {
        loop {
            let (socket, name) = scene.connect(zone).await;
            if name == 'a' {
                open.push(socket);
                break;
            }
        }
    }
    let said = scene
        .at("west", &["drain", &scene.instance(), "--deadline", "20s"])
        .unwrap();
    assert!(
        said.contains("nothing new goes to it") && said.contains("on they are closed"),
        "{said}"
    );
    scene.wait_exported((2, 1)).await;
    for zone in ["west", "east"] {
        assert_eq!(scene.served_by(zone).await, BTreeSet::from(['b']), "from {zone}");
    }
    shows_the_drain(&scene).await;
    refuses_to_drain_the_last(&scene).await;
    ends_what_is_open_at_the_deadline(&scene, open).await;
    // A restart does not forget it, and `undrain` brings it back.
    scene.federation.zone_mut("west").kill().unwrap();
    scene.federation.start_zone("west").unwrap();
    scene.federation.ready("west").await;
    scene.wait_exported((2, 1)).await;
    assert_eq!(scene.served_by("west").await, BTreeSet::from(['b']));
    let said = scene.at("west", &["undrain", &scene.instance()]).unwrap();
    assert!(said.contains("serves again"), "{said}");
    scene.wait_exported((2, 2)).await;
    for zone in ["west", "east"] {
        assert_eq!(
            scene.served_by(zone).await,
            BTreeSet::from(['a', 'b']),
            "from {zone}"
        );
    }
}

#[tokio::test]
async fn the_last_instance_is_drained_by_force_and_its_clients_go_nowhere() {
    let scene = Scene::start().await;
    let page = http::get(scene.federation.zone("west").admin, "/v1/instances")
        .await
        .unwrap();
    let page: Value = serde_json::from_str(&page.body).unwrap();
    for item in page["items"].as_array().unwrap() {
        let name = format!("orders/{}", item["id"].as_str().unwrap());
        scene.at("west", &["drain", &name, "--force"]).unwrap();
    }
    scene.wait_exported((2, 0)).await;
    let explained = http::get(scene.federation.zone("east").admin, "/v1/explain?service=orders").await;
    let explained = explained.unwrap().body;
    assert!(
        explained.contains("no instance with the tags is healthy"),
        "{explained}"
    );
}
