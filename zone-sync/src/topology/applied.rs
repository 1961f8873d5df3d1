//! Applied topologies on disk: [`TopologyStore`] holds what an [`Applied`] is begun with.

mod store;

pub use store::{FILE, TopologyFileError, TopologySetAside, TopologyStore};
