//! Answers of the gateway's own to gRPC calls: such a program looks at `grpc-status`, and at nothing else. Pure.

use bytes::Bytes;
use causeway_routing::route::Why;
use causeway_telemetry::{ConnectionOutcome, StreamRefusal};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};

use super::answer::{REASON, explanation, status_of};

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// Media type of gRPC, which a suffix such as `+proto` may follow.
const GRPC_TYPE: &[u8] = b"application/grpc";

/// Tells whether a request is a gRPC call: not one of gRPC-Web, which is answered otherwise.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    let suffix = kind.and_then(|kind| kind.strip_prefix(GRPC_TYPE));
    suffix.is_some_and(|suffix| matches!(suffix.first(), None | Some(b'+' | b';')))
}

/// Code of a call that has ended with the head of its answer.
pub(crate) fn code_of_answer(headers: &HeaderMap) -> Option<u32> {
    headers.get(GRPC_STATUS)?.to_str().ok()?.parse().ok()
}

/// Makes the answer to a call that came to `outcome`: one without messages, which ends with its head.
pub(crate) fn own_grpc_answer(outcome: ConnectionOutcome) -> Response<Bytes> {
    let mut answer = Response::new(Bytes::new());
    *answer.headers_mut() = grpc_trailers(outcome);
    let kind = HeaderValue::from_static("application/grpc");
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    answer
}

/// Makes the end of a call that came to `outcome`.
pub(crate) fn grpc_trailers(outcome: ConnectionOutcome) -> HeaderMap {
    let word = outcome.word();
    let mut trailers = HeaderMap::new();
    trailers.insert(GRPC_STATUS, HeaderValue::from_static(code_of(outcome)));
    // Words and explanations have nothing that would have to be encoded.
    let message = format!("causeway: {} ({word})", explanation(outcome));
    if let Ok(message) = HeaderValue::from_str(&message) {
        trailers.insert(GRPC_MESSAGE, message);
    }
    trailers.insert(REASON, HeaderValue::from_static(word));
    trailers
}

/// Makes the answer to a call for which a route has one of this status and with this text.
pub(crate) fn declared_grpc_answer(status: u16, text: &str) -> Response<Bytes> {
    let mut answer = Response::new(Bytes::new());
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(GRPC_STATUS, HeaderValue::from_static(code_of_declared(status)));
    if let Ok(message) = HeaderValue::from_str(&encoded_message(text)) {
        headers.insert(GRPC_MESSAGE, message);
    }
    answer
}

/// Code that gRPC itself makes of a status of HTTP where there is none of gRPC.
fn code_of_declared(status: u16) -> &'static str {
    match status {
        // INTERNAL
        400 => "13",
        // UNAUTHENTICATED
        401 => "16",
        // PERMISSION_DENIED
        403 => "7",
        // UNIMPLEMENTED
        404 => "12",
        // UNAVAILABLE
        429 | 502 | 503 | 504 => "14",
        // UNKNOWN: there is no message, so that it cannot be OK.
        _ => "2",
    }
}

/// Text as `grpc-message` has it: what is not visible, or a `%`, is percent-encoded.
fn encoded_message(text: &str) -> String {
    let mut message = String::with_capacity(text.len());
    for byte in text.trim_end().bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => message.push(char::from(byte)),
            _ => message.push_str(&format!("%{byte:02X}")),
        }
    }
    message
}

/// Code that says best to a gRPC program what became of its call.
fn code_of(outcome: ConnectionOutcome) -> &'static str {
    match status_of(outcome) {
        // RESOURCE_EXHAUSTED
        StatusCode::TOO_MANY_REQUESTS => "8",
        _ if outcome.word() == StreamRefusal::Overloaded.word() => "8",
        _ if outcome == ConnectionOutcome::Unrouted(Why::Shed) => "8",
        // DEADLINE_EXCEEDED
        StatusCode::GATEWAY_TIMEOUT => "4",
        // PERMISSION_DENIED
        StatusCode::FORBIDDEN => "7",
        // INTERNAL: it would be so again.
        _ if outcome == ConnectionOutcome::BadAnswer || outcome == ConnectionOutcome::AnswerTooLarge => "13",
        StatusCode::LOOP_DETECTED | StatusCode::BAD_REQUEST | StatusCode::MISDIRECTED_REQUEST => "13",
        // UNAVAILABLE
        _ => "14",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_known_by_its_type_and_grpc_web_is_none() {
        for (kind, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;charset=utf-8", true),
            ("application/grpc-web+proto", false),
            ("application/json", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
            assert_eq!(is_grpc(&headers), expected, "{kind}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }

    #[test]
    fn a_declared_answer_has_the_code_that_its_status_stands_for() {
        for (status, code) in [
            (403, "7"),
            (404, "12"),
            (503, "14"),
            (401, "16"),
            (200, "2"),
            (308, "2"),
        ] {
            let answer = declared_grpc_answer(status, "100 % sold out:\n\u{e4}\n");
            assert_eq!(answer.status(), StatusCode::OK);
            assert_eq!(answer.headers()[GRPC_STATUS], code, "{status}");
            assert_eq!(answer.headers()[GRPC_MESSAGE], "100 %25 sold out:%0A%C3%A4");
        }
    }

    #[test]
    fn an_answer_says_by_code_and_word_what_became_of_the_call() {
        let refused = ConnectionOutcome::refused_here;
        for (outcome, code, word) in [
            (refused(StreamRefusal::Forbidden), "7", "forbidden"),
            (refused(StreamRefusal::NoInstance), "14", "no_instance"),
            (refused(StreamRefusal::Overloaded), "8", "overloaded"),
            (ConnectionOutcome::RateLimited, "8", "rate_limited"),
            (refused(StreamRefusal::TooManyHops), "13", "too_many_hops"),
            (ConnectionOutcome::Unrouted(Why::NoHome), "14", "no_candidate"),
            (ConnectionOutcome::Unrouted(Why::Shed), "8", "shed"),
            (ConnectionOutcome::NoAnswer, "4", "timeout"),
            (ConnectionOutcome::Misdirected, "13", "misdirected"),
            (ConnectionOutcome::RequestTimeout, "4", "request_timeout"),
            (ConnectionOutcome::InstanceReset, "14", "instance_reset"),
            (ConnectionOutcome::InstanceFull, "14", "instance_full"),
            (ConnectionOutcome::AnswerTooLarge, "13", "answer_too_large"),
        ] {
            let answer = own_grpc_answer(outcome);
            assert_eq!(answer.status(), StatusCode::OK);
            assert_eq!(answer.headers()[GRPC_STATUS], code, "{word}");
            assert_eq!(answer.headers()[REASON], word);
            assert!(answer.body().is_empty());
        }
    }
}
