//! The own record: its versions, and the short history that deltas are made of.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Instant,
};

use causeway_federation::{
    catalog::{Change, Export, ExportKey, Exports, Record, ShiftFigures, key_message},
    edition::{Edition, Fingerprint},
    name::{GatewayId, ServiceName},
};
use causeway_proto::sync as proto;
use prost::Message as _;

use super::{
    head::{self, Head},
    keys::OwnKeys,
    limits::{MAX_EXPORTS, MAX_HISTORY_CHANGES, MAX_HISTORY_STEPS, MAX_PART_BYTES, MAX_RECORD_BYTES},
    parts::Parts,
    wire::{self, Stamp},
};

/// Change of one version, with every value as it was at that version.
#[derive(Debug)]
struct Step {
    changes: Vec<Change>,
    head: Head,
}

/// Record that this gateway tells the others.
#[derive(Debug)]
pub(super) struct OwnRecord {
    record: Arc<Record>,
    /// Tells whether the exports were ever set: before that there is nothing to tell, and an empty record would be a lie.
    announced: bool,
    /// One step for each of the latest versions, the newest last.
    history: VecDeque<Step>,
    /// Changes in all of `history`.
    history_changes: usize,
    keys: OwnKeys,
    /// The first version that was signed with the present certificate.
    credential_since: u64,
}

impl OwnRecord {
    pub(super) fn new(origin: GatewayId, incarnation: u64, keys: OwnKeys) -> Self {
        Self {
            record: Arc::new(Record {
                origin,
                incarnation,
                version: 0,
                exports: Exports::default(),
                draining: false,
                topology: Fingerprint::default(),
                topology_generation: 0,
                trust: Edition::default(),
                trust_ended: 0,
                shifts: Default::default(),
                signed: None,
            }),
            announced: false,
            history: VecDeque::new(),
            history_changes: 0,
            keys,
            credential_since: 0,
        }
    }

    pub(super) fn record(&self) -> &Arc<Record> {
        &self.record
    }

    pub(super) fn origin(&self) -> &GatewayId {
        &self.record.origin
    }

    /// The newest version, once there is something to tell.
    pub(super) fn stamp(&self) -> Option<Stamp> {
        self.announced.then_some(self.newest())
    }

    /// The newest version, told or not.
    pub(super) fn newest(&self) -> Stamp {
        Stamp::of(&self.record)
    }

