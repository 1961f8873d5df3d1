//! The registry of a zone, as it is kept: in a file, or in etcd for several gateways.
//!
//! [`RegistryStore`] is the file that registrations survive a restart in, and [`Writer`] feeds it in batches without ever making
//! the owner of the registry wait. What is registered, and by which rules, is the [`Registry`] of `causeway-federation`.

pub mod etcd;
mod store;
mod writer;

pub use store::{Batch, Opened, RegistryStore, RegistryStoreError, StoredKey};
pub use writer::{Durability, MAX_WAITING, Progress, Writer};
