//! State that rules a gateway and changes while it runs: the topology, from a file ([`reload`]) or applied
//! ([`topology`]); the trust document ([`trust`]); its own certificate ([`renewal`]). Topology and trust document are
//! fetched from peers alike ([`documents`]). Demand is asked for all the time ([`demand`]).

#![warn(unreachable_pub)]

pub mod demand;
pub mod documents;
mod metrics;
pub mod places;
pub mod reload;
pub mod renewal;
mod source;
pub mod topology;
pub mod trust;

pub use metrics::ControlMetrics;
pub use source::TopologySource;
