//! Tells whether an open connection is still where a new one of its kind would be put, by the rules of [`super::route`].
//!
//! It asks for reasons to move and none to stay: shares of a split are not evened out, and a place that would not be taken
//! now, because its instances are ill or its tunnels silent, keeps what it has for as long as that works.

use std::time::SystemTime;

use causeway_federation::name::{GatewayId, PortName, ServiceName, Tags, ZoneName};
use rand::{SeedableRng, rngs::SmallRng};
use serde::Serialize;

use super::{
    Candidate, Destination, Question,
    arms::{self, Arm},
    homes,
    reason::{Reasons, Why},
    starting::own_zone_starts,
};
use crate::{
    snapshot::{Instance, Link, Snapshot},
    target::Target,
};

/// The ranks of places are all that is looked at, and nothing of them is drawn.
const ANY_SEED: u64 = 0;

/// Place that a connection was given to, and the share that it has there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Placement {
    target: Target,
    /// Port of the service that it is at.
    port: Option<PortName>,
    /// Tags of its arm as the split had them.
    arm: Tags,
    server: PlacedAt,
    /// The arm is not one of the service's own split.
    has_own_split: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum PlacedAt {
    /// An instance of this zone, by its id.
    Instance(String),
    Gateway(GatewayId),
}

impl Placement {
    /// Place of a connection that another zone asked for by `tags`, at the instance of that id.
    #[must_use]
    pub fn at_instance(service: ServiceName, tags: Tags, instance: &str) -> Self {
        Self {
            target: Target::service(service),
            port: None,
            arm: tags,
            server: PlacedAt::Instance(instance.to_owned()),
            has_own_split: false,
        }
    }

    /// Place of a client of this port.
    #[must_use]
    pub fn at_port(self, port: Option<PortName>) -> Self {
        Self { port, ..self }
    }

    /// Place by another split than the service's: no weight takes the connection from it.
    #[must_use]
    pub fn by_another_split(self) -> Self {
        Self {
            has_own_split: true,
            ..self
        }
    }

    /// Place of a connection that asked for `target`, was given to `candidate`, and in this zone to the instance of that id.
    #[must_use]
    pub fn new(target: &Target, candidate: &Candidate, instance: Option<&str>) -> Self {
        Self {
            target: target.clone(),
            port: None,
            arm: candidate.arm.clone(),
            server: match &candidate.place {
                Destination::Local => PlacedAt::Instance(instance.unwrap_or_default().to_owned()),
                Destination::Remote { gateway } => PlacedAt::Gateway(gateway.clone()),
            },
            has_own_split: false,
        }
    }

    fn own_arm(&self) -> Arm {
        Arm {
            split_tags: self.arm.clone(),
            tags: self.arm.merged(&self.target.tags),
            weight: 1,
            by_name: false,
        }
    }

    /// The zone that has it, `own` being this one.
    #[must_use]
    pub fn zone<'a>(&'a self, own: &'a ZoneName) -> &'a ZoneName {
        match &self.server {
            PlacedAt::Instance(_) => own,
            PlacedAt::Gateway(gateway) => &gateway.zone,
        }
    }
}

/// Reason that a connection does not belong where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Misplacement {
    /// Its arm has weight 0 now, or is no arm any more.
    ArmWeightZero,
    /// Its zone or the gateway that it goes through drains, or its instance, or all of that zone, have weight 0, or it was taken out.
    Draining,
    /// A better tier can serve it, or the own zone within its tier.
    BetterTier,
}

impl Misplacement {
    /// The word for metrics.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::ArmWeightZero => "arm_weight_zero",
            Self::Draining => "draining",
            Self::BetterTier => "better_tier",
        }
    }
}

