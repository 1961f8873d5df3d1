//! Look at an answer before it is handed on: it is JSON, and no deeper than a reader can take. Pure.

use serde::de::IgnoredAny;

/// Deepest nesting that is handed on. Pages of the admin API have less than ten.
const MAX_DEPTH: usize = 64;

/// Reason why an answer is not handed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum JsonFault {
    #[error("it is not JSON")]
    NotJson,
    #[error("it is JSON that is nested deeper than {MAX_DEPTH}")]
    TooDeep,
}

/// Looks through an answer without keeping anything of it.
pub(super) fn check(answer: &[u8]) -> Result<(), JsonFault> {
    let text = std::str::from_utf8(answer).map_err(|_| JsonFault::NotJson)?;
    // First, so that nobody walks down what is too deep.
    if depth(text) > MAX_DEPTH {
        return Err(JsonFault::TooDeep);
    }
    serde_json::from_str::<IgnoredAny>(text).map_err(|_| JsonFault::NotJson)?;
    Ok(())
}

/// Counts brackets outside of strings.
fn depth(text: &str) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in text.bytes() {
        match (in_string, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => in_string = !in_string,
            (false, b'[' | b'{') => depth += 1,
            (false, b']' | b'}') => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_json_that_a_reader_can_take_is_handed_on() {
        for good in [
            "{}",
            "[]",
            r#"{"a":["\"[[[","\\"]}"#,
            "1",
            &format!("\"{}\"", "[".repeat(100)),
        ] {
            assert_eq!(check(good.as_bytes()), Ok(()), "{good}");
        }
        for bad in ["", "{", "{}}", "not json", "{\"a\":}", "[1,]", "{}{}"] {
            assert_eq!(check(bad.as_bytes()), Err(JsonFault::NotJson), "{bad}");
        }
        assert_eq!(check(b"\"\xff\""), Err(JsonFault::NotJson));
        let deep = |depth| [vec![b'['; depth], vec![b']'; depth]].concat();
        assert_eq!(check(&deep(MAX_DEPTH)), Ok(()));
        assert_eq!(check(&deep(MAX_DEPTH + 1)), Err(JsonFault::TooDeep));
        assert_eq!(check(&deep(1_000_000)), Err(JsonFault::TooDeep));
    }
}
