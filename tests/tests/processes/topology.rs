//! Applied topologies with real gateways: from one to all, over restarts, and when two are applied at once.

use std::{fs, time::Instant};

use causeway_tests::{
    federation::{Federation, PATIENCE, Plan},
    http,
    measured::measured,
    process::run,
    wait::{until, until_true},
};
use serde_json::Value;

fn plan(zones: &[&str]) -> Plan {
    let plan = zones.iter().fold(Plan::new(), |plan, zone| plan.zone(zone));
    plan.service("orders", "port: 9000, protocol: tcp")
        .ruled_by_applied()
}

/// Generation and fingerprint in force.
async fn in_force(federation: &Federation, zone: &str) -> Option<(u64, String)> {
    let answer = http::get(federation.zone(zone).admin, "/v1/topology")
        .await
        .ok()?;
    let page: Value = serde_json::from_str(&answer.body).ok()?;
    let item = &page["items"][0];
    Some((
        item["generation"].as_u64()?,
        item["fingerprint"].as_str()?.to_owned(),
    ))
}

async fn reaches(federation: &Federation, zone: &str, generation: u64) -> String {
    let what = format!("{zone} has generation {generation}");
    until(&what, PATIENCE, async || {
        let (found, fingerprint) = in_force(federation, zone).await?;
        (found == generation).then_some(fingerprint)
    })
    .await
}

/// Runs `causeway apply` at a zone's gateway, with the topology that all began with and a comment.
fn apply(federation: &Federation, zone: &str, comment: &str, more: &[&str]) -> anyhow::Result<String> {
    let initial = fs::read_to_string(&federation.zone(zone).topology).unwrap();
    let file = federation.folder().join("apply.yaml");
    fs::write(
        &file,
        format!("# {comment}\n{initial}  {comment}: {{ port: 9001, protocol: tcp }}\n"),
    )
    .unwrap();
    let admin = federation.zone(zone).admin.to_string();
    let file = file.display().to_string();
    let arguments = ["apply", "-f", &file, "--admin", &admin];
    run(arguments.iter().chain(more))
}

async fn readiness(federation: &Federation, zone: &str) -> String {
    let answer = http::get(federation.zone(zone).admin, "/readyz?verbose").await;
    answer.map(|answer| answer.body).unwrap_or_default()
}

#[tokio::test]
async fn an_applied_topology_reaches_every_zone_and_outlives_restarts() {
    let mut federation = plan(&["east", "plant", "west"]).start().await.unwrap();
    let begun = Instant::now();
    let said = apply(&federation, "east", "stock", &[]).unwrap();
    assert!(
        said.contains("+ service stock") && said.contains("generation 1"),
        "{said}"
    );
    let fingerprint = reaches(&federation, "east", 1).await;
    for zone in ["plant", "west"] {
        assert_eq!(reaches(&federation, zone, 1).await, fingerprint);
    }
    measured(&format!(
        "an applied topology was in force in three zones after {:?}",
        begun.elapsed()
    ));
    // It does what a topology does: the new service has an address in another zone.
    federation.service_address("west", "stock", 9001).await;

    federation.zone_mut("plant").kill().unwrap();
    let refusal = apply(&federation, "west", "billing", &["--generation", "0"]).unwrap_err();
    let refusal = format!("{refusal:#}");
    assert!(
        refusal.contains("generation 1 is in force, not 0: east/gw1 applied it"),
        "{refusal}"
    );
    apply(&federation, "west", "billing", &["--generation", "1"]).unwrap();
    reaches(&federation, "east", 2).await;

    // The file that it began with is not needed any more.
    let initial = federation.zone("east").topology.clone();
    let kept = initial.with_extension("kept");
    fs::rename(&initial, &kept).unwrap();
    federation.zone_mut("east").kill().unwrap();
    federation.start_zone("east").unwrap();
    federation.zone("east").wait_ready().await;
    assert_eq!(in_force(&federation, "east").await.unwrap().0, 2);

    federation.start_zone("plant").unwrap();
    let caught_up = reaches(&federation, "plant", 2).await;
    assert_eq!(in_force(&federation, "west").await, Some((2, caught_up)));
    for zone in ["east", "plant", "west"] {
        let readiness = readiness(&federation, zone).await;
        assert!(
            readiness.contains("[ok] gateway: topology: generation 2"),
            "{readiness}"
        );
    }
}

