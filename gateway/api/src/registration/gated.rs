//! Layer that every call passes before it is served: whether it may be done, and that it was asked for, before and afterwards. What
//! a call needs is decided by its name alone; one that is not known needs the most. Of a list whoever serves the call asks the [`Rights`] among
//! its extensions about each element.

use std::{
    collections::BTreeSet,
    task::{Context, Poll},
};

use causeway_federation::registry::InstanceKey;
use causeway_proto::registry;
use futures_util::future::BoxFuture;
use http::{HeaderValue, Request, Response, header};
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};

use super::whole::whole;
use crate::{
    actor::AskingConnection,
    audit::{Attempt, AuditOutcome, Note},
    credentials::{
        AdmittedActor, Denied, Gate, ListenerProof, RequestedChange, RequiredRight, Rights, Scope,
    },
};

/// Before the name of every call of the registry.
const REGISTRY: &str = "/causeway.registry.v1.Registry/";
/// Before the name of every call of the standard health service, which load balancers make.
const HEALTH: &str = "/grpc.health.v1.Health/";
const GRPC_STATUS: &str = "grpc-status";

/// Puts a [`Gated`] around a service. The connection of a request is among its extensions.
#[derive(Debug, Clone)]
pub(crate) struct GatedLayer {
    pub gate: Gate,
    /// Proof that is wanted, call by call.
    pub access: ListenerProof,
}

impl<S> Layer<S> for GatedLayer {
    type Service = Gated<S>;

    fn layer(&self, inner: S) -> Gated<S> {
        Gated {
            inner,
            by: self.clone(),
        }
    }
}

/// A service whose calls pass the gate.
#[derive(Debug, Clone)]
pub(crate) struct Gated<S> {
    inner: S,
    by: GatedLayer,
}

fn needs(path: &str) -> Option<RequiredRight> {
    if path.starts_with(HEALTH) {
        return None;
    }
    Some(match path.strip_prefix(REGISTRY) {
        Some("Watch") => RequiredRight::Everything(Scope::Read),
        Some("Register" | "Deregister" | "Heartbeat") => RequiredRight::SomeService(Scope::Register),
        // A source holds instances of any service.
        Some("Replace") => RequiredRight::Everything(Scope::Register),
        _ => RequiredRight::Everything(Scope::Write),
    })
}

/// Rights of whoever makes a call: none where nobody has said so.
pub(crate) fn rights(extensions: &tonic::Extensions) -> Rights {
    extensions.get().cloned().unwrap_or_default()
}

/// Tells whether it is written down when it was let in. A heartbeat changes nothing, and there are many.
fn is_change(path: &str) -> bool {
    matches!(
        path.strip_prefix(REGISTRY),
        Some("Register" | "Deregister" | "Replace")
    )
}

impl<S, R> Service<Request<Body>> for Gated<S>
where
    S: Service<Request<Body>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send + 'static,
    R: Default + Send + 'static,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<R>, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        // The one that was asked whether it is ready is the one to call (tower's `Service::call`).
        let fresh = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, fresh);
        let GatedLayer { gate, access } = self.by.clone();
        Box::pin(async move {
            let connection = AskingConnection::of(request.extensions());
            let path = request.uri().path().to_owned();
            let attempt = attempt(&path);
            let authorization = request.headers().get(header::AUTHORIZATION);
            let authorization = authorization.map(HeaderValue::as_bytes);
            let admitted = gate.admit(access, &connection, authorization, &attempt, needs(&path));
            let AdmittedActor { actor, rights } = match admitted {
                Ok(admitted) => admitted,
                Err(denied) => return Ok(refusal(&denied).into_http()),
            };
            request.extensions_mut().insert(rights);
            match is_change(&path) {
                false => inner.call(request).await,
                true => {
                    let change = RequestedChange {
                        api: attempt.api,
                        method: attempt.method.to_owned(),
                        path: path.clone(),
                        connection,
                        actor,
                        object: None,
                    };
                    let work = async move {
                        match inner.call(request.map(whole)).await {
                            Ok(mut response) => {
                                let outcome = outcome(&mut response);
                                (Ok(response), outcome)
                            }
                            Err(error) => (Err(error), AuditOutcome::of_http(500, Note::default())),
                        }
                    };
                    let done = gate.carry_out(change, work).await;
                    done.unwrap_or_else(|| Ok(Status::internal("it has failed half-way").into_http()))
                }
            }
        })
    }
}

/// A reply with what the audit log shall say of it.
pub(crate) fn noted<T>(reply: T, note: Note) -> tonic::Response<T> {
    let mut response = tonic::Response::new(reply);
    response.extensions_mut().insert(note);
    response
}

/// Names what the elements of a list are about: the one instance, or the services.
pub(crate) fn objects<'k>(keys: impl Iterator<Item = &'k InstanceKey>) -> Option<String> {
    let keys: Vec<&InstanceKey> = keys.collect();
    match keys.as_slice() {
        [] => None,
        [one] => Some(one.to_string()),
        several => {
            let services: BTreeSet<&str> = several.iter().map(|key| key.service.as_str()).collect();
            let services: Vec<&str> = services.into_iter().collect();
            Some(services.join(", "))
        }
    }
}

/// Counts how many elements of a call were carried out, and how many refused.
pub(crate) fn counted(outcomes: &[registry::Outcome], object: Option<String>) -> Note {
    let refused = outcomes.iter().filter(|outcome| !outcome.refusal.is_empty());
    let refused = refused.count();
    Note {
        object,
        counts: Some((outcomes.len() - refused, refused)),
        ..Note::default()
    }
}

fn attempt(path: &str) -> Attempt<'_> {
    Attempt {
        api: "registration",
        method: "gRPC",
        path,
    }
}

fn outcome<R>(response: &mut Response<R>) -> AuditOutcome {
    // A call that fails has its status in the head, as nothing follows.
    let failed = response
        .headers()
        .get(GRPC_STATUS)
        .map(|code| Code::from_bytes(code.as_bytes()));
    let code = failed.unwrap_or(Code::Ok);
    let mut note = response.extensions_mut().remove::<Note>().unwrap_or_default();
    if code != Code::Ok {
        note.error = Some(format!("{code:?}"));
    }
    let result = match code {
        Code::Ok => "done",
        Code::Internal | Code::Unavailable | Code::Unknown | Code::DeadlineExceeded => "failed",
        _ => "refused",
    };
    AuditOutcome {
        result,
        status: Some(u16::try_from(code as i32).unwrap_or(u16::MAX)),
        note,
        repeats: 0,
    }
}

fn refusal(denied: &Denied) -> Status {
    let text = format!("{}: {denied}; {}", denied.word(), denied.hint());
    match denied.is_unauthenticated() {
        true => Status::unauthenticated(text),
        false => Status::permission_denied(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_call_needs_is_the_most_unless_it_is_known_to_be_less() {
        for (path, needed) in [
            ("/grpc.health.v1.Health/Check", None),
            ("/causeway.registry.v1.Registry/Watch", Some("read")),
            (
                "/causeway.registry.v1.Registry/Register",
                Some("register of some service"),
            ),
            (
                "/causeway.registry.v1.Registry/Heartbeat",
                Some("register of some service"),
            ),
            ("/causeway.registry.v1.Registry/Replace", Some("register")),
            ("/causeway.registry.v1.Registry/Attach", Some("write")),
            ("/causeway.registry.v1.Registry/Anything", Some("write")),
            ("/other.Service/Watch", Some("write")),
        ] {
            let needs = needs(path).map(|needs| needs.to_string());
            assert_eq!(needs.as_deref(), needed, "{path}");
        }
    }
}
