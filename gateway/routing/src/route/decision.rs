//! The answer of `route`: an iterator over candidates that works out no more of them than are asked for.

use causeway_federation::{name::Tags, topology::Criticality};
use rand::Rng;
use serde::Serialize;

use super::{
    Candidate, Request,
    reason::{Reason, Why},
    replay::Replay,
    walk::ArmWalk,
};
use crate::{snapshot::Snapshot, target::Target};

/// Candidates, to be tried in order.
#[derive(Debug)]
pub struct Decision<'s, R> {
    snapshot: &'s Snapshot,
    request: &'s Request,
    rng: Replay<R>,
    /// `None`: the topology has no such service.
    criticality: Option<Criticality>,
    first: Option<Candidate>,
    first_given: bool,
    why: Why,
    /// `None`: the first was found in what is compiled, and no other has been asked for.
    walk: Option<Box<ArmWalk<'s>>>,
    /// The walk was begun after the first was given, and comes to it again.
    repeats_first: bool,
}

/// A decision that was worked out to its end.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FullDecision {
    pub target: Target,
    /// The snapshot that was decided on.
    pub generation: u64,
    /// Tags of the split arm that the first candidate serves; `None` without a candidate.
    pub arm: Option<Tags>,
    /// To be tried in this order.
    pub candidates: Vec<Candidate>,
    /// Reason that the first candidate is the first, or that there is none.
    pub why: Why,
    /// Every arm, zone and gateway with why it was taken or passed over; empty unless [`Request::explain`].
    pub reasons: Vec<Reason>,
}

impl<'s, R: Rng> Decision<'s, R> {
    pub(super) fn new(snapshot: &'s Snapshot, request: &'s Request, rng: R) -> Self {
        let mut decision = Self {
            snapshot,
            request,
            rng: Replay::new(rng),
            criticality: None,
            first: None,
            first_given: false,
            why: Why::NoHome,
            walk: None,
            repeats_first: false,
        };
        let compiled = snapshot.compiled.service(snapshot, request);
        if let Some(service) = compiled
            && let Some((first, why)) = service.first(request, &mut decision.rng)
        {
            decision.criticality = Some(request.criticality.unwrap_or(service.criticality()));
            (decision.first, decision.why) = (Some(first), why);
            return decision;
        }
        // What was drawn in vain is drawn once more.
        let mut walk = decision.walk();
        match walk.pull(&mut decision.rng) {
            Some((candidate, why)) => (decision.first, decision.why) = (Some(candidate), why),
            None => decision.why = walk.why_none(),
        }
        decision.criticality = walk.question().map(|question| question.criticality);
        decision.walk = Some(walk);
        decision
    }

    fn walk(&mut self) -> Box<ArmWalk<'s>> {
        self.rng.rewind();
        Box::new(ArmWalk::new(self.snapshot, self.request, &mut self.rng))
    }

    /// The candidate to be tried first.
    #[must_use]
    pub fn first(&self) -> Option<&Candidate> {
        self.first.as_ref()
    }

    /// Reason that the first candidate is the first, or that there is none.
    #[must_use]
    pub fn why(&self) -> Why {
        self.why
    }

    /// Demand that this is part of: the tags that an instance must carry. `None`: nobody could serve it in any case.
    #[must_use]
    pub fn demanded(&self) -> Option<(&Tags, Criticality)> {
        let shed = || self.walk.as_ref().and_then(|walk| walk.shed());
        let first = self.first.as_ref().map(|first| &first.tags);
        first.or_else(shed).zip(self.criticality)
    }

    /// Works out the rest.
    #[must_use]
    pub fn complete(mut self) -> FullDecision {
        let candidates = self.by_ref().collect();
        let reasons = self.walk.map(|walk| walk.into_reasons().into_vec());
        FullDecision {
            target: self.request.target.clone(),
            generation: self.snapshot.generation,
            arm: self.first.map(|first| first.arm),
            candidates,
            why: self.why,
            reasons: reasons.unwrap_or_default(),
        }
    }

    /// The next candidate after the first.
    fn pull(&mut self) -> Option<Candidate> {
        if self.walk.is_none() {
            self.walk = Some(self.walk());
            self.repeats_first = true;
        }
        let walk = self.walk.as_mut()?;
        loop {
            let (candidate, _) = walk.pull(&mut self.rng)?;
            // What is ejected may have changed since, so that it need not be the first any more.
            if self.repeats_first && self.first.as_ref() == Some(&candidate) {
                self.repeats_first = false;
                continue;
            }
            return Some(candidate);
        }
    }
}

impl<R: Rng> Iterator for Decision<'_, R> {
    type Item = Candidate;

    fn next(&mut self) -> Option<Candidate> {
        if !self.first_given {
            self.first_given = true;
            return self.first.clone();
        }
        self.pull()
    }
}
