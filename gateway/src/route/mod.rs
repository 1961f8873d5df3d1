//! The pure decision: where a connection may go now, in which order, and why.
//!
//! [`route`] has no clock, no I/O and no lock. The data path, `causeway explain` and `causeway simulate` all call it.
//! It chooses zones and gateways, never instances: an instance is chosen by the zone that holds it (see `balance`).

use std::cmp::Ordering;

use causeway_zone_sync::{
    catalog::Age,
    name::{GatewayId, Tags, ZoneName},
    topology::Service,
};
use rand::Rng;
use serde::Serialize;

use crate::{
    snapshot::{Link, Snapshot},
    target::Target,
};

mod arms;
mod homes;
mod reason;
#[cfg(test)]
mod tests;

pub use reason::{Reason, Subject, Why};

use arms::Arm;

/// One question to [`route`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub target: Target,
    /// Whether the decision lists its reasons. The data path asks without: a federation of a thousand zones has
    /// thousands of reasons for every connection.
    pub explain: bool,
}

impl Request {
    #[must_use]
    pub fn new(target: Target) -> Self {
        Self {
            target,
            explain: false,
        }
    }

    #[must_use]
    pub fn explained(target: Target) -> Self {
        Self {
            target,
            explain: true,
        }
    }
}

/// One place that may serve the connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Candidate {
    /// An instance of this zone that carries `tags`.
    Local { tags: Tags },
    /// A gateway of another zone, asked for an instance that carries `tags`.
    Remote { gateway: GatewayId, tags: Tags },
}

impl Candidate {
    /// The tags that the instance must carry.
    #[must_use]
    pub fn tags(&self) -> &Tags {
        match self {
            Self::Local { tags } | Self::Remote { tags, .. } => tags,
        }
    }

    /// The zone that would serve, `own` being this one.
    #[must_use]
    pub fn zone<'a>(&'a self, own: &'a ZoneName) -> &'a ZoneName {
        match self {
            Self::Local { .. } => own,
            Self::Remote { gateway, .. } => &gateway.zone,
        }
    }
}

/// The answer of [`route`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Decision {
    pub target: Target,
    /// The snapshot that was decided on.
    pub generation: u64,
    /// Tags of the split arm that the first candidate serves; `None` without a candidate.
    pub arm: Option<Tags>,
    /// To be tried in this order.
    pub candidates: Vec<Candidate>,
    /// Why the first candidate is the first, or why there is none.
    pub why: Why,
    /// Every arm, zone and gateway with why it was taken or passed over; empty unless [`Request::explain`].
    pub reasons: Vec<Reason>,
}

/// A place that passed all filters of one arm, and what orders it.
struct Ranked<'s> {
    /// `None`: this zone.
    gateway: Option<&'s GatewayId>,
    why: Why,
    /// Silent tunnels last, then suspect records, then tiers in order, then the own zone before others.
    rank: (bool, bool, usize, bool),
    /// Exponential with rate `weight`, so that ascending order is a weighted draw without replacement
    /// (Efraimidis and Spirakis 2006).
    draw: f64,
}

impl Ranked<'_> {
    fn order(&self, other: &Self) -> Ordering {
        self.rank
            .cmp(&other.rank)
            .then_with(|| self.draw.total_cmp(&other.draw))
    }
}

/// What the filters of one decision share.
struct Question<'s> {
    snapshot: &'s Snapshot,
    service: &'s Service,
    target: &'s Target,
    own_tags: &'s Tags,
}

/// Decides where a connection to `request.target` may go. The filters, in the order of the code:
///
/// 1. The service must be in the topology.
/// 2. Arms of weight 0 are never used; arms that contradict the tags of the name are passed over. The others are put in
///    a weighted random order. The first that has a home is the pick; the rest follow as a last resort. When every
///    arm contradicts the name, the name alone counts.
/// 3. A zone in the name (`orders.west.zone.mesh`) leaves only that zone, and replaces the failover tiers.
/// 4. The own zone must be one that may run the service, and needs a healthy instance of weight above 0 that carries the tags.
/// 5. Another zone must be allowed to run the service and to export it to this one; the gateway must be known by zone sync, not be
///    withdrawn or draining, have a tunnel that takes streams, and export healthy instances that carry the tags.
/// 6. The zone must be in the topology and match a tier; the first tier that it matches is its own.
/// 7. What is left is ordered: gateways whose tunnels answer before those gone silent, fresh records before suspect ones,
///    tiers in order, the own zone first within its tier, and then at random by the healthy weight.
#[must_use]
pub fn route(snapshot: &Snapshot, request: &Request, rng: &mut impl Rng) -> Decision {
    let target = &request.target;
    let mut reasons = reason::Reasons::new(request.explain);
    let mut decision = Decision {
        target: target.clone(),
        generation: snapshot.generation,
        arm: None,
        candidates: Vec::new(),
        why: Why::UnknownService,
        reasons: Vec::new(),
    };
    let Some(service) = snapshot.topology.services.get(&target.service) else {
        reasons.note(
            || Subject::Service(target.service.clone()),
            None,
            Why::UnknownService,
        );
        decision.reasons = reasons.into_vec();
        return decision;
    };
    let none = Tags::default();
    let own_tags = snapshot
        .topology
        .zones
        .get(&snapshot.zone)
        .map_or(&none, |zone| &zone.tags);
    let question = Question {
        snapshot,
        service,
        target,
        own_tags,
    };
    decision.why = Why::NoHome;
    for arm in arms::ordered(service, target, &mut reasons, rng) {
        let homes = homes::of_arm(&question, &arm, &mut reasons, rng);
        note_arm(&arm, homes.is_empty(), &decision, &mut reasons);
        append(&mut decision, &arm, &homes);
    }
    decision.reasons = reasons.into_vec();
    decision
}

/// Says what became of an arm: picked, kept in reserve, or without a home.
fn note_arm(arm: &Arm, homeless: bool, decision: &Decision, reasons: &mut reason::Reasons) {
    let why = match (homeless, decision.candidates.is_empty()) {
        (true, _) => Why::ArmWithoutHome,
        (false, true) if arm.by_name => Why::ArmByName,
        (false, true) => Why::ArmPicked,
        (false, false) => Why::ArmInReserve,
    };
    reasons.note(|| Subject::Arm { weight: arm.weight }, Some(&arm.split_tags), why);
}

fn append(decision: &mut Decision, arm: &Arm, homes: &[Ranked<'_>]) {
    let Some(first) = homes.first() else { return };
    if decision.candidates.is_empty() {
        decision.arm = Some(arm.split_tags.clone());
        decision.why = first.why;
    }
    decision.candidates.extend(homes.iter().map(|home| {
        let tags = arm.tags.clone();
        match home.gateway {
            None => Candidate::Local { tags },
            Some(gateway) => Candidate::Remote {
                gateway: gateway.clone(),
                tags,
            },
        }
    }));
}

/// A draw that makes ascending order a weighted random order.
fn draw(weight: u64, rng: &mut impl Rng) -> f64 {
    #[expect(
        clippy::cast_precision_loss,
        reason = "a weight above 2^53 loses nothing that matters"
    )]
    let rate = weight as f64;
    -(1.0 - rng.random::<f64>()).ln() / rate
}

/// The rank of a place (see [`Ranked::rank`]).
fn rank(link: Link, age: Age, tier: usize, own: bool) -> (bool, bool, usize, bool) {
    (link == Link::Stalled, age != Age::Fresh, tier, !own)
}
