//! Faults of an instance's answer: what hyper does not take of it. Pure.

use std::{error::Error, io};

use causeway_telemetry::ConnectionOutcome;

use super::limits::{MAX_HEAD_BYTES, MAX_HEADERS};

/// Reason that an answer is not passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AnswerFault {
    /// It is over a limit of the gateway.
    TooLarge,
    /// It is none.
    Malformed,
    /// One of both: of HTTP/2 they cannot be told apart.
    Either,
}

impl AnswerFault {
    /// Finds the fault that an error tells of; `None`: it tells of none, but that an answer did not come.
    pub(crate) fn of(error: &hyper::Error) -> Option<Self> {
        if error.is_parse_too_large() {
            return Some(Self::TooLarge);
        }
        if error.is_parse() {
            return Some(Self::Malformed);
        }
        let source = error.source()?;
        if let Some(error) = source.downcast_ref::<h2::Error>() {
            let is_fault = error.is_library() && error.reason() != Some(h2::Reason::CANCEL);
            return is_fault.then_some(Self::Either);
        }
        // So a body in chunks is told of.
        match source.downcast_ref::<io::Error>()?.kind() {
            io::ErrorKind::InvalidData => Some(Self::TooLarge),
            io::ErrorKind::InvalidInput => Some(Self::Malformed),
            _ => None,
        }
    }

    pub(crate) fn outcome(self) -> ConnectionOutcome {
        match self {
            Self::TooLarge => ConnectionOutcome::AnswerTooLarge,
            Self::Malformed | Self::Either => ConnectionOutcome::BadAnswer,
        }
    }

    /// Tells whether the instance is to blame, and not, as may be, the limit.
    pub(crate) fn is_failure(self) -> bool {
        self == Self::Malformed
    }

    /// Says for the log what is wrong with it.
    pub(crate) fn text(self) -> String {
        let limits =
            format!("{MAX_HEAD_BYTES} bytes of head, {MAX_HEADERS} header fields, 16 KiB of trailers");
        match self {
            Self::TooLarge => format!("over a limit of the gateway: {limits}"),
            Self::Malformed => "malformed".to_owned(),
            Self::Either => {
                format!(
                    "malformed, or over the limit of the gateway: {MAX_HEAD_BYTES} bytes of head or trailers"
                )
            }
        }
    }
}
