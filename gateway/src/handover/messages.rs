//! Messages that the two processes of a hand-over exchange: JSON, so that every version can read who asks.

use std::net::SocketAddr;

use causeway_federation::registry::InstanceKey;
use causeway_instances::KnownHealth;
use causeway_routing::snapshot::Health;
use causeway_tunnel::ThreadPlaces;
use serde::{Deserialize, Serialize};

/// Version of this conversation. It changes where a process could not go on with what another hands over.
pub(super) const VERSION: u32 = 1;

/// First message of a successor. Fields that a later version adds are passed over, and those that it leaves out are empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TakeOverRequest {
    pub(super) version: u32,
    /// Of the program, for the log.
    #[serde(default)]
    pub(super) program: String,
    /// Name of the gateway with its trust domain, as in its certificate.
    #[serde(default)]
    pub(super) gateway: String,
    /// Data threads.
    #[serde(default)]
    pub(super) threads: usize,
    /// Address of tunnels.
    #[serde(default)]
    pub(super) listen: Option<SocketAddr>,
}

/// Answer to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    Refused { why: String },
    Agreed(Agreed),
}

/// Description of what comes beside it: first the socket for relaying to this process, then those to each process before, then all others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Agreed {
    pub(super) start_id: u64,
    pub(super) places: ThreadPlaces,
    pub(super) relays: Vec<ThreadPlaces>,
    pub(super) sockets: usize,
}

/// Word of the successor that all is prepared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ready {}

/// Word of the predecessor that it has let go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LetGo {
    pub(super) health: Vec<FoundInstance>,
}

/// Word of the successor that it serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Started {}

/// Health of one instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FoundInstance {
    service: String,
    id: String,
    healthy: bool,
}

impl LetGo {
    pub(super) fn new(health: &KnownHealth) -> Self {
        let known = health.iter().filter(|(_, health)| **health != Health::Unknown);
        let found = known.map(|(key, health)| FoundInstance {
            service: key.service.to_string(),
            id: key.id.clone(),
            healthy: *health == Health::Healthy,
        });
        Self {
            health: found.collect(),
        }
    }

    /// Passes over what is no name.
    pub(super) fn known_health(self) -> KnownHealth {
        let known = self.health.into_iter().filter_map(|found| {
            let key = InstanceKey {
                service: found.service.parse().ok()?,
                id: found.id,
            };
            let health = match found.healthy {
                true => Health::Healthy,
                false => Health::Unhealthy,
            };
            Some((key, health))
        });
        known.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_is_read_whatever_the_version() {
        let later = r#"{"version":7,"program":"causeway 9.0.0","moon":"full"}"#;
        let ask: TakeOverRequest = serde_json::from_str(later).unwrap();
        assert_eq!(
            (ask.version, ask.program.as_str(), ask.threads),
            (7, "causeway 9.0.0", 0)
        );
    }

    #[test]
    fn health_survives_the_way() {
        let key = |id: &str| InstanceKey {
            service: "orders".parse().unwrap(),
            id: id.to_owned(),
        };
        let mut health = KnownHealth::from([
            (key("a"), Health::Healthy),
            (key("b"), Health::Unhealthy),
            (key("c"), Health::Unknown),
        ]);
        let bytes = serde_json::to_vec(&LetGo::new(&health)).unwrap();
        let told: LetGo = serde_json::from_slice(&bytes).unwrap();
        health.remove(&key("c"));
        assert_eq!(told.known_health(), health);
    }
}
