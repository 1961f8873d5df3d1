//! One request, from its head to the head of its answer. What lies between is in `attempt`.

use std::sync::Arc;

use http::{HeaderMap, Request, Response, StatusCode, Version, header};
use http_body_util::Full;
use hyper::body::Incoming;

use super::{
    attempt::{Answered, attempt},
    body::{AnswerBody, BrokenEnding, ForwardedAnswer},
    checked::is_stand_in,
    record::RequestRecord,
    refuse::{answer_of, refuse},
    serve::HttpConnection,
    upgrade::{UpgradeWish, upgrade},
};
use crate::http::{
    grpc::is_grpc,
    headers::{add_via, is_framed_once, strip_hop_by_hop},
    routed::change_headers,
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
        Err(outcome) => {
            record.answered();
            answer_of(&connection, outcome, is_call)
        }
    }
}
