//! Findings that an operator would rather have beforehand, of where loads go.

use std::collections::BTreeMap;

use causeway_federation::{
    catalog::Export,
    name::{ServiceName, Tags, ZoneName},
    topology::{Criticality, Topology},
};
use serde::Serialize;

use super::{Flow, ZoneExports};
use crate::{
    capacity::{MeasuredCapacities, is_measured},
    permit::Rule,
};

/// Capacity that is used up is over by this much at most because shares are drawn.
const DRAWN: f64 = 1.03;

/// Something that an operator would rather know beforehand.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum SimulatedFinding {
    /// Nobody can serve these clients.
    NoHome {
        service: ServiceName,
        from: ZoneName,
        criticality: Criticality,
        per_second: f64,
    },
    /// There is no capacity for all that these clients ask for.
    Shed {
        service: ServiceName,
        from: ZoneName,
        criticality: Criticality,
        per_second: f64,
    },
    /// A zone gets more than its instances have declared that they can take.
    OverCapacity {
        service: ServiceName,
        zone: ZoneName,
        tags: Tags,
        per_second: f64,
        capacity_per_second: u64,
    },
    /// Permissions let nobody in this zone call the service.
    Forbidden {
        service: ServiceName,
        from: ZoneName,
        per_second: f64,
        rule: Rule,
    },
    /// These clients have lost the only gateway of their zone.
    NoGateway {
        service: ServiceName,
        from: ZoneName,
        criticality: Criticality,
        per_second: f64,
    },
}

impl SimulatedFinding {
    /// The service that it is about.
    #[must_use]
    pub fn service(&self) -> &ServiceName {
        match self {
            Self::NoHome { service, .. }
            | Self::Shed { service, .. }
            | Self::OverCapacity { service, .. }
            | Self::Forbidden { service, .. }
            | Self::NoGateway { service, .. } => service,
        }
    }
}

/// Load of a service in one zone, whoever asks for it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ServedLoad {
    pub service: ServiceName,
    pub zone: ZoneName,
    pub per_second: f64,
    /// Sum of what its healthy instances declare, or were found to take if that is less; `None`: of some nothing is known.
    pub capacity_per_second: Option<u64>,
    /// Some of it was measured.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_measured: bool,
}

/// Load of one criticality, from all zones.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CriticalityLoad {
    pub criticality: Criticality,
    pub per_second: f64,
    pub shed_per_second: f64,
}

pub(super) fn findings(flows: &[Flow], exports: &ZoneExports) -> Vec<SimulatedFinding> {
    let mut findings = Vec::new();
    let mut sums: BTreeMap<(&ServiceName, &ZoneName, &Tags), f64> = BTreeMap::new();
    for flow in flows {
        let (service, from) = (flow.service.clone(), flow.from.clone());
        let (criticality, per_second) = (flow.criticality, flow.per_second);
        match (&flow.to, &flow.forbidden_by) {
            (Some(zone), _) => {
                *sums.entry((&flow.service, zone, &flow.tags)).or_default() += per_second;
            }
            _ if per_second <= 0.0 => {}
            (None, Some(rule)) => findings.push(SimulatedFinding::Forbidden {
                service,
                from,
                per_second,
                rule: rule.clone(),
            }),
            (None, None) if flow.is_shed => findings.push(SimulatedFinding::Shed {
                service,
                from,
                criticality,
                per_second,
            }),
            (None, None) => findings.push(SimulatedFinding::NoHome {
                service,
                from,
                criticality,
                per_second,
            }),
        }
    }
    for ((service, zone, tags), per_second) in sums {
        if let Some(capacity) = capacity(exports.get(zone), service, tags)
            && per_second > in_requests(capacity) * DRAWN
        {
            findings.push(SimulatedFinding::OverCapacity {
                service: service.clone(),
                zone: zone.clone(),
                tags: tags.clone(),
                per_second,
                capacity_per_second: capacity,
            });
        }
    }
    findings
}

/// Sums up the load of each service in each zone.
pub(super) fn served(
    flows: &[Flow],
    topology: &Topology,
    (exports, measured): (&ZoneExports, &MeasuredCapacities),
) -> Vec<ServedLoad> {
    let nothing = MeasuredCapacities::default();
    let mut sums: BTreeMap<(&ServiceName, &ZoneName), f64> = BTreeMap::new();
    for flow in flows {
        if let Some(zone) = &flow.to {
            *sums.entry((&flow.service, zone)).or_default() += flow.per_second;
        }
    }
    let load = |((service, zone), per_second): ((&ServiceName, &ZoneName), f64)| {
        let counts = topology.services.get(service).is_some_and(is_measured);
        let measured = if counts { measured } else { &nothing };
        let serving = exports.get(zone).into_iter().flatten();
        let serving = serving.filter(|one| one.service == *service && one.healthy > 0);
        let rooms = serving.map(|export| measured.room_of(zone, export));
        let sum = rooms.fold((0.0, false), |(sum, found), (room, is_found)| {
            (sum + room, found || is_found)
        });
        ServedLoad {
            capacity_per_second: in_whole(sum.0),
            is_measured: sum.1 && sum.0.is_finite(),
            service: service.clone(),
            zone: zone.clone(),
            per_second,
        }
    };
    sums.into_iter().map(load).collect()
}

/// Sums up what is asked for and shed of each criticality that something is asked for of.
pub(super) fn by_criticality(flows: &[Flow]) -> Vec<CriticalityLoad> {
    let of = |criticality: Criticality| {
        let flows = flows.iter().filter(move |flow| flow.criticality == criticality);
        CriticalityLoad {
            criticality,
            per_second: flows.clone().map(|flow| flow.per_second).sum(),
            // The sum of nothing would be -0.
            shed_per_second: flows
                .filter(|flow| flow.is_shed)
                .fold(0.0, |sum, flow| sum + flow.per_second),
        }
    };
    let loads = Criticality::ALL.map(of).into_iter();
    loads.filter(|load| load.per_second > 0.0).collect()
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a capacity above 2^53 loses nothing that matters"
)]
fn in_requests(capacity: u64) -> f64 {
    capacity as f64
}

/// `None`: there is no bound.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "no capacity is negative, and one that is too large is told as the largest"
)]
fn in_whole(capacity: f64) -> Option<u64> {
    capacity.is_finite().then_some(capacity.round() as u64)
}

/// Sum of what the healthy instances of a zone with these tags can take; `None`: some do not say.
fn capacity(exports: Option<&Vec<Export>>, service: &ServiceName, tags: &Tags) -> Option<u64> {
    let exports = exports?.iter();
    let serving = exports.filter(|one| one.service == *service && one.tags.matches(tags) && one.healthy > 0);
    serving
        .map(|export| export.capacity_per_second)
        .try_fold(0u64, |sum, capacity| Some(sum.saturating_add(capacity?)))
}
