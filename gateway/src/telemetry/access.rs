//! Access log: one line per connection, when it ends.

use std::{net::SocketAddr, time::Duration};

use causeway_zone_sync::name::{GatewayId, ServiceName, Tags, ZoneName};
use serde::Serialize;

/// Which end of a cross-zone connection writes the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Egress,
    Ingress,
}

/// One finished connection.
#[derive(Debug, Clone, Serialize)]
pub struct AccessRecord {
    pub role: Role,
    pub service: ServiceName,
    /// Tags asked for: by the name that was resolved, and by the split arm that was picked.
    pub tags: Tags,
    /// The client's socket address (egress), or none.
    pub client: Option<SocketAddr>,
    /// Where the connection came from.
    pub from_zone: ZoneName,
    /// The zone that served it; `None` when none did.
    pub to_zone: Option<ZoneName>,
    /// The gateway on the other side of the tunnel.
    pub peer: Option<GatewayId>,
    /// The instance that took it (known in its own zone only).
    pub instance: Option<String>,
    /// `served`, or why not: a refusal reason, `no_candidate`, `client_gone`, …
    pub outcome: &'static str,
    /// Candidates that were asked, 1 when the first one answered.
    pub attempts: u32,
    /// From accept to `ready`; `None` if there was none.
    pub ready_after: Option<Duration>,
    pub duration: Duration,
    /// From the client to the instance.
    pub bytes_up: u64,
    /// From the instance to the client.
    pub bytes_down: u64,
}

/// Where access records go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessLog {
    Off,
    Text,
    Json,
}
