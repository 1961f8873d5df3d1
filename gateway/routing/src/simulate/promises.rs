//! Promises of the topology, checked: each loss that one is about is tried, and what it says goes on has to be served whole.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use causeway_federation::{
    name::{ServiceName, ZoneName},
    topology::{Promise, PromisedLoss, PromisedRest, Topology},
};
use serde::Serialize;

use super::{InstanceLoss, Load, SimulatedFinding, ZoneExports, simulate};
use crate::capacity::MeasuredCapacities;

/// Outcome of one promise.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CheckedPromise {
    /// As the file has it: `any zone`.
    pub lose: String,
    /// As the file has it: `critical`.
    pub keep: String,
    pub state: PromiseState,
    /// Number of losses that were tried.
    pub tried: usize,
    pub broken: Vec<BrokenCase>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PromiseState {
    Kept,
    Broken,
    /// None of the loads is of what it keeps, or there is nothing that could be lost.
    Untried,
}

/// One loss by which a promise is broken.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BrokenCase {
    /// In words: `zone east`, `an instance of orders in east`.
    pub lost: String,
    pub findings: Vec<SimulatedFinding>,
    /// Number of findings, the last ones, about services that the loss has no part in: they are there with nothing lost too.
    pub without_loss: usize,
}

/// Everything that promises are checked with.
#[derive(Debug)]
pub struct PromiseScene<'a> {
    pub topology: &'a Arc<Topology>,
    pub exports: &'a ZoneExports,
    /// Capacity of instances where it is measured.
    pub measured: &'a MeasuredCapacities,
    pub loads: &'a [Load],
    /// Instances that can be lost, one of each kind.
    pub instances: &'a BTreeSet<InstanceLoss>,
    pub seed: u64,
}

/// One loss that is tried.
#[derive(Debug, Clone, PartialEq)]
enum PromiseCase<'a> {
    Zones(BTreeSet<ZoneName>),
    /// The only gateway of this zone.
    Gateway(&'a ZoneName),
    /// A gateway beside which this zone has another.
    SpareGateway(&'a ZoneName),
    Instance(&'a InstanceLoss),
}

type LoadsByService<'a> = BTreeMap<&'a ServiceName, Vec<&'a Load>>;

impl PromiseScene<'_> {
    /// Checks every promise of the topology, in its order.
    #[must_use]
    pub fn check(&self) -> Vec<CheckedPromise> {
        let (promises, by_service) = (self.topology.promises.iter(), self.by_service());
        promises
            .map(|promise| self.checked(promise, &by_service))
            .collect()
    }

    /// Counts the loads that will be simulated, each in each of its cases.
    #[must_use]
    pub fn questions(&self) -> usize {
        let by_service = self.by_service();
        let of_promise = |promise: &Promise| -> usize {
            let mut cases = self.cases(promise);
            let all = cases.len();
            cases.retain(|case| !matches!(case, PromiseCase::SpareGateway(_)));
            // Tried once, whichever zone has a gateway to spare and whatever instance is lost.
            if cases.len() < all || promise.lose == PromisedLoss::AnyInstance {
                cases.push(PromiseCase::nothing());
            }
            let sizes = cases
                .iter()
                .map(|case| self.loads_of(promise, case, &by_service).len());
            sizes.sum()
        };
        self.topology.promises.iter().map(of_promise).sum()
    }

    fn by_service(&self) -> LoadsByService<'_> {
        let mut by_service = LoadsByService::new();
        for load in self.loads {
            by_service.entry(&load.service).or_default().push(load);
        }
        by_service
    }

    fn checked(&self, promise: &Promise, by_service: &LoadsByService<'_>) -> CheckedPromise {
        let mut checked = CheckedPromise {
            lose: promise.lose.to_string(),
            keep: promise.keep.to_string(),
            state: PromiseState::Untried,
            tried: 0,
            broken: Vec::new(),
        };
        // One of several gateways takes nothing away, whichever zone it is in, nor an instance from other services: what is not kept of them
        // without any loss is not kept now.
        let nothing = PromiseCase::nothing();
        let mut kept_without_loss = None;
        let mut without_loss = || {
            let breaking = || self.breaking(promise, &nothing, &self.loads_of(promise, &nothing, by_service));
            kept_without_loss.get_or_insert_with(breaking).clone()
        };
        for case in self.cases(promise) {
            let loads = self.loads_of(promise, &case, by_service);
            if loads.is_empty() {
                continue;
            }
            checked.tried += 1;
            let mut findings = match case {
                PromiseCase::SpareGateway(_) => without_loss(),
                _ => self.breaking(promise, &case, &loads),
            };
            let own = findings.len();
            if let PromiseCase::Instance(lost) = case {
                let others = without_loss().into_iter();
                findings.extend(others.filter(|finding| *finding.service() != lost.service));
            }
            if !findings.is_empty() {
                checked.broken.push(BrokenCase {
                    lost: in_words(&case),
                    without_loss: findings.len() - own,
                    findings,
                });
            }
        }
        checked.state = match (checked.tried, checked.broken.is_empty()) {
            (0, _) => PromiseState::Untried,
            (_, true) => PromiseState::Kept,
            (_, false) => PromiseState::Broken,
        };
        checked
    }

    fn cases(&self, promise: &Promise) -> Vec<PromiseCase<'_>> {
        let zones = self.topology.zones.keys();
        match &promise.lose {
            PromisedLoss::Zones(zones) => vec![PromiseCase::Zones(zones.clone())],
            PromisedLoss::AnyZone => {
                let one = |zone: &ZoneName| PromiseCase::Zones(BTreeSet::from([zone.clone()]));
                zones.map(one).collect()
            }
            PromisedLoss::AnyGateway => {
                let one = |zone| match self.topology.has_one_gateway(zone) {
                    true => PromiseCase::Gateway(zone),
                    false => PromiseCase::SpareGateway(zone),
                };
                zones.map(one).collect()
            }
            PromisedLoss::AnyInstance => self.instances.iter().map(PromiseCase::Instance).collect(),
        }
    }

    /// Loads of the services that the promise keeps something of, without those that the case has no part in. Services share no capacity.
    fn loads_of(
        &self,
        promise: &Promise,
        case: &PromiseCase<'_>,
        by_service: &LoadsByService<'_>,
    ) -> Vec<Load> {
        let among: Vec<&Load> = match case {
            PromiseCase::Instance(lost) => by_service.get(&lost.service).cloned().unwrap_or_default(),
            _ => self.loads.iter().collect(),
        };
        let kept: BTreeSet<&ServiceName> = among
            .iter()
            .filter(|load| load.per_second > 0.0 && promise.keep.keeps(&load.service, load.criticality))
            .filter(|load| !case.takes_clients(&load.from))
            .map(|load| &load.service)
            .collect();
        let loads = among.into_iter().filter(|load| kept.contains(&load.service));
        loads.cloned().collect()
    }

    /// Finds what breaks a promise in one case.
    fn breaking(&self, promise: &Promise, case: &PromiseCase<'_>, loads: &[Load]) -> Vec<SimulatedFinding> {
        let tried = |(exports, measured): (&ZoneExports, &MeasuredCapacities), lost: &BTreeSet<ZoneName>| {
            simulate(self.topology, exports, measured, loads, lost, self.seed).findings
        };
        let run = |exports: &ZoneExports, lost: &BTreeSet<ZoneName>| tried((exports, self.measured), lost);
        let nothing = BTreeSet::new();
        let mut findings = match case {
            PromiseCase::Zones(zones) => run(self.exports, zones),
            PromiseCase::SpareGateway(_) => run(self.exports, &nothing),
            PromiseCase::Instance(lost) => {
                let left = lost.applied((self.exports, self.measured));
                tried((&left.0, &left.1), &nothing)
            }
            PromiseCase::Gateway(zone) => {
                let mut findings = run(self.exports, &BTreeSet::from([(*zone).clone()]));
                let cut_off = loads
                    .iter()
                    .filter(|load| load.from == **zone && load.per_second > 0.0);
                findings.extend(cut_off.map(|load| SimulatedFinding::NoGateway {
                    service: load.service.clone(),
                    from: load.from.clone(),
                    criticality: load.criticality,
                    per_second: load.per_second,
                }));
                findings
            }
        };
        findings.retain(|finding| breaks(&promise.keep, finding, loads));
        findings
    }
}

