//! Tiers among which spill and failback divide the traffic of an arm: how healthy each is, and which takes this connection.

use std::collections::BTreeSet;

use causeway_federation::{
    catalog::{Catalog, CatalogEntry},
    name::{ServiceName, Tags, ZoneName},
    topology::Service,
};
use rand::{Rng, SeedableRng, rngs::SmallRng};

use super::{
    Question, allotment,
    arms::Arm,
    homes::{self, Grounds, Homes},
    reason::{ReasonSubject, Reasons, Why},
    spill::{self, TierHealth, TierTally},
};
use crate::{snapshot::Snapshot, target::Target};

/// Counts the instances of each tier of a service that carry the tags of an arm, in the order of tiers; those that cannot be reached, whose
/// zone or gateway drains or is ejected count as ill. Empty where neither spill nor failback asks for it.
#[must_use]
pub fn tier_health(snapshot: &Snapshot, service: &ServiceName, arm: &Tags) -> Vec<TierHealth> {
    of_arm_alone(snapshot, (service, arm), false, |_, homes| homes.tiers).unwrap_or_default()
}

/// Counts as [`tier_health`], and collects the zones that can serve the arm and are not only the last that do, where the service has a slow start.
pub(crate) fn arm_health(
    snapshot: &Snapshot,
    service: &ServiceName,
    arm: &Tags,
) -> (Vec<TierHealth>, BTreeSet<ZoneName>) {
    let look = |service: &Service, homes: Homes<'_>| {
        let well = homes.left.iter().filter(|home| home.grounds.counts());
        let serving = well.map(|home| home.zone().unwrap_or(&snapshot.zone).clone());
        let serving = service.slow_start.map(|_| serving.collect());
        (homes.tiers, serving.unwrap_or_default())
    };
    of_arm_alone(snapshot, (service, arm), false, look).unwrap_or_default()
}

/// Looks at the homes of an arm, whoever asks and without drawing a tier; those of a panic too where there is one. `None`: the topology has no such
/// service.
pub(super) fn of_arm_alone<T>(
    snapshot: &Snapshot,
    (name, arm): (&ServiceName, &Tags),
    in_panic: bool,
    look: impl FnOnce(&Service, Homes<'_>) -> T,
) -> Option<T> {
    let target = Target::service(name.clone());
    let zone = snapshot.topology.zones.get(&snapshot.zone);
    let service = snapshot.topology.services.get(name)?;
    let question = Question {
        snapshot,
        service,
        target: &target,
        own_tags: zone.map(|zone| &zone.tags),
        key: None,
        criticality: service.criticality,
        port: service.ports.primary.name.as_ref(),
        draws_tier: false,
        in_panic,
    };
    let arm = Arm {
        split_tags: arm.clone(),
        tags: arm.clone(),
        weight: 1,
        by_name: false,
    };
    let mut rng = SmallRng::seed_from_u64(0);
    let ejected = snapshot.ejections.load();
    let homes = homes::of_arm(&question, (&arm, &ejected), &mut Reasons::new(false), &mut rng);
    Some(look(service, homes))
}

/// Tells whether a tier is drawn by the health of all: a zone in the name stands for the tiers.
pub(super) fn spills(question: &Question<'_>) -> bool {
    let service = question.service;
    (service.spill.is_some() || service.return_policy().is_some())
        && question.target.zone.is_none()
        && !question.in_panic
}

/// Adds this zone's own instances.
pub(super) fn tally_own<'s>(
    question: &Question<'s>,
    arm: &Arm,
    verdict: Result<Grounds, Why>,
    tally: &mut TierTally<'s>,
) {
    let zone = &question.snapshot.zone;
    let instances = question.snapshot.instances.get(&question.target.service);
    let tier = tier_of(question, (zone, question.own_tags), verdict);
    if let (Some(tier), Some(list)) = (tier, instances) {
        let counts = verdict.is_ok_and(Grounds::counts);
        tally.add(zone, tier - 1, counted(list.health(&arm.tags), counts));
    }
}

