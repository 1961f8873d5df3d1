//! The program itself: what it prints where, and how it ends.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use causeway_api::admin::{Admin, AdminAddress, AdminConfig};

use crate::federation::{registered, serve, state};

pub fn causeway() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_causeway"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CAUSEWAY_")) {
        command.env_remove(name);
    }
    command.env("COLUMNS", "100");
    command
}

pub async fn run(admin: Option<&Admin>, args: &[&str]) -> Output {
    let mut command = causeway();
    command.args(args);
    if let Some(admin) = admin {
        command.args(["--admin", &admin.local_addr().to_string()]);
    }
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

/// As [`run`], with a text on standard input.
pub async fn run_with_input(admin: Option<&Admin>, args: &[&str], text: &str) -> Output {
    let mut command = causeway();
    command.args(args);
    if let Some(admin) = admin {
        command.args(["--admin", &admin.local_addr().to_string()]);
    }
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let text = text.to_owned();
    let running = move || {
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    tokio::task::spawn_blocking(running).await.unwrap()
}

pub fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

async fn admin() -> Admin {
    serve(state()).await
}

#[tokio::test]
async fn help_shows_every_command_and_examples() {
    let output = run(None, &["--help"]).await;
    assert_eq!(output.status.code(), Some(0));
    let text = out(&output);
    for word in [
        "get",
        "explain",
        "ping",
        "netcheck",
        "register",
        "deregister",
        "check",
        "completion",
        "man",
        "demo",
        "gateway",
        "ca",
        "admin-token",
        "token",
        "join",
        "revoke",
        "validate",
        "diff",
        "apply",
        "rollback",
        "Examples:",
        "Exit codes:",
    ] {
        assert!(text.contains(word), "{word} is not in\n{text}");
    }
    for command in [
        "get",
        "explain",
        "ping",
        "netcheck",
        "register",
        "deregister",
        "check",
        "completion",
        "man",
        "diff",
        "apply",
        "rollback",
        "ca",
        "token",
        "join",
        "revoke",
    ] {
        let text = out(&run(None, &[command, "--help"]).await);
        assert!(
            text.contains("Examples:"),
            "{command} --help has no examples:\n{text}"
        );
    }
}

#[tokio::test]
async fn wrong_usage_exits_64_and_says_so_on_standard_error() {
    for args in [
        &["gte"][..],
        &["get", "planets"],
        &["get", "zones", "-o", "xml"],
        &["register", "orders"],
        &[],
    ] {
        let output = run(None, args).await;
        assert_eq!(output.status.code(), Some(64), "{args:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{args:?}");
    }
    let tag = ["register", "orders", "--address", "127.0.0.1:1", "--tag", "v1"];
    assert_eq!(run(None, &tag).await.status.code(), Some(64));
}

#[tokio::test]
async fn a_gateway_that_does_not_run_is_named_with_a_hint() {
    // Bound and dropped: nobody listens there now.
    let address = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    let output = run(None, &["get", "zones", "--admin", &address]).await;
    assert_eq!(output.status.code(), Some(1));
    let text = err(&output);
    assert!(
        text.starts_with(&format!(
            "error: cannot reach the gateway's admin API at {address}: "
        )),
        "{text}"
    );
    assert!(text.contains("\nhint: is it running?"), "{text}");
    assert!(output.stdout.is_empty());
}

#[tokio::test]
async fn get_shows_tables_of_a_running_gateway() {
    let admin = admin().await;
    let zones = run(Some(&admin), &["get", "zones"]).await;
    insta::assert_snapshot!(out(&zones), @r"
ZONE    STATE   GATEWAYS   TUNNELS   RTT   AGE       HEARD      TAGS
east    own     -          -         -     -         -          region=us
plant   down    0/1        0         -     suspect   -          region=eu
west    up      1/1        0         -     fresh     just now   region=us
");
    let services = run(Some(&admin), &["get", "svc"]).await;
    insta::assert_snapshot!(out(&services), @r"
SERVICE   PORT   PROTOCOL   VIP          HERE   ELSEWHERE
billing   9000   tcp        -            -      plant!:1/2
orders    8080   http       127.64.0.1   1/2    west:3/4
");
    let exports = run(Some(&admin), &["get", "exports", "-o", "wide"]).await;
    insta::assert_snapshot!(out(&exports), @r"
SERVICE  ZONE   TAGS        HEALTHY  WEIGHT  AGE      LINK  GATEWAY  CAPACITY  VERSION  HEARD     VIA
billing  plant  version=v1  1/2      1       suspect  down  gw1      -         3        -         -
orders   east   version=v1  1/2      1       own      own   -        -         9        -         -
orders   west   version=v1  2/2      2       fresh    up    gw1      -         3        just now  -
orders   west   version=v2  1/2      1       fresh    up    gw1      -         3        just now  -
");
    let instances = run(Some(&admin), &["get", "instance", "-o", "wide"]).await;
    insta::assert_snapshot!(out(&instances), @r"
SERVICE  ID              ADDRESS         HEALTH   WEIGHT  SOURCE    TAGS        OPEN  LATENCY  CAPACITY  EXPIRES  LAST FAILURE  NUMBER             EJECTED
orders   10.1.0.11:8080  10.1.0.11:8080  healthy  1       topology  version=v1  0     -        -         -        -             #fa46ba04b4730871  -
");
    assert_eq!(
        out(&run(Some(&admin), &["get", "t"]).await),
        "No tunnels in zone east.\n"
    );
}

#[tokio::test]
async fn get_gives_the_answer_of_the_api_as_json_and_yaml() {
    let admin = admin().await;
    let json = run(Some(&admin), &["get", "instances", "-o", "json"]).await;
    let value: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(value["kind"], "instances");
    assert_eq!(value["items"][0]["id"], "10.1.0.11:8080");
    let yaml = run(Some(&admin), &["get", "instances", "-o", "yaml"]).await;
    assert!(
        out(&yaml).starts_with("version: 1\nkind: instances\nzone: east\n"),
        "{}",
        out(&yaml)
    );
}

#[tokio::test]
async fn the_admin_address_comes_from_the_environment_and_may_be_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let listen = AdminAddress::Unix(folder.path().join("admin.sock"));
    let address = listen.to_string();
    let config = AdminConfig {
        listen,
        insecure: false,
    };
    let _admin = Admin::start(config, state()).await.unwrap();
    let mut command = causeway();
    command.args(["get", "zones"]).env("CAUSEWAY_ADMIN", address);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert!(out(&output).contains("west"));
}

#[tokio::test]
async fn explain_tells_the_reasons_and_79_when_nobody_serves() {
    let admin = admin().await;
    let output = run(Some(&admin), &["explain", "orders", "--tag", "version=v1"]).await;
    assert_eq!(output.status.code(), Some(0));
    insta::assert_snapshot!(out(&output), @r"
orders{version=v1} from zone east

permission
  ‼ not everyone may call (--caller tells of one): those that services.orders.allow means and services.orders.deny does not

split
  · {version=v2} weight 5   the name asks for other tags
  √ {version=v1} weight 95  picked by weight

places for {version=v1}
  √ own zone east           tier 1, own zone first
  · gateway plant/gw1       no tunnel is up
  √ gateway west/gw1        tier 2

Would be asked, in this order:
  1. zone east, an instance here {version=v1}
  2. zone west by gateway gw1 {version=v1}

In force on the way:
  timeout: none
  retry: none
  outlier: none
  limits: none

Connections: requests are routed one by one; upgraded connections stay where they are for as long as both sides want.
");
    let denied = run(Some(&admin), &["explain", "orders", "--caller", "billing@west"]).await;
    assert_eq!(denied.status.code(), Some(79));
    insta::assert_snapshot!(out(&denied), @r"
orders from zone west

permission
  × billing@west may not call: services.orders.deny[0] denies `*@west`

Nobody is asked: services.orders.deny[0] denies `*@west`.
");
    let elsewhere = run(Some(&admin), &["explain", "orders", "--caller", "billing@plant"]).await;
    assert_eq!(elsewhere.status.code(), Some(0));
    let nobody = run(Some(&admin), &["explain", "orders", "--zone", "plant"]).await;
    assert_eq!(nobody.status.code(), Some(79));
    let unknown = run(Some(&admin), &["explain", "order"]).await;
    assert_eq!(unknown.status.code(), Some(1));
    assert_eq!(
        err(&unknown),
        "error: the topology has no service `order`\nhint: its services are billing, orders\n"
    );
}

#[tokio::test]
async fn check_ready_asks_only_whether_the_gateway_serves() {
    let ready = run(Some(&admin().await), &["check", "--ready"]).await;
    assert_eq!(ready.status.code(), Some(0), "{}", err(&ready));
    assert!(out(&ready).ends_with("\nok\n"), "{}", out(&ready));
    let mut state = state();
    state.readiness = state
        .readiness
        .with(|| causeway_telemetry::Check::fail("gateway", "draining", "shutting down", "wait"));
    let admin = serve(state).await;
    let output = run(Some(&admin), &["check", "--ready"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(out(&output).contains("[fail] gateway: draining: shutting down"));
    assert!(out(&output).ends_with("not ready\n") && err(&output).is_empty());
    let gone = run(None, &["check", "--ready", "--admin", "127.0.0.1:1"]).await;
    assert_eq!(gone.status.code(), Some(1));
}

#[tokio::test]
async fn check_groups_what_it_found_and_fails_on_a_failure() {
    let output = run(Some(&admin().await), &["check"]).await;
    assert_eq!(output.status.code(), Some(1));
    // The count of open files is the machine's own.
    let text: Vec<_> = out(&output)
        .lines()
        .filter(|line| !line.contains("open files"))
        .map(str::to_owned)
        .collect();
    insta::assert_snapshot!(text.join("\n"), @r"
zone east

gateway
  √ listeners: 2 addresses
  ‼ mesh DNS: no upstream
    hint: see /etc/resolv.conf

tunnels
  × zone plant: no tunnel; this zone has no addresses and must dial in
    hint: is its gateway running, and does its topology hold this zone's addresses?
  √ zone west: 0 up

zone sync
  ‼ plant/gw1: its exports are suspect
    hint: suspect exports are used as before while the tunnel to their gateway answers
  √ west/gw1: fresh, version 3, has yet to acknowledge 2 versions of ours
  ‼ west/gw1 refusals: it refuses what this zone tells: too_fast (3 times)
    hint: it knows nothing new of this zone until that is mended; the log says which limit or rule was broken

services
  × billing: no instance anywhere that this zone can reach
    hint: register one with `causeway register`, or check the tunnels to the zones that serve it
  ‼ orders: 1 of 2 instances here are healthy, 3 in other zones
    hint: see `causeway get instances`

process

4 well, 4 to look at, 2 failed
");
}

#[tokio::test]
async fn register_and_deregister_reach_the_registry() {
    let state = state();
    let instances = state.instances.clone();
    let admin = serve(state).await;
    let args = [
        "register",
        "orders",
        "--address",
        "10.1.0.12:8080",
        "--tag",
        "version=v2",
        "--weight",
        "3",
    ];
    let output = run(Some(&admin), &args).await;
    assert_eq!(out(&output), "registered orders 10.1.0.12:8080\n");
    assert!(
        err(&output).starts_with("note: the gateway has no data directory"),
        "{}",
        err(&output)
    );
    assert_eq!(
        registered(&instances).await,
        ["orders/10.1.0.12:8080 10.1.0.12:8080 {version=v2} weight 3"]
    );
    let output = run(
        Some(&admin),
        &["deregister", "orders", "--address", "10.1.0.12:8080"],
    )
    .await;
    assert_eq!(out(&output), "deregistered orders 10.1.0.12:8080\n");
    assert!(registered(&instances).await.is_empty());
    let gone = run(Some(&admin), &["deregister", "orders", "--id", "nobody"]).await;
    assert_eq!(gone.status.code(), Some(1));
    assert!(
        err(&gone).starts_with("error: no instance `orders/nobody` is registered\nhint: "),
        "{}",
        err(&gone)
    );
}

#[tokio::test]
async fn keep_outlives_its_time_to_live_and_deregisters_at_the_end() {
    let state = state();
    let instances = state.instances.clone();
    let admin = serve(state).await;
    let mut command = causeway();
    command.args([
        "register",
        "orders",
        "--address",
        "127.0.0.1:8080",
        "--id",
        "kept",
        "--ttl",
        "1s",
        "--keep",
    ]);
    command
        .args(["--admin", &admin.local_addr().to_string()])
        .stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (first, lines) = tokio::task::spawn_blocking(move || (lines.next(), lines))
        .await
        .unwrap();
    assert_eq!(first.unwrap().unwrap(), "registered orders kept");
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(2) {
        assert_eq!(registered(&instances).await.len(), 1, "the lease was not renewed");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&child),
        rustix::process::Signal::TERM,
    )
    .unwrap();
    let rest = tokio::task::spawn_blocking(move || {
        let rest: Vec<_> = lines.map(Result::unwrap).collect();
        assert!(child.wait().unwrap().success());
        rest
    });
    assert_eq!(rest.await.unwrap(), ["deregistered orders kept"]);
    assert!(registered(&instances).await.is_empty());
}

#[tokio::test]
async fn completion_and_man_print_scripts_and_pages() {
    assert!(out(&run(None, &["completion", "bash"]).await).contains("_causeway"));
    assert!(out(&run(None, &["man"]).await).contains(".TH causeway 1"));
    let folder = tempfile::tempdir().unwrap();
    let output = run(None, &["man", "--out", folder.path().to_str().unwrap()]).await;
    assert_eq!(output.status.code(), Some(0));
    assert!(folder.path().join("causeway-get.1").exists());
}

#[tokio::test]
async fn a_reader_that_has_seen_enough_is_no_failure() {
    let mut command = causeway();
    command
        .args(["completion", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let output = tokio::task::spawn_blocking(move || {
        let mut child = command.spawn().unwrap();
        drop(child.stdout.take());
        child.wait_with_output().unwrap()
    });
    let output = output.await.unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stderr.is_empty(), "{}", err(&output));
}

#[tokio::test]
async fn the_address_of_a_zone_sync_is_checked_and_may_be_on_another_host() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().to_str().unwrap();
    let gateway = async |server: &str| {
        let files = ["--topology", "none.yaml", "--identity", folder, "--data", folder];
        let args = [&["gateway", "--zone", "east", "--zone-sync", server], &files[..]].concat();
        run(None, &args).await
    };
    let bad = gateway("http://10.0.0.5").await;
    assert_eq!(bad.status.code(), Some(64), "{}", err(&bad));
    assert!(
        err(&bad).contains("give HOST:PORT or unix:/PATH"),
        "{}",
        err(&bad)
    );
    let elsewhere = gateway("127.0.0.1:7820,10.0.0.5:7820").await;
    // The way there is TLS with the identity, which is what is looked at next.
    assert!(err(&elsewhere).contains("identity"), "{}", err(&elsewhere));
}
