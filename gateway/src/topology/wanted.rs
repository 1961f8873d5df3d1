//! Which peer to ask for a topology, and when: the decisions of the fetcher, without its sockets.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use causeway_zone_sync::{
    name::GatewayId,
    topology::{
        Fingerprint,
        applied::{Applied, Edition},
    },
};
use rand::Rng;

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

/// What a peer's zone sync record says of its topology.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announced {
    /// `None`: it does not say.
    pub generation: Option<u64>,
    pub fingerprint: Fingerprint,
}

/// One question to one peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    pub peer: GatewayId,
    pub ask: Ask,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    tried: BTreeMap<GatewayId, Tried>,
}

#[derive(Debug)]
struct Tried {
    ask: Ask,
    announced: Option<Announced>,
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
        peers: &BTreeMap<GatewayId, Option<Announced>>,
        rivals: &Rivals,
    ) -> Plan {
        self.tried.retain(|peer, _| peers.contains_key(peer));
        let mine = applied.edition();
        let mut candidates: Vec<(Option<u64>, Question, Option<Announced>)> = rivals
            .open(applied)
            .filter_map(|(edition, peer)| Some((peer, edition, *peers.get(peer)?)))
            .map(|(peer, edition, announced)| {
                let ask = Ask::Only(*edition);
                (
                    Some(edition.generation),
                    Question {
                        peer: peer.clone(),
                        ask,
                    },
                    announced,
                )
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

    fn again_at(&self, question: &Question, announced: Option<Announced>) -> Option<Instant> {
        let tried = self.tried.get(&question.peer)?;
        (tried.ask == question.ask && tried.announced == announced).then_some(tried.again_at)
    }

    /// A question was answered with something new.
    pub fn answered(&mut self, question: &Question) {
        self.tried.remove(&question.peer);
    }

    /// A question was not answered, or with nothing that was new here.
    pub fn unanswered(
        &mut self,
        now: Instant,
        question: &Question,
        announced: Option<Announced>,
        rng: &mut impl Rng,
    ) {
        let before = self.tried.get(&question.peer);
        let repeated = before.filter(|tried| tried.ask == question.ask && tried.announced == announced);
        let failures = repeated.map_or(0, |tried| tried.failures.saturating_add(1));
        let factor = 1u32.checked_shl(failures).unwrap_or(u32::MAX);
        let ceiling = FIRST_WAIT.saturating_mul(factor).min(LONGEST_WAIT);
        let tried = Tried {
            ask: question.ask,
            announced,
            failures,
            // At least half, so that a peer that answers "nothing" at once is not asked in a burst.
            again_at: now + ceiling.mul_f64(rng.random_range(0.5..=1.0)),
        };
        self.tried.insert(question.peer.clone(), tried);
    }
}

/// What to ask a peer that announces this; `None`: nothing.
fn worth(announced: Announced, applied: &Applied, mine: Edition) -> Option<Ask> {
    let Some(generation) = announced.generation else {
        return (announced.fingerprint != mine.fingerprint).then_some(Ask::NewerThan(mine));
    };
    let edition = Edition {
        generation,
        fingerprint: announced.fingerprint,
    };
    if generation == 0 || applied.knows(edition) {
        return None;
    }
    match generation.cmp(&mine.generation) {
        std::cmp::Ordering::Less => None,
        // By now it may have something newer in force; this one is wanted all the same, for its operator's sake.
        std::cmp::Ordering::Equal => Some(Ask::Only(edition)),
        std::cmp::Ordering::Greater => Some(Ask::NewerThan(mine)),
    }
}
