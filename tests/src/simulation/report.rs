//! The report of a run: what it counted, and on failure what to read and what to type.

use std::{collections::BTreeMap, fmt, time::Duration};

/// Counts of what happened in a run.
#[derive(Debug, Default, Clone)]
pub struct Counts {
    pub runs: u64,
    pub events: u64,
    pub messages: u64,
    pub bytes: u64,
    pub sessions: u64,
    pub starts: u64,
    pub lies: u64,
    /// Sessions that an honest gateway ended, by the word it gave.
    pub refusals: BTreeMap<&'static str, u64>,
    /// Records that were passed on and refused, by the word.
    pub relays_refused: BTreeMap<&'static str, u64>,
    /// Time after the end of the faults until everyone agreed.
    pub agreed_after: Duration,
    /// The whole run, in simulated time.
    pub lasted: Duration,
}

impl Counts {
    pub fn add(&mut self, other: &Self) {
        self.runs += other.runs;
        self.events += other.events;
        self.messages += other.messages;
        self.bytes += other.bytes;
        self.sessions += other.sessions;
        self.starts += other.starts;
        self.lies += other.lies;
        self.agreed_after = self.agreed_after.max(other.agreed_after);
        self.lasted += other.lasted;
        for (word, count) in &other.refusals {
            *self.refusals.entry(word).or_default() += count;
        }
        for (word, count) in &other.relays_refused {
            *self.relays_refused.entry(word).or_default() += count;
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} runs, {} events, {} messages, {} bytes, {} sessions, {} starts, {} lies, refusals {:?}, \
             of relayed records {:?}, \
             agreed at most {:.1?} after the faults, {:.0?} simulated",
            self.runs,
            self.events,
            self.messages,
            self.bytes,
            self.sessions,
            self.starts,
            self.lies,
            self.refusals,
            self.relays_refused,
            self.agreed_after,
            self.lasted
        )
    }
}

/// A seed whose run broke a promise.
#[derive(Debug, Clone)]
pub struct Failure {
    pub seed: u64,
    pub why: String,
    /// Everything that happened, in order.
    pub trace: Vec<String>,
}

/// Number of lines of the trace that are shown where nobody asked for all.
const LAST_LINES: usize = 40;

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = self.trace.len().saturating_sub(LAST_LINES);
        for line in &self.trace[first..] {
            writeln!(f, "{line}")?;
        }
        writeln!(f, "seed {} broke a promise: {}", self.seed, self.why)?;
        write!(f, "hint: `make simulate SEED={}` shows all of it", self.seed)
    }
}
