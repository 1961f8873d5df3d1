//! Tells how a tunnel that is silent is regarded. One that has stalled is silent for longer than a living peer can be, and is
//! merely tried last; one that is unheard is not tried at all. Either may yet recover, with every stream on it: only the
//! idle timeout ends it, and a peer that says that it has restarted.

use std::time::{Duration, Instant};

/// Keep-alive intervals of silence that a living peer never lets pass, in halves.
const STALLED_HALF_INTERVALS: u32 = 5;
/// Keep-alive intervals of silence after which nothing new is entrusted to a tunnel.
const UNHEARD_INTERVALS: u32 = 6;
/// Round trips of silence that a slow path may need, and how many more before it counts as unheard.
const STALLED_ROUND_TRIPS: u32 = 4;
const UNHEARD_ROUND_TRIPS: u32 = 6;

/// Silence of a tunnel's peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Silence {
    None,
    Stalled,
    Unheard,
}

/// Last sign of life from a tunnel's peer.
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

    /// Takes the connection's count of received datagrams and says how the tunnel is regarded.
    pub fn observe(&mut self, now: Instant, datagrams_received: u64, patience: Patience) -> Silence {
        if datagrams_received != self.heard {
            *self = Self::new(now, datagrams_received);
        }
        let silent = now.saturating_duration_since(self.heard_at);
        if silent > patience.unheard {
            Silence::Unheard
        } else if silent > patience.stalled {
            Silence::Stalled
        } else {
            Silence::None
        }
    }
}

/// Silences up to which a tunnel has not stalled, and is not unheard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    pub stalled: Duration,
    pub unheard: Duration,
}

impl Patience {
    /// A living peer sends something at every keep-alive interval, and the path adds its delay.
    #[must_use]
    pub fn of(keep_alive: Duration, round_trip: Duration) -> Self {
        Self {
            stalled: (keep_alive * STALLED_HALF_INTERVALS / 2).max(round_trip * STALLED_ROUND_TRIPS),
            unheard: (keep_alive * UNHEARD_INTERVALS).max(round_trip * UNHEARD_ROUND_TRIPS),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_tunnel_stalls_when_silent_too_long_and_recovers_when_heard() {
        let start = Instant::now();
        let patience = Patience::of(500 * MS, MS);
        let mut liveness = Liveness::new(start, 10);
        let mut after = |ms: u32, heard| liveness.observe(start + ms * MS, heard, patience);
        assert_eq!(after(1250, 10), Silence::None);
        assert_eq!(after(1251, 10), Silence::Stalled);
        assert_eq!(after(1300, 11), Silence::None);
        assert_eq!(after(2550, 11), Silence::None);
        assert_eq!(after(2551, 11), Silence::Stalled);
        assert_eq!(after(4300, 11), Silence::Stalled);
        assert_eq!(after(4301, 11), Silence::Unheard);
        assert_eq!(after(9000, 12), Silence::None, "a pause, however long");
    }

    #[test]
    fn a_slow_path_is_given_more_time() {
        let stalled = |round_trip| Patience::of(500 * MS, round_trip).stalled;
        assert_eq!(stalled(600 * MS), 2400 * MS);
        assert_eq!(stalled(80 * MS), 1250 * MS);
        assert_eq!(Patience::of(500 * MS, 600 * MS).unheard, 3600 * MS);
        assert_eq!(Patience::of(500 * MS, 80 * MS).unheard, 3000 * MS);
    }

    #[test]
    fn a_clock_that_stands_still_stalls_nothing() {
        let now = Instant::now();
        let mut liveness = Liveness::new(now, 0);
        let none = Patience::of(Duration::ZERO, Duration::ZERO);
        assert_eq!(liveness.observe(now, 0, none), Silence::None);
    }
}
