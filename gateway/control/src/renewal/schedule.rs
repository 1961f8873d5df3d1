//! Schedule of renewing a certificate: at half of its life, give or take; after a failure again and again, with longer
//! and longer waits; and how loudly to say that it has not been done. Time and randomness are arguments.

use std::time::{Duration, SystemTime};

use causeway_host::backoff::{at_least_half, ceiling};
use causeway_identity::Lifetime;
use rand::Rng;

/// A renewal is due this share of the certificate's life before or after half of it, so that gateways which joined
/// together do not all renew together.
const JITTER: f64 = 0.05;
/// Longest and shortest of the ceilings of the waits between two tries, as shares of a life, and what bounds them.
const FIRST_WAIT_SHARE: u32 = 1_000;
const FIRST_WAIT: Duration = Duration::from_secs(5);
const LAST_WAIT_SHARE: u32 = 50;
const LAST_WAIT: Duration = Duration::from_secs(300);
/// No wait has a ceiling below this.
const SHORTEST_WAIT: Duration = Duration::from_millis(100);

/// Next renewal of one certificate.
#[derive(Debug, Clone)]
pub struct RenewalSchedule {
    lifetime: Lifetime,
    next: SystemTime,
    failures: u32,
}

impl RenewalSchedule {
    #[must_use]
    pub fn new(lifetime: Lifetime, rng: &mut impl Rng) -> Self {
        let share = rng.random_range(0.5 - JITTER..=0.5 + JITTER);
        Self {
            lifetime,
            next: lifetime.not_before + lifetime.length().mul_f64(share),
            failures: 0,
        }
    }

    #[must_use]
    pub fn next(&self) -> SystemTime {
        self.next
    }

    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    #[must_use]
    pub fn is_due(&self, now: SystemTime) -> bool {
        now >= self.next
    }

    /// A renewal was tried in vain: the next try comes after a wait evenly spread between half of a ceiling and the whole
    /// of it, which doubles from try to try.
    pub fn failed(&mut self, now: SystemTime, rng: &mut impl Rng) {
        let length = self.lifetime.length();
        let first = (length / FIRST_WAIT_SHARE).clamp(SHORTEST_WAIT, FIRST_WAIT);
        let last = (length / LAST_WAIT_SHARE).clamp(SHORTEST_WAIT, LAST_WAIT);
        self.next = now + at_least_half(ceiling(first, self.failures, last), rng);
        self.failures = self.failures.saturating_add(1);
    }

    /// There is a reason not to wait for half of the life, such as a new root: renew soon, but not all at once.
    pub fn hurry(&mut self, now: SystemTime, rng: &mut impl Rng) {
        let within = (self.lifetime.length() / LAST_WAIT_SHARE).min(LAST_WAIT);
        let soon = now + within.mul_f64(rng.random_range(0.0..=1.0));
        self.next = self.next.min(soon);
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use proptest::prelude::*;
    use rand::{SeedableRng as _, rngs::SmallRng};

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn start() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn life(length: Duration) -> Lifetime {
        Lifetime {
            not_before: start(),
            not_after: start() + length,
        }
    }

    #[test]
    fn gateways_that_joined_together_renew_around_half_of_the_life_and_not_together() {
        let mut rng = SmallRng::seed_from_u64(7);
        let mut times: Vec<_> = (0..1000)
            .map(|_| RenewalSchedule::new(life(24 * HOUR), &mut rng).next())
            .collect();
        times.sort_unstable();
        assert!(times[0] >= start() + 12 * HOUR - HOUR * 6 / 5);
        assert!(times[999] <= start() + 12 * HOUR + HOUR * 6 / 5);
        let minute = |time: &SystemTime| time.duration_since(start()).unwrap().as_secs() / 60;
        let busiest = times
            .chunk_by(|a, b| minute(a) == minute(b))
            .map(<[_]>::len)
            .max();
        assert!(busiest < Some(30), "{busiest:?} in a minute");
    }

    #[test]
    fn a_ca_that_is_away_for_the_rest_of_a_life_is_asked_often_enough_and_not_too_often() {
        for (length, fewest, most) in [(24 * HOUR, 140, 400), (Duration::from_secs(20), 25, 120)] {
            let mut rng = SmallRng::seed_from_u64(1);
            let mut schedule = RenewalSchedule::new(life(length), &mut rng);
            let mut now = schedule.next();
            while now < start() + length {
                schedule.failed(now, &mut rng);
                assert!(schedule.next() > now && !schedule.is_due(now));
                now = schedule.next();
            }
            assert!(
                (fewest..most).contains(&schedule.failures()),
                "{}",
                schedule.failures()
            );
        }
    }

    proptest! {
        #[test]
        fn a_wait_never_exceeds_its_limits(seconds in 0u64..10_000_000, failures in 0u32..80, seed in any::<u64>()) {
            let mut rng = SmallRng::seed_from_u64(seed);
            let mut schedule = RenewalSchedule::new(life(Duration::from_secs(seconds)), &mut rng);
            let now = schedule.next();
            for _ in 0..=failures {
                schedule.failed(now, &mut rng);
                let wait = schedule.next().duration_since(now).unwrap();
                prop_assert!(wait <= LAST_WAIT && wait >= SHORTEST_WAIT / 2, "{wait:?}");
            }
            schedule.hurry(now, &mut rng);
            prop_assert!(schedule.next() <= now + LAST_WAIT);
        }
    }
}
