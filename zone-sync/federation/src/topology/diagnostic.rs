//! Findings about a topology file: what is wrong, where, and what to do about it.
//!
//! A [`Diagnostic`] is a value; how it looks is decided in `render`. Codes are stable words that scripts may match.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    fmt,
    ops::Range,
    sync::Arc,
};

/// Most errors, and most warnings, that one run keeps: the first ones say enough. Each has a limit of its own, so that
/// no number of warnings can hide that there is an error.
pub const MAX_DIAGNOSTICS: usize = 200;
/// Most searches for a nearest word in one run; each compares with up to thousands of names.
const MAX_SUGGESTIONS: usize = 2 * MAX_DIAGNOSTICS;
/// A suggestion may differ from what was written by one edit for every so many characters.
const CHARACTERS_PER_EDIT: usize = 3;

/// Byte offsets into the text of the file.
pub(super) type Span = Range<usize>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The file is refused.
    Error,
    /// The file is taken, but something in it does nothing or not what it seems to say.
    Warning,
}

impl Severity {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
        }
    }
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Diagnostic {
    pub severity: Severity,
    /// A stable word, such as `unknown-key`.
    pub code: &'static str,
    pub message: String,
    /// Bytes of the file that are meant.
    pub span: Range<usize>,
    /// Text beside the marker in the snippet; empty: nothing.
    pub label: String,
    /// Advice on what to do about it.
    pub hint: Option<String>,
    /// The known word that is nearest to what was written.
    pub did_you_mean: Option<String>,
    /// Further places that have a part in it, each with what it has to do with it.
    pub related: Vec<(Range<usize>, String)>,
}

impl Diagnostic {
    pub(super) fn new(severity: Severity, code: &'static str, span: &Span, message: String) -> Self {
        Self {
            severity,
            code,
            message,
            span: span.clone(),
            label: String::new(),
            hint: None,
            did_you_mean: None,
            related: Vec::new(),
        }
    }

    pub(super) fn error(code: &'static str, span: &Span, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, code, span, message.into())
    }

    pub(super) fn warning(code: &'static str, span: &Span, message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, code, span, message.into())
    }

    pub(super) fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(super) fn did_you_mean(mut self, word: Option<String>) -> Self {
        self.did_you_mean = word;
        self
    }

    pub(super) fn related(mut self, span: &Span, label: impl Into<String>) -> Self {
        self.related.push((span.clone(), label.into()));
        self
    }
}

/// Everything that one run found in one file, in the order of the file; also the error that refuses it.
#[derive(Clone)]
pub struct Diagnostics {
    pub(super) file_name: String,
    pub(super) text: Arc<str>,
    list: Vec<Diagnostic>,
    left_out: usize,
}

impl Diagnostics {
    /// Findings in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.list.iter()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    #[must_use]
    pub fn errors(&self) -> usize {
        self.count(Severity::Error)
    }

    #[must_use]
    pub fn warnings(&self) -> usize {
        self.count(Severity::Warning)
    }

    /// Findings beyond the limits, which are not kept.
    #[must_use]
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    fn count(&self, severity: Severity) -> usize {
        self.list
            .iter()
            .filter(|found| found.severity == severity)
            .count()
    }

    /// `topologies/canary.yaml`, as the caller named it.
    #[must_use]
    pub fn file_name(&self) -> &str {
        &self.file_name
    }

    /// Text that was read.
    #[must_use]
    pub fn text(&self) -> &Arc<str> {
        &self.text
    }

    /// Line and column of a byte offset, both counted in characters from 1.
    #[must_use]
    pub fn position(&self, offset: usize) -> (usize, usize) {
        let offset = floor_boundary(&self.text, offset);
        let before = &self.text[..offset];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        (line, before[line_start..].chars().count() + 1)
    }
}

/// The nearest character boundary at or before `offset`.
pub(super) fn floor_boundary(text: &str, offset: usize) -> usize {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    offset
}

/// `the topology a.yaml is refused: 2 errors, 1 warning`.
impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file_name, self.summary())
    }
}

impl std::error::Error for Diagnostics {}

/// Collects findings while the file is read; shared by all readers of one run.
#[derive(Default)]
pub(super) struct Sink {
    list: RefCell<Vec<Diagnostic>>,
    errors: Cell<usize>,
    warnings: Cell<usize>,
    suggestions: Cell<usize>,
}

impl Sink {
    /// Takes up a finding, once: what many services have from one place is told of that place.
    pub(super) fn push(&self, diagnostic: Diagnostic) {
        let is_known = |known: &Diagnostic| {
            known.span == diagnostic.span
                && known.code == diagnostic.code
                && known.message == diagnostic.message
        };
        if self.list.borrow().iter().any(is_known) {
            return;
        }
        let count = match diagnostic.severity {
            Severity::Error => &self.errors,
            Severity::Warning => &self.warnings,
        };
        count.set(count.get() + 1);
        if count.get() <= MAX_DIAGNOSTICS {
            self.list.borrow_mut().push(diagnostic);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.borrow().is_empty()
    }

    /// The candidate that `word` was most likely meant to be. Says nothing once the run has searched often enough.
    pub(super) fn nearest<'a>(
        &self,
        word: &str,
        candidates: impl IntoIterator<Item = &'a str>,
    ) -> Option<String> {
        self.suggestions.set(self.suggestions.get() + 1);
        if self.suggestions.get() > MAX_SUGGESTIONS {
            return None;
        }
        nearest(word, candidates)
    }

    /// All findings in the order of the file, each once: an alias makes the same node be read several times.
    pub(super) fn finish(self, text: &str, file_name: &str) -> Diagnostics {
        let mut list = self.list.into_inner();
        let left_out = self.errors.get() + self.warnings.get() - list.len();
        list.sort_by(|a, b| (a.span.start, a.severity, a.code).cmp(&(b.span.start, b.severity, b.code)));
        let mut seen = BTreeSet::new();
        list.retain(|found| seen.insert((found.span.start, found.code, found.message.clone())));
        Diagnostics {
            file_name: file_name.to_owned(),
            text: text.into(),
            list,
            left_out,
        }
    }
}

/// The candidate within an edit distance that a slip of the finger explains, nearest first.
pub(super) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let word = word.to_lowercase();
    let length = word.chars().count();
    candidates
        .into_iter()
        .filter_map(|candidate| {
            let allowed = (length.max(candidate.chars().count()) / CHARACTERS_PER_EDIT).max(1);
            if length.abs_diff(candidate.chars().count()) > allowed {
                return None;
            }
            let distance = strsim::damerau_levenshtein(&word, candidate);
            (distance <= allowed).then_some((distance, candidate))
        })
        .min()
        .map(|(_, candidate)| candidate.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_explains_a_slip_but_not_another_word() {
        let keys = ["failover", "failback", "split", "port"];
        assert_eq!(nearest("failovr", keys).as_deref(), Some("failover"));
        assert_eq!(nearest("splti", keys).as_deref(), Some("split"));
        assert_eq!(nearest("Port", keys).as_deref(), Some("port"));
        assert_eq!(nearest("timeout", keys), None);
    }
}
