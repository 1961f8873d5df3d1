//! Changes that a route makes of a request and of its answer, and the answers that it has the gateway give. Pure.

use std::sync::Arc;

use bytes::Bytes;
use causeway_federation::{
    request_path::replace_prefix,
    topology::{HeaderChanges, Route, RouteAction, RouteRedirect},
};
use causeway_telemetry::ConnectionOutcome;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Uri, header, request::Parts,
    uri::PathAndQuery,
};

use super::{
    answer::REASON, forwarded::FORWARDED_PROTO, grpc::declared_grpc_answer, headers::drop_disguised,
};

/// Changes header fields as declared.
pub(crate) fn change_headers(headers: &mut HeaderMap, changes: &HeaderChanges) {
    for name in &changes.remove {
        headers.remove(name.as_str());
    }
    // Names and values were looked at when the topology was read.
    let read = |name: &str, value: &str| {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        Some((name, HeaderValue::from_str(value).ok()?))
    };
    for (name, value) in changes.set.iter().filter_map(|(name, value)| read(name, value)) {
        headers.insert(name, value);
    }
    for (name, value) in changes.add.iter().filter_map(|(name, value)| read(name, value)) {
        headers.append(name, value);
    }
}

/// Takes out fields that programs may read as one that a route asks for or changes: no client is to get past the route with them.
pub(crate) fn drop_twins(headers: &mut HeaderMap, routes: &[Arc<Route>]) {
    let names = routes.iter().flat_map(|route| {
        let changes = &route.request_headers;
        let changed = changes
            .set
            .keys()
            .chain(changes.add.keys())
            .chain(&changes.remove);
        route.matches.headers.keys().chain(changed)
    });
    drop_disguised(headers, names.map(String::as_str));
}

/// Makes of a request what an instance is to be asked for. Its target is a path, and its name stands in `Host`.
///
/// # Errors
/// A target that becomes none.
pub(crate) fn change_request(parts: &mut Parts, route: &Route) -> Result<(), http::Error> {
    if let Some(new) = &route.rewrite.path_prefix {
        let target = with_query(&with_prefix(&parts.uri, route, new), &parts.uri);
        let mut uri = std::mem::take(&mut parts.uri).into_parts();
        uri.path_and_query = Some(PathAndQuery::try_from(target)?);
        parts.uri = Uri::from_parts(uri)?;
    }
    if let Some(host) = &route.rewrite.host {
        parts.headers.insert(header::HOST, HeaderValue::from_str(host)?);
    }
    change_headers(&mut parts.headers, &route.request_headers);
    Ok(())
}

/// Makes the answer that a route has the gateway give; `None`: an instance is to be asked. A call of gRPC gets it in its form.
pub(crate) fn declared_answer(parts: &Parts, route: &Route, is_call: bool) -> Option<Response<Bytes>> {
    let (status, text, location) = match &route.action {
        RouteAction::Forward => return None,
        RouteAction::Answer(answer) => (answer.status, answer.body.clone(), None),
        RouteAction::Redirect(redirect) => {
            let location = location(parts, route, redirect);
            let text = format!("causeway: this is now at {location}\n");
            (redirect.status, text, Some(location))
        }
    };
    let mut answer = match is_call {
        true => declared_grpc_answer(status, &text),
        false => plain_answer(status, text),
    };
    let headers = answer.headers_mut();
    let word = ConnectionOutcome::Answered.word();
    headers.insert(REASON, HeaderValue::from_static(word));
    if let Some(Ok(location)) = location.map(HeaderValue::try_from)
        && !is_call
    {
        headers.insert(header::LOCATION, location);
    }
    change_headers(headers, &route.response_headers);
    if parts.method == Method::HEAD {
        let length = HeaderValue::from(answer.body().len());
        answer.headers_mut().insert(header::CONTENT_LENGTH, length);
        *answer.body_mut() = Bytes::new();
    }
    Some(answer)
}

fn plain_answer(status: u16, text: String) -> Response<Bytes> {
    let mut answer = Response::new(Bytes::from(text));
    *answer.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
    if !answer.body().is_empty() {
        let kind = HeaderValue::from_static("text/plain; charset=utf-8");
        answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    }
    answer
}

/// The place that a redirect leads to: of a host of its own, or a path of the one that was asked for.
fn location(parts: &Parts, route: &Route, redirect: &RouteRedirect) -> String {
    let path = match &redirect.path_prefix {
        Some(new) => with_prefix(&parts.uri, route, new),
        None if parts.uri.path().starts_with('/') => parts.uri.path().to_owned(),
        None => "/".to_owned(),
    };
    let target = with_query(&path, &parts.uri);
    match &redirect.host {
        Some(host) => format!("{}://{host}{target}", scheme(&parts.headers)),
        None => target,
    }
}

/// Scheme by which the first client came, as far as is told.
fn scheme(headers: &HeaderMap) -> &'static str {
    let told = headers.get(FORWARDED_PROTO).map(HeaderValue::as_bytes);
    match told {
        Some(b"https") => "https",
        _ => "http",
    }
}

fn with_prefix(uri: &Uri, route: &Route, new: &str) -> String {
    let replaced = route.matches.path.as_ref().and_then(|path| path.replaced());
    replace_prefix(uri.path(), replaced.unwrap_or_default().as_bytes(), new)
}

