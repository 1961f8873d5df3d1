//! Paths of HTTP requests as routes compare them: read in the way in which a program may read them that takes the most liberties,
//! so that no way of writing a path slips past a route. What is forwarded is not touched here.
//!
//! It is percent-decoded once; `\` and encoded slashes count as `/`, several slashes as one, and what follows a `;` in a segment
//! does not count. What one program resolves and another does not (`.` and `..` as segments), and what cuts a path short (control
//! bytes), is no path at all.

use std::borrow::Cow;

mod pattern;

pub use pattern::{MAX_PROGRAM_BYTES, PathPattern, PatternError};

/// Longest path that is compared, in bytes, and so the most steps that a pattern takes.
pub const MAX_PATH_BYTES: usize = 8 * 1024;

/// Reason that a path cannot be compared, and its request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathFault {
    #[error("`.` and `..` cannot be segments of a path")]
    DotSegment,
    #[error("a path cannot have control characters")]
    ControlByte,
    #[error("a `%` in a path is followed by two hexadecimal digits")]
    BadEncoding,
    #[error("a path has at most {MAX_PATH_BYTES} bytes")]
    TooLong,
}

/// A path as routes compare it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ComparedPath<'a>(Cow<'a, [u8]>);

impl<'a> ComparedPath<'a> {
    /// Reads a path as it stands in a request.
    ///
    /// # Errors
    /// A path on whose meaning programs may disagree.
    pub fn read(raw: &'a str) -> Result<Self, PathFault> {
        if raw.len() > MAX_PATH_BYTES {
            return Err(PathFault::TooLong);
        }
        if is_plain(raw.as_bytes()) {
            return Ok(Self(Cow::Borrowed(raw.as_bytes())));
        }
        let mut compared = Vec::with_capacity(raw.len());
        let mut segment = 0;
        for mark in marks(raw.as_bytes()) {
            match mark?.what {
                PathMark::Separator => {
                    refuse_dots(compared.get(segment..))?;
                    if compared.last() != Some(&b'/') {
                        compared.push(b'/');
                    }
                    segment = compared.len();
                }
                PathMark::Byte(byte) => compared.push(byte),
                PathMark::Parameter => {}
            }
        }
        refuse_dots(compared.get(segment..))?;
        Ok(Self(Cow::Owned(compared)))
    }

    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Tells whether it is `prefix` or lies below it. `prefix` has no slash at its end.
    #[must_use]
    pub fn is_below(&self, prefix: &[u8]) -> bool {
        let rest = self.0.strip_prefix(prefix);
        rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'/')))
    }

    #[must_use]
    pub fn into_owned(self) -> Vec<u8> {
        self.0.into_owned()
    }
}

/// Puts `new` in the place of `prefix`, below which the path as it was written lies; neither has a slash at its end. What follows
/// stays as it was written, after exactly one slash.
#[must_use]
pub fn replace_prefix(raw: &str, prefix: &[u8], new: &str) -> String {
    let (mut taken, mut end) = (0, None);
    let mut rest = "";
    for mark in marks(raw.as_bytes()).map_while(Result::ok) {
        match (mark.what, end) {
            (PathMark::Separator, None) if taken == prefix.len() => end = Some(mark.at),
            (PathMark::Separator, None) if prefix.get(taken) == Some(&b'/') => taken += 1,
            (PathMark::Separator, _) => {}
            (PathMark::Byte(_), None) => taken += 1,
            (PathMark::Parameter, None) => {}
            (PathMark::Byte(_) | PathMark::Parameter, Some(_)) => {
                rest = raw.get(mark.at..).unwrap_or_default();
                break;
            }
        }
    }
    match (end, new) {
        (None, "") => "/".to_owned(),
        (None, new) => new.to_owned(),
        (Some(_), new) => format!("{new}/{rest}"),
    }
}

/// Tells whether nothing of it has to be looked at more closely.
fn is_plain(raw: &[u8]) -> bool {
    let plain = |byte: &u8| !matches!(byte, b'%' | b'\\' | b';') && !byte.is_ascii_control();
    raw.iter().all(plain) && !raw.windows(2).any(|pair| pair == b"//" || pair == b"/.")
}

