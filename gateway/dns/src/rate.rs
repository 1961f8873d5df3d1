//! A token bucket for each client, in a table that cannot grow without end. Time is an argument.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

/// Questions a second that one client may ask for long, and at once after a pause.
pub(super) const QUESTIONS_PER_SECOND: u32 = 10_000;
/// Most clients that are remembered.
const MAX_CLIENTS: usize = 4096;
/// After so long an empty bucket is full again, and can be forgotten.
const REFILL: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy)]
struct Bucket {
    /// Time at which the bucket is full again.
    full_at: Instant,
}

#[derive(Debug, Default)]
pub(super) struct QueryRates {
    buckets: HashMap<IpAddr, Bucket>,
}

impl QueryRates {
    /// Takes one token of `client`, if there is one.
    pub(super) fn allows(&mut self, client: IpAddr, now: Instant) -> bool {
        if !self.buckets.contains_key(&client) && self.buckets.len() >= MAX_CLIENTS {
            self.forget_idle(now);
        }
        let bucket = self.buckets.entry(client).or_insert(Bucket { full_at: now });
        let full_at = bucket.full_at.max(now) + REFILL / QUESTIONS_PER_SECOND;
        if full_at.duration_since(now) > REFILL {
            return false;
        }
        bucket.full_at = full_at;
        true
    }

    /// Makes room: clients whose bucket is full again, and if there are none, those that used the least.
    fn forget_idle(&mut self, now: Instant) {
        self.buckets.retain(|_, bucket| bucket.full_at > now);
        if self.buckets.len() < MAX_CLIENTS {
            return;
        }
        let mut full_at: Vec<Instant> = self.buckets.values().map(|bucket| bucket.full_at).collect();
        let (_, median, _) = full_at.select_nth_unstable(MAX_CLIENTS / 2);
        let median = *median;
        self.buckets.retain(|_, bucket| bucket.full_at > median);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_held_to_its_rate_and_others_are_not_disturbed() {
        let (mut rates, now) = (QueryRates::default(), Instant::now());
        let (greedy, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let allowed = (0..QUESTIONS_PER_SECOND * 2)
            .filter(|_| rates.allows(greedy, now))
            .count();
        assert_eq!(allowed, QUESTIONS_PER_SECOND as usize);
        assert!(rates.allows(other, now));
        let later = now + Duration::from_millis(10);
        let allowed = (0..QUESTIONS_PER_SECOND)
            .filter(|_| rates.allows(greedy, later))
            .count();
        assert_eq!(allowed, QUESTIONS_PER_SECOND as usize / 100);
    }

    #[test]
    fn the_table_is_bounded_and_keeps_the_greedy() {
        let (mut rates, now) = (QueryRates::default(), Instant::now());
        let greedy = IpAddr::from([192, 0, 2, 1]);
        while rates.allows(greedy, now) {}
        for i in 0..100_000u32 {
            rates.allows(IpAddr::V4(i.into()), now);
            assert!(rates.buckets.len() <= MAX_CLIENTS);
        }
        assert!(!rates.allows(greedy, now));
    }
}
