//! Choice of the peer to ask for its trust document: the decisions of the fetcher, without its sockets. A revocation is
//! urgent, so who does not answer at once is not waited for.

use std::time::Duration;

use causeway_federation::{edition::Edition, name::GatewayId};

use crate::documents::{DocumentPeers, FetchCandidate, FetchPace};

/// Several at once: a revocation does not wait for a peer that is slow.
pub(crate) const PACE: FetchPace = FetchPace {
    at_once: 8,
    hedge_after: Duration::from_millis(250),
    first_wait: Duration::from_millis(250),
    longest_wait: Duration::from_secs(30),
};

/// The peers that announce what rules over what is in force here, those that announce the newest first. `mine` is what is
/// in force here for the trust domain of a peer. Peers that cannot be reached are not among `peers`.
pub(crate) fn candidates(
    peers: &DocumentPeers,
    mine: impl Fn(&GatewayId) -> Option<Edition>,
) -> Vec<FetchCandidate<GatewayId>> {
    let mut newer: Vec<FetchCandidate<GatewayId>> = peers
        .iter()
        .filter(|(peer, announced)| {
            let mine = mine(peer);
            announced
                .zip(mine)
                .is_some_and(|(announced, mine)| announced > mine)
        })
        .map(|(peer, announced)| FetchCandidate {
            question: peer.clone(),
            announced: *announced,
        })
        .collect();
    // Stable: peers that announce the same stay in the order of their names.
    newer.sort_by_key(|candidate| std::cmp::Reverse(candidate.announced));
    newer
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Instant};

    use causeway_federation::edition::Fingerprint;
    use rand::{SeedableRng, rngs::SmallRng};

    use super::*;
    use crate::documents::{FetchSchedule, Plan};

    #[derive(Debug, Clone, Copy)]
    struct Announced {
        announced: Edition,
        mine: Edition,
    }

    fn plan(
        wanted: &mut FetchSchedule<GatewayId>,
        now: Instant,
        all: &BTreeMap<GatewayId, Announced>,
    ) -> Plan<GatewayId> {
        let announced = |(peer, one): (&GatewayId, &Announced)| (peer.clone(), Some(one.announced));
        let peers: DocumentPeers = all.iter().map(announced).collect();
        let candidates = candidates(&peers, |peer| Some(all[peer].mine));
        wanted.plan(now, candidates, |peer| peers.contains_key(peer))
    }

    fn first(all: &BTreeMap<GatewayId, Announced>) -> Option<GatewayId> {
        match plan(&mut FetchSchedule::new(PACE), Instant::now(), all) {
            Plan::Ask(asked) => Some(asked.question),
            Plan::Nothing => None,
            Plan::Wait(_) => panic!("nothing was asked before"),
        }
    }

    fn peer(zone: &str) -> GatewayId {
        GatewayId::new(zone.parse().unwrap(), "gw1".parse().unwrap())
    }

    fn edition(generation: u64) -> Edition {
        Edition {
            generation,
            fingerprint: Fingerprint([7; 32]),
        }
    }

    /// Makes peers with what they announce, where generation `mine` is in force here.
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
        assert_eq!(first(&peers(2, &[("a", 1), ("b", 2), ("c", 0)])), None);
        let newer = peers(2, &[("a", 3), ("b", 4), ("c", 4)]);
        assert_eq!(first(&newer), Some(peer("b")));
        let rival = Announced {
            announced: Edition {
                fingerprint: Fingerprint([6; 32]),
                ..edition(2)
            },
            mine: edition(2),
        };
        let rivals = BTreeMap::from([(peer("a"), rival)]);
        assert_eq!(first(&rivals), Some(peer("a")), "the lower fingerprint");
    }

    #[test]
    fn of_each_trust_domain_that_document_counts_which_is_in_force_for_it() {
        let mut all = peers(9, &[("east", 9)]);
        all.extend(peers(1, &[("plant", 2)]));
        assert_eq!(first(&all), Some(peer("plant")));
    }

    #[test]
    fn who_does_not_answer_at_once_is_not_waited_for() {
        let (now, mut wanted) = (Instant::now(), FetchSchedule::new(PACE));
        let zones = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];
        let all = peers(2, &zones.map(|zone| (zone, 3)));
        let mut asked = Vec::new();
        let mut at = now;
        loop {
            match plan(&mut wanted, at, &all) {
                Plan::Ask(FetchCandidate { question, .. }) => {
                    wanted.asked(at, &question);
                    asked.push((question, at - now));
                }
                Plan::Wait(until) => at = until,
                Plan::Nothing => break,
            }
        }
        let expected = zones[..PACE.at_once].iter().zip(0u32..);
        let expected: Vec<_> = expected
            .map(|(zone, nth)| (peer(zone), PACE.hedge_after * nth))
            .collect();
        assert_eq!(asked, expected);
    }

    #[test]
    fn a_peer_that_does_not_answer_is_asked_less_and_less() {
        let (mut wanted, mut rng, start) = (
            FetchSchedule::new(PACE),
            SmallRng::seed_from_u64(7),
            Instant::now(),
        );
        let (only, mut now, mut asked) = (peers(2, &[("a", 3)]), start, 0);
        while now < start + Duration::from_secs(600) {
            match plan(&mut wanted, now, &only) {
                Plan::Ask(candidate) => {
                    asked += 1;
                    wanted.asked(now, &candidate.question);
                    wanted.unanswered(now, &candidate, &mut rng);
                }
                Plan::Wait(until) => {
                    assert!(until > now && until <= now + PACE.longest_wait);
                    now = until;
                }
                Plan::Nothing => panic!("there is something to ask for"),
            }
        }
        assert!((20..60).contains(&asked), "{asked} times in ten minutes");
    }
}
