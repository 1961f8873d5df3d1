//! How long to wait before dialling again.

use std::time::Duration;

use rand::Rng;

use crate::backoff::ceiling;

/// Longest wait before the second try.
pub const BASE: Duration = Duration::from_millis(100);
/// Longest wait before any try.
pub const CAP: Duration = Duration::from_secs(5);
/// A tunnel that was up this long starts from the shortest waits again.
pub const FORGIVEN_AFTER: Duration = Duration::from_secs(10);

/// The wait after `attempt` failures in a row, from 0 for the first: evenly spread between nothing and a ceiling that doubles
/// up to [`CAP`], so that many gateways that lost the same peer at once do not come back at once
/// (<https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>, "full jitter").
#[must_use]
pub fn backoff(attempt: u32, rng: &mut impl Rng) -> Duration {
    ceiling(BASE, attempt, CAP).mul_f64(rng.random_range(0.0..=1.0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::SmallRng};

    use super::*;

    proptest! {
        #[test]
        fn a_wait_never_exceeds_its_ceiling(attempt in any::<u32>(), seed in any::<u64>()) {
            let wait = backoff(attempt, &mut SmallRng::seed_from_u64(seed));
            prop_assert!(wait <= CAP);
            prop_assert!(attempt > 5 || wait <= BASE * (1 << attempt));
        }
    }

    #[test]
    fn gateways_that_fail_together_come_back_spread_out() {
        let mut rng = SmallRng::seed_from_u64(7);
        let mut waits: Vec<_> = (0..1000).map(|_| backoff(9, &mut rng)).collect();
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
