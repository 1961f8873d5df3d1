//! Clients whose service speaks HTTP/1.1: every request on their connections is decided, permitted, timed, counted and
//! logged by itself, so that weights and failover hold for connections that are open.
//!
//! The two promises hold for a request: until an instance has been given a byte of it, any candidate can be left for the
//! next; and one that was given to an instance is given to no other, unless it may be made twice, has no body, and the
//! connection that it went out on had been used before and ended without a byte of an answer.

mod body;
mod checked;
mod expect;
mod forward;
mod interim;
mod record;
mod refuse;
mod serve;
mod upgrade;
mod upstream;
mod upstream_io;
mod watch;
mod watched;
mod write_stall;

pub(super) use serve::{is_spoken, serve};
