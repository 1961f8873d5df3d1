//! One request: permitted, decided, given to an instance, and answered.

use std::sync::Arc;

use causeway_routing::route::{Request as RouteRequest, route};
use causeway_telemetry::{ConnectionOutcome, StreamRefusal};
use http::{Method, Request, Response, StatusCode, Version, header, request::Parts};
use hyper::body::{Body as _, Incoming};
use rand::{SeedableRng as _, rngs::SmallRng};

use super::{
    body::{AnswerBody, ForwardedAnswer, RequestBody},
    checked::is_stand_in,
    expect::BeforeAnswer,
    record::RequestRecord,
    refuse::{answer_of, refuse},
    serve::HttpConnection,
    upgrade::{UpgradeWish, upgrade},
    upstream::{HttpUpstream, SendFailure},
};
use crate::{
    egress::{
        connect::{NoUpstream, SearchOrder, search},
        connection::is_forbidden_by_peer,
        permission::{AdmittedClient, ForbiddenClient, admit_again},
    },
    http::{
        forwarded::add_forwarded,
        headers::{add_via, is_idempotent, strip_hop_by_hop, to_origin_form},
        upgrade::{asked_for, set_upgrade},
    },
};

/// Serves one request. Its end is written down when its answer ends.
pub(super) async fn forward(
    connection: Arc<HttpConnection>,
    mut request: Request<Incoming>,
) -> Response<AnswerBody> {
    let mut record = RequestRecord::begin(connection.clone());
    if is_stand_in(&request) {
        return refuse(&connection, &mut record);
    }
    record.reads(&request);
    let wish = UpgradeWish::of(&mut request);
    match attempt(&connection, request, &mut record).await {
        Ok((answer, upstream)) => {
            if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
                return upgrade(&connection, wish, answer, upstream, record);
            }
            let (mut parts, body) = answer.into_parts();
            strip_hop_by_hop(&mut parts.headers);
            add_via(&mut parts.headers, parts.version);
            record.closes_after(&mut parts.headers);
            parts.version = Version::HTTP_11;
            let body = ForwardedAnswer::new(body, connection.socket.clone(), upstream, record);
            Response::from_parts(parts, AnswerBody::Forwarded(Box::new(body)))
        }
        Err(outcome) => answer_of(&connection, outcome),
    }
}

type Answered = (Response<Incoming>, HttpUpstream);

async fn attempt(
    connection: &HttpConnection,
    request: Request<Incoming>,
    record: &mut RequestRecord,
) -> Result<Answered, ConnectionOutcome> {
    let HttpConnection { shared, arrival, .. } = connection;
    let admitted = admit_again(
        shared,
        connection.opened.handle(),
        arrival.endpoints,
        arrival.identity.as_ref(),
        &connection.admitted,
    );
    let AdmittedClient { found, rule } = match admitted.await {
        Ok(admitted) => admitted,
        Err(ForbiddenClient { found, rule }) => {
            record.asked_by(&found, rule);
            let outcome = ConnectionOutcome::refused_here(StreamRefusal::Forbidden);
            record.unserved(outcome, 0);
            return Err(outcome);
        }
    };
    record.asked_by(&found, rule);
    let mut request = rewritten(request, connection);
    let seed = shared.seed();
    let mut attempts = 0;
    if let Some(upstream) = kept_for(connection, seed).await {
        attempts = 1;
        match on_kept(upstream, request, record).await {
            Ok(answered) => return Ok(answered),
            Err(Ok(again)) => request = again,
            Err(Err(outcome)) => return Err(outcome),
        }
    }
    let order = SearchOrder {
        thread: connection.thread,
        connection: connection.id(),
        target: &arrival.target,
        caller: found.caller,
        come_through: connection.come_through(record.open()).await,
        cut: connection.opened.handle().cut(),
        seed,
        early: bytes::Bytes::new(),
        promised: connection.promised.lock().is_some(),
    };
    let connected = match Box::pin(search(shared, order, connection.socket.failed())).await {
        Ok(connected) => connected,
        Err(no) => return Err(unreached(record, no, attempts)),
    };
    attempts += connected.attempts;
    connection.promised.lock().take();
    let cut = connection.opened.handle().cut();
    let opened = HttpUpstream::open(shared, &arrival.target.service, connected, cut).await;
    let Some(upstream) = opened else {
        let outcome = ConnectionOutcome::InstanceReset;
        record.unserved(outcome, attempts);
        return Err(outcome);
    };
    send(upstream, request, record, attempts)
        .await
        .map_err(|(_, outcome)| outcome)
}

