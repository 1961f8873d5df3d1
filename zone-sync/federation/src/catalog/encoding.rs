//! The encoding of an export: the bytes that travel, are stored and are summed up. Reading them, with all its checks,
//! is the replica's.

use causeway_proto::sync as proto;
use prost::Message as _;

use super::Export;
use crate::name::{ServiceName, Tags};

/// Writes down what an export is found by.
#[must_use]
pub fn key_message(service: &ServiceName, tags: &Tags) -> proto::ExportKey {
    proto::ExportKey {
        service: service.to_string(),
        tags: tags.iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
    }
}

pub(super) fn export_message(export: &Export) -> proto::Export {
    proto::Export {
        key: Some(key_message(&export.service, &export.tags)),
        instances: export.instances,
        healthy: export.healthy,
        weight: export.weight,
        capacity_per_second: export.capacity_per_second.unwrap_or(0),
    }
}

/// Gives the same bytes for equal exports, on every gateway: fields in order, tags sorted, defaults left out.
#[must_use]
pub fn encode(export: &Export) -> Vec<u8> {
    export_message(export).encode_to_vec()
}
