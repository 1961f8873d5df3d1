//! Virtual addresses: which address stands for which name, so that connecting to it is all that an application does.
//!
//! A name's address comes from a hash of the name, with probing where two names meet, and is kept on disk: the same name
//! keeps its address over restarts, and adding a name never moves another. Services that this zone may see have theirs from
//! the start; names by tag and by zone get theirs when they are first asked for. In address mode nothing is given out:
//! every service is at the gateway's own address, and its port tells it apart. That mode has no addresses for names by tag
//! and by zone, because one port cannot tell them apart.
//!
//! This module binds no socket: the egress listens on what [`VipTable::bindings`] says.

mod allocator;
mod known;
mod listening;
mod names;
mod pool;
mod store;
mod table;
#[cfg(test)]
mod tests;

pub use known::{is_visible, tag_label, tag_pairs};
pub use listening::Listening;
pub use names::{Vip, VipNames};
pub use pool::RangeFull;
pub use store::StoreError;
pub use table::{VipTable, VipsError, follow};
