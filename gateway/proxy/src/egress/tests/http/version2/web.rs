//! Clients of HTTP/2 whose service speaks HTTP/1.1.

use futures_util::future::join_all;
use http::{Method, Request, StatusCode};

use super::CallClient;
use crate::{
    egress::tests::http::{HttpInstance, speaking_http, text, two_zones},
    testbed::Zone,
};

fn get(path: &str) -> http::request::Builder {
    Request::get(format!("http://orders.mesh:8080{path}"))
}

#[tokio::test]
async fn requests_side_by_side_are_given_to_instances_of_http_1() {
    let there = HttpInstance::start("there").await;
    let (home, _east) = two_zones(&speaking_http("early: false"), vec![there.instance(&[])]).await;
    let client = CallClient::of(&home).await;
    for round in 1..=3 {
        let asked = (0..5).map(|_| client.send(get("/").body(text("")).unwrap()));
        for told in join_all(asked).await {
            assert_eq!(told.unwrap().text(), "there");
        }
        assert_eq!(there.requests(), 5 * round);
    }
    let connections = there.connections();
    assert!(connections < 15, "{connections}: they are kept");
    assert_eq!(home.egress.open_connections().count(), 1);
}

#[tokio::test]
async fn a_request_is_written_as_http_1_has_it() {
    let here = HttpInstance::start("here").await;
    let home = Zone::start("home", &speaking_http("early: false"), vec![here.instance(&[])]);
    let client = CallClient::of(&home).await;
    let request = get("/head?a=b").header("cookie", "a=1").header("cookie", "b=2");
    let told = client.send(request.body(text("")).unwrap()).await.unwrap();
    let mut lines: Vec<&str> = told.text().lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "GET /head?a=b",
            "cookie: a=1; b=2",
            "host: orders.mesh:8080",
            "via: 2.0 causeway",
            "x-forwarded-for: 127.0.0.1",
            "x-forwarded-host: orders.mesh:8080",
            "x-forwarded-proto: http",
        ]
    );
    assert_eq!(told.field("via"), Some("1.1 causeway"));
    assert_eq!((told.field("connection"), told.field("x-mine")), (None, None));
}

#[tokio::test]
async fn an_answer_to_head_has_a_length_and_no_body() {
    let here = HttpInstance::start("here").await;
    let home = Zone::start("home", &speaking_http("early: false"), vec![here.instance(&[])]);
    let client = CallClient::of(&home).await;
    let request = get("/").method(Method::HEAD).body(text("")).unwrap();
    let told = client.send(request).await.unwrap();
    assert_eq!((told.status, told.text()), (StatusCode::OK, ""));
    assert_eq!(told.field("content-length"), Some("4"));
}

#[tokio::test]
async fn a_body_without_a_length_goes_both_ways() {
    let there = HttpInstance::start("there").await;
    let (home, _east) = two_zones(&speaking_http("early: false"), vec![there.instance(&[])]).await;
    for method in [Method::POST, Method::GET] {
        let client = CallClient::of(&home).await;
        let (feed, body) = super::fed();
        let request = get("/echo").method(&method).body(body).unwrap();
        let asking = tokio::spawn(async move { client.send(request).await.unwrap() });
        for word in ["one ", "two"] {
            feed.send(word.into()).await.unwrap();
        }
        drop(feed);
        assert_eq!(asking.await.unwrap().text(), "one two", "{method}");
    }
}
