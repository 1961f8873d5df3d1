//! A gradual move of a service's traffic, through real gateways: to its end, to its abort, and without the gateway that began it.

use std::{
    fs,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use causeway_tests::{
    federation::{Federation, PATIENCE, Plan},
    http::{self, Kept},
    process::run,
    wait::until_true,
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinSet,
};

const PORT: u16 = 9000;
/// While it fails, one of so many requests to v2 is answered with 500: 5 %, where 1 % breaks the gate.
const FAILS_ONE_IN: usize = 20;
/// Time that a client takes between two requests.
const PACE: Duration = Duration::from_millis(2);
const BEGIN: [&str; 8] = [
    "shift",
    "orders",
    "--to",
    "version=v2",
    "--abort-if",
    "success<99%",
    "--min-requests",
    "1",
];

/// An HTTP server that counts its requests, and fails some of them for as long as it is told to.
#[derive(Clone)]
struct Version {
    name: &'static str,
    address: SocketAddr,
    requests: Arc<AtomicUsize>,
    fails: Arc<AtomicBool>,
    /// Notified when it is to end, with all its connections.
    stop: Arc<Notify>,
}

impl Version {
    async fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let version = Self {
            name,
            address: listener.local_addr().unwrap(),
            requests: Arc::default(),
            fails: Arc::default(),
            stop: Arc::default(),
        };
        let serving = version.clone();
        tokio::spawn(async move {
            let mut connections = JoinSet::new();
            let accepting = async {
                while let Ok((socket, _)) = listener.accept().await {
                    connections.spawn(serving.clone().serve(socket));
                }
            };
            tokio::select! {
                () = accepting => {}
                () = serving.stop.notified() => {}
            }
        });
        version
    }

    async fn serve(self, mut socket: TcpStream) {
        let mut head = Vec::new();
        while let Ok(1..) = socket.read_buf(&mut head).await {
            if !head.ends_with(b"\r\n\r\n") {
                continue;
            }
            head.clear();
            let number = self.requests.fetch_add(1, Ordering::Relaxed);
            let status = match self.fails.load(Ordering::Relaxed) && number.is_multiple_of(FAILS_ONE_IN) {
                true => "500 Internal Server Error",
                false => "200 OK",
            };
            let name = self.name;
            let answer = format!(
                "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{name}",
                name.len()
            );
            if socket.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}

/// Two zones; `west` has an instance of each version.
struct Scene {
    federation: Federation,
    v1: Version,
    v2: Version,
    /// Clients, one in each zone, which ask one request after another for as long as the scene lasts.
    _clients: JoinSet<()>,
}

async fn ask_on_and_on(orders: SocketAddr) {
    loop {
        if let Ok(mut client) = Kept::connect(orders).await {
            while client.get("/").await.is_ok() {
                tokio::time::sleep(PACE).await;
            }
        }
        tokio::time::sleep(PACE).await;
    }
}

async fn scene() -> Scene {
    let (v1, v2) = (Version::start("v1").await, Version::start("v2").await);
    let plan = Plan::new().zone("east").zone("west");
    let plan = plan
        .instance("orders", v1.address, "{ version: v1 }")
        .instance("orders", v2.address, "{ version: v2 }")
        .service(
            "orders",
            &format!("port: {PORT}, protocol: http, split: [{{ tags: {{ version: v1 }} }}]"),
        )
        .service("other", "port: 9001");
    let federation = plan.ruled_by_applied().start().await.unwrap();
    federation.wait_export("east", "west", "orders").await;
    let mut clients = JoinSet::new();
    for zone in ["east", "west"] {
        clients.spawn(ask_on_and_on(
            federation.service_address(zone, "orders", PORT).await,
        ));
    }
    Scene {
        federation,
        v1,
        v2,
        _clients: clients,
    }
}

impl Scene {
    fn at(&self, zone: &str, arguments: &[&str]) -> anyhow::Result<String> {
        let admin = self.federation.zone(zone).admin.to_string();
        run(arguments.iter().copied().chain(["--admin", &admin]))
    }

    /// Begins at `east`, with these steps of so many seconds.
    fn begin(&self, steps: &str, every: &str) -> String {
        let more = ["--steps", steps, "--every", every];
        self.at("east", &[&BEGIN[..], &more].concat()).unwrap()
    }

    async fn shift(&self, zone: &str) -> Option<Value> {
        let page = http::get(self.federation.zone(zone).admin, "/v1/shifts")
            .await
            .ok()?;
        let mut page: Value = serde_json::from_str(&page.body).ok()?;
        page["items"].get_mut(0).map(Value::take)
    }

    async fn wait_shift(&self, zone: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        until_true(&format!("the shift {what} in {zone}"), PATIENCE, async || {
            last = self.shift(zone).await.unwrap_or_default();
            is(&last)
        })
        .await;
        last
    }

    /// Kills the gateway that drives the shift, and makes sure that it stays at this step for longer than it would have without.
    async fn dies_at(&mut self, step: u64) {
        self.federation.zone_mut("east").kill().unwrap();
        let held = self
            .wait_shift("west", "has no driver", |shift| shift["driver_gone"] == true)
            .await;
        let at = |shift: &Value| (shift["step"].as_u64(), shift["state"].as_str().map(str::to_owned));
        let expected = (Some(step), Some("running".to_owned()));
        assert_eq!(at(&held), expected, "{held}");
        let since = Instant::now();
        until_true("an interval is over", PATIENCE, async || {
            since.elapsed() > Duration::from_secs(4)
        })
        .await;
        assert_eq!(at(&self.shift("west").await.unwrap()), expected);
    }

    /// Waits until so many more requests were answered.
    async fn wait_requests(&self, more: usize) {
        let wanted = self.requests() + more;
        until_true("requests", PATIENCE, async || self.requests() >= wanted).await;
    }

    fn requests(&self) -> usize {
        self.v1.requests() + self.v2.requests()
    }
}

#[tokio::test]
async fn a_shift_goes_by_its_steps_to_its_end_and_nobody_changes_its_service_meanwhile() {
    let scene = scene().await;
    let said = scene.begin("5,25,50,100", "2s");
    assert!(
        said.contains("generation 1") && said.contains("shift: none -> 5 % to {version=v2}"),
        "{said}"
    );
    // Before west has heard of it two could be begun, of which one is overruled.
    scene
        .wait_shift("west", "has begun", |shift| shift["state"] == "running")
        .await;
    let again = scene.at("west", &BEGIN).unwrap_err();
    assert!(
        format!("{again:#}").contains("under a shift to {version=v2} already"),
        "{again:#}"
    );
    // A topology that changes the service is refused, and one that changes another is taken.
    let text = scene.at("west", &["get", "topology"]).unwrap();
    let file = scene.federation.folder().join("edited.yaml");
    let path = file.display().to_string();
    fs::write(&file, text.replace("port: 9000,", "port: 9000, early: true,")).unwrap();
    let refused = scene.at("west", &["apply", "-f", &path]).unwrap_err();
    let refused = format!("{refused:#}");
    assert!(
        refused.contains("service orders is under a shift") || refused.contains("is in force, not"),
        "{refused}"
    );
    let listed = scene.at("west", &["get", "services", "-o", "wide"]).unwrap();
    assert!(listed.contains("[shift: "), "{listed}");
    let done = scene
        .wait_shift("west", "is done", |shift| shift["state"] == "done")
        .await;
    assert_eq!(
        (&done["step"], &done["percent"]),
        (&4.into(), &100.into()),
        "{done}"
    );
    scene.wait_requests(50).await;
    let before = scene.v1.requests();
    scene.wait_requests(200).await;
    assert_eq!(scene.v1.requests(), before, "v2 has all of it");
    let told = scene.at("east", &["shift", "status", "orders"]).unwrap();
    for part in [
        "5 %, running",
        "25 %, running",
        "50 %, running",
        "100 %, running",
        "100 %, done",
    ] {
        assert!(told.contains(part), "{part} is not in\n{told}");
    }
    let text = scene.at("east", &["get", "topology"]).unwrap();
    assert!(
        text.contains(
            "split: [{ tags: { version: v1 }, weight: 0 }, { tags: { version: v2 }, weight: 100 }]"
        ),
        "{text}"
    );
    let ended = scene.at("east", &["shift", "abort", "orders"]).unwrap_err();
    assert!(format!("{ended:#}").contains("is done"), "{ended:#}");
}

#[tokio::test]
async fn a_shift_to_what_fails_is_aborted_at_its_step_and_no_more_than_its_share_has_seen_it() {
    let scene = scene().await;
    scene.begin("5,25,50,100", "3s");
    scene
        .wait_shift("west", "is at 25 %", |shift| shift["percent"] == 25)
        .await;
    let (all, seen) = (scene.requests(), scene.v2.requests());
    scene.v2.fails.store(true, Ordering::Relaxed);
    let aborted = |shift: &Value| shift["state"] == "aborted";
    let told = scene.wait_shift("west", "is aborted", aborted).await;
    scene.wait_shift("east", "is aborted", aborted).await;
    let (all, seen) = (scene.requests() - all, scene.v2.requests() - seen);
    assert_eq!(
        (&told["step"], &told["percent"]),
        (&2.into(), &25.into()),
        "{told}"
    );
    let because = told["because"].as_str().unwrap();
    assert!(
        because.contains("success<99%: ") && because.contains(" requests failed"),
        "{because}"
    );
    // Four standard deviations of the draw.
    let (total, share) = (all as f64, 0.25);
    let most = total * share + 4.0 * (total * share * (1.0 - share)).sqrt();
    assert!(seen as f64 <= most, "{seen} of {all} have seen v2");
    // In force everywhere by now: what was on its way has ended, and nobody sees v2 any more.
    scene.wait_requests(20).await;
    let before = scene.v2.requests();
    scene.wait_requests(400).await;
    assert_eq!(scene.v2.requests(), before);
    let text = scene.at("east", &["get", "topology"]).unwrap();
    assert!(text.contains("split: [{ tags: { version: v1 } }]"), "{text}");
    // Another one can be begun.
    let said = scene.at("west", &BEGIN).unwrap();
    assert!(said.contains("applied: generation"), "{said}");
    let said = scene.at("west", &["shift", "abort", "orders"]).unwrap();
    assert!(said.contains("aborted"), "{said}");
}

#[tokio::test]
async fn a_shift_whose_new_instances_die_is_aborted_although_all_the_traffic_is_theirs() {
    let scene = scene().await;
    let refused = scene.at("east", &["shift", "orders", "--to", "version=v3"]);
    let refused = format!("{:#}", refused.unwrap_err());
    assert!(
        refused.contains("no instance of orders carries") && refused.contains("v3"),
        "{refused}"
    );
    scene.begin("50,100", "5s");
    scene
        .wait_shift("west", "is at 100 %", |shift| shift["percent"] == 100)
        .await;
    scene.wait_requests(20).await;
    scene.v2.stop.notify_one();
    let aborted = |shift: &Value| shift["state"] == "aborted";
    for zone in ["east", "west"] {
        scene.wait_shift(zone, "is aborted", aborted).await;
    }
    // And v1 serves again.
    let before = scene.v1.requests();
    until_true("requests to v1", PATIENCE, async || {
        scene.v1.requests() >= before + 100
    })
    .await;
}

#[tokio::test]
async fn without_the_gateway_that_drives_it_a_shift_stays_and_another_zone_takes_it_over() {
    let mut scene = scene().await;
    scene.begin("25,100", "3s");
    scene
        .wait_shift("west", "has begun", |shift| shift["percent"] == 25)
        .await;
    scene.federation.zone_mut("east").kill().unwrap();
    let held = scene
        .wait_shift("west", "has no driver", |shift| shift["driver_gone"] == true)
        .await;
    assert_eq!(
        (&held["step"], &held["state"]),
        (&1.into(), &"running".into()),
        "{held}"
    );
    // Nobody aborts it, and what fails is taken back all the same by those who see it.
    scene.v2.fails.store(true, Ordering::Relaxed);
    let taken = scene
        .wait_shift("west", "is taken back", |shift| shift["taken_back"] == true)
        .await;
    assert_eq!(
        (&taken["step"], &taken["state"]),
        (&1.into(), &"running".into()),
        "{taken}"
    );
    scene.wait_requests(20).await;
    let before = scene.v2.requests();
    scene.wait_requests(400).await;
    assert_eq!(scene.v2.requests(), before);
    let explained = scene.at("west", &["explain", "orders"]).unwrap();
    assert!(
        explained.contains("this gateway has taken its share back"),
        "{explained}"
    );
    let told = scene.at("west", &["shift", "status", "orders"]).unwrap();
    assert!(told.contains("which is gone"), "{told}");
    // Somebody has mended it.
    scene.v2.fails.store(false, Ordering::Relaxed);
    scene.at("west", &["shift", "pause", "orders"]).unwrap();
    let said = scene.at("west", &["shift", "resume", "orders"]).unwrap();
    assert!(said.contains("driven by west/"), "{said}");
    scene
        .wait_shift("west", "is done", |shift| shift["state"] == "done")
        .await;
    assert!(scene.v2.requests() > before);
}

#[tokio::test]
async fn a_driver_that_dies_before_a_step_and_after_one_skips_none_and_takes_none_twice() {
    let mut scene = scene().await;
    scene.begin("10,30,100", "3s");
    scene
        .wait_shift("west", "has begun", |shift| shift["percent"] == 10)
        .await;
    scene.dies_at(1).await;
    // It comes back, knows what it was doing, and takes the step.
    scene.federation.start_zone("east").unwrap();
    scene.federation.ready("east").await;
    scene
        .wait_shift("west", "is at 30 %", |shift| shift["percent"] == 30)
        .await;
    scene.dies_at(2).await;
    scene.at("west", &["shift", "pause", "orders"]).unwrap();
    let said = scene.at("west", &["shift", "resume", "orders"]).unwrap();
    assert!(said.contains("driven by west/"), "{said}");
    scene
        .wait_shift("west", "is done", |shift| shift["state"] == "done")
        .await;
    // Each generation is one state: the first step, the second, paused, resumed, the last, and the end.
    let told = scene.at("west", &["shift", "status", "orders"]).unwrap();
    for (state, times) in [
        ("10 %, running", 1),
        ("30 %, running", 2),
        ("30 %, paused", 1),
        ("100 %, running", 1),
        ("100 %, done", 1),
    ] {
        assert_eq!(
            told.matches(&format!(" {state}")).count(),
            times,
            "{state} in\n{told}"
        );
    }
    // And the zone that comes back last has what is in force.
    scene.federation.start_zone("east").unwrap();
    scene
        .wait_shift("east", "is done", |shift| shift["state"] == "done")
        .await;
}
