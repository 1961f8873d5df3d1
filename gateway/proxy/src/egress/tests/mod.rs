//! The data path end to end: a client's socket, an egress, real tunnels, an ingress and recording instances.

mod callers;
mod hops;
mod http;
mod listeners;
mod moving;
mod one_id;
mod permissions;
mod promises;
mod redirect;
mod traces;
mod traffic;

use std::sync::Arc;

use causeway_federation::topology::Topology;

use crate::testbed;

/// Three zones; `home` asks itself, then `east`, then `west`.
fn topology() -> Arc<Topology> {
    with_service("failover: [{ zone: self }, { zone: east }, { zone: west }]")
}

fn with_service(more: &str) -> Arc<Topology> {
    testbed::topology(
        "  home: {}\n  east: {}\n  west: {}",
        &format!("  orders:\n    port: 8080\n    protocol: tcp\n    {more}"),
    )
}
