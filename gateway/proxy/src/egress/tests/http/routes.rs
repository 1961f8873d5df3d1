//! Routes over HTTP/1.1: which requests each is for, and what it makes of them.

use std::{sync::Arc, time::Duration};

use causeway_federation::{
    catalog::{Age, Catalog},
    topology::Topology,
};
use causeway_host::tasks::Tasks;
use causeway_routing::snapshot::Snapshot;
use causeway_telemetry::{AccessLog, LineWriter};
use http::{Method, Request, StatusCode};

use super::{HttpClient, HttpInstance, Told, set_instances, speaking_http, text, two_zones};
use crate::{
    egress::{
        EgressConfig,
        tests::{one_id::Written, promises::silent},
    },
    testbed::{self, Zone, until},
};

/// `orders` over HTTP with these routes, each a line, and a split to v1.
fn with_routes(routes: &[&str]) -> Arc<Topology> {
    let routes: String = routes.iter().map(|route| format!("\n    - {route}")).collect();
    speaking_http(&format!(
        "split: [{{ tags: {{ version: v1 }} }}]\n    routes:{routes}"
    ))
}

/// A zone with an instance of each version, which answer with their names.
struct Versions {
    home: Zone,
    client: HttpClient,
    first: HttpInstance,
    second: HttpInstance,
}

impl Versions {
    async fn with(routes: &[&str]) -> Self {
        let (first, second) = (HttpInstance::start("v1").await, HttpInstance::start("v2").await);
        let instances = vec![
            first.instance(&[("version", "v1")]),
            second.instance(&[("version", "v2")]),
        ];
        let home = Zone::start("home", &with_routes(routes), instances);
        let client = HttpClient::of(&home).await;
        Self {
            home,
            client,
            first,
            second,
        }
    }

    /// `GET /a shop.example x-a=1`: a method, a target, a host, and fields.
    async fn ask(&mut self, request: &str) -> Told {
        let mut words = request.split_whitespace();
        let (method, target) = (words.next().unwrap(), words.next().unwrap());
        let mut request = Request::builder()
            .method(method)
            .uri(target)
            .header("host", words.next().unwrap_or("orders.mesh"));
        for field in words {
            let (name, value) = field.split_once('=').unwrap();
            request = request.header(name, value);
        }
        self.client.send(request.body(text("")).unwrap()).await.unwrap()
    }

    fn requests(&self) -> usize {
        self.first.requests() + self.second.requests()
    }
}

const TO_V2: &str = "split: [{ tags: { version: v2 } }]";

#[tokio::test]
async fn each_condition_leads_its_requests_to_the_split_of_its_route() {
    for (condition, here, elsewhere) in [
        ("methods: [PUT, DELETE]", "PUT /", "GET /"),
        ("path: /one", "GET /one?a=b", "GET /one/two"),
        ("path_prefix: /beta", "GET /beta/x", "GET /betamax"),
        ("path_regex: '^/v[0-9]+/'", "GET /v1/x", "GET /vx/"),
        (
            "host: Shop.example",
            "GET / shop.EXAMPLE:8080",
            "GET / my.shop.example",
        ),
        (
            "header: { X-Canary: '1' }",
            "GET / a.b x-canary=1",
            "GET / a.b x-canary=2",
        ),
        ("query: { debug: '1' }", "GET /?a&debug=1", "GET /?debug=10"),
        (
            "methods: [GET], path_prefix: /a, host: a.b",
            "GET /a a.b",
            "GET /a a.c",
        ),
    ] {
        let route = format!("{{ match: {{ {condition} }}, {TO_V2} }}");
        let mut zone = Versions::with(&[&route]).await;
        for _ in 0..2 {
            assert_eq!(zone.ask(here).await.text(), "v2", "{here}");
            assert_eq!(zone.ask(elsewhere).await.text(), "v1", "{elsewhere}");
        }
        assert_eq!(zone.home.egress.open_connections().count(), 1, "{condition}");
    }
}

