//! Values of what a federation knows: names, the topology, one zone's registry, the catalog of all zones, trust documents
//! and signatures.
//!
//! Everything here is pure: no I/O, no clock, no tasks, no logs. How it is kept on disk and how it spreads is the business
//! of `causeway-zone-sync`, which lies around this crate; the gateway decides by it.

#![warn(unreachable_pub)]

pub mod address;
pub mod catalog;
pub mod edition;
pub mod name;
pub mod registry;
pub mod request_path;
pub mod signing;
pub mod topology;
pub mod trust;
