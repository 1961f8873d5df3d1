//! This zone's instances.

use std::{net::SocketAddr, sync::atomic::Ordering};

use causeway_zone_sync::name::Tags;
use serde::{Deserialize, Serialize};

use crate::snapshot::{Health, Instance, Snapshot};

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
    /// Connections under way.
    pub outstanding: u32,
    /// Moving average of the time to connect; absent until measured.
    pub latency_ms: Option<f64>,
}

#[must_use]
pub fn instances(snapshot: &Snapshot) -> Vec<InstanceView> {
    snapshot
        .instances
        .values()
        .flatten()
        .map(|instance| view(instance))
        .collect()
}

fn view(instance: &Instance) -> InstanceView {
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
        outstanding: instance.load.outstanding.load(Ordering::Relaxed),
        latency_ms: (micros > 0).then(|| micros as f64 / 1000.0),
    }
}