#[tokio::test]
async fn no_way_of_writing_a_path_slips_past_a_route() {
    let route = format!("{{ match: {{ path_prefix: /beta }}, {TO_V2} }}");
    let mut zone = Versions::with(&[&route]).await;
    for path in ["//beta", "/b%65ta/x", "/beta;v=1", "/beta%2fx", "/%2Fbeta"] {
        assert_eq!(zone.ask(&format!("GET {path}")).await.text(), "v2", "{path}");
    }
    let before = zone.requests();
    for path in [
        "/x/../beta",
        "/./beta",
        "/x/%2e%2E/beta",
        "/x%2f..%2fbeta",
        "/a%00",
        "/a%zz",
    ] {
        let told = zone.ask(&format!("GET {path}")).await;
        assert_eq!(
            (
                told.status,
                told.field("causeway-reason"),
                told.field("connection")
            ),
            (StatusCode::BAD_REQUEST, Some("bad_request"), None),
            "{path}"
        );
    }
    let long = format!("GET /{}", "a".repeat(9000));
    assert_eq!(zone.ask(&long).await.status, StatusCode::URI_TOO_LONG);
    assert_eq!(zone.requests(), before, "an instance was given one of them");
    assert_eq!(zone.ask("GET /").await.text(), "v1", "the connection goes on");
    // Without a route that looks at paths they are nobody's business here.
    let other = format!("{{ match: {{ methods: [PUT] }}, {TO_V2} }}");
    let mut zone = Versions::with(&[&other]).await;
    assert_eq!(zone.ask("GET /x/../beta").await.text(), "v1");
}

#[tokio::test]
async fn a_field_that_ends_at_the_gateway_is_no_condition_that_is_met() {
    let route = format!("{{ match: {{ header: {{ x-canary: '1' }} }}, {TO_V2} }}");
    let mut zone = Versions::with(&[&route]).await;
    let told = zone.ask("GET / a.b connection=x-canary x-canary=1").await;
    assert_eq!(told.text(), "v1", "no instance would see it");
    let told = zone.ask("GET /head a.b x_canary=1").await;
    assert!(
        !told.text().contains("canary"),
        "some programs read it as the other"
    );
}

#[tokio::test]
async fn a_route_leads_to_another_zone_whose_gateway_knows_of_no_routes() {
    let (here, there) = (
        HttpInstance::start("here").await,
        HttpInstance::start("there").await,
    );
    let route = format!("{{ match: {{ path_prefix: /beta }}, {TO_V2} }}");
    let (home, east) = two_zones(
        &with_routes(&[&route]),
        vec![there.instance(&[("version", "v2")])],
    )
    .await;
    east.change(|snapshot| snapshot.topology = speaking_http("early: false"));
    set_instances(&home, vec![here.instance(&[("version", "v1")])]);
    let healthy = |healthy| {
        move |snapshot: &mut Snapshot| {
            let exported = testbed::entry("east", Age::Fresh, false, &[(&[("version", "v2")], 1, healthy)]);
            snapshot.catalog = Arc::new(Catalog::new([exported]));
        }
    };
    home.change(healthy(1));
    let mut client = HttpClient::of(&home).await;
    for _ in 0..3 {
        assert_eq!(client.get("/").await.text(), "here");
        assert_eq!(client.get("/beta").await.text(), "there");
    }
    assert_eq!((there.requests(), there.connections()), (3, 1));
    home.change(healthy(0));
    assert_eq!(client.get("/").await.text(), "here");
    let told = client.get("/beta").await;
    assert_eq!(
        told.status,
        StatusCode::SERVICE_UNAVAILABLE,
        "the service's split is no last resort"
    );
}

#[tokio::test]
async fn a_request_is_rewritten_and_its_fields_are_changed() {
    let mut zone = Versions::with(&[
        "{ match: { path_prefix: /beta }, rewrite: { path_prefix: /, host: 'in.example:81' }, \
           request_headers: { set: { x-set: new }, add: { x-add: '2' }, remove: [X-Gone] }, \
           response_headers: { set: { x-said: by-route } } }",
    ])
    .await;
    let told = zone
        .ask("GET /beta/head?a=/beta a.b x-set=old x-add=1 x-gone=1 x_gone=1 x_set=old")
        .await;
    let mut lines: Vec<&str> = told.text().lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "GET /head?a=/beta",
            "host: in.example:81",
            "via: 1.1 causeway",
            "x-add: 1",
            "x-add: 2",
            "x-forwarded-for: 127.0.0.1",
            "x-forwarded-host: a.b",
            "x-forwarded-proto: http",
            "x-set: new",
        ]
    );
    assert_eq!(told.field("x-said"), Some("by-route"));
    let told = zone.ask("GET /head").await;
    assert!(told.text().contains("host: orders.mesh\n") && told.field("x-said").is_none());
}

