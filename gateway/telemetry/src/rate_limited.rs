//! Keeps a peer that fails for ever from filling the log: the first of a kind is told, then one a minute with a count.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Time after a line in which the same thing is only counted.
pub(crate) const INTERVAL: Duration = Duration::from_secs(60);
/// Most kinds that are told apart; further ones share one entry, so that forged addresses cannot grow the table.
pub(crate) const MAX_KINDS: usize = 1024;

#[derive(Debug, Default)]
pub struct RateLimited<K> {
    told: BTreeMap<Option<K>, LastLine>,
}

#[derive(Debug)]
struct LastLine {
    at: Instant,
    since: u64,
}

impl<K: Ord> RateLimited<K> {
    #[must_use]
    pub fn new() -> Self {
        Self {
            told: BTreeMap::new(),
        }
    }

    /// Decides whether to write a line for `kind` now, and tells how many were passed over since the last one.
    pub fn admit(&mut self, now: Instant, kind: K) -> Option<u64> {
        let mut kind = Some(kind);
        if self.told.len() >= MAX_KINDS && !self.told.contains_key(&kind) {
            self.told
                .retain(|_, told| now.saturating_duration_since(told.at) < INTERVAL);
            if self.told.len() >= MAX_KINDS {
                kind = None;
            }
        }
        match self.told.get_mut(&kind) {
            Some(told) if now.saturating_duration_since(told.at) < INTERVAL => {
                told.since += 1;
                None
            }
            Some(told) => {
                told.at = now;
                Some(std::mem::take(&mut told.since))
            }
            None => {
                self.told.insert(kind, LastLine { at: now, since: 0 });
                Some(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_told_and_the_rest_are_counted() {
        let start = Instant::now();
        let mut rate_limited = RateLimited::new();
        assert_eq!(rate_limited.admit(start, "a"), Some(0));
        assert_eq!(rate_limited.admit(start + Duration::from_secs(1), "a"), None);
        assert_eq!(rate_limited.admit(start + Duration::from_secs(2), "b"), Some(0));
        assert_eq!(rate_limited.admit(start + Duration::from_secs(59), "a"), None);
        assert_eq!(rate_limited.admit(start + INTERVAL, "a"), Some(2));
    }

    #[test]
    fn forged_kinds_share_one_line_once_the_table_is_full() {
        let start = Instant::now();
        let mut rate_limited = RateLimited::new();
        let lines = (0..10 * MAX_KINDS)
            .filter(|n| rate_limited.admit(start, *n).is_some())
            .count();
        assert_eq!(lines, MAX_KINDS + 1);
        assert!(rate_limited.told.len() <= MAX_KINDS + 1);
        assert_eq!(rate_limited.admit(start + INTERVAL, usize::MAX), Some(0));
    }
}
