//! Tables of requests and of the route that rules each.

use causeway_federation::{name::PortName, request_path::PathFault, topology::Topology};
use http::{HeaderMap, HeaderName, HeaderValue};
use std::sync::Arc;

use super::{RequestHead, compare, find};
use crate::{permit::Caller, testbed};

/// `orders` with these routes, each a line.
fn with_routes(routes: &[&str]) -> Arc<Topology> {
    let routes: String = routes.iter().map(|route| format!("    - {route}\n")).collect();
    let service = format!("  orders:\n    port: 80\n    protocol: http\n    routes:\n{routes}");
    testbed::topology("  east: {}", &service)
}

/// `GET /a?b=c host x-d:1 x-d:2`: a method, a target, a host, and fields.
fn ruled(topology: &Topology, request: &str) -> Result<Option<String>, PathFault> {
    let mut words = request.split_whitespace();
    let (method, target) = (words.next().unwrap(), words.next().unwrap());
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let host = words.next().unwrap_or("orders.mesh");
    let fields = words.map(|field| {
        let (name, value) = field.split_once('=').unwrap();
        (
            HeaderName::from_bytes(name.as_bytes()).unwrap(),
            HeaderValue::from_str(value).unwrap(),
        )
    });
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(name, value);
    }
    let head = RequestHead {
        method,
        path,
        query,
        host,
        headers: &headers,
        caller: None,
        port: None,
    };
    let service = &topology.services[&testbed::service("orders")];
    let found = find(service, &head)?;
    // What is explained is what is done.
    let compared = compare(service, &head)?;
    let explained = compared.last().filter(|(_, mismatch)| mismatch.is_none());
    assert_eq!(
        found.map(|route| &route.label),
        explained.map(|(route, _)| &route.label)
    );
    Ok(found.map(|route| route.label.to_string()))
}

fn check(routes: &[&str], table: &[(&str, Option<&str>)]) {
    let topology = with_routes(routes);
    for (request, expected) in table {
        let found = ruled(&topology, request).unwrap();
        assert_eq!(found.as_deref(), *expected, "{request}");
    }
}

#[test]
fn the_first_route_that_matches_rules_a_request() {
    check(
        &[
            "{ name: one, match: { path: /one } }",
            "{ name: below, match: { path_prefix: /one } }",
            "{ match: { methods: [GET, HEAD] } }",
        ],
        &[
            ("GET /one", Some("one")),
            ("GET /one/", Some("below")),
            ("GET /one/two", Some("below")),
            ("GET /oneself", Some("routes[2]")),
            ("HEAD /", Some("routes[2]")),
            ("POST /", None),
            ("get /", None),
            ("OPTIONS *", None),
        ],
    );
}

#[test]
fn a_path_is_compared_however_it_is_written() {
    check(
        &[
            "{ name: admin, match: { path_prefix: /admin/ } }",
            "{ name: version, match: { path_regex: '^/v[0-9]+/(a|b)$' } }",
            "{ name: blank, match: { path: '/a%20b' } }",
        ],
        &[
            ("GET /admin", Some("admin")),
            ("GET //admin/x", Some("admin")),
            ("GET /%61dmin", Some("admin")),
            ("GET /admin;v=1", Some("admin")),
            ("GET /admin%2fx", Some("admin")),
            ("GET \\admin\\x", Some("admin")),
            ("GET /administrator", None),
            ("GET /Admin", None),
            ("GET /v12/a", Some("version")),
            ("GET /v12//%61", Some("version")),
            ("GET /v12/ab", None),
            ("GET /a%20b?q", Some("blank")),
        ],
    );
    let topology = with_routes(&["{ match: { path_prefix: /admin } }"]);
    for path in ["/x/../admin", "/x/%2e%2E/admin", "/./admin", "/x%2f..%2fadmin"] {
        assert_eq!(
            ruled(&topology, &format!("GET {path}")),
            Err(PathFault::DotSegment)
        );
    }
    let other = with_routes(&["{ match: { methods: [GET] } }"]);
    let no_path = ruled(&other, "GET /x/../admin").unwrap();
    assert_eq!(no_path.as_deref(), Some("routes[0]"), "nobody asks for the path");
}

#[test]
fn a_host_is_compared_without_its_port_and_in_any_case() {
    check(
        &[
            "{ name: shop, match: { host: shop.example } }",
            "{ name: six, match: { host: 'fd00::1' } }",
        ],
        &[
            ("GET / shop.example", Some("shop")),
            ("GET / Shop.EXAMPLE.:8443", Some("shop")),
            ("GET / shop.example:80", Some("shop")),
            ("GET / my.shop.example", None),
            ("GET / [fd00::1]:80", Some("six")),
            ("GET / [fd00::1]", Some("six")),
        ],
    );
}

