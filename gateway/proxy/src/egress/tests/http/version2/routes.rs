//! Routes of calls: by service and method, by metadata, and their end in the form of gRPC.

use std::sync::Arc;

use causeway_federation::topology::Topology;

use super::{CallClient, CallInstance, call, speaking_grpc, text, two_zones};
use crate::testbed::{Zone, until};

/// `orders` over gRPC with these routes, each a line, and a split to v1.
fn with_routes(routes: &[&str]) -> Arc<Topology> {
    let routes: String = routes.iter().map(|route| format!("\n    - {route}")).collect();
    speaking_grpc(&format!(
        "split: [{{ tags: {{ version: v1 }} }}]\n    routes:{routes}"
    ))
}

async fn called(client: &CallClient, path: &str) -> String {
    let told = client.call(path).await.unwrap();
    assert_eq!(told.code(), Some("0"), "{told:?}");
    told.text().to_owned()
}

#[tokio::test]
async fn calls_are_routed_by_method_and_by_metadata_side_by_side() {
    let (first, second) = (CallInstance::start("v1").await, CallInstance::start("v2").await);
    let instances = vec![
        first.instance(&[("version", "v1")]),
        second.instance(&[("version", "v2")]),
    ];
    let topology = with_routes(&[
        "{ match: { grpc: { service: pkg.Svc, method: New } }, split: [{ tags: { version: v2 } }] }",
        "{ match: { header: { x-canary: '1' } }, split: [{ tags: { version: v2 } }] }",
        "{ match: { path: /head }, rewrite: { host: 'in.example:81' }, request_headers: { set: { x-route: head } } }",
    ]);
    let home = Zone::start("home", &topology, instances);
    let client = CallClient::of(&home).await;
    for _ in 0..3 {
        let (new, old) = tokio::join!(called(&client, "/pkg.Svc/New"), called(&client, "/pkg.Svc/Old"));
        assert_eq!((new.as_str(), old.as_str()), ("v2", "v1"));
    }
    let mut request = call("/pkg.Svc/Old", text("a message"));
    request.headers_mut().insert("x-canary", "1".parse().unwrap());
    assert_eq!(client.send(request).await.unwrap().text(), "v2");
    let head = client.call("/head").await.unwrap();
    assert!(
        head.text().starts_with("POST http://in.example:81/head\n")
            && head.text().contains("x-route: head\n"),
        "{}",
        head.text()
    );
    assert_eq!(home.egress.open_connections().count(), 1);
}

#[tokio::test]
async fn a_call_that_is_not_answered_in_the_time_of_its_route_ends_with_its_code_and_is_taken_back() {
    let there = CallInstance::start("there").await;
    let topology = speaking_grpc("routes:\n    - { match: { path: /hang }, timeout: 300ms }");
    let (home, _east) = two_zones(&topology, vec![there.instance(&[])]).await;
    let client = CallClient::of(&home).await;
    let told = client.call("/hang").await.unwrap();
    assert_eq!(
        (told.code(), told.field("causeway-reason")),
        (Some("4"), Some("request_timeout"))
    );
    until("the instance knows", || there.cancelled() == 1).await;
    assert_eq!((client.server().await.as_str(), there.calls()), ("there", 2));
    assert_eq!(
        home.egress.open_connections().count(),
        1,
        "the connection goes on"
    );
}

#[tokio::test]
async fn an_answer_of_a_route_and_a_path_that_is_none_have_codes() {
    let here = CallInstance::start("here").await;
    let topology = speaking_grpc(
        "routes:\n    - { match: { grpc: { service: pkg.Old } }, answer: { status: 404, body: use pkg.New } }",
    );
    let home = Zone::start("home", &topology, vec![here.instance(&[])]);
    let client = CallClient::of(&home).await;
    let told = client.call("/pkg.Old/Get").await.unwrap();
    assert_eq!(
        (
            told.code(),
            told.field("grpc-message"),
            told.field("causeway-reason")
        ),
        (Some("12"), Some("use pkg.New"), Some("answered"))
    );
    let told = client.call("/pkg.New/../pkg.Old/Get").await.unwrap();
    assert_eq!(
        (told.code(), told.field("causeway-reason")),
        (Some("13"), Some("bad_request"))
    );
    assert_eq!(here.calls(), 0);
    assert_eq!(client.server().await, "here");
}