/// Checks whether a connection belongs where it is, as things are in `snapshot`. In this order:
///
/// 1. One that could be put nowhere now stays: it would be lost.
/// 2. Its arm must have weight. Of an arm that the split names no more, an instance of this zone belongs to any arm whose tags it
///    carries, and a place elsewhere, whose instance is not known here, to any that does not contradict its own.
/// 3. Its instance must be one with a weight, and neither its zone nor its gateway may drain.
/// 4. No better tier may be able to serve its arm, unless its own has a share by spill; within its tier, not the own zone. What is silent, drains or is suspect draws nobody.
///
/// # Errors
/// Says why it does not.
pub fn belongs(snapshot: &Snapshot, placed: &Placement) -> Result<(), Misplacement> {
    let target = &placed.target;
    let Some(service) = snapshot.topology.services.get(&target.service) else {
        return Ok(());
    };
    let zone = snapshot.topology.zones.get(&snapshot.zone);
    let question = Question {
        snapshot,
        service,
        target,
        port: placed.port.as_ref(),
        own_tags: zone.map(|zone| &zone.tags),
        key: None,
        criticality: service.criticality,
        draws_tier: false,
        in_panic: false,
    };
    let mut rng = SmallRng::seed_from_u64(ANY_SEED);
    let arms = match placed.has_own_split {
        true => vec![placed.own_arm()],
        false => {
            let split = snapshot.split_of(&target.service, service);
            arms::ordered(split, (target, None), |_| 1.0, &mut Reasons::new(false), &mut rng)
        }
    };
    let serves = |arm: &Arm| best(&question, arm).is_some();
    let Some(arm) = arm_of(&question, placed, &arms) else {
        return misplaced_if(arms.iter().any(serves), Misplacement::ArmWeightZero);
    };
    if drains(&question, placed, arm) {
        return misplaced_if(takes_drained(&question, arm, &arms), Misplacement::Draining);
    }
    let own = standing(&question, placed);
    let is_better = |best: BestPlace| best.draws && best.standing < own && !best.spills_to(own);
    let better = best(&question, arm).is_some_and(is_better);
    misplaced_if(better, Misplacement::BetterTier)
}

/// Checks whether a connection that another zone has sent belongs at its instance here. Where else it could be is for that
/// zone to know; its instance must have a weight, unless no other here can serve it.
///
/// # Errors
/// Says why it does not.
pub fn stays_here(snapshot: &Snapshot, placed: &Placement) -> Result<(), Misplacement> {
    let list = snapshot.instances.get(&placed.target.service);
    let others = list.is_some_and(|list| list.usable(&placed.arm).is_ok());
    misplaced_if(others && is_taken_out(snapshot, placed), Misplacement::Draining)
}

/// Moment at which a connection has to leave its instance of this zone, whether others can serve it or not: that of the instance's drain.
#[must_use]
pub fn leaves_instance_by(snapshot: &Snapshot, placed: &Placement) -> Option<SystemTime> {
    let list = snapshot.instances.get(&placed.target.service)?;
    if !list.has_drained() {
        return None;
    }
    instance_of(snapshot, placed)?.drain.as_ref()?.by
}

fn misplaced_if(misplaced: bool, why: Misplacement) -> Result<(), Misplacement> {
    match misplaced {
        true => Err(why),
        false => Ok(()),
    }
}

/// The arm that the connection is of, among those that take traffic.
fn arm_of<'a>(question: &Question<'_>, placed: &Placement, arms: &'a [Arm]) -> Option<&'a Arm> {
    if let Some(same) = arms.iter().find(|arm| arm.split_tags == placed.arm) {
        return Some(same);
    }
    let split = question
        .snapshot
        .split_of(&question.target.service, question.service);
    let is_named = split.iter().any(|arm| arm.tags == placed.arm);
    let instance = instance_of(question.snapshot, placed);
    arms.iter().find(|arm| match instance {
        Some(instance) => instance.tags.matches(&arm.split_tags),
        None => !is_named && !arms::contradicts(&arm.split_tags, &placed.arm),
    })
}

/// The instance that has it; `None`: it is elsewhere, or gone.
fn instance_of<'s>(snapshot: &'s Snapshot, placed: &Placement) -> Option<&'s Instance> {
    let PlacedAt::Instance(id) = &placed.server else {
        return None;
    };
    let list = snapshot.instances.get(&placed.target.service)?;
    // A list is in the order of ids.
    let place = list
        .binary_search_by(|instance| instance.id.as_str().cmp(id))
        .ok()?;
    list.get(place).map(|instance| &**instance)
}

