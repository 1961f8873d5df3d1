//! Which peer to ask for its trust document, and when: the decisions of the fetcher, without its sockets. A revocation is
//! urgent, so who does not answer at once is not waited for.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use causeway_zone_sync::{name::GatewayId, trust::Edition};
use rand::Rng;

use crate::backoff::{at_least_half, ceiling};

/// How long the peer that was asked last may take before another is asked as well.
const HEDGE_AFTER: Duration = Duration::from_millis(250);
/// Most peers that are asked at once.
const MAX_ASKED: usize = 4;
/// Longest wait before a peer is asked the second time.
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// Longest wait before a peer is asked once more while it says the same.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    Ask(GatewayId),
    /// Nothing before this, unless something changes.
    Wait(Instant),
    Nothing,
}

/// A peer's trust document, and the one that is in force here for its trust domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Announced {
    pub announced: Edition,
    pub mine: Edition,
}

/// Who was asked, and what came of it.
#[derive(Debug, Default)]
pub struct Wanted {
    asked: BTreeMap<GatewayId, Instant>,
    tried: BTreeMap<GatewayId, Tried>,
}

#[derive(Debug)]
struct Tried {
    announced: Edition,
    failures: u32,
    again_at: Instant,
}

impl Wanted {
    /// Whom to ask now: of the peers that announce what rules over what is in force here, one that announces the newest.
    /// Peers that cannot be reached are not among `peers`.
    pub fn plan(&mut self, now: Instant, peers: &BTreeMap<GatewayId, Announced>) -> Plan {
        self.tried.retain(|peer, _| peers.contains_key(peer));
        let mut newer: Vec<_> = peers
            .iter()
            .filter(|(peer, theirs)| theirs.announced > theirs.mine && !self.asked.contains_key(*peer))
            .map(|(peer, theirs)| (peer, theirs.announced))
            .collect();
        if newer.is_empty() || self.asked.len() >= MAX_ASKED {
            return Plan::Nothing;
        }
        let hedge_at = self.asked.values().max().map(|last| *last + HEDGE_AFTER);
        if let Some(at) = hedge_at.filter(|at| *at > now) {
            return Plan::Wait(at);
        }
        // Stable: peers that announce the same stay in the order of their names.
        newer.sort_by_key(|(_, announced)| std::cmp::Reverse(*announced));
        let mut earliest = None;
        for (peer, announced) in newer {
            match self.tried.get(peer) {
                Some(tried) if tried.announced == announced && tried.again_at > now => {
                    earliest = Some(earliest.map_or(tried.again_at, |at: Instant| at.min(tried.again_at)));
                }
                _ => return Plan::Ask(peer.clone()),
            }
        }
        earliest.map_or(Plan::Nothing, Plan::Wait)
    }

    pub fn asked(&mut self, now: Instant, peer: &GatewayId) {
        self.asked.insert(peer.clone(), now);
    }

    /// A peer gave something new.
    pub fn answered(&mut self, peer: &GatewayId) {
        self.asked.remove(peer);
        self.tried.remove(peer);
    }

    /// A peer that announced this did not answer, or with nothing that was new here.
    pub fn unanswered(&mut self, now: Instant, peer: &GatewayId, announced: Edition, rng: &mut impl Rng) {
        self.asked.remove(peer);
        let before = self.tried.get(peer);
        let repeated = before.filter(|tried| tried.announced == announced);
        let failures = repeated.map_or(0, |tried| tried.failures.saturating_add(1));
        let wait = at_least_half(ceiling(FIRST_WAIT, failures, LONGEST_WAIT), rng);
        let tried = Tried {
            announced,
            failures,
            again_at: now + wait,
        };
        self.tried.insert(peer.clone(), tried);
    }
}

#[cfg(test)]
mod tests {
    use causeway_zone_sync::topology::Fingerprint;
    use rand::{SeedableRng, rngs::SmallRng};