    /// Takes the exports as they are now; answers how many were left out because no peer would accept them.
    pub(super) fn set_exports(&mut self, exports: Vec<Export>) -> usize {
        let given = exports.len();
        let kept = within_limits(exports, &self.keys);
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
            let size = self.change_bytes(&change);
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

    pub(super) fn set_draining(&mut self, draining: bool) {
        if self.record.draining != draining {
            Arc::make_mut(&mut self.record).draining = draining;
            self.step(Vec::new());
        }
    }

    pub(super) fn set_topology(&mut self, topology: Fingerprint) {
        if self.record.topology != topology {
            Arc::make_mut(&mut self.record).topology = topology;
            self.step(Vec::new());
        }
    }

    pub(super) fn set_topology_generation(&mut self, generation: u64) {
        if self.record.topology_generation != generation {
            Arc::make_mut(&mut self.record).topology_generation = generation;
            self.step(Vec::new());
        }
    }

    pub(super) fn set_trust_ended(&mut self, ended: u64) {
        if self.record.trust_ended != ended {
            Arc::make_mut(&mut self.record).trust_ended = ended;
            self.step(Vec::new());
        }
    }

    pub(super) fn set_shifts(&mut self, shifts: Arc<[ShiftFigures]>) {
        if self.record.shifts != shifts {
            Arc::make_mut(&mut self.record).shifts = shifts;
            self.step(Vec::new());
        }
    }

    pub(super) fn set_trust(&mut self, trust: Edition) {
        if self.record.trust != trust {
            Arc::make_mut(&mut self.record).trust = trust;
            self.step(Vec::new());
        }
    }

    /// Begins a new incarnation with the same content. Lower ones than the present are ignored.
    pub(super) fn set_incarnation(&mut self, incarnation: u64) {
        if incarnation > self.record.incarnation {
            let record = Arc::make_mut(&mut self.record);
            record.incarnation = incarnation;
            record.version = 1;
            self.history.clear();
            self.history_changes = 0;
            self.keys.forget();
            self.credential_since = 0;
        }
    }

    /// Looks whether the certificate was renewed: then a new version tells everyone of the new one.
    pub(super) fn renew(&mut self) -> bool {
        let renewed = self.keys.renewed();
        if renewed {
            self.credential_since = self.record.version + 1;
            self.step(Vec::new());
        }
        renewed
    }

    fn step(&mut self, changes: Vec<Change>) {
        let record = Arc::make_mut(&mut self.record);
        for ((service, tags), now) in &changes {
            match now {
                Some(export) => drop(record.exports.put(export.clone(), self.keys.foreign(export))),
                None => drop(record.exports.remove(service, tags)),
            }
        }
        record.version += 1;
        self.history_changes += changes.len();
        let head = self.head();
        self.history.push_back(Step { changes, head });
        while self.history.len() > MAX_HISTORY_STEPS || self.history_changes > MAX_HISTORY_CHANGES {
            let dropped = self.history.pop_front().map_or(0, |step| step.changes.len());
            self.history_changes -= dropped;
        }
    }

    /// The head of the newest version.
    fn head(&mut self) -> Head {
        let record = Arc::make_mut(&mut self.record);
        Head {
            digest: record.exports.digest(),
            stamp: Stamp::of(record),
            draining: record.draining,
            topology: record.topology,
            topology_generation: record.topology_generation,
            trust: record.trust,
            trust_ended: record.trust_ended,
            shifts: record.shifts.clone(),
        }
    }

    /// A delta from `known` towards the newest version, as far as one message carries, and the version that it leads to;
    /// `None` when the history does not reach back that far.
    pub(super) fn delta(&mut self, known: Stamp, protocol: u32) -> Option<(Stamp, proto::Delta)> {
        if known.incarnation != self.record.incarnation || known.version == 0 {
            return None;
        }
        let oldest = self.history.front()?.head.stamp.version;
        if known.version + 1 < oldest || known.version >= self.record.version {
            return None;
        }
        let (head, merged) = self.merged_steps(known.version);
        let head = head?;
        let (changed, removed): (Vec<_>, Vec<_>) = merged.into_iter().partition(|(_, now)| now.is_some());
        let mut delta = proto::Delta {
            from_version: known.version,
            changed: changed
                .into_iter()
                .filter_map(|(_, now)| now.map(|export| self.keys.encode(export)))
                .collect(),
            removed: removed
                .into_iter()
                .map(|((service, tags), _)| key_message(service, tags))
                .collect(),
            ..proto::Delta::default()
        };
        if protocol >= 2 {
            let signed = self.keys.signed(&self.record.origin, &head);
            // Whoever holds a version that came with the present credential has it.
            let has_it = known.version >= self.credential_since && self.keys.is_present(&signed);
            let credential = has_it.then_some(&*signed.credential);
            delta.head = Some(head::signed_message(&signed, credential));
        } else {
            delta.origin = Some(wire::origin_message(&self.record.origin));
            delta.incarnation = head.stamp.incarnation;
            delta.to_version = head.stamp.version;
            delta.draining = head.draining;
            delta.topology = wire::fingerprint_message(&head.topology);
        }
        Some((head.stamp, delta))
    }

    /// The steps after `version` in one, as many as fit a message; always at least one.
    fn merged_steps(&self, version: u64) -> (Option<Head>, BTreeMap<&ExportKey, Option<&Export>>) {
        let mut merged = BTreeMap::new();
        let (mut last, mut bytes) = (None, 0);
        for step in self
            .history
            .iter()
            .filter(|step| step.head.stamp.version > version)
        {
            bytes += step.changes.iter().map(|c| self.change_bytes(c)).sum::<usize>();
            if bytes > MAX_PART_BYTES && last.is_some() {
                break;
            }
            merged.extend(step.changes.iter().map(|(key, now)| (key, now.as_ref())));
            last = Some(&step.head);
        }
        (last.cloned(), merged)
    }

    /// Bytes that one change takes in a delta.
    fn change_bytes(&self, ((service, tags), now): &Change) -> usize {
        wire::element_bytes(match now {
            Some(export) => self.keys.encode(export).len(),
            None => key_message(service, tags).encoded_len(),
        })
    }

    /// The whole record for a peer that speaks `protocol`.
    pub(super) fn parts(&mut self, protocol: u32) -> Parts {
        if protocol < 2 {
            return Parts::flat(self.record.clone());
        }
        let head = self.head();
        let signed = self.keys.signed(&self.record.origin, &head);
        Parts::signed(self.record.clone(), &signed)
    }

    /// The present beat; `None` while there is nothing to tell.
    pub(super) fn beat(&mut self, now: Instant) -> Option<proto::Beat> {
        let stamp = self.stamp()?;
        let digest = Arc::make_mut(&mut self.record).exports.digest();
        Some(self.keys.beat(now, &self.record.origin, stamp, digest))
    }

    /// Reason why the own key cannot sign, once for every such time.
    pub(super) fn take_failure(&mut self) -> Option<String> {
        self.keys.take_failure()
    }
}

/// Keeps what peers would accept, up to the limits of a record; of two exports with the same key, the later. Over a limit one of each service
/// is kept before the next of any, so that a service with very many pushes out no other.
fn within_limits(exports: Vec<Export>, keys: &OwnKeys) -> Exports {
    let kept: Exports = exports
        .into_iter()
        .filter(|export| wire::check_export(export).is_ok())
        .map(|export| {
            let foreign = keys.foreign(&export);
            (export, foreign)
        })
        .collect();
    if kept.len() <= MAX_EXPORTS && kept.bytes() <= MAX_RECORD_BYTES {
        return kept;
    }
    let mut bounded = Exports::default();
    let mut counts: BTreeMap<&ServiceName, usize> = BTreeMap::new();
    let mut in_turn: Vec<(usize, &Export)> = kept
        .iter()
        .map(|export| {
            let count = counts.entry(&export.service).or_default();
            *count += 1;
            (*count, export)
        })
        .collect();
    // Stable: in each round services are in order.
    in_turn.sort_by_key(|(round, _)| *round);
    for (_, export) in in_turn.into_iter().take(MAX_EXPORTS) {
        bounded.put(export.clone(), keys.foreign(export));
        if bounded.bytes() > MAX_RECORD_BYTES {
            bounded.remove(&export.service, &export.tags);
            break;
        }
    }
    bounded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn over_a_limit_a_service_with_very_many_exports_pushes_out_no_other() {
        let export = |service: &str, tag: usize| Export {
            service: service.parse().unwrap(),
            tags: [("tag", tag.to_string())].into_iter().collect(),
            instances: 1,
            healthy: 1,
            weight: 1,
            capacity_per_second: None,
        };
        let many = (0..MAX_EXPORTS).map(|tag| export("crowd", tag));
        let exports: Vec<Export> = many.chain([export("shadow", 1), export("shadow", 2)]).collect();
        let kept = within_limits(exports, &OwnKeys::new(None, Arc::default()));
        assert_eq!(kept.len(), MAX_EXPORTS);
        assert_eq!(
            kept.iter()
                .filter(|export| export.service.as_str() == "shadow")
                .count(),
            2
        );
    }
}
