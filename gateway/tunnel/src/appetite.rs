//! Window that a tunnel needs, by what is taken of its streams: as TCP and QUIC implementations tune their receive buffers.
//! Pure: the time is an argument.

use std::time::{Duration, Instant};

use super::{budget::LEAST_WINDOW_BYTES, config::TUNNEL_WINDOW_BYTES};

/// Multiple of what is taken in a round trip. A single stream may hold a quarter of a window (see `ledger`), so one that fills its share
/// asks for up to twice as much.
const MULTIPLE: u64 = 8;
/// Time beside the round trip until the peer hears of what was taken; it is gathered for a millisecond here.
const TOLD_AFTER: Duration = Duration::from_millis(2);
/// Time for which a peak is remembered at least, and half of that at most.
const EPOCH: Duration = Duration::from_secs(15);

/// Measure of what is taken of one tunnel's streams.
#[derive(Debug)]
pub(super) struct Appetite {
    since: Instant,
    /// Bytes since then.
    taken: u64,
    epoch: Instant,
    /// Most bytes in a round trip, in this epoch and the one before.
    peaks: [u64; 2],
}

impl Appetite {
    /// Begins as if a window of `window` bytes were needed.
    pub(super) fn new(now: Instant, window: u64) -> Self {
        Self {
            since: now,
            taken: 0,
            epoch: now,
            peaks: [window / MULTIPLE, 0],
        }
    }

    /// Takes down that bytes were taken, and tells whether so many come in a round trip that the window is to grow now.
    pub(super) fn take(&mut self, now: Instant, bytes: u64, rtt: Duration) -> bool {
        let peak = self.peaks[0].max(self.peaks[1]);
        let period = rtt + TOLD_AFTER;
        let passed = now.saturating_duration_since(self.since);
        if passed > period {
            let share = period.as_secs_f64() / passed.as_secs_f64();
            let in_period = (self.taken as f64 * share) as u64;
            self.peaks[0] = self.peaks[0].max(in_period);
            (self.since, self.taken) = (now, 0);
        }
        self.taken += bytes;
        // So many already, before the round trip is over.
        self.peaks[0] = self.peaks[0].max(self.taken);
        self.peaks[0] > peak / 4 * 5
    }

    /// Gives the window that is needed where `unread` bytes lie about: they may fill three quarters of one, and others want some too.
    pub(super) fn wanted(&mut self, now: Instant, unread: u64) -> u64 {
        if now.saturating_duration_since(self.epoch) >= EPOCH {
            (self.epoch, self.peaks) = (now, [0, self.peaks[0]]);
        }
        let peak = self.peaks[0].max(self.peaks[1]);
        let moving = peak.saturating_mul(MULTIPLE).max(LEAST_WINDOW_BYTES);
        let wanted = moving.saturating_add((unread / 3).saturating_mul(4));
        wanted.clamp(LEAST_WINDOW_BYTES, TUNNEL_WINDOW_BYTES.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(38);
    const MIB: u64 = 1024 * 1024;

    #[test]
    fn a_stream_that_fills_its_share_makes_the_window_grow_by_half_or_more_each_round_trip_up_to_the_most() {
        let mut now = Instant::now();
        let mut appetite = Appetite::new(now, LEAST_WINDOW_BYTES);
        let mut window = LEAST_WINDOW_BYTES;
        for _ in 0..12 {
            // In eight parts, as they come.
            for _ in 0..8 {
                now += (RTT + TOLD_AFTER) / 8;
                appetite.take(now, window / 32, RTT);
            }
            let wanted = appetite.wanted(now, 0);
            assert!(
                wanted >= (window / 2 * 3).min(u64::from(TUNNEL_WINDOW_BYTES)),
                "{window} to {wanted}"
            );
            window = wanted;
        }
        assert_eq!(window, u64::from(TUNNEL_WINDOW_BYTES));
    }

    #[test]
    fn what_is_taken_slowly_needs_little_however_long_it_goes_on_and_what_is_not_needed_is_given_back() {
        let mut now = Instant::now();
        let mut appetite = Appetite::new(now, 4 * MIB);
        for _ in 0..4_000 {
            now += Duration::from_millis(10);
            appetite.take(now, 10 * 1024, RTT);
            appetite.wanted(now, 0);
        }
        assert_eq!(appetite.wanted(now, 0), LEAST_WINDOW_BYTES);
        assert!(appetite.take(now, MIB, RTT), "grows at once");
        assert!(appetite.wanted(now, 0) >= 8 * MIB);
        assert!(appetite.wanted(now + EPOCH, 0) >= 8 * MIB, "for a while");
        assert_eq!(appetite.wanted(now + EPOCH * 2, 0), LEAST_WINDOW_BYTES);
        assert_eq!(
            appetite.wanted(now + EPOCH * 2, 3 * MIB),
            4 * MIB + LEAST_WINDOW_BYTES
        );
        assert_eq!(appetite.wanted(now, u64::MAX), u64::from(TUNNEL_WINDOW_BYTES));
    }
}
