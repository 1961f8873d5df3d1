//! Schedule of when to ask whom: the decisions of the fetcher that are the same for every kind of document, without its
//! sockets.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use causeway_federation::edition::Edition;
use causeway_host::backoff::{at_least_half, ceiling};
use rand::Rng;

/// Urgency with which a kind of document is asked for.
#[derive(Debug, Clone, Copy)]
pub struct FetchPace {
    /// Most questions under way at once.
    pub at_once: usize,
    /// Longest time that the question that was asked last may take before another is asked beside it.
    pub hedge_after: Duration,
    /// Longest wait before a question is asked the second time.
    pub first_wait: Duration,
    /// Longest wait before a question is asked once more while its peer announces the same.
    pub longest_wait: Duration,
}

/// A question that is worth asking, and what its peer announces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchCandidate<Q> {
    pub question: Q,
    pub announced: Option<Edition>,
}

/// Plan for now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Plan<Q> {
    Ask(FetchCandidate<Q>),
    /// Nothing before this, unless something changes.
    Wait(Instant),
    Nothing,
}

/// Questions that were asked and what came of them, so that nobody is asked the same all the time.
#[derive(Debug)]
pub(crate) struct FetchSchedule<Q> {
    pace: FetchPace,
    /// Under way, and since when.
    asked: BTreeMap<Q, Instant>,
    /// Without success.
    tried: BTreeMap<Q, Tried>,
}

#[derive(Debug)]
struct Tried {
    announced: Option<Edition>,
    failures: u32,
    again_at: Instant,
}

impl<Q: Clone + Ord> FetchSchedule<Q> {
    pub(crate) fn new(pace: FetchPace) -> Self {
        Self {
            pace,
            asked: BTreeMap::new(),
            tried: BTreeMap::new(),
        }
    }

    /// The first of `candidates` that may be asked now. What became of questions that are not current is forgotten.
    pub(crate) fn plan(
        &mut self,
        now: Instant,
        candidates: Vec<FetchCandidate<Q>>,
        is_current: impl Fn(&Q) -> bool,
    ) -> Plan<Q> {
        self.tried.retain(|question, _| is_current(question));
        let mut open = candidates
            .into_iter()
            .filter(|candidate| !self.asked.contains_key(&candidate.question))
            .peekable();
        if open.peek().is_none() || self.asked.len() >= self.pace.at_once {
            return Plan::Nothing;
        }
        let hedge_at = self
            .asked
            .values()
            .max()
            .map(|last| *last + self.pace.hedge_after);
        if let Some(at) = hedge_at.filter(|at| *at > now) {
            return Plan::Wait(at);
        }
        let mut earliest: Option<Instant> = None;
        for candidate in open {
            match self.again_at(&candidate) {
                Some(at) if at > now => earliest = Some(earliest.map_or(at, |earliest| earliest.min(at))),
                _ => return Plan::Ask(candidate),
            }
        }
        earliest.map_or(Plan::Nothing, Plan::Wait)
    }

    /// Tells when a question may be asked once more; `None`: it was not asked, or its peer has announced something else
    /// since.
    fn again_at(&self, candidate: &FetchCandidate<Q>) -> Option<Instant> {
        let tried = self.tried.get(&candidate.question)?;
        (tried.announced == candidate.announced).then_some(tried.again_at)
    }

    /// A question is under way.
    pub(crate) fn asked(&mut self, now: Instant, question: &Q) {
        self.asked.insert(question.clone(), now);
    }

    /// A question was answered with something new.
    pub(crate) fn answered(&mut self, question: &Q) {
        self.asked.remove(question);
        self.tried.remove(question);
    }

    /// A question was not answered, or with nothing that was new here.
    pub(crate) fn unanswered(&mut self, now: Instant, asked: &FetchCandidate<Q>, rng: &mut impl Rng) {
        self.asked.remove(&asked.question);
        let before = self.tried.get(&asked.question);
        let repeated = before.filter(|tried| tried.announced == asked.announced);
        let failures = repeated.map_or(0, |tried| tried.failures.saturating_add(1));
        let longest = ceiling(self.pace.first_wait, failures, self.pace.longest_wait);
        let tried = Tried {
            announced: asked.announced,
            failures,
            again_at: now + at_least_half(longest, rng),
        };
        self.tried.insert(asked.question.clone(), tried);
    }
}
