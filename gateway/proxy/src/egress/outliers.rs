//! Ends of requests, told to those who choose: the memory of what fails, and the balancer's of this zone's instances.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use causeway_federation::name::ServiceName;
use causeway_routing::{
    outlier::{OutlierTable, TriedPlace, healthy_at},
    route::Candidate,
    snapshot::{Instance, Snapshot, Snapshots},
};
use parking_lot::Mutex;

use crate::{ProxyMetrics, dial::uptime, http::verdict::TryVerdict};

/// Time after which what is to come back has done so.
const TICK: Duration = Duration::from_millis(250);

/// Try of which the end is known.
pub(super) struct EndedTry<'a> {
    pub(super) service: &'a ServiceName,
    pub(super) candidate: &'a Candidate,
    /// The instance, if it is one of this zone.
    pub(super) instance: Option<&'a Instance>,
    /// Its number; 0: unknown.
    pub(super) number: u64,
}

/// Memory of what has failed, of one gateway.
#[derive(Debug, Default)]
pub(super) struct Outliers {
    /// Locked for one entry, and only where something has failed.
    table: Mutex<OutlierTable>,
    /// Is set while the table has entries.
    is_used: AtomicBool,
}

impl Outliers {
    /// Takes up the end of a try.
    pub(super) fn ended(
        &self,
        snapshot: &Snapshot,
        metrics: &ProxyMetrics,
        ended: &EndedTry<'_>,
        verdict: TryVerdict,
    ) {
        let (service, now) = (ended.service, uptime());
        match (ended.instance, verdict) {
            (Some(instance), TryVerdict::Failed) => instance.load.failed(now),
            (Some(instance), TryVerdict::Overloaded) => instance.load.overloaded(now),
            _ => {}
        }
        let policy = snapshot.topology.services.get(service);
        let Some(policy) = policy.and_then(|service| service.outlier.as_ref()) else {
            return;
        };
        if verdict == TryVerdict::Overloaded
            || (verdict == TryVerdict::Well && !self.is_used.load(Ordering::Relaxed))
        {
            return;
        }
        let place = TriedPlace {
            service,
            zone: ended.candidate.zone(&snapshot.zone),
            tags: &ended.candidate.tags,
            instance: ended.number,
            healthy: healthy_at(snapshot, service, ended.candidate),
        };
        let mut table = self.table.lock();
        let changed = match verdict {
            TryVerdict::Failed => table.failed(now, policy, place),
            _ => table.succeeded(now, place),
        };
        self.is_used.store(!table.is_empty(), Ordering::Relaxed);
        if !changed {
            return;
        }
        snapshot.ejections.store(Arc::new(table.ejected(now)));
        if verdict == TryVerdict::Failed {
            metrics.ejected(service.as_str());
            let (zone, tags) = (place.zone, place.tags);
            let instance = ended.instance.map(|instance| instance.id.as_str());
            tracing::info!(%service, %zone, %tags, instance, "failures in a row: what failed comes after the others for a while");
        }
    }

    /// Lets back what was ejected for long enough. Runs until it is dropped.
    pub(super) async fn keep(&self, snapshots: &Snapshots) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if !self.is_used.load(Ordering::Relaxed) {
                continue;
            }
            let (mut table, now) = (self.table.lock(), uptime());
            if table.next().is_some_and(|at| at <= now) {
                snapshots.load().ejections.store(Arc::new(table.ejected(now)));
            }
        }
    }
}
