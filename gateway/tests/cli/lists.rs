//! Lists of instances: the bulk endpoints of the admin API, and the commands over files.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
    time::{Duration, Instant},
};

use causeway_api::admin::{Admin, MAX_ELEMENTS};
use serde_json::{Value, json};

use crate::{
    commands::{causeway, err, out, run, run_with_input},
    federation::{ask, registered, serve, state},
};

/// Longest that a test waits for what must come; no test waits this long when it passes.
const LIMIT: Duration = Duration::from_secs(30);

async fn items(admin: &Admin, head: &str, body: &Value) -> Vec<Value> {
    let (status, answer) = ask(admin, head, &body.to_string()).await;
    assert_eq!(status, 200, "{answer}");
    let envelope: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    envelope["items"].as_array().unwrap().clone()
}

fn words(outcomes: &[Value]) -> Vec<&str> {
    outcomes
        .iter()
        .map(|outcome| outcome["refusal"].as_str().unwrap_or("done"))
        .collect()
}

#[tokio::test]
async fn each_element_of_a_list_has_an_outcome_of_its_own() {
    let state = state();
    let instances = state.instances.clone();
    let admin = serve(state).await;
    let list = json!([
        { "service": "orders", "address": "10.1.0.21:80", "tags": { "version": "v2" } },
        { "service": "orders", "address": "nowhere" },
        { "service": "No", "address": "10.1.0.22:80" },
        { "service": "orders", "id": "b", "address": "10.1.0.23:80", "ttl": "soon" },
        { "service": "orders", "id": "c", "address": "10.1.0.24:80", "ttl": "1m", "weight": 3 },
        "nonsense",
    ]);
    let outcomes = items(&admin, "POST /v1/instances", &list).await;
    assert_eq!(
        words(&outcomes),
        [
            "done",
            "bad_element",
            "bad_service",
            "bad_time_to_live",
            "done",
            "bad_element"
        ]
    );
    assert_eq!(
        outcomes[0],
        json!({ "service": "orders", "id": "10.1.0.21:80", "standing": "in_force", "durability": "no_store" })
    );
    assert_eq!(registered(&instances).await.len(), 2);

    let keys = json!([
        { "service": "orders", "id": "c" },
        { "service": "orders", "id": "gone" },
        { "service": "orders", "id": "10.1.0.11:8080" },
    ]);
    let expected = ["done", "not_found", "held_by_another_source"];
    assert_eq!(
        words(&items(&admin, "POST /v1/instances/renew", &keys).await),
        expected
    );
    let outcomes = items(&admin, "POST /v1/instances/deregister", &keys).await;
    assert_eq!(words(&outcomes), expected);
    assert_eq!(registered(&instances).await.len(), 1);
}

#[tokio::test]
async fn a_program_hands_over_all_that_it_knows_under_its_name() {
    let state = state();
    let instances = state.instances.clone();
    let admin = serve(state).await;
    let known = |from: u8, to: u8| -> Value {
        let one = |n| json!({ "service": "orders", "address": format!("10.2.0.{n}:80") });
        (from..to).map(one).collect()
    };
    let replaced = items(&admin, "PUT /v1/sources/consul", &known(1, 5)).await;
    assert_eq!(
        (&replaced[0]["added"], &replaced[0]["removed"]),
        (&json!(4), &json!(0))
    );
    let mut second = known(4, 6);
    second
        .as_array_mut()
        .unwrap()
        .push(json!({ "service": "orders", "address": "10.2.0.9:80", "ttl": "9s" }));
    let replaced = items(&admin, "PUT /v1/sources/consul", &second).await;
    assert_eq!(
        (&replaced[0]["added"], &replaced[0]["removed"]),
        (&json!(1), &json!(3))
    );
    assert_eq!(replaced[0]["refused"][0]["refusal"], "bad_time_to_live");
    let all = instances.status(None).await.unwrap();
    let from_consul = all.iter().filter(|status| status.source.as_str() == "consul");
    assert_eq!(from_consul.count(), 2);
    assert!(registered(&instances).await.is_empty());
}

#[tokio::test]
async fn lists_that_cannot_be_read_are_refused_as_a_whole() {
    let admin = serve(state()).await;
    let many: Value = vec![json!(0); MAX_ELEMENTS + 1].into();
    for (head, body, expected) in [
        ("POST /v1/instances", "{}".to_owned(), 400),
        ("POST /v1/instances", many.to_string(), 413),
        ("POST /v1/instances/renew", "[".to_owned(), 400),
        ("PUT /v1/sources/topology", "[]".to_owned(), 400),
        ("PUT /v1/sources/No", "[]".to_owned(), 400),
    ] {
        let (status, answer) = ask(&admin, head, &body).await;
        assert_eq!(status, expected, "{head}: {answer}");
        assert!(answer.contains("\"error\""), "{answer}");
    }
}