impl PromiseCase<'_> {
    fn nothing() -> Self {
        Self::Zones(BTreeSet::new())
    }

    fn takes_clients(&self, zone: &ZoneName) -> bool {
        matches!(self, Self::Zones(zones) if zones.contains(zone))
    }
}

/// Tells whether something that is kept is not served whole. What permissions forbid was never promised.
fn breaks(keep: &PromisedRest, finding: &SimulatedFinding, loads: &[Load]) -> bool {
    match finding {
        SimulatedFinding::NoHome {
            service, criticality, ..
        }
        | SimulatedFinding::Shed {
            service, criticality, ..
        }
        | SimulatedFinding::NoGateway {
            service, criticality, ..
        } => keep.keeps(service, *criticality),
        SimulatedFinding::OverCapacity { service, .. } => loads.iter().any(|load| {
            load.service == *service && load.per_second > 0.0 && keep.keeps(service, load.criticality)
        }),
        SimulatedFinding::Forbidden { .. } => false,
    }
}

fn in_words(case: &PromiseCase<'_>) -> String {
    match case {
        PromiseCase::Zones(zones) if zones.is_empty() => "nothing".to_owned(),
        PromiseCase::Zones(zones) => {
            let names: Vec<&str> = zones.iter().map(ZoneName::as_str).collect();
            let word = if names.len() == 1 { "zone" } else { "zones" };
            format!("{word} {}", names.join(" and "))
        }
        PromiseCase::Gateway(zone) => format!("the only gateway of {zone}"),
        PromiseCase::SpareGateway(zone) => format!("a gateway of {zone}"),
        PromiseCase::Instance(lost) => {
            let with = match lost.tags.is_empty() {
                true => String::new(),
                false => format!(" with {}", lost.tags),
            };
            format!("an instance of {} in {}{with}", lost.service, lost.zone)
        }
    }
}
