//! What a federation knows: the topology, one zone's registry, the catalog of all zones, and how it spreads.
//!
//! The cores here are values and state machines without I/O and without a clock; `service` and `store` are the thin
//! shells around them. Nothing here carries application traffic: that is the gateway's.

pub mod catalog;
pub mod name;
pub mod registry;
pub mod replica;
pub mod service;
pub mod signing;
pub mod store;
pub mod topology;
pub mod trust;
