//! One view over a federation with real gateways: each zone is asked through whichever gateway one talks to, and decides itself what may be
//! read of it.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use causeway_tests::{
    authority::Validity,
    federation::{Federation, PATIENCE, Plan},
    http,
    peer::Peer,
    process::{program, run},
    wait::until,
};
use serde_json::Value;

const INSTANCE: &str = "10.1.2.3:80";
const ZONES: [&str; 3] = ["east", "north", "west"];

/// Every zone has an instance of its own, and one service that all of them know.
fn plan() -> Plan {
    let instance: SocketAddr = INSTANCE.parse().unwrap();
    let zones = ZONES.iter().fold(Plan::new(), |plan, zone| {
        plan.zone(zone).instance("orders", instance, "{}")
    });
    zones.service("orders", "port: 9000, protocol: tcp")
}

/// Answer of the gateway of `zone` to a question for every zone.
async fn all(federation: &Federation, zone: &str, path: &str) -> Vec<Value> {
    let answer = http::get(federation.zone(zone).admin, path).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    let page: Value = serde_json::from_str(&answer.body).unwrap();
    page["zones"].as_array().unwrap().clone()
}

fn entry<'a>(zones: &'a [Value], name: &str) -> &'a Value {
    zones.iter().find(|zone| zone["zone"] == name).unwrap()
}

