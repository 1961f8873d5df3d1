//! Limit on the calls a second that the CA answers: a token bucket for each asker, in a table that cannot grow without end.
//! Time is an argument.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use causeway_federation::name::GatewayId;
use causeway_host::share::host_of;

/// Calls of one asker at once, after a pause.
pub(super) const BURST: u32 = 20;
/// After so long without a call the whole burst may be used again: two calls a second for long.
pub(super) const REFILL: Duration = Duration::from_secs(10);
/// Most askers that are remembered; when as many are busy, nobody new is answered for a moment.
const MAX_ASKERS: usize = 4096;

/// Party whose calls are counted together. Who renews through another gateway is counted by itself, not with that one's
/// address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Asker {
    /// An IPv4 address, or the /64 that an IPv6 address is in.
    Address(IpAddr),
    Gateway(GatewayId),
}

impl Asker {
    /// Asker that has nothing but an address.
    pub(crate) fn at(address: IpAddr) -> Self {
        Self::Address(host_of(address))
    }
}

/// Times at which the bucket of each asker is full again.
#[derive(Debug, Default)]
pub(super) struct RequestRates(BTreeMap<Asker, Instant>);

impl RequestRates {
    /// Takes one call of `asker`, if there is one left.
    pub(crate) fn allows(&mut self, asker: Asker, now: Instant) -> bool {
        if !self.0.contains_key(&asker) && self.0.len() >= MAX_ASKERS {
            self.0.retain(|_, full_at| *full_at > now);
            if self.0.len() >= MAX_ASKERS {
                return false;
            }
        }
        let full_at = self.0.entry(asker).or_insert(now);
        let after = (*full_at).max(now) + REFILL / BURST;
        if after.duration_since(now) > REFILL {
            return false;
        }
        *full_at = after;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(number: u32) -> Asker {
        Asker::at(IpAddr::V4(number.into()))
    }

    #[test]
    fn who_asks_too_often_waits_and_others_do_not() {
        let (mut rates, now) = (RequestRates::default(), Instant::now());
        let answered = (0..100).filter(|_| rates.allows(at(1), now)).count();
        assert_eq!(answered, BURST as usize);
        assert!(rates.allows(at(2), now));
        let later = now + Duration::from_secs(1);
        let answered = (0..100).filter(|_| rates.allows(at(1), later)).count();
        assert_eq!(answered, 2);
    }

    #[test]
    fn a_network_of_addresses_counts_as_one_and_the_table_is_bounded() {
        let (mut rates, now) = (RequestRates::default(), Instant::now());
        let host = |last: u16| Asker::at(IpAddr::from([0x2001, 0xdb8, 0, 1, 0, 0, 0, last]));
        let answered = (0..100).filter(|n| rates.allows(host(*n), now)).count();
        assert_eq!(answered, BURST as usize);
        for number in 0..100_000 {
            rates.allows(at(number), now);
            assert!(rates.0.len() <= MAX_ASKERS);
        }
        assert!(rates.allows(at(u32::MAX), now + REFILL), "the old ones have gone");
    }
}
