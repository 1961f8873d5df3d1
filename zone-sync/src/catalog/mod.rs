//! The catalog: every zone's exports, as one zone knows them, each with its age.
//!
//! A `Catalog` is an immutable value; writers build a new one and swap it in whole. It holds no clock: ages are decided
//! by whoever builds it (see [`Age`]).

mod digest;
mod encoding;
mod entries;
mod exports;
mod summary;

use std::sync::Arc;

use serde::Serialize;

pub use digest::ExportsDigest;
pub(crate) use encoding::{encode, key_message};
use entries::Entries;
pub use exports::{Change, Encoded, ExportKey, Exports};
pub use summary::{InstanceState, exports};

use crate::{
    name::{GatewayId, ServiceName, Tags, ZoneName},
    signing::Signed,
    topology::Fingerprint,
    trust::Edition,
};

/// What a zone tells the others about the instances of one service that carry one distinct set of tags.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Export {
    pub service: ServiceName,
    pub tags: Tags,
    pub instances: u32,
    pub healthy: u32,
    /// Sum of the weights of the healthy instances.
    pub weight: u64,
    /// What the healthy instances can take, in requests or connections a second; `None` when undeclared.
    pub capacity_per_second: Option<u64>,
}

/// How far a record can be believed, by the time since its writer was last heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Age {
    /// Heard within the last 5 s.
    Fresh,
    /// Not heard for a while, or read from disk: used only when nothing fresh is left.
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
    /// The origin's own words for all of this but the exports, with their digest, and its signature; `None` when it
    /// speaks a protocol without them. Whether the signature is good is not known from that it is here.
    pub signed: Option<Arc<Signed>>,
}

/// What is said counts, not by which signature.
impl PartialEq for Record {
    fn eq(&self, other: &Self) -> bool {
        (&self.origin, self.incarnation, self.version) == (&other.origin, other.incarnation, other.version)
            && (self.draining, self.topology) == (other.draining, other.topology)
            && (self.topology_generation, self.trust) == (other.topology_generation, other.trust)
            && self.exports == other.exports
    }
}

/// A record and what this zone makes of it.
#[derive(Debug, Clone)]
pub struct Entry {
    pub record: Arc<Record>,
    pub age: Age,
    /// The peer that passed the record on; `None` when it is from the origin itself, or from disk.
    pub via: Option<GatewayId>,
}

/// Every remote gateway's record. The zone's own exports are not in it.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    entries: Entries,
}

impl Catalog {
    #[must_use]
    pub fn new(entries: impl IntoIterator<Item = Entry>) -> Self {
        let mut catalog = Self::default();
        entries.into_iter().for_each(|entry| catalog.insert(entry));
        catalog
    }

    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    #[must_use]
    pub fn entry(&self, origin: &GatewayId) -> Option<&Entry> {
        self.entries.get(origin)
    }

    /// Puts an entry in, or replaces the one of the same origin.
    pub fn insert(&mut self, entry: Entry) {
        self.entries.insert(entry);
    }

    /// Takes an origin's entry out.
    pub fn remove(&mut self, origin: &GatewayId) -> Option<Entry> {
        self.entries.remove(origin)
    }

    /// The entries of one zone's gateways.
    pub fn zone<'a>(&'a self, zone: &'a ZoneName) -> impl Iterator<Item = &'a Entry> {
        self.entries.of(zone)
    }

    /// What one gateway exports of `service` to instances that carry `selector`.
    pub fn exports<'a>(
        entry: &'a Entry,
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
