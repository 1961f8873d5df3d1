//! The looks of diagnostics: for people, with the line and a marker, and as JSON for programs.

use std::{
    fmt::{self, Write},
    ops::Range,
};

use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, SourceSpan};
use serde_json::{Value, json};

use super::diagnostic::{Diagnostic, Diagnostics, Severity, floor_boundary};

/// Columns at which messages and hints wrap.
const WIDTH: usize = 100;

/// Destination of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Files, pipes and logs: ASCII only, no escape sequences.
    Plain,
    /// A terminal.
    Colour,
}

impl Diagnostics {
    /// All findings as text, each with file, line, column, snippet and hint; no summary line.
    #[must_use]
    pub fn render(&self, style: Style) -> String {
        let theme = match style {
            Style::Plain => GraphicalTheme::none(),
            Style::Colour => GraphicalTheme::unicode(),
        };
        let handler = GraphicalReportHandler::new_themed(theme)
            .with_links(false)
            .with_width(WIDTH)
            .with_context_lines(1);
        let source = NamedSource::new(&self.file_name, self.text.to_string());
        let mut out = String::new();
        for found in self.iter() {
            let shown = Shown {
                found,
                source: &source,
                text: &self.text,
            };
            if handler.render_report(&mut out, &shown).is_err() {
                let _ = writeln!(out, "{}", found.message);
            }
            out.push('\n');
        }
        if self.left_out() > 0 {
            let _ = writeln!(out, "… and {} more findings", self.left_out());
        }
        trim_line_ends(&out)
    }

    /// Each finding in one line, errors first, as compilers write them: `a.yaml:6:21: error[bad-value]: what is wrong (what to do)`.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        let mut found: Vec<&Diagnostic> = self.iter().collect();
        found.sort_by_key(|found| found.severity);
        found.into_iter().map(|found| {
            let (line, column) = self.position(found.span.start);
            let (file, severity, code) = (&self.file_name, found.severity.as_str(), found.code);
            let mut text = format!("{file}:{line}:{column}: {severity}[{code}]: {}", found.message);
            let meant = found.did_you_mean.as_ref();
            let meant = meant.map(|meant| format!("did you mean `{meant}`?"));
            let told: Vec<String> = found.hint.clone().into_iter().chain(meant).collect();
            if !told.is_empty() {
                let _ = write!(text, " ({})", told.join("; "));
            }
            text
        })
    }

    /// `2 errors, 1 warning`.
    #[must_use]
    pub fn summary(&self) -> String {
        match (self.errors(), self.warnings()) {
            (0, 0) => "no errors".to_owned(),
            (errors, 0) => counted(errors, "error"),
            (0, warnings) => counted(warnings, "warning"),
            (errors, warnings) => format!("{}, {}", counted(errors, "error"), counted(warnings, "warning")),
        }
    }

    /// `{ file, errors, warnings, left_out, diagnostics: [{ severity, code, message, line, column, end_line,
    /// end_column, snippet, label, hint, did_you_mean, related }] }`; lines and columns count characters from 1.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "file": self.file_name,
            "errors": self.errors(),
            "warnings": self.warnings(),
            "left_out": self.left_out(),
            "diagnostics": self.iter().map(|found| self.one_to_json(found)).collect::<Vec<_>>(),
        })
    }

    fn one_to_json(&self, found: &Diagnostic) -> Value {
        let span = on_one_line(&self.text, &found.span);
        let (line, column) = self.position(span.start);
        let (end_line, end_column) = self.position(span.end);
        json!({
            "severity": found.severity.as_str(),
            "code": found.code,
            "message": found.message,
            "line": line,
            "column": column,
            "end_line": end_line,
            "end_column": end_column,
            "snippet": self.text.lines().nth(line - 1).unwrap_or_default(),
            "label": found.label,
            "hint": found.hint,
            "did_you_mean": found.did_you_mean,
            "related": found.related.iter().map(|(span, label)| {
                let (line, column) = self.position(span.start);
                json!({ "line": line, "column": column, "message": label })
            }).collect::<Vec<_>>(),
        })
    }
}

/// So that a failed `unwrap` in a test shows the findings as an operator would see them.
impl fmt::Debug for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}\n{}", self.render(Style::Plain))
    }
}

fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// Snippet lines without text end in spaces, which editors and diffs stumble over.
fn trim_line_ends(text: &str) -> String {
    text.lines().flat_map(|line| [line.trim_end(), "\n"]).collect()
}

/// Cuts a span to its first line: a marker under a whole block would bury the message.
fn on_one_line(text: &str, span: &Range<usize>) -> Range<usize> {
    let start = floor_boundary(text, span.start);
    let rest = &text[start..];
    let line = rest.split('\n').next().unwrap_or_default().trim_end();
    let end = floor_boundary(text, span.end).clamp(start, start + line.len());
    start..end
}

/// One diagnostic in the terms of miette.
struct Shown<'a> {
    found: &'a Diagnostic,
    source: &'a NamedSource<String>,
    text: &'a str,
}

impl Shown<'_> {
    fn span(&self, span: &Range<usize>) -> SourceSpan {
        let span = on_one_line(self.text, span);
        (span.start, span.len()).into()
    }
}

impl fmt::Debug for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.found.fmt(f)
    }
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.found.message)
    }
}

impl std::error::Error for Shown<'_> {}

impl miette::Diagnostic for Shown<'_> {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(format!(
            "{}[{}]",
            self.found.severity.as_str(),
            self.found.code
        )))
    }

    fn severity(&self) -> Option<miette::Severity> {
        Some(match self.found.severity {
            Severity::Error => miette::Severity::Error,
            Severity::Warning => miette::Severity::Warning,
        })
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        let meant = self
            .found
            .did_you_mean
            .as_ref()
            .map(|word| format!("did you mean `{word}`?"));
        let parts: Vec<String> = meant.into_iter().chain(self.found.hint.clone()).collect();
        (!parts.is_empty()).then(|| Box::new(parts.join(" ")) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn miette::SourceCode> {
        Some(self.source)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let label = Some(self.found.label.clone()).filter(|label| !label.is_empty());
        let primary = LabeledSpan::new_primary_with_span(label, self.span(&self.found.span));
        let related = self.found.related.iter();
        let related =
            related.map(|(span, label)| LabeledSpan::new_with_span(Some(label.clone()), self.span(span)));
        Some(Box::new(std::iter::once(primary).chain(related)))
    }
}