#[tokio::test]
async fn a_topology_is_waited_for_and_says_why_and_the_way_to_a_zone_is_measured() {
    let mut federation = plan(&["east", "west"]).start().await.unwrap();
    let why = ["-m", "stock is new, OPS-7", "--wait", "30s"];
    let said = apply(&federation, "east", "stock", &why).unwrap();
    assert!(
        said.contains("generation 1 is in force at all gateways that can be heard (2)\n"),
        "{said}"
    );
    // It is in force there now, not soon.
    assert_eq!(in_force(&federation, "west").await.unwrap().0, 1);
    let (east, west) = (
        federation.zone("east").admin.to_string(),
        federation.zone("west").admin.to_string(),
    );
    let history = run(["get", "topology", "--history", "--admin", &west]).unwrap();
    assert!(history.contains("stock is new, OPS-7"), "{history}");
    until_true("west tells of it", PATIENCE, async || {
        let events = run(["get", "events", "--kind", "topology_applied", "--admin", &west]).unwrap();
        events.contains("applied at east/gw1: stock is new, OPS-7")
    })
    .await;

    let ping = ["ping", "west", "-c", "2", "-i", "100ms", "--admin", &east];
    let said = run(ping).unwrap();
    assert!(
        said.contains("seq=2 time=") && said.contains("--- west/gw1 ---\n") && said.contains(", 0% lost\n"),
        "{said}"
    );
    federation.zone_mut("west").kill().unwrap();
    let late = apply(&federation, "east", "billing", &["--wait", "500ms"]).unwrap_err();
    let late = format!("{late:#}");
    assert!(
        late.contains("generation 2 is not in force after 500ms at west/gw1 (has generation 1)"),
        "{late}"
    );
    until_true("there is no tunnel to ask over", PATIENCE, async || {
        let failed = run(ping).unwrap_err();
        format!("{failed:#}").contains("there is no tunnel with zone west")
    })
    .await;
}

#[tokio::test]
async fn of_two_topologies_applied_apart_one_rules_everywhere_and_everybody_says_so() {
    let mut federation = plan(&["east", "west"]).prepare().await.unwrap();
    federation.start_zone("east").unwrap();
    federation.zone("east").wait_ready().await;
    apply(&federation, "east", "stock", &[]).unwrap();
    let east = reaches(&federation, "east", 1).await;
    federation.zone_mut("east").kill().unwrap();
    federation.start_zone("west").unwrap();
    federation.zone("west").wait_ready().await;
    apply(&federation, "west", "billing", &[]).unwrap();
    let west = reaches(&federation, "west", 1).await;
    assert_ne!(east, west);

    federation.start_zone("east").unwrap();
    // That of the gateway with the lower name, whatever the fingerprints are.
    let winner = east.clone();
    for zone in ["east", "west"] {
        let what = format!("{zone} has what east applied in force, and warns");
        until_true(&what, PATIENCE, async || {
            let warned = readiness(&federation, zone)
                .await
                .contains("[warn] gateway: topology: two were applied");
            warned && in_force(&federation, zone).await == Some((1, winner.clone()))
        })
        .await;
        let by = ["east/gw1", "west/gw1", "overruled"];
        federation
            .zone(zone)
            .wait_log(&[&["ERROR"], by.as_slice()].concat())
            .await;
        federation
            .zone(zone)
            .wait_metric(
                "causeway_topology_documents_total",
                &[("result", "overruled")],
                1.0,
            )
            .await;
        let answer = http::get(federation.zone(zone).admin, "/v1/topology/history")
            .await
            .unwrap();
        assert!(answer.body.contains("\"overruled\""), "{}", answer.body);
    }

    apply(&federation, "west", "settled", &[]).unwrap();
    reaches(&federation, "east", 2).await;
    for zone in ["east", "west"] {
        let readiness = readiness(&federation, zone).await;
        assert!(
            readiness.contains("[ok] gateway: topology: generation 2"),
            "{readiness}"
        );
    }
}
