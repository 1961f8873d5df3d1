//! A record of what happened, line by line, for whoever reads a failed run. A run that nobody reads makes no lines.

use super::clock::Moment;

/// Most lines that are kept of one run.
const MAX_LINES: usize = 2_000_000;

#[derive(Debug, Default)]
pub struct Trace {
    lines: Option<Vec<String>>,
}

impl Trace {
    #[must_use]
    pub fn new(keep: bool) -> Self {
        Self {
            lines: keep.then(Vec::new),
        }
    }

    /// Notes a line, which is only made when somebody will read it.
    pub fn note(&mut self, now: Moment, line: impl FnOnce() -> String) {
        if let Some(lines) = self.lines.as_mut().filter(|lines| lines.len() < MAX_LINES) {
            lines.push(format!("{now}  {}", line()));
        }
    }

    #[must_use]
    pub fn into_lines(self) -> Vec<String> {
        self.lines.unwrap_or_default()
    }
}
