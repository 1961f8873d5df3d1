//! Measures what a large federation costs, on the replica that gateways run: memory, messages, bytes, round trips, time.
//!
//! It needs no gateway and no socket: messages are encoded, carried by hand, and decoded. What they cost below that
//! (gRPC, HTTP/2, QUIC) is not in the figures; docs/scale.md says what to add. `make bench-scale` runs it.

mod carry;
mod origin;
mod receiver;
mod show;
mod world;

use std::env;

/// The allocator of the gateway, so that memory is what a gateway would take.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Size of the federation, and how long is measured.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    pub zones: usize,
    /// Exports of each zone.
    pub exports: usize,
    /// Changes in each round.
    pub changes: usize,
    pub rounds: usize,
}

fn number(name: &str, default: usize) -> usize {
    env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

fn main() {
    // Cargo runs benchmarks with `--bench`; as a test, without it, a small federation shows that all of it works.
    let full = env::args().any(|argument| argument == "--bench");
    let size = Size {
        zones: number("ZONES", if full { 1_000 } else { 5 }),
        exports: number("EXPORTS", if full { 1_000 } else { 20 }),
        changes: number("CHANGES", if full { 5_000 } else { 20 }),
        rounds: number("ROUNDS", if full { 5 } else { 1 }),
    };
    show::heading(&format!("{size:?}"));
    receiver::run(size);
    origin::run(size);
}
