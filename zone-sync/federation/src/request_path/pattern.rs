//! Regular expressions for paths, as whole automata.

use std::{fmt, sync::Arc};

use regex_automata::{
    Input,
    dfa::{Automaton as _, StartKind, dense},
    nfa::thompson::{self, WhichCaptures},
    util::syntax,
};

use super::ComparedPath;

/// Largest compiled pattern, in bytes; the usual ones have a tenth of it.
pub const MAX_PROGRAM_BYTES: usize = 64 * 1024;
/// Most memory that compiling one may take, in bytes, and with it the time.
const MAX_COMPILING_BYTES: usize = 1024 * 1024;
/// Deepest nesting of groups in a pattern.
const MAX_NESTING: u32 = 32;

/// A compiled regular expression for paths, of ASCII: `\w` is `[0-9A-Za-z_]`. Compared by its text.
///
/// It is a whole deterministic automaton, of which none is made while paths are compared: each byte of a path takes one step through a
/// table, whatever the pattern.
#[derive(Clone)]
pub struct PathPattern {
    text: Arc<str>,
    automaton: Arc<dense::DFA<Vec<u32>>>,
}

/// Reason that a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    #[error("{0}")]
    Syntax(String),
    #[error("compiled it has more than {MAX_PROGRAM_BYTES} bytes")]
    TooLarge,
}

impl PathPattern {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// A pattern that is none, or too large.
    pub fn new(text: &str) -> Result<Self, PatternError> {
        let ascii = syntax::Config::new()
            .unicode(false)
            .utf8(false)
            .nest_limit(MAX_NESTING);
        let parsed = syntax::parse_with(text, &ascii).map_err(|error| {
            // The first lines show the pattern, which has a place of its own in whatever is told.
            let text = error.to_string();
            let said = text.rsplit("error: ").next().unwrap_or_default();
            PatternError::Syntax(said.trim().to_owned())
        })?;
        let program = thompson::Config::new()
            .utf8(false)
            .which_captures(WhichCaptures::None)
            .nfa_size_limit(Some(MAX_COMPILING_BYTES));
        let program = thompson::Compiler::new()
            .configure(program)
            .build_from_hir(&parsed);
        let program = program.map_err(|_| PatternError::TooLarge)?;
        let limits = dense::Config::new()
            .start_kind(StartKind::Unanchored)
            .dfa_size_limit(Some(MAX_PROGRAM_BYTES))
            .determinize_size_limit(Some(MAX_COMPILING_BYTES));
        let automaton = dense::Builder::new().configure(limits).build_from_nfa(&program);
        let automaton = automaton.map_err(|error| match error.is_size_limit_exceeded() {
            true => PatternError::TooLarge,
            false => PatternError::Syntax("it is not of ASCII alone".to_owned()),
        })?;
        Ok(Self {
            text: text.into(),
            automaton: Arc::new(automaton),
        })
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Tells whether any part of the path matches.
    #[must_use]
    pub fn matches(&self, path: &ComparedPath<'_>) -> bool {
        let input = Input::new(path.as_bytes()).earliest(true);
        // There is an error only where an automaton is told to give up at some byte, and this one is not.
        matches!(self.automaton.try_search_fwd(&input), Ok(Some(_)))
    }
}

impl PartialEq for PathPattern {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for PathPattern {}

impl fmt::Debug for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PathPattern({:?})", self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{super::MAX_PATH_BYTES, *};

    #[test]
    fn a_pattern_has_a_syntax_and_a_size() {
        let matches = |pattern: &str, raw: &str| {
            PathPattern::new(pattern)
                .unwrap()
                .matches(&ComparedPath::read(raw).unwrap())
        };
        assert!(matches("^/v[0-9]+/", "/v12/x"));
        assert!(!matches("^/v[0-9]+/", "/x/v12/"));
        assert!(matches("/v[0-9]+$", "/x/v%31"));
        let syntax = PathPattern::new("/(a").unwrap_err();
        assert_eq!(syntax.to_string(), "unclosed group");
        assert_eq!(PathPattern::new("a{1000}{10}"), Err(PatternError::TooLarge));
        assert!(PathPattern::new(&"(".repeat(100)).is_err());
        for (pattern, raw, expected) in [
            ("^/Users/", "/users/", false),
            ("(?i)^/Users/", "/users/", true),
            ("^/a/[^/]+/b$", "/a/x/b", true),
            ("^/a/[^/]+/b$", "/a/x/y/b", false),
            (r"\.(png|jpe?g)$", "/x/y.jpg", true),
            (r"\.(png|jpe?g)$", "/x/y.jpg/", false),
            (r"\bid\b", "/x/id", true),
            (r"\bid\b", "/xid", false),
            (r"^/\w+$", "/a%C3%A4", false),
            (r"^/[^/]+$", "/a%C3%A4", true),
            ("", "/", true),
            ("x*$", "/", true),
        ] {
            assert_eq!(matches(pattern, raw), expected, "{pattern} {raw}");
        }
    }

    /// Patterns that take long where they are not compiled to the end: each byte has them try many ways.
    const SLOW: [&str; 7] = [
        "(a|aa)+$",
        "(a*)*b",
        "[a-z]{1,60}[0-9]$",
        "(a?){40}a{40}b",
        "(/[^/]+)+/x[0-9]{20}$",
        "(.*)(.*)(.*)(.*)z$",
        "(x+x+)+y.{11}z",
    ];
    /// Patterns of which each byte doubles what has to be remembered.
    const TOO_LARGE: [&str; 3] = ["(a|b)*a(a|b){12}", "[ab]*a[ab]{30}$", "(.*a.{14}b)"];

    #[test]
    fn a_pattern_takes_a_step_for_each_byte_or_is_refused() {
        for pattern in TOO_LARGE {
            let begun = Instant::now();
            assert_eq!(
                PathPattern::new(pattern),
                Err(PatternError::TooLarge),
                "{pattern}"
            );
            assert!(begun.elapsed() < COMPILING, "{pattern}: {:?}", begun.elapsed());
        }
        let patterns = SLOW.map(|pattern| PathPattern::new(pattern).unwrap());
        for unit in ["a", "/a", "ab"] {
            let raw = format!("/{}", unit.repeat(MAX_PATH_BYTES / unit.len() - 1));
            let path = ComparedPath::read(&raw).unwrap();
            for pattern in &patterns {
                // The best of three: another program's turn is not the pattern's time.
                let times = [(); 3].map(|()| {
                    let begun = Instant::now();
                    std::hint::black_box(pattern.matches(&path));
                    begun.elapsed()
                });
                let best = times.into_iter().min().unwrap();
                assert!(best < COMPARING, "{pattern:?} on {unit}…: {best:?}");
            }
        }
    }

    /// Bounds for a program that is not optimised; one that is takes a fiftieth.
    const COMPILING: Duration = Duration::from_secs(2);
    const COMPARING: Duration = Duration::from_millis(10);
}
