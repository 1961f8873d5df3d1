//! The task that keeps the table current: with every snapshot, hourly, and when former addresses end.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use causeway_routing::snapshot::Snapshots;
use tokio::sync::watch;

use super::table::{TOUCH_SECONDS, VipTable};

/// Shortest wait for the end of former addresses: a refresh may fail before it has got to them.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);

/// Keeps `table` current with every snapshot. A full range is logged when it comes up, not at every snapshot.
pub async fn follow(table: Arc<VipTable>, snapshots: Snapshots, mut generations: watch::Receiver<u64>) {
    let mut reported = String::new();
    let mut hourly = tokio::time::interval(Duration::from_secs(TOUCH_SECONDS));
    loop {
        generations.borrow_and_update();
        let (refreshed, snapshot) = (table.clone(), snapshots.load_full());
        let refresh = tokio::task::spawn_blocking(move || refreshed.refresh(&snapshot, SystemTime::now()));
        match refresh.await {
            Ok(Ok(())) => reported.clear(),
            Ok(Err(error)) if error.to_string() != reported => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "virtual addresses are not complete"
                );
                reported = error.to_string();
            }
            // Reported before, or the runtime is ending.
            Ok(Err(_)) | Err(_) => {}
        }
        let ends = table.former_end();
        tokio::select! {
            changed = generations.changed() => if changed.is_err() { return },
            _ = hourly.tick() => {}
            () = until(ends) => {}
        }
    }
}

/// Waits until a time by the clock, and a while if that is over; for ever where there is none.
async fn until(time: Option<SystemTime>) {
    match time {
        Some(time) => {
            let left = time.duration_since(SystemTime::now()).unwrap_or_default();
            tokio::time::sleep(left.max(SHORTEST_WAIT)).await;
        }
        None => std::future::pending().await,
    }
}
