//! `causeway simulate` as a gate for changes: promises that are kept and broken, and loads that `causeway get loads` has written.

use std::{fs, sync::Arc, time::Duration};

use causeway_federation::topology::{self, Criticality};
use causeway_tunnel::TunnelSet;
use serde_json::Value;

use crate::{
    commands::{err, out, run},
    federation::{serve, service, state},
};

const TEXT: &str = "\
version: 1
trust_domain: acme.internal
promises:
  - { lose: any zone, keep: critical }
  - { lose: any instance, keep: [ledger] }
zones:
  east:
    gateways: [a.east:7800, b.east:7800]
    instances:
      - { service: orders, address: 10.0.0.1:80, capacity: 100/s }
      - { service: ledger, address: 10.0.0.2:80 }
      - { service: ledger, address: 10.0.0.3:80 }
  west: { gateways: [gw.west:7800], instances: [{ service: orders, address: 10.1.0.1:80, capacity: 100/s }] }
services:
  orders: { port: 80, protocol: http, criticality: critical, spill: {}, routes: [{ match: { path: /report }, criticality: sheddable }] }
  ledger: { port: 81, export_to: [west], deny: ['*@west'] }
";

#[tokio::test]
async fn a_broken_promise_is_told_and_ends_with_79() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("topology.yaml");
    let path = file.display().to_string();
    fs::write(&file, TEXT).unwrap();
    let kept = run(
        None,
        &[
            "simulate",
            &path,
            "--load",
            "orders=80",
            "--load",
            "east/ledger=5",
        ],
    )
    .await;
    let text = out(&kept);
    assert_eq!(kept.status.code(), Some(0), "{text}{}", err(&kept));
    for told in [
        "\nPromises:\n√ promises[0]: lose any zone, keep critical: kept, in 2 of 2 cases\n",
        "\n√ promises[1]: lose any instance, keep ledger: kept, in 1 of 1 cases\n",
        "\nSingle points of failure:\n- ledger: zone east\n",
        "\n- ledger: `export_to` names west, and by services.ledger.deny[0] nobody there may call it\n",
    ] {
        assert!(text.contains(told), "{told} is not in\n{text}");
    }
    let few = [
        "simulate",
        &path,
        "--load",
        "west/orders:critical=150",
        "-o",
        "json",
    ];
    let broken = run(None, &few).await;
    assert_eq!(broken.status.code(), Some(79), "{}", err(&broken));
    let said: Value = serde_json::from_str(&out(&broken)).unwrap();
    let promise = &said["promises"][0];
    assert_eq!(
        (&promise["state"], &promise["tried"]),
        (&"broken".into(), &1.into())
    );
    let finding = &promise["broken"][0]["findings"][0];
    assert_eq!(
        (
            &promise["broken"][0]["lost"],
            &finding["kind"],
            &finding["criticality"]
        ),
        (&"zone east".into(), &"shed".into(), &"critical".into()),
        "{said:#}"
    );
    assert_eq!(said["promises"][1]["state"], "untried");
    assert_eq!(
        said["scenarios"][0]["findings"],
        serde_json::json!([]),
        "with both zones all is well"
    );
    let words = out(&run(None, &few[..4]).await);
    assert!(
        words.contains("× promises[0]: lose any zone, keep critical: broken in 1 of 1 cases\n    without zone east:\n      orders: ")
            && words.contains("critical a second of clients in west are shed"),
        "{words}"
    );
}

