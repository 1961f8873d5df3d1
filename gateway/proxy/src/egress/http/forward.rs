//! One request: permitted, decided, given to an instance, and answered.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use causeway_federation::topology::Route;
use causeway_telemetry::{ConnectionOutcome, StreamRefusal};
use http::{HeaderMap, Method, Request, Response, StatusCode, Version, header, request::Parts};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::time::timeout_at;

use super::{
    body::{AnswerBody, BrokenEnding, ForwardedAnswer, RequestBody, SpareBody},
    checked::is_stand_in,
    expect::BeforeAnswer,
    prepare::{PreparedRequest, RequestServer, prepare},
    reach::{ReachOrder, ReachedUpstream, reach},
    record::RequestRecord,
    refuse::{answer_of, refuse, refuse_unfit},
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
        grpc::is_grpc,
        headers::{add_via, is_framed_once, is_idempotent, strip_hop_by_hop},
        limits::MAX_GIVEN,
        routed::change_headers,
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
        Ok(Answered::Gateway(answer)) => answer.map(|text| AnswerBody::Own(Full::new(text))),
        Ok(Answered::Instance(mut answer, upstream, route)) => {
            record.answered();
            let change = |headers: &mut HeaderMap| {
                if let Some(route) = &route {
                    change_headers(headers, &route.response_headers);
                }
            };
            if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
                change(answer.headers_mut());
                let wish = wish.map(|wish| wish.ruled_by(route.as_deref()));
                return upgrade(&connection, wish, answer, upstream, record);
            }
            if !is_framed_once(answer.headers()) {
                return answer_of(&connection, record.broken(&upstream), is_call);
            }
            let (mut parts, body) = answer.into_parts();
            strip_hop_by_hop(&mut parts.headers);
            add_via(&mut parts.headers, parts.version);
            change(&mut parts.headers);
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

/// Answer that a request has come to.
enum Answered {
    /// Of an instance, to a request that this route rules.
    Instance(Response<Incoming>, HttpUpstream, Option<Arc<Route>>),
    /// Of the gateway itself, which has been written down.
    Gateway(Response<Bytes>),
}

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
    let is_call = is_grpc(request.headers());
    let PreparedRequest { route, to } = match prepare(connection, request, version) {
        Ok(prepared) => prepared,
        Err(unfit) => {
            return Ok(Answered::Gateway(refuse_unfit(
                connection, record, &unfit, is_call,
            )));
        }
    };
    record.ruled_by(route.as_deref());
    let mut request = match to {
        RequestServer::Instance(request) => *request,
        RequestServer::Gateway(answer) => {
            record.unserved(ConnectionOutcome::Answered, 0);
            return Ok(Answered::Gateway(answer));
        }
    };
    let mut order = ReachOrder {
        version,
        caller: found.caller,
        split: route.as_ref().and_then(|route| route.split.clone()),
        deadline: record.deadline(route.as_deref()),
        seed: shared.seed(),
        open: record.open(),
        attempts: 0,
        may_be_used: true,
    };
    let deadline = order.deadline;
    for given in 1.. {
        let reaching = Box::pin(reach(connection, &mut order));
        let reached = match within(deadline, reaching).await {
            Some(Ok(reached)) => reached,
            Some(Err(no)) => return Err(unreached(record, no)),
            None => {
                let (outcome, attempts) = (ConnectionOutcome::RouteTimeout, order.attempts);
                return Err(unreached(record, NoUpstream { outcome, attempts }));
            }
        };
        match send(connection, reached, request, record, order.attempts, deadline).await {
            Ok((answer, upstream)) => return Ok(Answered::Instance(answer, upstream, route)),
            Err(Ok(again)) if given < MAX_GIVEN => request = again,
            Err(ended) => return Err(ended.err().unwrap_or(ConnectionOutcome::InstanceReset)),
        }
        // Of HTTP/1.1 a second one that closes at once would be no chance.
        order.may_be_used = version == Version::HTTP_2;
    }
    Err(ConnectionOutcome::InstanceReset)
}

/// Waits for `future`, at most until `deadline`, if there is one. `None`: that was too long, and it is given up.
async fn within<F: Future>(deadline: Option<Instant>, future: F) -> Option<F::Output> {
    match deadline {
        Some(at) => timeout_at(at.into(), future).await.ok(),
        None => Some(future.await),
    }
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
    deadline: Option<Instant>,
) -> Result<(Response<Incoming>, HttpUpstream), Result<Request<RequestBody>, ConnectionOutcome>> {
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
    let failure = match within(deadline, upstream.send(request)).await {
        Some(Ok(answer)) => {
            before.answered(record).await;
            return Ok((answer, upstream));
        }
        Some(Err(failure)) => failure,
        // What was sent of it is given up with its stream, or its connection.
        None => return Err(Err(record.timed_out(&upstream))),
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
