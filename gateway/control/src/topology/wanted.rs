//! Choice of the peer to ask for a topology, and for which: the decisions of the fetcher, without its sockets.

use std::{cmp::Ordering, collections::BTreeMap, time::Duration};

use causeway_federation::{edition::Edition, name::GatewayId, topology::applied::Applied};

use crate::documents::{DocumentPeers, FetchCandidate, FetchPace, FetchQuestion};

/// A document may be long, so another zone is asked beside the first only after a while; and then it is, for the first may never answer.
pub(crate) const PACE: FetchPace = FetchPace {
    at_once: 8,
    hedge_after: Duration::from_secs(1),
    first_wait: Duration::from_millis(500),
    longest_wait: Duration::from_secs(30),
};
/// Most rivals that are remembered; they come one or two at a time.
const MAX_RIVALS: usize = 16;

/// Editions of the generation in force that a peer has and this gateway does not hold, with the peer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rivals(BTreeMap<Edition, GatewayId>);

impl Rivals {
    /// Says whether it was news.
    pub fn heard(&mut self, edition: Edition, peer: &GatewayId) -> bool {
        if self.0.contains_key(&edition) {
            return false;
        }
        self.0.insert(edition, peer.clone());
        while self.0.len() > MAX_RIVALS {
            self.0.pop_first();
        }
        true
    }

    /// Those that are still worth asking for.
    fn open<'a>(&'a self, applied: &'a Applied) -> impl Iterator<Item = (&'a Edition, &'a GatewayId)> {
        let generation = applied.edition().generation;
        self.0
            .iter()
            .filter(move |(edition, _)| edition.generation == generation && !applied.knows(**edition))
    }
}

/// One question to one peer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TopologyQuestion {
    pub peer: GatewayId,
    pub ask: Ask,
}

