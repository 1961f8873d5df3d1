//! Verdicts of `explain` and `check` on what is refused, lost, or was never there, and how they end.

use std::{sync::Arc, time::Instant};

use arc_swap::ArcSwap;
use causeway_api::admin::AdminState;
use causeway_federation::{catalog::Catalog, name::ZoneName, topology};
use causeway_host::uptime::uptime;
use causeway_routing::{
    outlier::{OutlierTable, TriedPlace, TryFailure},
    snapshot::instance_number,
};
use causeway_telemetry::Side;
use causeway_tunnel::LastWord;

use crate::{
    commands::{out, run},
    federation::{TOPOLOGY, ask, serve, service, state},
};

/// The usual state under another topology.
fn under(text: &str) -> AdminState {
    let mut state = state();
    let mut snapshot = (*state.snapshots.load_full()).clone();
    snapshot.topology = Arc::new(topology::parse(text, "topology.yaml").unwrap().topology);
    state.snapshots = Arc::new(ArcSwap::from_pointee(snapshot));
    state
}

async fn said(state: AdminState, arguments: &[&str]) -> (Option<i32>, String) {
    let output = run(Some(&serve(state).await), arguments).await;
    (output.status.code(), out(&output))
}

#[tokio::test]
async fn explain_always_says_who_may_call() {
    let explain = &["explain", "billing"];
    let (_, text) = said(state(), explain).await;
    let everyone = "√ everyone may call: without `allow`, permissions.default allows it\n";
    assert!(text.contains(everyone), "{text}");

    let denying = format!("permissions: {{ default: deny }}\n{TOPOLOGY}");
    let (code, text) = said(under(&denying), explain).await;
    assert_eq!(code, Some(79));
    let nobody = "× nobody may call: without `allow`, permissions.default denies it\n";
    assert!(text.contains(nobody) && !text.contains('√'), "{text}");
    assert!(text.contains("Nobody is asked: without `allow`"), "{text}");

    let dry = format!("permissions: {{ default: deny, dry_run: true }}\n{TOPOLOGY}");
    let (_, text) = said(under(&dry), explain).await;
    assert!(
        text.contains("‼ everyone may call, in a dry run of: without `allow`"),
        "{text}"
    );
}

#[tokio::test]
async fn explain_speaks_of_tags_only_where_some_were_asked() {
    let (_, text) = said(state(), &["explain", "billing"]).await;
    assert!(
        text.contains("own zone east") && !text.contains("carries the tags"),
        "{text}"
    );
    let (_, text) = said(state(), &["explain", "billing", "--tag", "version=v7"]).await;
    assert!(text.contains("no instance carries the tags"), "{text}");
}

