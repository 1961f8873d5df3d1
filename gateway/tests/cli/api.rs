//! Each endpoint against a hand-made state, and everything that is refused.

use std::{
    collections::HashSet,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    time::{Duration, Instant},
};

use causeway_api::admin::{Admin, AdminAddress, AdminConfig, AdminError};
use causeway_telemetry::Check;
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt as _, net::TcpSocket};

use crate::federation::{ask, ask_over_socket, registered, serve, state, told_socket};

/// Longer than any wait here takes when all is well.
const PATIENCE: Duration = Duration::from_secs(30);

async fn admin() -> Admin {
    serve(state()).await
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}

async fn items(path: &str) -> Vec<Value> {
    let (status, answer) = ask(&admin().await, &format!("GET {path}"), "").await;
    assert_eq!(status, 200, "{answer}");
    let envelope: Value = serde_json::from_str(body(&answer)).unwrap();
    assert_eq!(envelope["version"], 1);
    assert_eq!(envelope["zone"], "east");
    assert_eq!(envelope["generation"], 7);
    envelope["items"].as_array().unwrap().clone()
}

async fn refused(head: &str, sent: &str, expected: u16) -> Value {
    let (status, answer) = ask(&admin().await, head, sent).await;
    assert_eq!(status, expected, "{answer}");
    let refusal: Value = serde_json::from_str(body(&answer)).unwrap();
    assert!(refusal["error"].is_string(), "{answer}");
    refusal
}

#[tokio::test]
async fn zones_tell_how_each_can_be_reached() {
    let zones = items("/v1/zones").await;
    let states: Vec<_> = zones
        .iter()
        .map(|zone| (zone["name"].as_str(), zone["state"].as_str()))
        .collect();
    let expected = [("east", "own"), ("plant", "down"), ("west", "up")];
    assert_eq!(states, expected.map(|(name, state)| (Some(name), Some(state))));
    let west = &zones[2]["links"][0];
    assert_eq!(west["age"], "fresh");
    assert_eq!(west["heard_seconds_ago"], 0.4);
    assert_eq!(west["same_topology"], true);
    assert_eq!(zones[1]["links"][0]["same_topology"], false);
}

#[tokio::test]
async fn services_count_instances_here_and_elsewhere() {
    let services = items("/v1/services").await;
    let orders = &services[1];
    assert_eq!(orders["local"], json!({"instances": 2, "healthy": 1}));
    assert_eq!(orders["vips"], json!(["127.64.0.1"]));
    let west = &orders["zones"][0];
    assert_eq!((&west["healthy"], &west["usable"]), (&json!(3), &json!(true)));
    // The plant exports billing, but no tunnel leads there.
    let plant = &services[0]["zones"][0];
    assert_eq!(
        (&plant["link"], &plant["usable"]),
        (&json!("down"), &json!(false))
    );
}

#[tokio::test]
async fn exports_hold_the_own_zones_and_the_others() {
    let exports = items("/v1/exports").await;
    let told: Vec<_> = exports
        .iter()
        .map(|e| format!("{} {} {} {}", e["service"], e["zone"], e["healthy"], e["age"]).replace('"', ""))
        .collect();
    assert_eq!(
        told,
        [
            "billing plant 1 suspect",
            "orders east 1 own",
            "orders west 2 fresh",
            "orders west 1 fresh"
        ]
    );
}

#[tokio::test]
async fn instances_catalog_topology_and_tunnels_answer() {
    let instances = items("/v1/instances").await;
    assert_eq!(instances[0]["id"], "10.1.0.11:8080");
    assert_eq!(
        (&instances[0]["health"], &instances[0]["source"]),
        (&json!("healthy"), &json!("topology"))
    );
    let catalog = items("/v1/catalog").await;
    assert_eq!(
        (&catalog[0]["origin"], &catalog[0]["age"]),
        (&json!("east/gw1"), &json!("own"))
    );
    assert_eq!(
        (&catalog[0]["incarnation"], &catalog[0]["version"]),
        (&json!(5), &json!(9))
    );
    assert_eq!(catalog[1]["origin"], "plant/gw1");
    let west = &catalog[2];
    assert_eq!(
        (&west["lag_versions"], &west["sync_sent_bytes"]),
        (&json!(2), &json!(700))
    );
    assert_eq!(west["refusals"][0]["reason"], "too_fast");
    let topology = items("/v1/topology").await;
    assert_eq!(topology[0]["services"], json!(["billing", "orders"]));
    assert!(items("/v1/tunnels").await.is_empty());
}

