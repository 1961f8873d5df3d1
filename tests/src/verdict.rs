//! The worth of a failover: the two promises, checked from what clients saw and what instances were given.
//!
//! 1. A connection that no instance has been given is never lost to a dead zone.
//! 2. No instance is ever given bytes that another was given.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use crate::load::Report;

/// Testimony of one instance.
#[derive(Debug, Clone)]
pub struct Testimony {
    pub instance: String,
    /// Every line that it was given.
    pub lines: Vec<String>,
    /// Connections that it accepted and that brought nothing.
    pub empty_connections: usize,
}

/// The promises, kept or broken.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// Connections that more than one instance was given.
    pub given_twice: Vec<String>,
    /// Connections that failed after an instance had been given their bytes: allowed.
    pub failed_after_given: usize,
    /// Connections that failed and whose bytes no instance has.
    pub failed_unseen: Vec<String>,
    /// Connections that an instance accepted and that brought it nothing. Each may be one of `failed_unseen`: the zone
    /// died between saying that the instance was ready and passing on the bytes.
    pub accepted_empty: usize,
}

impl Verdict {
    #[must_use]
    pub fn new(report: &Report, testimonies: &[Testimony]) -> Self {
        // Instances may have been given other things as well; only this load is judged.
        let ids: BTreeSet<&str> = report
            .attempts
            .iter()
            .map(|attempt| attempt.id.as_str())
            .collect();
        let mut given: BTreeMap<&str, usize> = BTreeMap::new();
        let lines = testimonies.iter().flat_map(|testimony| &testimony.lines);
        for line in lines.filter(|line| ids.contains(line.as_str())) {
            *given.entry(line).or_default() += 1;
        }
        let failed: Vec<_> = report.failed().map(|attempt| attempt.id.as_str()).collect();
        let unseen = failed.iter().filter(|id| !given.contains_key(*id));
        let failed_unseen: Vec<_> = unseen.map(|id| (*id).to_owned()).collect();
        let twice = given.iter().filter(|(_, times)| **times > 1);
        Self {
            given_twice: twice.map(|(id, _)| (*id).to_owned()).collect(),
            failed_after_given: failed.len() - failed_unseen.len(),
            failed_unseen,
            accepted_empty: testimonies
                .iter()
                .map(|testimony| testimony.empty_connections)
                .sum(),
        }
    }

    /// Connections that were lost though no instance had been given them, at the least.
    #[must_use]
    pub fn lost(&self) -> usize {
        self.failed_unseen.len().saturating_sub(self.accepted_empty)
    }

    #[must_use]
    pub fn promises_kept(&self) -> bool {
        self.lost() == 0 && self.given_twice.is_empty()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "lost {}, given twice {}, failed in an instance's hands {} ({} of them before its first byte)",
            self.lost(),
            self.given_twice.len(),
            self.failed_after_given + self.failed_unseen.len() - self.lost(),
            self.failed_unseen.len() - self.lost(),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::load::{Attempt, ConnectionOutcome};

    fn report(outcomes: &[(&str, ConnectionOutcome)]) -> Report {
        let attempt = |(id, outcome): &(&str, ConnectionOutcome)| Attempt {
            id: (*id).to_owned(),
            started: Instant::now(),
            waited: Duration::ZERO,
            outcome: outcome.clone(),
        };
        Report {
            attempts: outcomes.iter().map(attempt).collect(),
        }
    }

    fn testimony(lines: &[&str], empty_connections: usize) -> Testimony {
        Testimony {
            instance: "east".to_owned(),
            lines: lines.iter().map(|line| (*line).to_owned()).collect(),
            empty_connections,
        }
    }

    #[test]
    fn a_connection_that_two_instances_were_given_breaks_a_promise() {
        let served = ConnectionOutcome::Served {
            by: "east".to_owned(),
        };
        let report = report(&[("a", served.clone()), ("b", served)]);
        let others = ["a", "b", "not of this load"];
        let verdict = Verdict::new(
            &report,
            &[testimony(&others, 0), testimony(&["b", "not of this load"], 0)],
        );
        assert_eq!(verdict.given_twice, ["b"]);
        assert!(!verdict.promises_kept());
    }

    #[test]
    fn a_failed_connection_is_lost_unless_an_instance_had_it() {
        let report = report(&[
            ("seen", ConnectionOutcome::Closed),
            ("unseen", ConnectionOutcome::TimedOut),
        ]);
        let verdict = Verdict::new(&report, &[testimony(&["seen"], 0)]);
        assert_eq!((verdict.lost(), verdict.failed_after_given), (1, 1));
        let verdict = Verdict::new(&report, &[testimony(&["seen"], 1)]);
        assert_eq!(verdict.lost(), 0);
    }
}
