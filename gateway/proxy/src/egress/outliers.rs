//! Ends of requests, told to those who choose: the memory of what fails, and the balancer's of this zone's instances.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use causeway_federation::name::{PortName, ServiceName};
use causeway_host::uptime::uptime;
use causeway_routing::{
    outlier::{CarriedEjection, EjectedPart, Ejection, OutlierTable, TriedPlace, healthy_at},
    permit::Caller,
    route::Candidate,
    snapshot::{Instance, Snapshot, Snapshots},
};
use parking_lot::Mutex;

use crate::{ProxyMetrics, http::verdict::TryVerdict};

/// Time after which what is to come back has done so.
const TICK: Duration = Duration::from_millis(250);

/// Try of which the end is known.
pub(super) struct EndedTry<'a> {
    pub(super) service: &'a ServiceName,
    /// Port of the service; `None`: the only one, which has no name.
    pub(super) port: Option<&'a PortName>,
    pub(super) candidate: &'a Candidate,
    /// The instance, if it is one of this zone.
    pub(super) instance: Option<&'a Instance>,
    /// Its number; 0: unknown.
    pub(super) number: u64,
    /// Address and name of whoever asked.
    pub(super) client: (IpAddr, &'a Arc<Caller>),
}

impl EndedTry<'_> {
    /// Number of the client. Two that have the same by chance count as one, which ejects less.
    fn client_number(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.client.0.hash(&mut hasher);
        self.client.1.to_string().hash(&mut hasher);
        hasher.finish()
    }
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
    /// Begins with what the process before has ejected, as far as its service still ejects anything.
    pub(super) fn carrying_on(ejected: &[CarriedEjection], snapshot: &Snapshot) -> Self {
        let outliers = Self::default();
        if ejected.is_empty() {
            return outliers;
        }
        let (mut table, now) = (outliers.table.lock(), uptime());
        let services = &snapshot.topology.services;
        let has_policy = |from: &&CarriedEjection| {
            services
                .get(&from.service)
                .is_some_and(|service| service.outlier.is_some())
        };
        table.carry_on(now, ejected.iter().filter(has_policy));
        outliers.is_used.store(!table.is_empty(), Ordering::Relaxed);
        snapshot.ejections.store(Arc::new(table.ejected(now)));
        drop(table);
        outliers
    }

    /// Everything that is ejected, or has come back and not gone well since, for another process to go on with.
    pub(super) fn carried(&self) -> Vec<CarriedEjection> {
        self.table.lock().carried(uptime())
    }

    /// Takes up the end of a try.
    pub(super) fn ended(
        &self,
        snapshot: &Snapshot,
        metrics: &ProxyMetrics,
        ended: &EndedTry<'_>,
        verdict: TryVerdict,
    ) {
        if verdict == TryVerdict::FailedLater {
            return;
        }
        let (service, now) = (ended.service, uptime());
        let known = snapshot.topology.services.get(service);
        // The balancer knows one thing of an instance, and goes by where it is registered.
        let port = known.and_then(|known| known.ports.get(ended.port));
        let is_registered =
            |instance: &&Instance| port.is_some_and(|port| port.at(instance.address) == instance.address);
        match (ended.instance.filter(is_registered), verdict) {
            (Some(instance), TryVerdict::Failed(_)) => instance.load.failed(now),
            (Some(instance), TryVerdict::Overloaded) => instance.load.overloaded(now),
            _ => {}
        }
        let Some(policy) = known.and_then(|service| service.outlier.as_ref()) else {
            return;
        };
        if verdict == TryVerdict::Overloaded
            || (verdict == TryVerdict::Well && !self.is_used.load(Ordering::Relaxed))
        {
            return;
        }
        let place = TriedPlace {
            service,
            port: ended.port,
            zone: ended.candidate.zone(&snapshot.zone),
            tags: &ended.candidate.tags,
            instance: ended.number,
            healthy: healthy_at(snapshot, service, ended.candidate),
            client: ended.client_number(),
        };
        let mut table = self.table.lock();
        let changed = match verdict {
            TryVerdict::Failed(failure) => table.failed(now, policy, failure, place),
            _ => table.succeeded(now, place),
        };
        self.is_used.store(!table.is_empty(), Ordering::Relaxed);
        if changed {
            publish(&mut table, now, snapshot, metrics);
        }
    }

    /// Lets back what was ejected for long enough. Runs until it is dropped.
    pub(super) async fn keep(&self, snapshots: &Snapshots, metrics: &ProxyMetrics) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if !self.is_used.load(Ordering::Relaxed) {
                continue;
            }
            let (mut table, now) = (self.table.lock(), uptime());
            if table.next().is_some_and(|at| at <= now) {
                publish(&mut table, now, &snapshots.load(), metrics);
            }
        }
    }
}

/// Has those who choose know what is ejected now, and tells of what is new. The table is locked, so that none overtakes another.
fn publish(table: &mut OutlierTable, now: Duration, snapshot: &Snapshot, metrics: &ProxyMetrics) {
    let after = Arc::new(table.ejected(now));
    let before = snapshot.ejections.swap(after.clone());
    for ejection in after.added_to(&before) {
        metrics.ejected(ejection.service.as_str(), &ejection.part);
        tell_ejected(snapshot, ejection);
    }
    for ejection in after.returned_from(&before) {
        tell_returned(snapshot, ejection);
    }
}

fn tell_ejected(snapshot: &Snapshot, ejection: &Ejection) {
    let Ejection {
        service,
        port,
        zone,
        part,
        failures,
        times,
        ..
    } = ejection;
    let port = port.as_ref().map(PortName::as_str);
    let until = humantime::format_duration(ejection.until.saturating_sub(ejection.since));
    match part {
        EjectedPart::Instance(_) => {
            let instance = ejection.instance_name(snapshot);
            tracing::warn!(%service, port, %zone, instance, for_time = %until, times, "an instance is ejected, and comes after the others of its zone: {failures}");
        }
        EjectedPart::Zone(tags) => {
            tracing::warn!(%service, port, %zone, %tags, for_time = %until, times, "a zone is ejected, and comes after all others: {failures} of its instances");
        }
    }
}

fn tell_returned(snapshot: &Snapshot, ejection: &Ejection) {
    let Ejection {
        service,
        port,
        zone,
        part,
        ..
    } = ejection;
    let port = port.as_ref().map(PortName::as_str);
    match part {
        EjectedPart::Instance(_) => {
            let instance = ejection.instance_name(snapshot);
            tracing::info!(%service, port, %zone, instance, "an instance that was ejected is asked like the others again");
        }
        EjectedPart::Zone(tags) => {
            tracing::info!(%service, port, %zone, %tags, "a zone that was ejected is asked like the others again");
        }
    }
}