#[tokio::test]
async fn explain_names_the_route_that_rules_a_request_and_what_the_ones_before_it_miss() {
    let routes = "
    routes:
      - { name: old, match: { path_prefix: /old }, redirect: { status: 308, path_prefix: /new } }
      - { match: { methods: [GET], header: { x-canary: '1' } }, split: [{ tags: { version: v2 } }] }
";
    let topology = TOPOLOGY
        .replace("    deny: ['*@west']\n", routes)
        .replace("    allow: [billing]\n", "");
    let shown = said;
    let said = async |arguments: &[&str]| {
        let (code, text) = shown(under(&topology), &[&["explain", "orders"], arguments].concat()).await;
        (code, text.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    let (_, text) = said(&[]).await;
    assert!(
        text.contains("○ 2 routes for requests that match; --method, --path"),
        "{text}"
    );

    let (code, text) = said(&["--path", "/x?y", "--header", "X-Canary: 1"]).await;
    for part in [
        "routes · old the path is not /old and below",
        "√ routes[1] GET with x-canary: 1 matches",
        "√ {version=v2} weight 1",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("version=v1") && code == Some(0), "{text}");

    let (_, text) = said(&["--method", "POST", "--header", "x-canary:1"]).await;
    assert!(
        text.contains("· routes[1] the method is another √ the service's own split no route matches"),
        "{text}"
    );

    let (code, text) = said(&["--path", "/old/x"]).await;
    assert!(
        text.ends_with(
            "No instance is asked: by old the gateway answers itself: a redirect with status 308."
        ),
        "{text}"
    );
    assert_eq!(code, Some(0));
    let (_, services) = shown(under(&topology), &["get", "services", "-o", "json"]).await;
    assert!(
        services.contains("routes[1]: GET with x-canary: 1 -> all to {version=v2}"),
        "{services}"
    );
    let output = run(
        Some(&serve(under(&topology)).await),
        &["explain", "orders", "--path", "/x/../old"],
    )
    .await;
    assert_eq!(output.status.code(), Some(1));
    let refused = String::from_utf8_lossy(&output.stderr);
    assert!(
        refused.contains("is answered with 400: `.` and `..` cannot be segments"),
        "{refused}"
    );
    let output = run(
        Some(&serve(state()).await),
        &["explain", "billing", "--path", "/"],
    )
    .await;
    let refused = String::from_utf8_lossy(&output.stderr);
    assert!(refused.contains("looks into no request"), "{refused}");
}

#[tokio::test]
async fn check_shows_the_last_word_of_a_zone_that_cannot_be_reached() {
    let state = state();
    let word = |by, reason| LastWord {
        by,
        reason,
        at: Instant::now(),
    };
    for (word, shown) in [
        (
            word(Some(Side::Peer), "revoked"),
            "it refuses this gateway: revoked",
        ),
        (
            word(Some(Side::Local), "expired"),
            "this gateway refuses it: expired",
        ),
        (word(None, "timeout"), "nobody was reached: timeout"),
    ] {
        state.tunnels.last_words().note("plant/gw1", word);
        let (code, text) = said(state.clone(), &["check"]).await;
        assert_eq!(code, Some(1), "a zone is gone");
        let line = format!("× zone plant: no tunnel; {shown}\n");
        assert!(text.contains(&line), "{text}");
        let firewall = text.contains("is its gateway running");
        assert_eq!(
            firewall,
            shown.starts_with("nobody"),
            "who was there needs no firewall: {text}"
        );
    }
}

#[tokio::test]
async fn check_does_not_fail_for_a_service_that_never_had_an_instance() {
    let without_plant = TOPOLOGY.replace("  plant:\n    tags: { region: eu }\n    gateways: []\n", "");
    assert_ne!(without_plant, TOPOLOGY);
    let mut state = under(&without_plant);
    let mut snapshot = (*state.snapshots.load_full()).clone();
    let of_west = snapshot
        .catalog
        .entries()
        .filter(|entry| entry.record.origin.zone.as_str() == "west");
    snapshot.catalog = Arc::new(Catalog::new(of_west.cloned().collect::<Vec<_>>()));
    state.snapshots = Arc::new(ArcSwap::from_pointee(snapshot));
    let (code, text) = said(state, &["check"]).await;
    assert!(text.contains("‼ billing: no instance anywhere\n"), "{text}");
    assert_eq!(code, Some(0), "{text}");
}

#[tokio::test]
async fn what_is_ejected_is_told_wherever_one_looks() {
    let text = TOPOLOGY.replace(
        "    protocol: http\n",
        "    protocol: http\n    timeout: 2s\n    outlier: { consecutive: 2, eject: 1h }\n",
    );
    let state = under(&text);
    let snapshot = state.snapshots.load_full();
    let policy = snapshot.topology.services["orders"].outlier.clone().unwrap();
    let mut table = OutlierTable::default();
    let version = [("version", "v1")].into_iter().collect();
    // Of the registry's own instance, and of the only one that west has.
    for (zone, instance, failure) in [
        ("east", instance_number("10.1.0.11:8080"), TryFailure::Reset),
        ("west", 7, TryFailure::Late),
    ] {
        let at = TriedPlace {
            service: &service("orders"),
            port: None,
            zone: &ZoneName::new(zone).unwrap(),
            tags: &version,
            instance,
            healthy: if zone == "west" { 1 } else { 2 },
            client: 1,
        };
        table.failed(uptime(), &policy, failure, at);
        table.failed(uptime(), &policy, failure, at);
    }
    snapshot.ejections.store(Arc::new(table.ejected(uptime())));
    let tell = async |arguments: &[&str]| said(state.clone(), arguments).await.1;
    let zone = "zone west for {version=v1}: 2 failures in a row (2 no answer in time), ";
    let explained = tell(&["explain", "orders", "--tag", "version=v1"]).await;
    for told in [
        zone,
        "\n  timeout: 2s\n  retry: none\n  outlier: after 2 in a row for 1h, at most 50%\n  limits: none\n",
        "ejected, so after all that are not",
    ] {
        assert!(explained.contains(told), "{explained}");
    }
    let services = tell(&["get", "services", "-o", "wide"]).await;
    // Where a table is too wide, the last column goes on in lines of its own.
    let unfolded = |table: &str| table.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        services.contains("west ejected:3/4") && unfolded(&services).contains(zone),
        "{services}"
    );
    let checks = tell(&["check"]).await;
    assert!(
        checks.contains("‼ orders ejected") && checks.contains(zone),
        "{checks}"
    );
    let instances = tell(&["get", "instances", "-o", "wide"]).await;
    let here = "instance #";
    assert!(
        instances.contains("healthy, ejected") && unfolded(&instances).contains("2 broken off"),
        "{instances}"
    );
    assert!(instances.contains(here), "{instances}");
    let (_, scraped) = ask(&serve(state).await, "GET /metrics", "").await;
    for labels in [
        r#"service="orders",zone="east",part="instance""#,
        r#"service="orders",zone="west",part="zone""#,
    ] {
        let line = format!("causeway_ejections_active{{{labels}}} 1\n");
        assert!(scraped.contains(&line), "{line} is not in\n{scraped}");
    }
}
