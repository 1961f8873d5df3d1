//! Figures as text: percentiles of samples, medians with spread over rounds, and what memory the process takes.

use std::{
    fs,
    io::{self, Write as _},
    time::Duration,
};

pub fn heading(text: &str) {
    line(&format!("\n{text}"));
}

/// One figure: what, and how much.
pub fn figure(what: &str, value: &str) {
    line(&format!("  {what:<58} {value}"));
}

fn line(text: &str) {
    // Nobody reads on when the output is gone.
    let _ = writeln!(io::stdout(), "{text}");
}

/// Samples of a duration.
#[derive(Debug, Default)]
pub struct Samples(Vec<Duration>);

impl Samples {
    pub fn add(&mut self, sample: Duration) {
        self.0.push(sample);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The sample below which this share of them lies.
    pub fn percentile(&mut self, share: f64) -> Duration {
        self.0.sort_unstable();
        // Truncation is meant: it is an index.
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_precision_loss,
            clippy::cast_sign_loss
        )]
        let at = ((self.0.len() as f64 - 1.0) * share) as usize;
        self.0.get(at).copied().unwrap_or_default()
    }
}

/// `12.3 us (11.9-14.0)`: the median of the rounds, the smallest and the largest.
pub fn over_rounds(mut rounds: Vec<Duration>) -> String {
    rounds.sort_unstable();
    let micros = |d: Option<&Duration>| d.map_or(0.0, |d| d.as_secs_f64() * 1e6);
    let median = micros(rounds.get(rounds.len() / 2));
    let (least, most) = (micros(rounds.first()), micros(rounds.last()));
    format!("{median:.1} us ({least:.1}-{most:.1})")
}

/// Resident memory of the process in bytes.
pub fn resident_bytes() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<usize>().ok());
    kib.unwrap_or(0) * 1024
}
