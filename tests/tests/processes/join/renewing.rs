//! Gateways renew by themselves: under load, while the CA is away, and through another zone.

use std::{
    fs,
    time::{Duration, Instant},
};

use causeway_tests::{
    ca::causeway,
    federation::PATIENCE,
    http,
    load::Load,
    measured::measured,
    talk::{Client, say},
    wait::until_true,
};

use super::{begin, prepare};

/// Short enough to see several renewals, long enough for a busy machine to be late.
const SHORT: Duration = Duration::from_secs(20);
const RENEWALS: &str = "causeway_identity_renewals_total";

#[tokio::test]
async fn three_renewals_under_load_cost_no_request_and_no_connection() {
    let (ca, mut federation, _west) = prepare(SHORT, &[]).await;
    begin(&mut federation).await;
    let orders = federation.service_address("east", "orders", 9000).await;
    let mut lasting = Client::connect(orders).await.unwrap();
    assert_eq!(lasting.say("before").await.unwrap(), "west before");
    let load = Load {
        service: orders,
        connections_per_second: 50,
        patience: Duration::from_secs(10),
    };
    let (load, started) = (load.start(), Instant::now());
    until_true("both have renewed three times", 6 * SHORT, async || {
        for zone in ["east", "west"] {
            let metrics = federation.zone(zone).metrics().await.unwrap_or_default();
            if metrics.sum(RENEWALS, &[("result", "ok")]) < 3.0 {
                return false;
            }
        }
        true
    })
    .await;
    assert_eq!(lasting.say("after").await.unwrap(), "west after");
    let report = load.stop().await;
    assert_eq!(report.failed().count(), 0, "{report}");
    measured(&format!(
        "three renewals of both certificates in {:?}, under load: {report}",
        started.elapsed()
    ));
    let issued = fs::read_to_string(ca.ca().join("issued.jsonl")).unwrap();
    assert!(issued.matches(r#""how":"renewal""#).count() >= 6, "{issued}");
}

#[tokio::test]
async fn while_the_ca_is_away_the_old_certificate_works_on_and_somebody_is_told() {
    let (mut ca, mut federation, _west) = prepare(3 * SHORT, &[]).await;
    begin(&mut federation).await;
    ca.stop().await.unwrap();
    let east = federation.zone("east");
    let failed = [("result", "failed")];
    until_true("a renewal has failed", 3 * SHORT, async || {
        let metrics = east.metrics().await.unwrap_or_default();
        metrics.sum(RENEWALS, &failed) >= 2.0
    })
    .await;
    east.wait_log(&["WARN", "could not be renewed", "cannot connect to"])
        .await;
    let check = causeway(&["check", "--admin", &east.admin.to_string()]).unwrap();
    assert_eq!(check.status.code(), Some(0), "a warning is no failure");
    let check = String::from_utf8(check.stdout).unwrap();
    assert!(
        check.contains("could not be renewed") && check.contains("tries"),
        "{check}"
    );
    let ready = http::get(east.admin, "/readyz").await.unwrap();
    assert_eq!(ready.status, 200, "it is ready all the same");
    let orders = federation.service_address("east", "orders", 9000).await;
    assert_eq!(say(orders, "still").await.unwrap(), "west still");

    ca.resume(&[]).await.unwrap();
    for zone in ["east", "west"] {
        let zone = federation.zone(zone);
        zone.wait_metric(RENEWALS, &[("result", "ok")], 1.0).await;
    }
    until_true("all is well again", PATIENCE, async || {
        let page = http::get(east.admin, "/readyz?verbose").await;
        page.is_ok_and(|page| !page.body.contains("could not be renewed"))
    })
    .await;
    assert_eq!(say(orders, "again").await.unwrap(), "west again");
}

#[tokio::test]
async fn a_zone_that_cannot_reach_the_ca_renews_through_one_that_can() {
    let (ca, mut federation, _west) = prepare(SHORT, &[]).await;
    // Nobody listens on that port of the CA's host.
    let nowhere = format!("{{\"ca\": [\"{}:1\"]}}", ca.address.ip());
    fs::write(federation.zone("west").identity.join("renew.json"), nowhere).unwrap();
    begin(&mut federation).await;
    let west = federation.zone("west");
    west.wait_metric(RENEWALS, &[("result", "ok")], 1.0).await;
    west.wait_log(&["INFO", "renewed the certificate", "through"])
        .await;
    federation
        .zone("east")
        .wait_log(&["INFO", "passed a call on to the CA"])
        .await;
    let orders = federation.service_address("east", "orders", 9000).await;
    assert_eq!(say(orders, "hello").await.unwrap(), "west hello");
}
