//! Messages that the two processes of a hand-over exchange: JSON, so that every version can read who asks.

use std::net::SocketAddr;

use causeway_control::topology::AppliedTopology;
use causeway_federation::{name::GatewayId, registry::InstanceKey};
use causeway_host::{handed::OwnUnixSocket, listen::FileNumber};
use causeway_instances::KnownHealth;
use causeway_routing::{
    capacity::CarriedEstimate,
    failback::CarriedTier,
    limits::{CarriedLimits, CarriedRate, CarriedUse},
    outlier::CarriedEjection,
    shift::CarriedShift,
    snapshot::Health,
};
use causeway_tunnel::ThreadPlaces;
use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::gateway::Findings;

/// Version of this conversation. It changes where a process could not go on with what another hands over.
pub(super) const VERSION: u32 = 1;

/// Most elements of each list of what has changed with time and traffic: of more the last begin anew.
const MAX_CARRIED: usize = 10_000;

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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct LetGo {
    pub(super) health: Vec<FoundInstance>,
    #[serde(default, deserialize_with = "known_ones")]
    pub(super) ejections: Vec<CarriedEjection>,
    /// Gateways that the process has tunnels with.
    #[serde(default, deserialize_with = "known_ones")]
    pub(super) linked: Vec<LinkedGateway>,
    #[serde(default, deserialize_with = "known_ones")]
    pub(super) failback: Vec<CarriedTier>,
    #[serde(default, deserialize_with = "known_ones")]
    pub(super) shifts: Vec<CarriedShift>,
    #[serde(default, deserialize_with = "known_ones")]
    pub(super) estimates: Vec<CarriedEstimate>,
    #[serde(flatten)]
    pub(super) limits: LimitsLeft,
}

/// Limits as the predecessor has left them: at the moment, when it takes clients no more, and while it holds some.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct LimitsLeft {
    #[serde(default, deserialize_with = "known_ones")]
    rates: Vec<CarriedRate>,
    #[serde(default, deserialize_with = "known_ones")]
    uses: Vec<CarriedUse>,
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

/// Reads those elements that this version knows: what it does not is left out.
fn known_ones<'de, D: Deserializer<'de>, T: DeserializeOwned>(from: D) -> Result<Vec<T>, D::Error> {
    let Value::Array(all) = Value::deserialize(from)? else {
        return Ok(Vec::new());
    };
    let known = all.into_iter().filter_map(|one| serde_json::from_value(one).ok());
    Ok(known.take(MAX_CARRIED).collect())
}

/// Picks those that are told, in their order.
fn first_ones<T: Clone>(all: &[T]) -> Vec<T> {
    all.iter().take(MAX_CARRIED).cloned().collect()
}

impl LimitsLeft {
    pub(super) fn of(limits: CarriedLimits) -> Self {
        let CarriedLimits { mut rates, mut uses } = limits;
        rates.truncate(MAX_CARRIED);
        uses.truncate(MAX_CARRIED);
        Self { rates, uses }
    }

    pub(super) fn limits(self) -> CarriedLimits {
        let Self { rates, uses } = self;
        CarriedLimits { rates, uses }
    }
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
            ejections: first_ones(&findings.ejections),
            failback: first_ones(&findings.failback),
            shifts: first_ones(&findings.shifts),
            estimates: first_ones(&findings.estimates),
            limits: LimitsLeft::of(findings.limits.clone()),
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
            failback: self.failback,
            shifts: self.shifts,
            estimates: self.estimates,
            limits: self.limits.limits(),
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
    use std::time::UNIX_EPOCH;

    use causeway_routing::{
        capacity::{CarriedBound, CarriedPhase},
        failback::CarriedReturn,
        outlier::{EjectedPart, FailureCounts},
    };

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

    fn key(id: &str) -> InstanceKey {
        InstanceKey {
            service: "orders".parse().unwrap(),
            id: id.to_owned(),
        }
    }

    fn estimate() -> CarriedEstimate {
        CarriedEstimate {
            service: "orders".parse().unwrap(),
            tags: [("version", "v1")].into_iter().collect(),
            low: Some(0.0625),
            usual: 0.125,
            peak: 90.5,
            bound: Some(CarriedBound {
                per_second: 80.5,
                given: 76.5,
                phase: CarriedPhase::Draining {
                    well_per_second: 80.0,
                    latency: Some(0.5),
                    refused: 0.25,
                    settled: 2,
                },
                since_ago: 3,
                step: 0.125,
                pause: 10_000,
                needed_ago: 4,
            }),
        }
    }

    fn findings() -> Findings {
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
        Findings {
            health,
            ejections: ejections.to_vec(),
            linked: [GatewayId::new("west".parse().unwrap(), "gw1".parse().unwrap())].into(),
            failback: vec![CarriedTier {
                service: "orders".parse().unwrap(),
                arm: [("version", "v1")].into_iter().collect(),
                tier: 1,
                list: 7,
                ceiling: 0.25,
                has_served: true,
                first_ago: Some(1),
                returning: Some(CarriedReturn {
                    since_ago: 2,
                    from: 0.125,
                }),
            }],
            shifts: vec![CarriedShift {
                service: "orders".parse().unwrap(),
                step: 7,
                requests: 8,
                against: vec![9],
                taken_back: true,
                begun: UNIX_EPOCH,
                resumed: None,
            }],
            estimates: vec![estimate()],
            limits: CarriedLimits {
                rates: vec![CarriedRate {
                    service: "orders".parse().unwrap(),
                    caller: "web@east".to_owned(),
                    left: 0.5,
                    per_second: 8.0,
                }],
                uses: vec![CarriedUse {
                    service: "orders".parse().unwrap(),
                    counts: [1, 2, 3, 4],
                }],
            },
        }
    }

    #[test]
    fn what_is_known_survives_the_way() {
        let mut findings = findings();
        let bytes = serde_json::to_vec(&LetGo::new(&findings)).unwrap();
        let told: LetGo = serde_json::from_slice(&bytes).unwrap();
        findings.health.remove(&key("c"));
        assert_eq!(told.findings(), findings);
        // Of a later version: what is not known is left out, and what is known counts.
        let mut later: Value = serde_json::from_slice(&bytes).unwrap();
        let ejections = later["ejections"].as_array_mut().unwrap();
        ejections[0]["part"] = serde_json::json!({ "moon": "full" });
        later["rates"][0]["left"] = "plenty".into();
        later["estimates"][0]["bound"]["phase"] = "ebb".into();
        later["shifts"] = "none any more".into();
        later["tides"] = 7.into();
        let told: LetGo = serde_json::from_value(later).unwrap();
        let told = told.findings();
        assert_eq!((told.ejections.len(), told.failback.len()), (1, 1));
        assert!(told.shifts.is_empty() && told.limits.rates.is_empty() && told.estimates.is_empty());
        assert_eq!(told.limits.uses, findings.limits.uses);
        // Of a process that told of health alone.
        let told: LetGo = serde_json::from_str(r#"{"health":[]}"#).unwrap();
        assert_eq!(told.findings(), Findings::default());
    }
}
