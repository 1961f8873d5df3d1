//! When a tunnel counts as stalled: silent for longer than a living peer can be. The idle timeout ends it later; a
//! stalled tunnel may yet recover, and is merely tried last.

use std::time::{Duration, Instant};

/// Keep-alive intervals of silence that a living peer never lets pass, in halves.
const SILENT_HALF_INTERVALS: u32 = 5;
/// Round trips of silence that a slow path may need.
const SILENT_ROUND_TRIPS: u32 = 4;

/// What is known of a tunnel's silence.
#[derive(Debug, Clone, Copy)]
pub struct Liveness {
    heard: u64,
    heard_at: Instant,
}

impl Liveness {
    #[must_use]
    pub fn new(now: Instant, datagrams_received: u64) -> Self {
        Self {
            heard: datagrams_received,
            heard_at: now,
        }
    }

    /// Takes the connection's count of received datagrams and says whether the tunnel is stalled.
    pub fn observe(&mut self, now: Instant, datagrams_received: u64, allowed: Duration) -> bool {
        if datagrams_received != self.heard {
            *self = Self::new(now, datagrams_received);
        }
        now.saturating_duration_since(self.heard_at) > allowed
    }
}

/// How long a living peer may be silent: it sends something at every keep-alive interval, and the path adds its delay.
#[must_use]
pub fn allowed_silence(keep_alive: Duration, round_trip: Duration) -> Duration {
    (keep_alive * SILENT_HALF_INTERVALS / 2).max(round_trip * SILENT_ROUND_TRIPS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_tunnel_stalls_when_silent_too_long_and_recovers_when_heard() {
        let start = Instant::now();
        let allowed = allowed_silence(500 * MS, MS);
        let mut liveness = Liveness::new(start, 10);
        assert!(!liveness.observe(start + 1250 * MS, 10, allowed));
        assert!(liveness.observe(start + 1251 * MS, 10, allowed));
        assert!(!liveness.observe(start + 1300 * MS, 11, allowed));
        assert!(!liveness.observe(start + 2550 * MS, 11, allowed));
        assert!(liveness.observe(start + 2551 * MS, 11, allowed));
    }

    #[test]
    fn a_slow_path_is_given_more_time() {
        assert_eq!(allowed_silence(500 * MS, 600 * MS), 2400 * MS);
        assert_eq!(allowed_silence(500 * MS, 80 * MS), 1250 * MS);
    }

    #[test]
    fn a_clock_that_stands_still_stalls_nothing() {
        let now = Instant::now();
        let mut liveness = Liveness::new(now, 0);
        assert!(!liveness.observe(now, 0, Duration::ZERO));
    }
}