#[tokio::test]
async fn checks_say_what_is_wrong_and_what_to_do() {
    let checks = items("/v1/checks").await;
    let of = |name: &str| checks.iter().find(|check| check["name"] == name).unwrap().clone();
    assert_eq!(of("zone west")["status"], "ok");
    assert_eq!(of("zone plant")["status"], "fail");
    assert_eq!(of("billing")["status"], "fail");
    assert_eq!(of("orders")["status"], "warn");
    assert!(
        of("billing")["hint"]
            .as_str()
            .unwrap()
            .contains("causeway register")
    );
}

#[tokio::test]
async fn a_failing_check_makes_the_gateway_not_ready() {
    let admin = admin().await;
    let (status, answer) = ask(&admin, "GET /readyz?verbose", "").await;
    assert_eq!(status, 200);
    insta::assert_snapshot!(body(&answer), @r"
[ok] gateway: listeners: 2 addresses
[warn] gateway: mesh DNS: no upstream
       hint: see /etc/resolv.conf
ok
");
    let mut state = state();
    state.readiness = state
        .readiness
        .with(|| Check::fail("gateway", "draining", "shutting down", "wait"));
    let admin = serve(state).await;
    let (status, answer) = ask(&admin, "GET /readyz", "").await;
    assert_eq!((status, body(&answer)), (503, "not ready\n"));
    // Alive all the same: a restart would not help.
    assert_eq!(ask(&admin, "GET /livez", "").await.0, 200);
}

#[tokio::test]
async fn check_leaves_out_what_only_sums_up() {
    let mut state = state();
    state.readiness = state
        .readiness
        .with_sum(|| Check::warn("zones", "tunnels", "no working tunnel to plant", "look"));
    let admin = serve(state).await;
    let (_, ready) = ask(&admin, "GET /readyz?verbose", "").await;
    assert!(ready.contains("[warn] zones: tunnels"), "{ready}");
    let (_, checks) = ask(&admin, "GET /v1/checks", "").await;
    assert!(
        checks.contains("zone plant") && !checks.contains("no working tunnel"),
        "{checks}"
    );
}

#[tokio::test]
async fn explain_gives_the_decision_and_its_reasons() {
    let explained = items("/v1/explain?service=orders&tag=version%3Dv1&from=east").await;
    assert_eq!(explained[0]["target"], "orders{version=v1}");
    let asked: Vec<_> = explained[0]["candidates"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["zone"].clone())
        .collect();
    assert_eq!(asked, ["east", "west"]);
    let steps = explained[0]["steps"].as_array().unwrap();
    let plant = steps
        .iter()
        .find(|step| step["subject"] == "gateway plant/gw1")
        .unwrap();
    assert_eq!(
        (&plant["verdict"], &plant["reason"]),
        (&json!("passed_over"), &json!("no tunnel is up"))
    );
}

#[tokio::test]
async fn explain_refuses_what_it_cannot_answer() {
    refused("GET /v1/explain", "", 400).await;
    refused("GET /v1/explain?service=orders&tag=v2", "", 400).await;
    refused("GET /v1/explain?service=orders&color=red", "", 400).await;
    refused("GET /v1/explain?service=orders&from=west", "", 400).await;
    let unknown = refused("GET /v1/explain?service=order", "", 404).await;
    assert_eq!(unknown["hint"], "its services are billing, orders");
    refused("GET /v1/explain?service=orders&zone=mars", "", 404).await;
    for caller in ["Web", "web@mars", "spiffe://x/../y", "anonymous&caller_tag=a=b"] {
        refused(
            &format!("GET /v1/explain?service=orders&caller={caller}"),
            "",
            400,
        )
        .await;
    }
    refused("GET /v1/explain?service=orders&caller_tag=a=b", "", 400).await;
}

#[tokio::test]
async fn explain_names_the_rule_for_a_caller() {
    let of =
        async |caller: &str| items(&format!("/v1/explain?service=orders&caller={caller}")).await[0].clone();
    let web = of("billing").await;
    assert_eq!(web["permission"]["caller"], "billing@east");
    assert_eq!(web["permission"]["verdict"], "permitted");
    assert_eq!(web["permission"]["rule"], "services.orders.allow[0]");
    assert!(!web["candidates"].as_array().unwrap().is_empty());
    let west = of("billing%40west").await;
    assert_eq!(west["permission"]["rule"], "services.orders.deny[0]");
    assert_eq!(
        west["permission"]["reason"],
        "services.orders.deny[0] denies `*@west`"
    );
    assert_eq!(west["candidates"], json!([]));
    let plant = of("billing%40plant").await;
    assert_eq!(
        (&plant["permission"]["verdict"], &plant["from"]),
        (&json!("permitted"), &json!("plant"))
    );
}

#[tokio::test]
async fn an_instance_is_registered_renewed_and_deregistered() {
    let state = state();
    let instances = state.instances.clone();
    let admin = serve(state).await;
    let sent = r#"{"address":"10.1.0.12:8080","tags":{"version":"v2"},"ttl":"30s"}"#;
    let path = "/v1/instances/orders/10.1.0.12%3A8080";
    let (status, answer) = ask(&admin, &format!("PUT {path}"), sent).await;
    assert_eq!(status, 200, "{answer}");
    assert!(
        answer.contains(r#""standing":"in_force","durability":"no_store""#),
        "{answer}"
    );
    assert_eq!(
        registered(&instances).await,
        ["orders/10.1.0.12:8080 10.1.0.12:8080 {version=v2} weight 1"]
    );
    assert_eq!(ask(&admin, &format!("POST {path}/renew"), "").await.0, 204);
    assert_eq!(ask(&admin, &format!("DELETE {path}"), "").await.0, 204);
    assert!(registered(&instances).await.is_empty());
    assert_eq!(ask(&admin, &format!("POST {path}/renew"), "").await.0, 404);
    assert_eq!(ask(&admin, &format!("DELETE {path}"), "").await.0, 404);
    // What the topology fixes is changed there.
    assert_eq!(
        ask(&admin, "DELETE /v1/instances/orders/10.1.0.11%3A8080", "")
            .await
            .0,
        409
    );
}

#[tokio::test]
async fn what_is_not_an_instance_is_refused() {
    let path = "PUT /v1/instances/orders/x";
    for bad in [
        "",
        "{",
        "[]",
        r#"{"tags":{}}"#,
        r#"{"address":"somewhere:1"}"#,
        r#"{"address":"0.0.0.0:80"}"#,
        r#"{"address":"10.1.0.1:0"}"#,
        r#"{"address":"10.1.0.1:80","colour":1}"#,
        r#"{"address":"10.1.0.1:80","weight":-1}"#,
        r#"{"address":"10.1.0.1:80","ttl":"1ms"}"#,
        r#"{"address":"10.1.0.1:80","ttl":"soon"}"#,
    ] {
        refused(path, bad, 400).await;
    }
    let good = r#"{"address":"10.1.0.1:80"}"#;
    refused("PUT /v1/instances/Not_A_Name/x", good, 400).await;
    refused(
        &format!("PUT /v1/instances/orders/{}", "x".repeat(200)),
        good,
        400,
    )
    .await;
    refused(path, &"x".repeat(64 * 1024 + 1), 413).await;
}

#[tokio::test]
async fn unknown_paths_and_methods_are_refused_as_json() {
    refused("GET /v2/zones", "", 404).await;
    refused("GET /dashboard/other.js", "", 404).await;
    refused("POST /v1/zones", "", 405).await;
}

#[tokio::test]
async fn the_dashboard_is_at_the_root_of_the_api() {
    let admin = serve(state()).await;
    let (status, page) = ask(&admin, "GET /", "").await;
    assert_eq!(status, 200);
    assert!(page.contains("/dashboard/app.js"), "{page}");
    let (status, _) = ask(&admin, "GET /dashboard/app.js", "").await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn a_web_page_cannot_reach_the_api() {
    refused("GET /v1/zones\nHost: evil.example:7810", "", 421).await;
    // A script, a picture or a form says nothing of its origin but this.
    refused("GET /v1/zones\nSec-Fetch-Site: cross-site", "", 403).await;
    refused("POST /v1/instances\nSec-Fetch-Site: same-site", "[]", 403).await;
    refused(
        "PUT /v1/instances/orders/x\nOrigin: http://evil.example",
        r#"{"address":"10.1.0.1:80"}"#,
        403,
    )
    .await;
}

#[tokio::test]
async fn one_host_cannot_take_all_places_or_keep_others_out_and_the_socket_has_its_own() {
    let admin = serve(state()).await;
    let AdminAddress::Tcp(address) = *admin.local_addr() else {
        panic!("not on TCP");
    };
    let socket = told_socket(&admin).await.unwrap();
    // More than one host may have, and fewer than there are places for. Each has begun a request, so that it is not given up
    // for its silence.
    let mut held = Vec::new();
    for nth in 2..102 {
        let from = TcpSocket::new_v4().unwrap();
        from.bind(SocketAddr::from(([127, 0, 0, nth], 0))).unwrap();
        let mut stream = from.connect(address).await.unwrap();
        // The server may have closed it already.
        let _ = stream.write_all(b"GET / HTTP/1.1\r\n").await;
        held.push(stream);
    }
    for _ in 0..3 {
        let (status, answer) = ask(&admin, "GET /livez", "").await;
        assert_eq!(status, 200, "{answer}");
    }
    let crowded = r#"causeway_api_refused_total{reason="crowded"}"#;
    let begun = Instant::now();
    loop {
        let (status, page) = ask_over_socket(socket.clone(), "GET /metrics", "").await;
        assert_eq!(status, 200, "{page}");
        if page
            .lines()
            .any(|line| line.starts_with(crowded) && !line.ends_with(" 0"))
        {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "nobody is turned away: {page}");
    }
}

#[tokio::test]
async fn metrics_are_open_metrics_without_duplicates() {
    let (status, answer) = ask(&admin().await, "GET /metrics", "").await;
    assert_eq!(status, 200);
    assert!(answer.contains("application/openmetrics-text"));
    let text = body(&answer);
    check_open_metrics(text);
    for line in [
        r#"causeway_connections_open{role="egress",service="orders"} 1"#,
        r#"causeway_instances{service="orders",health="healthy"} 1"#,
        r#"causeway_link{zone="west",gateway="gw1",state="up"} 1"#,
        r#"causeway_sync_age_seconds{zone="west",gateway="gw1"} 0.4"#,
        r#"causeway_build_info{version="0.1.0",zone="east"} 1"#,
        "causeway_snapshot_generation 7",
        "process_resident_memory_bytes ",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

/// Every sample belongs to the family declared above it, no family and no series comes twice, the end is marked.
fn check_open_metrics(text: &str) {
    let (mut families, mut series) = (HashSet::new(), HashSet::new());
    let mut family = String::new();
    assert!(text.ends_with("# EOF\n"));
    for line in text.lines().filter(|line| *line != "# EOF") {
        if let Some(declared) = line.strip_prefix("# ") {
            let mut words = declared.splitn(3, ' ');
            let (keyword, name) = (words.next().unwrap(), words.next().unwrap());
            assert!(["HELP", "TYPE", "UNIT"].contains(&keyword), "{line}");
            if keyword == "HELP" {
                assert!(families.insert(name.to_owned()), "{name} is declared twice");
                name.clone_into(&mut family);
            }
            assert_eq!(name, family, "{line}");
            continue;
        }
        let (sample, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().is_ok(), "{line}");
        assert!(series.insert(sample.to_owned()), "{sample} comes twice");
        let name = sample.split('{').next().unwrap();
        assert!(name.starts_with(&family), "{name} is not of {family}");
        assert_eq!(sample.contains('{'), sample.ends_with('}'), "{line}");
    }
}

#[tokio::test]
async fn an_open_address_is_refused_unless_it_is_meant() {
    let listen: AdminAddress = "0.0.0.0:0".parse().unwrap();
    let config = |insecure| AdminConfig {
        listen: listen.clone(),
        insecure,
    };
    let refused = Admin::start(config(false), state()).await;
    assert!(matches!(refused, Err(AdminError::NotLoopback(_))));
    let open = Admin::start(config(true), state()).await.unwrap();
    open.shutdown().await;
}

#[tokio::test]
async fn a_unix_socket_is_its_owners_alone_and_goes_with_the_gateway() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    // What a killed process left behind.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let config = AdminConfig {
        listen: AdminAddress::Unix(path.clone()),
        insecure: false,
    };
    let admin = Admin::start(config.clone(), state()).await.unwrap();
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let second = Admin::start(config, state()).await;
    assert!(matches!(second, Err(AdminError::InUse(_))));
    admin.shutdown().await;
    assert!(!path.exists());
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_an_idle_connection() {
    let admin = admin().await;
    let AdminAddress::Tcp(address) = *admin.local_addr() else {
        panic!("not on TCP");
    };
    let _idle = tokio::net::TcpStream::connect(address).await.unwrap();
    assert_eq!(ask(&admin, "GET /livez", "").await.0, 200);
    let stopped = tokio::time::timeout(std::time::Duration::from_secs(2), admin.shutdown()).await;
    assert!(stopped.is_ok(), "an idle connection held up the shutdown");
}
