//! Word to clients of HTTP that they are to come back on a new connection.

use std::{sync::OnceLock, time::Duration};

use tokio_util::sync::CancellationToken;

/// The word, and how long the next request of each client is waited for, with whose answer it is said.
#[derive(Debug, Default)]
pub(super) struct Draining {
    begun: CancellationToken,
    within: OnceLock<Duration>,
}

impl Draining {
    /// Gives the word. One that was given stands.
    pub(super) fn begin(&self, within: Duration) {
        let _ = self.within.set(within);
        self.begun.cancel();
    }

    pub(super) fn has_begun(&self) -> bool {
        self.begun.is_cancelled()
    }

    /// Waits for the word.
    pub(super) async fn begun(&self) -> Duration {
        self.begun.cancelled().await;
        self.within.get().copied().unwrap_or_default()
    }
}
