//! The zone that takes a connection where zones have no room for everything, or that none does.

use rand::Rng;

use super::{
    Question,
    arms::Arm,
    draw,
    homes::Homes,
    reason::{ReasonSubject, Reasons, Why},
    spill::percent,
};
use crate::capacity::CapacityShares;

/// Name by which what is shed is drawn: no zone has it.
const SHED: &str = "(shed)";

/// Puts the zone first that takes this connection, of those that have a share in the plan; or has it shed.
pub(super) fn allot(
    question: &Question<'_>,
    (arm, planned): (&Arm, &CapacityShares),
    homes: &mut Homes<'_>,
    (reasons, rng): (&mut Reasons, &mut impl Rng),
) {
    for zone in &planned.zones {
        let why = Why::ZoneShare {
            percent: percent(zone.share),
            measured: zone.is_measured,
        };
        reasons.note(
            || ReasonSubject::Zone(zone.zone.clone()),
            Some(&arm.split_tags),
            why,
        );
    }
    if planned.shed > 0.0 {
        let subject = || ReasonSubject::Service(question.target.service.clone());
        let why = Why::ShedShare {
            percent: percent(planned.shed),
        };
        reasons.note(subject, Some(&arm.split_tags), why);
    }
    // What nobody can serve now is not shed.
    if !question.draws_tier || homes.left.is_empty() {
        return;
    }
    let draw = |name: &str, share: f64, rng: &mut _| match question.key {
        Some(key) => key.draw_named(name, share),
        None => draw(share, rng),
    };
    let mut least: Option<(f64, usize)> = None;
    for (place, zone) in planned.zones.iter().enumerate() {
        let drawn = draw(zone.zone.as_str(), zone.share, rng);
        if least.is_none_or(|(least, _)| drawn < least) {
            least = Some((drawn, place));
        }
    }
    let is_shed = planned.shed > 0.0 && {
        let drawn = draw(SHED, planned.shed, rng);
        least.is_none_or(|(least, _)| drawn < least)
    };
    if is_shed {
        homes.left.clear();
        homes.is_shed = true;
        return;
    }
    let Some(drawn) = least.map(|(_, place)| &planned.zones[place]) else {
        return;
    };
    let first = planned.zones.first().map(|zone| zone.tier);
    for home in &mut homes.left {
        let is_drawn = home.zone().unwrap_or(&question.snapshot.zone) == &drawn.zone;
        home.grounds.passed_by = !is_drawn;
        // Nobody else has room: that it drains does not put it after those that are full.
        home.grounds.is_needed = is_drawn;
        home.grounds.spilled = is_drawn && first < Some(drawn.tier);
    }
}