fn drains(question: &Question<'_>, placed: &Placement, arm: &Arm) -> bool {
    let snapshot = question.snapshot;
    if snapshot.drains(placed.zone(&snapshot.zone)) {
        return true;
    }
    let PlacedAt::Gateway(gateway) = &placed.server else {
        return is_taken_out(snapshot, placed);
    };
    let entry = snapshot.catalog.entry(gateway);
    let told = entry.is_some_and(|entry| {
        let service = &question.target.service;
        entry.record.draining || homes::healthy_weight(entry, service, &arm.tags) == Err(Why::NoWeight)
    });
    told || snapshot.links.get(gateway) == Some(&Link::Draining)
}

/// Tells whether its instance of this zone is gone, or takes no connection any more.
fn is_taken_out(snapshot: &Snapshot, placed: &Placement) -> bool {
    instance_of(snapshot, placed).is_none_or(|instance| instance.weight == 0 || instance.drain.is_some())
}

/// Tier, and whether it is another zone's: the order in which places are preferred.
type Standing = (usize, bool);

/// The place of an arm that would be taken first.
struct BestPlace {
    standing: Standing,
    /// Its gateway is about to end, and is taken only where there is no other.
    drains: bool,
    /// All places of the arm come after those of other arms.
    is_last_resort: bool,
    /// It answers, stays, is heard, does not fail and is not at its slow start, so that it may draw connections from places that serve.
    draws: bool,
    /// Shares of the tiers by spill; empty without it.
    shares: Vec<f64>,
}

impl BestPlace {
    /// Tells whether new connections of the arm go to that tier too.
    fn spills_to(&self, (tier, _): Standing) -> bool {
        let better = tier > self.standing.0;
        let share = tier.checked_sub(1).and_then(|place| self.shares.get(place));
        better && share.is_some_and(|share| *share > 0.0)
    }
}

fn best(question: &Question<'_>, arm: &Arm) -> Option<BestPlace> {
    let mut rng = SmallRng::seed_from_u64(ANY_SEED);
    let ejected = question.snapshot.ejections.load();
    let mut homes = homes::of_arm(question, (arm, &ejected), &mut Reasons::new(false), &mut rng);
    let is_last_resort = homes.is_last_resort();
    let shares = std::mem::take(&mut homes.shares);
    let home = homes.next()?;
    let (grounds, rank) = (home.grounds, home.grounds.rank());
    let starts = home.zone().is_none() && own_zone_starts(question, arm);
    Some(BestPlace {
        shares,
        standing: (rank.tier.unwrap_or(0), rank.elsewhere),
        drains: rank.draining,
        is_last_resort,
        draws: !(rank.silent || rank.draining || rank.failing || starts || grounds.is_suspect()),
    })
}

/// Tells whether a new connection of an arm, one of whose places drains, would be put where nothing does.
fn takes_drained(question: &Question<'_>, arm: &Arm, arms: &[Arm]) -> bool {
    let own = best(question, arm);
    let goes_first = |other: &Arm| best(question, other).is_some_and(|best| !best.is_last_resort);
    match own {
        Some(own) if !own.drains => true,
        // What does not drain of it is silent, so that a new one is put where it drains.
        Some(own) if !own.is_last_resort => false,
        _ => arms.iter().any(goes_first),
    }
}

/// Standing of the zone that has the connection, whether or not it would be taken now. One that may not serve it any more comes last.
fn standing(question: &Question<'_>, placed: &Placement) -> Standing {
    let (snapshot, service) = (question.snapshot, question.service);
    let zone = placed.zone(&snapshot.zone);
    let elsewhere = *zone != snapshot.zone;
    let tags = snapshot.topology.zones.get(zone).map(|zone| &zone.tags);
    let may = service.may_run_in(zone)
        && (!elsewhere || (service.is_exported_to(&snapshot.zone) && tags.is_some()));
    match homes::tier(question, zone, tags) {
        Ok(tier) if may => (tier.unwrap_or(0), elsewhere),
        _ => (usize::MAX, elsewhere),
    }
}
