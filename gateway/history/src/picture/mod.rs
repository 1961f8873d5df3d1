//! What a gateway knows at one moment, as far as the history tells of it, and what happened between two such moments. Pure.
//!
//! This is the one place in which it is decided what an event is: no part of the gateway tells of events by itself.

mod peers;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc};

use causeway_federation::name::GatewayId;
use causeway_routing::snapshot::Snapshot;

use crate::event::NewEvent;

/// Everything that is compared.
#[derive(Debug, Clone)]
pub struct Picture {
    pub snapshot: Arc<Snapshot>,
    /// Reasons why there is no tunnel with a gateway, in words.
    pub absences: BTreeMap<GatewayId, String>,
}

/// Tells what happened between two pictures, in an order in which causes come before what follows from them.
#[must_use]
pub fn events(before: &Picture, after: &Picture) -> Vec<NewEvent> {
    let mut events = Vec::new();
    peers::tunnels(before, after, &mut events);
    events
}