fn refuse_dots(segment: Option<&[u8]>) -> Result<(), PathFault> {
    match segment {
        Some(b"." | b"..") => Err(PathFault::DotSegment),
        _ => Ok(()),
    }
}

/// One byte of a path, decoded.
#[derive(Debug, Clone, Copy)]
enum PathMark {
    Separator,
    Byte(u8),
    /// Part of what follows a `;`.
    Parameter,
}

#[derive(Debug, Clone, Copy)]
struct PlacedMark {
    what: PathMark,
    /// Offset in what was written.
    at: usize,
}

/// The bytes of a path in turn, as they are compared.
fn marks(raw: &[u8]) -> impl Iterator<Item = Result<PlacedMark, PathFault>> {
    let (mut at, mut in_parameter) = (0, false);
    std::iter::from_fn(move || {
        let begun = at;
        let byte = match raw.get(at)? {
            b'%' => match decoded(raw.get(at + 1..at + 3)) {
                Some(byte) => {
                    at += 3;
                    byte
                }
                None => return Some(Err(PathFault::BadEncoding)),
            },
            byte => {
                at += 1;
                *byte
            }
        };
        let what = match byte {
            b'/' | b'\\' => {
                in_parameter = false;
                PathMark::Separator
            }
            byte if byte.is_ascii_control() => return Some(Err(PathFault::ControlByte)),
            _ if in_parameter => PathMark::Parameter,
            b';' => {
                in_parameter = true;
                PathMark::Parameter
            }
            byte => PathMark::Byte(byte),
        };
        Some(Ok(PlacedMark { what, at: begun }))
    })
}

/// Tells whether a part of a query stands for `plain`: `+` is a blank, and a `%` without two hexadecimal digits is one.
#[must_use]
pub fn stands_for(encoded: &str, plain: &str) -> bool {
    let encoded = encoded.as_bytes();
    let mut at = 0;
    let read = std::iter::from_fn(|| {
        let byte = *encoded.get(at)?;
        let escaped = (byte == b'%')
            .then(|| decoded(encoded.get(at + 1..at + 3)))
            .flatten();
        at += if escaped.is_some() { 3 } else { 1 };
        Some(match byte {
            b'+' => b' ',
            byte => escaped.unwrap_or(byte),
        })
    });
    read.eq(plain.bytes())
}

