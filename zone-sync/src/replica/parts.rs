//! One version of a record on its way to one peer, part by part.

use std::sync::Arc;

use causeway_federation::{catalog::Record, signing::Signed};
use causeway_proto::sync as proto;

use super::{head, limits::MAX_PART_BYTES, wire};

#[derive(Debug)]
pub(super) struct Parts {
    record: Arc<Record>,
    /// Number of exports in each part; never empty.
    sizes: Vec<usize>,
    next: usize,
    /// Exports that went out in earlier parts.
    sent: usize,
    /// Form of a part before its exports are in it.
    first: proto::Snapshot,
    others: proto::Snapshot,
}

impl Parts {
    /// For protocol 1: everything is in fields of its own, and nothing is signed.
    pub(super) fn flat(record: Arc<Record>) -> Self {
        let part = proto::Snapshot {
            origin: Some(wire::origin_message(&record.origin)),
            draining: record.draining,
            topology: wire::fingerprint_message(&record.topology),
            ..proto::Snapshot::default()
        };
        Self::new(record, part.clone(), part)
    }

    /// With what the own key signed; the receiver knows whose it is by who speaks.
    pub(super) fn signed(record: Arc<Record>, signed: &Signed) -> Self {
        Self::with_head(record, signed, proto::Snapshot::default())
    }

    /// With what its origin signed.
    pub(super) fn relayed(record: Arc<Record>, signed: &Signed, outdated: bool) -> Self {
        let part = proto::Snapshot {
            origin: Some(wire::origin_message(&record.origin)),
            outdated,
            ..proto::Snapshot::default()
        };
        Self::with_head(record, signed, part)
    }

    fn with_head(record: Arc<Record>, signed: &Signed, part: proto::Snapshot) -> Self {
        let first = proto::Snapshot {
            head: Some(head::signed_message(signed, None)),
            ..part.clone()
        };
        Self::new(record, first, part)
    }

    fn new(record: Arc<Record>, first: proto::Snapshot, others: proto::Snapshot) -> Self {
        let mut sizes = vec![0];
        let mut bytes = 0;
        for export in record.exports.encodings_after(0) {
            let size = wire::element_bytes(export.len());
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
            first,
            others,
        }
    }

    pub(super) fn record(&self) -> &Arc<Record> {
        &self.record
    }

    pub(super) fn next_part(&mut self) -> Option<proto::Snapshot> {
        let size = *self.sizes.get(self.next)?;
        let empty = if self.next == 0 { &self.first } else { &self.others };
        let part = proto::Snapshot {
            incarnation: self.record.incarnation,
            version: self.record.version,
            part: u32::try_from(self.next).ok()?,
            parts: u32::try_from(self.sizes.len()).ok()?,
            exports: self
                .record
                .exports
                .encodings_after(self.sent)
                .take(size)
                .collect(),
            ..empty.clone()
        };
        self.next += 1;
        self.sent += size;
        Some(part)
    }
}
