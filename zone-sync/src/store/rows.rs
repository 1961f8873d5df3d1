//! Between records and rows: one row for a record's head, one for each of its exports, all as protobuf.

use std::sync::Arc;

use causeway_proto::sync as proto;
use prost::Message as _;
use redb::{ReadOnlyTable, ReadableTable as _, Table};

use super::{Records, StoreError};
use crate::{
    catalog::{Exports, Record},
    name::GatewayId,
    replica::{
        export_message, fingerprint_message, key_message,
        limits::{MAX_EXPORTS, MAX_PEERS},
        origin_message, read_export, read_fingerprint, read_origin,
    },
};

type Headers<'t> = Table<'t, &'static str, &'static [u8]>;
type ExportRows<'t> = Table<'t, (&'static str, &'static [u8]), &'static [u8]>;

/// Removes every row of a record.
pub fn remove(
    headers: &mut Headers<'_>,
    exports: &mut ExportRows<'_>,
    old: &Record,
) -> Result<(), StoreError> {
    let origin = old.origin.to_string();
    headers.remove(origin.as_str())?;
    for export in old.exports.iter() {
        let key = key_message(&export.service, &export.tags).encode_to_vec();
        exports.remove((origin.as_str(), key.as_slice()))?;
    }
    Ok(())
}

/// Writes the rows in which `record` differs from `old`.
pub fn replace(
    headers: &mut Headers<'_>,
    exports: &mut ExportRows<'_>,
    old: Option<&Arc<Record>>,
    record: &Arc<Record>,
) -> Result<(), StoreError> {
    if old.is_some_and(|old| Arc::ptr_eq(old, record)) {
        return Ok(());
    }
    let origin = record.origin.to_string();
    headers.insert(origin.as_str(), header(record).encode_to_vec().as_slice())?;
    let nothing = Exports::default();
    let before = old.map_or(&nothing, |old| &old.exports);
    for ((service, tags), now) in before.changes(&record.exports) {
        let key = key_message(&service, &tags).encode_to_vec();
        let key = (origin.as_str(), key.as_slice());
        match now {
            Some(export) => drop(exports.insert(key, export_message(&export).encode_to_vec().as_slice())?),
            None => drop(exports.remove(key)?),
        }
    }
    Ok(())
}

/// A record without its exports.
fn header(record: &Record) -> proto::Snapshot {
    proto::Snapshot {
        origin: Some(origin_message(&record.origin)),
        incarnation: record.incarnation,
        version: record.version,
        part: 0,
        parts: 1,
        exports: Vec::new(),
        draining: record.draining,
        topology: fingerprint_message(&record.topology),
    }
}

pub fn read_all(
    headers: &ReadOnlyTable<&'static str, &'static [u8]>,
    exports: &ReadOnlyTable<(&'static str, &'static [u8]), &'static [u8]>,
) -> Result<Records, StoreError> {
    let mut records = Records::new();
    for row in headers.iter()?.take(MAX_PEERS) {
        let (key, value) = row?;
        let header =
            proto::Snapshot::decode(value.value()).map_err(|_| StoreError::Row("a record's head"))?;
        let origin = read_origin(header.origin).map_err(StoreError::Value)?;
        if origin.to_string() != key.value() {
            return Err(StoreError::Row("a record under another's name"));
        }
        let record = Record {
            exports: read_exports(exports, &origin)?,
            origin,
            incarnation: header.incarnation,
            version: header.version,
            draining: header.draining,
            topology: read_fingerprint(&header.topology).map_err(StoreError::Value)?,
        };
        records.insert(record.origin.clone(), Arc::new(record));
    }
    Ok(records)
}

fn read_exports(
    exports: &ReadOnlyTable<(&'static str, &'static [u8]), &'static [u8]>,
    origin: &GatewayId,
) -> Result<Exports, StoreError> {
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
        let export = proto::Export::decode(value.value()).map_err(|_| StoreError::Row("an export"))?;
        read.push(read_export(export).map_err(StoreError::Value)?);
    }
    Ok(read.into_iter().collect())
}
