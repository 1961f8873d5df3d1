//! The trust document on disk: [`Store`] holds what a [`Trust`] is begun with.

mod store;

pub use store::{FILE, SetAside, Store, StoreError};
