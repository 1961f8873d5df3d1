//! Watching a folder for changes.

use std::{path::Path, sync::Arc, time::Duration};

use notify_debouncer_full::{
    DebounceEventResult, Debouncer, RecommendedCache, new_debouncer,
    notify::{self, EventKind, RecommendedWatcher, RecursiveMode},
};
use tokio::sync::Notify;

/// Time for which the folder has to be quiet: an editor's save is several events.
const QUIET: Duration = Duration::from_millis(200);

/// Rings `changed` when something in the folder is not what it was, for as long as what it returns lives.
pub fn watch_folder(
    folder: &Path,
    changed: Arc<Notify>,
) -> notify::Result<Debouncer<RecommendedWatcher, RecommendedCache>> {
    let mut debouncer = new_debouncer(QUIET, None, move |events: DebounceEventResult| {
        let Ok(events) = events else { return };
        // Reading the file is an event of its own, which must not lead to the next reading.
        if events
            .iter()
            .any(|event| !matches!(event.kind, EventKind::Access(_)))
        {
            changed.notify_one();
        }
    })?;
    debouncer.watch(folder, RecursiveMode::NonRecursive)?;
    Ok(debouncer)
}
