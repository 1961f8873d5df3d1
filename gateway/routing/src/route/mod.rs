//! The pure decision: where a connection may go now, in which order, and why.
//!
//! [`route`] has no clock, no I/O and no lock. The data path, `causeway explain` and the demo all call it.
//! It chooses zones and gateways, never instances: an instance is chosen by the zone that holds it (see `balance`).

use std::sync::Arc;

use causeway_federation::{
    name::{GatewayId, PortName, Tags, ZoneName},
    topology::{Criticality, Service, SplitArm},
};
use rand::Rng;
use serde::Serialize;

use crate::{snapshot::Snapshot, sticky::StickyKey, target::Target};

mod allotment;
mod arms;
mod belonging;
mod compiled;
mod decision;
mod exported;
mod homes;
mod reason;
mod replay;
mod spill;
mod standing;
mod starting;
#[cfg(test)]
mod tests;
mod tiers;
mod walk;

pub(crate) use arms::arm_weights;
pub use belonging::{Misplacement, Placement, belongs, leaves_instance_by, stays_here};
pub use compiled::CompiledServices;
pub use decision::{Decision, FullDecision};
pub use exported::ExportCount;
pub(crate) use homes::tier_between;
pub use reason::{Reason, ReasonSubject, Why};
pub use spill::{TierHealth, healthy_below, tier_shares};
pub use standing::{ArmStanding, reasons, standing};
pub(crate) use tiers::arm_health;
pub use tiers::tier_health;

/// One question to [`route`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub target: Target,
    /// Port of the service; `None`: the only one, which has no name. It decides about nothing but what is ejected.
    pub port: Option<PortName>,
    /// Split of the route that rules a request, in the place of the service's own.
    pub split: Option<Arc<[SplitArm]>>,
    /// That of the route that rules a request, in the place of the service's own.
    pub criticality: Option<Criticality>,
    /// Decides in the place of chance, so that the requests of one user go one way.
    pub key: Option<StickyKey>,
    /// Has the decision list its reasons. The data path asks without: then only gateways that export the service are
    /// looked at, and a federation of a thousand zones has thousands of reasons for every connection.
    pub explain: bool,
}

impl Request {
    #[must_use]
    pub fn new(target: Target) -> Self {
        Self {
            target,
            port: None,
            split: None,
            criticality: None,
            key: None,
            explain: false,
        }
    }

    #[must_use]
    pub fn explained(target: Target) -> Self {
        Self {
            explain: true,
            ..Self::new(target)
        }
    }

    /// As a client of this port asks.
    #[must_use]
    pub fn at_port(self, port: Option<PortName>) -> Self {
        Self { port, ..self }
    }

    /// As a request whose route has this split asks.
    #[must_use]
    pub fn with_split(self, split: Option<Arc<[SplitArm]>>) -> Self {
        Self { split, ..self }
    }

    /// As a request whose route is of this criticality asks.
    #[must_use]
    pub fn with_criticality(self, criticality: Option<Criticality>) -> Self {
        Self { criticality, ..self }
    }

    /// As one of the user with this key asks.
    #[must_use]
    pub fn with_key(self, key: Option<StickyKey>) -> Self {
        Self { key, ..self }
    }
}

/// One place that may serve the connection, and the share of the split and of the tiers that it would serve it under.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Candidate {
    #[serde(flatten)]
    pub place: Destination,
    /// Tags that the instance must carry: those of the arm, with those of the name.
    pub tags: Tags,
    /// Tags of the arm as the split has them.
    pub arm: Tags,
    /// Counts from 1; `None` when the name itself names the zone.
    pub tier: Option<usize>,
    /// None of its instances is healthy, and none of any other place.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub in_panic: bool,
}

/// A place that connections can be given to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Destination {
    /// The instances of this zone.
    Local,
    /// A gateway of another zone.
    Remote { gateway: GatewayId },
}