/// Waits until every zone that `answer` names has answered, and gives the answers.
async fn answered(federation: &Federation, asked: &str, path: &str, answer: &[&str]) -> Vec<Value> {
    let what = format!("{answer:?} answer {asked} for {path}");
    until(&what, PATIENCE, async || {
        let zones = all(federation, asked, path).await;
        let good = |name: &&str| entry(&zones, name)["state"] == "answered";
        answer.iter().all(good).then_some(zones)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_zone_is_seen_from_each_and_one_that_is_away_with_its_last_word() {
    let mut federation = plan().start().await.unwrap();
    for asked in ZONES {
        let zones = answered(&federation, asked, "/v1/services?all=true", &ZONES).await;
        let mut order = vec![asked];
        order.extend(ZONES.iter().filter(|zone| **zone != asked));
        let told: Vec<_> = zones.iter().map(|zone| zone["zone"].as_str().unwrap()).collect();
        assert_eq!(told, order);
        for zone in &zones {
            // As that zone gives it, and of itself.
            assert_eq!(zone["answer"]["zone"], zone["zone"]);
            assert_eq!(zone["answer"]["items"][0]["name"], "orders");
        }
    }
    let east = federation.zone("east").admin;
    let one = http::get(east, "/v1/services?zone=west").await.unwrap();
    assert_eq!(
        (
            one.status,
            serde_json::from_str::<Value>(&one.body).unwrap()["zone"].clone()
        ),
        (200, "west".into())
    );
    let unknown = http::get(east, "/v1/services?zone=south").await.unwrap();
    assert_eq!(unknown.status, 404, "{}", unknown.body);
    answered(&federation, "east", "/v1/checks?all=true", &ZONES).await;

    federation.zone_mut("west").kill().unwrap();
    let zones = until("west is away", PATIENCE, async || {
        let zones = all(&federation, "east", "/v1/services?all=true").await;
        (entry(&zones, "west")["state"] == "away").then_some(zones)
    })
    .await;
    let west = entry(&zones, "west");
    assert!(!west["because"].as_str().unwrap().is_empty(), "{west}");
    assert_eq!(west["last"]["answer"]["zone"], "west");
    assert_eq!(west["last"]["answer"]["items"][0]["name"], "orders");
    assert_eq!(entry(&zones, "north")["state"], "answered");

    let admin = east.to_string();
    let table = run(["get", "services", "--all", "--admin", &admin]).unwrap();
    assert!(table.starts_with("AT ZONE"), "{table}");
    assert!(table.contains("zone west is away"), "{table}");
    assert!(table.contains("ago"), "{table}");
    let json: Value =
        serde_json::from_str(&run(["get", "services", "--all", "-o", "json", "--admin", &admin]).unwrap())
            .unwrap();
    assert_eq!(entry(json["zones"].as_array().unwrap(), "west")["state"], "away");
    let check = Command::new(program().unwrap())
        .args(["check", "--all", "--admin", &admin])
        .output()
        .unwrap();
    let told = String::from_utf8(check.stdout).unwrap();
    assert_eq!(check.status.code(), Some(1), "{told}");
    assert!(
        told.contains("× answer: away: ") && told.contains("it said: "),
        "{told}"
    );
    assert!(
        federation
            .zone("east")
            .metrics()
            .await
            .unwrap()
            .sum("causeway_pages_asked_total", &[("result", "away")])
            > 0.0
    );
}

/// A token of its own for a zone: the file that its gateway is started with, and the one that holds the token.
fn token(federation: &Federation, zone: &str) -> (PathBuf, PathBuf) {
    let of = |end: &str| federation.folder().join(format!("{zone}.{end}"));
    let (known, token) = (of("tokens.json"), of("token"));
    let issued = run([
        "admin-token",
        "issue",
        "--name",
        "desk",
        "--scope",
        "read",
        "--file",
        known.to_str().unwrap(),
    ]);
    fs::write(&token, issued.unwrap()).unwrap();
    (known, token)
}

/// A federation in which west and north know a token each, and north grants reading to east; and the token of west.
async fn with_rights() -> (Federation, PathBuf) {
    let mut federation = plan().prepare().await.unwrap();
    let (of_west, west_token) = token(&federation, "west");
    let (of_north, _) = token(&federation, "north");
    let arguments = ["--admin-tokens", of_west.to_str().unwrap()];
    federation.zone_mut("west").arguments = arguments.map(str::to_owned).to_vec();
    let grant = "read=spiffe://test.internal/zone/east/*";
    let arguments = [
        "--admin-tokens",
        of_north.to_str().unwrap(),
        "--admin-allow",
        grant,
    ];
    federation.zone_mut("north").arguments = arguments.map(str::to_owned).to_vec();
    for zone in ZONES {
        federation.start_zone(zone).unwrap();
    }
    for zone in ZONES {
        federation.ready(zone).await;
    }
    answered(&federation, "east", "/v1/zones?all=true", &ZONES).await;
    (federation, west_token)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_zone_decides_what_may_be_read_of_it_and_says_why_not() {
    let (federation, west_token) = with_rights().await;
    // Without a token it is the asking zone that counts: granted at north, and not at west.
    let zones = answered(&federation, "east", "/v1/instances?all=true", &["east", "north"]).await;
    assert_eq!(entry(&zones, "north")["answer"]["items"][0]["address"], INSTANCE);
    let refused = entry(&zones, "west");
    assert_eq!(refused["state"], "refused");
    let because = refused["because"].as_str().unwrap();
    let nothing = "nothing is granted to spiffe://test.internal/zone/east/gateway/gw1";
    assert!(because.contains(nothing), "{refused}");
    assert!(
        refused["hint"].as_str().unwrap().contains("--admin-allow"),
        "{refused}"
    );
    let zones = all(&federation, "east", "/v1/settings?all=true").await;
    assert_eq!(entry(&zones, "west")["state"], "refused");
    assert_eq!(entry(&zones, "north")["state"], "answered");
    // What the federation may read names no instance.
    for page in ["services", "checks", "zones", "exports"] {
        let zones = all(&federation, "east", &format!("/v1/{page}?all=true")).await;
        let west = entry(&zones, "west");
        assert_eq!(west["state"], "answered", "{west}");
        assert!(!west.to_string().contains("10.1.2.3"), "{west}");
    }
    with_a_token(&federation, &west_token).await;
    for (zone, reason) in [("west", "not_granted"), ("north", "bad_token")] {
        let refused = federation.zone(zone).metrics().await.unwrap();
        let count = refused.sum("causeway_api_refused_total", &[("reason", reason)]);
        assert!(count > 0.0, "{zone}");
        let line = ["causeway::audit", "federation", reason];
        federation.zone(zone).wait_log(&line).await;
    }
}

/// A token of west is worth something there, and at north not even what its gateway is granted.
async fn with_a_token(federation: &Federation, west_token: &Path) {
    let admin = federation.zone("east").admin.to_string();
    let shown = ["--admin-token-file", west_token.to_str().unwrap()];
    let get = ["get", "instances", "--all", "-o", "json", "--admin", &admin];
    let page: Value = serde_json::from_str(&run(get.iter().chain(&shown)).unwrap()).unwrap();
    let zones = page["zones"].as_array().unwrap();
    assert_eq!(entry(zones, "west")["answer"]["items"][0]["address"], INSTANCE);
    for zone in ["east", "north"] {
        let other = entry(zones, zone);
        assert_eq!(other["state"], "refused");
        assert_eq!(other["because"], "the bearer token is not known");
    }
    let at = |zone: &'static str| ["get", "instances", "--at", zone, "--admin", &admin];
    assert!(run(at("west").iter().chain(&shown)).is_ok());
    assert!(run(at("east").iter().chain(&shown)).is_err());
    // Nobody else is shown what it opens, nor is it anywhere to be found.
    let zones = all(federation, "east", "/v1/instances?all=true").await;
    assert_eq!(entry(&zones, "west")["state"], "refused");
    let token = fs::read_to_string(west_token).unwrap();
    for zone in ZONES {
        assert!(!federation.zone(zone).log().contains(token.trim()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hostile_answer_costs_the_zone_that_gives_it_and_nobody_else() {
    let mut federation = plan().prepare().await.unwrap();
    for zone in ["east", "west"] {
        federation.start_zone(zone).unwrap();
    }
    for zone in ["east", "west"] {
        federation.zone(zone).wait_ready().await;
    }
    answered(&federation, "east", "/v1/zones?all=true", &["east", "west"]).await;
    let leaf = federation
        .authority()
        .leaf("north", "gw1", Validity::Current)
        .unwrap();
    let documents = |status: u16, length: u32, body: &[u8]| {
        [
            &2_u32.to_be_bytes()[..],
            &status.to_be_bytes(),
            &length.to_be_bytes(),
            body,
        ]
        .concat()
    };
    let deep = "[".repeat(100_000);
    for (answer, because) in [
        (documents(200, u32::MAX, b"{}"), "longer than"),
        (documents(200, 8, b"not json"), "not JSON"),
        (documents(200, 100_000, deep.as_bytes()), "nested deeper"),
        (documents(200, 1000, b"{\"zone\":"), "no whole answer"),
        (Vec::new(), "no answer has begun"),
        (documents(99, 2, b"{}"), "cannot be read"),
    ] {
        let mut peer = Peer::connect(federation.zone("east").listen, Some(&leaf))
            .await
            .unwrap();
        peer.hello_with("page").await.unwrap();
        let answering = peer.hand_out_pages(answer);
        let begun = Instant::now();
        let zones = until(
            &format!("north's answer is found to be wrong: {because}"),
            PATIENCE,
            async || {
                let zones = all(&federation, "east", "/v1/zones?all=true").await;
                let said = entry(&zones, "north")["because"].as_str()?.contains(because);
                said.then_some(zones)
            },
        )
        .await;
        assert_eq!(entry(&zones, "north")["state"], "away");
        assert_eq!(entry(&zones, "west")["state"], "answered");
        assert_eq!(entry(&zones, "east")["state"], "answered");
        // No question takes longer than its limit.
        let asked = Instant::now();
        all(&federation, "east", "/v1/zones?all=true").await;
        assert!(
            asked.elapsed() < Duration::from_secs(10),
            "{:?} of {:?}",
            asked.elapsed(),
            begun.elapsed()
        );
        answering.abort();
        peer.connection.close(0_u32.into(), b"");
    }
    federation.zone("east").wait_ready().await;
}
