//! Reasons why a name has no virtual address.

use super::{pool::RangeFull, room::NoRoomForName, store::VipStoreError};

/// Reason why a name has no virtual address.
#[derive(Debug, thiserror::Error)]
pub enum VipsError {
    #[error("cannot give every name a virtual address")]
    RangeFull(#[source] RangeFull),
    #[error(transparent)]
    NoRoom(NoRoomForName),
    #[error("names by tag and by zone have no address when all services share the gateway's own")]
    SharedAddress,
    #[error("`{0}` is not in the topology")]
    UnknownName(String),
    #[error("virtual addresses will not outlive a restart")]
    Store(#[source] VipStoreError),
}
