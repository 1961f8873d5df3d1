//! Layer that every call passes before it is served: whether it may be done, and that it was asked for, before and afterwards. What
//! a call needs is decided by its name alone; one that is not known needs the most.

use std::task::{Context, Poll};

use causeway_proto::registry;
use futures_util::future::BoxFuture;
use http::{HeaderValue, Request, Response, header};
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};

use super::whole::whole;
use crate::{
    actor::AskingConnection,
    audit::{Attempt, AuditOutcome, Note},
    credentials::{Denied, Gate, ListenerProof, RequestedChange, Scope},
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

fn needs(path: &str) -> Option<Scope> {
    if path.starts_with(HEALTH) {
        return None;
    }
    Some(match path.strip_prefix(REGISTRY) {
        Some("Watch") => Scope::Read,
        Some("Register" | "Deregister" | "Heartbeat" | "Replace") => Scope::Register,
        _ => Scope::Write,
    })
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

    fn call(&mut self, request: Request<Body>) -> Self::Future {
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
            match gate.admit(access, &connection, authorization, &attempt, needs(&path)) {
                Err(denied) => Ok(refusal(&denied).into_http()),
                Ok(_) if !is_change(&path) => inner.call(request).await,
                Ok(actor) => {
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

/// Counts how many elements of a call were carried out, and how many refused.
pub(crate) fn counted(outcomes: &[registry::Outcome]) -> Note {
    let refused = outcomes.iter().filter(|outcome| !outcome.refusal.is_empty());
    let refused = refused.count();
    Note {
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
            ("/causeway.registry.v1.Registry/Watch", Some(Scope::Read)),
            ("/causeway.registry.v1.Registry/Register", Some(Scope::Register)),
            ("/causeway.registry.v1.Registry/Heartbeat", Some(Scope::Register)),
            ("/causeway.registry.v1.Registry/Attach", Some(Scope::Write)),
            ("/causeway.registry.v1.Registry/Anything", Some(Scope::Write)),
            ("/other.Service/Watch", Some(Scope::Write)),
        ] {
            assert_eq!(needs(path), needed, "{path}");
        }
    }
}
