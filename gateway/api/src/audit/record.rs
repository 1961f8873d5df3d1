//! Line of the audit log. Every text in it is bounded and free of control characters: some of it was chosen by whoever
//! asked.

use std::time::SystemTime;

use serde::Serialize;

use crate::actor::AskingConnection;

/// Longest text of a field, in characters.
pub const MAX_TEXT_CHARACTERS: usize = 256;

/// Request that somebody made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt<'a> {
    /// `admin` or `registration`.
    pub api: &'static str,
    pub method: &'a str,
    /// With the query, which names a generation or a dry run.
    pub path: &'a str,
}

/// Note on a request by whoever served it; left among the extensions of the answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Note {
    /// Name of what was changed: `orders/10.1.0.11:8080`, a source, a topology.
    pub object: Option<String>,
    /// Of the topology that is in force afterwards.
    pub generation: Option<u64>,
    /// Elements of a list that were done, and that were refused.
    pub counts: Option<(usize, usize)>,
    /// Reason why it was not done, in one word.
    pub error: Option<String>,
}

/// Outcome of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditOutcome {
    /// `asked`, before it is carried out; then `done`, `refused` (by a rule) or `failed` (by this gateway).
    pub result: &'static str,
    /// Of HTTP; for gRPC the code; `None` while there is none.
    pub status: Option<u16>,
    pub note: Note,
    /// Refusals of the same kind from the same address since the last line, which had none of their own.
    pub repeats: u64,
}

impl AuditOutcome {
    /// Reads an outcome from an HTTP status.
    #[must_use]
    pub fn of_http(status: u16, note: Note) -> Self {
        let result = match status {
            0..400 => "done",
            400..500 => "refused",
            _ => "failed",
        };
        Self {
            result,
            status: Some(status),
            note,
            repeats: 0,
        }
    }

    /// Of what is about to be carried out.
    #[must_use]
    pub fn asked(object: Option<String>) -> Self {
        Self {
            result: "asked",
            status: None,
            note: Note {
                object,
                ..Note::default()
            },
            repeats: 0,
        }
    }
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuditRecord {
    /// RFC 3339, UTC.
    pub time: String,
    pub who: String,
    pub from: String,
    pub api: &'static str,
    pub method: String,
    pub path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub done: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<usize>,
    pub result: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(skip_serializing_if = "is_zero")]
    pub repeats: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl AuditRecord {
    #[must_use]
    pub fn new(
        time: SystemTime,
        connection: &AskingConnection,
        who: &str,
        attempt: &Attempt<'_>,
        outcome: &AuditOutcome,
    ) -> Self {
        let (done, refused) = outcome.note.counts.unzip();
        Self {
            time: humantime::format_rfc3339_micros(time).to_string(),
            who: bounded(who),
            from: connection.place(),
            api: attempt.api,
            method: bounded(attempt.method),
            path: bounded(attempt.path),
            object: outcome.note.object.as_deref().map(bounded),
            generation: outcome.note.generation,
            done,
            refused,
            result: outcome.result,
            status: outcome.status,
            error: outcome.note.error.as_deref().map(bounded),
            repeats: outcome.repeats,
        }
    }

    /// As JSON, with its line end.
    #[must_use]
    pub fn line(&self) -> String {
        // Plain fields cannot fail to be written; an empty line would be the trace of it.
        let mut line = serde_json::to_string(self).unwrap_or_default();
        line.push('\n');
        line
    }
}

fn bounded(text: &str) -> String {
    let readable = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut kept: String = readable.take(MAX_TEXT_CHARACTERS).collect();
    if text.chars().nth(MAX_TEXT_CHARACTERS).is_some() {
        kept.push('…');
    }
    kept
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn time() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_micros(1_700_000_000_123_456)
    }

    fn connection() -> AskingConnection {
        AskingConnection::plain("127.0.0.1:40000".parse().unwrap())
    }

    #[test]
    fn a_line_says_who_from_where_what_and_how_it_ended() {
        let attempt = Attempt {
            api: "admin",
            method: "PUT",
            path: "/v1/topology?generation=6",
        };
        let note = Note {
            object: Some("topology".to_owned()),
            generation: Some(7),
            ..Note::default()
        };
        let record = AuditRecord::new(
            time(),
            &connection(),
            "token ci",
            &attempt,
            &AuditOutcome::of_http(200, note),
        );
        insta::assert_snapshot!(record.line(), @r#"{"time":"2023-11-14T22:13:20.123456Z","who":"token ci","from":"127.0.0.1:40000","api":"admin","method":"PUT","path":"/v1/topology?generation=6","object":"topology","generation":7,"result":"done","status":200}"#);
    }

    proptest! {
        #[test]
        fn whatever_was_asked_for_makes_one_short_line(path in "(?s).{0,600}", who in "(?s).{0,600}") {
            let attempt = Attempt { api: "admin", method: "PUT", path: &path };
            let line = AuditRecord::new(time(), &connection(), &who, &attempt, &AuditOutcome::of_http(401, Note::default())).line();
            prop_assert_eq!(line.matches('\n').count(), 1);
            prop_assert!(line.chars().count() < 4 * MAX_TEXT_CHARACTERS);
            prop_assert!(serde_json::from_str::<serde_json::Value>(&line).is_ok());
        }
    }
}
