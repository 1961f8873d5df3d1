//! Shares of the arms of a split at a step of a shift. Pure arithmetic.

use crate::{name::Tags, topology::model::SplitArm};

/// Weights of arms are at most so large, as in the file.
const MAX_WEIGHT: u64 = 1_000_000;

/// Gives `percent` of the traffic to the arm `to`, which is added if it is not there, and the rest to the others as they share it now.
pub(super) fn shifted(from: &[SplitArm], to: &Tags, percent: u32) -> Vec<SplitArm> {
    let others = from.iter().filter(|arm| arm.tags != *to);
    let others: u64 = others.map(|arm| u64::from(arm.weight)).sum();
    let (own, rest) = match others {
        0 => (1, 0),
        others => (u64::from(percent) * others, u64::from(100 - percent.min(100))),
    };
    let (mut arms, mut is_there) = (Vec::with_capacity(from.len() + 1), false);
    for arm in from {
        let weight = match (arm.tags == *to, is_there) {
            (false, _) => u64::from(arm.weight) * rest,
            (true, false) => own,
            (true, true) => 0,
        };
        is_there |= arm.tags == *to;
        arms.push((arm.tags.clone(), weight));
    }
    if !is_there {
        arms.push((to.clone(), own));
    }
    let divisor = arms.iter().fold(0, |divisor, (_, weight)| gcd(divisor, *weight));
    let total = arms
        .iter()
        .map(|(_, weight)| weight / divisor.max(1))
        .sum::<u64>();
    // As percent, where they are whole ones.
    let factor = if total > 0 && 100 % total == 0 {
        100 / total
    } else {
        1
    };
    let weights = arms.iter().map(|(_, weight)| weight / divisor.max(1) * factor);
    let most = weights.clone().max().unwrap_or_default().max(1);
    let within = |weight: u64| match most > MAX_WEIGHT && weight > 0 {
        true => (weight.saturating_mul(MAX_WEIGHT) / most).max(1),
        false => weight,
    };
    let weights: Vec<u64> = weights.map(within).collect();
    let arms = arms.into_iter().zip(weights);
    arms.map(|((tags, _), weight)| SplitArm {
        tags,
        weight: u32::try_from(weight).unwrap_or(u32::MAX),
    })
    .collect()
}

fn gcd(a: u64, b: u64) -> u64 {
    match b {
        0 => a,
        b => gcd(b, a % b),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tags(version: &str) -> Tags {
        [("version", version)].into_iter().collect()
    }

    fn arms(weights: &[(&str, u32)]) -> Vec<SplitArm> {
        let arm = |(version, weight): &(&str, u32)| SplitArm {
            tags: tags(version),
            weight: *weight,
        };
        weights.iter().map(arm).collect()
    }

    #[test]
    fn the_rest_is_shared_as_before_and_shares_are_whole_percent_where_they_can_be() {
        for (from, percent, expected) in [
            (&[("v1", 1)][..], 5, &[("v1", 95), ("v2", 5)][..]),
            (&[("v1", 95), ("v2", 5)], 25, &[("v1", 75), ("v2", 25)]),
            (&[("v1", 95), ("v2", 5)], 100, &[("v1", 0), ("v2", 100)]),
            (&[("v2", 0), ("v1", 7)], 50, &[("v2", 50), ("v1", 50)]),
            (&[("v0", 1), ("v1", 3)], 20, &[("v0", 20), ("v1", 60), ("v2", 20)]),
            (&[("v0", 1), ("v1", 2)], 50, &[("v0", 1), ("v1", 2), ("v2", 3)]),
        ] {
            assert_eq!(
                shifted(&arms(from), &tags("v2"), percent),
                arms(expected),
                "{from:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn the_arm_gets_its_percent_and_the_others_keep_their_proportions(
            weights in prop::collection::vec(0u32..=1_000_000, 1..8), percent in 1u32..=100, own in 0u32..1000,
        ) {
            prop_assume!(weights.iter().any(|weight| *weight > 0));
            let mut from: Vec<SplitArm> = weights.iter().enumerate().map(|(n, weight)| SplitArm {
                tags: tags(&format!("a{n}")), weight: *weight,
            }).collect();
            if own > 0 {
                from.insert(0, SplitArm { tags: tags("v2"), weight: own });
            }
            let after = shifted(&from, &tags("v2"), percent);
            let total: f64 = after.iter().map(|arm| f64::from(arm.weight)).sum();
            let others: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
            for arm in &after {
                prop_assert!(u64::from(arm.weight) <= MAX_WEIGHT);
                let before = from.iter().find(|other| other.tags == arm.tags);
                let expected = match (arm.tags == tags("v2"), before) {
                    (true, _) => f64::from(percent) / 100.0,
                    (false, before) => {
                        f64::from(before.map_or(0, |arm| arm.weight)) / others * f64::from(100 - percent) / 100.0
                    }
                };
                prop_assert!((f64::from(arm.weight) / total - expected).abs() < 1e-4, "{after:?}");
            }
        }
    }
}
