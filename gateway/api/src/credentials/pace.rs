//! Pace of those who may change single services only. Each of their changes is a generation of the topology, for every zone; whoever makes
//! them without end would leave operators no moment for theirs.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// Changes that one of them may make within [`WITHIN`].
pub(crate) const MAX_CHANGES: usize = 12;
/// Time within which they are counted.
pub(crate) const WITHIN: Duration = Duration::from_secs(60);
/// Tokens and certificates that are counted at once; as many as there can be tokens.
const MAX_ACTORS: usize = 1024;

/// Changes of the last while, by who made them.
#[derive(Debug, Default)]
pub(crate) struct BlockPace(Mutex<BTreeMap<String, VecDeque<Instant>>>);

impl BlockPace {
    /// Counts a change.
    ///
    /// # Errors
    /// Too many were made; it gives the time until there is room for one.
    pub(crate) fn count(&self, actor: &str, now: Instant) -> Result<(), Duration> {
        let mut all = self.0.lock();
        let is_old = |at: &Instant| now.saturating_duration_since(*at) >= WITHIN;
        for made in all.values_mut() {
            while made.front().is_some_and(is_old) {
                made.pop_front();
            }
        }
        all.retain(|_, made| !made.is_empty());
        if !all.contains_key(actor) && all.len() >= MAX_ACTORS {
            return Err(WITHIN);
        }
        let made = all.entry(actor.to_owned()).or_default();
        if let Some(oldest) = made.front().filter(|_| made.len() >= MAX_CHANGES) {
            return Err(WITHIN.saturating_sub(now.saturating_duration_since(*oldest)));
        }
        made.push_back(now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_who_makes_too_many_changes_waits_and_nobody_else_does() {
        let (pace, begun) = (BlockPace::default(), Instant::now());
        for _ in 0..MAX_CHANGES {
            pace.count("token team", begun).unwrap();
        }
        let later = begun + Duration::from_secs(20);
        assert_eq!(pace.count("token team", later), Err(Duration::from_secs(40)));
        assert_eq!(pace.count("token other", later), Ok(()));
        assert_eq!(pace.count("token team", begun + WITHIN), Ok(()));
    }

    #[test]
    fn there_is_an_end_to_those_who_are_counted() {
        let (pace, begun) = (BlockPace::default(), Instant::now());
        for actor in 0..MAX_ACTORS {
            pace.count(&actor.to_string(), begun).unwrap();
        }
        assert_eq!(pace.count("one more", begun), Err(WITHIN));
        assert_eq!(pace.count("0", begun), Ok(()));
        assert_eq!(pace.count("one more", begun + WITHIN), Ok(()));
    }
}