    use super::*;

    fn peer(zone: &str) -> GatewayId {
        GatewayId::new(zone.parse().unwrap(), "gw1".parse().unwrap())
    }

    fn edition(generation: u64) -> Edition {
        Edition {
            generation,
            fingerprint: Fingerprint([7; 32]),
        }
    }

    /// Where generation `mine` is in force here.
    fn peers(mine: u64, all: &[(&str, u64)]) -> BTreeMap<GatewayId, Announced> {
        let announced = |generation| Announced {
            announced: edition(generation),
            mine: edition(mine),
        };
        let one = |(zone, generation): &(&str, u64)| (peer(zone), announced(*generation));
        all.iter().map(one).collect()
    }

    #[test]
    fn the_peer_with_the_newest_is_asked_and_nobody_who_has_nothing_newer() {
        let (now, mut wanted) = (Instant::now(), Wanted::default());
        assert_eq!(
            wanted.plan(now, &peers(2, &[("a", 1), ("b", 2), ("c", 0)])),
            Plan::Nothing
        );
        let newer = peers(2, &[("a", 3), ("b", 4), ("c", 4)]);
        assert_eq!(wanted.plan(now, &newer), Plan::Ask(peer("b")));
        let rival = Announced {
            announced: Edition {
                fingerprint: Fingerprint([6; 32]),
                ..edition(2)
            },
            mine: edition(2),
        };
        let rivals = BTreeMap::from([(peer("a"), rival)]);
        assert_eq!(
            wanted.plan(now, &rivals),
            Plan::Ask(peer("a")),
            "the lower fingerprint"
        );
    }

    #[test]
    fn of_each_trust_domain_that_document_counts_which_is_in_force_for_it() {
        let (now, mut wanted) = (Instant::now(), Wanted::default());
        let mut all = peers(9, &[("east", 9)]);
        all.extend(peers(1, &[("plant", 2)]));
        assert_eq!(wanted.plan(now, &all), Plan::Ask(peer("plant")));
    }

    #[test]
    fn who_does_not_answer_at_once_is_not_waited_for() {
        let (now, mut wanted) = (Instant::now(), Wanted::default());
        let all = peers(2, &[("a", 3), ("b", 3), ("c", 3), ("d", 3), ("e", 3)]);
        let mut asked = Vec::new();
        let mut at = now;
        loop {
            match wanted.plan(at, &all) {
                Plan::Ask(peer) => {
                    wanted.asked(at, &peer);
                    asked.push((peer, at - now));
                }
                Plan::Wait(until) => at = until,
                Plan::Nothing => break,
            }
        }
        let expected = ["a", "b", "c", "d"].iter().zip(0u32..);
        let expected: Vec<_> = expected
            .map(|(zone, nth)| (peer(zone), HEDGE_AFTER * nth))
            .collect();
        assert_eq!(asked, expected);
    }

    #[test]
    fn a_peer_that_does_not_answer_is_asked_less_and_less_until_it_has_news() {
        let (mut wanted, mut rng, start) = (Wanted::default(), SmallRng::seed_from_u64(7), Instant::now());
        let (only, mut now, mut asked) = (peers(2, &[("a", 3)]), start, 0);
        while now < start + Duration::from_secs(600) {
            match wanted.plan(now, &only) {
                Plan::Ask(peer) => {
                    asked += 1;
                    wanted.asked(now, &peer);
                    wanted.unanswered(now, &peer, edition(3), &mut rng);
                }
                Plan::Wait(until) => {
                    assert!(until > now && until <= now + LONGEST_WAIT);
                    now = until;
                }
                Plan::Nothing => panic!("there is something to ask for"),
            }
        }
        assert!((20..60).contains(&asked), "{asked} times in ten minutes");
        let news = peers(2, &[("a", 4)]);
        assert_eq!(wanted.plan(now, &news), Plan::Ask(peer("a")));
    }
}
