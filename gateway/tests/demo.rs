//! `causeway demo` from outside, on every example topology.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

fn topologies() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../topologies")
}

fn demo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_causeway"));
    command.arg("demo").arg("--fast").args(arguments);
    command.env_remove("CAUSEWAY_LOG");
    command
}

/// The story of one file, which must end well.
fn story(file: &str) -> String {
    let output = demo(&[file]).current_dir(topologies()).output();
    told(output.expect("run causeway"))
}

/// Connections that were served, and their number, in a page of metrics.
fn served(metrics: &str) -> f64 {
    let lines = metrics.lines().filter(|line| {
        line.starts_with("causeway_connections_total{") && line.contains(r#"outcome="served""#)
    });
    let counts = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    counts.sum()
}

/// The answer to one request.
fn get(address: SocketAddr, path: &str) -> String {
    let mut socket = TcpStream::connect(address).expect("connect");
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).expect("send a request");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("an answer");
    answer
}

fn told(output: Output) -> String {
    let text = String::from_utf8(output.stdout).expect("a story in UTF-8");
    let problem = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{text}\n{problem}");
    assert!(text.ends_with("√ every promise held\n"), "{text}");
    for none in ["failed", "given to two instances"] {
        assert_eq!(number(&text, none), 0, "{text}");
    }
    assert!(number(&text, "requests sent") > 20, "{text}");
    assert!(
        !text.contains('\u{1b}'),
        "colour although nobody sees it:\n{text}"
    );
    let wide: Vec<_> = text.lines().filter(|line| line.chars().count() > 100).collect();
    assert!(wide.is_empty(), "{wide:#?}");
    text
}

/// The number beside `label` in the table at the end.
fn number(text: &str, label: &str) -> u64 {
    let line = text
        .lines()
        .rev()
        .find(|line| line.trim_start().starts_with(label));
    let number = line.and_then(|line| line.split_whitespace().last());
    number
        .and_then(|number| number.parse().ok())
        .unwrap_or_else(|| panic!("no number for `{label}` in\n{text}"))
}

fn assert_cut_and_back(text: &str) {
    assert!(text.contains("had its answer from another zone"), "{text}");
    assert!(text.contains("gave its first answer again after"), "{text}");
    assert!(number(text, "moved to another place in time") > 0, "{text}");
}

fn assert_moved_by_weights(text: &str) {
    for weights in ["95/5", "50/50", "0/100", "100/0"] {
        assert!(
            text.contains(&format!("weights {weights}: in force")),
            "{weights}\n{text}"
        );
    }
}

#[test]
fn two_zones_keep_every_promise() {
    assert_cut_and_back(&story("two-zones.yaml"));
}

#[test]
fn a_zone_that_only_dials_out_keeps_being_served_when_another_is_cut_off() {
    let text = story("three-zones-dial-out.yaml");
    assert!(text.contains("none: dials out"), "{text}");
    assert_cut_and_back(&text);
}

#[test]
fn a_canary_takes_its_share() {
    let text = story("canary.yaml");
    assert!(text.contains("A split by tags"), "{text}");
    assert_cut_and_back(&text);
    assert_moved_by_weights(&text);
}

#[test]
fn a_canary_by_header_takes_the_requests_that_ask_for_it_and_no_others() {
    let text = story("canary-by-header.yaml");
    assert!(text.contains("A route by what a request says"), "{text}");
    let line = |begin: &str| text.lines().find(|line| line.trim_start().starts_with(begin));
    let plain = line("POST /  ").unwrap_or_default();
    assert!(
        plain.contains("version=v1 in ") && !plain.contains("version=v2"),
        "{text}"
    );
    let canary = line("POST / with x-canary: 1").unwrap_or_default();
    assert!(
        canary.contains("canary") && canary.contains("version=v2 in west 6"),
        "{text}"
    );
    assert_cut_and_back(&text);
}

#[test]
fn each_port_of_a_service_is_reached_from_every_zone_and_none_in_the_place_of_another() {
    let text = story("several-ports.yaml");
    assert!(text.contains("Several ports of one service"), "{text}");
    for (port, number, protocol) in [
        ("http", 8080, "http"),
        ("admin", 9090, "http"),
        ("events", 5672, "tcp"),
    ] {
        let name = format!(" _{port}._tcp.orders.mesh ");
        let told: Vec<&str> = text.lines().filter(|line| line.contains(&name)).collect();
        let fits =
            |line: &&str| line.contains(&format!(":{number} ")) && line.contains(&format!(" {protocol} "));
        assert!(told.len() == 3 && told.iter().all(fits), "{text}");
    }
    assert_cut_and_back(&text);
}

