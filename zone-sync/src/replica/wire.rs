//! Between messages and values: everything that a peer says is checked here, once, before the core looks at it.

use causeway_federation::{
    catalog::{Encoded, Export, ExportKey, Record, encode},
    edition::Fingerprint,
    name::{GatewayId, GatewayName, MAX_TAGS, ServiceName, Tags, ZoneName},
};
use causeway_proto::sync as proto;
use prost::Message as _;

use super::{
    limits::{MAX_EXPORT_BYTES, MAX_INCARNATION, MAX_TAG_KEY_BYTES, MAX_TAG_VALUE_BYTES},
    refusal::SyncRefusal,
};

/// Orders the records of one origin: by incarnation, then version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Stamp {
    pub incarnation: u64,
    /// Counts from 1; 0 means that nothing was said yet.
    pub version: u64,
}

impl Stamp {
    /// Version held of an origin that was never heard of.
    pub const NONE: Self = Self {
        incarnation: 0,
        version: 0,
    };

    #[must_use]
    pub fn of(record: &Record) -> Self {
        Self {
            incarnation: record.incarnation,
            version: record.version,
        }
    }

    /// # Errors
    /// When no honest gateway could have such an incarnation.
    pub fn new(incarnation: u64, version: u64) -> Result<Self, SyncRefusal> {
        if incarnation > MAX_INCARNATION || version == u64::MAX {
            return Err(SyncRefusal::Malformed(
                "an incarnation or version is out of range",
            ));
        }
        Ok(Self { incarnation, version })
    }

    /// Number of versions that whoever holds this one lacks of the newest: all of them, if that is of a later incarnation.
    #[must_use]
    pub(crate) fn versions_to(self, newest: Self) -> u64 {
        match self.incarnation == newest.incarnation {
            true => newest.version.saturating_sub(self.version),
            false if self > newest => 0,
            false => newest.version,
        }
    }
}

pub(crate) fn origin_message(origin: &GatewayId) -> proto::Origin {
    proto::Origin {
        zone: origin.zone.to_string(),
        gateway: origin.gateway.to_string(),
    }
}

pub(crate) fn read_origin(origin: Option<proto::Origin>) -> Result<GatewayId, SyncRefusal> {
    let origin = origin.ok_or(SyncRefusal::Malformed("the origin is missing"))?;
    Ok(GatewayId::new(
        ZoneName::new(&origin.zone).map_err(SyncRefusal::BadName)?,
        GatewayName::new(&origin.gateway).map_err(SyncRefusal::BadName)?,
    ))
}

pub(super) fn known_message(origin: &GatewayId, stamp: Stamp) -> proto::Known {
    proto::Known {
        elsewhere: 0,
        origin: Some(origin_message(origin)),
        incarnation: stamp.incarnation,
        version: stamp.version,
    }
}

pub(super) fn read_known(known: proto::Known) -> Result<(GatewayId, Stamp), SyncRefusal> {
    let stamp = Stamp::new(known.incarnation, known.version)?;
    Ok((read_origin(known.origin)?, stamp))
}

pub(super) fn read_key(key: proto::ExportKey) -> Result<ExportKey, SyncRefusal> {
    let service = ServiceName::new(&key.service).map_err(SyncRefusal::BadName)?;
    let tags: Tags = key.tags.into_iter().collect();
    check_tags(&tags)?;
    Ok((service, tags))
}

fn check_tags(tags: &Tags) -> Result<(), SyncRefusal> {
    let fits = |(key, value): (&str, &str)| {
        let readable = !key.contains(char::is_control) && !value.contains(char::is_control);
        readable && !key.is_empty() && key.len() <= MAX_TAG_KEY_BYTES && value.len() <= MAX_TAG_VALUE_BYTES
    };
    if tags.len() <= MAX_TAGS && tags.iter().all(fits) {
        Ok(())
    } else {
        Err(SyncRefusal::BadTags)
    }
}

/// Checks for what a peer would refuse of an export of our own.
pub(super) fn check_export(export: &Export) -> Result<(), SyncRefusal> {
    if export.healthy > export.instances {
        return Err(SyncRefusal::Malformed(
            "more instances are healthy than there are",
        ));
    }
    check_tags(&export.tags)
}

/// An export, and its bytes when they say more than was understood.
pub(crate) fn read_export(bytes: &[u8]) -> Result<Encoded, SyncRefusal> {
    if bytes.len() > MAX_EXPORT_BYTES {
        return Err(SyncRefusal::ExportTooLarge);
    }
    let message =
        proto::Export::decode(bytes).map_err(|_| SyncRefusal::Malformed("an export cannot be decoded"))?;
    let key = message
        .key
        .ok_or(SyncRefusal::Malformed("an export has no key"))?;
    let (service, tags) = read_key(key)?;
    let export = Export {
        service,
        tags,
        instances: message.instances,
        healthy: message.healthy,
        weight: message.weight,
        capacity_per_second: Some(message.capacity_per_second).filter(|capacity| *capacity > 0),
    };
    check_export(&export)?;
    let foreign = (encode(&export) != bytes).then(|| bytes.into());
    Ok((export, foreign))
}

/// Size in bytes that `length` bytes take as an element of a repeated field.
pub(super) fn element_bytes(length: usize) -> usize {
    length + 1 + prost::length_delimiter_len(length)
}

pub(crate) fn fingerprint_message(fingerprint: &Fingerprint) -> Vec<u8> {
    if *fingerprint == Fingerprint::default() {
        Vec::new()
    } else {
        fingerprint.0.to_vec()
    }
}

/// As [`fingerprint_message`], cut to what is compared.
pub(super) fn short_fingerprint(fingerprint: &Fingerprint) -> Vec<u8> {
    match *fingerprint == Fingerprint::default() {
        true => Vec::new(),
        false => fingerprint.compared().to_vec(),
    }
}

/// A fingerprint as protocol 1 and the store have it, whole, or as a statement has it, cut.
pub(crate) fn read_fingerprint(bytes: &[u8]) -> Result<Fingerprint, SyncRefusal> {
    let mut fingerprint = Fingerprint::default();
    if bytes.is_empty() {
        return Ok(fingerprint);
    }
    match bytes.len() {
        Fingerprint::COMPARED_BYTES | 32 => fingerprint.0[..bytes.len()].copy_from_slice(bytes),
        _ => {
            return Err(SyncRefusal::Malformed(
                "a topology fingerprint is not 16 or 32 bytes long",
            ));
        }
    }
    Ok(fingerprint)
}

pub(super) fn message(body: proto::sync_message::Body) -> proto::SyncMessage {
    proto::SyncMessage { body: Some(body) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_counted_within_an_incarnation() {
        let newest = Stamp::new(2, 9).unwrap();
        let lacks = |incarnation, version| Stamp::new(incarnation, version).unwrap().versions_to(newest);
        assert_eq!((lacks(2, 7), lacks(2, 9)), (2, 0));
        // It is of an earlier start, and has none of these versions.
        assert_eq!((lacks(1, 50), Stamp::NONE.versions_to(newest)), (9, 9));
        // More than was ever told; a new incarnation is on its way.
        assert_eq!(lacks(3, 1), 0);
    }
}
