//! One request, from its head to the head of its answer. What lies between is in `attempt`.

use std::sync::Arc;

use causeway_telemetry::ConnectionOutcome;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version, header};
use http_body_util::Full;
use hyper::body::Incoming;
use tracing::Instrument as _;

use super::{
    attempt::{Answered, attempt},
    body::{AnswerBody, BrokenEnding, ForwardedAnswer},
    checked::is_stand_in,
    misdirected::is_misdirected,
    record::RequestRecord,
    refuse::{answer_of, refuse},
    serve::HttpConnection,
    upgrade::{UpgradeWish, upgrade},
};
use crate::http::{
    answer::ZONE,
    answer_fault::AnswerFault,
    grpc::is_grpc,
    headers::{add_via, is_framed_once, strip_hop_by_hop},
    routed::change_headers,
};

/// Way to break off an answer that does not come whole.
fn ending_of(connection: &HttpConnection, client: Version, is_call: bool) -> BrokenEnding {
    match client {
        Version::HTTP_2 if is_call => BrokenEnding::Grpc,
        Version::HTTP_2 => BrokenEnding::Stream,
        _ => BrokenEnding::Reset(connection.socket.clone()),
    }
}

/// Serves one request. Its end is written down when its answer ends.
pub(super) async fn forward(
    connection: Arc<HttpConnection>,
    mut request: Request<Incoming>,
) -> Response<AnswerBody> {
    let mut record = RequestRecord::begin(connection.clone());
    if is_stand_in(&request) {
        let answer = refuse(&connection, &mut record);
        return told(&mut record, answer);
    }
    record.reads(&request);
    let wish = UpgradeWish::of(&mut request);
    let (client, is_call) = (request.version(), is_grpc(request.headers()));
    if is_misdirected(&connection, &request) {
        record.unserved(ConnectionOutcome::Misdirected, 0);
        let answer = answer_of(&connection, ConnectionOutcome::Misdirected, is_call);
        return told(&mut record, answer);
    }
    let span = record.log_span();
    let attempted = attempt(&connection, request, &mut record).instrument(span);
    match attempted.await {
        Ok(Answered::Gateway(answer)) => {
            told(&mut record, answer.map(|text| AnswerBody::Own(Full::new(text))))
        }
        Ok(Answered::Instance(mut answer, upstream, route)) => {
            record.answered();
            record.tells(answer.status(), answer.headers());
            let cookie = record.take_cookie();
            let change = |headers: &mut HeaderMap| {
                if let Some(route) = &route {
                    change_headers(headers, &route.response_headers);
                }
                if let Some(cookie) = &cookie {
                    headers.append(header::SET_COOKIE, cookie.clone());
                }
            };
            if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
                change(answer.headers_mut());
                let wish = wish.map(|wish| wish.ruled_by(route.as_deref()));
                return upgrade(&connection, wish, answer, upstream, record);
            }
            if !is_framed_once(answer.headers()) {
                let outcome = record.faulty(&upstream, AnswerFault::Malformed);
                return told(&mut record, answer_of(&connection, outcome, is_call));
            }
            let (mut parts, body) = answer.into_parts();
            strip_hop_by_hop(&mut parts.headers);
            add_via(&mut parts.headers, parts.version);
            change(&mut parts.headers);
            let ending = ending_of(&connection, client, is_call);
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
        Err(outcome) => {
            record.answered();
            let outcome = match connection.is_cut() {
                true => ConnectionOutcome::Cut,
                false => outcome,
            };
            told(&mut record, answer_of(&connection, outcome, is_call))
        }
    }
}

/// Has an answer of the gateway's own name the zone that the request was given to, if any, and writes down what it says.
fn told(record: &mut RequestRecord, mut answer: Response<AnswerBody>) -> Response<AnswerBody> {
    let zone = record
        .zone()
        .and_then(|zone| HeaderValue::from_str(zone.as_str()).ok());
    if let Some(zone) = zone {
        answer.headers_mut().insert(ZONE, zone);
    }
    record.tells(answer.status(), answer.headers());
    answer
}
