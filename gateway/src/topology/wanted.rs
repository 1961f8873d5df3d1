//! Which peer to ask for a topology, and when: the decisions of the fetcher, without its sockets.

use std::{
    cmp::Ordering,
    collections::BTreeMap,
    time::{Duration, Instant},
};

use causeway_zone_sync::{
    name::GatewayId,
    topology::applied::{Applied, Edition},
};
use rand::Rng;

use crate::backoff::{at_least_half, ceiling};

/// Longest wait before a peer is asked the second time.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// Longest wait before a peer is asked once more while it says the same.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
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
pub struct Question {
    pub peer: GatewayId,
    pub ask: Ask,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ask {
    /// Everything that rules over what is in force here.
    NewerThan(Edition),
    /// Exactly this one.
    Only(Edition),
}

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    Ask(Question),
    /// Nothing before this, unless something changes.
    Wait(Instant),
    Nothing,
}

/// What was asked without success, so that nobody is asked the same all the time.
#[derive(Debug, Default)]
pub struct Wanted {
    tried: BTreeMap<Question, Tried>,
}

#[derive(Debug)]
struct Tried {
    announced: Option<Edition>,
    failures: u32,
    again_at: Instant,
}

impl Wanted {
    /// The question to ask now: of the peers that announce something newer, one that announces the newest. Peers that
    /// cannot be reached are not among `peers`.
    pub fn plan(
        &mut self,
        now: Instant,
        applied: &Applied,
        peers: &BTreeMap<GatewayId, Option<Edition>>,
        rivals: &Rivals,
    ) -> Plan {
        let mine = applied.edition();
        self.tried.retain(|question, _| {
            let timely = match question.ask {
                Ask::NewerThan(edition) => edition == mine,
                Ask::Only(edition) => edition.generation == mine.generation,
            };
            timely && peers.contains_key(&question.peer)
        });
        let mut candidates: Vec<(u64, Question, Option<Edition>)> = rivals
            .open(applied)
            .filter_map(|(edition, peer)| Some((peer, edition, *peers.get(peer)?)))
            .map(|(peer, edition, announced)| {
                let (peer, ask) = (peer.clone(), Ask::Only(*edition));
                (edition.generation, Question { peer, ask }, announced)
            })
            .collect();
        for (peer, announced) in peers {
            if let Some((announced, ask)) = announced.and_then(|a| Some((a, worth(a, applied, mine)?))) {
                let peer = peer.clone();
                candidates.push((announced.generation, Question { peer, ask }, Some(announced)));
            }
        }
        // Stable: peers of one generation stay in the order of their names.
        candidates.sort_by_key(|(generation, ..)| std::cmp::Reverse(*generation));
        let mut earliest = None;
        for (_, question, announced) in candidates {
            match self.again_at(&question, announced) {
                Some(at) if at > now => earliest = Some(earliest.map_or(at, |e: Instant| e.min(at))),
                _ => return Plan::Ask(question),
            }
        }
        earliest.map_or(Plan::Nothing, Plan::Wait)
    }

    fn again_at(&self, question: &Question, announced: Option<Edition>) -> Option<Instant> {
        let tried = self.tried.get(question)?;
        (tried.announced == announced).then_some(tried.again_at)
    }

    /// A question was answered with something new.
    pub fn answered(&mut self, question: &Question) {
        self.tried.remove(question);
    }

    /// A question was not answered, or with nothing that was new here.
    pub fn unanswered(
        &mut self,
        now: Instant,
        question: &Question,
        announced: Option<Edition>,
        rng: &mut impl Rng,
    ) {
        let before = self.tried.get(question);
        let repeated = before.filter(|tried| tried.announced == announced);
        let failures = repeated.map_or(0, |tried| tried.failures.saturating_add(1));
        let wait = at_least_half(ceiling(FIRST_WAIT, failures, LONGEST_WAIT), rng);
        let tried = Tried {
            announced,
            failures,
            again_at: now + wait,
        };
        self.tried.insert(question.clone(), tried);
    }
}