#[tokio::test]
async fn what_get_loads_writes_is_what_simulate_takes() {
    let folder = tempfile::tempdir().unwrap();
    let state = state();
    let mut snapshot = (*state.snapshots.load_full()).clone();
    snapshot.topology = Arc::new(topology::parse(TEXT, "topology.yaml").unwrap().topology);
    state.snapshots.store(Arc::new(snapshot));
    let snapshots = state.snapshots.clone();
    let book = state.demand.clone();
    let keeping = tokio::spawn(book.keep(snapshots.clone(), Arc::new(TunnelSet::default()), Vec::new));
    let counting = tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_millis(10));
        loop {
            ticks.tick().await;
            let board = snapshots.load().capacity.clone();
            let asked = &board.asked;
            asked.count(&service("orders"), &Default::default(), Criticality::Sheddable);
            asked.count(
                &service("ledger"),
                &[("db", "main")].into_iter().collect(),
                Criticality::Normal,
            );
        }
    });
    let admin = serve(state).await;
    let mut yaml = String::new();
    for _ in 0..100 {
        yaml = out(&run(Some(&admin), &["get", "loads", "-o", "yaml"]).await);
        if yaml.matches("per_second").count() == 2 {
            break;
        }
    }
    keeping.abort();
    counting.abort();
    let table = out(&run(Some(&admin), &["get", "loads", "-o", "wide"]).await);
    assert!(
        table.starts_with("FROM  SERVICE  TAGS     CRITICALITY  PER SECOND  GATEWAY"),
        "{table}"
    );
    let loads = folder.path().join("loads.yaml");
    fs::write(&loads, &yaml).unwrap();
    let file = folder.path().join("topology.yaml");
    fs::write(&file, TEXT).unwrap();
    let (file, loads) = (file.display().to_string(), loads.display().to_string());
    let simulated = run(None, &["simulate", &file, "--loads", &loads, "-o", "json"]).await;
    let said: Value =
        serde_json::from_str(&out(&simulated)).unwrap_or_else(|_| panic!("{}", err(&simulated)));
    let rate = |criticality: &str| {
        let mut loads = said["scenarios"][0]["criticalities"].as_array().unwrap().iter();
        let load = loads.find(|load| load["criticality"] == criticality);
        load.map_or(0.0, |load| load["per_second"].as_f64().unwrap())
    };
    // A hundred a second, as far as a busy machine has let them be counted, and nothing that was made up.
    assert!(
        rate("sheddable") > 20.0 && rate("critical") == 0.0,
        "{said:#}\n{yaml}"
    );
    // No instance has those tags, and so it says of what was asked for by such a name.
    let no_home = serde_json::json!("no_home");
    assert_eq!(said["scenarios"][0]["findings"][0]["kind"], no_home, "{said:#}");
    let twice = run(None, &["simulate", &file, "--loads", &loads, "--loads", &file]).await;
    assert_eq!(twice.status.code(), Some(65), "a topology is no file of loads");
}

#[tokio::test]
async fn explain_and_the_wide_table_tell_of_sticky_choice_and_mirrors() {
    const KEYS: &str = "sticky: { by: caller }, routes: [{ name: new, match: { path_prefix: /new }, sticky: { by: header, name: x-user }, \
                        mirror: { tags: { version: v2 }, percent: 5 } }]";
    let mut state = state();
    let text = TEXT.replace(
        "criticality: critical, spill: {}, routes: [{ match: { path: /report }, criticality: sheddable }]",
        KEYS,
    );
    let text = text.replace("  - { lose: any zone, keep: critical }\n", "");
    let mut snapshot = (*state.snapshots.load_full()).clone();
    snapshot.topology = Arc::new(topology::parse(&text, "topology.yaml").unwrap().topology);
    state.snapshots.store(Arc::new(snapshot));
    state.readiness = Default::default();
    let admin = serve(state).await;
    let explained = out(&run(Some(&admin), &["explain", "orders"]).await);
    assert!(
        explained.contains("\n  sticky: caller\n") && !explained.contains("mirror"),
        "{explained}"
    );
    let explained = out(&run(Some(&admin), &["explain", "orders", "--path", "/new"]).await);
    assert!(
        explained.contains("\n  sticky: header x-user, of new\n  mirror: 5 % to {version=v2}, of new\n"),
        "{explained}"
    );
    let wide = out(&run(Some(&admin), &["get", "services", "-o", "wide"]).await);
    assert!(
        wide.contains("caller") && wide.contains("new: 5 % to {version=v2}"),
        "{wide}"
    );
}
