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

/// Judges the trailers of an answer; `None`: they are not those of a call.
pub(crate) fn judge_trailers(trailers: &HeaderMap) -> Option<TryVerdict> {
    code_of_answer(trailers).map(judge_code)
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
        let trailers = HeaderMap::from_iter([(
            HeaderName::from_static("grpc-status"),
            HeaderValue::from_static("13"),
        )]);
        assert_eq!(judge_trailers(&trailers), Some(Failed(Error)));
        assert_eq!(judge_trailers(&HeaderMap::new()), None);
    }
}
