//! Waits that grow with failures: what everything that tries again has in common. Time and randomness are arguments.

use std::time::Duration;

use rand::Rng;

/// The longest wait after `failures` failures in a row before the present one: `first`, doubled with each, and at most `last`.
#[must_use]
pub fn ceiling(first: Duration, failures: u32, last: Duration) -> Duration {
    let factor = 1u32.checked_shl(failures).unwrap_or(u32::MAX);
    first.saturating_mul(factor).min(last)
}

/// A wait evenly spread between half of a ceiling and the whole of it, so that many who failed together do not come back
/// together, and nobody comes back in a burst.
#[must_use]
pub fn at_least_half(ceiling: Duration, rng: &mut impl Rng) -> Duration {
    ceiling.mul_f64(rng.random_range(0.5..=1.0))
}

/// Longest wait before the second try to connect again.
const RECONNECT_FIRST: Duration = Duration::from_millis(100);
/// Longest wait before any try.
const RECONNECT_LAST: Duration = Duration::from_secs(5);
/// The wait after `attempt` failures in a row, from 0 for the first: evenly spread between nothing and a ceiling that doubles
/// up to 5 s, so that many gateways that lost the same peer at once do not come back at once
/// (<https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>, "full jitter").
#[must_use]
pub fn reconnect(attempt: u32, rng: &mut impl Rng) -> Duration {
    ceiling(RECONNECT_FIRST, attempt, RECONNECT_LAST).mul_f64(rng.random_range(0.0..=1.0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::SmallRng};

    use super::*;

    #[test]
    fn a_ceiling_doubles_up_to_the_last_and_a_wait_is_never_under_half_of_it() {
        let (first, last) = (Duration::from_millis(500), Duration::from_secs(30));
        let ceilings = [0, 1, 5, 6, 31, 32, u32::MAX].map(|failures| ceiling(first, failures, last));
        let expected = [500, 1_000, 16_000, 30_000, 30_000, 30_000, 30_000].map(Duration::from_millis);
        assert_eq!(ceilings, expected);
        let mut rng = SmallRng::seed_from_u64(7);
        for _ in 0..1_000 {
            let wait = at_least_half(last, &mut rng);
            assert!(wait >= last / 2 && wait <= last);
        }
    }

    proptest! {
        #[test]
        fn a_wait_never_exceeds_its_ceiling(attempt in any::<u32>(), seed in any::<u64>()) {
            let wait = reconnect(attempt, &mut SmallRng::seed_from_u64(seed));
            prop_assert!(wait <= RECONNECT_LAST);
            prop_assert!(attempt > 5 || wait <= RECONNECT_FIRST * (1 << attempt));
        }
    }

    #[test]
    fn gateways_that_fail_together_come_back_spread_out() {
        let mut rng = SmallRng::seed_from_u64(7);
        let mut waits: Vec<_> = (0..1000).map(|_| reconnect(9, &mut rng)).collect();
        waits.sort_unstable();
        let busiest = waits
            .chunk_by(|a, b| a.as_millis() / 100 == b.as_millis() / 100)
            .map(<[_]>::len);
        assert!(
            busiest.max().unwrap() < 60,
            "a tenth of a second holds too many of them"
        );
    }
}
