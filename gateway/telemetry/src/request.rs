//! One request of HTTP as the access log and metrics have it: bounded, and in characters that stand there.

use std::time::Duration;

use serde::{Serialize, Serializer};

use super::access::optional_milliseconds;

/// Most bytes of a path that are written; the rest is cut off.
const MAX_PATH_BYTES: usize = 256;
/// Most bytes of a method that are written.
const MAX_METHOD_BYTES: usize = 32;
/// Mark of a text that was cut.
const CUT: &str = "...";

/// Facts about a request beside those that a connection has too.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RequestFacts {
    /// `None`: what came is no request.
    pub method: Option<String>,
    /// As the client wrote it, without its query, in which there may be secrets.
    pub path: Option<String>,
    /// Status that the client got; `None`: it has left before.
    pub status: Option<u16>,
    /// Code that a gRPC call ended with.
    #[serde(serialize_with = "code_word")]
    pub grpc_status: Option<u32>,
    /// From its arrival to the head of its answer.
    #[serde(rename = "first_byte_ms", serialize_with = "optional_milliseconds")]
    pub first_byte: Option<Duration>,
}

impl RequestFacts {
    /// Takes up what was asked for.
    pub fn asks(&mut self, method: &str, path: &str) {
        self.method = Some(plain(method, MAX_METHOD_BYTES));
        self.path = Some(plain(path, MAX_PATH_BYTES));
    }

    /// Class of the status, such as `5xx`; `none` where there is no answer.
    #[must_use]
    pub fn class(&self) -> &'static str {
        match self.status.map(|status| status / 100) {
            Some(1) => "1xx",
            Some(2) => "2xx",
            Some(3) => "3xx",
            Some(4) => "4xx",
            Some(5) => "5xx",
            Some(_) => "other",
            None => "none",
        }
    }

    /// Word for the code of a gRPC call, empty where the request is none.
    #[must_use]
    pub fn grpc_word(&self) -> &'static str {
        self.grpc_status.map_or("", grpc_word)
    }
}

/// Name of a status code of gRPC.
pub(crate) fn grpc_word(code: u32) -> &'static str {
    const WORDS: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    let word = usize::try_from(code).ok().and_then(|code| WORDS.get(code));
    word.copied().unwrap_or("other")
}

/// Text in which everything but visible ASCII is percent-encoded, so that it is one word of a line, and that is not too long.
fn plain(text: &str, most: usize) -> String {
    let mut plain = String::with_capacity(text.len().min(most));
    for byte in text.bytes() {
        let room = most - plain.len();
        match byte {
            b'!'..=b'~' if byte != b'"' && room >= 1 => plain.push(char::from(byte)),
            b'!'..=b'~' if byte != b'"' => return plain + CUT,
            _ if room >= 3 => plain.push_str(&format!("%{byte:02X}")),
            _ => return plain + CUT,
        }
    }
    plain
}

fn code_word<S: Serializer>(code: &Option<u32>, serializer: S) -> Result<S::Ok, S::Error> {
    match code {
        Some(code) => serializer.serialize_str(grpc_word(*code)),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_writes_is_one_short_word_of_a_line() {
        for (path, written) in [
            ("/orders/7", "/orders/7".to_owned()),
            ("/a b\n\"\u{e4}", "/a%20b%0A%22%C3%A4".to_owned()),
            (&"/".repeat(MAX_PATH_BYTES), "/".repeat(MAX_PATH_BYTES)),
            (
                &"/".repeat(MAX_PATH_BYTES + 1),
                "/".repeat(MAX_PATH_BYTES) + "...",
            ),
            (
                &("/".repeat(MAX_PATH_BYTES - 2) + " "),
                "/".repeat(MAX_PATH_BYTES - 2) + "...",
            ),
        ] {
            let mut facts = RequestFacts::default();
            facts.asks("GET", path);
            assert_eq!(facts.path.as_deref(), Some(&*written));
        }
        let mut facts = RequestFacts::default();
        facts.asks(&"M".repeat(100), "*");
        assert_eq!(facts.method, Some("M".repeat(MAX_METHOD_BYTES) + "..."));
    }

    #[test]
    fn classes_and_codes_are_few_words() {
        let class = |status| {
            RequestFacts {
                status,
                ..RequestFacts::default()
            }
            .class()
        };
        assert_eq!(class(None), "none");
        assert_eq!(class(Some(101)), "1xx");
        assert_eq!(class(Some(404)), "4xx");
        assert_eq!(class(Some(599)), "5xx");
        assert_eq!(class(Some(999)), "other");
        assert_eq!(
            (grpc_word(0), grpc_word(14), grpc_word(17)),
            ("OK", "UNAVAILABLE", "other")
        );
    }
}
