//! Tests of the verdicts, on findings made by hand.

use std::time::SystemTime;

use causeway_api::admin::{
    EchoView, HeardView, ProbedView,
    view::{LastWordView, LinkView, TunnelView, ZoneView},
};
use causeway_telemetry::{Check, Status};

use super::verdict::{PathFindings, WordOfPeer, judge};
use crate::cli::check::report;

fn now() -> SystemTime {
    humantime::parse_rfc3339_weak("2026-12-01T12:00:00Z").unwrap()
}

fn zone(name: &str, state: &str) -> ZoneView {
    let link = LinkView {
        gateway: "gw1".to_owned(),
        state: state.to_owned(),
        tunnels: usize::from(state == "up"),
        age: Some("fresh".to_owned()),
        same_topology: Some(true),
        clock_ahead_seconds: (state == "up").then_some(0.1),
        ..LinkView::default()
    };
    serde_json::from_value(serde_json::json!({
        "name": name, "own": false, "state": state, "tags": {}, "links": [link],
        "gateways": [["gw.west:7800", "10.2.0.9:7800"]],
    }))
    .unwrap()
}

fn heard(address: &str, round_trips_ms: &[f64]) -> HeardView {
    HeardView {
        address: address.to_owned(),
        sent: 5,
        round_trips_ms: round_trips_ms.to_vec(),
        ..HeardView::default()
    }
}

fn probed(address: &str, heard: HeardView) -> ProbedView {
    ProbedView {
        gateway: 0,
        address: address.to_owned(),
        unresolved: None,
        heard: vec![heard],
    }
}

fn tunnel() -> TunnelView {
    serde_json::from_value(serde_json::json!({
        "zone": "west", "gateway": "gw1", "state": "up", "dialled": true, "thread": 0, "remote": "10.2.0.1:7800",
        "up_seconds": 7500.0, "rtt_ms": 1.0, "streams": 0, "key_exchange": "X25519MLKEM768", "post_quantum": true,
        "cipher": "TLS13_AES_128_GCM_SHA256", "identity": "spiffe://acme.internal/gateway/west/gw1",
        "certificate_ends": "2026-12-02T00:00:00Z", "program": "causeway 0.1.0", "congestion_window_bytes": 1,
        "mtu_bytes": 1452, "sent_packets": 10_000, "lost_packets": 1, "sent_bytes": 1, "received_bytes": 1,
    }))
    .unwrap()
}

fn echo(echo_ms: Option<f64>) -> EchoView {
    EchoView {
        zone: "west".to_owned(),
        gateway: "gw1".to_owned(),
        thread: 0,
        dialled: true,
        remote: "10.2.0.1:7800".parse().unwrap(),
        echo_ms,
        rtt_ms: 1.0,
        because: echo_ms.is_none().then(|| "no answer within 2 s".to_owned()),
    }
}

fn well() -> PathFindings {
    let trips = [1.0, 2.0, 3.0, 2.0, 2.0];
    PathFindings {
        own_has_addresses: true,
        zone: zone("west", "up"),
        probes: vec![
            probed("gw.west:7800", heard("10.2.0.1:7800", &trips)),
            probed("10.2.0.9:7800", heard("10.2.0.9:7800", &trips)),
        ],
        tunnels: vec![tunnel()],
        echoes: vec![echo(Some(2.0)), echo(Some(4.0))],
        peer: WordOfPeer::Said(Box::new(zone("east", "up"))),
    }
}

/// Without a tunnel, and the reason for that.
fn down(side: Option<&str>, reason: &str) -> PathFindings {
    let word = LastWordView {
        side: side.map(str::to_owned),
        reason: reason.to_owned(),
        seconds_ago: 2.0,
    };
    PathFindings {
        zone: ZoneView {
            last_word: Some(word),
            ..zone("west", "down")
        },
        tunnels: Vec::new(),
        echoes: Vec::new(),
        peer: WordOfPeer::NotAsked,
        ..well()
    }
}

fn found<'a>(checks: &'a [Check], name: &str) -> &'a Check {
    let elsewhere = ["zone sync", "clocks"];
    let mut own = checks
        .iter()
        .filter(|check| !elsewhere.contains(&check.group.as_str()));
    let found = own.find(|check| check.name == name);
    found.unwrap_or_else(|| panic!("{name} is not in {checks:#?}"))
}

