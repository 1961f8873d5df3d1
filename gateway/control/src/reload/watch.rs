//! The task that notices changes of the file.
//!
//! It watches the folder, not the file: editors replace files by renaming, and Kubernetes swaps a link beside them. An
//! event only says "look again"; what counts is the content. A slow look of its own covers what the system does not
//! tell, such as network file systems and a folder that was itself replaced.

use std::{path::Path, sync::Arc, time::Duration};

use causeway_host::watch::watch_folder;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::Notify,
    time::MissedTickBehavior,
};
use tokio_util::sync::CancellationToken;

use super::{ReloadOutcome, TopologyFile, Trigger};
use crate::ControlMetrics;

/// Interval at which the file is read without being told to.
const LOOK_EVERY: Duration = Duration::from_secs(10);

impl TopologyFile {
    /// Takes up changes of the file, and reads it again on SIGHUP, until `stop`.
    pub async fn watch(self: Arc<Self>, metrics: Arc<ControlMetrics>, stop: CancellationToken) {
        let changed = Arc::new(Notify::new());
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let watcher = watch_folder(folder.unwrap_or(Path::new(".")), changed.clone());
        if let Err(error) = &watcher {
            tracing::warn!(file = %self.path.display(), %error,
                "cannot watch the topology's folder; changes are noticed within {LOOK_EVERY:?}");
        }
        let mut hangups = signal(SignalKind::hangup()).ok();
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let trigger = tokio::select! {
                () = stop.cancelled() => return,
                () = changed.notified() => Trigger::Change,
                _ = look.tick() => Trigger::Change,
                Some(()) = next(&mut hangups) => Trigger::Request,
            };
            let file = self.clone();
            // Reading and checking a large file takes longer than a runtime thread should be held.
            match tokio::task::spawn_blocking(move || file.reload(trigger)).await {
                Ok(ReloadOutcome::Unchanged) => {}
                Ok(ReloadOutcome::Taken(_)) => metrics.topology_reloaded(true),
                Ok(ReloadOutcome::Refused) => metrics.topology_reloaded(false),
                Err(error) => tracing::error!(%error, "reading the topology again has failed"),
            }
        }
    }
}

/// The next SIGHUP; never, where signals cannot be had.
async fn next(hangups: &mut Option<tokio::signal::unix::Signal>) -> Option<()> {
    match hangups {
        Some(hangups) => hangups.recv().await,
        None => std::future::pending().await,
    }
}
