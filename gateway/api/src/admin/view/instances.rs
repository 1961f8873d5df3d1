//! This zone's instances.

use std::{net::SocketAddr, sync::atomic::Ordering};

use causeway_federation::name::Tags;
use causeway_instances::{CheckFailure, InstanceStatus};
use causeway_routing::snapshot::Health;
use serde::{Deserialize, Serialize};

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
    /// Moving average of the time to connect; absent until measured.
    pub latency_ms: Option<f64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FailureView {
    pub reason: String,
    pub seconds_ago: f64,
}

/// Shows them one after another.
pub fn instances(statuses: &[InstanceStatus], mut show: impl FnMut(&InstanceView)) {
    for status in statuses {
        show(&view(status));
    }
}

fn view(status: &InstanceStatus) -> InstanceView {
    let instance = &status.instance;
    let micros = instance.load.latency_micros.load(Ordering::Relaxed);
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
        latency_ms: (micros > 0).then(|| micros as f64 / 1000.0),
    }
}

fn failure(failure: &CheckFailure) -> FailureView {
    FailureView {
        reason: failure.reason.clone(),
        seconds_ago: failure.ago.as_secs_f64(),
    }
}
