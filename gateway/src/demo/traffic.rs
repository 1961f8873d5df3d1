//! Requests that go on at a steady rate while something happens to the federation.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;

use super::client::{DemoClient, DemoOutcome};

/// Requests under way at once; a machine that cannot keep up skips some beyond that.
const MAX_UNDER_WAY: usize = 400;

/// Outcomes of the requests so far.
#[derive(Debug, Default)]
struct Seen {
    outcomes: Mutex<Vec<DemoOutcome>>,
    count: watch::Sender<usize>,
}

/// Requests that are being made.
#[derive(Debug)]
pub(super) struct Traffic {
    seen: Arc<Seen>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Traffic {
    pub(super) fn start(client: DemoClient, every: Duration) -> Self {
        let (seen, stop) = (Arc::<Seen>::default(), CancellationToken::new());
        let task = tokio::spawn(generate(client, every, seen.clone(), stop.clone()));
        Self { seen, stop, task }
    }

    /// Waits until `condition` holds for the requests that have ended and were not taken, in the order in which they ended. Gives how long
    /// it took, or `None` after `patience`.
    pub(super) async fn until(
        &self,
        patience: Duration,
        mut condition: impl FnMut(&[DemoOutcome]) -> bool,
    ) -> Option<Duration> {
        let begun = Instant::now();
        let mut count = self.seen.count.subscribe();
        let holds = count.wait_for(|_| condition(&self.seen.outcomes.lock()));
        timeout(patience, holds).await.ok()?.ok()?;
        Some(begun.elapsed())
    }

    /// Makes no further request, waits for those under way, and gives what [`Traffic::take`] did not.
    pub(super) async fn stop(self) -> Vec<DemoOutcome> {
        self.stop.cancel();
        // A panic in it was reported where it happened, and its requests are missing from the count.
        let _ = self.task.await;
        take(&self.seen)
    }

    /// The requests that have ended since the last time, in the order in which they began.
    pub(super) fn take(&self) -> Vec<DemoOutcome> {
        take(&self.seen)
    }
}

fn take(seen: &Seen) -> Vec<DemoOutcome> {
    let mut outcomes = std::mem::take(&mut *seen.outcomes.lock());
    outcomes.sort_by_key(|outcome| outcome.started);
    outcomes
}

async fn generate(client: DemoClient, every: Duration, seen: Arc<Seen>, stop: CancellationToken) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut under_way = JoinSet::new();
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        while under_way.try_join_next().is_some() {}
        if under_way.len() >= MAX_UNDER_WAY {
            continue;
        }
        let (client, seen) = (client.clone(), seen.clone());
        under_way.spawn(async move {
            let outcome = client.request().await;
            seen.outcomes.lock().push(outcome);
            seen.count.send_modify(|count| *count += 1);
        });
    }
    under_way.join_all().await;
}