#[test]
fn a_service_moves_from_virtual_machines_to_kubernetes_and_back() {
    let text = story("vm-to-kubernetes.yaml");
    assert_cut_and_back(&text);
    assert_moved_by_weights(&text);
    assert!(text.contains("A shift that is aborted at 25 %"), "{text}");
    assert!(text.contains("has taken its share back by itself"), "{text}");
    assert!(text.contains("aborted: in force everywhere"), "{text}");
    assert!(text.contains("the split is what it was before"), "{text}");
}

#[test]
fn connections_that_stay_open_follow_the_weights() {
    let text = story("follow.yaml");
    assert_cut_and_back(&text);
    assert_moved_by_weights(&text);
    assert!(text.contains("on 10 connections, 0 failed."), "{text}");
    for arm in ["version=v2", "version=v1"] {
        let came = format!("10 connections at {arm}: the first after ");
        assert!(text.contains(&came), "{text}");
    }
}

#[test]
fn a_zone_that_loses_instances_keeps_its_share_and_has_its_traffic_back() {
    let text = story("regional-failover.yaml");
    assert!(text.contains("A zone loses instances"), "{text}");
    assert!(text.contains("of its traffic, where the file and"), "{text}");
    assert!(text.contains("has all of its traffic again after"), "{text}");
    assert!(text.contains("More than there is capacity for"), "{text}");
    assert_cut_and_back(&text);
}

#[test]
fn a_service_with_time_limits_and_retries_keeps_every_promise() {
    assert_cut_and_back(&story("breaker.yaml"));
}

#[test]
fn calls_of_grpc_follow_the_weights_and_the_routes_one_by_one() {
    let text = story("grpc.yaml");
    assert_cut_and_back(&text);
    assert_moved_by_weights(&text);
    assert!(text.contains("over gRPC, each on one connection"), "{text}");
    assert!(text.contains("on 10 connections, 0 failed."), "{text}");
    let told = "POST /acme.prices.v1.Prices/Quote ";
    let quotes = text.lines().find(|line| line.trim_start().starts_with(told));
    let quotes = quotes.unwrap_or_default();
    assert!(
        quotes.contains("version=v2 in east 6") && !quotes.contains("version=v1"),
        "{text}"
    );
    assert!(text.contains("is INTERNAL"), "{text}");
}

#[test]
fn two_companies_with_a_ca_each_serve_each_other() {
    let text = story("two-trust-domains.yaml");
    assert!(text.contains("partner.example"), "{text}");
    assert_cut_and_back(&text);
}

#[test]
fn every_example_topology_is_tested_here() {
    let own = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/demo.rs"));
    let own = own.expect("read this test");
    for entry in fs::read_dir(topologies()).expect("read the topologies") {
        let name = entry.expect("read a folder entry").file_name();
        let name = name.to_string_lossy();
        assert!(own.contains(&format!("story(\"{name}\")")), "{name} has no test");
    }
}

#[test]
fn a_file_with_errors_is_told_and_exits_65() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("bad.yaml");
    fs::write(
        &path,
        "version: 1\ntrust_domain: a.b\nzones: { east: { gatewais: [] } }\n",
    )
    .expect("write a file");
    let output = demo(&[path.to_str().expect("a path in UTF-8")])
        .output()
        .expect("run causeway");
    assert_eq!(output.status.code(), Some(65));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("did you mean `gateways`?"), "{text}");
    assert!(!text.contains("error: error"), "{text}");
    assert!(output.stdout.is_empty());
}

#[test]
fn serve_leaves_everything_running_until_it_is_interrupted() {
    let mut command = demo(&["--serve"]);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("run causeway");
    let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let mut lines = lines.by_ref().map(|line| line.expect("a line"));
    let address = lines.find_map(|line| line.trim().strip_prefix("curl http://").map(str::to_owned));
    let address: SocketAddr = address
        .and_then(|text| text.trim_end_matches('/').parse().ok())
        .expect("an address to try");
    assert!(get(address, "/").contains(r#""service":"#));
    let admin = lines.find_map(|line| {
        let address = line
            .trim()
            .strip_prefix("curl -s http://")?
            .strip_suffix("/metrics")?;
        address.parse().ok()
    });
    let admin = admin.expect("an admin API to try");
    lines
        .find(|line| line.contains("Meanwhile every zone"))
        .expect("word of the traffic that goes on");
    assert!(get(admin, "/").contains("<title>"), "no dashboard");
    // Nobody else connects now.
    let connections = || served(&get(admin, "/metrics"));
    let (begun, before) = (Instant::now(), connections());
    while connections() < before + 4.0 {
        assert!(begun.elapsed() < Duration::from_secs(20), "no traffic goes on");
        // Each look is a request, and takes a moment.
        thread::yield_now();
    }
    let id = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(id, rustix::process::Signal::INT).expect("interrupt causeway");
    assert!(child.wait().expect("wait for causeway").success());
}
