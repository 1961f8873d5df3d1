//! Schedule of when to ask whom: the decisions of the fetcher that are the same for every kind of document, without its
//! sockets.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use causeway_federation::{
    edition::Edition,
    name::{GatewayId, ZoneName},
};
use causeway_host::backoff::{at_least_half, ceiling};
use rand::Rng;

/// Failures of a zone in a row whose next announcement is believed at once. With more of them its waits hold whatever it announces:
/// an announcement costs its peer nothing.
const BELIEVED_FAILURES: u32 = 2;
/// Zones whose failures are remembered.
const MAX_ZONES: usize = 1024;

/// One question to one peer.
pub trait FetchQuestion: Clone + Ord {
    /// Returns the peer that it is for.
    fn peer(&self) -> &GatewayId;
}

impl FetchQuestion for GatewayId {
    fn peer(&self) -> &GatewayId {
        self
    }
}

/// Urgency with which a kind of document is asked for.
#[derive(Debug, Clone, Copy)]
pub struct FetchPace {
    /// Most questions under way at once, each to another zone.
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

/// Questions that were asked and what came of them, so that nobody is asked the same all the time, and no zone keeps others from
/// being asked.
#[derive(Debug)]
pub(crate) struct FetchSchedule<Q> {
    pace: FetchPace,
    /// Under way, and since when.
    asked: BTreeMap<Q, Instant>,
    /// Without success.
    tried: BTreeMap<Q, Tried>,
    /// Zones that have not delivered since.
    failing: BTreeMap<ZoneName, FailingZone>,
}

#[derive(Debug)]
struct Tried {
    announced: Option<Edition>,
    failures: u32,
    again_at: Instant,
}

/// Failures of a zone in a row, whatever it was asked for.
#[derive(Debug)]
struct FailingZone {
    failures: u32,
    again_at: Instant,
}

impl<Q: FetchQuestion> FetchSchedule<Q> {
    pub(crate) fn new(pace: FetchPace) -> Self {
        Self {
            pace,
            asked: BTreeMap::new(),
            tried: BTreeMap::new(),
            failing: BTreeMap::new(),
        }
    }

    /// The first of `candidates` that may be asked now, those of zones that deliver before all others. What became of questions that
    /// are not current is forgotten.
    pub(crate) fn plan(
        &mut self,
        now: Instant,
        candidates: Vec<FetchCandidate<Q>>,
        is_current: impl Fn(&Q) -> bool,
    ) -> Plan<Q> {
        self.tried.retain(|question, _| is_current(question));
        let is_asked = |zone: &ZoneName| self.asked.keys().any(|asked| &asked.peer().zone == zone);
        let mut open: Vec<FetchCandidate<Q>> = candidates
            .into_iter()
            .filter(|candidate| !is_asked(&candidate.question.peer().zone))
            .collect();
        if open.is_empty() || self.asked.len() >= self.pace.at_once {
            return Plan::Nothing;
        }
        // Stable: among zones that fail alike the order stays.
        open.sort_by_key(|candidate| self.zone_failures(&candidate.question));
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
    /// since and is believed.
    fn again_at(&self, candidate: &FetchCandidate<Q>) -> Option<Instant> {
        let tried = self.tried.get(&candidate.question);
        let same = tried.filter(|tried| tried.announced == candidate.announced);
        let zone = self.failing.get(&candidate.question.peer().zone);
        let doubted = zone.filter(|zone| zone.failures > BELIEVED_FAILURES);
        let waits = [same.map(|same| same.again_at), doubted.map(|zone| zone.again_at)];
        waits.into_iter().flatten().max()
    }

    fn zone_failures(&self, question: &Q) -> u32 {
        let zone = self.failing.get(&question.peer().zone);
        zone.map_or(0, |zone| zone.failures)
    }

    /// A question is under way.
    pub(crate) fn asked(&mut self, now: Instant, question: &Q) {
        self.asked.insert(question.clone(), now);
    }

    /// A question was answered with something new.
    pub(crate) fn answered(&mut self, question: &Q) {
        self.asked.remove(question);
        self.tried.remove(question);
        self.failing.remove(&question.peer().zone);
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
        self.zone_failed(now, asked.question.peer(), rng);
    }

    fn zone_failed(&mut self, now: Instant, peer: &GatewayId, rng: &mut impl Rng) {
        let before = self.failing.get(&peer.zone).map_or(0, |zone| zone.failures);
        let longest = ceiling(self.pace.first_wait, before, self.pace.longest_wait);
        let zone = FailingZone {
            failures: before.saturating_add(1),
            again_at: now + at_least_half(longest, rng),
        };
        self.failing.insert(peer.zone.clone(), zone);
        if self.failing.len() > MAX_ZONES {
            self.failing.pop_first();
        }
    }
}

#[cfg(test)]
mod tests {
    use causeway_federation::edition::Fingerprint;
    use rand::{SeedableRng, rngs::SmallRng};

