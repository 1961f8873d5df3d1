//! Tunnels over real loopback sockets: coming up, being refused, carrying streams, and ending.

#![allow(clippy::unwrap_used, reason = "what fails in a test program fails the test")]

mod demand;
mod life;
mod post_quantum;
mod refusals;
mod renewal;
mod restart;
mod revocation;
mod streams;
mod succession;
mod support;
mod trust_domains;
mod unread;
mod yielding;