impl Candidate {
    /// The zone that would serve, `own` being this one.
    #[must_use]
    pub fn zone<'a>(&'a self, own: &'a ZoneName) -> &'a ZoneName {
        match &self.place {
            Destination::Local => own,
            Destination::Remote { gateway } => &gateway.zone,
        }
    }

    /// Tells whether both are of one arm and one tier, so that either may serve without bending a declared share.
    #[must_use]
    pub fn shares_with(&self, other: &Self) -> bool {
        self.tier == other.tier && self.arm == other.arm
    }

    /// Tells whether both ask one place for the same.
    #[must_use]
    pub fn asks_like(&self, other: &Self) -> bool {
        self.place == other.place && self.tags == other.tags && self.in_panic == other.in_panic
    }
}

/// Data that the filters of one decision share.
#[derive(Debug, Clone, Copy)]
struct Question<'s> {
    snapshot: &'s Snapshot,
    service: &'s Service,
    target: &'s Target,
    port: Option<&'s PortName>,
    /// `None`: this zone is not in the topology.
    own_tags: Option<&'s Tags>,
    key: Option<StickyKey>,
    criticality: Criticality,
    /// Has a tier drawn by the shares of spill; else they are tried in order.
    draws_tier: bool,
    /// No arm has a home, and so those are looked for whose instances are ill.
    in_panic: bool,
}

/// Decides where a connection to `request.target` may go. The filters, in the order of the code:
///
/// 1. The service must be in the topology.
/// 2. The arms are those of the route that rules the request, if it has some, or else the service's (see `requests`). Arms of weight 0 are never used; arms that contradict the tags of the name are passed over. The others are put in
///    a weighted random order. The first that has a home is the pick; the rest follow as a last resort, and after them those
///    of which every home fails (see `outlier`) or drains. When every arm contradicts the name, the name alone counts.
/// 3. A zone in the name (`orders.west.zone.mesh`) leaves only that zone, and replaces the failover tiers.
/// 4. The own zone must be one that may run the service, and needs a healthy instance of weight above 0 that carries the tags.
/// 5. Another zone must be allowed to run the service and to export it to this one; the gateway must be known by zone sync, not be
///    withdrawn, have a tunnel, and export healthy instances that carry the tags.
/// 6. The zone must be in the topology and match a tier; the first tier that it matches is its own.
/// 7. What is left is ordered: gateways whose tunnels answer before those gone silent, those that stay before
///    those that drain, zones before those whose instances with the
///    tags have failed in a row (see `outlier`),
///    tiers in order (with `spill` the one first that is drawn by the tiers' shares: see [`tier_shares`]), the own zone first within its tier, and then at random: a zone by its healthy weight, whatever the number of
///    its gateways, and a gateway within it. That a record is suspect changes nothing while the tunnel answers, and makes the weight less otherwise.
///
/// Where zones have no room for all that is asked for, a zone is drawn in the place of a tier, by the shares that it has in the plan (see
/// [`capacity`](crate::capacity)); what has no share anywhere is shed: it has no candidate.
///
/// Where no arm has a home, and the service panics, the same filters are gone through once more for places whose instances are ill (see
/// [`Service::panics`]).
///
/// With a key of the request what is said to be random or drawn is drawn by it (see `sticky`).
///
/// Arms beyond the first, and places beyond the first, are worked out when the decision is asked for them. Without reasons the first is
/// drawn from what was worked out for the snapshot (see [`CompiledServices`]), where that holds it. One seed gives one order, with reasons
/// and without.
#[must_use]
pub fn route<'s, R: Rng>(snapshot: &'s Snapshot, request: &'s Request, rng: R) -> Decision<'s, R> {
    Decision::new(snapshot, request, rng)
}

/// A draw that makes ascending order a weighted random order, `rate` being the weight.
fn draw(rate: f64, rng: &mut impl Rng) -> f64 {
    -(1.0 - rng.random::<f64>()).ln() / rate
}
