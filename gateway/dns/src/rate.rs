//! A token bucket for each client, in a table that cannot grow without end. Time is an argument.
//!
//! A client is an address, and on this host a socket: one bucket for all of its programs would let one of them take it whole,
//! and none at all would let it take the server whole.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
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
    buckets: HashMap<(IpAddr, Option<u16>), Bucket>,
}

impl QueryRates {
    /// Takes one token of `client`, if there is one.
    pub(super) fn allows(&mut self, client: SocketAddr, now: Instant) -> bool {
        let ip = client.ip().to_canonical();
        let client = (ip, ip.is_loopback().then_some(client.port()));
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
        let (greedy, other) = (([10, 0, 0, 1], 9).into(), ([10, 0, 0, 2], 9).into());
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
    fn on_this_host_each_socket_has_a_rate_of_its_own_and_elsewhere_each_address() {
        for (address, own_rate) in [
            ("127.0.0.1", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("10.0.0.1", false),
        ] {
            let (mut rates, now) = (QueryRates::default(), Instant::now());
            let ip: IpAddr = address.parse().unwrap();
            let mut asked = 0;
            while rates.allows((ip, 1).into(), now) {
                asked += 1;
            }
            assert_eq!(asked, QUESTIONS_PER_SECOND, "{address}");
            assert_eq!(rates.allows((ip, 2).into(), now), own_rate, "{address}");
        }
    }

    #[test]
    fn the_table_is_bounded_and_keeps_the_greedy() {
        let (mut rates, now) = (QueryRates::default(), Instant::now());
        let greedy = ([192, 0, 2, 1], 9).into();
        while rates.allows(greedy, now) {}
        for i in 0..100_000u32 {
            rates.allows((IpAddr::V4(i.into()), 9).into(), now);
            assert!(rates.buckets.len() <= MAX_CLIENTS);
        }
        assert!(!rates.allows(greedy, now));
    }
}
