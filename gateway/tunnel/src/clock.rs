//! The clocks of two gateways beside each other, as hellos tell them: what one signs the other judges by its own.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970; 0 before, which means that nothing is told.
pub(super) fn milliseconds(now: SystemTime) -> u64 {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Seconds that a peer's clock is ahead of `now`, less than 0 if it is behind; `None`: it told none. What came was a while on its way, so
/// this is right to a round trip.
#[allow(
    clippy::cast_precision_loss,
    reason = "a clock is not told that far to the millisecond"
)]
pub(super) fn seconds_ahead(told_milliseconds: u64, now: SystemTime) -> Option<f64> {
    if told_milliseconds == 0 {
        return None;
    }
    let now = Duration::from_millis(milliseconds(now)).as_secs_f64();
    Some(told_milliseconds as f64 / 1000.0 - now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_ahead_or_behind_or_not_told() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        assert_eq!(milliseconds(now), 1_000_000_000);
        assert_eq!(seconds_ahead(1_000_000_000, now), Some(0.0));
        assert_eq!(seconds_ahead(1_007_200_500, now), Some(7200.5));
        assert_eq!(seconds_ahead(999_999_000, now), Some(-1.0));
        assert_eq!(seconds_ahead(0, now), None);
        assert!(seconds_ahead(u64::MAX, now).is_some_and(f64::is_finite));
        assert_eq!(milliseconds(UNIX_EPOCH - Duration::from_secs(1)), 0);
    }
}
