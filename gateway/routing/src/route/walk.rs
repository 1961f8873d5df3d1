//! The walk over the arms of a service and their homes: one candidate after the other, each worked out when it is asked for.

use std::collections::VecDeque;

use causeway_federation::name::Tags;
use rand::Rng;

use super::{
    Candidate, Destination, Question, Request,
    arms::{self, Arm},
    homes::{self, Homes},
    reason::{ReasonSubject, Reasons, Why},
    starting::part_of_arm,
};
use crate::snapshot::Snapshot;

#[derive(Debug)]
pub(super) struct ArmWalk<'s> {
    snapshot: &'s Snapshot,
    /// `None`: the topology has no such service.
    question: Option<Question<'s>>,
    reasons: Reasons,
    /// Those that were not looked at yet.
    arms: std::vec::IntoIter<Arm>,
    /// Those of which every home fails, which come last.
    failing: VecDeque<(Arm, Homes<'s>)>,
    /// Those that have no home, where instances that are ill may be one.
    homeless: Vec<Arm>,
    /// The arm at hand, and what is left of its homes.
    at_hand: Option<(Arm, Homes<'s>)>,
    /// A candidate was given.
    has_first: bool,
    /// Tags that an instance must carry of what is shed.
    shed: Option<Tags>,
}

impl<'s> ArmWalk<'s> {
    pub(super) fn new(snapshot: &'s Snapshot, request: &'s Request, rng: &mut impl Rng) -> Self {
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
                arms::ordered(split, (target, request.key), part_of, &mut reasons, rng)
            }
            None => {
                let subject = || ReasonSubject::Service(target.service.clone());
                reasons.note(subject, None, Why::UnknownService);
                Vec::new()
            }
        };
        Self {
            snapshot,
            question,
            reasons,
            arms: arms.into_iter(),
            failing: VecDeque::new(),
            homeless: Vec::new(),
            at_hand: None,
            has_first: false,
            shed: None,
        }
    }

    /// Reason that there is no candidate, after none was found.
    pub(super) fn why_none(&self) -> Why {
        match (&self.question, &self.shed) {
            (None, _) => Why::UnknownService,
            (_, Some(_)) => Why::Shed,
            (_, None) => Why::NoHome,
        }
    }

    pub(super) fn question(&self) -> Option<&Question<'s>> {
        self.question.as_ref()
    }

    /// Tags that an instance must carry of what is shed.
    pub(super) fn shed(&self) -> Option<&Tags> {
        self.shed.as_ref()
    }

    pub(super) fn into_reasons(self) -> Reasons {
        self.reasons
    }

    /// The next candidate, and why it is one.
    pub(super) fn pull(&mut self, rng: &mut impl Rng) -> Option<(Candidate, Why)> {
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
                self.has_first = true;
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
            let ejected = self.snapshot.ejections.load();
            let homes = homes::of_arm(question, (&arm, &ejected), &mut self.reasons, rng);
            if homes.is_shed {
                if !self.has_first && self.failing.is_empty() {
                    // Another arm is not given it: the weights hold.
                    self.arms = Vec::new().into_iter();
                    self.shed = Some(arm.tags);
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
        if self.has_first {
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
        let why = match (homeless, self.has_first) {
            (true, _) => Why::ArmWithoutHome,
            (false, false) if arm.by_name => Why::ArmByName,
            (false, false) => Why::ArmPicked,
            (false, true) => Why::ArmInReserve,
        };
        let subject = || ReasonSubject::Arm { weight: arm.weight };
        self.reasons.note(subject, Some(&arm.split_tags), why);
    }
}
