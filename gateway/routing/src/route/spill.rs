//! Spill: the share of a service's traffic that each tier gets, by how many of its instances are healthy.

use causeway_federation::{name::ZoneName, topology::Service};
use rand::Rng;
use serde::Serialize;

use super::draw;
use crate::sticky::StickyKey;

/// Instances of one tier, or of a part of it, that carry an arm's tags.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct TierHealth {
    pub healthy: u64,
    /// Healthy or not.
    pub instances: u64,
}

impl TierHealth {
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            healthy: self.healthy.saturating_add(other.healthy),
            instances: self.instances.saturating_add(other.instances),
        }
    }

    /// Share (0 to 1) of the traffic that it can take by itself; see [`tier_shares`].
    #[expect(
        clippy::cast_precision_loss,
        reason = "there are far fewer than 2^53 instances"
    )]
    #[must_use]
    pub fn fitness(self, healthy_below: f64) -> f64 {
        if self.healthy == 0 {
            return 0.0;
        }
        let healthy = self.healthy as f64 / self.instances.max(self.healthy) as f64;
        (healthy / healthy_below).min(1.0)
    }
}

/// Divides traffic among tiers: the share (0 to 1) of each, in their order. A tier takes all that comes to it while at least
/// `healthy_below` (0 to 1) of its instances are healthy, and below that as much less as there are fewer; the rest goes to the next. Where
/// all tiers together cannot take everything, each gets more in proportion. The shares add up to 1, or are all 0 where nothing is healthy.
///
/// It is the load of priority levels as Envoy has it (its docs, "Priority levels"), whose overprovisioning factor of 1.4 is a
/// `healthy_below` of 1/1.4.
///
/// A tier takes no more than its ceiling, if it has one (see `failback`), while others can take the rest.
#[must_use]
pub fn tier_shares(tiers: &[TierHealth], healthy_below: f64, ceilings: &[f64]) -> Vec<f64> {
    let able: Vec<f64> = tiers.iter().map(|tier| tier.fitness(healthy_below)).collect();
    let ceilings = ceilings.iter().copied().chain(std::iter::repeat(1.0));
    let capped = able.iter().zip(ceilings).map(|(able, most)| able.min(most));
    let mut fitness: Vec<f64> = capped.collect();
    let mut lacking = (1.0 - fitness.iter().sum::<f64>()).max(0.0);
    for (share, able) in fitness.iter_mut().zip(&able) {
        let more = (able - *share).min(lacking);
        *share += more;
        lacking -= more;
    }
    let sum: f64 = fitness.iter().sum();
    let scale = if sum > 0.0 { 1.0 / sum.min(1.0) } else { 0.0 };
    let mut left: f64 = 1.0;
    let share = |fitness: f64| {
        let share = (fitness * scale).min(left);
        left -= share;
        // What rounding leaves is nobody's share.
        if share < 1e-9 { 0.0 } else { share }
    };
    fitness.into_iter().map(share).collect()
}

/// Added to the number of a tier, so that tiers have draws of their own: nothing else is drawn by such names.
const TIER_NAMES: u64 = 0x7469_6572_0000_0000;

/// Draws the tier (from 0) that takes a connection, by a key where there is one; `None`: no tier has a share.
pub(super) fn drawn(shares: &[f64], key: Option<StickyKey>, rng: &mut impl Rng) -> Option<usize> {
    let tiers = shares.iter().enumerate().filter(|(_, share)| **share > 0.0);
    let draws = tiers.map(|(tier, share)| match key {
        Some(key) => (tier, key.draw(TIER_NAMES ^ tier as u64, *share)),
        None => (tier, draw(*share, rng)),
    });
    let least = draws.min_by(|(_, a), (_, b)| a.total_cmp(b));
    least.map(|(tier, _)| tier)
}

/// Share (0 to 1) of healthy instances below which a tier of the service gives traffic away; without `spill` only one that has none does.
#[must_use]
pub fn healthy_below(service: &Service) -> f64 {
    service.spill.as_ref().map_or(0.0, |spill| spill.healthy_below)
}

/// The share in whole percents, of which none that is not 0 is told as 0.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share is from 0 to 1"
)]
pub(super) fn percent(share: f64) -> u8 {
    let percent = (share * 100.0).round() as u8;
    percent.max(u8::from(share > 0.0))
}

/// Counts the health of tiers from what their zones tell of. The gateways of one zone, which tell of the same instances, come one after the
/// other.
#[derive(Debug, Default)]
pub(super) struct TierTally<'s> {
    tiers: Vec<TierHealth>,
    /// The zone at hand, its tier (from 0), and the most that one of its gateways has told of.
    at_hand: Option<(&'s ZoneName, usize, TierHealth)>,
}

impl<'s> TierTally<'s> {
    pub(super) fn add(&mut self, zone: &'s ZoneName, tier: usize, told: TierHealth) {
        match &mut self.at_hand {
            Some((at_hand, _, most)) if *at_hand == zone => {
                // One gateway's word, and no mixture with what another told that is gone.
                let well = |health: &TierHealth| (health.healthy, health.instances);
                if well(&told) > well(most) {
                    *most = told;
                }
            }
            _ => {
                self.flush();
                self.at_hand = Some((zone, tier, told));
            }
        }
    }

