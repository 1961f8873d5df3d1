//! The other gateways' records, how old each is, and the catalog that they make together.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use causeway_proto::sync as proto;

use super::{
    Ages,
    limits::{FORGET, MAX_EXPORTS, MAX_HELD_BYTES},
    refusal::Refusal,
    wire::{self, Stamp},
};
use crate::{
    catalog::{Age, Catalog, Entry, Record},
    name::{GatewayId, ZoneName},
};

/// When a record's age changes, by this gateway's own clock.
#[derive(Debug, Clone, Copy)]
struct Believed {
    /// `None`: not heard since this process began.
    fresh_until: Option<Instant>,
    withdrawn_at: Instant,
}

impl Believed {
    fn age(&self, now: Instant) -> Age {
        if now >= self.withdrawn_at {
            Age::Withdrawn
        } else if self.fresh_until.is_some_and(|until| now < until) {
            Age::Fresh
        } else {
            Age::Suspect
        }
    }

    /// When a record that was found to be of this age changes it, or is forgotten. Not by the clock of the caller: a
    /// change that is overdue lies in the past, and is not passed over.
    fn next_change(&self, published: Age) -> Instant {
        match published {
            Age::Fresh => self
                .fresh_until
                .unwrap_or(self.withdrawn_at)
                .min(self.withdrawn_at),
            Age::Suspect => self.withdrawn_at,
            Age::Withdrawn => self.withdrawn_at + FORGET,
        }
    }
}

/// What became of the records as time passed.
#[derive(Debug, Default)]
pub struct Aged {
    pub changed: Vec<(GatewayId, Age)>,
    pub forgotten: Vec<GatewayId>,
}

#[derive(Debug)]
pub struct Held {
    ages: Ages,
    believed: BTreeMap<GatewayId, Believed>,
    catalog: Arc<Catalog>,
}

impl Held {
    pub fn new(ages: Ages) -> Self {
        Self {
            ages,
            believed: BTreeMap::new(),
            catalog: Arc::default(),
        }
    }

    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    pub fn record(&self, origin: &GatewayId) -> Option<&Arc<Record>> {
        self.catalog.entry(origin).map(|entry| &entry.record)
    }

    /// The newest version of `origin` that is held whole.
    pub fn stamp(&self, origin: &GatewayId) -> Stamp {
        self.record(origin).map_or(Stamp::NONE, |record| Stamp {
            incarnation: record.incarnation,
            version: record.version,
        })
    }

    /// Takes a record that may be outdated, from disk for example: suspect until its origin is heard, withdrawn as if
    /// it had been heard now.
    pub fn restore(&mut self, now: Instant, record: Record) {
        let believed = Believed {
            fresh_until: None,
            withdrawn_at: now + self.ages.withdrawn,
        };
        self.believed.insert(record.origin.clone(), believed);
        self.publish(Arc::new(record), Age::Suspect);
    }

    /// Holds a newer record. `newest` says that its origin has told of none newer: only then does it count as heard.
    pub fn replace(&mut self, now: Instant, record: Record, newest: bool) {
        let age = match self.believed.get(&record.origin) {
            Some(believed) if !newest => believed.age(now),
            None if !newest => {
                self.restore(now, record);
                return;
            }
            _ => self.believe(now, &record.origin),
        };
        self.publish(Arc::new(record), age);
    }

    /// Notes that an origin spoke whose newest record is held; answers the new age if that changed.
    pub fn heard(&mut self, now: Instant, origin: &GatewayId) -> Option<Age> {
        let entry = self.catalog.entry(origin)?;
        let (record, before) = (entry.record.clone(), entry.age);
        let age = self.believe(now, origin);
        if age == before {
            return None;
        }
        self.publish(record, age);
        Some(age)
    }

    fn believe(&mut self, now: Instant, origin: &GatewayId) -> Age {
        let believed = Believed {
            fresh_until: Some(now + self.ages.fresh),
            withdrawn_at: now + self.ages.withdrawn,
        };
        let age = believed.age(now);
        self.believed.insert(origin.clone(), believed);
        age
    }

    fn publish(&mut self, record: Arc<Record>, age: Age) {
        Arc::make_mut(&mut self.catalog).insert(Entry { record, age });
    }

    /// Brings the ages up to date.
    pub fn age(&mut self, now: Instant) -> Aged {
        let mut aged = Aged::default();
        for (origin, believed) in &self.believed {
            let Some(entry) = self.catalog.entry(origin) else {
                continue;
            };
            let age = believed.age(now);
            if now >= believed.next_change(Age::Withdrawn) {
                aged.forgotten.push(origin.clone());
            } else if age != entry.age {
                aged.changed.push((origin.clone(), age));
            }
        }
        for (origin, age) in &aged.changed {
            if let Some(record) = self.record(origin).cloned() {
                self.publish(record, *age);
            }
        }
        aged.forgotten.iter().for_each(|origin| self.forget(origin));
        aged
    }

    pub fn next_change(&self) -> Option<Instant> {
        let entries = self.catalog.entries();
        entries
            .filter_map(|entry| Some(self.believed.get(&entry.record.origin)?.next_change(entry.age)))
            .min()
    }

    /// Forgets the origins of every zone that is not in `zones`; answers which.
    pub fn keep_zones(&mut self, zones: &BTreeSet<ZoneName>) -> Vec<GatewayId> {
        let gone: Vec<_> = self
            .believed
            .keys()
            .filter(|origin| !zones.contains(&origin.zone))
            .cloned()
            .collect();
        gone.iter().for_each(|origin| self.forget(origin));
        gone
    }

    fn forget(&mut self, origin: &GatewayId) {
        self.believed.remove(origin);
        Arc::make_mut(&mut self.catalog).remove(origin);
    }

    pub fn len(&self) -> usize {
        self.believed.len()
    }
}

/// `base` with a delta applied. Values are absolute, so a delta from an earlier version than `base` fits too.
///
/// # Errors
/// When the delta holds something that may not be in a record, or makes it too large.
pub fn with_delta(base: &Record, delta: proto::Delta) -> Result<Record, Refusal> {
    let mut record = base.clone();
    for key in delta.removed {
        record.exports.apply((wire::read_key(key)?, None));
    }
    for export in delta.changed {
        record.exports.insert(wire::read_export(export)?);
    }
    if record.exports.len() > MAX_EXPORTS || record.exports.bytes() > MAX_HELD_BYTES {
        return Err(Refusal::RecordTooLarge);
    }
    record.version = delta.to_version;
    record.draining = delta.draining;
    record.topology = wire::read_fingerprint(&delta.topology)?;
    Ok(record)
}
