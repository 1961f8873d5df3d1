//! Range in which a measured share may lie around the declared one before chance can no longer be the reason.

use std::ops::RangeInclusive;

/// Chance that a correct split falls outside the range on one side: about once in a billion measurements.
const DOUBT: f64 = 1e-9;

/// Computes how many of `count` independent choices may fall on an arm that takes `share` (0 to 1) of them: the
/// quantiles of the binomial distribution at [`DOUBT`] and 1 - [`DOUBT`].
pub(super) fn plausible(count: u64, share: f64) -> RangeInclusive<u64> {
    if count == 0 || share <= 0.0 {
        return 0..=0;
    }
    if share >= 1.0 {
        return count..=count;
    }
    let chances = chances(count, share);
    let first_likely = |chances: &mut dyn Iterator<Item = &f64>| {
        let mut sum = 0.0;
        let unlikely = chances.take_while(|chance| {
            sum += **chance;
            sum < DOUBT
        });
        unlikely.count() as u64
    };
    let low = first_likely(&mut chances.iter());
    let high = count.saturating_sub(first_likely(&mut chances.iter().rev()));
    low..=high
}

/// The range, wider by as many choices as were moved to another arm because their own did not answer in time.
pub(super) fn plausible_with_moves(count: u64, share: f64, moved: u64) -> RangeInclusive<u64> {
    let range = plausible(count, share);
    let high = range.end().saturating_add(moved).min(count);
    range.start().saturating_sub(moved)..=high
}

/// For each number of hits from 0 to `count`, how likely exactly that many are. Each follows from the one before, in
/// logarithms, since the factors overflow.
fn chances(count: u64, share: f64) -> Vec<f64> {
    let odds = share.ln() - (-share).ln_1p();
    let mut logarithm = count as f64 * (-share).ln_1p();
    let mut chances = vec![logarithm.exp()];
    for hits in 1..=count {
        logarithm += ((count - hits + 1) as f64).ln() - (hits as f64).ln() + odds;
        chances.push(logarithm.exp());
    }
    chances
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::SmallRng};

    use super::*;

    #[test]
    fn a_fair_coin_has_the_quantiles_of_the_binomial_distribution() {
        // By normal approximation 500 - 6.0 * 15.8 and 500 + 6.0 * 15.8.
        let range = plausible(1000, 0.5);
        assert!((403..=408).contains(range.start()), "{range:?}");
        assert!((592..=597).contains(range.end()), "{range:?}");
    }

    #[test]
    fn shares_of_none_and_all_leave_no_room() {
        assert_eq!(plausible(300, 0.0), 0..=0);
        assert_eq!(plausible(300, 1.0), 300..=300);
        assert_eq!(plausible(0, 0.5), 0..=0);
    }

    #[test]
    fn what_was_moved_widens_the_range_within_the_count() {
        assert_eq!(plausible_with_moves(300, 0.0, 2), 0..=2);
        assert_eq!(plausible_with_moves(300, 1.0, 2), 298..=300);
    }

    #[test]
    fn correct_splits_pass_and_wrong_ones_do_not() {
        let mut rng = SmallRng::seed_from_u64(7);
        for _ in 0..1000 {
            let hits = (0..300).filter(|_| rng.random_bool(0.05)).count() as u64;
            assert!(plausible(300, 0.05).contains(&hits), "{hits}");
            assert!(!plausible(300, 0.5).contains(&hits), "{hits}");
        }
    }
}
