//! Puts one snapshot together from its parts, within bounds. Only one is under way for each session.

use std::collections::BTreeSet;

use causeway_proto::sync as proto;

use super::{
    limits::{MAX_EXPORTS, MAX_HELD_BYTES, MAX_PARTS},
    refusal::Refusal,
    wire::{self, Stamp},
};
use crate::{
    catalog::{Export, Exports, Record},
    name::GatewayId,
};

/// A snapshot of which some parts are here.
#[derive(Debug)]
struct Partial {
    stamp: Stamp,
    parts: u32,
    next: u32,
    exports: Vec<Export>,
    bytes: usize,
}

#[derive(Debug, Default)]
pub struct Assembly {
    partial: Option<Partial>,
}

impl Assembly {
    /// Takes one part; answers the record when it is whole. A part that does not continue what is here, because the
    /// version changed midway or a part was lost, drops what is here: the sender begins anew when it learns of it.
    ///
    /// # Errors
    /// When the part is malformed or the record would break a limit.
    pub fn take(&mut self, origin: &GatewayId, part: proto::Snapshot) -> Result<Option<Record>, Refusal> {
        let stamp = Stamp::new(part.incarnation, part.version)?;
        if part.part >= part.parts || stamp.version == 0 {
            return Err(Refusal::Malformed("a snapshot part is numbered past the last"));
        }
        if part.parts > MAX_PARTS {
            return Err(Refusal::RecordTooLarge);
        }
        if part.part == 0 {
            self.partial = Some(Partial {
                stamp,
                parts: part.parts,
                next: 0,
                exports: Vec::new(),
                bytes: 0,
            });
        }
        let continues = |p: &Partial| p.stamp == stamp && p.parts == part.parts && p.next == part.part;
        let Some(mut partial) = self.partial.take().filter(continues) else {
            return Ok(None);
        };
        partial.add(part.exports)?;
        if partial.next < partial.parts {
            self.partial = Some(partial);
            return Ok(None);
        }
        let topology = wire::read_fingerprint(&part.topology)?;
        Ok(Some(Record {
            origin: origin.clone(),
            incarnation: stamp.incarnation,
            version: stamp.version,
            exports: distinct(partial.exports)?,
            draining: part.draining,
            topology,
        }))
    }
}

impl Partial {
    fn add(&mut self, exports: Vec<proto::Export>) -> Result<(), Refusal> {
        for export in exports {
            self.bytes += wire::export_bytes(&export);
            self.exports.push(wire::read_export(export)?);
            if self.exports.len() > MAX_EXPORTS || self.bytes > MAX_HELD_BYTES {
                return Err(Refusal::RecordTooLarge);
            }
        }
        self.next += 1;
        Ok(())
    }
}

fn distinct(exports: Vec<Export>) -> Result<Exports, Refusal> {
    let given = exports.len();
    let exports: Exports = exports.into_iter().collect();
    if exports.len() == given {
        Ok(exports)
    } else {
        Err(Refusal::Malformed("a record has two exports with the same key"))
    }
}

/// Whether a delta names each key once.
pub fn names_each_key_once(delta: &proto::Delta) -> bool {
    let keys = delta
        .changed
        .iter()
        .filter_map(|export| export.key.as_ref())
        .chain(&delta.removed);
    let mut seen: BTreeSet<_> = BTreeSet::new();
    keys.into_iter().all(|key| seen.insert((&key.service, &key.tags)))
}
