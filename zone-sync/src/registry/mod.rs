//! The registry: the instances of one zone, as registered there. It never leaves the zone.

use std::{net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::name::{ServiceName, Tags};

/// One instance, as its owner announces it. `(service, id)` is its key: registering again replaces it and renews its lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    pub service: ServiceName,
    /// Unique within the service and zone; the address by default.
    pub id: String,
    pub address: SocketAddr,
    pub tags: Tags,
    /// Share of traffic relative to its peers; 0 takes no new connections.
    pub weight: u32,
    pub capacity_per_second: Option<u64>,
    /// How long the registration lives without being renewed; `None`: until it is deregistered.
    pub time_to_live: Option<Duration>,
}
