//! Zones and arms at their slow start: a part of what they would take goes elsewhere.

use causeway_federation::name::Tags;
use rand::Rng;

use super::{Question, Request, arms::Arm, draw, homes::Homes};
use crate::snapshot::Snapshot;

/// Names by which the own zone at its slow start is drawn: no zone has them.
const OWN: &str = "(own)";
const OTHERS: &str = "(others)";

/// Gives zones their part of their weight, and has the own one, which comes first of its tier, pass by what it does not take yet.
pub(super) fn start_slowly(question: &Question<'_>, arm: &Arm, homes: &mut Homes<'_>, rng: &mut impl Rng) {
    let is_asked = question.draws_tier && !question.in_panic && question.target.zone.is_none();
    if question.service.slow_start.is_none() || !is_asked {
        return;
    }
    let snapshot = question.snapshot;
    let ceilings = snapshot.ceilings.load();
    let part_of = |zone| ceilings.part_of_zone(&question.target.service, &arm.split_tags, zone);
    let mut own = None;
    for (place, home) in homes.left.iter_mut().enumerate() {
        match home.zone() {
            Some(zone) => home.weight *= part_of(zone),
            None => own = Some((place, home.grounds.tier)),
        }
    }
    let (Some((own, tier)), part) = (own, part_of(&snapshot.zone)) else {
        return;
    };
    // Drawn by a plan that knows of its part already.
    if homes.left[own].grounds.is_needed {
        return;
    }
    let mut others = homes.left.iter().filter(|home| home.gateway.is_some());
    let has_others = others.any(|home| home.grounds.tier == tier && home.grounds.counts());
    if part >= 1.0 || !has_others {
        return;
    }
    let (here, there) = match question.key {
        Some(key) => (key.draw_named(OWN, part), key.draw_named(OTHERS, 1.0 - part)),
        None => (draw(part, rng), draw(1.0 - part, rng)),
    };
    homes.left[own].grounds.passed_by |= there < here;
}

/// Tells whether the own zone is at its slow start: others of its tier keep what they have.
pub(super) fn own_zone_starts(question: &Question<'_>, arm: &Arm) -> bool {
    let (snapshot, service) = (question.snapshot, &question.target.service);
    let part = || {
        let ceilings = snapshot.ceilings.load();
        ceilings.part_of_zone(service, &arm.split_tags, &snapshot.zone)
    };
    question.service.slow_start.is_some() && part() < 1.0
}

/// Part (0.1 to 1) of its weight that an arm has for this request.
pub(super) fn part_of_arm(snapshot: &Snapshot, request: &Request, arm: &Tags) -> f64 {
    let target = &request.target;
    let service = snapshot.topology.services.get(&target.service);
    let starts = service.is_some_and(|service| service.slow_start.is_some());
    // Names with tags or a zone stand for weights and tiers.
    if !starts || !target.tags.is_empty() || target.zone.is_some() {
        return 1.0;
    }
    snapshot.ceilings.load().part_of_arm(&target.service, arm)
}
