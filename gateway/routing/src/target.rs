//! Service, tags and zone that a client asked for by the name it resolved.

use std::{collections::BTreeMap, fmt, net::SocketAddr, sync::Arc};

use causeway_federation::name::{PortName, ServiceName, Tags, ZoneName};
use serde::{Deserialize, Serialize};

/// `orders.mesh`, `version-v2.orders.mesh` or `orders.west.zone.mesh`: a service, perhaps only some of its instances.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Target {
    pub service: ServiceName,
    /// Only instances that carry all of these.
    pub tags: Tags,
    /// Only this zone; `None`: wherever the topology says.
    pub zone: Option<ZoneName>,
}

impl Target {
    #[must_use]
    pub fn service(service: ServiceName) -> Self {
        Self {
            service,
            tags: Tags::default(),
            zone: None,
        }
    }

    /// Tells whether it is a service as a whole, with no tags and no zone asked for.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.tags.is_empty() && self.zone.is_none()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.service)?;
        if !self.tags.is_empty() {
            write!(f, "{}", self.tags)?;
        }
        if let Some(zone) = &self.zone {
            write!(f, "@{zone}")?;
        }
        Ok(())
    }
}

/// Meaning of one virtual address and port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Binding {
    pub target: Target,
    /// Port of the service; `None`: its only one, which has no name.
    pub port: Option<PortName>,
}

impl From<Target> for Binding {
    /// At the only port of the service.
    fn from(target: Target) -> Self {
        Self { target, port: None }
    }
}

/// `orders`, `orders:admin`.
impl fmt::Display for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.target)?;
        match &self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

/// Meaning of each virtual address and port: what the egress listens on.
pub type Bindings = Arc<BTreeMap<SocketAddr, Binding>>;