#[tokio::test]
async fn fields_of_an_answer_are_set_added_and_removed() {
    let mut zone = Versions::with(&[
        "{ match: { path: /head }, response_headers: { set: { date: never }, add: { x-mine: '2' } } }",
    ])
    .await;
    let told = zone.ask("GET /head").await;
    assert_eq!(told.field("date"), Some("never"));
    // The instance's own was named by its `Connection`.
    assert_eq!(told.field("x-mine"), Some("2"));
    assert_eq!(told.field("via"), Some("1.1 causeway"));
}

#[tokio::test]
async fn the_gateway_answers_and_redirects_by_itself() {
    let mut zone = Versions::with(&[
        "{ match: { path: /gone }, answer: { status: 410, body: sold out }, response_headers: { set: { x-shop: closed } } }",
        "{ match: { path_prefix: /old }, redirect: { status: 308, host: shop.example, path_prefix: /new } }",
        "{ match: { path_prefix: /moved }, redirect: { path_prefix: / } }",
    ])
    .await;
    let told = zone.ask("POST /gone").await;
    assert_eq!((told.status, told.text()), (StatusCode::GONE, "sold out"));
    assert_eq!(
        (
            told.field("x-shop"),
            told.field("causeway-reason"),
            told.field("content-type")
        ),
        (
            Some("closed"),
            Some("answered"),
            Some("text/plain; charset=utf-8")
        )
    );
    let told = zone.ask("HEAD /gone").await;
    assert_eq!((told.text(), told.field("content-length")), ("", Some("8")));
    let told = zone.ask("GET /old/x?y=z").await;
    assert_eq!(
        (told.status, told.field("location")),
        (
            StatusCode::PERMANENT_REDIRECT,
            Some("http://shop.example/new/x?y=z")
        )
    );
    let told = zone.ask("GET /moved//evil.example").await;
    assert_eq!(
        (told.status, told.field("location")),
        (StatusCode::TEMPORARY_REDIRECT, Some("/evil.example"))
    );
    assert_eq!(zone.requests(), 0, "an instance was asked");
    assert_eq!(zone.ask("GET /").await.text(), "v1", "the connection goes on");
}

#[tokio::test]
async fn a_caller_that_may_not_call_gets_no_answer_of_a_route() {
    let topology = speaking_http("allow: []\n    routes:\n    - { answer: { body: secret } }");
    let home = Zone::start("home", &topology, vec![]);
    let told = HttpClient::of(&home).await.get("/").await;
    assert_eq!(
        (told.status, told.field("causeway-reason")),
        (StatusCode::FORBIDDEN, Some("forbidden"))
    );
}

#[tokio::test]
async fn a_request_that_is_not_answered_in_the_time_of_its_route_is_answered_by_the_gateway() {
    let there = HttpInstance::start("there").await;
    let routes =
        speaking_http("routes:\n    - { match: { path: /hang }, timeout: 300ms }\n    - { timeout: 20s }");
    let (home, east) = two_zones(&routes, vec![there.instance(&[])]).await;
    let mut client = HttpClient::of(&home).await;
    assert_eq!(client.get("/").await.text(), "there");
    for method in [Method::GET, Method::POST] {
        let told = client.ask(method, "/hang").await.unwrap();
        assert_eq!(
            (told.status, told.field("causeway-reason")),
            (StatusCode::GATEWAY_TIMEOUT, Some("request_timeout"))
        );
    }
    assert_eq!(there.requests(), 3, "a request was repeated");
    until("the streams are given up", || {
        east.ingress.open_connections().count() == 0
    })
    .await;
    assert_eq!(client.get("/").await.text(), "there", "the connection goes on");
}

