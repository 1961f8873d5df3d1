//! Label sets of metrics that several parts of a gateway have. Each label, here and in the parts' own sets, takes one of a
//! fixed set of words, or a name that the topology bounds; nothing that a client or a peer can choose freely becomes one.

use causeway_federation::name::GatewayId;
use prometheus_client::encoding::EncodeLabelSet;

pub use super::services::{ArmLabel, ServiceLabel, ZoneLabel};
use super::{series::NamedLabels, services::KnownNames};

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByServiceResult {
    pub service: ServiceLabel,
    pub result: &'static str,
}

impl NamedLabels for ByPeer {
    fn is_named(&self, known: &KnownNames) -> bool {
        known.has_zone(&self.zone)
    }
}

impl NamedLabels for ByPeerWay {
    fn is_named(&self, known: &KnownNames) -> bool {
        known.has_zone(&self.zone)
    }
}

impl NamedLabels for ByServiceResult {
    fn is_named(&self, known: &KnownNames) -> bool {
        known.has_service(&self.service)
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct BySideReason {
    pub side: &'static str,
    pub reason: &'static str,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByReason {
    pub reason: &'static str,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByResult {
    pub result: &'static str,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByPeer {
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

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByPeerState {
    pub zone: String,
    pub gateway: String,
    pub state: &'static str,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByPeerWay {
    pub zone: String,
    pub gateway: String,
    pub way: &'static str,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByWay {
    pub way: &'static str,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByServiceHealth {
    pub service: String,
    pub health: &'static str,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Build {
    pub version: &'static str,
    pub zone: String,
}
