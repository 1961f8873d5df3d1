//! Virtual addresses: which address stands for which name, so that connecting to it is all that an application does.
//!
//! A service's address follows from the names of all services of the topology by hashes, so that it is the same at every gateway
//! of the zone (see `derived`): adding a service moves another only where both hash to one address, and then neither has it. What
//! was given out is kept on disk, so that the address of a service that is gone stays unused for a while. Names by tag
//! and by zone get theirs when they are first asked for. In address mode nothing is given out:
//! every service is at the gateway's own address, and its port tells it apart. That mode has no addresses for names by tag
//! and by zone, because one port cannot tell them apart.
//!
//! When the zone's `vips` change, names have other addresses at once, and those of before are taken for a while longer
//! ([`VipTable::keep_former`]).
//!
//! This module binds no socket: the egress listens on what [`VipTable::bindings`] says.

mod allocator;
mod bindings;
mod derived;
mod error;
mod follow;
mod former;
mod known;
mod labels;
mod listening;
mod names;
mod pool;
mod room;
mod store;
mod table;
#[cfg(test)]
mod tests;

pub use error::VipsError;
pub use follow::follow;
pub(crate) use known::is_visible;
pub(crate) use labels::tag_label;
pub use listening::Listening;
pub use names::{Vip, VipNames};
pub use pool::RangeFull;
pub use room::NoRoomForName;
pub use store::VipStoreError;
pub use table::VipTable;
