//! What zones tell each other: the exports of every zone as known here, and the records that they came in.

use std::time::Duration;

use causeway_zone_sync::{
    catalog::{self, Entry, Export, InstanceState},
    name::Tags,
};
use serde::{Deserialize, Serialize};

use super::{age_word, link_word};
use crate::{
    snapshot::{Health, Snapshot},
    telemetry::SyncReading,
};

/// The instances of one service with one distinct set of tags, as one gateway tells of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportView {
    pub service: String,
    pub zone: String,
    /// Who told it; absent for the zone that answers.
    pub gateway: Option<String>,
    pub tags: Tags,
    pub instances: u32,
    pub healthy: u32,
    /// Sum of the weights of the healthy instances.
    pub weight: u64,
    pub capacity_per_second: Option<u64>,
    /// `own`, `fresh`, `suspect` or `withdrawn`.
    pub age: String,
    /// `own`, `up`, `stalled`, `draining` or `down`.
    pub link: String,
}

/// One gateway's record in the catalog.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RecordView {
    /// `zone/gateway`.
    pub origin: String,
    pub incarnation: u64,
    pub version: u64,
    pub age: String,
    pub heard_seconds_ago: Option<f64>,
    pub draining: bool,
    pub topology: String,
    pub exports: Vec<ExportView>,
}

/// All exports by service, the own zone's among them.
#[must_use]
pub fn exports(snapshot: &Snapshot) -> Vec<ExportView> {
    let mut views = own(snapshot);
    for entry in snapshot.catalog.entries() {
        views.extend(
            entry
                .record
                .exports
                .iter()
                .map(|export| remote(snapshot, entry, export)),
        );
    }
    views.sort_by(|a, b| {
        (&a.service, &a.zone, &a.gateway, &a.tags).cmp(&(&b.service, &b.zone, &b.gateway, &b.tags))
    });
    views
}

#[must_use]
pub fn records(snapshot: &Snapshot, sync: &[SyncReading]) -> Vec<RecordView> {
    let view = |entry: &Entry| {
        let record = &entry.record;
        let heard = sync.iter().find(|reading| reading.origin == record.origin);
        RecordView {
            origin: record.origin.to_string(),
            incarnation: record.incarnation,
            version: record.version,
            age: age_word(entry.age).to_owned(),
            heard_seconds_ago: heard
                .and_then(|r| r.heard_ago)
                .as_ref()
                .map(Duration::as_secs_f64),
            draining: record.draining,
            topology: record.topology.to_string(),
            exports: record
                .exports
                .iter()
                .map(|export| remote(snapshot, entry, export))
                .collect(),
        }
    };
    snapshot.catalog.entries().map(view).collect()
}

fn remote(snapshot: &Snapshot, entry: &Entry, export: &Export) -> ExportView {
    let origin = &entry.record.origin;
    ExportView {
        service: export.service.to_string(),
        zone: origin.zone.to_string(),
        gateway: Some(origin.gateway.to_string()),
        tags: export.tags.clone(),
        instances: export.instances,
        healthy: export.healthy,
        weight: export.weight,
        capacity_per_second: export.capacity_per_second,
        age: age_word(entry.age).to_owned(),
        link: link_word(snapshot.links.get(origin).copied()).to_owned(),
    }
}

/// What this zone has, in the form in which the others hear of it.
fn own(snapshot: &Snapshot) -> Vec<ExportView> {
    let states = snapshot
        .instances
        .values()
        .flat_map(|list| list.iter())
        .map(|instance| InstanceState {
            service: &instance.service,
            tags: &instance.tags,
            weight: instance.weight,
            healthy: instance.health == Health::Healthy,
            capacity_per_second: instance.capacity_per_second,
        });
    let view = |export: Export| ExportView {
        service: export.service.to_string(),
        zone: snapshot.zone.to_string(),
        gateway: None,
        tags: export.tags,
        instances: export.instances,
        healthy: export.healthy,
        weight: export.weight,
        capacity_per_second: export.capacity_per_second,
        age: "own".to_owned(),
        link: "own".to_owned(),
    };
    catalog::exports(states).into_iter().map(view).collect()
}
