//! Tunnels over real loopback sockets: coming up, being refused, carrying streams, and ending.

mod life;
mod refusals;
mod streams;
mod support;