    pub(super) fn finish(mut self) -> Vec<TierHealth> {
        self.flush();
        self.tiers
    }

    fn flush(&mut self) {
        let Some((_, tier, told)) = self.at_hand.take() else {
            return;
        };
        if self.tiers.len() <= tier {
            self.tiers.resize(tier + 1, TierHealth::default());
        }
        self.tiers[tier] = self.tiers[tier].plus(told);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Of tiers of a hundred instances each.
    fn percents(healthy: &[u64], healthy_below: f64) -> Vec<i64> {
        let tiers: Vec<_> = healthy
            .iter()
            .map(|healthy| TierHealth {
                healthy: *healthy,
                instances: 100,
            })
            .collect();
        let percent = |share: f64| format!("{:.0}", share * 100.0).parse().unwrap();
        tier_shares(&tiers, healthy_below, &[])
            .into_iter()
            .map(percent)
            .collect()
    }

    /// The tables of Envoy's docs ("Priority levels"), with its factor of 1.4. Envoy cuts percents down to whole numbers and gives
    /// what is missing to the first level; these round.
    #[test]
    fn the_shares_are_those_of_envoys_tables() {
        for (healthy, shares) in [
            (&[100, 100][..], &[100, 0][..]),
            (&[72, 72], &[100, 0]),
            (&[71, 71], &[99, 1]),
            (&[50, 50], &[70, 30]),
            (&[25, 100], &[35, 65]),
            (&[25, 25], &[50, 50]),
            (&[0, 100], &[0, 100]),
            (&[100, 100, 100], &[100, 0, 0]),
            (&[72, 72, 100], &[100, 0, 0]),
            (&[71, 71, 100], &[99, 1, 0]),
            (&[50, 50, 100], &[70, 30, 0]),
            (&[25, 100, 100], &[35, 65, 0]),
            (&[25, 25, 100], &[35, 35, 30]),
            (&[25, 25, 20], &[36, 36, 29]),
            (&[0, 0, 0], &[0, 0, 0]),
        ] {
            assert_eq!(percents(healthy, 1.0 / 1.4), shares, "{healthy:?}");
        }
    }

    #[test]
    fn a_threshold_at_the_ends_is_no_special_case() {
        assert_eq!(
            percents(&[1, 100], 0.0),
            [100, 0],
            "any healthy instance takes all"
        );
        assert_eq!(percents(&[99, 100], 1.0), [99, 1], "any ill one counts");
    }

    #[test]
    fn a_ceiling_holds_only_for_what_others_can_take() {
        let tier = |healthy| TierHealth {
            healthy,
            instances: 100,
        };
        for (healthy, ceilings, expected) in [
            ([100, 100], [0.0, 1.0], [0, 100]),
            ([100, 100], [0.3, 1.0], [30, 70]),
            ([100, 10], [0.0, 1.0], [86, 14]),
            ([100, 0], [0.0, 1.0], [100, 0]),
            ([50, 10], [0.0, 0.0], [83, 17]),
        ] {
            let shares = tier_shares(&healthy.map(tier), 0.7, &ceilings);
            for (share, expected) in shares.iter().zip(expected) {
                assert!(
                    (share * 100.0 - f64::from(expected)).abs() < 1.0,
                    "{healthy:?} {ceilings:?}: {shares:?}"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn shares_add_up_whatever_the_ceilings_are(
            tiers in prop::collection::vec((0u64..20, 0u64..20, 0.0f64..=1.0), 0..6),
            healthy_below in 0.0f64..=1.0,
        ) {
            let ceilings: Vec<f64> = tiers.iter().map(|(_, _, ceiling)| *ceiling).collect();
            let tiers: Vec<_> = tiers
                .into_iter()
                .map(|(healthy, ill, _)| TierHealth { healthy, instances: healthy + ill })
                .collect();
            let sum: f64 = tier_shares(&tiers, healthy_below, &ceilings).iter().sum();
            let any = tiers.iter().any(|tier| tier.healthy > 0);
            prop_assert!((sum - f64::from(u8::from(any))).abs() < 1e-6, "{sum}");
        }

        #[test]
        fn shares_add_up_and_no_tier_is_passed_over_that_could_take_more(
            tiers in prop::collection::vec((0u64..20, 0u64..20), 0..6),
            healthy_below in 0.0f64..=1.0,
        ) {
            let tiers: Vec<_> = tiers
                .into_iter()
                .map(|(healthy, ill)| TierHealth { healthy, instances: healthy + ill })
                .collect();
            let shares = tier_shares(&tiers, healthy_below, &[]);
            prop_assert_eq!(shares.len(), tiers.len());
            let sum: f64 = shares.iter().sum();
            let any = tiers.iter().any(|tier| tier.healthy > 0);
            prop_assert!((sum - f64::from(u8::from(any))).abs() < 1e-6, "{shares:?}");
            for (place, (tier, share)) in tiers.iter().zip(&shares).enumerate() {
                prop_assert!(tier.healthy > 0 || *share == 0.0);
                let later: f64 = shares[place + 1..].iter().sum();
                // Whoever leaves something to a later one takes at least what it can.
                prop_assert!(later < 1e-6 || *share > tier.fitness(healthy_below) - 1e-6, "{shares:?}");
            }
        }
    }
}
