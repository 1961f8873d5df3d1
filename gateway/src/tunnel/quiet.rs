//! Keeps a peer that fails for ever from filling the log: the first of a kind is told, then one a minute with a count.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// How long after a line the same thing is only counted.
pub const QUIET: Duration = Duration::from_secs(60);
/// Most kinds that are told apart; further ones share one entry, so that forged addresses cannot grow the table.
pub const MAX_KINDS: usize = 1024;

#[derive(Debug, Default)]
pub struct Quiet<K> {
    told: BTreeMap<Option<K>, Told>,
}

#[derive(Debug)]
struct Told {
    at: Instant,
    since: u64,
}

impl<K: Ord> Quiet<K> {
    #[must_use]
    pub fn new() -> Self {
        Self {
            told: BTreeMap::new(),
        }
    }

    /// Whether to write a line for `kind` now, and how many were passed over since the last one.
    pub fn admit(&mut self, now: Instant, kind: K) -> Option<u64> {
        let mut kind = Some(kind);
        if self.told.len() >= MAX_KINDS && !self.told.contains_key(&kind) {
            self.told
                .retain(|_, told| now.saturating_duration_since(told.at) < QUIET);
            if self.told.len() >= MAX_KINDS {
                kind = None;
            }
        }
        match self.told.get_mut(&kind) {
            Some(told) if now.saturating_duration_since(told.at) < QUIET => {
                told.since += 1;
                None
            }
            Some(told) => {
                told.at = now;
                Some(std::mem::take(&mut told.since))
            }
            None => {
                self.told.insert(kind, Told { at: now, since: 0 });
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
        let mut quiet = Quiet::new();
        assert_eq!(quiet.admit(start, "a"), Some(0));
        assert_eq!(quiet.admit(start + Duration::from_secs(1), "a"), None);
        assert_eq!(quiet.admit(start + Duration::from_secs(2), "b"), Some(0));
        assert_eq!(quiet.admit(start + Duration::from_secs(59), "a"), None);
        assert_eq!(quiet.admit(start + QUIET, "a"), Some(2));
    }

    #[test]
    fn forged_kinds_share_one_line_once_the_table_is_full() {
        let start = Instant::now();
        let mut quiet = Quiet::new();
        let lines = (0..10 * MAX_KINDS)
            .filter(|n| quiet.admit(start, *n).is_some())
            .count();
        assert_eq!(lines, MAX_KINDS + 1);
        assert!(quiet.told.len() <= MAX_KINDS + 1);
        assert_eq!(quiet.admit(start + QUIET, usize::MAX), Some(0));
    }
}
