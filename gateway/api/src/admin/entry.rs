//! Middleware that every request passes before it is served: whether it may be done, and that it was asked for, before and
//! afterwards. What a request needs is decided here, by its method and path alone; anything that is not listed needs the most. Where rights
//! over a single service may do, and the path does not name it, the handler asks the [`Rights`] among the request's extensions.

use std::time::Duration;

use axum::{
    Json,
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use causeway_federation::{
    name::{ServiceName, ZoneName},
    topology::ChangeableParts,
};
use http::{HeaderValue, Method, StatusCode, header};

use super::error::ApiError;
use crate::{
    actor::{AskingConnection, Proof},
    audit::{Attempt, AuditOutcome, Note},
    credentials::{
        ADMIN_API, AdmittedActor, Denied, Gate, ListenerProof, RequestedChange, RequiredRight, Rights, Scope,
        pace::{MAX_CHANGES, WITHIN},
    },
    dashboard,
    elsewhere::{
        Elsewhere, RefusedHere,
        pages::{Meant, meant},
    },
};

/// The gate of an API, and the proof that it wants on one listener.
#[derive(Debug, Clone)]
pub(super) struct GatedListener {
    pub gate: Gate,
    pub access: ListenerProof,
}

/// Finds the right that a request needs; `None`: nothing, because a load balancer asks it or there is nothing in it to be kept.
fn needs(method: &Method, path: &str) -> Option<RequiredRight> {
    let reads = method == Method::GET || method == Method::HEAD;
    Some(match path {
        "/livez" | "/readyz" if reads => return None,
        // Files of the program itself: what they show is asked for under the paths below.
        _ if reads && dashboard::has(path) => return None,
        _ if reads => RequiredRight::Everything(Scope::Read),
        "/v1/topology/diff" => RequiredRight::Everything(Scope::Read),
        // Lists: each element is looked at by itself.
        "/v1/instances" | "/v1/instances/renew" | "/v1/instances/deregister" => {
            RequiredRight::SomeService(Scope::Register)
        }
        // What it changes shows when it is compared with what is in force.
        "/v1/topology" if method == Method::PUT => RequiredRight::SomeService(Scope::Write),
        _ => named(path),
    })
}

/// The right that a change of what the path names needs.
fn named(path: &str) -> RequiredRight {
    let below = |prefix: &str| path.strip_prefix(prefix);
    let (scope, rest) = match (below("/v1/instances/"), below("/v1/shifts/")) {
        (Some(rest), _) => (Scope::Register, Some(rest)),
        (_, Some(rest)) => (Scope::Write, Some(rest)),
        // A source holds instances of any service.
        _ if below("/v1/sources/").is_some() => (Scope::Register, None),
        _ => (Scope::Write, None),
    };
    // As it stands in the path: a name has nothing that would be written otherwise there.
    let service = rest.and_then(|rest| rest.split('/').next());
    match service.map(ServiceName::new) {
        Some(Ok(service)) => RequiredRight::Service(scope, service),
        Some(Err(_)) | None => RequiredRight::Everything(scope),
    }
}

/// Tells whether it is written down when it was let in. A renewal changes nothing, and there is one every few seconds.
fn is_change(method: &Method, path: &str) -> bool {
    let reads = needs(method, path).is_none_or(|right| right == RequiredRight::Everything(Scope::Read));
    !reads && !path.ends_with("/renew")
}

/// Finds the instance, source or service that the path of a request names.
fn object(path: &str) -> Option<String> {
    let of = |prefix: &str| path.strip_prefix(prefix).filter(|rest| !rest.is_empty());
    let instance = of("/v1/instances/").filter(|rest| rest.contains('/'));
    // What becomes of an instance stands behind it.
    let named = instance.map(|rest| {
        let mut acts = ["/renew", "/drain", "/undrain"].into_iter();
        acts.find_map(|act| rest.strip_suffix(act)).unwrap_or(rest)
    });
    let named = named.or_else(|| of("/v1/sources/"));
    // What becomes of a shift stands behind its service.
    let shifted = of("/v1/shifts/").and_then(|rest| rest.split('/').next());
    let topology = (path == "/v1/topology").then_some("topology");
    named.or(shifted).or(topology).map(str::to_owned)
}

/// Decides about a request. Over loopback a token may be one for other zones: each zone that is asked decides what it is worth, and the own one
/// as any other.
fn admit(
    entry: &GatedListener,
    own: &ZoneName,
    (connection, attempt): (&AskingConnection, &Attempt<'_>),
    request: &mut Request,
) -> Result<AdmittedActor, Denied> {
    let needs = needs(request.method(), request.uri().path());
    let authorization = request.headers().get(header::AUTHORIZATION).cloned();
    let shown = authorization.as_ref().map(HeaderValue::as_bytes);
    let admit = |shown: Option<&[u8]>| {
        entry
            .gate
            .admit(entry.access, connection, shown, attempt, needs.clone())
    };
    let meant = match (&connection.proof, shown) {
        (Proof::Plain, Some(_)) => meant(request.method(), request.uri()).ok(),
        _ => None,
    };
    match meant {
        Some(Meant::At(zone, _)) if zone != *own => admit(None),
        Some(Meant::Everywhere(_)) => admit(shown).or_else(|denied| {
            request.extensions_mut().insert(RefusedHere(denied));
            admit(None)
        }),
        Some(Meant::At(..) | Meant::Here) | None => admit(shown),
    }
}

pub(super) async fn pass(
    State((entry, elsewhere)): State<(GatedListener, Elsewhere)>,
    mut request: Request,
    next: Next,
) -> Response {
    let connection = AskingConnection::of(request.extensions());
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let attempt = Attempt {
        api: ADMIN_API,
        method: method.as_str(),
        path: uri.path_and_query().map_or(uri.path(), |whole| whole.as_str()),
    };
    let admitted = admit(
        &entry,
        elsewhere.own_zone(),
        (&connection, &attempt),
        &mut request,
    );
    let AdmittedActor { actor, rights } = match admitted {
        Ok(admitted) => admitted,
        Err(denied) => return refuse(&denied),
    };
    let is_paced =
        rights.changeable() != ChangeableParts::Everything && makes_generation(&method, uri.path());
    request.extensions_mut().insert(rights);
    request.extensions_mut().insert(actor.clone());
    if !is_change(&method, uri.path()) {
        return next.run(request).await;
    }
    if is_paced && let Err(wait) = entry.gate.count_block_change(&actor) {
        return too_many(wait);
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

/// Tells whether a request may make a generation of the topology.
fn makes_generation(method: &Method, path: &str) -> bool {
    (method == Method::PUT && path == "/v1/topology")
        || (method == Method::POST && path.starts_with("/v1/shifts/"))
}

/// Refusal of one who may change single services, and does so too often.
fn too_many(wait: Duration) -> Response {
    let seconds = wait.as_secs().max(1);
    let error = format!(
        "more than {MAX_CHANGES} changes within {} s, each of them a generation for every zone",
        WITHIN.as_secs()
    );
    let hint = format!("try again in {seconds} s; whoever has the scope write is not counted");
    let mut response = ApiError::new(StatusCode::TOO_MANY_REQUESTS, error)
        .hint(hint)
        .into_response();
    response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    response
}

/// Rights of whoever makes a request: none where nobody has said so.
pub(super) fn rights(request: &Request) -> Rights {
    request.extensions().get().cloned().unwrap_or_default()
}

fn refuse(denied: &Denied) -> Response {
    let mut response = ApiError::from(denied).into_response();
    if denied.is_unauthenticated() {
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
            ("GET /livez", "nothing"),
            ("HEAD /readyz", "nothing"),
            ("GET /", "nothing"),
            ("HEAD /dashboard/app.js", "nothing"),
            ("GET /dashboard/app.js/", "read"),
            ("GET /dashboard/other", "read"),
            ("POST /", "write"),
            ("POST /livez", "write"),
            ("GET /metrics", "read"),
            ("GET /v1/instances", "read"),
            ("GET /v1/anything", "read"),
            ("POST /v1/topology/diff", "read"),
            ("PUT /v1/instances/orders/a", "register:orders"),
            ("POST /v1/instances/orders/a/renew", "register:orders"),
            ("DELETE /v1/instances/orders/a", "register:orders"),
            ("POST /v1/instances/orders/a/drain", "register:orders"),
            ("POST /v1/instances", "register of some service"),
            ("POST /v1/instances/renew", "register of some service"),
            ("POST /v1/instances/deregister", "register of some service"),
            ("PUT /v1/instances/Or%64ers/a", "register"),
            ("PUT /v1/sources/consul", "register"),
            ("PUT /v1/topology", "write of some service"),
            ("DELETE /v1/topology", "write"),
            ("PUT /v1/trust", "write"),
            ("GET /v1/shifts", "read"),
            ("POST /v1/shifts/orders", "write:orders"),
            ("POST /v1/shifts/orders/abort", "write:orders"),
            ("POST /v1/shifts/", "write"),
            ("POST /v1/topology/diff/", "write"),
            ("PUT /v1/topology/", "write"),
            ("PUT /v1/instances2", "write"),
            ("DELETE /v1/anything", "write"),
        ] {
            let (method, path) = request.split_once(' ').unwrap();
            let needs = needs(&method.parse().unwrap(), path);
            let needs = needs.map_or_else(|| "nothing".to_owned(), |needs| needs.to_string());
            assert_eq!(needs, needed, "{request}");
        }
    }

    #[test]
    fn changes_are_written_down_and_what_they_are_about_is_named() {
        for (path, named) in [
            ("/v1/instances/orders/10.1.0.1%3A80", Some("orders/10.1.0.1%3A80")),
            (
                "/v1/instances/orders/10.1.0.1%3A80/drain",
                Some("orders/10.1.0.1%3A80"),
            ),
            ("/v1/sources/consul", Some("consul")),
            ("/v1/shifts/orders", Some("orders")),
            ("/v1/shifts/orders/abort", Some("orders")),
            ("/v1/instances", None),
            ("/v1/topology", Some("topology")),
        ] {
            assert!(is_change(&Method::PUT, path), "{path}");
            assert_eq!(object(path).as_deref(), named);
        }
        assert!(!is_change(&Method::GET, "/v1/topology"));
        assert!(!is_change(&Method::POST, "/v1/topology/diff"));
        assert!(!is_change(&Method::POST, "/v1/instances/orders/a/renew"));
    }
}
