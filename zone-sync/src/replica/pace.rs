//! A limit on how often something may happen, with a burst: the generic cell rate algorithm (ITU-T I.371), in virtual
//! scheduling form. It keeps one time and no timer.

use std::time::{Duration, Instant};

#[derive(Debug, Clone, Copy)]
pub(super) struct SyncPace {
    interval: Duration,
    /// Time that the next turn may lie ahead of the clock.
    tolerance: Duration,
    next: Instant,
}

impl SyncPace {
    /// One turn in `interval`, and `burst` at once after a pause.
    pub(super) fn new(now: Instant, interval: Duration, burst: u32) -> Self {
        Self {
            interval,
            tolerance: interval * burst.saturating_sub(1),
            next: now,
        }
    }

    /// Time at which the next turn may be taken, if that is not now.
    pub(super) fn wait(&self, now: Instant) -> Option<Instant> {
        let free = self.next.checked_sub(self.tolerance)?;
        Some(free).filter(|free| now < *free)
    }

    /// Takes a turn; answers whether it was time for it.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        if self.wait(now).is_some() {
            return false;
        }
        self.next = self.next.max(now) + self.interval;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_one_in_each_interval() {
        let (start, step) = (Instant::now(), Duration::from_millis(10));
        let mut pace = SyncPace::new(start, step, 3);
        let burst = |pace: &mut SyncPace, now| (0..9).filter(|_| pace.take(now)).count();
        assert_eq!(burst(&mut pace, start), 3);
        let free = pace.wait(start).unwrap();
        assert_eq!(free, start + step);
        assert_eq!(burst(&mut pace, free), 1);
        let later = free + Duration::from_secs(1);
        assert_eq!(burst(&mut pace, later), 3, "it gathers no more than a burst");
    }
}
