//! Carries what zone sync says of itself to the metrics and the admin API.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use causeway_api::admin::{LatestRefusal, OwnReading, SyncReading, SyncReadings};
use causeway_federation::name::GatewayId;
use causeway_telemetry::Side;
use causeway_zone_sync::service::{PeerStatus, RefusingSide as SyncSide, SyncEvent, SyncStatus, ZoneSync};
use tokio::{sync::mpsc, time::interval};

use super::sync_metrics::SyncMetrics;

/// Greatest age of the view.
const REFRESH: Duration = Duration::from_millis(500);

/// Peers whose refusals are remembered: as many as zone sync has sessions.
const MAX_REFUSED: usize = 1_024;

/// The latest status of zone sync; clones show the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct SyncView(Arc<ArcSwapOption<Seen>>);

/// A status, and what happened up to then.
#[derive(Debug)]
struct Seen {
    status: Arc<SyncStatus>,
    refusals: BTreeMap<GatewayId, Refusals>,
}

/// The refusals between this gateway and another.
#[derive(Debug, Clone)]
struct Refusals {
    counts: BTreeMap<(Side, &'static str), u64>,
    latest: (Side, &'static str),
    at: Instant,
}

impl SyncView {
    /// `None` until zone sync was asked for the first time.
    pub(crate) fn status(&self) -> Option<Arc<SyncStatus>> {
        self.0.load().as_ref().map(|seen| seen.status.clone())
    }

    /// Makes the reader of what the metrics and the admin API show.
    pub(crate) fn readings(&self) -> Arc<dyn Fn() -> SyncReadings + Send + Sync> {
        let view = self.clone();
        Arc::new(move || {
            let seen = view.0.load();
            let read = seen.as_ref().map(|seen| readings(seen, Instant::now()));
            read.unwrap_or_default()
        })
    }
}

fn readings(seen: &Seen, now: Instant) -> SyncReadings {
    let status = &seen.status;
    let reading = |peer: &PeerStatus| {
        let refusals = seen.refusals.get(&peer.peer);
        SyncReading {
            origin: peer.peer.clone(),
            heard_ago: peer.heard_ago,
            session: peer.connected_for.is_some(),
            protocol: peer.protocol,
            lag_versions: peer.lag,
            behind_versions: peer.behind,
            sent_bytes: peer.totals.bytes_sent,
            received_bytes: peer.totals.bytes_received,
            refusals: refusals
                .map(|refusals| refusals.counts.clone())
                .unwrap_or_default(),
            refused: refusals.map(|refusals| LatestRefusal {
                side: refusals.latest.0,
                reason: refusals.latest.1,
                ago: now.saturating_duration_since(refusals.at),
            }),
        }
    };
    SyncReadings {
        own: Some(OwnReading {
            origin: status.origin.clone(),
            stamp: status.own,
            draining: status.draining,
        }),
        peers: status.peers.iter().map(reading).collect(),
    }
}

/// Bytes of each peer that the metrics were told of.
#[derive(Debug, Default)]
struct CountedBytes(BTreeMap<GatewayId, (u64, u64)>);

impl CountedBytes {
    /// Counts what has come on top since the last call. A total that went back is that of a peer that was forgotten and is
    /// known anew.
    fn tell(&mut self, metrics: &SyncMetrics, status: &SyncStatus) {
        let mut told = BTreeMap::new();
        for peer in &status.peers {
            let total = (peer.totals.bytes_sent, peer.totals.bytes_received);
            let before = self.0.get(&peer.peer).copied().unwrap_or_default();
            let added = |total: u64, before: u64| total.checked_sub(before).unwrap_or(total);
            metrics.sync_bytes(&peer.peer, "sent", added(total.0, before.0));
            metrics.sync_bytes(&peer.peer, "received", added(total.1, before.1));
            told.insert(peer.peer.clone(), total);
        }
        self.0 = told;
    }
}

/// Keeps `view` current and counts what happens, until zone sync ends. Dropping the future stops it.
pub(crate) async fn watch(
    zone_sync: ZoneSync,
    mut events: mpsc::Receiver<SyncEvent>,
    view: SyncView,
    metrics: Arc<SyncMetrics>,
) {
    let mut refresh = interval(REFRESH);
    let mut refusals = BTreeMap::new();
    let mut told = CountedBytes::default();
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Some(event) => count(&metrics, &mut refusals, event),
                None => return,
            },
            _ = refresh.tick() => match zone_sync.status().await {
                Some(status) => {
                    told.tell(&metrics, &status);
                    let (status, refusals) = (Arc::new(status), refusals.clone());
                    view.0.store(Some(Arc::new(Seen { status, refusals })));
                }
                None => return,
            },
        }
    }
}

