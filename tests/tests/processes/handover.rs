//! One process of a gateway takes the place of another, and nobody notices.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::SocketAddr,
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use causeway_tests::{
    dns,
    federation::{Federation, PATIENCE, Plan},
    http,
    instance::{Behaviour, Instance, pattern},
    link::Conditions,
    load::Load,
    measured::measured,
    process::run,
    talk::{Client, say},
    wait::{until, until_true},
};
use rustix::process::{Signal, kill_process};
use tokio::{
    io::AsyncReadExt as _,
    net::TcpStream,
    task::{JoinHandle, JoinSet},
};

const PORT: u16 = 9000;
const WEB_PORT: u16 = 9001;
const FILES_PORT: u16 = 9002;
/// Bytes of each long stream.
const FILE_BYTES: u64 = 24 * 1024 * 1024;
/// Bytes that a reader of one takes at once, and its pause between two, so that it lasts for the whole test.
const READ_BYTES: usize = 64 * 1024;
const READ_EVERY: Duration = Duration::from_millis(20);
/// Longest that a new client may wait. A promise: 100 ms on an idle machine.
const LONGEST_WAIT: Duration = Duration::from_secs(3);

/// East asks west, over a link of 10 ms round trip.
async fn two_zones(drain: &str) -> (Federation, Vec<Instance>) {
    let orders = Instance::start("west", Behaviour::Name).await.unwrap();
    let web = Instance::start("web", Behaviour::Http).await.unwrap();
    let files = Instance::start("files", Behaviour::Download { bytes: FILE_BYTES })
        .await
        .unwrap();
    let plan = Plan::new()
        .argument("--drain")
        .argument(drain)
        .zone("east")
        .zone("west")
        .instance("orders", orders.address(), "{}")
        .instance("web", web.address(), "{}")
        .instance("files", files.address(), "{}")
        .linked()
        .service(
            "orders",
            &format!("port: {PORT}, protocol: tcp, health: {{ tcp: true, every: 1s }}"),
        )
        .service("web", &format!("port: {WEB_PORT}, protocol: http"))
        .service("files", &format!("port: {FILES_PORT}, protocol: tcp"));
    let federation = plan.start().await.unwrap();
    let conditions = Conditions {
        delay: Duration::from_millis(5),
        ..Conditions::clear()
    };
    federation.network().set_all("west", conditions);
    for service in ["orders", "web", "files"] {
        federation.wait_export("east", "west", service).await;
    }
    (federation, vec![orders, web, files])
}

/// Reads a long stream to its end at a steady pace, and checks every byte.
async fn read_slowly(service: SocketAddr) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(service).await?;
    let mut buffer = vec![0; READ_BYTES];
    let mut at = 0u64;
    loop {
        let length = stream.read(&mut buffer).await?;
        if length == 0 {
            anyhow::ensure!(at == FILE_BYTES, "it ended after {at} bytes");
            return Ok(());
        }
        for byte in &buffer[..length] {
            anyhow::ensure!(*byte == pattern(at), "another byte at {at}");
            at += 1;
        }
        tokio::time::sleep(READ_EVERY).await;
    }
}

/// Clients of HTTP that keep their connections, until they are told otherwise.
struct Kept {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    clients: JoinSet<anyhow::Result<()>>,
}