/// Adds what a gateway of another zone tells of, whether or not it can be reached: instances that cannot be reached serve nobody.
pub(super) fn tally_remote<'s>(
    question: &Question<'s>,
    entry: &'s CatalogEntry,
    arm: &Arm,
    verdict: Result<Grounds, Why>,
    tally: &mut TierTally<'s>,
) {
    let zone = &entry.record.origin.zone;
    let Some(declared) = question.snapshot.topology.zones.get(zone) else {
        return;
    };
    if let Some(tier) = tier_of(question, (zone, Some(&declared.tags)), verdict) {
        let exports = Catalog::exports(entry, &question.target.service, &arm.tags);
        let told = exports.fold(TierHealth::default(), |sum, export| {
            sum.plus(TierHealth {
                healthy: export.healthy.into(),
                instances: export.instances.into(),
            })
        });
        tally.add(zone, tier - 1, counted(told, verdict.is_ok_and(Grounds::counts)));
    }
}

/// The tier (from 1) for which the instances of a zone count; `None`: they may not serve, whatever their state.
fn tier_of(
    question: &Question<'_>,
    (zone, tags): (&ZoneName, Option<&Tags>),
    verdict: Result<Grounds, Why>,
) -> Option<usize> {
    match verdict {
        Ok(grounds) => grounds.tier,
        Err(
            Why::Withdrawn
            | Why::NoTunnel
            | Why::NoInstance
            | Why::NoneHealthy
            | Why::Drained
            | Why::NoWeight,
        ) => homes::tier(question, zone, tags).ok().flatten(),
        Err(_) => None,
    }
}

fn counted(told: TierHealth, counts: bool) -> TierHealth {
    TierHealth {
        healthy: if counts { told.healthy } else { 0 },
        ..told
    }
}

/// Puts the tier first that takes this connection, of those that share the traffic.
pub(super) fn spill(
    question: &Question<'_>,
    arm: &Arm,
    homes: &mut Homes<'_>,
    (reasons, rng): (&mut Reasons, &mut impl Rng),
) {
    let threshold = spill::healthy_below(question.service);
    let ceilings = question.snapshot.ceilings.load();
    // They are worked out for the primary port, and for names without tags.
    let is_usual =
        question.port == question.service.ports.primary.name.as_ref() && question.target.tags.is_empty();
    let ceilings = match is_usual {
        true => ceilings.of(&question.target.service, &arm.split_tags),
        false => &[],
    };
    let plan = question.snapshot.capacity.plan();
    let planned = plan.shares(&question.target.service, &arm.tags, question.criticality);
    homes.shares = match planned {
        Some(planned) => planned.of_tiers(homes.tiers.len()),
        None => spill::tier_shares(&homes.tiers, threshold, ceilings),
    };
    for (place, (health, share)) in homes.tiers.iter().zip(&homes.shares).enumerate() {
        let ceiling = ceilings.get(place).copied().unwrap_or(1.0);
        let why = Why::TierShare {
            health: *health,
            percent: spill::percent(*share),
            returning: ceiling < health.fitness(threshold),
        };
        reasons.note(|| ReasonSubject::Tier(place + 1), Some(&arm.split_tags), why);
    }
    if let Some(planned) = planned {
        allotment::allot(question, (arm, planned), homes, (reasons, rng));
        return;
    }
    if !question.draws_tier {
        return;
    }
    let Some(drawn) = spill::drawn(&homes.shares, question.key, rng) else {
        return;
    };
    let first = homes.shares.iter().position(|share| *share > 0.0);
    for home in &mut homes.left {
        let is_drawn = home.grounds.tier == Some(drawn + 1);
        home.grounds.passed_by = !is_drawn;
        home.grounds.spilled = is_drawn && first != Some(drawn);
    }
}
