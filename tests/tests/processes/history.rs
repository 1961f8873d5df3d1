//! History with real gateways: a zone that is killed and comes back, restarts and hand-overs, and a flood of changes.

use std::{
    fmt::Write as _,
    fs,
    net::SocketAddr,
    path::Path,
    time::{Duration, SystemTime},
};

use causeway_tests::{
    federation::{Federation, PATIENCE, Plan},
    http,
    instance::{Behaviour, Instance},
    measured::measured,
    process::run,
    talk::say,
    wait::{until, until_true},
};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    net::{TcpStream, tcp::OwnedReadHalf},
    time::timeout,
};

const PORT: u16 = 9000;
/// Longest that an event may come after what it tells of.
const WITHIN: Duration = Duration::from_secs(2);

/// East asks west, and plant where west is away.
async fn federation() -> (Federation, Vec<Instance>) {
    let (west, plant) = (
        Instance::start("west", Behaviour::Echo).await.unwrap(),
        Instance::start("plant", Behaviour::Echo).await.unwrap(),
    );
    let plan = Plan::new().zone("east").zone("west");
    let plan = plan.instance("orders", west.address(), "{ version: v1 }");
    let plan = plan
        .zone("plant")
        .instance("orders", plant.address(), "{ version: v1 }");
    let service = format!("port: {PORT}, protocol: tcp, failover: [{{ zone: west }}, {{ zone: plant }}]");
    let federation = plan.service("orders", &service).start().await.unwrap();
    for zone in ["west", "plant"] {
        federation.wait_export("east", zone, "orders").await;
    }
    (federation, vec![west, plant])
}

async fn page(admin: SocketAddr, query: &str) -> Option<Value> {
    let answer = http::get(admin, &format!("/v1/events{query}")).await.ok()?;
    serde_json::from_str(&answer.body).ok()
}

pub(super) async fn listed(admin: SocketAddr, query: &str) -> Vec<Value> {
    let page = page(admin, query).await.unwrap_or_default();
    page["events"].as_array().cloned().unwrap_or_default()
}

/// Waits for an event of a kind behind an id.
async fn event(admin: SocketAddr, kind: &str, after: u64) -> Value {
    until(&format!("an event {kind} behind {after}"), PATIENCE, async || {
        let found = listed(admin, &format!("?after={after}&kind={kind}")).await;
        found.into_iter().next()
    })
    .await
}

async fn last_id(admin: SocketAddr) -> u64 {
    page(admin, "").await.unwrap()["last"].as_u64().unwrap()
}

fn id(event: &Value) -> u64 {
    event["id"].as_u64().unwrap()
}

fn moment(event: &Value) -> SystemTime {
    humantime::parse_rfc3339(event["time"].as_str().unwrap()).unwrap()
}

/// Services of all minutes that are kept, and peers of their tunnels.
async fn figures(admin: SocketAddr) -> Vec<Value> {
    let answer = http::get(admin, "/v1/figures?since=10m&service=orders").await;
    let page = answer.map(|answer| answer.body).unwrap_or_default();
    let page: Value = serde_json::from_str(&page).unwrap_or_default();
    page["minutes"].as_array().cloned().unwrap_or_default()
}

/// A stream of events.
struct Stream(Lines<BufReader<OwnedReadHalf>>);

impl Stream {
    async fn open(admin: SocketAddr, header: &str) -> Self {
        let (read, mut write) = TcpStream::connect(admin).await.unwrap().into_split();
        let request = format!("GET /v1/events/stream HTTP/1.1\r\nHost: {admin}\r\n{header}\r\n");
        write.write_all(request.as_bytes()).await.unwrap();
        // Half-closed, a connection would be seen as that of somebody who is gone.
        std::mem::forget(write);
        Self(BufReader::new(read).lines())
    }

    /// Reads on until an event of a kind; `None`: the stream has ended.
    async fn next(&mut self, kind: &str) -> Option<Value> {
        let (mut is_wanted, wanted) = (false, format!("event: {kind}"));
        let reading = async {
            while let Ok(Some(line)) = self.0.next_line().await {
                match line.strip_prefix("data: ") {
                    Some(data) if is_wanted => return serde_json::from_str(data).ok(),
                    Some(_) => is_wanted = false,
                    None => is_wanted |= line == wanted,
                }
            }
            None
        };
        timeout(PATIENCE, reading)
            .await
            .expect("wait for an event in the stream")
    }
}

