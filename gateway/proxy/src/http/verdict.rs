//! Bearing of an answer on whether its instance is well. Pure.

use causeway_routing::outlier::TryFailure;
use http::{HeaderMap, StatusCode, header};

use super::{
    grpc::{code_of_answer, is_grpc},
    headers::is_framed_once,
};

/// Bearing of one try on the choice of the next ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TryVerdict {
    Well,
    /// The instance has too much to do: it is to get less, not nothing.
    Overloaded,
    Failed(TryFailure),
    /// The instance itself has ended a call with an error after messages of it: it serves, and the error is the call's.
    FailedLater,
}

/// Judges the head of an answer; `None`: it is that of a call, whose end will tell.
pub(crate) fn judge_head(status: StatusCode, headers: &HeaderMap) -> Option<TryVerdict> {
    if !is_framed_once(headers) {
        return Some(TryVerdict::Failed(TryFailure::Reset));
    }
    if let Some(code) = code_of_answer(headers) {
        return Some(judge_code(code));
    }
    let asks_for_time = headers.contains_key(header::RETRY_AFTER);
    match status {
        StatusCode::TOO_MANY_REQUESTS => Some(TryVerdict::Overloaded),
        StatusCode::SERVICE_UNAVAILABLE if asks_for_time => Some(TryVerdict::Overloaded),
        StatusCode::NOT_IMPLEMENTED | StatusCode::HTTP_VERSION_NOT_SUPPORTED => Some(TryVerdict::Well),
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
            Some(TryVerdict::Failed(TryFailure::Unavailable))
        }
        status if status.is_server_error() => Some(TryVerdict::Failed(TryFailure::Error)),
        _ => (!is_grpc(headers)).then_some(TryVerdict::Well),
    }
}

/// Judges the trailers of an answer, of which messages may have come before; `None`: they are not those of a call, or say nothing of the
/// instance. Servers end long calls by `UNAVAILABLE` where their connections are to come anew, which is their daily round.
pub(crate) fn judge_trailers(trailers: &HeaderMap, has_messages: bool) -> Option<TryVerdict> {
    match judge_code(code_of_answer(trailers)?) {
        TryVerdict::Failed(TryFailure::Unavailable) if has_messages => None,
        TryVerdict::Failed(_) if has_messages => Some(TryVerdict::FailedLater),
        verdict => Some(verdict),
    }
}

fn judge_code(code: u32) -> TryVerdict {
    match code {
        // RESOURCE_EXHAUSTED
        8 => TryVerdict::Overloaded,
        // UNAVAILABLE
        14 => TryVerdict::Failed(TryFailure::Unavailable),
        // UNKNOWN, INTERNAL, DATA_LOSS
        2 | 13 | 15 => TryVerdict::Failed(TryFailure::Error),
        _ => TryVerdict::Well,
    }
}

#[cfg(test)]
mod tests {
    use TryFailure::{Error, Unavailable};
    use TryVerdict::{Failed, Overloaded, Well};

    use http::{HeaderName, HeaderValue};

    use super::*;

    fn head(status: u16, fields: &[(&'static str, &'static str)]) -> Option<TryVerdict> {
        let fields = fields
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        judge_head(status.try_into().unwrap(), &HeaderMap::from_iter(fields))
    }

    #[test]
    fn an_answer_says_whether_its_instance_is_well_or_has_too_much_to_do() {
        let call = ("content-type", "application/grpc");
        for (status, fields, expected) in [
            (200, &[][..], Some(Well)),
            (404, &[], Some(Well)),
            (500, &[], Some(Failed(Error))),
            (507, &[], Some(Failed(Error))),
            (504, &[], Some(Failed(Unavailable))),
            (501, &[], Some(Well)),
            (503, &[], Some(Failed(Unavailable))),
            (503, &[("retry-after", "1")], Some(Overloaded)),
            (429, &[], Some(Overloaded)),
            (200, &[call], None),
            (200, &[call, ("grpc-status", "0")], Some(Well)),
            (200, &[call, ("grpc-status", "5")], Some(Well)),
            (200, &[call, ("grpc-status", "8")], Some(Overloaded)),
            (200, &[call, ("grpc-status", "14")], Some(Failed(Unavailable))),
            (502, &[call], Some(Failed(Unavailable))),
        ] {
            assert_eq!(head(status, fields), expected, "{status} {fields:?}");
        }
        assert_eq!(judge_trailers(&HeaderMap::new(), false), None);
        for (code, at_once, later) in [
            ("0", Some(Well), Some(Well)),
            ("8", Some(Overloaded), Some(Overloaded)),
            ("13", Some(Failed(Error)), Some(TryVerdict::FailedLater)),
            ("14", Some(Failed(Unavailable)), None),
        ] {
            let field = (
                HeaderName::from_static("grpc-status"),
                HeaderValue::from_static(code),
            );
            let trailers = HeaderMap::from_iter([field]);
            assert_eq!(judge_trailers(&trailers, false), at_once, "{code}");
            assert_eq!(judge_trailers(&trailers, true), later, "{code}");
        }
    }
}
