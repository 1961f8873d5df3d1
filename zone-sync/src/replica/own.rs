//! The own record: its versions, the short history that deltas are made of, and its cut into snapshot parts.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use causeway_proto::sync as proto;

use super::{
    limits::{MAX_EXPORTS, MAX_HISTORY_CHANGES, MAX_HISTORY_STEPS, MAX_PART_BYTES, MAX_RECORD_BYTES},
    wire::{self, Stamp},
};
use crate::{
    catalog::{Change, Export, ExportKey, Exports, Record},
    name::GatewayId,
    topology::Fingerprint,
};

/// What one version changed, with every value as it was at that version.
#[derive(Debug)]
struct Step {
    version: u64,
    changes: Vec<Change>,
    draining: bool,
    topology: Fingerprint,
}

/// What this gateway tells the others.
#[derive(Debug)]
pub struct OwnRecord {
    record: Arc<Record>,
    /// Whether the exports were ever set: before that there is nothing to tell, and an empty record would be a lie.
    announced: bool,
    /// One step for each of the latest versions, the newest last.
    history: VecDeque<Step>,
    /// Changes in all of `history`.
    history_changes: usize,
}

impl OwnRecord {
    pub fn new(origin: GatewayId, incarnation: u64) -> Self {
        Self {
            record: Arc::new(Record {
                origin,
                incarnation,
                version: 0,
                exports: Exports::default(),
                draining: false,
                topology: Fingerprint::default(),
            }),
            announced: false,
            history: VecDeque::new(),
            history_changes: 0,
        }
    }

    pub fn record(&self) -> &Arc<Record> {
        &self.record
    }

    /// The newest version, once there is something to tell.
    pub fn stamp(&self) -> Option<Stamp> {
        self.announced.then_some(self.newest())
    }

    /// The newest version, told or not.
    pub fn newest(&self) -> Stamp {
        Stamp {
            incarnation: self.record.incarnation,
            version: self.record.version,
        }
    }

    /// Takes the exports as they are now; answers how many were left out because no peer would accept them.
    pub fn set_exports(&mut self, exports: Vec<Export>) -> usize {
        let given = exports.len();
        let kept = within_limits(exports);
        let left_out = given - kept.len();
        let mut changes = self.record.exports.changes(&kept);
        // Removals come first, so that no version in between is larger than a record may be.
        changes.sort_by_key(|(_, now)| now.is_some());
        let first = !self.announced;
        self.announced = true;
        if changes.is_empty() && first {
            self.step(Vec::new());
        }
        // Many changes become several versions, so that each fits a delta.
        let (mut batch, mut bytes) = (Vec::new(), 0);
        for change in changes {
            let size = wire::change_bytes(&change);
            if bytes + size > MAX_PART_BYTES && !batch.is_empty() {
                self.step(std::mem::take(&mut batch));
                bytes = 0;
            }
            bytes += size;
            batch.push(change);
        }
        if !batch.is_empty() {
            self.step(batch);
        }
        left_out
    }

    pub fn set_draining(&mut self, draining: bool) {
        if self.record.draining != draining {
            Arc::make_mut(&mut self.record).draining = draining;
            self.step(Vec::new());
        }
    }

    pub fn set_topology(&mut self, topology: Fingerprint) {
        if self.record.topology != topology {
            Arc::make_mut(&mut self.record).topology = topology;
            self.step(Vec::new());
        }
    }

    /// Begins a new incarnation with the same content. Lower ones than the present are ignored.
    pub fn set_incarnation(&mut self, incarnation: u64) {
        if incarnation > self.record.incarnation {
            let record = Arc::make_mut(&mut self.record);
            record.incarnation = incarnation;
            record.version = 1;
            self.history.clear();
            self.history_changes = 0;
        }
    }

    fn step(&mut self, changes: Vec<Change>) {
        let record = Arc::make_mut(&mut self.record);
        for change in &changes {
            record.exports.apply(change.clone());
        }
        record.version += 1;
        self.history_changes += changes.len();
        self.history.push_back(Step {
            version: record.version,
            changes,
            draining: record.draining,
            topology: record.topology,
        });
        while self.history.len() > MAX_HISTORY_STEPS || self.history_changes > MAX_HISTORY_CHANGES {
            let dropped = self.history.pop_front().map_or(0, |step| step.changes.len());
            self.history_changes -= dropped;
        }
    }