fn count(metrics: &SyncMetrics, refusals: &mut BTreeMap<GatewayId, Refusals>, event: SyncEvent) {
    match event {
        SyncEvent::Refused { peer, side, reason } => {
            let side = match side {
                SyncSide::Local => Side::Local,
                SyncSide::Peer => Side::Peer,
            };
            metrics.sync_refused(&peer, side, reason);
            remember(refusals, peer, side, reason);
        }
        SyncEvent::Diverged { .. } => metrics.sync_repaired(),
        SyncEvent::PassedOver { .. } => metrics.sync_passed_over(),
        // The bytes were counted as they flowed.
        SyncEvent::SessionEnded { .. } => {}
    }
}

fn remember(refusals: &mut BTreeMap<GatewayId, Refusals>, peer: GatewayId, side: Side, reason: &'static str) {
    let now = Instant::now();
    if refusals.len() >= MAX_REFUSED && !refusals.contains_key(&peer) {
        let oldest = refusals.iter().min_by_key(|(_, refusals)| refusals.at);
        let oldest = oldest.map(|(peer, _)| peer.clone());
        oldest.map(|peer| refusals.remove(&peer));
    }
    let entry = refusals.entry(peer).or_insert_with(|| Refusals {
        counts: BTreeMap::new(),
        latest: (side, reason),
        at: now,
    });
    *entry.counts.entry((side, reason)).or_default() += 1;
    (entry.latest, entry.at) = ((side, reason), now);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use causeway_zone_sync::{
        replica::Stamp,
        service::{Disk, PeerTotals},
    };

    use super::*;

    fn west() -> GatewayId {
        GatewayId::new("west".parse().unwrap(), "gw1".parse().unwrap())
    }

    fn stamp(incarnation: u64, version: u64) -> Stamp {
        Stamp { incarnation, version }
    }

    fn status(sent: u64) -> SyncStatus {
        SyncStatus {
            origin: GatewayId::new("east".parse().unwrap(), "gw1".parse().unwrap()),
            own: stamp(2, 9),
            exports: 0,
            draining: false,
            disk: Disk::Absent,
            peers: vec![PeerStatus {
                peer: west(),
                connected_for: Some(Duration::from_secs(1)),
                heard_ago: None,
                protocol: Some(2),
                via: None,
                relays: BTreeSet::new(),
                lag: Some(2),
                behind: Some(0),
                acknowledged: Some(stamp(2, 7)),
                held: None,
                age: None,
                exports: 0,
                totals: PeerTotals {
                    bytes_sent: sent,
                    ..PeerTotals::default()
                },
            }],
        }
    }

    #[test]
    fn bytes_are_counted_once_and_a_peer_that_comes_anew_counts_from_nothing() {
        let metrics = SyncMetrics::default();
        let mut told = CountedBytes::default();
        for sent in [100, 150, 150, 30] {
            told.tell(&metrics, &status(sent));
        }
        assert_eq!(metrics.sync_bytes_with(&west(), "sent"), 180);
    }

    #[test]
    fn refusals_are_shown_by_side_and_reason_with_the_time_of_the_latest() {
        let (metrics, mut refusals) = (SyncMetrics::default(), BTreeMap::new());
        for (side, reason) in [
            (SyncSide::Local, "too_fast"),
            (SyncSide::Local, "too_fast"),
            (SyncSide::Peer, "too_large"),
        ] {
            let peer = west();
            count(&metrics, &mut refusals, SyncEvent::Refused { peer, side, reason });
        }
        let seen = Seen {
            status: Arc::new(status(0)),
            refusals,
        };
        let read = readings(&seen, Instant::now() + Duration::from_secs(5));
        let west = read.of(&west()).unwrap();
        let counts = [((Side::Local, "too_fast"), 2), ((Side::Peer, "too_large"), 1)];
        assert_eq!(west.refusals, BTreeMap::from(counts));
        let latest = west.refused.unwrap();
        assert_eq!((latest.side, latest.reason), (Side::Peer, "too_large"));
        assert!(latest.ago >= Duration::from_secs(5));
        assert_eq!(west.lag_versions, Some(2));
    }
}