    use super::*;

    const PACE: FetchPace = FetchPace {
        at_once: 3,
        hedge_after: Duration::from_millis(250),
        first_wait: Duration::from_millis(250),
        longest_wait: Duration::from_secs(30),
    };

    fn candidate(zone: &str, gateway: &str, generation: u64) -> FetchCandidate<GatewayId> {
        FetchCandidate {
            question: GatewayId::new(zone.parse().unwrap(), gateway.parse().unwrap()),
            announced: Some(Edition {
                generation,
                fingerprint: Fingerprint([7; 32]),
            }),
        }
    }

    fn next(
        schedule: &mut FetchSchedule<GatewayId>,
        now: Instant,
        all: &[FetchCandidate<GatewayId>],
    ) -> Plan<GatewayId> {
        schedule.plan(now, all.to_vec(), |_| true)
    }

    #[test]
    fn a_zone_with_many_gateways_has_one_place() {
        let (mut schedule, now) = (FetchSchedule::new(PACE), Instant::now());
        let evil = ["gw1", "gw2", "gw3", "gw4"].map(|gateway| candidate("evil", gateway, 99));
        let honest = candidate("west", "gw1", 3);
        let all = [&evil[..], std::slice::from_ref(&honest)].concat();
        assert_eq!(next(&mut schedule, now, &all), Plan::Ask(evil[0].clone()));
        schedule.asked(now, &evil[0].question);
        let later = now + PACE.hedge_after;
        assert_eq!(next(&mut schedule, now, &all), Plan::Wait(later));
        assert_eq!(next(&mut schedule, later, &all), Plan::Ask(honest));
    }

    #[test]
    fn who_delivers_is_asked_before_who_announces_more() {
        let (mut schedule, now) = (FetchSchedule::new(PACE), Instant::now());
        let mut rng = SmallRng::seed_from_u64(7);
        let (evil, honest) = (candidate("evil", "gw1", 99), candidate("west", "gw1", 3));
        let both = [evil.clone(), honest.clone()];
        schedule.unanswered(now, &evil, &mut rng);
        let later = now + PACE.longest_wait;
        assert_eq!(next(&mut schedule, later, &both), Plan::Ask(honest));
        // What was delivered clears it.
        schedule.answered(&evil.question);
        assert_eq!(next(&mut schedule, later, &both), Plan::Ask(evil));
    }

    #[test]
    fn news_is_believed_of_a_zone_that_has_not_failed_often() {
        let (mut rng, start) = (SmallRng::seed_from_u64(7), Instant::now());
        let (mut schedule, mut now, mut asked) = (FetchSchedule::new(PACE), start, Vec::new());
        while now < start + Duration::from_secs(600) {
            // It announces something else each time, and another gateway of it does.
            let count = asked.len() as u64;
            let gateway = format!("gw{}", count % 5);
            match next(&mut schedule, now, &[candidate("evil", &gateway, count + 9)]) {
                Plan::Ask(one) => {
                    asked.push(now - start);
                    schedule.unanswered(now, &one, &mut rng);
                }
                Plan::Wait(until) => now = until,
                Plan::Nothing => panic!("there is something to ask for"),
            }
        }
        let at_once = asked.iter().filter(|at| at.is_zero()).count();
        assert_eq!(at_once, 1 + BELIEVED_FAILURES as usize);
        assert!(
            (20..60).contains(&asked.len()),
            "{} times in ten minutes",
            asked.len()
        );
    }
}
