//! The catalog: every zone's exports, as one zone knows them, each with its age.
//!
//! A `Catalog` is an immutable value; writers build a new one and swap it in whole. It holds no clock: ages are decided
//! by whoever builds it (see [`Age`]).

mod digest;
mod encoding;
mod entries;
mod exporters;
mod exports;
mod figures;
mod summary;

use std::sync::Arc;

use serde::Serialize;

pub use digest::ExportsDigest;
pub use encoding::{encode, key_message};
use entries::Entries;
use exporters::Exporters;
pub use exports::{Change, Encoded, ExportKey, Exports};
pub use figures::{MAX_TOLD_SHIFTS, ShiftFigures, ShiftStepNumber};
pub use summary::{InstanceState, exports};

use crate::{
    edition::{Edition, Fingerprint},
    name::{GatewayId, ServiceName, Tags, ZoneName},
    signing::Signed,
};

/// Summary that a zone gives the others of the instances of one service that carry one distinct set of tags.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Export {
    pub service: ServiceName,
    pub tags: Tags,
    pub instances: u32,
    pub healthy: u32,
    /// Sum of the weights of the healthy instances; where none is, of those that serve in panic.
    pub weight: u64,
    /// Capacity of the healthy instances in requests or connections a second; `None` when undeclared.
    pub capacity_per_second: Option<u64>,
}

/// Trustworthiness of a record, by the time since its writer was last heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Age {
    /// Heard within the last 5 s.
    Fresh,
    /// Not heard for a while, or read from disk: used as before while the tunnel to its writer answers.
    Suspect,
    /// Not heard for 5 min: never used.
    Withdrawn,
}

/// Everything one gateway said about its zone, at one version.
#[derive(Debug, Clone)]
pub struct Record {
    pub origin: GatewayId,
    /// Orders records of one origin across its restarts.
    pub incarnation: u64,
    /// Orders records within an incarnation.
    pub version: u64,
    /// By service, then tags; no two alike.
    pub exports: Exports,
    pub draining: bool,
    /// The topology that the origin runs.
    pub topology: Fingerprint,
    /// Generation of that topology; 0 when it was read from a file and never applied.
    pub topology_generation: u64,
    /// The document that says whom the origin trusts; generation 0 while there is none.
    pub trust: Edition,
    /// Connections that the origin has ended since it took that document up, because it believed their other side no more.
    pub trust_ended: u64,
    /// Figures on shifts that are under way.
    pub shifts: Arc<[ShiftFigures]>,
    /// The origin's own words for all of this but the exports, with their digest, and its signature; `None` when it
    /// speaks a protocol without them. Whether the signature is good is not known from that it is here.
    pub signed: Option<Arc<Signed>>,
}

/// Compares what is said, not by which signature.
impl PartialEq for Record {
    fn eq(&self, other: &Self) -> bool {
        (&self.origin, self.incarnation, self.version) == (&other.origin, other.incarnation, other.version)
            && (self.draining, self.topology) == (other.draining, other.topology)
            && (self.topology_generation, self.trust) == (other.topology_generation, other.trust)
            && (self.trust_ended, &self.shifts) == (other.trust_ended, &other.shifts)
            && self.exports == other.exports
    }
}

/// A record and what this zone makes of it.
#[derive(Debug, Clone)]
pub struct CatalogEntry {
    pub record: Arc<Record>,
    pub age: Age,
    /// The peer that passed the record on; `None` when it is from the origin itself, or from disk.
    pub via: Option<GatewayId>,
}

/// An entry as it was and as it is; `None`: there is none.
pub type EntryDifference<'a> = (Option<&'a CatalogEntry>, Option<&'a CatalogEntry>);

/// Every remote gateway's record. The zone's own exports are not in it.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    entries: Entries,
    exporters: Exporters,
}

impl Catalog {
    #[must_use]
    pub fn new(entries: impl IntoIterator<Item = CatalogEntry>) -> Self {
        let mut catalog = Self::default();
        entries.into_iter().for_each(|entry| catalog.insert(entry));
        catalog
    }

    pub fn entries(&self) -> impl Iterator<Item = &CatalogEntry> {
        self.entries.iter()
    }

    #[must_use]
    pub fn entry(&self, origin: &GatewayId) -> Option<&CatalogEntry> {
        self.entries.get(origin)
    }

    /// Puts an entry in, or replaces the one of the same origin.
    pub fn insert(&mut self, entry: CatalogEntry) {
        let record = Arc::clone(&entry.record);
        match self.entries.insert(entry) {
            // Only what this zone makes of the record has changed.
            Some(old) if Arc::ptr_eq(&old.record, &record) => {}
            Some(old) => self
                .exporters
                .update(&record.origin, &old.record.exports, &record.exports),
            None => self
                .exporters
                .update(&record.origin, &Exports::default(), &record.exports),
        }
    }

    /// Takes an origin's entry out.
    pub fn remove(&mut self, origin: &GatewayId) -> Option<CatalogEntry> {
        let old = self.entries.remove(origin)?;
        self.exporters
            .update(origin, &old.record.exports, &Exports::default());
        Some(old)
    }

    /// Entries that differ between this catalog and a newer one. What both share is not looked into.
    #[must_use]
    pub fn differences<'a>(&'a self, newer: &'a Self) -> Vec<EntryDifference<'a>> {
        self.entries.differences(&newer.entries)
    }

    /// The entries of one zone's gateways.
    pub fn zone<'a>(&'a self, zone: &'a ZoneName) -> impl Iterator<Item = &'a CatalogEntry> {
        self.entries.of(zone)
    }

    /// The entries of the gateways that export `service`, with whatever tags, in order of origin. Costs as many look-ups as
    /// there are, however many gateways and services the federation has.
    pub fn exporters<'a>(
        &'a self,
        service: &ServiceName,
    ) -> impl Iterator<Item = &'a CatalogEntry> + use<'a> {
        let gateways = self.exporters.of(service).iter();
        gateways.filter_map(|gateway| self.entry(gateway))
    }

    /// Exports of `service` by one gateway to instances that carry `selector`.
    pub fn exports<'a>(
        entry: &'a CatalogEntry,
        service: &'a ServiceName,
        selector: &'a Tags,
    ) -> impl Iterator<Item = &'a Export> {
        entry
            .record
            .exports
            .of(service)
            .filter(move |export| export.tags.matches(selector))
    }
}
