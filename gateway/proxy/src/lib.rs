//! The data path: connections of local clients taken out ([`egress`]), those of other zones taken in ([`ingress`]), and the
//! bytes moved between them ([`relay`]). What to do with a connection is decided by `causeway-routing`; tasks here carry
//! decisions out.
//!
//! At the egress a client comes in by an entrance and goes on as an `Arrival` (`egress/arrival.rs`), gets a place among the
//! [open connections](open), and in the end an `Upstream` (`egress/upstream.rs`): an instance of this zone, or a gateway of
//! another.

#![warn(unreachable_pub)]

pub mod callers;
mod dial;
pub mod egress;
mod http;
pub mod ingress;
pub mod keepalive;
mod metrics;
mod moving;
pub mod open;
pub mod relay;
mod reports;
mod tasks;
#[cfg(test)]
mod testbed;
mod traces;
mod warm;

pub use metrics::{ForbiddenTotals, MoveReason, PermissionOutcome, ProxyMetrics};