/// Byte that two hexadecimal digits stand for.
fn decoded(digits: Option<&[u8]>) -> Option<u8> {
    let [high, low] = digits? else { return None };
    let value = |digit: &u8| char::from(*digit).to_digit(16);
    u8::try_from(value(high)? * 16 + value(low)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(raw: &str) -> Result<String, PathFault> {
        ComparedPath::read(raw).map(|path| String::from_utf8_lossy(path.as_bytes()).into_owned())
    }

    #[test]
    fn a_path_is_compared_as_the_most_lenient_program_reads_it() {
        for (raw, compared) in [
            ("/", "/"),
            ("/beta/x", "/beta/x"),
            ("/beta/", "/beta/"),
            ("//beta///x", "/beta/x"),
            ("/b%65ta", "/beta"),
            ("/beta%2Fx", "/beta/x"),
            ("/beta%2f%2Fx", "/beta/x"),
            ("/beta\\x", "/beta/x"),
            ("/beta%5cx", "/beta/x"),
            ("/beta;v=1/x;y", "/beta/x"),
            ("/beta%3Bv/x", "/beta/x"),
            ("/;/beta", "/beta"),
            ("/a%2525", "/a%25"),
            ("/a%20b", "/a b"),
            ("/.well-known/x", "/.well-known/x"),
            ("/...", "/..."),
            ("*", "*"),
        ] {
            assert_eq!(read(raw).as_deref(), Ok(compared), "{raw}");
        }
    }

    #[test]
    fn a_path_that_means_different_things_to_different_programs_is_none() {
        use PathFault::{BadEncoding, ControlByte, DotSegment, TooLong};
        for (raw, fault) in [
            ("/a/../b", DotSegment),
            ("/a/..", DotSegment),
            ("/./a", DotSegment),
            ("/a/%2e%2E/b", DotSegment),
            ("/a/.%2e", DotSegment),
            ("/a%2F..%2Fb", DotSegment),
            ("/a\\..\\b", DotSegment),
            ("/a/..;x/b", DotSegment),
            ("/a/..%3bx", DotSegment),
            ("/a%00b", ControlByte),
            ("/a%0d%0ab", ControlByte),
            ("/a;%7f", ControlByte),
            ("/a%", BadEncoding),
            ("/a%2", BadEncoding),
            ("/a%zz", BadEncoding),
            ("/a%+1", BadEncoding),
        ] {
            assert_eq!(read(raw), Err(fault), "{raw}");
        }
        let long = format!("/{}", "a".repeat(MAX_PATH_BYTES));
        assert_eq!(read(&long), Err(TooLong));
        assert!(read(&long[..MAX_PATH_BYTES]).is_ok());
    }

    #[test]
    fn a_prefix_ends_where_a_segment_ends() {
        let below = |raw: &str, prefix: &str| ComparedPath::read(raw).unwrap().is_below(prefix.as_bytes());
        for (raw, expected) in [
            ("/beta", true),
            ("/beta/", true),
            ("/beta/x", true),
            ("/beta%2fx", true),
            ("/beta;x", true),
            ("/betamax", false),
            ("/bet", false),
            ("/x/beta", false),
            ("/Beta", false),
        ] {
            assert_eq!(below(raw, "/beta"), expected, "{raw}");
        }
        assert!(below("/", "") && below("/x", ""));
        assert!(!below("*", ""));
    }

    #[test]
    fn what_follows_a_prefix_stays_as_it_was_written() {
        for (raw, prefix, new, expected) in [
            ("/beta/x", "/beta", "", "/x"),
            ("/beta", "/beta", "", "/"),
            ("/beta/", "/beta", "", "/"),
            ("/beta/", "/beta", "/v2", "/v2/"),
            ("/beta", "/beta", "/v2", "/v2"),
            ("/beta/x%20y;z//w/", "/beta", "/v2", "/v2/x%20y;z//w/"),
            ("//b%65ta;v=1//x", "/beta", "/v2", "/v2/x"),
            ("/a//b/c", "/a/b", "/n", "/n/c"),
            ("/x", "", "/v2", "/v2/x"),
            ("/", "", "/v2", "/v2/"),
            // None that a browser takes for the name of a host.
            ("/beta//evil.example", "/beta", "", "/evil.example"),
            ("/beta/\\evil.example", "/beta", "", "/evil.example"),
            ("/beta/%2F/evil.example", "/beta", "", "/evil.example"),
        ] {
            assert_eq!(replace_prefix(raw, prefix.as_bytes(), new), expected, "{raw}");
        }
    }

    #[test]
    fn a_part_of_a_query_is_decoded_once() {
        for (encoded, plain, expected) in [
            ("a", "a", true),
            ("a%62+c", "ab c", true),
            ("%2525", "%25", true),
            ("100%", "100%", true),
            ("%zz", "%zz", true),
            ("", "", true),
            ("ab", "a", false),
            ("a", "ab", false),
            ("A", "a", false),
        ] {
            assert_eq!(stands_for(encoded, plain), expected, "{encoded}");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_compared_is_compared_the_same_again(raw in "/[a-c./;%25\\\\]{0,12}") {
            if let Ok(path) = ComparedPath::read(&raw) {
                // A byte that was encoded may not be read a second time, and not all of them are text.
                if let Ok(text) = String::from_utf8(path.into_owned())
                    && !text.contains('%')
                {
                    proptest::prop_assert_eq!(read(&text), Ok(text));
                }
            }
        }

        #[test]
        fn a_replaced_prefix_leaves_one_slash(raw in "/beta[/\\\\;x]{0,8}", new in "(/v2)?") {
            if ComparedPath::read(&raw).is_ok_and(|path| path.is_below(b"/beta")) {
                let replaced = replace_prefix(&raw, b"/beta", &new);
                proptest::prop_assert!(replaced.starts_with('/'));
                proptest::prop_assert!(!replaced.starts_with("//") && !replaced.starts_with("/\\"), "{}", replaced);
            }
        }
    }
}
