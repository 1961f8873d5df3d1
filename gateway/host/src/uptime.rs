//! The clock of pure decisions that remember: the time since this process first asked for it.

use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

/// The time since this process first asked, as the balancer and the memory of failures take it.
#[must_use]
pub fn uptime() -> Duration {
    static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);
    BEGUN.elapsed()
}
