//! The trust document on disk: [`TrustStore`] holds what a [`Trust`] is begun with.

mod store;

pub use store::{FILE, TrustFileError, TrustSetAside, TrustStore};
