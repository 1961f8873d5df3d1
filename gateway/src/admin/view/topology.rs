//! The topology in force, in short: enough to tell whether two gateways run the same.

use serde::{Deserialize, Serialize};

use crate::snapshot::Snapshot;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopologyView {
    /// The first digits of the SHA-256 of the file.
    pub fingerprint: String,
    pub trust_domain: String,
    pub dns_domain: String,
    pub dns_ttl_seconds: u64,
    pub zones: Vec<String>,
    pub services: Vec<String>,
}

#[must_use]
pub fn topology(snapshot: &Snapshot) -> TopologyView {
    let topology = &snapshot.topology;
    TopologyView {
        fingerprint: topology.fingerprint.to_string(),
        trust_domain: topology.trust_domain.clone(),
        dns_domain: topology.dns.domain.clone(),
        dns_ttl_seconds: topology.dns.ttl.as_secs(),
        zones: topology.zones.keys().map(ToString::to_string).collect(),
        services: topology.services.keys().map(ToString::to_string).collect(),
    }
}
