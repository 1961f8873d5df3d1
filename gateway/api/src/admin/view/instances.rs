//! This zone's instances.

use std::{collections::BTreeMap, net::SocketAddr, sync::atomic::Ordering, time::Duration};

use causeway_federation::name::{ServiceName, Tags};
use causeway_instances::{CheckFailure, InstanceStatus};
use causeway_routing::{
    outlier::{EjectedPart, number_text},
    snapshot::{Health, Snapshot},
};
use serde::{Deserialize, Serialize};

use super::{DrainView, EjectionView, ejections::ejection_view, milliseconds, moment};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstanceView {
    pub service: String,
    pub id: String,
    pub address: SocketAddr,
    pub tags: Tags,
    pub weight: u32,
    pub capacity_per_second: Option<u64>,
    /// `unknown` (not checked yet), `healthy` or `unhealthy`.
    pub health: String,
    /// Tells whether its health comes from checks; otherwise it counts as healthy for as long as it is registered.
    pub checked: bool,
    /// Time for which its health has been what it is; absent when unchecked.
    pub unchanged_seconds: Option<f64>,
    /// The latest check that did not pass.
    pub last_failure: Option<FailureView>,
    /// `topology`, `folder`, `registered`, `dns`, or the name of the program that handed it over.
    pub source: String,
    /// Tells whether the topology declares its service; if not, it gets no traffic.
    pub declared: bool,
    /// Until its lease ends; absent: it has none.
    pub expires_in_seconds: Option<f64>,
    /// Connections under way.
    pub outstanding: u32,
    /// Time to connect as the balancer believes it now: an average that fades; absent until measured.
    pub latency_ms: Option<f64>,
    /// Number by which gateways of other zones know it.
    #[serde(default)]
    pub number: String,
    /// Set while nothing new is to go to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<DrainView>,
    /// Set while this gateway has it come after the others. What others eject is not known here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ejected: Option<EjectionView>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FailureView {
    pub reason: String,
    pub seconds_ago: f64,
}

/// Shows them one after another.
pub fn instances(
    snapshot: &Snapshot,
    statuses: &[InstanceStatus],
    now: Duration,
    mut show: impl FnMut(&InstanceView),
) {
    let ejected = ejected_here(snapshot, now);
    for status in statuses {
        let key = (status.instance.service.clone(), status.instance.number());
        show(&view(status, ejected.get(&key).cloned(), now));
    }
}

/// Instances of this zone that are ejected, by their numbers.
fn ejected_here(snapshot: &Snapshot, now: Duration) -> BTreeMap<(ServiceName, u64), EjectionView> {
    let ejected = snapshot.ejections.load();
    let here = ejected
        .list()
        .iter()
        .filter(|ejection| ejection.zone == snapshot.zone && ejection.until > now);
    let numbered = here.filter_map(|ejection| match ejection.part {
        EjectedPart::Instance(number) => Some(((ejection.service.clone(), number), ejection)),
        EjectedPart::Zone(_) => None,
    });
    numbered
        .map(|(key, ejection)| (key, ejection_view(snapshot, ejection, now)))
        .collect()
}

fn view(status: &InstanceStatus, ejected: Option<EjectionView>, now: Duration) -> InstanceView {
    let instance = &status.instance;
    let latency = instance.load.latency_now(now);
    InstanceView {
        service: instance.service.to_string(),
        id: instance.id.clone(),
        address: instance.address,
        tags: instance.tags.clone(),
        weight: instance.weight,
        capacity_per_second: instance.capacity_per_second,
        health: match instance.health {
            Health::Unknown => "unknown",
            Health::Healthy => "healthy",
            Health::Unhealthy => "unhealthy",
        }
        .to_owned(),
        checked: status.checked,
        unchanged_seconds: status.unchanged_for.map(|time| time.as_secs_f64()),
        last_failure: status.last_failure.as_ref().map(failure),
        source: status.source.to_string(),
        declared: status.declared,
        expires_in_seconds: status.expires_in.map(|time| time.as_secs_f64()),
        outstanding: instance.load.outstanding.load(Ordering::Relaxed),
        latency_ms: latency.map(milliseconds),
        number: number_text(instance.number()),
        drain: instance.drain.as_ref().map(|drain| DrainView {
            by: drain.by.map(moment),
        }),
        ejected,
    }
}

fn failure(failure: &CheckFailure) -> FailureView {
    FailureView {
        reason: failure.reason.clone(),
        seconds_ago: failure.ago.as_secs_f64(),
    }
}