#[test]
fn every_header_and_parameter_that_is_asked_for_has_to_be_there() {
    check(
        &[
            "{ name: both, match: { header: { X-Canary: '1', x-user: me } } }",
            "{ name: canary, match: { header: { x-canary: '1' } } }",
            "{ name: debug, match: { query: { debug: '1', 'a b': 'c&d' } } }",
            "{ name: flag, match: { query: { flag: '' } } }",
        ],
        &[
            ("GET / h x-canary=1 x-user=me", Some("both")),
            ("GET / h x-canary=1 x-user=you", Some("canary")),
            ("GET / h x-canary=0 x-canary=1", Some("canary")),
            ("GET / h x-canary=10", None),
            ("GET / h", None),
            ("GET /?debug=1&a+b=c%26d", Some("debug")),
            ("GET /?a%20b=c%26d&x&debug=0&debug=1", Some("debug")),
            ("GET /?debug=1&a+b=c&d", None),
            ("GET /?flag", Some("flag")),
            ("GET /?flag=", Some("flag")),
            ("GET /?flag=1", None),
        ],
    );
}

#[test]
fn a_grpc_service_and_its_methods_are_paths() {
    check(
        &[
            "{ name: get, match: { grpc: { service: pkg.Svc, method: Get } } }",
            "{ name: all, match: { grpc: { service: pkg.Svc } } }",
        ],
        &[
            ("POST /pkg.Svc/Get", Some("get")),
            ("POST /pkg.Svc/List", Some("all")),
            ("POST /pkg.Svc", None),
            ("POST /pkg.Svc2/Get", None),
            ("POST /x/pkg.Svc/Get", None),
        ],
    );
}

#[test]
fn an_explanation_ends_with_the_route_that_matches_and_says_what_the_others_lack() {
    let topology = with_routes(&[
        "{ match: { methods: [POST] } }",
        "{ match: { path_prefix: /b } }",
        "{ match: { host: a.b } }",
        "{ match: { header: { x-a: '1' } } }",
        "{ match: { query: { q: '1' } } }",
        "{ match: { path: /a } }",
        "{}",
    ]);
    let headers = HeaderMap::new();
    let head = RequestHead {
        method: "GET",
        path: "/a",
        query: None,
        host: "orders.mesh",
        headers: &headers,
        caller: None,
        port: None,
    };
    let service = &topology.services[&testbed::service("orders")];
    let told: Vec<String> = compare(service, &head)
        .unwrap()
        .iter()
        .map(|(_, mismatch)| {
            mismatch.map_or_else(|| "it matches".to_owned(), |mismatch| mismatch.to_string())
        })
        .collect();
    assert_eq!(
        told,
        [
            "the method is another",
            "the path is not /b and below",
            "the host is not a.b",
            "it has no x-a: 1",
            "it has no ?q=1",
            "it matches",
        ]
    );
}

#[test]
fn a_route_may_be_for_one_port() {
    let text = "  orders:\n    protocol: http\n    ports: { http: 8080, admin: 9090 }\n    routes:\n      \
                - { name: admin, match: { port: admin } }\n      - { name: http, match: { port: http } }";
    let topology = testbed::topology("  east: {}", text);
    let service = &topology.services[&testbed::service("orders")];
    let headers = HeaderMap::new();
    let ruled_by = |port: Option<&str>| {
        let port = port.map(|port| PortName::new(port).unwrap());
        let head = RequestHead {
            method: "GET",
            path: "/",
            query: None,
            host: "orders.mesh",
            headers: &headers,
            caller: None,
            port: port.as_ref(),
        };
        find(service, &head).unwrap().map(|route| route.label.to_string())
    };
    assert_eq!(ruled_by(Some("admin")).as_deref(), Some("admin"));
    assert_eq!(ruled_by(Some("http")).as_deref(), Some("http"));
    assert_eq!((ruled_by(Some("else")), ruled_by(None)), (None, None));
}

#[test]
fn a_route_may_be_for_certain_callers() {
    let topology = with_routes(&[
        "{ name: one, match: { caller: web } }",
        "{ name: several, match: { path_prefix: /api, caller: [batch@east, { service: jobs, tags: { env: prod } }] } }",
        "{ name: nobody, match: { caller: anonymous } }",
        "{ name: identity, match: { caller: 'spiffe://test.internal/app/*' } }",
    ]);
    let east = testbed::zone("east");
    let service = |name: &str, tags: &[(&str, &str)]| {
        Caller::service(east.clone(), testbed::service(name), testbed::tags(tags))
    };
    let shows = Caller {
        identity: Some("spiffe://test.internal/app/x".parse().unwrap()),
        ..Caller::anonymous(east.clone())
    };
    for (caller, path, expected) in [
        (Some(service("web", &[])), "/", Some("one")),
        (Some(service("batch", &[])), "/api/x", Some("several")),
        (Some(service("batch", &[])), "/", None),
        (Some(service("jobs", &[("env", "prod")])), "/api", Some("several")),
        (Some(service("jobs", &[])), "/api", None),
        (Some(Caller::anonymous(east.clone())), "/", Some("nobody")),
        (Some(shows), "/", Some("identity")),
        (None, "/api", None),
    ] {
        let headers = HeaderMap::new();
        let head = RequestHead {
            method: "GET",
            path,
            query: None,
            host: "orders.mesh",
            headers: &headers,
            caller: caller.as_ref(),
            port: None,
        };
        let found = find(&topology.services[&testbed::service("orders")], &head).unwrap();
        assert_eq!(found.map(|route| &*route.label), expected, "{caller:?} {path}");
    }
    assert!(topology.names_callers());
}
