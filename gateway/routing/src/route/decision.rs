//! The answer of `route`: an iterator over candidates that works out no more of them than are asked for.

use std::collections::VecDeque;

use causeway_federation::{name::Tags, topology::Criticality};
use rand::Rng;
use serde::Serialize;

use super::{
    Candidate, Destination, Question, Request,
    arms::{self, Arm},
    homes::{self, Homes},
    reason::{Reason, ReasonSubject, Reasons, Why},
    starting::part_of_arm,
};
use crate::{snapshot::Snapshot, target::Target};

/// Candidates, to be tried in order.
#[derive(Debug)]
pub struct Decision<'s, R> {
    snapshot: &'s Snapshot,
    request: &'s Request,
    /// `None`: the topology has no such service.
    question: Option<Question<'s>>,
    rng: R,
    reasons: Reasons,
    /// Those that were not looked at yet.
    arms: std::vec::IntoIter<Arm>,
    /// Those of which every home fails, which come last.
    failing: VecDeque<(Arm, Homes<'s>)>,
    /// Those that have no home, where instances that are ill may be one.
    homeless: Vec<Arm>,
    /// The arm at hand, and what is left of its homes.
    at_hand: Option<(Arm, Homes<'s>)>,
    first: Option<Candidate>,
    first_given: bool,
    /// Tags that an instance must carry of what is shed.
    shed: Option<Tags>,
    why: Why,
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
    pub(super) fn new(snapshot: &'s Snapshot, request: &'s Request, mut rng: R) -> Self {
        let target = &request.target;
        let mut reasons = Reasons::new(request.explain);
        let zone = snapshot.topology.zones.get(&snapshot.zone);
        let service = snapshot.topology.services.get(&target.service);
        let question = service.map(|service| Question {
            snapshot,
            service,
            target,
            port: request.port.as_ref(),
            own_tags: zone.map(|zone| &zone.tags),
            key: request.key,
            criticality: request.criticality.unwrap_or(service.criticality),
            draws_tier: true,
            in_panic: false,
        });
        let arms = match service {
            Some(service) => {
                let split = request.split.as_deref();
                let split = split.unwrap_or_else(|| snapshot.split_of(&target.service, service));
                let part_of = |arm: &Tags| part_of_arm(snapshot, request, arm);
                arms::ordered(split, (target, request.key), part_of, &mut reasons, &mut rng)
            }
            None => {
                let subject = || ReasonSubject::Service(target.service.clone());
                reasons.note(subject, None, Why::UnknownService);
                Vec::new()
            }
        };
        let mut decision = Self {
            snapshot,
            request,
            question,
            rng,
            reasons,
            arms: arms.into_iter(),
            failing: VecDeque::new(),
            homeless: Vec::new(),
            at_hand: None,
            first: None,
            first_given: false,
            shed: None,
            why: question.map_or(Why::UnknownService, |_| Why::NoHome),
        };
        if let Some((candidate, why)) = decision.pull() {
            (decision.first, decision.why) = (Some(candidate), why);
        }
        decision
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
        let tags = self
            .first
            .as_ref()
            .map(|first| &first.tags)
            .or(self.shed.as_ref());
        tags.zip(self.question.map(|question| question.criticality))
    }

    /// Works out the rest.
    #[must_use]
    pub fn complete(mut self) -> FullDecision {
        let candidates = self.by_ref().collect();
        FullDecision {
            target: self.request.target.clone(),
            generation: self.snapshot.generation,
            arm: self.first.map(|first| first.arm),
            candidates,
            why: self.why,
            reasons: self.reasons.into_vec(),
        }
    }

    /// The next candidate, and why it is one.
    fn pull(&mut self) -> Option<(Candidate, Why)> {
        loop {
            if let Some((arm, homes)) = &mut self.at_hand
                && let Some(home) = homes.next()
            {
                let place = match home.gateway {
                    None => Destination::Local,
                    Some(gateway) => Destination::Remote {
                        gateway: gateway.clone(),
                    },
                };
                let candidate = Candidate {
                    place,
                    tags: arm.tags.clone(),
                    arm: arm.split_tags.clone(),
                    tier: home.grounds.tier,
                    in_panic: home.grounds.in_panic,
                };
                return Some((candidate, home.grounds.why()));
            }
            let Some(arm) = self.arms.next() else {
                match self.failing.pop_front() {
                    Some((arm, homes)) => {
                        self.note_arm(&arm, false);
                        self.at_hand = Some((arm, homes));
                    }
                    None => self.panic()?,
                }
                continue;
            };
            let question = self.question.as_ref()?;
            let homes = homes::of_arm(question, &arm, &mut self.reasons, &mut self.rng);
            if homes.is_shed {
                if self.first.is_none() && self.failing.is_empty() {
                    // Another arm is not given it: the weights hold.
                    self.arms = Vec::new().into_iter();
                    (self.shed, self.why) = (Some(arm.tags), Why::Shed);
                    return None;
                }
                continue;
            }
            if homes.is_last_resort() {
                self.failing.push_back((arm, homes));
                continue;
            }
            if homes.is_empty() && question.service.panics() && !question.in_panic {
                self.homeless.push(arm);
                continue;
            }
            self.note_arm(&arm, homes.is_empty());
            self.at_hand = Some((arm, homes));
        }
    }

    /// Has the arms looked at once more, with instances that are ill, if none has had a candidate.
    fn panic(&mut self) -> Option<()> {
        let homeless = std::mem::take(&mut self.homeless);
        let question = self.question.as_mut()?;
        if self.first.is_some() {
            homeless.iter().for_each(|arm| self.note_arm(arm, true));
            return None;
        }
        if homeless.is_empty() {
            return None;
        }
        question.in_panic = true;
        self.arms = homeless.into_iter();
        Some(())
    }

    /// Says what became of an arm: picked, kept in reserve, or without a home.
    fn note_arm(&mut self, arm: &Arm, homeless: bool) {
        let why = match (homeless, &self.first) {
            (true, _) => Why::ArmWithoutHome,
            (false, None) if arm.by_name => Why::ArmByName,
            (false, None) => Why::ArmPicked,
            (false, Some(_)) => Why::ArmInReserve,
        };
        let subject = || ReasonSubject::Arm { weight: arm.weight };
        self.reasons.note(subject, Some(&arm.split_tags), why);
    }
}

impl<R: Rng> Iterator for Decision<'_, R> {
    type Item = Candidate;

    fn next(&mut self) -> Option<Candidate> {
        if !self.first_given {
            self.first_given = true;
            return self.first.clone();
        }
        self.pull().map(|(candidate, _)| candidate)
    }
}
