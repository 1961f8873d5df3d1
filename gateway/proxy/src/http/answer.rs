//! Answers of the gateway's own, to requests that no instance answers. Pure.

use bytes::Bytes;
use causeway_routing::route::Why;
use causeway_telemetry::{ConnectionOutcome, StreamRefusal};
use http::{HeaderName, HeaderValue, Response, StatusCode, header};

use super::scan::RequestFault;

/// Field that says why the gateway answers itself, in the word of the access log.
pub(crate) const REASON: HeaderName = HeaderName::from_static("causeway-reason");
/// Field that says to which zone a request had been given, or which one did not answer, where the gateway answers itself.
pub(crate) const ZONE: HeaderName = HeaderName::from_static("causeway-zone");
/// Seconds after which a client may ask again for what nobody could serve.
const RETRY_AFTER: &str = "1";

/// Makes the answer to a request that came to `outcome`.
pub(crate) fn own_answer(outcome: ConnectionOutcome) -> Response<Bytes> {
    let status = status_of(outcome);
    let told = explanation(outcome);
    let mut answer = text_answer(status, told, outcome);
    if matches!(
        status,
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS
    ) {
        let headers = answer.headers_mut();
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
    }
    answer
}

/// Makes the answer to what is no request, after which nothing more is read from the client.
pub(crate) fn refusal(fault: RequestFault) -> Response<Bytes> {
    let status = StatusCode::from_u16(fault.status()).unwrap_or(StatusCode::BAD_REQUEST);
    let mut answer = text_answer(status, fault.text(), ConnectionOutcome::BadRequest);
    let headers = answer.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    answer
}

fn text_answer(status: StatusCode, told: &str, outcome: ConnectionOutcome) -> Response<Bytes> {
    let word = outcome.word();
    let mut answer = Response::new(Bytes::from(format!("causeway: {told} ({word})\n")));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(REASON, HeaderValue::from_static(word));
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    answer
}

/// Line of text that goes with an outcome.
pub(super) fn explanation(outcome: ConnectionOutcome) -> &'static str {
    match status_of(outcome) {
        _ if outcome == ConnectionOutcome::refused_here(StreamRefusal::Overloaded) => {
            "more of this service is under way than its limits allow"
        }
        _ if outcome == ConnectionOutcome::Unrouted(Why::Shed) => {
            "more of this service is asked for than there is capacity for"
        }
        _ if outcome == ConnectionOutcome::InstanceFull => "the instance takes no more requests now",
        _ if outcome == ConnectionOutcome::BadAnswer => "the instance's answer is none that can be passed on",
        _ if outcome == ConnectionOutcome::AnswerTooLarge => {
            "the instance's answer is over a limit of the gateway"
        }
        StatusCode::TOO_MANY_REQUESTS => "this service is called too often",
        StatusCode::MISDIRECTED_REQUEST => "this connection was made for another service; ask on a new one",
        StatusCode::BAD_REQUEST => "the request is none, or can be read in two ways",
        StatusCode::FORBIDDEN => "this service may not be called",
        StatusCode::GATEWAY_TIMEOUT => "no instance answered in time",
        StatusCode::BAD_GATEWAY => "the instance gave no whole answer",
        StatusCode::LOOP_DETECTED => "the request has come through too many gateways",
        _ => "no instance can be reached",
    }
}

/// Status that says best to a program what became of its request.
pub(super) fn status_of(outcome: ConnectionOutcome) -> StatusCode {
    match outcome {
        ConnectionOutcome::Refused { reason, .. } => match reason {
            StreamRefusal::Forbidden | StreamRefusal::Unvouched | StreamRefusal::NotExported => {
                StatusCode::FORBIDDEN
            }
            StreamRefusal::TooManyHops => StatusCode::LOOP_DETECTED,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        },
        ConnectionOutcome::NoAnswer | ConnectionOutcome::RequestTimeout => StatusCode::GATEWAY_TIMEOUT,
        ConnectionOutcome::BadRequest => StatusCode::BAD_REQUEST,
        ConnectionOutcome::Misdirected => StatusCode::MISDIRECTED_REQUEST,
        ConnectionOutcome::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        ConnectionOutcome::InstanceReset
        | ConnectionOutcome::BadAnswer
        | ConnectionOutcome::AnswerTooLarge
        | ConnectionOutcome::TunnelLost
        | ConnectionOutcome::PeerCut
        | ConnectionOutcome::Stalled => StatusCode::BAD_GATEWAY,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    }
}

#[cfg(test)]
mod tests {
    use causeway_telemetry::Side;

    use super::*;

    #[test]
    fn an_answer_says_by_status_and_word_what_became_of_the_request() {
        let refused = |reason| ConnectionOutcome::Refused {
            by: Side::Peer,
            reason,
        };
        for (outcome, status, word) in [
            (refused(StreamRefusal::Forbidden), 403, "forbidden"),
            (refused(StreamRefusal::NoInstance), 503, "no_instance"),
            (refused(StreamRefusal::TooManyHops), 508, "too_many_hops"),
            (ConnectionOutcome::Unrouted(Why::NoHome), 503, "no_candidate"),
            (ConnectionOutcome::Unrouted(Why::Shed), 503, "shed"),
            (ConnectionOutcome::NoAnswer, 504, "timeout"),
            (ConnectionOutcome::Misdirected, 421, "misdirected"),
            (ConnectionOutcome::RateLimited, 429, "rate_limited"),
            (ConnectionOutcome::RequestTimeout, 504, "request_timeout"),
            (ConnectionOutcome::InstanceReset, 502, "instance_reset"),
            (ConnectionOutcome::InstanceFull, 503, "instance_full"),
            (ConnectionOutcome::BadAnswer, 502, "bad_answer"),
            (ConnectionOutcome::AnswerTooLarge, 502, "answer_too_large"),
            (ConnectionOutcome::TunnelLost, 502, "tunnel_lost"),
        ] {
            let answer = own_answer(outcome);
            assert_eq!(answer.status().as_u16(), status, "{word}");
            assert_eq!(answer.headers()[REASON], word);
            let asks_for_time = status == 503 || status == 429;
            assert_eq!(answer.headers().contains_key(header::RETRY_AFTER), asks_for_time);
            assert!(answer.body().ends_with(format!("({word})\n").as_bytes()));
        }
    }
}
