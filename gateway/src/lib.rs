//! The `causeway` program as a library, so that tests and the demo can run several zones in one process: what assembles a
//! gateway out of the crates beside it ([`gateway`]), the command line ([`cli`]) and the demo. Nothing here is global.

#![warn(unreachable_pub)]

pub mod cli;
pub mod demo;
pub mod gateway;
mod handover;
mod output;
