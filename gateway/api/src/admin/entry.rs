//! Middleware that every request passes before it is served: whether it may be done, and that it was asked for, before and
//! afterwards. What a request needs is decided here, by its method and path alone; anything that is not listed needs the most.

use axum::{
    Json,
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, Method, StatusCode, header};

use super::error::ApiError;
use crate::{
    actor::AskingConnection,
    audit::{Attempt, AuditOutcome, Note},
    credentials::{ADMIN_API, Denied, Gate, ListenerProof, RequestedChange, Scope},
    dashboard,
};

/// The gate of an API, and the proof that it wants on one listener.
#[derive(Debug, Clone)]
pub(super) struct GatedListener {
    pub gate: Gate,
    pub access: ListenerProof,
}

/// Finds the scope that a request needs; `None`: nothing, because a load balancer asks it or there is nothing in it to be kept.
fn needs(method: &Method, path: &str) -> Option<Scope> {
    let reads = method == Method::GET || method == Method::HEAD;
    match path {
        "/livez" | "/readyz" if reads => None,
        // Files of the program itself: what they show is asked for under the paths below.
        _ if reads && dashboard::has(path) => None,
        _ if reads => Some(Scope::Read),
        "/v1/topology/diff" => Some(Scope::Read),
        _ if path == "/v1/instances" || path.starts_with("/v1/instances/") => Some(Scope::Register),
        _ if path.starts_with("/v1/sources/") => Some(Scope::Register),
        _ => Some(Scope::Write),
    }
}

/// Tells whether it is written down when it was let in. A renewal changes nothing, and there is one every few seconds.
fn is_change(method: &Method, path: &str) -> bool {
    let reads = needs(method, path).is_none_or(|scope| scope == Scope::Read);
    !reads && !path.ends_with("/renew")
}

/// Finds the instance or source that the path of a request names.
fn object(path: &str) -> Option<String> {
    let of = |prefix: &str| path.strip_prefix(prefix).filter(|rest| !rest.is_empty());
    let named = of("/v1/instances/").filter(|rest| rest.contains('/'));
    let named = named.or_else(|| of("/v1/sources/"));
    // What becomes of a shift stands behind its service.
    let shifted = of("/v1/shifts/").and_then(|rest| rest.split('/').next());
    named.or(shifted).map(str::to_owned)
}

pub(super) async fn pass(State(entry): State<GatedListener>, request: Request, next: Next) -> Response {
    let connection = AskingConnection::of(request.extensions());
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let attempt = Attempt {
        api: ADMIN_API,
        method: method.as_str(),
        path: uri.path_and_query().map_or(uri.path(), |whole| whole.as_str()),
    };
    let authorization = request.headers().get(header::AUTHORIZATION);
    let admitted = entry.gate.admit(
        entry.access,
        &connection,
        authorization.map(HeaderValue::as_bytes),
        &attempt,
        needs(&method, uri.path()),
    );
    let actor = match admitted {
        Ok(actor) => actor,
        Err(denied) => return refuse(&denied),
    };
    if !is_change(&method, uri.path()) {
        return next.run(request).await;
    }
    let object = object(uri.path());
    let change = RequestedChange {
        api: attempt.api,
        method: attempt.method.to_owned(),
        path: attempt.path.to_owned(),
        connection,
        actor,
        object: object.clone(),
    };
    let work = async move {
        let mut response = next.run(request).await;
        let mut note = response.extensions_mut().remove::<Note>().unwrap_or_default();
        note.object = note.object.or(object);
        let outcome = AuditOutcome::of_http(response.status().as_u16(), note);
        (response, outcome)
    };
    let done = entry.gate.carry_out(change, work).await;
    done.unwrap_or_else(|| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

fn refuse(denied: &Denied) -> Response {
    let status = match denied.is_unauthenticated() {
        true => StatusCode::UNAUTHORIZED,
        false => StatusCode::FORBIDDEN,
    };
    let error = ApiError::new(status, denied.to_string()).hint(denied.hint());
    let mut response = error.word(denied.word()).into_response();
    if status == StatusCode::UNAUTHORIZED {
        let challenge = HeaderValue::from_static("Bearer realm=\"causeway\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    }
    response
}

/// An answer with what the audit log shall say of it.
pub(super) fn noted<T: serde::Serialize>(body: T, note: Note) -> Response {
    (axum::Extension(note), Json(body)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_request_needs_is_the_most_unless_it_is_known_to_be_less() {
        for (request, needed) in [
            ("GET /livez", None),
            ("HEAD /readyz", None),
            ("GET /", None),
            ("HEAD /dashboard/app.js", None),
            ("GET /dashboard/app.js/", Some(Scope::Read)),
            ("GET /dashboard/other", Some(Scope::Read)),
            ("POST /", Some(Scope::Write)),
            ("POST /livez", Some(Scope::Write)),
            ("GET /metrics", Some(Scope::Read)),
            ("GET /v1/instances", Some(Scope::Read)),
            ("GET /v1/anything", Some(Scope::Read)),
            ("POST /v1/topology/diff", Some(Scope::Read)),
            ("PUT /v1/instances/orders/a", Some(Scope::Register)),
            ("POST /v1/instances/orders/a/renew", Some(Scope::Register)),
            ("DELETE /v1/instances/orders/a", Some(Scope::Register)),
            ("POST /v1/instances/deregister", Some(Scope::Register)),
            ("PUT /v1/sources/consul", Some(Scope::Register)),
            ("PUT /v1/topology", Some(Scope::Write)),
            ("GET /v1/shifts", Some(Scope::Read)),
            ("POST /v1/shifts/orders", Some(Scope::Write)),
            ("POST /v1/shifts/orders/abort", Some(Scope::Write)),
            ("POST /v1/topology/diff/", Some(Scope::Write)),
            ("PUT /v1/instances2", Some(Scope::Write)),
            ("DELETE /v1/anything", Some(Scope::Write)),
        ] {
            let (method, path) = request.split_once(' ').unwrap();
            assert_eq!(needs(&method.parse().unwrap(), path), needed, "{request}");
        }
    }

    #[test]
    fn changes_are_written_down_and_what_they_are_about_is_named() {
        for (path, named) in [
            ("/v1/instances/orders/10.1.0.1%3A80", Some("orders/10.1.0.1%3A80")),
            ("/v1/sources/consul", Some("consul")),
            ("/v1/shifts/orders", Some("orders")),
            ("/v1/shifts/orders/abort", Some("orders")),
            ("/v1/instances", None),
            ("/v1/topology", None),
        ] {
            assert!(is_change(&Method::PUT, path), "{path}");
            assert_eq!(object(path).as_deref(), named);
        }
        assert!(!is_change(&Method::GET, "/v1/topology"));
        assert!(!is_change(&Method::POST, "/v1/topology/diff"));
        assert!(!is_change(&Method::POST, "/v1/instances/orders/a/renew"));
    }
}