#[test]
fn a_way_on_which_all_is_well_is_told_line_by_line() {
    let checks = judge(&well(), now());
    insta::assert_snapshot!(report("east", &checks, false), @r"
zone east

addresses
  √ gw.west:7800 at 10.2.0.1:7800: answers over UDP, round trip min/avg/max/mdev = 1.000/2.000/3.000/0.632 ms
  √ 10.2.0.9:7800: answers over UDP, round trip min/avg/max/mdev = 1.000/2.000/3.000/0.632 ms

tunnels
  √ zone west: 1 up
  √ west/gw1: 1 up, of 1; 1 dialled here, 0 there; the oldest for 2h 5m, X25519MLKEM768, TLS13_AES_128_GCM_SHA256, causeway 0.1.0
  √ west/gw1 certificate: spiffe://acme.internal/gateway/west/gw1, under a root that is trusted here, until 2026-12-02T00:00:00Z
  √ west/gw1 packets: of 1452 bytes pass; 1 of 10000 lost since the tunnels are up (0.01%)
  √ west/gw1 answers: all of 2 questions, round trip min/avg/max/mdev = 2.000/3.000/4.000/1.000 ms

zone sync
  √ west/gw1: fresh

clocks
  √ west/gw1: its clock was 0.1 s ahead of this host's when the youngest tunnel came up

as west says
  √ zone east: 1 up
  √ east/gw1: fresh

11 well, 0 to look at, 0 failed
");
}

#[test]
fn silence_a_refusal_a_name_without_address_and_no_route_are_told_apart() {
    let mut findings = down(None, "timeout");
    findings.probes = vec![
        ProbedView {
            unresolved: Some("Name or service not known\u{1b}".to_owned()),
            ..probed("gw.west:7800", heard("", &[]))
        },
        probed("10.2.0.1:7800", heard("10.2.0.1:7800", &[])),
        probed(
            "10.2.0.2:7800",
            HeardView {
                refused: true,
                ..heard("10.2.0.2:7800", &[])
            },
        ),
        probed(
            "[fd00::1]:7800",
            HeardView {
                unsent: Some("Network is unreachable".to_owned()),
                ..heard("[fd00::1]:7800", &[])
            },
        ),
    ];
    insta::assert_snapshot!(report("east", &judge(&findings, now())[..5], false), @r"
zone east

addresses
  × gw.west:7800: the name has no address: Name or service not known\u{1b}
    hint: is it right in the topology? `getent ahosts` on the gateway's host asks the same resolver
  × 10.2.0.1:7800: nothing is heard: none of 5 packets was answered
    hint: is its gateway running, is this UDP port open on the way there and back, and do IP packets of 1,228 bytes (UDP with 1,200) pass?
  × 10.2.0.2:7800: the host refuses it: nothing listens at this UDP port
    hint: is its gateway running there, and does its --listen have this port?
  × [fd00::1]:7800: nothing can be sent there: Network is unreachable
    hint: has this host a route there, and may the gateway send UDP?

tunnels
  × zone west: no tunnel; nobody was reached: timeout
    hint: is its gateway running, is 7800/udp open on the way, and do IP packets of 1,228 bytes (UDP with 1,200) pass it, which a tunnel needs?

0 well, 0 to look at, 5 failed
");
}

#[test]
fn an_address_beside_one_that_answers_or_of_a_gateway_that_dials_is_a_warning() {
    let mut findings = down(None, "timeout");
    findings.probes[0].heard[0].round_trips_ms.clear();
    let status =
        |findings: &PathFindings| found(&judge(findings, now()), "gw.west:7800 at 10.2.0.1:7800").status;
    assert_eq!(status(&findings), Status::Warn, "the other address answers");
    findings.probes[1].heard[0].round_trips_ms.clear();
    assert_eq!(status(&findings), Status::Fail);
    findings.tunnels = vec![TunnelView {
        dialled: false,
        ..tunnel()
    }];
    assert_eq!(status(&findings), Status::Warn, "it dials us");
    findings.tunnels = vec![tunnel()];
    let checks = judge(&findings, now());
    let check = found(&checks, "gw.west:7800 at 10.2.0.1:7800");
    assert!(
        check.status == Status::Warn && check.message.contains("although a tunnel is up"),
        "{check:?}"
    );
}

#[test]
fn a_network_that_works_and_no_tunnel_is_a_matter_of_what_the_refusal_says() {
    for (side, message) in [
        ("local", "no tunnel; this gateway refuses it: unknown_issuer"),
        ("peer", "no tunnel; it refuses this gateway: unknown_issuer"),
    ] {
        let checks = judge(&down(Some(side), "unknown_issuer"), now());
        assert_eq!(found(&checks, "10.2.0.9:7800").status, Status::Ok);
        let link = found(&checks, "zone west");
        assert_eq!((link.status, link.message.as_str()), (Status::Fail, message));
        assert!(
            link.hint.as_ref().is_some_and(|hint| hint.contains("ca.pem")),
            "{link:?}"
        );
    }
}

#[test]
fn losses_small_packets_silence_and_a_certificate_that_ends_are_to_be_looked_at() {
    let judged = |change: fn(&mut PathFindings), name: &str| {
        let mut findings = well();
        change(&mut findings);
        let checks = judge(&findings, now());
        let check = found(&checks, name);
        (check.status, check.message.clone())
    };
    let warned = |change, name: &str, words: &str| {
        let (status, message) = judged(change, name);
        assert!(
            status == Status::Warn && message.contains(words),
            "{name}: {status:?} {message}"
        );
    };
    warned(
        |f| f.tunnels[0].lost_packets = 200,
        "west/gw1 packets",
        "200 of 10000 lost",
    );
    warned(
        |f| f.tunnels[0].mtu_bytes = 1200,
        "west/gw1 packets",
        "of 1200 bytes pass",
    );
    warned(
        |f| f.tunnels[0].state = "stalled".to_owned(),
        "west/gw1",
        "1 silent",
    );
    warned(
        |f| f.echoes[0].echo_ms = None,
        "west/gw1 answers",
        "1 of 2 questions",
    );
    warned(
        |f| f.probes[0].heard[0].round_trips_ms.truncate(3),
        "gw.west:7800 at 10.2.0.1:7800",
        "3 of 5 packets answered",
    );
    warned(
        |f| f.tunnels[0].certificate_ends = Some("2026-12-01T12:05:00Z".to_owned()),
        "west/gw1 certificate",
        "until 2026-12-01T12:05:00Z",
    );
    let young = |f: &mut PathFindings| (f.tunnels[0].mtu_bytes, f.tunnels[0].up_seconds) = (1200, 1.0);
    assert_eq!(
        judged(young, "west/gw1 packets").0,
        Status::Ok,
        "it is still being found out"
    );
    let mut findings = well();
    findings.zone.links[0].clock_ahead_seconds = Some(45.0);
    let checks = judge(&findings, now());
    let clocks: Vec<_> = checks.iter().filter(|check| check.group == "clocks").collect();
    assert_eq!((clocks.len(), clocks[0].status), (1, Status::Warn), "{clocks:?}");
    let dead = |f: &mut PathFindings| f.echoes.iter_mut().for_each(|echo| echo.echo_ms = None);
    assert_eq!(judged(dead, "west/gw1 answers").0, Status::Fail);
}

#[test]
fn what_the_other_zone_says_is_told_as_its_word() {
    let mut findings = well();
    findings.peer = WordOfPeer::Said(Box::new(zone("east", "stalled")));
    let checks = judge(&findings, now());
    let told = found(&checks, "zone east");
    assert_eq!((told.group.as_str(), told.status), ("as west says", Status::Warn));
    findings.peer = WordOfPeer::KnowsNothing;
    assert_eq!(found(&judge(&findings, now()), "this zone").status, Status::Fail);
    findings.peer = WordOfPeer::None {
        because: "it may not be read".to_owned(),
        hint: None,
    };
    let checks = judge(&findings, now());
    let told = found(&checks, "this zone");
    assert_eq!(
        (told.status, told.message.as_str()),
        (Status::Warn, "it does not say: it may not be read")
    );
}

#[test]
fn a_zone_that_only_dials_has_no_address_to_probe() {
    let mut findings = down(None, "timeout");
    findings.probes.clear();
    findings.zone.gateways.clear();
    let at = |findings: &PathFindings| {
        let checks = judge(findings, now());
        (checks[0].status, found(&checks[1..], "zone west").status)
    };
    assert_eq!(
        at(&findings),
        (Status::Ok, Status::Fail),
        "it should have dialled"
    );
    findings.own_has_addresses = false;
    assert_eq!(at(&findings).0, Status::Warn, "neither can");
}
