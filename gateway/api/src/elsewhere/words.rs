//! Words that come of asking a zone: its answer, its refusal, or why there is none. Pure.

use bytes::Bytes;
use causeway_telemetry::{StreamRefusal, printable};
use causeway_tunnel::AskError;
use http::StatusCode;
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;

/// Longest words of another zone that are told, in characters.
const MAX_WORDS_CHARS: usize = 300;

/// Reason why there is no answer, and what can be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unanswered {
    pub(super) because: String,
    pub(super) hint: Option<String>,
}

/// Outcome of asking a zone.
#[derive(Debug)]
pub(super) enum ZoneWord {
    /// Its answer, and the room that this takes.
    Answered(Bytes, OwnedSemaphorePermit),
    /// It was heard, and will not say.
    Refused(StatusCode, Unanswered),
    /// It was not heard, or not so that it could be understood.
    Away(Unanswered),
}

impl ZoneWord {
    pub(super) fn away(because: impl Into<String>) -> Self {
        Self::Away(Unanswered {
            because: because.into(),
            hint: None,
        })
    }

    pub(super) fn refused(status: StatusCode, because: &str, hint: Option<&str>) -> Self {
        Self::Refused(
            status,
            Unanswered {
                because: told(because),
                hint: hint.map(told),
            },
        )
    }

    /// Tells whether another gateway of the zone may well answer.
    pub(super) fn is_final(&self) -> bool {
        !matches!(self, Self::Away(_))
    }

    /// The word for metrics.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Answered(..) => "answered",
            Self::Refused(..) => "refused",
            Self::Away(_) => "away",
        }
    }
}

/// Words of another zone as they are handed on.
fn told(words: &str) -> String {
    let short: String = words.chars().take(MAX_WORDS_CHARS).collect();
    printable(&short).into_owned()
}

/// Body of an answer that says no.
#[derive(Debug, Deserialize)]
struct ToldRefusal {
    error: String,
    hint: Option<String>,
}

/// Reads an answer that is no page. A gateway that failed by itself counts as one that was not heard.
pub(super) fn unwelcome(status: StatusCode, body: &[u8]) -> ZoneWord {
    let said = serde_json::from_slice::<ToldRefusal>(body).unwrap_or_else(|_| ToldRefusal {
        error: format!("it answered {}", status.as_u16()),
        hint: None,
    });
    match status.is_client_error() {
        true => ZoneWord::refused(status, &said.error, said.hint.as_deref()),
        false => ZoneWord::Away(Unanswered {
            because: told(&said.error),
            hint: said.hint.as_deref().map(told),
        }),
    }
}

/// Reads why a gateway did not take the question.
pub(super) fn not_taken(error: &AskError) -> ZoneWord {
    match error {
        AskError::Refused {
            reason: StreamRefusal::UnknownKind,
            ..
        } => old_program(),
        AskError::Refused { message, .. } if !message.is_empty() => ZoneWord::away(told(message)),
        AskError::Refused { .. } | AskError::NoTunnel | AskError::Open(_) | AskError::Reply(_) => {
            ZoneWord::away(told(&error.to_string()))
        }
    }
}

/// A gateway whose program does not know such questions.
pub(super) fn old_program() -> ZoneWord {
    let hint = "update the gateways of that zone, or ask its admin API itself";
    ZoneWord::refused(
        StatusCode::NOT_IMPLEMENTED,
        "its gateway is of an earlier version, which answers no such questions",
        Some(hint),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_in_the_words_of_the_zone_and_a_failure_as_being_away() {
        let body = br#"{"error":"the bearer token is not known","hint":"was it revoked?"}"#;
        let ZoneWord::Refused(status, said) = unwelcome(StatusCode::UNAUTHORIZED, body) else {
            panic!("it is refused");
        };
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        assert_eq!(said.because, "the bearer token is not known");
        assert_eq!(said.hint.as_deref(), Some("was it revoked?"));
        let ZoneWord::Away(said) = unwelcome(StatusCode::SERVICE_UNAVAILABLE, b"\xff") else {
            panic!("it is away");
        };
        assert_eq!(said.because, "it answered 503");
    }

    #[test]
    fn words_of_another_zone_are_short_and_fit_for_a_terminal() {
        let body = serde_json::json!({ "error": format!("\u{1b}[2Jgone {}", "x".repeat(1000)) });
        let word = unwelcome(StatusCode::FORBIDDEN, body.to_string().as_bytes());
        let ZoneWord::Refused(_, said) = word else {
            panic!("it is refused");
        };
        assert!(said.because.starts_with("\\u{1b}[2Jgone"), "{}", said.because);
        assert!(said.because.len() < MAX_WORDS_CHARS + 20);
    }
}
