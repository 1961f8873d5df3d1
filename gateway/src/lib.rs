//! The Causeway gateway: what one zone does. The program is `causeway`; this library holds everything it runs, so that
//! tests and the demo can run several zones in one process. Nothing here is global.

pub mod admin;
pub mod attach;
pub mod audit;
pub mod authority;
pub mod backoff;
pub mod balance;
pub mod callers;
pub mod cli;
pub mod credentials;
pub mod demo;
pub mod dns;
pub mod egress;
pub mod gateway;
pub mod health;
pub mod identity;
pub mod ingress;
pub mod instances;
pub mod join;
pub mod listen;
pub mod permit;
pub mod registration;
pub mod relay;
pub mod reload;
pub mod renewal;
pub mod rotation;
pub mod route;
pub mod snapshot;
pub mod sources;
pub mod target;
pub mod telemetry;
pub mod topology;
pub mod trust;
pub mod tunnel;
pub mod vips;
pub mod zone_sync;

#[cfg(test)]
mod testbed;