fn with_query(path: &str, uri: &Uri) -> String {
    match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use causeway_routing::testbed;
    use http::Request;

    use super::*;

    /// The first route of `orders`.
    fn route(text: &str) -> Arc<Route> {
        let service = format!("  orders:\n    port: 80\n    protocol: http\n    routes:\n    - {text}");
        let topology = testbed::topology("  east: {}", &service);
        topology.services[&testbed::service("orders")].routes[0].clone()
    }

    fn parts(target: &str) -> Parts {
        let request = Request::get(target)
            .header("host", "orders.mesh")
            .header("x-a", "1")
            .header("x-a", "2")
            .header("x-b", "3");
        request.body(()).unwrap().into_parts().0
    }

    fn changed(target: &str, text: &str) -> Parts {
        let mut parts = parts(target);
        change_request(&mut parts, &route(text)).unwrap();
        parts
    }

    #[test]
    fn a_path_is_rewritten_and_its_query_stays() {
        for (target, text, expected) in [
            (
                "/beta/x?y=/beta",
                "{ match: { path_prefix: /beta }, rewrite: { path_prefix: / } }",
                "/x?y=/beta",
            ),
            (
                "/beta?y",
                "{ match: { path_prefix: /beta }, rewrite: { path_prefix: / } }",
                "/?y",
            ),
            (
                "/beta",
                "{ match: { path: /beta }, rewrite: { path_prefix: /new/ } }",
                "/new",
            ),
            (
                "/x",
                "{ match: { path_prefix: / }, rewrite: { path_prefix: /v2 } }",
                "/v2/x",
            ),
            (
                "/a%20b/%78",
                "{ match: { path_prefix: /a%20b }, rewrite: { path_prefix: /c%20d } }",
                "/c%20d/%78",
            ),
        ] {
            assert_eq!(changed(target, text).uri.to_string(), expected, "{target}");
        }
    }

    #[test]
    fn fields_are_set_added_and_removed() {
        let parts = changed(
            "/",
            "{ rewrite: { host: 'in.example:81' }, request_headers: { set: { X-A: new }, add: { x-b: '4' }, remove: [X-C] } }",
        );
        assert_eq!(parts.headers["host"], "in.example:81");
        let all = |name: &str| -> Vec<&[u8]> {
            parts
                .headers
                .get_all(name)
                .iter()
                .map(HeaderValue::as_bytes)
                .collect()
        };
        assert_eq!(all("x-a"), [b"new"]);
        assert_eq!(all("x-b"), [b"3", b"4"]);
        let parts = changed("/", "{ request_headers: { remove: [x-a] } }");
        assert!(!parts.headers.contains_key("x-a"));
    }

    #[test]
    fn a_redirect_leads_to_a_host_or_to_a_path_and_never_elsewhere() {
        let leads = |target: &str, text: &str| {
            let mut parts = parts(target);
            parts
                .headers
                .insert(FORWARDED_PROTO, HeaderValue::from_static("https"));
            let answer = declared_answer(&parts, &route(text), false).unwrap();
            let location = answer.headers()[header::LOCATION].to_str().unwrap().to_owned();
            (answer.status().as_u16(), location)
        };
        for (target, text, status, expected) in [
            (
                "/x?y",
                "{ redirect: { host: shop.example } }",
                307,
                "https://shop.example/x?y",
            ),
            (
                "/old/x",
                "{ match: { path_prefix: /old }, redirect: { status: 308, host: 'a.b:8', path_prefix: /new } }",
                308,
                "https://a.b:8/new/x",
            ),
            (
                "/old/x?y",
                "{ match: { path_prefix: /old }, redirect: { path_prefix: / } }",
                307,
                "/x?y",
            ),
            (
                "/old//evil.example/",
                "{ match: { path_prefix: /old }, redirect: { path_prefix: / } }",
                307,
                "/evil.example/",
            ),
            (
                "//evil.example/",
                "{ match: { path_prefix: / }, redirect: { path_prefix: /new } }",
                307,
                "/new/evil.example/",
            ),
        ] {
            assert_eq!(leads(target, text), (status, expected.to_owned()), "{target}");
        }
    }

    #[test]
    fn an_answer_is_as_it_is_declared() {
        let text = "{ answer: { status: 404, body: gone }, response_headers: { set: { content-type: text/html }, add: { x-a: b } } }";
        let answer = declared_answer(&parts("/"), &route(text), false).unwrap();
        assert_eq!(
            (answer.status().as_u16(), answer.body().as_ref()),
            (404, &b"gone"[..])
        );
        assert_eq!(answer.headers()[header::CONTENT_TYPE], "text/html");
        assert_eq!(answer.headers()["x-a"], "b");
        assert_eq!(answer.headers()[REASON], "answered");
        let call = declared_answer(&parts("/"), &route(text), true).unwrap();
        assert_eq!(
            (call.status().as_u16(), &call.headers()["grpc-status"]),
            (200, &HeaderValue::from_static("12"))
        );
        assert!(declared_answer(&parts("/"), &route("{ timeout: 1s }"), false).is_none());
    }
}
