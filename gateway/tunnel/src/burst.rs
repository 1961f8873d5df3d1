//! Tells streams that carry much from those that do not: the former yield, so that a question is not kept waiting by a download
//! beside it. Pure: the time is an argument.

use std::time::Instant;

use super::class::Class;

/// Priority of a stream that yields, below that of all others (0).
const YIELDING: i32 = -1;
/// Bytes in a row from which a stream yields: more than most answers have.
const YIELD_FROM_BYTES: u64 = 1024 * 1024;
/// Bytes to which these must fall before it does no more.
const YIELD_NO_MORE_BYTES: u64 = 256 * 1024;
/// Bytes that are forgotten in a second. A stream that carries less than that never yields: it is a conversation, however long.
const FORGOTTEN_PER_SECOND: u64 = 64 * 1024;
/// Most bytes that are remembered, so that a stream which falls silent is like a new one a minute later.
const REMEMBERED_BYTES: u64 = 4 * 1024 * 1024;

/// Bytes that a stream has carried of late.
#[derive(Debug, Clone, Copy)]
pub(super) struct Burst {
    bytes: u64,
    at: Instant,
    yields: bool,
}

impl Burst {
    /// A stream that has carried `bytes` so far.
    pub(super) fn new(now: Instant, bytes: u64) -> Self {
        Self {
            bytes,
            at: now,
            yields: false,
        }
    }

    /// Takes down that the stream carries more.
    pub(super) fn carry(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes).min(REMEMBERED_BYTES);
    }

    /// Class of a connection's stream now.
    pub(super) fn class(&mut self, now: Instant) -> Class {
        self.priority(now);
        if self.yields {
            Class::Bulk
        } else {
            Class::Interactive
        }
    }

    /// Gives the priority of what is written next, if it is another than before.
    pub(super) fn priority(&mut self, now: Instant) -> Option<i32> {
        let passed = now.saturating_duration_since(self.at);
        let forgotten = u128::from(FORGOTTEN_PER_SECOND) * passed.as_millis() / 1_000;
        // Else moments that are too short to forget anything would add up to nothing.
        if forgotten > 0 {
            self.bytes = self
                .bytes
                .saturating_sub(u64::try_from(forgotten).unwrap_or(u64::MAX));
            self.at = now;
        }
        let yields = match self.yields {
            true => self.bytes > YIELD_NO_MORE_BYTES,
            false => self.bytes >= YIELD_FROM_BYTES,
        };
        let changed = std::mem::replace(&mut self.yields, yields) != yields;
        changed.then_some(if yields { YIELDING } else { 0 })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Priorities that a stream gets which carries `bytes` each `pause`.
    fn priorities(bytes: u64, pause: Duration, times: u32) -> Vec<i32> {
        let start = Instant::now();
        let mut burst = Burst::new(start, 0);
        let changes = (0..times).filter_map(|step| {
            let priority = burst.priority(start + pause * step);
            burst.carry(bytes);
            priority
        });
        changes.collect()
    }

    #[test]
    fn a_download_yields_after_a_mebibyte_whether_it_is_fast_or_slow() {
        assert!(priorities(64 * 1024, MS, 16).is_empty());
        assert_eq!(priorities(64 * 1024, MS, 10_000), [YIELDING]);
        // 1 Mbit/s.
        assert_eq!(priorities(1_250, 10 * MS, 10_000), [YIELDING]);
    }

    #[test]
    fn a_conversation_never_yields_however_long_it_is() {
        // 50 KB a second, in pieces, for an hour.
        assert!(priorities(5_000, 100 * MS, 36_000).is_empty());
    }

    #[test]
    fn one_that_falls_silent_is_like_a_new_one_a_minute_later() {
        let start = Instant::now();
        let mut burst = Burst::new(start, 16 * 1024);
        burst.carry(u64::MAX);
        assert_eq!(burst.priority(start), Some(YIELDING));
        assert_eq!(burst.priority(start + 30_000 * MS), None);
        assert_eq!(burst.priority(start + 61_000 * MS), Some(0));
        assert_eq!(burst.priority(start + 61_001 * MS), None);
    }

    #[test]
    fn moments_too_short_to_forget_anything_in_add_up() {
        let start = Instant::now();
        let mut burst = Burst::new(start, YIELD_FROM_BYTES);
        assert_eq!(burst.priority(start), Some(YIELDING));
        let back = (0..200_000).find_map(|step| burst.priority(start + MS / 10 * step));
        assert_eq!(back, Some(0));
    }
}
