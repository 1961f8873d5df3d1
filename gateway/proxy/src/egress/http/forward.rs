//! One request: permitted, decided, given to an instance, and answered.

use std::sync::Arc;

use causeway_telemetry::{ConnectionOutcome, StreamRefusal};
use http::{Method, Request, Response, StatusCode, Version, header, request::Parts};
use hyper::body::{Body as _, Incoming};

use super::{
    body::{AnswerBody, BrokenEnding, ForwardedAnswer, RequestBody, SpareBody},
    checked::is_stand_in,
    expect::BeforeAnswer,
    reach::{ReachOrder, ReachedUpstream, reach},
    record::RequestRecord,
    refuse::{answer_of, refuse},
    serve::HttpConnection,
    upgrade::{UpgradeWish, upgrade},
    upstream::HttpUpstream,
};
use crate::{
    egress::{
        connect::NoUpstream,
        connection::is_forbidden_by_peer,
        permission::{AdmittedClient, ForbiddenClient, admit_again},
    },
    http::{
        forwarded::add_forwarded,
        grpc::is_grpc,
        headers::{add_via, is_framed_once, is_idempotent, strip_hop_by_hop, to_origin_form},
        limits::MAX_GIVEN,
        upgrade::{asked_for, set_upgrade},
        version2::{frame_body, join_fields, to_version_2},
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
    let (client, is_call) = (request.version(), is_grpc(request.headers()));
    match attempt(&connection, request, &mut record).await {
        Ok((answer, upstream)) => {
            record.answered();
            if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
                return upgrade(&connection, wish, answer, upstream, record);
            }
            if !is_framed_once(answer.headers()) {
                return answer_of(&connection, record.broken(&upstream), is_call);
            }
            let (mut parts, body) = answer.into_parts();
            strip_hop_by_hop(&mut parts.headers);
            add_via(&mut parts.headers, parts.version);
            let ending = match client {
                Version::HTTP_2 if is_call => BrokenEnding::Grpc,
                Version::HTTP_2 => BrokenEnding::Stream,
                _ => BrokenEnding::Reset(connection.socket.clone()),
            };
            parts.version = match client {
                Version::HTTP_2 => {
                    parts.headers.remove(header::CONNECTION);
                    Version::HTTP_2
                }
                _ => {
                    record.closes_after(&mut parts.headers);
                    Version::HTTP_11
                }
            };
            let body = ForwardedAnswer::new(body, ending, upstream, record);
            Response::from_parts(parts, AnswerBody::Forwarded(Box::new(body)))
        }
        Err(outcome) => answer_of(&connection, outcome, is_call),
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
    let version = connection.upstream_version();
    let Ok(mut request) = rewritten(request, connection, version) else {
        record.unserved(ConnectionOutcome::BadRequest, 0);
        return Err(ConnectionOutcome::BadRequest);
    };
    let mut order = ReachOrder {
        version,
        caller: found.caller,
        seed: shared.seed(),
        open: record.open(),
        attempts: 0,
        may_be_used: true,
    };
    for given in 1.. {
        let reached = match Box::pin(reach(connection, &mut order)).await {
            Ok(reached) => reached,
            Err(no) => return Err(unreached(record, no)),
        };
        match send(connection, reached, request, record, order.attempts).await {
            Ok(answered) => return Ok(answered),
            Err(Ok(again)) if given < MAX_GIVEN => request = again,
            Err(ended) => return Err(ended.err().unwrap_or(ConnectionOutcome::InstanceReset)),
        }
        // Of HTTP/1.1 a second one that closes at once would be no chance.
        order.may_be_used = version == Version::HTTP_2;
    }
    Err(ConnectionOutcome::InstanceReset)
}

/// No instance could be reached: writes down why, and warns of it.
fn unreached(record: &mut RequestRecord, no: NoUpstream) -> ConnectionOutcome {
    record.unserved(no.outcome, no.attempts);
    if is_forbidden_by_peer(no.outcome) {
        record.decided_elsewhere();
    }
    if no.outcome != ConnectionOutcome::ClientGone {
        record.warn();
    }
    no.outcome
}

/// The request as an instance is to have it, which speaks `version`.
fn rewritten(
    request: Request<Incoming>,
    connection: &HttpConnection,
    version: Version,
) -> Result<Request<RequestBody>, http::Error> {
    let (mut parts, body) = request.into_parts();
    let protocols = asked_for(parts.version, &parts.headers).filter(|_| version == Version::HTTP_11);
    strip_hop_by_hop(&mut parts.headers);
    if let Some(protocols) = protocols {
        set_upgrade(&mut parts.headers, protocols);
    }
    add_via(&mut parts.headers, parts.version);
    if parts.version == Version::HTTP_2 {
        join_fields(&mut parts.headers);
    }
    if parts.version == Version::HTTP_10 {
        // Nobody would be told to go on.
        parts.headers.remove(header::EXPECT);
    }
    let client = std::mem::replace(&mut parts.version, version);
    let host = connection.arrival.endpoints.local.to_string();
    to_origin_form(&parts.method, &mut parts.uri, &mut parts.headers, &host)?;
    add_forwarded(&mut parts.headers, connection.origin());
    let body = match version {
        Version::HTTP_2 => {
            to_version_2(&mut parts.uri, &mut parts.headers, &host)?;
            RequestBody::replayed(body, client)
        }
        _ => {
            if client == Version::HTTP_2 && !body.is_end_stream() {
                frame_body(&mut parts.headers);
            }
            RequestBody::new(body, client)
        }
    };
    Ok(Request::from_parts(parts, body))
}

/// A request that may be made twice, if it comes to that.
struct SpareRequest {
    parts: Parts,
    body: SpareBody,
}

impl SpareRequest {
    fn of(request: &Request<RequestBody>) -> Option<Self> {
        let body = request.body().spare()?;
        let mut parts = Request::new(()).into_parts().0;
        parts.method = Method::clone(request.method());
        parts.uri = request.uri().clone();
        parts.version = request.version();
        parts.headers = request.headers().clone();
        Some(Self { parts, body })
    }

    fn again(self) -> Option<Request<RequestBody>> {
        let body = self.body.again()?;
        Some(Request::from_parts(self.parts, body))
    }

    /// Tells whether it does no harm if it was read once already.
    fn is_harmless(&self) -> bool {
        is_idempotent(&self.parts.method) && matches!(self.body, SpareBody::Empty)
    }
}

/// Sends a request. Gives it back where it can be made again: the instance has not read it; or, on a connection that was used before and
/// may just have been closing, nothing of it was sent, or nothing was heard and doing it twice does no harm.
async fn send(
    connection: &HttpConnection,
    reached: ReachedUpstream,
    mut request: Request<RequestBody>,
    record: &mut RequestRecord,
    attempts: u32,
) -> Result<Answered, Result<Request<RequestBody>, ConnectionOutcome>> {
    let ReachedUpstream {
        mut upstream,
        was_used,
    } = reached;
    record.given(&upstream, attempts);
    let says_unread = upstream.says_what_is_unread();
    let spare = (was_used || says_unread).then(|| SpareRequest::of(&request));
    let spare = spare.flatten();
    request.body_mut().goes_to(&upstream);
    let before = BeforeAnswer::attend(&mut request, record);
    let failure = match upstream.send(request).await {
        Ok(answer) => {
            before.answered(record).await;
            return Ok((answer, upstream));
        }
        Err(failure) => failure,
    };
    let outcome = record.broken(&upstream);
    tracing::debug!(error = %failure.error, outcome = outcome.word(), "an instance gave no answer");
    connection.kept.forget(&upstream);
    let again = match (failure.unsent, spare) {
        (Some(unsent), _) if was_used || says_unread => Some(unsent),
        (_, Some(spare)) if failure.is_unread => spare.again(),
        (_, Some(spare)) if was_used && failure.is_unanswered && spare.is_harmless() => spare.again(),
        _ => None,
    };
    Err(again.ok_or(outcome))
}
