//! Clients whose service speaks HTTP, of either version: every request on their connections is decided, permitted, timed, counted and
//! logged by itself, so that weights and failover hold for connections that are open. Instances of `protocol: http` are given
//! HTTP/1.1, and those of `grpc` HTTP/2, whatever the client speaks.
//!
//! The two promises hold for a request: until an instance has been given a byte of it, any candidate can be left for the
//! next; and one that was given to an instance is given to no other, unless the instance has said by HTTP/2 that it has not read it, or
//! it may be made twice, has no body, and the connection that it went out on had been used before and ended without a byte of
//! an answer, or its service declares retries.

mod answers;
mod attempt;
mod body;
mod checked;
mod expect;
mod forward;
mod interim;
mod kept;
mod mirror;
mod misdirected;
mod policy;
mod preface;
mod prepare;
mod reach;
mod record;
mod refuse;
mod replay;
mod sent;
mod serve;
mod shared;
mod spare;
mod tee;
mod unread;
mod upgrade;
mod upstream;
mod upstream_io;
mod version2;
mod watch;
mod watched;

pub(super) use serve::{is_spoken, serve};
pub(super) use unread::UnreadBytes;