/// No instance could be reached: writes down why, and warns of it.
fn unreached(record: &mut RequestRecord, no: NoUpstream, before: u32) -> ConnectionOutcome {
    record.unserved(no.outcome, before + no.attempts);
    if is_forbidden_by_peer(no.outcome) {
        record.decided_elsewhere();
    }
    if no.outcome != ConnectionOutcome::ClientGone {
        record.warn();
    }
    no.outcome
}

/// The request as an instance is to have it.
fn rewritten(request: Request<Incoming>, connection: &HttpConnection) -> Request<RequestBody> {
    let (mut parts, body) = request.into_parts();
    let protocols = asked_for(parts.version, &parts.headers);
    strip_hop_by_hop(&mut parts.headers);
    if let Some(protocols) = protocols {
        set_upgrade(&mut parts.headers, protocols);
    }
    add_via(&mut parts.headers, parts.version);
    if parts.version == Version::HTTP_10 {
        // Nobody would be told to go on.
        parts.headers.remove(header::EXPECT);
    }
    parts.version = Version::HTTP_11;
    let host = connection.arrival.endpoints.local.to_string();
    // What hyper has read as a target can be written as one.
    let _ = to_origin_form(&parts.method, &mut parts.uri, &mut parts.headers, &host);
    add_forwarded(&mut parts.headers, connection.origin());
    Request::from_parts(parts, RequestBody::new(body))
}

/// The kept connection, if the decision for this request leads to it and it can be used; else it is closed.
async fn kept_for(connection: &HttpConnection, seed: u64) -> Option<HttpUpstream> {
    let upstream = connection.kept.lock().take()?;
    let shared = &connection.shared;
    {
        let snapshot = shared.snapshots.load_full();
        let question = RouteRequest::new(connection.arrival.target.clone());
        let decision = route(&snapshot, &question, SmallRng::seed_from_u64(seed));
        let first = decision.first()?;
        if !upstream.serves(first, &snapshot, &mut shared.rng()) {
            return None;
        }
        let service = connection.arrival.target.service.as_str();
        shared.metrics.decided(service, decision.why());
    }
    upstream.again().await
}

/// Sends a request on a connection that was used before, which its instance may just be closing. Gives the request back
/// where it can be made again: nothing of it was sent, or nothing was heard and doing it twice does no harm.
async fn on_kept(
    upstream: HttpUpstream,
    request: Request<RequestBody>,
    record: &mut RequestRecord,
) -> Result<Answered, Result<Request<RequestBody>, ConnectionOutcome>> {
    let spare = spare(&request);
    match send(upstream, request, record, 1).await {
        Ok(answered) => Ok(answered),
        Err((failure, outcome)) => match (failure.unsent, spare) {
            (Some(unsent), _) => Err(Ok(unsent)),
            (None, Some(parts)) if failure.is_unanswered => {
                Err(Ok(Request::from_parts(parts, RequestBody::empty())))
            }
            _ => Err(Err(outcome)),
        },
    }
}

/// A copy of a request that may be made twice.
fn spare(request: &Request<RequestBody>) -> Option<Parts> {
    let may = is_idempotent(request.method()) && request.body().is_end_stream();
    may.then(|| {
        let mut parts = Request::new(()).into_parts().0;
        parts.method = Method::clone(request.method());
        parts.uri = request.uri().clone();
        parts.version = request.version();
        parts.headers = request.headers().clone();
        parts
    })
}

async fn send(
    mut upstream: HttpUpstream,
    mut request: Request<RequestBody>,
    record: &mut RequestRecord,
    attempts: u32,
) -> Result<Answered, (SendFailure, ConnectionOutcome)> {
    record.given(&upstream, attempts);
    request.body_mut().goes_to(&upstream);
    let before = BeforeAnswer::attend(&mut request, record);
    match upstream.send(request).await {
        Ok(answer) => {
            before.answered(record).await;
            Ok((answer, upstream))
        }
        Err(failure) => {
            let outcome = record.broken(&upstream.traffic);
            tracing::debug!(error = %failure.error, outcome = outcome.word(), "an instance gave no answer");
            Err((failure, outcome))
        }
    }
}
