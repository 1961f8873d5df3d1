//! Questions at a steady rate, whatever the answers take.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use tokio::{task::JoinSet, time::interval};

/// Asks so often in a second for `settles` and then for `counted`, and gives all answers, each with whether it was asked for in the second time.
pub async fn ask_at<A, T>(
    per_second: f64,
    (settles, counted): (Duration, Duration),
    ask: impl Fn() -> A,
) -> Vec<(bool, T)>
where
    A: Future<Output = T> + Send + 'static,
    T: Send + 'static,
{
    let begun = Instant::now();
    let mut ticks = interval(Duration::from_secs_f64(1.0 / per_second));
    let mut asking = JoinSet::new();
    while begun.elapsed() < settles + counted {
        ticks.tick().await;
        let (counts, asked) = (begun.elapsed() > settles, ask());
        asking.spawn(async move { (counts, asked.await) });
    }
    asking.join_all().await
}
