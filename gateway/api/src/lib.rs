//! The gateway's own APIs: the admin API, registration, and zone-sync as a server; who may use them, and the line for every
//! change that was asked for.

#![warn(unreachable_pub)]

pub mod actor;
pub mod admin;
pub mod audit;
pub mod credentials;
mod dashboard;
pub mod elsewhere;
mod metrics;
pub mod registration;
pub mod zone_sync;

pub use metrics::ApiMetrics;