/// What to ask a peer that announces this; `None`: nothing. Generation 0 is a file, which is not handed on.
fn worth(announced: Edition, applied: &Applied, mine: Edition) -> Option<Ask> {
    if announced.generation == 0 || applied.knows(announced) {
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
    use std::sync::Arc;

    use causeway_zone_sync::topology::{
        applied::{Document, Own, Stored},
        parse,
    };
    use rand::{SeedableRng, rngs::SmallRng};

    use super::*;

    const TEXT: &str =
        "version: 1\ntrust_domain: a.b\nzones: { east: { gateways: [] }, west: { gateways: [gw:1] } }\n";

    fn peer(gateway: &str) -> GatewayId {
        GatewayId::new("west".parse().unwrap(), gateway.parse().unwrap())
    }

    fn document(parent: Edition, comment: &str) -> Arc<Document> {
        let text = format!("# {comment}\n{TEXT}");
        Arc::new(Document::new(parent, text.into(), peer("gw1"), 1))
    }

    /// Begins with the initial topology and has taken these.
    fn applied(documents: &[Arc<Document>]) -> Applied {
        let own = Own {
            zone: "east".parse().unwrap(),
            trust_domain: "a.b".to_owned(),
        };
        let initial = parse(TEXT, "initial").unwrap().topology;
        let mut applied = Applied::new(own, Some(initial), Stored::default());
        assert!(applied.receive(documents).iter().all(Result::is_ok));
        applied
    }

    fn announcing<'a>(
        all: impl IntoIterator<Item = (&'a str, Edition)>,
    ) -> BTreeMap<GatewayId, Option<Edition>> {
        let one = |(gateway, edition): (&str, Edition)| (peer(gateway), Some(edition));
        all.into_iter().map(one).collect()
    }

    fn ask(gateway: &str, ask: Ask) -> Plan {
        let peer = peer(gateway);
        Plan::Ask(Question { peer, ask })
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
        let plan = |peers| Wanted::default().plan(Instant::now(), &here, &peers, &Rivals::default());
        let same_or_older = [
            ("a", second.edition()),
            ("b", first.edition()),
            ("c", Edition::default()),
        ];
        assert_eq!(plan(announcing(same_or_older)), Plan::Nothing);
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
        let (mut wanted, mut rng) = (Wanted::default(), SmallRng::seed_from_u64(7));
        let start = Instant::now();
        let (mut now, mut asked) = (start, Vec::new());
        while now < start + Duration::from_secs(600) {
            assert!(asked.len() < 1_000, "it asks all the time");
            match wanted.plan(now, &here, &peers, &Rivals::default()) {
                Plan::Ask(question) => {
                    let announced = peers[&question.peer];
                    asked.push(question.peer.clone());
                    wanted.unanswered(now, &question, announced, &mut rng);
                }
                Plan::Wait(until) => {
                    assert!(until > now && until <= now + LONGEST_WAIT);
                    now = until;
                }
                Plan::Nothing => panic!("there is something to ask for"),
            }
        }
        assert_eq!(asked[..2], [peer("a"), peer("b")]);
        let of_a = asked.iter().filter(|asked| **asked == peer("a")).count();
        assert!((20..60).contains(&of_a), "{of_a} times in ten minutes");
        // News from one of them ends its waiting.
        let newest = Edition {
            generation: 5,
            ..newer
        };
        let peers = announcing([("a", newer), ("b", newest)]);
        let plan = wanted.plan(now, &here, &peers, &Rivals::default());
        assert_eq!(plan, ask("b", Ask::NewerThan(here.edition())));
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
        let plan = |here: &Applied| Wanted::default().plan(Instant::now(), here, &peers, &rivals);
        assert_eq!(
            plan(&applied(std::slice::from_ref(&first))),
            ask("a", Ask::Only(rival.edition()))
        );
        assert_eq!(plan(&applied(&[first.clone(), rival])), Plan::Nothing);
        let second = document(first.edition(), "2");
        assert_eq!(plan(&applied(&[first, second])), Plan::Nothing);
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
        let (mut wanted, mut rng, now) = (Wanted::default(), SmallRng::seed_from_u64(7), Instant::now());
        for _ in 0..2 {
            let Plan::Ask(question) = wanted.plan(now, &here, &peers, &rivals) else {
                panic!("two questions are to be asked");
            };
            wanted.unanswered(now, &question, peers[&question.peer], &mut rng);
        }
        let plan = wanted.plan(now, &here, &peers, &rivals);
        assert!(matches!(plan, Plan::Wait(_)), "{plan:?}");
    }
}
