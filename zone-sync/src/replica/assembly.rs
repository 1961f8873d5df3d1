//! Puts one snapshot together from its parts, within bounds. Only one is under way for each session.

use std::{sync::Arc, time::Instant};

use causeway_federation::{
    catalog::{Encoded, Exports, Record},
    name::GatewayId,
    signing::Signed,
};
use causeway_proto::sync as proto;

use super::{
    head::Head,
    limits::{MAX_EXPORTS, MAX_HELD_BYTES, MAX_PARTS},
    refusal::SyncRefusal,
    wire::{self, Stamp},
};

/// Part of a snapshot that goes with its exports.
#[derive(Debug, Clone)]
pub(super) enum Framing {
    /// Protocol 1: the fields of the last part say it.
    Flat,
    /// Head that the origin signed.
    Signed(Head, Arc<Signed>),
}

/// A snapshot of which some parts are here.
#[derive(Debug)]
struct Partial {
    /// Time at which the first part came.
    began: Instant,
    origin: GatewayId,
    stamp: Stamp,
    parts: u32,
    next: u32,
    framing: Framing,
    exports: Vec<Encoded>,
    bytes: usize,
}

#[derive(Debug, Default)]
pub(super) struct Assembly {
    partial: Option<Partial>,
}

impl Assembly {
    /// Takes one part; answers the record when it is whole, and when its first part came. A part that does not continue what is here, because the
    /// version changed midway or a part was lost, drops what is here: the sender begins anew when it learns of it.
    /// `framing` comes with part 0.
    ///
    /// # Errors
    /// When the part is malformed or the record would break a limit.
    pub(super) fn take(
        &mut self,
        now: Instant,
        origin: &GatewayId,
        part: proto::Snapshot,
        framing: Option<Framing>,
    ) -> Result<Option<(Record, Instant)>, SyncRefusal> {
        let stamp = Stamp::new(part.incarnation, part.version)?;
        if part.part >= part.parts || stamp.version == 0 {
            return Err(SyncRefusal::Malformed(
                "a snapshot part is numbered past the last",
            ));
        }
        if part.parts > MAX_PARTS {
            return Err(SyncRefusal::RecordTooLarge);
        }
        if let Some(framing) = framing {
            self.partial = Some(Partial {
                began: now,
                origin: origin.clone(),
                stamp,
                parts: part.parts,
                next: 0,
                framing,
                exports: Vec::new(),
                bytes: 0,
            });
        }
        let continues = |p: &Partial| {
            p.origin == *origin && p.stamp == stamp && p.parts == part.parts && p.next == part.part
        };
        let Some(mut partial) = self.partial.take().filter(continues) else {
            return Ok(None);
        };
        partial.add(&part.exports)?;
        if partial.next < partial.parts {
            self.partial = Some(partial);
            return Ok(None);
        }
        let began = partial.began;
        Ok(Some((partial.finish(&part)?, began)))
    }
}

impl Partial {
    fn add(&mut self, exports: &[Vec<u8>]) -> Result<(), SyncRefusal> {
        for export in exports {
            self.bytes += wire::element_bytes(export.len());
            self.exports.push(wire::read_export(export)?);
            if self.exports.len() > MAX_EXPORTS || self.bytes > MAX_HELD_BYTES {
                return Err(SyncRefusal::RecordTooLarge);
            }
        }
        self.next += 1;
        Ok(())
    }

    fn finish(self, last: &proto::Snapshot) -> Result<Record, SyncRefusal> {
        let given = self.exports.len();
        let exports: Exports = self.exports.into_iter().collect();
        if exports.len() != given {
            return Err(SyncRefusal::Malformed(
                "a record has two exports with the same key",
            ));
        }
        let mut record = Record {
            origin: self.origin,
            incarnation: self.stamp.incarnation,
            version: self.stamp.version,
            exports,
            draining: last.draining,
            topology: Default::default(),
            topology_generation: 0,
            trust: Default::default(),
            trust_ended: 0,
            shifts: Default::default(),
            signed: None,
        };
        match self.framing {
            Framing::Flat => record.topology = wire::read_fingerprint(&last.topology)?,
            Framing::Signed(head, signed) => {
                let digest = head.digest;
                framed(&mut record, head, signed);
                if record.exports.digest() != digest {
                    return Err(SyncRefusal::DigestMismatch);
                }
            }
        }
        Ok(record)
    }
}

/// Puts into `record` what its origin signed. Whether the digest fits is for the caller to see.
pub(crate) fn framed(record: &mut Record, head: Head, signed: Arc<Signed>) {
    record.incarnation = head.stamp.incarnation;
    record.version = head.stamp.version;
    record.draining = head.draining;
    record.topology = head.topology;
    record.topology_generation = head.topology_generation;
    record.trust = head.trust;
    record.trust_ended = head.trust_ended;
    record.shifts = head.shifts;
    record.signed = Some(signed);
}
