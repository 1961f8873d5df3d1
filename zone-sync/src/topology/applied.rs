//! Applied topologies on disk: [`Store`] holds what an [`Applied`] is begun with.

mod store;

pub use store::{FILE, SetAside, Store, StoreError};
