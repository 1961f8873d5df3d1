//! Open connections that follow, through real gateways: what failed over comes back once its own zone serves again, if its
//! service says after how long, and not all at once.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use causeway_tests::{
    federation::{Federation, PATIENCE, Plan},
    instance::{Behaviour, Instance},
    process,
    talk::Client,
    wait::until_true,
};
use tokio::task::JoinHandle;

const CLIENTS: usize = 10;
const LINGER: Duration = Duration::from_secs(3);
/// Time for which the own zone does not serve.
const FAILOVER: Duration = Duration::from_secs(12);
/// Pause of a client between two lines.
const BETWEEN: Duration = Duration::from_millis(20);
/// Ten connections end at two a second: the last comes 4.5 s after the first.
const LEAST_SPREAD: Duration = Duration::from_secs(4);

/// Course of one client: who served it from when on.
type Course = Arc<Mutex<Vec<(String, Instant)>>>;

/// Client that talks all the time over one connection, and makes another when that ends.
struct Talker {
    course: Course,
    talking: JoinHandle<()>,
}

impl Talker {
    fn start(service: SocketAddr) -> Self {
        let course = Course::default();
        let talking = tokio::spawn(talk(service, course.clone()));
        Self { course, talking }
    }

    fn course(&self) -> Vec<(String, Instant)> {
        self.course.lock().unwrap().clone()
    }

    fn is_at(&self, zone: &str) -> bool {
        self.course().last().is_some_and(|(server, _)| server == zone)
    }
}

impl Drop for Talker {
    fn drop(&mut self) {
        self.talking.abort();
    }
}

async fn talk(service: SocketAddr, course: Course) {
    loop {
        let Ok(mut client) = Client::connect(service).await else {
            tokio::time::sleep(BETWEEN).await;
            continue;
        };
        let mut is_new = true;
        while let Ok(answer) = client.say("who").await {
            let Some((server, _)) = answer.split_once(' ') else {
                break;
            };
            if std::mem::take(&mut is_new) {
                course.lock().unwrap().push((server.to_owned(), Instant::now()));
            }
            tokio::time::sleep(BETWEEN).await;
        }
    }
}

async fn all_are_at(talkers: &[Talker], zone: &str) {
    let what = format!("every client is served by {zone}");
    until_true(&what, PATIENCE, async || {
        talkers.iter().all(|talker| talker.is_at(zone))
    })
    .await;
}

/// Two services with an instance in each zone, and clients in east: connections of the first follow, and those of the second do not.
struct Scene {
    federation: Federation,
    own: Vec<Instance>,
    _far: Instance,
    following: Vec<Talker>,
    staying: Vec<Talker>,
}

impl Scene {
    async fn start() -> Self {
        let far = Instance::start("west", Behaviour::Name).await.unwrap();
        let mut own = Vec::new();
        for _ in 0..2 {
            own.push(Instance::start("east", Behaviour::Name).await.unwrap());
        }
        let health =
            "health: { tcp: true, every: 200ms, timeout: 200ms }, failover: [{ zone: self }, { zone: west }]";
        let plan = Plan::new()
            .zone("east")
            .instance("orders", own[0].address(), "{}")
            .instance("stock", own[1].address(), "{}")
            .zone("west")
            .instance("orders", far.address(), "{}")
            .instance("stock", far.address(), "{}")
            .service(
                "orders",
                &format!(
                    "port: 9000, protocol: tcp, {health}, connections: {{ linger: {}s }}",
                    LINGER.as_secs()
                ),
            )
            .service("stock", &format!("port: 9001, protocol: tcp, {health}"));
        let federation = plan.start().await.unwrap();
        for service in ["orders", "stock"] {
            federation.wait_export("east", "west", service).await;
        }
        let mut talkers = Vec::new();
        for (service, port) in [("orders", 9000), ("stock", 9001)] {
            let address = federation.service_address("east", service, port).await;
            talkers.push((0..CLIENTS).map(|_| Talker::start(address)).collect::<Vec<_>>());
        }
        let staying = talkers.pop().unwrap();
        let following = talkers.pop().unwrap();
        Self {
            federation,
            own,
            _far: far,
            following,
            staying,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_come_back_from_a_failover_as_their_service_says() {
    let mut scene = Scene::start().await;
    all_are_at(&scene.following, "east").await;
    all_are_at(&scene.staying, "east").await;
    let addresses: Vec<SocketAddr> = scene.own.drain(..).map(|instance| instance.address()).collect();
    let failed = Instant::now();
    all_are_at(&scene.following, "west").await;
    all_are_at(&scene.staying, "west").await;
    until_true("the failover has lasted", PATIENCE, async || {
        failed.elapsed() >= FAILOVER
    })
    .await;
    let before: Vec<usize> = scene.staying.iter().map(|talker| talker.course().len()).collect();
    let served_again = Instant::now();
    for address in addresses {
        scene.own.push(
            Instance::start_at("east", Behaviour::Name, address)
                .await
                .unwrap(),
        );
    }
    all_are_at(&scene.following, "east").await;

    let mut back = Vec::new();
    for talker in &scene.following {
        let course = talker.course();
        let [.., (from, left), (to, came)] = &course[..] else {
            panic!("{course:?}");
        };
        assert_eq!(
            (from.as_str(), to.as_str()),
            ("west", "east"),
            "no detours: {course:?}"
        );
        assert!(
            *left < served_again && *came - served_again >= LINGER,
            "{course:?}"
        );
        back.push(*came);
    }
    back.sort();
    let spread = back[CLIENTS - 1] - back[0];
    assert!(spread >= LEAST_SPREAD, "a storm: all came back within {spread:?}");
    for (talker, before) in scene.staying.iter().zip(before) {
        assert!(
            talker.is_at("west"),
            "without `linger` it stays: {:?}",
            talker.course()
        );
        assert_eq!(
            talker.course().len(),
            before,
            "it has one connection all the time"
        );
    }

    let east = scene.federation.zone("east");
    let clients = CLIENTS as f64;
    let why = [("service", "orders"), ("why", "better_tier")];
    east.wait_metric("causeway_followed_total", &why, clients).await;
    let moved = [("role", "egress"), ("outcome", "moved")];
    east.wait_metric("causeway_connections_total", &moved, clients)
        .await;
    let counted = east.metrics().await.unwrap();
    assert_eq!(counted.sum("causeway_followed_total", &[]), clients);
    let admin = east.admin.to_string();
    let explained = process::run(["explain", "orders", "--admin", &admin]).unwrap();
    assert!(
        explained.contains("open connections are ended 3s after they belong elsewhere"),
        "{explained}"
    );
    let listed = process::run(["get", "services", "-o", "wide", "--admin", &admin]).unwrap();
    assert!(listed.contains("any linger:3s"), "{listed}");
}
