//! Messages that the two processes of a hand-over exchange: JSON, so that every version can read who asks.

use std::net::SocketAddr;

use causeway_control::topology::AppliedTopology;
use causeway_federation::{name::GatewayId, registry::InstanceKey};
use causeway_host::{handed::OwnUnixSocket, listen::FileNumber};
use causeway_instances::KnownHealth;
use causeway_routing::{outlier::CarriedEjection, snapshot::Health};
use causeway_tunnel::ThreadPlaces;
use serde::{Deserialize, Serialize};

use crate::gateway::Findings;

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
    /// It goes on with unix sockets. One that does not makes them anew.
    #[serde(default)]
    pub(super) takes_unix: bool,
}

/// Answer to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    Refused { why: String },
    Agreed(Agreed),
}

/// Description of what comes beside it: first the socket for relaying to this process, then those to each process before, then all others,
/// of which unix sockets are the last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Agreed {
    pub(super) start_id: u64,
    pub(super) places: ThreadPlaces,
    pub(super) relays: Vec<ThreadPlaces>,
    pub(super) sockets: usize,
    /// Files of the unix sockets.
    #[serde(default)]
    pub(super) unix: Vec<UnixSocketFile>,
    #[serde(default)]
    pub(super) topology: AppliedText,
}

/// File of a unix socket, with its number, by which every process finds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct UnixSocketFile {
    pub(super) path: String,
    pub(super) number: FileNumber,
}

/// Applied topology in force, which is in a file that one process has at a time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum AppliedText {
    /// The process is ruled by a file, or of a version that does not say.
    #[default]
    Untold,
    /// Nothing was applied yet.
    Nothing,
    Text(String),
}

/// Word of the successor that all is prepared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ready {}

/// Word of the predecessor that it has let go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LetGo {
    pub(super) health: Vec<FoundInstance>,
    #[serde(default)]
    pub(super) ejections: Vec<CarriedEjection>,
    /// Gateways that the process has tunnels with.
    #[serde(default)]
    pub(super) linked: Vec<LinkedGateway>,
}

/// Name of a gateway of another zone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LinkedGateway {
    zone: String,
    gateway: String,
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

impl UnixSocketFile {
    pub(super) fn of(socket: &OwnUnixSocket) -> Self {
        Self {
            path: socket.path.display().to_string(),
            number: socket.number,
        }
    }
}

impl AppliedText {
    /// `None`: nothing can be applied.
    pub(crate) fn of(applied: Option<&AppliedTopology>) -> Self {
        let Some(applied) = applied else {
            return Self::Untold;
        };
        let view = applied.view();
        let document = view.applied.document();
        document.map_or(Self::Nothing, |document| Self::Text(document.text().to_string()))
    }
}

impl LetGo {
    pub(super) fn new(findings: &Findings) -> Self {
        let known = findings
            .health
            .iter()
            .filter(|(_, health)| **health != Health::Unknown);
        let found = known.map(|(key, health)| FoundInstance {
            service: key.service.to_string(),
            id: key.id.clone(),
            healthy: *health == Health::Healthy,
        });
        Self {
            health: found.collect(),
            ejections: findings.ejections.clone(),
            linked: findings.linked.iter().map(LinkedGateway::of).collect(),
        }
    }

    /// Passes over what is no name.
    pub(super) fn findings(self) -> Findings {
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
        Findings {
            health: known.collect::<KnownHealth>(),
            ejections: self.ejections,
            linked: self.linked.iter().filter_map(LinkedGateway::read).collect(),
        }
    }
}

impl LinkedGateway {
    fn of(gateway: &GatewayId) -> Self {
        Self {
            zone: gateway.zone.to_string(),
            gateway: gateway.gateway.to_string(),
        }
    }

    fn read(&self) -> Option<GatewayId> {
        Some(GatewayId::new(
            self.zone.parse().ok()?,
            self.gateway.parse().ok()?,
        ))
    }
}

#[cfg(test)]
mod tests {
    use causeway_routing::outlier::{EjectedPart, FailureCounts};

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
    fn what_is_known_of_instances_survives_the_way() {
        let key = |id: &str| InstanceKey {
            service: "orders".parse().unwrap(),
            id: id.to_owned(),
        };
        let health = KnownHealth::from([
            (key("a"), Health::Healthy),
            (key("b"), Health::Unhealthy),
            (key("c"), Health::Unknown),
        ]);
        let ejections = [
            EjectedPart::Instance(7),
            EjectedPart::Zone([("version", "v1")].into_iter().collect()),
        ];
        let ejections = ejections.map(|part| CarriedEjection {
            service: "orders".parse().unwrap(),
            port: None,
            zone: "west".parse().unwrap(),
            part,
            began_ago: 1,
            ends_in: 2,
            failures: FailureCounts::default(),
            times: 3,
        });
        let mut findings = Findings {
            health,
            ejections: ejections.to_vec(),
            linked: [GatewayId::new("west".parse().unwrap(), "gw1".parse().unwrap())].into(),
        };
        let bytes = serde_json::to_vec(&LetGo::new(&findings)).unwrap();
        let told: LetGo = serde_json::from_slice(&bytes).unwrap();
        findings.health.remove(&key("c"));
        assert_eq!(told.findings(), findings);
        // Of a process that told of health alone.
        let told: LetGo = serde_json::from_str(r#"{"health":[]}"#).unwrap();
        assert_eq!(told.findings(), Findings::default());
    }
}
