//! Label sets of the metrics. Each label takes one of a fixed set of words, or a name that the topology bounds; nothing
//! that a client or a peer can choose freely becomes a label.

use std::sync::Arc;

use causeway_zone_sync::name::GatewayId;
use prometheus_client::encoding::EncodeLabelSet;

/// A service of the topology, or `other`.
pub(super) type ServiceLabel = Arc<str>;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ByRole {
    pub role: &'static str,
    pub service: ServiceLabel,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ByOutcome {
    pub role: &'static str,
    pub service: ServiceLabel,
    pub outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ByDirection {
    pub role: &'static str,
    pub service: ServiceLabel,
    pub direction: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ByServiceReason {
    pub service: ServiceLabel,
    pub reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ByServiceWhy {
    pub service: ServiceLabel,
    pub why: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ByRoleServiceRule {
    pub role: &'static str,
    pub service: ServiceLabel,
    pub rule: &'static str,
    pub result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ByServiceResult {
    pub service: ServiceLabel,
    pub result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct BySideReason {
    pub side: &'static str,
    pub reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ByReason {
    pub reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ByResult {
    pub result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ByAnswer {
    pub kind: &'static str,
    pub rcode: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ByPeer {
    pub zone: String,
    pub gateway: String,
}

impl ByPeer {
    pub fn new(peer: &GatewayId) -> Self {
        Self {
            zone: peer.zone.to_string(),
            gateway: peer.gateway.to_string(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ByPeerState {
    pub zone: String,
    pub gateway: String,
    pub state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ByPeerWay {
    pub zone: String,
    pub gateway: String,
    pub way: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ByPeerSideReason {
    pub zone: String,
    pub gateway: String,
    pub side: &'static str,
    pub reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ByServiceHealth {
    pub service: String,
    pub health: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Build {
    pub version: &'static str,
    pub zone: String,
}
