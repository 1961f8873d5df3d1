//! Waits of clients around the restarts of other zones' gateways: what a load says of its long waits, set beside the times at
//! which gateways were started again.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Time after a restart in which a connection counts as one that may have met it.
const MET_WITHIN: Duration = Duration::from_secs(3);
/// Words before and after the time that a client waited, and before the moment at which it began.
const WAITED: &str = "waited ";
const BEGUN: &str = " ms, begun at ms ";

/// One client's wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait {
    pub begun: SystemTime,
    pub waited: Duration,
}

impl Wait {
    /// Makes a line of it, with times in milliseconds.
    #[must_use]
    pub fn line(&self) -> String {
        let begun = self.begun.duration_since(UNIX_EPOCH).unwrap_or_default();
        format!("{WAITED}{}{BEGUN}{}", self.waited.as_millis(), begun.as_millis())
    }

    /// Reads what [`Wait::line`] has made; `None` for any other line.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let (waited, begun) = line.trim().strip_prefix(WAITED)?.split_once(BEGUN)?;
        let begun = UNIX_EPOCH.checked_add(Duration::from_millis(begun.parse().ok()?))?;
        let waited = Duration::from_millis(waited.parse().ok()?);
        Some(Self { begun, waited })
    }
}

/// Finds the longest wait of a client that came within 3 s after one of the restarts; `None` if no wait that was told is
/// one of those.
#[must_use]
pub fn longest_after(restarts: &[SystemTime], waits: impl IntoIterator<Item = Wait>) -> Option<Duration> {
    let met = |wait: &Wait| {
        let since = |restart: &SystemTime| wait.begun.duration_since(*restart);
        restarts
            .iter()
            .any(|restart| since(restart).is_ok_and(|since| since <= MET_WITHIN))
    };
    waits.into_iter().filter(met).map(|wait| wait.waited).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(begun_ms: u64, waited_ms: u64) -> Wait {
        Wait {
            begun: UNIX_EPOCH + Duration::from_millis(begun_ms),
            waited: Duration::from_millis(waited_ms),
        }
    }

    #[test]
    fn a_wait_is_read_as_it_was_written() {
        let one = wait(1_764_400_000_123, 512);
        assert_eq!(Wait::parse(&one.line()), Some(one));
        assert_eq!(Wait::parse("  waited 5 ms"), None);
    }

    #[test]
    fn only_who_came_soon_after_a_restart_has_met_it() {
        let restart = UNIX_EPOCH + Duration::from_secs(100);
        let waits = [
            wait(99_900, 900),
            wait(100_100, 200),
            wait(102_900, 300),
            wait(103_100, 700),
        ];
        assert_eq!(longest_after(&[restart], waits), Some(Duration::from_millis(300)));
        assert_eq!(longest_after(&[], waits), None);
    }
}
