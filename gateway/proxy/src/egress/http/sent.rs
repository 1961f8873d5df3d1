//! Word of a request's body, for whoever judges the answer, that all of it has been handed over.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::dial::uptime;

/// Moment at which a request was handed over whole. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct SentWhole(
    /// Microseconds of uptime; 0: it was not yet.
    Arc<AtomicU64>,
);

impl SentWhole {
    /// Begins anew with the next request, which has a body unless it `is_empty`.
    pub(super) fn begin(&self, is_empty: bool) {
        self.0.store(0, Ordering::Relaxed);
        if is_empty {
            self.done();
        }
    }

    /// Takes up that nothing of it is left. Only the first time counts.
    pub(super) fn done(&self) {
        let now = u64::try_from(uptime().as_micros()).unwrap_or(u64::MAX).max(1);
        let _ = self
            .0
            .compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Time since then; `None`: something of it is still to be handed over.
    pub(super) fn ago(&self) -> Option<Duration> {
        let at = self.0.load(Ordering::Relaxed);
        (at > 0).then(|| uptime().saturating_sub(Duration::from_micros(at)))
    }
}