impl Kept {
    fn start(service: SocketAddr, count: usize) -> Self {
        let mut all = Self {
            stop: Arc::default(),
            answered: Arc::default(),
            clients: JoinSet::new(),
        };
        for _ in 0..count {
            let (stop, answered) = (all.stop.clone(), all.answered.clone());
            all.clients.spawn(async move {
                let mut client = http::Kept::connect(service).await?;
                while !stop.load(Ordering::Relaxed) {
                    let answer = client.get("/").await?;
                    anyhow::ensure!(answer.status == 200, "{answer:?}");
                    answered.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Ok(())
            });
        }
        all
    }

    /// Ends them; returns the number of answers.
    async fn stop(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        for ended in self.clients.join_all().await {
            ended.unwrap();
        }
        self.answered.load(Ordering::Relaxed)
    }
}

/// Asks mesh DNS again and again until it is told to stop; returns the number of answers and the longest wait.
fn ask_dns(server: SocketAddr, stop: Arc<AtomicBool>) -> JoinHandle<(usize, Duration)> {
    tokio::spawn(async move {
        let (mut answers, mut longest) = (0, Duration::ZERO);
        while !stop.load(Ordering::Relaxed) {
            let begun = Instant::now();
            let addresses = dns::addresses(server, "orders.mesh.").await.unwrap();
            assert_eq!(addresses.len(), 1);
            longest = longest.max(begun.elapsed());
            answers += 1;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        (answers, longest)
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_notices_that_both_gateways_are_handed_over_several_times() {
    let (mut federation, _instances) = two_zones("60s").await;
    let address = federation.service_address("east", "orders", PORT).await;
    let web = federation.service_address("east", "web", WEB_PORT).await;
    let files = federation.service_address("east", "files", FILES_PORT).await;

    let stop = Arc::new(AtomicBool::new(false));
    let asking = ask_dns(federation.zone("east").dns, stop.clone());
    let kept = Kept::start(web, 10);
    let mut long = JoinSet::new();
    for _ in 0..4 {
        long.spawn(read_slowly(files));
    }
    let mut held = Client::connect(address).await.unwrap();
    let load = Load {
        service: address,
        connections_per_second: 100,
        patience: Duration::from_secs(10),
    }
    .start();
    for (turn, zone) in ["east", "west", "east", "west", "east"].into_iter().enumerate() {
        let before = load.begun();
        until_true("the load goes on", PATIENCE, async || load.begun() > before + 50).await;
        federation.succeed_zone(zone).await.unwrap();
        let said = format!("turn-{turn}");
        assert_eq!(held.say(&said).await.unwrap(), format!("west {said}"));
        federation.ready("east").await;
        federation.ready("west").await;
    }
    let before = load.begun();
    until_true("the load goes on", PATIENCE, async || load.begun() > before + 50).await;
    let report = load.stop().await;
    for read in long.join_all().await {
        read.unwrap();
    }
    assert_eq!(held.say("last").await.unwrap(), "west last");
    stop.store(true, Ordering::Relaxed);
    let (answers, longest_answer) = asking.await.unwrap();
    let requests = kept.stop().await;
    measured(&format!(
        "five hand-overs: {report}; {requests} requests on kept connections; {answers} answers of mesh DNS, longest wait {longest_answer:?}"
    ));
    assert_eq!(report.failed().count(), 0, "{report}");
    assert!(report.longest_wait() < LONGEST_WAIT, "{report}");
    drop(held);
    for zone in ["east", "west"] {
        let status = federation.zone_mut(zone).former().wait(PATIENCE).await;
        assert!(status.success(), "{status}");
        let log = federation.zone(zone).log();
        for word in [
            "two processes run",
            "another process is alive",
            "ERROR",
            "cut a connection",
        ] {
            assert!(!log.contains(word), "{word}: {log}");
        }
    }
}

/// Time that a client thinks between two requests.
const THINKS: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_thinks_for_a_while_is_told_of_a_hand_over_with_its_next_answer() {
    let (mut federation, _instances) = two_zones("30s").await;
    let web = federation.service_address("east", "web", WEB_PORT).await;
    let mut client = http::Kept::connect(web).await.unwrap();
    assert_eq!(client.get("/").await.unwrap().status, 200);
    federation.succeed_zone("east").await.unwrap();
    // What is tested is that nothing happens meanwhile.
    tokio::time::sleep(THINKS).await;
    let told = client.get("/").await.unwrap();
    assert_eq!(told.status, 200);
    assert_eq!(client.get("/").await.unwrap().status, 200);
    let status = federation.zone_mut("east").former().wait(PATIENCE).await;
    assert!(status.success(), "{status}");
}

/// One-way delay of a link between continents' coasts, and what a client waits over it for an answer at least.
const FAR: Duration = Duration::from_millis(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_another_zone_wait_little_for_new_tunnels() {
    let (mut federation, _instances) = two_zones("60s").await;
    let conditions = Conditions {
        delay: FAR,
        ..Conditions::clear()
    };
    federation.network().set_all("west", conditions);
    let address = federation.service_address("east", "orders", PORT).await;
    let mut longest = Vec::new();
    for zone in ["east", "west", "east", "west"] {
        let load = Load {
            service: address,
            connections_per_second: 200,
            patience: Duration::from_secs(10),
        }
        .start();
        until_true("the load runs", PATIENCE, async || load.begun() > 50).await;
        federation.succeed_zone(zone).await.unwrap();
        federation.ready("east").await;
        let before = load.begun();
        until_true("the load goes on", PATIENCE, async || load.begun() > before + 50).await;
        let report = load.stop().await;
        assert_eq!(report.failed().count(), 0, "{report}");
        longest.push((zone, report.longest_wait()));
    }
    measured(&format!(
        "longest waits over {:?} round trip at hand-overs: {longest:?}",
        2 * FAR
    ));
    assert!(
        longest.iter().all(|(_, wait)| *wait < LONGEST_WAIT),
        "{longest:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_zone_has_a_tunnel_all_the_time_even_if_nothing_is_open_on_it() {
    let (mut federation, _instances) = two_zones("60s").await;
    let conditions = Conditions {
        delay: FAR,
        ..Conditions::clear()
    };
    federation.network().set_all("west", conditions);
    let stop = Arc::new(AtomicBool::new(false));
    let looking = {
        let (stop, admin) = (stop.clone(), federation.zone("east").admin);
        tokio::spawn(async move {
            let mut looks = 0;
            while !stop.load(Ordering::Relaxed) {
                let page = http::get(admin, "/v1/tunnels").await?.body;
                let tunnels: serde_json::Value = serde_json::from_str(&page)?;
                let items = tunnels["items"].as_array();
                let is_up = |item: &serde_json::Value| item["zone"] == "west" && item["state"] == "up";
                anyhow::ensure!(
                    items.is_some_and(|items| items.iter().any(is_up)),
                    "after {looks} looks: {page}"
                );
                looks += 1;
            }
            anyhow::Ok(looks)
        })
    };
    federation.succeed_zone("west").await.unwrap();
    let status = federation.zone_mut("west").former().wait(PATIENCE).await;
    assert!(status.success(), "{status}");
    stop.store(true, Ordering::Relaxed);
    let looks = looking.await.unwrap().unwrap();
    assert!(looks > 0);
    // Nor is there a word in the history of a tunnel that went.
    let page = http::get(federation.zone("east").admin, "/v1/events")
        .await
        .unwrap()
        .body;
    assert!(
        page.contains("tunnel_up") && !page.contains("tunnel_down"),
        "{page}"
    );
}

/// A successor that says what it likes, as far as it comes.
struct Pretender(UnixStream);

impl Pretender {
    fn connect(zone: &causeway_tests::federation::Zone) -> Self {
        Self(UnixStream::connect(zone.data.join("handover.sock")).unwrap())
    }

    /// Asks once those before it are gone, and hears the answer.
    async fn ask(zone: &causeway_tests::federation::Zone, ask: &str) -> (Self, String) {
        let heard = async || {
            let mut one = Self::connect(zone);
            one.say(ask);
            let answer = one.hear();
            (!answer.contains("another process takes its place")).then_some((one, answer))
        };
        until("the gateway has time", PATIENCE, heard).await
    }

    fn say(&mut self, message: &str) {
        let length = u32::try_from(message.len()).unwrap();
        self.0.write_all(&length.to_be_bytes()).unwrap();
        self.0.write_all(message.as_bytes()).unwrap();
    }

    fn hear(&mut self) -> String {
        let mut length = [0; 4];
        self.0.read_exact(&mut length).unwrap();
        let mut message = vec![0; usize::try_from(u32::from_be_bytes(length)).unwrap()];
        self.0.read_exact(&mut message).unwrap();
        String::from_utf8(message).unwrap()
    }
}

#[tokio::test]
async fn a_gateway_goes_on_whatever_its_successor_comes_to_before_it_is_ready() {
    let instance = Instance::start("east", Behaviour::Name).await.unwrap();
    let plan = Plan::new()
        .zone("east")
        .instance("orders", instance.address(), "{}");
    let plan = plan.service("orders", &format!("port: {PORT}, protocol: tcp"));
    let mut federation = plan.start().await.unwrap();
    let address = federation.service_address("east", "orders", PORT).await;
    let zone = federation.zone("east");
    let socket = zone.data.join("handover.sock");
    let mode = fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let ask = format!(
        r#"{{"version":1,"gateway":"spiffe://test.internal/zone/east/gateway/gw1","threads":1,"listen":"{}"}}"#,
        zone.listen
    );

    // Gone at each step: before a word, after it, and with the sockets in its hands.
    drop(Pretender::connect(zone));
    let (_, refusal) = Pretender::ask(zone, &ask.replace("gw1", "gw2")).await;
    assert!(
        refusal.contains("refused") && refusal.contains("gw2"),
        "{refusal}"
    );
    let (_, refusal) = Pretender::ask(zone, &ask.replace("\"version\":1", "\"version\":2")).await;
    assert!(refusal.contains("version 2: restart it instead"), "{refusal}");
    let (_, refusal) = Pretender::ask(zone, &ask.replace(":7800", ":7801")).await;
    assert!(refusal.contains("--listen"), "{refusal}");
    let mut nonsense = Pretender::connect(zone);
    nonsense.say("nonsense");
    drop(nonsense);
    let (ready, answer) = Pretender::ask(zone, &ask).await;
    assert!(answer.contains("agreed"), "{answer}");
    drop(ready);
    zone.wait_log(&["nothing was handed over", "while it took the sockets"])
        .await;
    assert_eq!(say(address, "still").await.unwrap(), "east still");

    // A process of the program itself, with a topology that cannot be used.
    let topology = fs::read_to_string(&zone.topology).unwrap();
    let bad = federation.folder().join("bad.yaml");
    fs::write(&bad, topology.replace("protocol: tcp", "protocol: tpc")).unwrap();
    let good = std::mem::replace(&mut federation.zone_mut("east").topology, bad);
    let zone = federation.zone_mut("east");
    zone.arguments.push("--take-over".to_owned());
    federation.start_zone("east").unwrap();
    let zone = federation.zone_mut("east");
    let status = zone.gateway().wait(PATIENCE).await;
    assert_eq!(status.code(), Some(65), "{}", zone.log());
    assert!(zone.former().ended().is_none());
    assert_eq!(say(address, "on").await.unwrap(), "east on");
    zone.topology = good;

    // One that was not told to take over finds the files in use, and leaves the socket for successors as it is.
    zone.arguments.clear();
    federation.start_zone("east").unwrap();
    let zone = federation.zone_mut("east");
    let status = zone.gateway().wait(PATIENCE).await;
    assert_eq!(status.code(), Some(1), "{}", zone.log());
    assert_eq!(say(address, "still on").await.unwrap(), "east still on");

    // And one that takes over after all.
    federation.succeed_zone("east").await.unwrap();
    assert_eq!(say(address, "and").await.unwrap(), "east and");
}

#[tokio::test]
async fn a_gateway_that_is_signalled_starts_its_successor_and_the_registered_are_still_there() {
    let instance = Instance::start("here", Behaviour::Name).await.unwrap();
    let plan = Plan::new().zone("east");
    let service = format!("port: {PORT}, protocol: tcp, health: {{ tcp: true, every: 60s }}");
    let mut federation = plan.service("orders", &service).start().await.unwrap();
    let zone = federation.zone("east");
    let (admin, target) = (zone.admin_socket(), instance.address().to_string());
    let admin = format!("unix:{}", admin.display());
    run([
        "register",
        "orders",
        "--id",
        "a",
        "--address",
        &target,
        "--admin",
        &admin,
    ])
    .unwrap();
    let address = federation.service_address("east", "orders", PORT).await;
    until_true("it serves", PATIENCE, async || say(address, "x").await.is_ok()).await;
    let zone = federation.zone_mut("east");
    zone.gateway().signal(Signal::USR2).unwrap();
    zone.wait_log(&["the successor serves"]).await;
    let status = zone.gateway().wait(PATIENCE).await;
    assert!(status.success(), "{status}");
    // The health that was known counts: no check has come since.
    assert_eq!(say(address, "again").await.unwrap(), "here again");
    let [successor] = zone.own_successors()[..] else {
        panic!("one successor: {}", zone.log());
    };
    kill_process(successor, Signal::TERM).unwrap();
    zone.wait_log(&["the gateway has ended"]).await;
}
