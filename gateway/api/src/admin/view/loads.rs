//! Loads: what this gateway's own clients have asked for, and what instances were found to take.

use causeway_federation::{
    name::{GatewayId, Tags},
    topology::Criticality,
};
use causeway_routing::{
    capacity::{RecordedLoad, SeenAnswers},
    snapshot::Snapshot,
};
use serde::{Deserialize, Serialize};

/// Demand of one gateway's clients for a service, whether or not it is served.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoadView {
    /// Zone of the clients.
    pub zone: String,
    /// Gateway that they connect to.
    pub gateway: String,
    pub service: String,
    /// Tags in the name that they ask for.
    pub tags: Tags,
    pub criticality: Criticality,
    /// Requests of `http` and `grpc`, connections of others.
    pub per_second: f64,
    /// Time over which that is the mean.
    pub over_seconds: f64,
}

/// Shows the loads of the gateway `own`.
#[must_use]
pub fn loads(own: &GatewayId, loads: Vec<RecordedLoad>) -> Vec<LoadView> {
    let view = |RecordedLoad { rate, over }: RecordedLoad| LoadView {
        zone: own.zone.to_string(),
        gateway: own.gateway.to_string(),
        service: rate.service.to_string(),
        tags: rate.tags,
        criticality: rate.criticality,
        per_second: rounded(rate.per_second),
        over_seconds: rounded(over.as_secs_f64()),
    };
    loads.into_iter().map(view).collect()
}

/// Capacity of the instances of one zone with these tags, where `spill` has it measured and a bound was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MeasuredCapacityView {
    /// Zone of the instances.
    pub zone: String,
    pub service: String,
    /// Tags of the instances.
    pub tags: Tags,
    /// Requests that they are given at most.
    pub per_second: f64,
    /// Answers by which it was found.
    #[serde(default)]
    pub answered_per_second: f64,
}

/// Shows what the gateways of each zone have found of their instances, and told this one.
#[must_use]
pub fn measured_capacities(snapshot: &Snapshot) -> Vec<MeasuredCapacityView> {
    let measured = snapshot.capacity.measured();
    let bound = measured.iter().filter_map(|(zone, found)| {
        let SeenAnswers {
            well_per_second,
            refused_per_second,
            ..
        } = found.seen;
        Some(MeasuredCapacityView {
            zone: zone.to_string(),
            service: found.service.to_string(),
            tags: found.tags.clone(),
            per_second: rounded(found.per_second?),
            answered_per_second: well_per_second + refused_per_second,
        })
    });
    bound.collect()
}

/// To three decimals, and no load to none.
fn rounded(number: f64) -> f64 {
    ((number * 1000.0).round() / 1000.0).max(0.001)
}
