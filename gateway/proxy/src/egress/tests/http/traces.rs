//! Requests take up the trace that they say they are in, and hand it on.

use http::{Method, Request};

use super::{HttpClient, HttpInstance, Told, speaking_http, text};
use crate::{
    egress::tests::traces::Spans,
    testbed::{Zone, until},
};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CLIENT: &str = "b7ad6b7169203331";

/// Answer of an instance that is asked with these fields, and so what it was told.
async fn told(client: &mut HttpClient, parent: &str, state: &str) -> Told {
    let request = Request::get("/head").header("host", "orders.mesh");
    let request = request.header("traceparent", parent).header("tracestate", state);
    client.send(request.body(text("")).unwrap()).await.unwrap()
}

/// The field of this name that an instance was told.
fn field<'a>(told: &'a Told, name: &str) -> Option<&'a str> {
    let prefix = format!("{name}: ");
    told.text().lines().find_map(|line| line.strip_prefix(&prefix))
}

#[tokio::test]
async fn a_request_through_two_zones_is_one_trace_of_its_client() {
    let there = HttpInstance::start("there").await;
    let topology = speaking_http("early: false");
    let ((at_east, east_spans), (at_home, home_spans)) = (Spans::config(), Spans::config());
    let east = Zone::with_config(
        "east",
        &topology,
        vec![there.instance(&[("version", "v1")])],
        at_east,
    );
    let home = Zone::with_config("home", &topology, vec![], at_home);
    home.join("east", east.ingress.clone()).await;
    let mut client = HttpClient::of(&home).await;
    let told = told(&mut client, &format!("00-{TRACE}-{CLIENT}-01"), "vendor=x").await;
    drop(client);
    until("both are sent", || home_spans.count() == 3).await;
    let connect = home_spans.ended("connect orders").await;
    let ingress = east_spans.ended("ingress orders").await;
    let spans = home_spans.all();
    let of = |kind: &str| {
        spans
            .iter()
            .find(|span| span.name == "GET orders" && span.kind == kind)
            .unwrap()
    };
    let (server, attempt) = (of("server"), of("client"));
    for (span, parent) in [
        (server, CLIENT),
        (attempt, &*server.id),
        (&connect, &*attempt.id),
        (&ingress, &*connect.id),
    ] {
        assert_eq!(
            (&*span.trace, span.parent.as_deref(), &*span.state),
            (TRACE, Some(parent), "vendor=x"),
            "{span:?}"
        );
    }
    assert_eq!(server.attributes["http.request.method"], "GET");
    assert_eq!(server.attributes["url.path"], "/head");
    assert_eq!(server.attributes["http.response.status_code"], "200");
    assert_eq!(server.attributes["causeway.to_zone"], "east");
    assert_eq!(attempt.attributes["http.response.status_code"], "200");
    assert_eq!(
        field(&told, "traceparent"),
        Some(&*format!("00-{TRACE}-{}-01", attempt.id))
    );
    assert_eq!(field(&told, "tracestate"), Some("vendor=x"));
}

#[tokio::test]
async fn what_a_client_says_is_not_recorded_is_handed_on_as_it_is() {
    let here = HttpInstance::start("here").await;
    let (config, spans) = Spans::config();
    let home = Zone::with_config("home", &speaking_http(""), vec![here.instance(&[])], config);
    let mut client = HttpClient::of(&home).await;
    let parent = format!("00-{TRACE}-{CLIENT}-00");
    let told = told(&mut client, &parent, "vendor=x").await;
    assert_eq!(field(&told, "traceparent"), Some(&*parent));
    assert_eq!(field(&told, "tracestate"), Some("vendor=x"));
    drop(client);
    until("all is closed", || home.egress.shared.open.count() == 0).await;
    assert_eq!(spans.count(), 0);
}

#[tokio::test]
async fn a_request_without_a_trace_that_can_be_read_begins_one() {
    let here = HttpInstance::start("here").await;
    let (config, spans) = Spans::config();
    let home = Zone::with_config("home", &speaking_http(""), vec![here.instance(&[])], config);
    let mut client = HttpClient::of(&home).await;
    let told = told(&mut client, "00-nonsense", "vendor=x").await;
    until("it has ended", || spans.count() == 3).await;
    let server = spans
        .all()
        .into_iter()
        .find(|span| span.kind == "server")
        .unwrap();
    assert_eq!(server.parent, None);
    assert!(field(&told, "traceparent").unwrap().contains(&server.trace));
    assert_eq!(field(&told, "tracestate"), None);
}

#[tokio::test]
async fn without_a_receiver_a_request_keeps_what_it_says() {
    let here = HttpInstance::start("here").await;
    let home = Zone::start("home", &speaking_http(""), vec![here.instance(&[])]);
    let mut client = HttpClient::of(&home).await;
    let told = told(&mut client, "anything", "vendor=x").await;
    assert_eq!(field(&told, "traceparent"), Some("anything"));
    let plain = client.ask(Method::GET, "/head").await.unwrap();
    assert_eq!(field(&plain, "traceparent"), None);
}
