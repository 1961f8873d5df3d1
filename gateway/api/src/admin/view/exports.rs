//! Exports of every zone as known here, which zones tell each other, and the records that they came in.

use causeway_federation::{
    catalog::{self, CatalogEntry, Export, InstanceState},
    name::{GatewayName, ServiceName, Tags, ZoneName},
    topology::Service,
};
use causeway_routing::{balance::takes_traffic_in_panic, snapshot::Snapshot};
use serde::{Deserialize, Serialize};

use super::{ExchangeView, age_word, exchange, link_word};
use crate::admin::{OwnReading, SyncReading, SyncReadings};

/// The instances of one service with one distinct set of tags, as one gateway tells of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExportView {
    pub service: String,
    pub zone: String,
    /// Gateway that told it; absent for the zone that answers.
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
    /// Of the record that it is part of, within the incarnation of its gateway; absent before zone sync has begun.
    #[serde(default)]
    pub version: Option<u64>,
    /// Since the gateway that told it was heard; absent for the zone that answers.
    #[serde(default)]
    pub heard_seconds_ago: Option<f64>,
    /// The gateway that passed it on; absent when it came from its origin.
    #[serde(default)]
    pub via: Option<String>,
}

/// One gateway's record: the own one as the others are told it, the others' as they are held here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RecordView {
    /// `zone/gateway`.
    pub origin: String,
    /// Grows with every start of its gateway; versions count within it.
    pub incarnation: u64,
    pub version: u64,
    /// `own`, `fresh`, `suspect` or `withdrawn`.
    pub age: String,
    pub heard_seconds_ago: Option<f64>,
    /// The gateway that passed it on; absent when it came from its origin.
    #[serde(default)]
    pub via: Option<String>,
    pub draining: bool,
    pub topology: String,
    /// 0: its topology is from a file and was never applied.
    #[serde(default)]
    pub topology_generation: u64,
    #[serde(default)]
    pub same_topology: bool,
    #[serde(flatten)]
    pub exchange: ExchangeView,
    pub exports: Vec<ExportView>,
}

/// Shows all exports by service, the own zone's among them, one after another: of 100,000 there are never as many at once.
pub fn exports(snapshot: &Snapshot, sync: &SyncReadings, mut show: impl FnMut(&ExportView)) {
    let own = own(snapshot);
    let held = snapshot.catalog.entries().flat_map(|entry| {
        entry
            .record
            .exports
            .iter()
            .map(move |export| (export, Some(entry)))
    });
    let mut all: Vec<_> = own.iter().map(|export| (export, None)).chain(held).collect();
    all.sort_by(|(one, one_entry), (other, other_entry)| {
        let by_place = place(snapshot, one, *one_entry).cmp(&place(snapshot, other, *other_entry));
        by_place.then_with(|| one.tags.natural_cmp(&other.tags))
    });
    for (export, entry) in all {
        show(&match entry {
            None => own_view(snapshot, sync, export),
            Some(entry) => ExportView {
                heard_seconds_ago: heard(sync.of(&entry.record.origin)),
                ..remote(snapshot, entry, export)
            },
        });
    }
}

/// Order of exports before that of their tags.
fn place<'a>(
    snapshot: &'a Snapshot,
    export: &'a Export,
    entry: Option<&'a CatalogEntry>,
) -> (&'a ServiceName, &'a ZoneName, Option<&'a GatewayName>) {
    let origin = entry.map(|entry| &entry.record.origin);
    let zone = origin.map_or(&snapshot.zone, |origin| &origin.zone);
    (&export.service, zone, origin.map(|origin| &origin.gateway))
}

/// Shows the records one after another: the own one first, once zone sync has one.
pub fn records(snapshot: &Snapshot, sync: &SyncReadings, mut show: impl FnMut(&RecordView)) {
    if let Some(reading) = &sync.own {
        show(&own_record(snapshot, sync, reading));
    }
    for entry in snapshot.catalog.entries() {
        show(&record(snapshot, sync, entry));
    }
}

fn own_record(snapshot: &Snapshot, sync: &SyncReadings, reading: &OwnReading) -> RecordView {
    RecordView {
        origin: reading.origin.to_string(),
        incarnation: reading.stamp.incarnation,
        version: reading.stamp.version,
        age: "own".to_owned(),
        heard_seconds_ago: None,
        via: None,
        draining: reading.draining,
        topology: snapshot.topology.fingerprint.to_string(),
        topology_generation: snapshot.topology.generation,
        same_topology: true,
        exchange: ExchangeView::default(),
        exports: own(snapshot)
            .iter()
            .map(|export| own_view(snapshot, sync, export))
            .collect(),
    }
}

fn record(snapshot: &Snapshot, sync: &SyncReadings, entry: &CatalogEntry) -> RecordView {
    let record = &entry.record;
    let reading = sync.of(&record.origin);
    RecordView {
        origin: record.origin.to_string(),
        incarnation: record.incarnation,
        version: record.version,
        age: age_word(entry.age).to_owned(),
        heard_seconds_ago: heard(reading),
        via: entry.via.as_ref().map(ToString::to_string),
        draining: record.draining,
        topology: record.topology.to_string(),
        topology_generation: record.topology_generation,
        same_topology: record.topology == snapshot.topology.fingerprint,
        exchange: reading.map(exchange).unwrap_or_default(),
        exports: of_entry(snapshot, sync, entry),
    }
}

fn heard(reading: Option<&SyncReading>) -> Option<f64> {
    Some(reading?.heard_ago?.as_secs_f64())
}

fn of_entry(snapshot: &Snapshot, sync: &SyncReadings, entry: &CatalogEntry) -> Vec<ExportView> {
    let heard = heard(sync.of(&entry.record.origin));
    let view = |export| ExportView {
        heard_seconds_ago: heard,
        ..remote(snapshot, entry, export)
    };
    entry.record.exports.iter().map(view).collect()
}

fn remote(snapshot: &Snapshot, entry: &CatalogEntry, export: &Export) -> ExportView {
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
        version: Some(entry.record.version),
        heard_seconds_ago: None,
        via: entry.via.as_ref().map(ToString::to_string),
    }
}

/// Lists what this zone has, in the form in which the others hear of it.
fn own(snapshot: &Snapshot) -> Vec<Export> {
    let services = &snapshot.topology.services;
    let panics = |service: &ServiceName| services.get(service).is_some_and(Service::panics);
    let states = snapshot
        .instances
        .values()
        .flat_map(|list| list.iter())
        .map(|instance| InstanceState {
            service: &instance.service,
            tags: &instance.tags,
            weight: instance.weight,
            healthy: instance.counts_as_healthy(),
            serves_in_panic: panics(&instance.service) && takes_traffic_in_panic(instance),
            capacity_per_second: instance.capacity_per_second,
        });
    catalog::exports(states)
}

fn own_view(snapshot: &Snapshot, sync: &SyncReadings, export: &Export) -> ExportView {
    ExportView {
        service: export.service.to_string(),
        zone: snapshot.zone.to_string(),
        gateway: None,
        tags: export.tags.clone(),
        instances: export.instances,
        healthy: export.healthy,
        weight: export.weight,
        capacity_per_second: export.capacity_per_second,
        age: "own".to_owned(),
        link: "own".to_owned(),
        version: sync.own.as_ref().map(|own| own.stamp.version),
        heard_seconds_ago: None,
        via: None,
    }
}
