//! Carries what zone sync says of itself to the metrics and the admin API.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use causeway_zone_sync::service::{Side as SyncSide, SyncEvent, SyncStatus, ZoneSync};
use tokio::{sync::mpsc, time::interval};

use crate::telemetry::{Metrics, Side, SyncReading};

/// How old the view may be.
const REFRESH: Duration = Duration::from_millis(500);

/// The latest status of zone sync; clones show the same.
#[derive(Debug, Clone, Default)]
pub struct SyncView(Arc<ArcSwapOption<SyncStatus>>);

impl SyncView {
    /// `None` until zone sync was asked for the first time.
    pub fn status(&self) -> Option<Arc<SyncStatus>> {
        self.0.load_full()
    }

    /// What the metrics and the admin API read.
    pub fn readings(&self) -> Arc<dyn Fn() -> Vec<SyncReading> + Send + Sync> {
        let view = self.clone();
        Arc::new(move || view.status().map(|status| readings(&status)).unwrap_or_default())
    }
}

fn readings(status: &SyncStatus) -> Vec<SyncReading> {
    let reading = |peer: &causeway_zone_sync::service::PeerStatus| SyncReading {
        origin: peer.peer.clone(),
        heard_ago: peer.heard_ago,
        session: peer.connected_for.is_some(),
    };
    status.peers.iter().map(reading).collect()
}

/// Keeps `view` current and counts what happens, until zone sync ends. Dropping the future stops it.
pub async fn watch(
    zone_sync: ZoneSync,
    mut events: mpsc::Receiver<SyncEvent>,
    view: SyncView,
    metrics: Arc<Metrics>,
) {
    let mut refresh = interval(REFRESH);
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Some(event) => count(&metrics, event),
                None => return,
            },
            _ = refresh.tick() => match zone_sync.status().await {
                Some(status) => view.0.store(Some(Arc::new(status))),
                None => return,
            },
        }
    }
}

fn count(metrics: &Metrics, event: SyncEvent) {
    match event {
        SyncEvent::Refused { side, reason, .. } => {
            let side = match side {
                SyncSide::Local => Side::Local,
                SyncSide::Peer => Side::Peer,
            };
            metrics.sync_refused(side, reason);
        }
        SyncEvent::Diverged { .. } => metrics.sync_repaired(),
        SyncEvent::PassedOver { .. } => metrics.sync_passed_over(),
        SyncEvent::SessionEnded {
            bytes_sent,
            bytes_received,
            ..
        } => {
            metrics.sync_bytes("sent", bytes_sent);
            metrics.sync_bytes("received", bytes_received);
        }
    }
}
