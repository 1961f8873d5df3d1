//! Moments: waiting for one that may never come, and those that can be written as RFC 3339.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::{Instant, sleep_until};

/// The last second of the year 9999 since 1970, the last that RFC 3339 can write.
pub const LAST_MOMENT: Duration = Duration::from_secs(253_402_300_799);

/// The moment that can be written and is nearest to this one.
#[must_use]
pub fn nearest_written(at: SystemTime) -> SystemTime {
    at.clamp(UNIX_EPOCH, UNIX_EPOCH + LAST_MOMENT)
}

/// The moment after a time, if it can be written.
#[must_use]
pub fn written_after(now: SystemTime, time: Duration) -> Option<SystemTime> {
    // Its fraction of a second is not.
    let end = UNIX_EPOCH + LAST_MOMENT + Duration::from_secs(1);
    now.checked_add(time).filter(|at| *at < end)
}

/// Waits until `moment`; for ever where there is none.
pub async fn until(moment: Option<impl Into<Instant>>) {
    match moment {
        Some(moment) => sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    #[test]
    fn moments_beyond_the_year_9999_cannot_be_written() {
        let last = UNIX_EPOCH + LAST_MOMENT;
        assert_eq!(nearest_written(last + Duration::from_secs(7)), last);
        assert_eq!(nearest_written(UNIX_EPOCH - Duration::from_secs(1)), UNIX_EPOCH);
        assert_eq!(written_after(UNIX_EPOCH, LAST_MOMENT), Some(last));
        assert_eq!(written_after(last, Duration::from_secs(1)), None);
        assert_eq!(written_after(last, Duration::MAX), None);
    }

    #[tokio::test]
    async fn a_moment_is_waited_for_and_none_for_ever() {
        let moment = Instant::now() + Duration::from_millis(20);
        until(Some(moment)).await;
        assert!(Instant::now() >= moment);
        let never = timeout(Duration::from_millis(20), until(None::<Instant>));
        assert!(never.await.is_err());
    }
}
