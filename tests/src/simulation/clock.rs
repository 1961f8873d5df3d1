//! Time as the simulation has it: one true time that nobody in it can read, and a clock for each gateway that runs at a
//! rate of its own and jumps.

use std::{
    fmt,
    time::{Duration, Instant},
};

/// A point of the true time, in microseconds since the simulation began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Moment(u64);

impl Moment {
    #[must_use]
    pub fn after(self, time: Duration) -> Self {
        Self(self.0 + micros(time))
    }

    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>6}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Microseconds that a true second takes on a clock that is right.
pub const RIGHT_RATE: u64 = 1_000_000;

/// The clocks of one machine: a monotonic one, which may run fast or slow and may leap forward, as after a suspension,
/// and a wall clock, which may be set to anything.
#[derive(Debug, Clone)]
pub struct Clock {
    start: Instant,
    /// Time at which the rate was last set or the clock last leapt, and what it showed then.
    epoch: Moment,
    shown: u64,
    /// Microseconds that it counts in a true second.
    rate: u64,
    wall_offset: i64,
}

/// Time that a wall clock which is right shows when the simulation begins, in Unix milliseconds: any day in the past.
const WALL_START: i64 = 1_700_000_000_000;

impl Clock {
    #[must_use]
    pub fn new(start: Instant, rate: u64) -> Self {
        Self {
            start,
            epoch: Moment::default(),
            shown: 0,
            rate,
            wall_offset: 0,
        }
    }

    fn shown(&self, at: Moment) -> u64 {
        self.shown + at.0.saturating_sub(self.epoch.0) * self.rate / RIGHT_RATE
    }

    /// Reading of the monotonic clock at a moment.
    #[must_use]
    pub fn instant(&self, at: Moment) -> Instant {
        self.start + Duration::from_micros(self.shown(at))
    }

    /// The first moment at which the monotonic clock shows at least `instant`.
    #[must_use]
    pub fn moment(&self, instant: Instant) -> Moment {
        let wanted = micros(instant.saturating_duration_since(self.start));
        let missing = wanted.saturating_sub(self.shown);
        // Rounded up twice, because the way there rounds down.
        Moment(self.epoch.0 + (missing * RIGHT_RATE).div_ceil(self.rate) + 1)
    }

    pub fn set_rate(&mut self, at: Moment, rate: u64) {
        self.shown = self.shown(at);
        self.epoch = at;
        self.rate = rate;
    }

    pub fn leap(&mut self, at: Moment, time: Duration) {
        self.shown = self.shown(at) + micros(time);
        self.epoch = at;
    }

    pub fn set_wall_offset(&mut self, milliseconds: i64) {
        self.wall_offset = milliseconds;
    }

    /// Reading of the wall clock in Unix milliseconds.
    #[must_use]
    pub fn wall(&self, at: Moment) -> u64 {
        let elapsed = i64::try_from(at.0 / 1000).unwrap_or(i64::MAX);
        u64::try_from(WALL_START + elapsed + self.wall_offset).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_is_never_early_whatever_the_rate() {
        let start = Instant::now();
        for rate in [700_000, 999_999, 1_000_000, 1_300_001] {
            let mut clock = Clock::new(start, rate);
            clock.leap(Moment(77), Duration::from_millis(5));
            clock.set_rate(Moment(1_000_003), rate + 13);
            for wanted in [9_000_001u64, 10_000_000, 12_345_678] {
                let due = start + Duration::from_micros(wanted);
                let moment = clock.moment(due);
                assert!(clock.instant(moment) >= due, "{rate} {wanted}");
                assert!(clock.instant(Moment(moment.0 - 4)) < due, "{rate} {wanted}");
            }
        }
    }
}