#[tokio::test]
async fn the_time_of_a_route_holds_while_no_instance_is_there_to_be_asked_too() {
    let config = EgressConfig {
        setup_deadline: Duration::from_secs(60),
        grace: Duration::from_secs(60),
        ..EgressConfig::new(1)
    };
    let routes = speaking_http("routes:\n    - { timeout: 200ms }");
    let home = Zone::with_config("home", &routes, vec![], config);
    let mut client = HttpClient::of(&home).await;
    let begun = std::time::Instant::now();
    let told = client.get("/").await;
    // Nobody was late, as nobody was asked.
    assert_eq!(
        (told.status, told.field("causeway-reason")),
        (StatusCode::SERVICE_UNAVAILABLE, Some("no_candidate"))
    );
    assert_eq!(told.field("retry-after"), Some("1"));
    let waited = begun.elapsed();
    assert!(
        (Duration::from_millis(200)..Duration::from_secs(20)).contains(&waited),
        "it was waited for one {waited:?}"
    );
}

#[tokio::test]
async fn a_search_that_takes_longer_than_a_route_allows_is_written_down_with_those_it_asked() {
    let written = Written::default();
    let access = LineWriter::start("access log", written.clone(), &Tasks::default()).unwrap();
    let home = Zone::with_access_log(
        "home",
        &speaking_http("routes:\n    - { timeout: 300ms }"),
        vec![],
        EgressConfig::new(1),
        AccessLog::Text(access),
    );
    home.join("east", silent()).await;
    let told = HttpClient::of(&home).await.get("/").await;
    assert_eq!(told.status, StatusCode::GATEWAY_TIMEOUT);
    until("a line is written", || written.lines().len() == 1).await;
    let line = &written.lines()[0];
    assert!(
        line.contains(" request_timeout ") && !line.contains("attempts=0"),
        "{line}"
    );
}

#[tokio::test]
async fn an_answer_that_has_begun_may_take_its_time() {
    let here = HttpInstance::start("here").await;
    let routes = speaking_http("routes:\n    - { timeout: 300ms }");
    let home = Zone::start("home", &routes, vec![here.instance(&[])]);
    let mut client = HttpClient::of(&home).await;
    let (feed, fed) = tokio::sync::oneshot::channel::<bytes::Bytes>();
    let begun = std::time::Instant::now();
    let body = http_body_util::StreamBody::new(futures_util::stream::once(async move {
        Ok::<_, std::convert::Infallible>(hyper::body::Frame::data(fed.await.unwrap()))
    }));
    let request = Request::post("/echo").header("host", "orders.mesh");
    let request = request.body(http_body_util::BodyExt::boxed(body)).unwrap();
    let asking = tokio::spawn(async move { client.send(request).await.unwrap() });
    until("the time is over", || {
        begun.elapsed() > Duration::from_millis(600)
    })
    .await;
    feed.send("late".into()).unwrap();
    let told = asking.await.unwrap();
    assert_eq!((told.status, told.text()), (StatusCode::OK, "late"));
}

#[tokio::test]
async fn the_access_log_and_the_metrics_name_the_route() {
    let here = HttpInstance::start("here").await;
    let written = Written::default();
    let access = LineWriter::start("access log", written.clone(), &Tasks::default()).unwrap();
    let routes = speaking_http(
        "routes:\n    - { name: slow, match: { path: /hang }, timeout: 100ms }\n    - { match: { path: /gone }, answer: { status: 410 } }",
    );
    let home = Zone::with_access_log(
        "home",
        &routes,
        vec![here.instance(&[])],
        EgressConfig::new(1),
        AccessLog::Text(access),
    );
    home.metrics.services().set([&testbed::service("orders")]);
    let mut client = HttpClient::of(&home).await;
    for path in ["/", "/gone", "/hang"] {
        client.get(path).await;
    }
    until("three lines are written", || written.lines().len() == 3).await;
    let lines = written.lines();
    for (line, outcome, route) in [
        (&lines[0], " served ", " route=- "),
        (&lines[1], " answered ", " route=routes[1] "),
        (&lines[2], " request_timeout ", " route=slow "),
    ] {
        assert!(line.contains(outcome) && line.contains(route), "{line}");
    }
    assert!(
        lines[2].contains("instance=here") && !lines[2].contains("up=0 "),
        "{}",
        lines[2]
    );
    let mut text = String::new();
    home.metrics.encode(&mut text).unwrap();
    for line in [
        r#"causeway_route_requests_total{service="orders",route="routes[1]",outcome="answered"} 1"#,
        r#"causeway_route_requests_total{service="orders",route="slow",outcome="request_timeout"} 1"#,
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    assert_eq!(text.matches("causeway_route_requests_total{").count(), 2);
}
