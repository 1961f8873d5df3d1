//! Real `causeway` processes on loopback, by what is asked of them. One program, so that a test that waits leaves the processor to another.
//!
//! Memory, descriptors and round trips are measured alone, by programs beside this folder.

#![allow(clippy::unwrap_used, reason = "what fails in a test program fails the test")]

mod callers;
mod calls;
mod criticality;
mod drain;
mod examples;
mod failover;
mod following;
mod handover;
mod handover_decisions;
mod handover_state;
mod handover_steps;
mod handover_strangers;
mod history;
mod instance_drain;
mod join;
mod live;
mod matrix;
mod measured_capacity;
mod mirrors;
mod netcheck;
mod one_view;
mod panic;
mod permissions;
mod ports;
mod refusals;
mod requests_by_caller;
mod restart;
mod retries;
mod rights;
mod shared_registry;
mod shares;
mod shed;
mod shift;
mod shutdown;
mod silence;
mod simulated;
mod slow_start;
mod spill;
mod sticky;
mod topology;
mod traffic;
mod trust;
mod unread;
mod workload_api;
mod zone_sync;