    /// A delta from `known` towards the newest version, as far as one message carries; `None` when the history does
    /// not reach back that far.
    pub fn delta(&self, known: Stamp) -> Option<proto::Delta> {
        if known.incarnation != self.record.incarnation || known.version == 0 {
            return None;
        }
        let oldest = self.history.front()?.version;
        if known.version + 1 < oldest || known.version >= self.record.version {
            return None;
        }
        let (last, merged) = self.merged_steps(known.version);
        let last = last?;
        let (changed, removed): (Vec<_>, Vec<_>) = merged.into_iter().partition(|(_, now)| now.is_some());
        Some(proto::Delta {
            origin: Some(wire::origin_message(&self.record.origin)),
            incarnation: self.record.incarnation,
            from_version: known.version,
            to_version: last.version,
            changed: changed
                .into_iter()
                .flat_map(|(_, now)| now.map(wire::export_message))
                .collect(),
            removed: removed
                .into_iter()
                .map(|((service, tags), _)| wire::key_message(service, tags))
                .collect(),
            draining: last.draining,
            topology: wire::fingerprint_message(&last.topology),
        })
    }

    /// The steps after `version` in one, as many as fit a message; always at least one.
    fn merged_steps(&self, version: u64) -> (Option<&Step>, BTreeMap<&ExportKey, Option<&Export>>) {
        let mut merged = BTreeMap::new();
        let (mut last, mut bytes) = (None, 0);
        for step in self.history.iter().filter(|step| step.version > version) {
            bytes += step.changes.iter().map(wire::change_bytes).sum::<usize>();
            if bytes > MAX_PART_BYTES && last.is_some() {
                break;
            }
            merged.extend(step.changes.iter().map(|(key, now)| (key, now.as_ref())));
            last = Some(step);
        }
        (last, merged)
    }
}

/// What peers would accept, up to the limits of a record; of two exports with the same key, the later.
fn within_limits(exports: Vec<Export>) -> Exports {
    let kept: Exports = exports
        .into_iter()
        .filter(|export| wire::check_export(export).is_ok())
        .collect();
    if kept.len() <= MAX_EXPORTS && kept.bytes() <= MAX_RECORD_BYTES {
        return kept;
    }
    let mut bounded = Exports::default();
    for export in kept.iter().take(MAX_EXPORTS) {
        bounded.insert(export.clone());
        if bounded.bytes() > MAX_RECORD_BYTES {
            bounded.remove(&export.service, &export.tags);
            break;
        }
    }
    bounded
}

/// One version of the own record on its way to one peer, part by part.
#[derive(Debug)]
pub struct Parts {
    record: Arc<Record>,
    /// How many exports are in each part; never empty.
    sizes: Vec<usize>,
    next: usize,
    /// Exports that went out in earlier parts.
    sent: usize,
}

impl Parts {
    pub fn new(record: Arc<Record>) -> Self {
        let mut sizes = vec![0];
        let mut bytes = 0;
        for export in record.exports.iter() {
            let size = wire::export_bytes(&wire::export_message(export));
            if bytes + size > MAX_PART_BYTES {
                sizes.push(0);
                bytes = 0;
            }
            bytes += size;
            if let Some(last) = sizes.last_mut() {
                *last += 1;
            }
        }
        Self {
            record,
            sizes,
            next: 0,
            sent: 0,
        }
    }

    pub fn stamp(&self) -> Stamp {
        Stamp {
            incarnation: self.record.incarnation,
            version: self.record.version,
        }
    }

    pub fn next_part(&mut self) -> Option<proto::Snapshot> {
        let size = *self.sizes.get(self.next)?;
        let exports = self.record.exports.skip(self.sent).take(size);
        let part = proto::Snapshot {
            origin: Some(wire::origin_message(&self.record.origin)),
            incarnation: self.record.incarnation,
            version: self.record.version,
            part: u32::try_from(self.next).ok()?,
            parts: u32::try_from(self.sizes.len()).ok()?,
            exports: exports.map(wire::export_message).collect(),
            draining: self.record.draining,
            topology: wire::fingerprint_message(&self.record.topology),
        };
        self.next += 1;
        self.sent += size;
        Some(part)
    }
}
