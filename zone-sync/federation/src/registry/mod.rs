//! The registry: the instances of one zone, as registered there. It never leaves the zone.
//!
//! [`Registry`] is told the time and touches no disk: how registrations survive a restart, and how several gateways share
//! one registry, is the business of `causeway-zone-sync`. Health is not known here: it is the gateway's. The topology is
//! not known here either: a registration for a service that no topology declares (yet) is kept, because a service is
//! often rolled out before the file that names it, and whoever publishes instances decides that such an instance gets no
//! traffic until the service is declared.
//!
//! Each instance has its [`InstanceSource`], and a source only ever removes what it put in. Adding a source (an orchestrator,
//! another store): a program outside the gateway needs nothing here; it hands over all that it knows under a name of its
//! own. One that is built in is a variant of [`InstanceSource`] at its place in the order of precedence, and a task of the
//! gateway that calls the same replacement (gateway/instances/src/sources/mod.rs).

use std::{net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::name::{ServiceName, Tags};

mod limits;
mod provenance;
mod replacement;
mod session;
mod source;
mod state;
pub mod wire;

pub use limits::{
    MAX_ID_BYTES, MAX_INSTANCES_PER_SERVICE, MAX_INSTANCES_PER_ZONE, MAX_NAMED_SOURCES, MAX_TAG_KEY_BYTES,
    MAX_TAG_VALUE_BYTES, RegistryError, check,
};
pub use provenance::Provenance;
pub use replacement::{Replaced, Replacement};
pub use session::{CallSession, GatewaySession, SessionError};
pub use source::InstanceSource;
pub use state::{Registered, Registry, RegistryEntry};

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
    /// Time for which the registration lives without being renewed; `None`: until it is deregistered.
    pub time_to_live: Option<Duration>,
    #[serde(default, skip_serializing_if = "Provenance::is_this_host")]
    pub provenance: Provenance,
}

impl Registration {
    #[must_use]
    pub fn key(&self) -> InstanceKey {
        InstanceKey {
            service: self.service.clone(),
            id: self.id.clone(),
        }
    }
}

/// Names one instance of this zone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct InstanceKey {
    pub service: ServiceName,
    pub id: String,
}

impl std::fmt::Display for InstanceKey {
    /// `orders/10.1.0.11:8080`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.service, self.id)
    }
}