fn commands_show_the_failover(admin: SocketAddr) {
    let address = admin.to_string();
    let table = run([
        "get",
        "events",
        "--since",
        "1m",
        "--service",
        "orders",
        "--admin",
        &address,
    ])
    .unwrap();
    assert!(
        table.contains("failover_begun") && table.contains("instead of tier 1 (west)"),
        "{table}"
    );
    let json = run([
        "get",
        "events",
        "--kind",
        "tunnel_down",
        "-o",
        "json",
        "--admin",
        &address,
    ])
    .unwrap();
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["events"][0]["kind"], "tunnel_down");
}

#[tokio::test]
async fn a_zone_that_dies_is_told_with_what_follows_and_so_is_its_return() {
    let (mut federation, _instances) = federation().await;
    let admin = federation.zone("east").admin;
    // Until a process has had time to hear of the others nothing counts as a failover.
    let settled = until("east has served for a while", PATIENCE, async || {
        let started = listed(admin, "?kind=gateway_started").await.into_iter().next()?;
        (moment(&started).elapsed().ok()? > Duration::from_secs(6)).then_some(started)
    })
    .await;
    assert_eq!(settled["zone"], "east");
    let before = last_id(admin).await;
    let mut stream = Stream::open(admin, "").await;
    // Its head has come once it is followed.
    assert!(stream.0.next_line().await.unwrap().unwrap().contains("200"));

    let killed = SystemTime::now();
    federation.zone_mut("west").kill().unwrap();
    let failover = stream.next("failover_begun").await.unwrap();
    let took = moment(&failover).duration_since(killed).unwrap();
    measured(&format!("a failover was told {took:?} after a zone was killed"));
    assert!(took < WITHIN, "{took:?}: {failover}");
    assert_eq!(failover["service"], "orders");
    let text = failover["text"].as_str().unwrap();
    assert!(text.contains("tier 2 (plant) instead of tier 1 (west)"), "{text}");
    assert!(
        failover["because"].as_str().unwrap().contains("west/gw1"),
        "{failover}"
    );
    let stalled = listed(admin, &format!("?after={before}&kind=tunnel_stalled,tunnel_down")).await;
    assert_eq!(stalled[0]["peer"], "west/gw1", "{stalled:?}");
    assert!(moment(&stalled[0]).duration_since(killed).unwrap() < WITHIN);
    let down = event(admin, "tunnel_down", before).await;
    assert!(down["because"].is_string(), "{down}");

    commands_show_the_failover(admin);

    federation.start_zone("west").unwrap();
    let back = stream.next("failover_ended").await.unwrap();
    assert!(
        back["text"].as_str().unwrap().contains("back at tier 1 (west)"),
        "{back}"
    );
    assert!(id(&back) > id(&failover));
    // One who comes again with the id of the last event that it has misses none.
    let header = format!("Last-Event-ID: {before}\r\n");
    let again = Stream::open(admin, &header)
        .await
        .next("failover_begun")
        .await
        .unwrap();
    assert_eq!(again, failover);
}

#[tokio::test]
async fn what_happened_outlives_a_kill_and_a_hand_over_and_ids_go_on() {
    let (mut federation, _instances) = federation().await;
    let admin = federation.zone("east").admin;
    let started = event(admin, "gateway_started", 0).await;
    let up = event(admin, "tunnel_up", 0).await;
    federation.zone_mut("east").kill().unwrap();
    federation.start_zone("east").unwrap();
    federation.zone("east").wait_ready().await;
    let again = event(admin, "gateway_started", id(&started)).await;
    assert!(id(&again) > id(&up), "{again}");
    let all = listed(admin, "?after=0&limit=1000").await;
    assert_eq!(all[0], started, "what was before is there");
    let ids: Vec<u64> = all.iter().map(id).collect();
    assert!(ids.windows(2).all(|pair| pair[0] < pair[1]), "{ids:?}");

    federation.wait_export("east", "west", "orders").await;
    federation.zone("east").wait_tunnel("west").await;
    let service = federation.service_address("east", "orders", PORT).await;
    for _ in 0..3 {
        assert_eq!(say(service, "hello").await.unwrap(), "hello");
    }
    let mut stream = Stream::open(admin, "").await;
    federation.succeed_zone("east").await.unwrap();
    // One that hands over ends its minute.
    let minute = until("the figures of a minute", PATIENCE, async || {
        figures(admin).await.pop()
    })
    .await;
    let orders = &minute["services"][0];
    assert_eq!(
        (&orders["service"], &orders["begun"], &orders["ok"]),
        (&"orders".into(), &3.into(), &3.into())
    );
    assert_eq!(
        (&orders["to"][0]["zone"], &orders["to"][0]["count"]),
        (&"west".into(), &3.into())
    );
    assert!(
        orders["setup_milliseconds"]["p99"].as_f64().unwrap() > 0.0,
        "{orders}"
    );
    let mut peers: Vec<&str> = minute["tunnels"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tunnel| tunnel["peer"].as_str().unwrap())
        .collect();
    peers.sort_unstable();
    assert_eq!(peers, ["plant/gw1", "west/gw1"]);
    let took_over = event(admin, "gateway_took_over", id(&again)).await;
    let handed = listed(admin, &format!("?after={}&kind=gateway_handed_over", id(&again))).await;
    assert_eq!(handed.len(), 1);
    assert!(
        id(&handed[0]) < id(&took_over),
        "the one before has written its last line first"
    );
    // The stream of the process before has ended, with the last thing that it had to say or without.
    while stream.next("gateway_handed_over").await.is_some() {}
    let log = federation.zone("east").log();
    assert!(
        !log.contains("a part of the history"),
        "nothing was corrupt:\n{log}"
    );
}

