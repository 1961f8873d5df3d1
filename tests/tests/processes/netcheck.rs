//! `causeway netcheck`: what it says of a way that works, and of ways that do not, each for a reason of its own.

use std::{process::Command, time::Duration};

use causeway_tests::{
    authority::{Authority, Validity},
    federation::{Federation, PATIENCE, Plan, TRUST_DOMAIN},
    http,
    link::Conditions,
    process::program,
};
use serde_json::Value;

fn plan() -> Plan {
    let plan = Plan::new().zone("east").zone("west");
    plan.service("orders", "port: 9000, protocol: tcp")
}

/// Exit code and report of `causeway netcheck west` at the gateway of east.
async fn netcheck(federation: &Federation, more: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(program().unwrap());
    let admin = federation.zone("east").admin.to_string();
    command.args(["netcheck", "west", "--admin", &admin]).args(more);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await;
    let output = output.unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

/// Asks until the report has all of these parts and ends with the code.
async fn says(federation: &Federation, code: i32, parts: &[&str]) -> String {
    let mut last = String::new();
    let what = format!("the report ends with {code} and has {parts:?}");
    let found = tokio::time::timeout(PATIENCE, async {
        loop {
            let (exit, said) = netcheck(federation, &[]).await;
            if exit == Some(code) && parts.iter().all(|part| said.contains(part)) {
                return said;
            }
            last = said;
        }
    });
    match found.await {
        Ok(said) => said,
        Err(_) => panic!("{what}; last was\n{last}"),
    }
}

fn address(federation: &Federation) -> String {
    let topology = std::fs::read_to_string(&federation.zone("east").topology).unwrap();
    let west = topology.split("  west:").nth(1).unwrap();
    west.split('"').nth(1).unwrap().to_owned()
}

#[tokio::test]
async fn a_way_that_works_is_told_from_both_ends_and_one_at_a_time_is_looked_at() {
    let federation = plan().linked().start().await.unwrap();
    let delay = Conditions::delayed(Duration::from_millis(10));
    federation.network().set("east", "west", delay);
    let answers = format!(
        "√ {}: answers over UDP, round trip min/avg/max/mdev = ",
        address(&federation)
    );
    let parts = [
        answers.as_str(),
        "√ zone west: ",
        "√ west/gw1: ",
        "√ west/gw1 certificate: spiffe://",
        "√ west/gw1 packets: of 1",
        "√ west/gw1 answers: all of ",
        "X25519MLKEM768",
        ", causeway ",
        "as west says\n  √ zone east: ",
        // The two have other addresses of each other, as the link stands between them: each warns of the other's topology.
        " to look at, 0 failed",
    ];
    let said = says(&federation, 0, &parts).await;
    let least = said
        .split("mdev = ")
        .nth(1)
        .and_then(|times| times.split('/').next());
    let least: f64 = least.unwrap().parse().unwrap();
    assert!(least >= 20.0, "there and back are 20 ms: {said}");
    let (code, json) = netcheck(&federation, &["-o", "json"]).await;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (code, &json["kind"], &json["items"][0]["status"]),
        (Some(0), &"netcheck".into(), &"ok".into())
    );

    let admin = federation.zone("east").admin;
    let path = "/v1/netcheck?zone=west";
    let (one, other) = tokio::join!(http::get(admin, path), http::get(admin, path));
    let mut statuses = [one.unwrap().status, other.unwrap().status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 429]);
    for (zone, status) in [("east", 400), ("nowhere", 404)] {
        let answer = http::get(admin, &format!("/v1/netcheck?zone={zone}")).await;
        assert_eq!(answer.unwrap().status, status, "{zone}");
    }
}

#[tokio::test]
async fn a_gateway_that_is_gone_refuses_and_one_behind_a_cut_is_silent() {
    let mut federation = plan().start().await.unwrap();
    federation.zone_mut("west").kill().unwrap();
    let refuses = format!(
        "× {}: the host refuses it: nothing listens at this UDP port",
        address(&federation)
    );
    says(&federation, 1, &[&refuses, "× zone west: no tunnel"]).await;

    let federation = plan().linked().start().await.unwrap();
    federation.network().set("east", "west", Conditions::cut());
    let silent = format!(
        "× {}: nothing is heard: none of 5 packets was answered",
        address(&federation)
    );
    says(
        &federation,
        1,
        &[&silent, "do IP packets of 1,228 bytes", "× zone west: no tunnel"],
    )
    .await;
    federation.network().set("east", "west", Conditions::clear());
    says(&federation, 0, &["answers over UDP", "√ zone west: "]).await;
}

#[tokio::test]
async fn a_gateway_under_a_root_that_is_not_trusted_is_heard_and_refused() {
    let mut federation = plan().prepare().await.unwrap();
    let foreign = Authority::new(TRUST_DOMAIN).unwrap();
    let leaf = foreign.leaf("west", "gw1", Validity::Current).unwrap();
    federation
        .set_identity("west", &leaf, foreign.root_pem())
        .unwrap();
    for zone in ["east", "west"] {
        federation.start_zone(zone).unwrap();
        federation.zone(zone).wait_ready().await;
    }
    let heard = format!("√ {}: answers over UDP", address(&federation));
    let parts = [
        heard.as_str(),
        "× zone west: no tunnel; ",
        "unknown_issuer",
        "hint: both gateways need a certificate from a CA that is in the other's ca.pem",
    ];
    says(&federation, 1, &parts).await;
}