impl FetchQuestion for TopologyQuestion {
    fn peer(&self) -> &GatewayId {
        &self.peer
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ask {
    /// Everything that rules over what is in force here.
    NewerThan(Edition),
    /// Exactly this one.
    Only(Edition),
}

/// The questions that are worth asking of these peers, those for the highest generation first. Peers that cannot be
/// reached are not among `peers`.
pub(crate) fn candidates(
    applied: &Applied,
    peers: &DocumentPeers,
    rivals: &Rivals,
) -> Vec<FetchCandidate<TopologyQuestion>> {
    let mine = applied.edition();
    let mut candidates: Vec<(u64, FetchCandidate<TopologyQuestion>)> = rivals
        .open(applied)
        .filter_map(|(edition, peer)| Some((peer, edition, *peers.get(peer)?)))
        .map(|(peer, edition, announced)| {
            let (peer, ask) = (peer.clone(), Ask::Only(*edition));
            let question = TopologyQuestion { peer, ask };
            (edition.generation, FetchCandidate { question, announced })
        })
        .collect();
    for (peer, announced) in peers {
        if let Some((theirs, ask)) = announced.and_then(|a| Some((a, worth(a, applied, mine)?))) {
            let peer = peer.clone();
            let question = TopologyQuestion { peer, ask };
            let announced = Some(theirs);
            candidates.push((theirs.generation, FetchCandidate { question, announced }));
        }
    }
    // Stable: peers of one generation stay in the order of their names.
    candidates.sort_by_key(|(generation, _)| std::cmp::Reverse(*generation));
    candidates.into_iter().map(|(_, candidate)| candidate).collect()
}

/// Tells whether a question still belongs to what is in force here, and its peer can be reached.
pub(crate) fn is_current(question: &TopologyQuestion, applied: &Applied, peers: &DocumentPeers) -> bool {
    let mine = applied.edition();
    let timely = match question.ask {
        Ask::NewerThan(edition) => edition == mine,
        Ask::Only(edition) => edition.generation == mine.generation,
    };
    timely && peers.contains_key(&question.peer)
}

/// Decides what to ask a peer that announces this; `None`: nothing. Generation 0 is a file, which is not handed on.
fn worth(announced: Edition, applied: &Applied, mine: Edition) -> Option<Ask> {
    if announced.generation == 0 || applied.is_settled(announced) {
        return None;
    }
    match announced.generation.cmp(&mine.generation) {
        Ordering::Less => None,
        // By now it may have something newer in force; this one is wanted all the same, for its operator's sake.
        Ordering::Equal => Some(Ask::Only(announced)),
        Ordering::Greater => Some(Ask::NewerThan(mine)),
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Instant};

    use causeway_federation::topology::{
        applied::{Own, StoredTopology, TopologyDocument, Vouched},
        parse,
    };
    use rand::{SeedableRng, rngs::SmallRng};

    use super::*;
    use crate::documents::{FetchSchedule, Plan};

    const TEXT: &str =
        "version: 1\ntrust_domain: a.b\nzones: { east: { gateways: [] }, west: { gateways: [gw:1] } }\n";

    fn peer(zone: &str) -> GatewayId {
        GatewayId::new(zone.parse().unwrap(), "gw1".parse().unwrap())
    }

    fn document(parent: Edition, comment: &str) -> Arc<TopologyDocument> {
        let text = format!("# {comment}\n{TEXT}");
        Arc::new(TopologyDocument::new(parent, text.into(), peer("west"), 1))
    }

    /// Begins with the initial topology and has taken these.
    fn applied(documents: &[Arc<TopologyDocument>]) -> Applied {
        let own = Own {
            zone: "east".parse().unwrap(),
            trust_domain: "a.b".to_owned(),
        };
        let initial = parse(TEXT, "initial").unwrap().topology;
        let mut applied = Applied::new(own, Some(initial), StoredTopology::default());
        let vouched: Vec<_> = documents.iter().cloned().map(Vouched::by_author).collect();
        assert!(applied.receive(&vouched).iter().all(Result::is_ok));
        applied
    }

    fn announcing<'a>(
        all: impl IntoIterator<Item = (&'a str, Edition)>,
    ) -> BTreeMap<GatewayId, Option<Edition>> {
        let one = |(zone, edition): (&str, Edition)| (peer(zone), Some(edition));
        all.into_iter().map(one).collect()
    }

    /// The question that is asked now; `None`: none is.
    fn plan(
        wanted: &mut FetchSchedule<TopologyQuestion>,
        now: Instant,
        here: &Applied,
        peers: &DocumentPeers,
        rivals: &Rivals,
    ) -> Plan<TopologyQuestion> {
        let current = |question: &TopologyQuestion| is_current(question, here, peers);
        wanted.plan(now, candidates(here, peers, rivals), current)
    }

    fn first_asked(here: &Applied, peers: &DocumentPeers, rivals: &Rivals) -> Option<TopologyQuestion> {
        match plan(&mut FetchSchedule::new(PACE), Instant::now(), here, peers, rivals) {
            Plan::Ask(asked) => Some(asked.question),
            Plan::Nothing => None,
            Plan::Wait(_) => panic!("nothing was asked before"),
        }
    }

    fn ask(zone: &str, ask: Ask) -> Option<TopologyQuestion> {
        let peer = peer(zone);
        Some(TopologyQuestion { peer, ask })
    }

    #[test]
    fn the_peer_with_the_newest_topology_is_asked_and_nobody_who_has_an_older_one() {
        let first = document(Edition::default(), "1");
        let (second, third) = (document(first.edition(), "2"), document(first.edition(), "3"));
        let newer = Edition {
            generation: 9,
            ..third.edition()
        };
        let here = applied(&[first.clone(), second.clone()]);
        let plan = |peers| first_asked(&here, &peers, &Rivals::default());
        let same_or_older = [
            ("a", second.edition()),
            ("b", first.edition()),
            ("c", Edition::default()),
        ];
        assert_eq!(plan(announcing(same_or_older)), None);
        let peers = announcing([("a", third.edition()), ("b", newer), ("c", newer)]);
        assert_eq!(plan(peers), ask("b", Ask::NewerThan(second.edition())));
        // A rival is asked for by name: by the time of the answer its gateway may have dropped it.
        let peers = announcing([("a", third.edition())]);
        assert_eq!(plan(peers), ask("a", Ask::Only(third.edition())));
    }

    #[test]
    fn a_peer_that_does_not_answer_is_asked_less_and_less_and_others_in_between() {
        let here = applied(&[]);
        let newer = document(Edition::default(), "1").edition();
        let peers = announcing([("a", newer), ("b", newer)]);
        let (mut wanted, mut rng) = (FetchSchedule::new(PACE), SmallRng::seed_from_u64(7));
        let start = Instant::now();
        let (mut now, mut asked) = (start, Vec::new());
        while now < start + Duration::from_secs(600) {
            assert!(asked.len() < 1_000, "it asks all the time");
            match plan(&mut wanted, now, &here, &peers, &Rivals::default()) {
                Plan::Ask(candidate) => {
                    asked.push(candidate.question.peer.clone());
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
        assert_eq!(asked[..2], [peer("a"), peer("b")]);
        let of_a = asked.iter().filter(|asked| **asked == peer("a")).count();
        assert!((20..60).contains(&of_a), "{of_a} times in ten minutes");
    }

    #[test]
    fn a_rival_that_was_heard_of_is_wanted_until_it_is_held_or_of_the_past() {
        let (first, rival) = (
            document(Edition::default(), "1"),
            document(Edition::default(), "2"),
        );
        let mut rivals = Rivals::default();
        assert!(rivals.heard(rival.edition(), &peer("a")));
        assert!(!rivals.heard(rival.edition(), &peer("a")));
        let peers = announcing([("a", first.edition())]);
        let plan = |here: &Applied| first_asked(here, &peers, &rivals);
        assert_eq!(
            plan(&applied(std::slice::from_ref(&first))),
            ask("a", Ask::Only(rival.edition()))
        );
        assert_eq!(plan(&applied(&[first.clone(), rival])), None);
        let second = document(first.edition(), "2");
        assert_eq!(plan(&applied(&[first, second])), None);
    }

    #[test]
    fn failing_at_two_questions_to_one_peer_is_no_endless_loop() {
        let (first, rival) = (
            document(Edition::default(), "1"),
            document(Edition::default(), "2"),
        );
        let here = applied(&[first]);
        let mut rivals = Rivals::default();
        rivals.heard(rival.edition(), &peer("a"));
        let newer = Edition {
            generation: 3,
            ..rival.edition()
        };
        let peers = announcing([("a", newer)]);
        let (mut wanted, mut rng, now) = (
            FetchSchedule::new(PACE),
            SmallRng::seed_from_u64(7),
            Instant::now(),
        );
        for _ in 0..2 {
            let Plan::Ask(candidate) = plan(&mut wanted, now, &here, &peers, &rivals) else {
                panic!("two questions are to be asked");
            };
            wanted.unanswered(now, &candidate, &mut rng);
        }
        let plan = plan(&mut wanted, now, &here, &peers, &rivals);
        assert!(matches!(plan, Plan::Wait(_)), "{plan:?}");
    }
}
