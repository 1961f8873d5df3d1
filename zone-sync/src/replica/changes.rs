//! The changes that a delta brings, checked, and their way into a record.

use std::collections::BTreeSet;

use causeway_federation::catalog::{Encoded, ExportKey, Record};
use causeway_proto::sync as proto;

use super::{
    limits::{MAX_EXPORTS, MAX_HELD_BYTES},
    refusal::SyncRefusal,
    wire,
};

/// The changes of a delta, checked.
pub(super) struct Changes {
    pub changed: Vec<Encoded>,
    pub removed: Vec<ExportKey>,
}

impl Changes {
    /// # Errors
    /// When the delta holds something that may not be in a record, or names an export twice.
    pub(super) fn read(delta: &mut proto::Delta) -> Result<Self, SyncRefusal> {
        let changed = std::mem::take(&mut delta.changed);
        let removed = std::mem::take(&mut delta.removed);
        let changes = Self {
            changed: changed
                .iter()
                .map(|bytes| wire::read_export(bytes))
                .collect::<Result<_, _>>()?,
            removed: removed
                .into_iter()
                .map(wire::read_key)
                .collect::<Result<_, _>>()?,
        };
        let changed = changes.changed.iter();
        let changed = changed.map(|(export, _)| (&export.service, &export.tags));
        let removed = changes.removed.iter().map(|(service, tags)| (service, tags));
        let mut seen = BTreeSet::new();
        match changed.chain(removed).all(|key| seen.insert(key)) {
            true => Ok(changes),
            false => Err(SyncRefusal::Malformed("a delta names an export twice")),
        }
    }

    /// `base` with these changes. Values are absolute, so changes since an earlier version than `base` fit too.
    ///
    /// # Errors
    /// When that makes it too large.
    pub(super) fn applied_to(self, base: &Record) -> Result<Record, SyncRefusal> {
        let mut record = base.clone();
        for (service, tags) in &self.removed {
            record.exports.remove(service, tags);
        }
        for (export, foreign) in self.changed {
            record.exports.put(export, foreign);
        }
        if record.exports.len() > MAX_EXPORTS || record.exports.bytes() > MAX_HELD_BYTES {
            return Err(SyncRefusal::RecordTooLarge);
        }
        Ok(record)
    }
}