fn segments(data: &Path) -> Vec<(String, u64)> {
    let files = fs::read_dir(data.join("history")).unwrap().map(Result::unwrap);
    let name = |file: &fs::DirEntry| file.file_name().to_string_lossy().into_owned();
    let files = files.filter(|file| name(file).ends_with(".jsonl"));
    files
        .map(|file| (name(&file), file.metadata().unwrap().len()))
        .collect()
}

#[tokio::test]
async fn a_corrupt_record_is_set_aside_and_what_of_it_is_sound_is_read() {
    let plan = Plan::new()
        .zone("east")
        .service("orders", "port: 9000, protocol: tcp");
    let mut federation = plan.start().await.unwrap();
    let admin = federation.zone("east").admin;
    let started = event(admin, "gateway_started", 0).await;
    federation.zone_mut("east").kill().unwrap();
    let data = federation.zone("east").data.clone();
    let (name, _) = segments(&data)[0].clone();
    let path = data.join("history").join(&name);
    let mut damaged = fs::read(&path).unwrap();
    damaged.extend_from_slice(b"{\"id\":99,\"ti");
    fs::write(&path, &damaged).unwrap();
    federation.start_zone("east").unwrap();
    federation.zone("east").wait_ready().await;
    let again = event(admin, "gateway_started", id(&started)).await;
    assert!(id(&again) > id(&started));
    assert_eq!(listed(admin, "?after=0").await[0], started);
    let aside = fs::read_dir(data.join("history"))
        .unwrap()
        .map(|file| file.unwrap().path());
    let aside: Vec<_> = aside
        .filter(|path| path.to_string_lossy().contains(".corrupt-"))
        .collect();
    assert_eq!(aside.len(), 1, "{aside:?}");
    assert_eq!(fs::read(&aside[0]).unwrap(), damaged, "as it was");
}

#[tokio::test]
async fn a_flood_of_changes_is_summed_up() {
    let instances = tempfile::tempdir().unwrap();
    let plan = Plan::new()
        .zone("east")
        .service("orders", "port: 9000, protocol: tcp");
    let plan = plan
        .argument("--instances")
        .argument(&instances.path().display().to_string());
    let plan = plan.argument("--history-size").argument("1MiB");
    let federation = plan.start().await.unwrap();
    let admin = federation.zone("east").admin;
    let mut text = "instances:\n".to_owned();
    for nth in 0..1_000 {
        let (high, low) = (nth / 250, nth % 250 + 1);
        writeln!(
            text,
            "  - {{ service: orders, address: \"10.9.{high}.{low}:80\" }}"
        )
        .unwrap();
    }
    fs::write(instances.path().join("many.yaml"), text).unwrap();
    until_true("the instances are there", PATIENCE, async || {
        let page = http::get(admin, "/v1/instances").await;
        page.is_ok_and(|answer| answer.body.matches("10.9.").count() >= 1_000)
    })
    .await;
    event(admin, "instance_added", 0).await;
    let added = listed(admin, "?kind=instance_added&after=0&limit=1000").await;
    assert!(added.len() <= 61, "{} one by one", added.len());
    let bytes: u64 = segments(&federation.zone("east").data)
        .iter()
        .map(|(_, bytes)| bytes)
        .sum();
    assert!(bytes <= 1 << 20, "{bytes}");
}
