//! Signatures of applied topologies: certificates that have ended sign nothing any more, and what is in force outlives the gateway
//! that took it.

use std::{fs, time::Duration};

use causeway_federation::{
    edition::{Edition, Fingerprint},
    name::GatewayId,
    topology::applied::TopologyDocument,
};
use causeway_tests::{
    authority::Validity,
    ca::CaServer,
    federation::{Federation, PATIENCE, Plan, TRUST_DOMAIN},
    hostile::LeafSigner,
    http,
    peer::Peer,
    process::run,
    wait::{until, until_true},
};
use serde_json::Value;

/// Renewed while the test looks on.
const SHORT: Duration = Duration::from_secs(12);

fn plan() -> Plan {
    let plan = ["east", "north", "west"]
        .iter()
        .fold(Plan::new(), |plan, zone| plan.zone(zone));
    plan.service("orders", "port: 9000, protocol: tcp")
        .ruled_by_applied()
}

/// Generation in force in a zone, and the first digits of its fingerprint.
async fn in_force(federation: &Federation, zone: &str) -> Option<(u64, String)> {
    let page = http::get(federation.zone(zone).admin, "/v1/topology")
        .await
        .ok()?;
    let page: Value = serde_json::from_str(&page.body).ok()?;
    let item = &page["items"][0];
    Some((
        item["generation"].as_u64()?,
        item["fingerprint"].as_str()?.to_owned(),
    ))
}

async fn reaches(federation: &Federation, zone: &str, generation: u64) -> String {
    until(
        &format!("{zone} has generation {generation}"),
        PATIENCE,
        async || {
            let (found, fingerprint) = in_force(federation, zone).await?;
            (found == generation).then_some(fingerprint)
        },
    )
    .await
}

/// The topology that all began with, with a comment and a rule on who may apply.
fn text(federation: &Federation, comment: &str) -> String {
    let initial = fs::read_to_string(&federation.zone("west").topology).unwrap();
    format!("# {comment}\napply_from: [east, west]\n{initial}")
}

fn apply(federation: &Federation, zone: &str, comment: &str) {
    let file = federation.folder().join("apply.yaml");
    fs::write(&file, text(federation, comment)).unwrap();
    let admin = federation.zone(zone).admin.to_string();
    run(["apply", "-f", &file.display().to_string(), "--admin", &admin]).unwrap();
}

#[tokio::test]
async fn an_ended_certificate_signs_no_topology_whatever_fingerprint_it_is_given() {
    let mut federation = plan().prepare().await.unwrap();
    federation.start_zone("west").unwrap();
    federation.zone("west").wait_ready().await;
    apply(&federation, "west", "one");
    let first = text(&federation, "one");
    apply(&federation, "west", "two");
    let ruling = reaches(&federation, "west", 2).await;

    // A zone that may not apply hands on what east, whose name is the lower, has signed with a certificate that has ended.
    let ended = federation
        .authority()
        .leaf("east", "gw1", Validity::Expired)
        .unwrap();
    let parent = Edition {
        generation: 1,
        fingerprint: Fingerprint::of(&first),
    };
    let ground = (0..).map(|nth| text(&federation, &format!("rival {nth}")));
    let rival = { ground }
        .find(|text| Fingerprint::of(text).to_string() < ruling)
        .unwrap();
    let by = GatewayId::new("east".parse().unwrap(), "gw1".parse().unwrap());
    let rival = TopologyDocument::new(parent, rival.into(), by, 1);
    let rival = rival.sign(&LeafSigner::new(&ended).unwrap()).unwrap();
    let own = federation
        .authority()
        .leaf("north", "gw1", Validity::Current)
        .unwrap();
    let mut hostile = Peer::connect(federation.zone("west").listen, Some(&own))
        .await
        .unwrap();
    hostile.hello().await.unwrap();
    hostile.hand_out(&rival);
    hostile.claim(rival.edition()).await.unwrap();
    let west = federation.zone("west");
    west.wait_log(&[
        "did not take an applied topology from a gateway",
        "north/gw1",
        "east/gw1",
    ])
    .await;
    assert_eq!(in_force(&federation, "west").await, Some((2, ruling)));
}

#[tokio::test]
async fn a_topology_outlives_the_certificate_of_the_gateway_that_took_it() {
    let ca = CaServer::start(TRUST_DOMAIN, SHORT).await.unwrap();
    let mut federation = plan().prepare().await.unwrap();
    ca.admit(&federation).unwrap();
    for zone in ["east", "west"] {
        federation.start_zone(zone).unwrap();
    }
    federation.ready("west").await;
    apply(&federation, "east", "one");
    let ruling = reaches(&federation, "west", 1).await;
    let east = federation.zone("east").identity.join("cert.pem");
    federation.zone_mut("east").kill().unwrap();
    // The last certificate that east has had ends, and west has had others since.
    let made = fs::metadata(east).unwrap().modified().unwrap();
    until_true("the certificate of east has ended", PATIENCE, async || {
        made.elapsed().is_ok_and(|since| since > SHORT)
    })
    .await;
    // Its own is fresh: the one that it was laid out with would have ended as well.
    ca.admit_zone(&federation, "north").unwrap();
    federation.start_zone("north").unwrap();
    assert_eq!(reaches(&federation, "north", 1).await, ruling);
}
