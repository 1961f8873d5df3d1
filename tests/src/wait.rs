//! Waiting for a condition, never for time: every wait has a deadline and says what it waited for when it fails.

use std::time::{Duration, Instant};

/// Interval at which a condition is looked at. Short, so that what a test measures is the system and not this pause.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Asks `condition` until it has a value.
///
/// # Panics
/// When `deadline` has passed, naming `what`.
pub async fn until<T>(what: &str, deadline: Duration, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(
            started.elapsed() < deadline,
            "waited {deadline:?} in vain until {what}"
        );
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Asks `condition` until it holds.
///
/// # Panics
/// When `deadline` has passed, naming `what`.
pub async fn until_true(what: &str, deadline: Duration, mut condition: impl AsyncFnMut() -> bool) {
    until(what, deadline, async || condition().await.then_some(())).await;
}
