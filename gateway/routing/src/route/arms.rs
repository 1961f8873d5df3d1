//! The arms of a split, in the order in which this connection tries them.

use causeway_federation::{name::Tags, topology::SplitArm};
use rand::Rng;

use super::{
    draw,
    reason::{ReasonSubject, Reasons, Why},
    spill::percent,
};
use crate::{sticky::StickyKey, target::Target};

/// One arm that this connection may use.
#[derive(Debug)]
pub(super) struct Arm {
    /// As the split has them.
    pub(super) split_tags: Tags,
    /// With those of the name: what the instance must carry.
    pub(super) tags: Tags,
    pub(super) weight: u32,
    /// Made from the name because no arm agrees with it.
    pub(super) by_name: bool,
}

/// Filters the arms of a split and puts them in a weighted random order, or that of a key, each with its part (0 to 1) of its weight.
pub(super) fn ordered(
    split: &[SplitArm],
    (target, key): (&Target, Option<StickyKey>),
    part_of: impl Fn(&Tags) -> f64,
    reasons: &mut Reasons,
    rng: &mut impl Rng,
) -> Vec<Arm> {
    let mut drawn: Vec<(f64, Arm)> = Vec::with_capacity(split.len());
    let mut any_agrees = false;
    for split in split {
        let why = if contradicts(&split.tags, &target.tags) {
            Why::ArmContradictsName
        } else {
            any_agrees = true;
            if split.weight > 0 {
                let part = part_of(&split.tags);
                if part < 1.0 {
                    let why = Why::ArmStarting {
                        percent: percent(part),
                    };
                    let weight = split.weight;
                    reasons.note(|| ReasonSubject::Arm { weight }, Some(&split.tags), why);
                }
                let weight = f64::from(split.weight) * part;
                let drawn_at = match key {
                    Some(key) => key.draw_named(&split.tags.to_string(), weight),
                    None => draw(weight, rng),
                };
                drawn.push((drawn_at, arm(split, target)));
                continue;
            }
            Why::ArmWeightZero
        };
        let weight = split.weight;
        reasons.note(|| ReasonSubject::Arm { weight }, Some(&split.tags), why);
    }
    if !any_agrees {
        drawn.push((0.0, by_name(target)));
    }
    drawn.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    drawn.into_iter().map(|(_, arm)| arm).collect()
}

/// Tags that instances must carry for each arm that a connection may use, and its weight.
pub(crate) fn arm_weights(split: &[SplitArm], target: &Target) -> Vec<(Tags, u32)> {
    let agreeing = split
        .iter()
        .filter(|split| !contradicts(&split.tags, &target.tags));
    let mut agreeing = agreeing.peekable();
    if agreeing.peek().is_none() {
        return vec![(by_name(target).tags, 1)];
    }
    let weighty = agreeing.filter(|split| split.weight > 0);
    weighty
        .map(|split| (arm(split, target).tags, split.weight))
        .collect()
}

pub(super) fn contradicts(arm: &Tags, name: &Tags) -> bool {
    name.iter()
        .any(|(key, value)| arm.value(key).is_some_and(|other| other != value))
}

fn arm(split: &SplitArm, target: &Target) -> Arm {
    let tags = match (split.tags.is_empty(), target.tags.is_empty()) {
        (_, true) => split.tags.clone(),
        (true, false) => target.tags.clone(),
        (false, false) => split.tags.merged(&target.tags),
    };
    Arm {
        split_tags: split.tags.clone(),
        tags,
        weight: split.weight,
        by_name: false,
    }
}

fn by_name(target: &Target) -> Arm {
    Arm {
        split_tags: target.tags.clone(),
        tags: target.tags.clone(),
        weight: 0,
        by_name: true,
    }
}