const LIST: &str = "\
- { service: orders, address: \"10.1.0.31:80\", tags: { version: 1.10 } }
- { service: orders, address: \"10.1.0.32:80\", weight: 2, ttl: 30s }
";

#[tokio::test]
async fn a_file_of_instances_is_registered_and_several_are_deregistered() {
    let state = state();
    let instances = state.instances.clone();
    let admin = serve(state).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("list.yaml");
    std::fs::write(&file, LIST).unwrap();
    let output = run(Some(&admin), &["register", "-f", file.to_str().unwrap()]).await;
    assert_eq!(out(&output), "registered 2 instances\n", "{}", err(&output));
    assert_eq!(
        registered(&instances).await,
        [
            "orders/10.1.0.31:80 10.1.0.31:80 {version=1.10} weight 1",
            "orders/10.1.0.32:80 10.1.0.32:80 {} weight 2"
        ]
    );
    let args = [
        "deregister",
        "orders",
        "--id",
        "10.1.0.31:80",
        "--id",
        "10.1.0.32:80",
        "--id",
        "x",
    ];
    let output = run(Some(&admin), &args).await;
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        out(&output),
        "deregistered orders 10.1.0.31:80\nderegistered orders 10.1.0.32:80\n"
    );
    assert!(err(&output).contains("orders/x: no instance"), "{}", err(&output));
    assert!(registered(&instances).await.is_empty());
}

#[tokio::test]
async fn a_list_from_standard_input_says_what_was_refused() {
    let state = state();
    let instances = state.instances.clone();
    let admin = serve(state).await;
    let list =
        r#"[{"service":"orders","address":"10.1.0.41:80"},{"service":"Nope","address":"10.1.0.42:80"}]"#;
    let output = run_with_input(Some(&admin), &["register", "-f", "-"], list).await;
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(out(&output), "registered 1 instance\n");
    let text = err(&output);
    assert!(
        text.contains("Nope/10.1.0.42:80: this is not the name of a service"),
        "{text}"
    );
    assert!(
        text.contains("error: 1 of 2 instances were refused\nhint: "),
        "{text}"
    );
    assert_eq!(registered(&instances).await.len(), 1);
    // What registered it takes it out again.
    let list = r#"[{"service":"orders","address":"10.1.0.41:80","weight":3}]"#;
    let output = run_with_input(Some(&admin), &["deregister", "-f", "-"], list).await;
    assert_eq!(
        out(&output),
        "deregistered orders 10.1.0.41:80\n",
        "{}",
        err(&output)
    );
    assert!(registered(&instances).await.is_empty());
    let output = run_with_input(
        Some(&admin),
        &["deregister", "-f", "-"],
        r#"[{"service":"orders"}]"#,
    )
    .await;
    assert_eq!(output.status.code(), Some(65), "{}", err(&output));
}

#[tokio::test]
async fn a_file_that_is_no_list_is_bad_input() {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("map", "instances: []"),
        ("key", "- { service: orders, adress: x }"),
        ("none", ""),
    ] {
        let file = folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        let output = run(None, &["register", "-f", file.to_str().unwrap()]).await;
        assert_eq!(output.status.code(), Some(65), "{name}: {}", err(&output));
        assert!(
            err(&output).contains("is not a list of instances"),
            "{}",
            err(&output)
        );
        assert!(err(&output).contains("\nhint: "), "{}", err(&output));
    }
    let absent = run(None, &["register", "-f", "/nonexistent"]).await;
    assert_eq!(absent.status.code(), Some(65));
    for usage in [&["register"][..], &["register", "-f", "x", "orders"]] {
        assert_eq!(run(None, usage).await.status.code(), Some(64));
    }
}

#[tokio::test]
async fn a_list_that_is_kept_comes_back_when_it_is_lost_and_goes_at_the_end() {
    let state = state();
    let instances = state.instances.clone();
    let admin = serve(state).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("list.yaml");
    std::fs::write(&file, LIST.replace("30s", "1s")).unwrap();
    let mut command = causeway();
    command.args(["register", "--keep", "-f", file.to_str().unwrap()]);
    command
        .args(["--admin", &admin.local_addr().to_string()])
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (first, lines) = tokio::task::spawn_blocking(move || (lines.next(), lines))
        .await
        .unwrap();
    assert_eq!(first.unwrap().unwrap(), "registered 2 instances");
    // As if the gateway had forgotten it.
    let service = causeway_federation::name::ServiceName::new("orders").unwrap();
    instances.deregister(&service, "10.1.0.31:80").await.unwrap();
    let begun = Instant::now();
    while registered(&instances).await.len() < 2 {
        assert!(begun.elapsed() < LIMIT, "it did not come back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&child),
        rustix::process::Signal::TERM,
    )
    .unwrap();
    let rest = tokio::task::spawn_blocking(move || {
        let rest: Vec<_> = lines.map(Result::unwrap).collect();
        assert!(child.wait().unwrap().success());
        rest
    });
    assert_eq!(rest.await.unwrap(), ["deregistered 2 instances"]);
    assert!(registered(&instances).await.is_empty());
}
