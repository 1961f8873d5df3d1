//! Decisions on a connection, all of them pure: where it goes ([`route`](route::route)), which instance takes it
//! ([`balance`]), who may call whom ([`permit`]), which route rules a request ([`requests`]), what keeps a user's together ([`sticky`]),
//! what can be an instance at all ([`reach`]). They read one immutable [`Snapshot`](snapshot::Snapshot); time and
//! randomness are arguments. Nothing here has a socket, a task, a log line or a metric.

#![warn(unreachable_pub)]

pub mod balance;
pub mod budget;
pub mod callers;
pub mod capacity;
pub mod ending;
pub mod failback;
pub mod failures;
pub mod hops;
pub mod limit_shares;
pub mod limits;
pub mod mirror;
pub mod outlier;
pub mod permit;
pub mod reach;
pub mod requests;
pub mod retry;
pub mod route;
pub mod shift;
pub mod simulate;
mod slow_start;
pub mod snapshot;
pub mod sticky;
pub mod suspicion;
pub mod target;
#[cfg(any(test, feature = "test-util"))]
pub mod testbed;
