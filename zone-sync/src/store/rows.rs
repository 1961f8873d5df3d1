//! Between records and rows: one row for a record's head, one for each of its exports, all as protobuf.

use std::sync::Arc;

use causeway_federation::{
    catalog::{Exports, Record, encode, key_message},
    name::GatewayId,
};
use causeway_proto::sync as proto;
use prost::Message as _;
use redb::{ReadOnlyTable, ReadableTable as _, Table};

use super::{CatalogStoreError, StoredRecords};
use crate::replica::{
    Head, fingerprint_message, framed,
    limits::{MAX_EXPORTS, MAX_PEERS},
    origin_message, read_export, read_fingerprint, read_origin, read_signed, signed_message,
};

type Headers<'t> = Table<'t, &'static str, &'static [u8]>;
type ExportRows<'t> = Table<'t, (&'static str, &'static [u8]), &'static [u8]>;

/// Removes every row of a record.
pub(super) fn remove(
    headers: &mut Headers<'_>,
    exports: &mut ExportRows<'_>,
    old: &Record,
) -> Result<(), CatalogStoreError> {
    let origin = old.origin.to_string();
    headers.remove(origin.as_str())?;
    for export in old.exports.iter() {
        let key = key_message(&export.service, &export.tags).encode_to_vec();
        exports.remove((origin.as_str(), key.as_slice()))?;
    }
    Ok(())
}

/// Writes the rows in which `record` differs from `old`.
pub(super) fn replace(
    headers: &mut Headers<'_>,
    exports: &mut ExportRows<'_>,
    old: Option<&Arc<Record>>,
    record: &Arc<Record>,
) -> Result<(), CatalogStoreError> {
    if old.is_some_and(|old| Arc::ptr_eq(old, record)) {
        return Ok(());
    }
    let origin = record.origin.to_string();
    headers.insert(origin.as_str(), head_row(record).as_slice())?;
    let nothing = Exports::default();
    let before = old.map_or(&nothing, |old| &old.exports);
    for ((service, tags), now) in before.changes(&record.exports) {
        let key = key_message(&service, &tags).encode_to_vec();
        let key = (origin.as_str(), key.as_slice());
        match now {
            Some(export) => match record.exports.foreign(&service, &tags) {
                Some(bytes) => drop(exports.insert(key, &**bytes)?),
                None => drop(exports.insert(key, encode(&export).as_slice())?),
            },
            None => drop(exports.remove(key)?),
        }
    }
    Ok(())
}

/// A record without its exports: what its origin signed, and for programs that know nothing of that the fields they read.
#[must_use]
pub fn head_row(record: &Record) -> Vec<u8> {
    let row = proto::Snapshot {
        origin: Some(origin_message(&record.origin)),
        incarnation: record.incarnation,
        version: record.version,
        part: 0,
        parts: 1,
        exports: Vec::new(),
        draining: record.draining,
        topology: fingerprint_message(&record.topology),
        head: record.signed.as_ref().map(|signed| signed_message(signed, None)),
        outdated: false,
    };
    row.encode_to_vec()
}

pub(super) fn read_all(
    headers: &ReadOnlyTable<&'static str, &'static [u8]>,
    exports: &ReadOnlyTable<(&'static str, &'static [u8]), &'static [u8]>,
) -> Result<StoredRecords, CatalogStoreError> {
    let mut records = StoredRecords::new();
    for row in headers.iter()?.take(MAX_PEERS) {
        let (key, value) = row?;
        let mut record = read_head(value.value())?;
        if record.origin.to_string() != key.value() {
            return Err(CatalogStoreError::Row("a record under another's name"));
        }
        record.exports = read_exports(exports, &record.origin)?;
        records.insert(record.origin.clone(), Arc::new(record));
    }
    Ok(records)
}

/// Reads what [`head_row`] wrote: the record, still without its exports.
///
/// # Errors
/// When the bytes are no such row, or break a limit of zone sync.
pub fn read_head(row: &[u8]) -> Result<Record, CatalogStoreError> {
    let header = proto::Snapshot::decode(row).map_err(|_| CatalogStoreError::Row("a record's head"))?;
    let mut record = Record {
        exports: Exports::default(),
        origin: read_origin(header.origin).map_err(CatalogStoreError::Value)?,
        incarnation: header.incarnation,
        version: header.version,
        draining: header.draining,
        topology: read_fingerprint(&header.topology).map_err(CatalogStoreError::Value)?,
        topology_generation: 0,
        trust: Default::default(),
        trust_ended: 0,
        shifts: Default::default(),
        signed: None,
    };
    if header.head.is_some() {
        let signed = read_signed(header.head, None).map_err(CatalogStoreError::Value)?;
        let head = Head::read(&signed.words).map_err(CatalogStoreError::Value)?;
        framed(&mut record, head, Arc::new(signed));
    }
    Ok(record)
}

fn read_exports(
    exports: &ReadOnlyTable<(&'static str, &'static [u8]), &'static [u8]>,
    origin: &GatewayId,
) -> Result<Exports, CatalogStoreError> {
    let origin = origin.to_string();
    let mut read = Vec::new();
    for row in exports
        .range((origin.as_str(), [].as_slice())..)?
        .take(MAX_EXPORTS)
    {
        let (key, value) = row?;
        if key.value().0 != origin {
            break;
        }
        read.push(read_export(value.value()).map_err(CatalogStoreError::Value)?);
    }
    Ok(read.into_iter().collect())
}
