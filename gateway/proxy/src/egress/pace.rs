//! Decides when the next candidate is asked: the pure half of connecting. No clock, no I/O; `connect` carries it out.
//!
//! Candidates are asked in order. The next one of the same arm and tier is asked when the one before is late (hedging); one
//! of another arm or tier only when those before it have failed, so that a share is what was declared. A candidate that failed
//! rests before it is asked again. When all have been asked, the decision is made anew after a pause, until the deadline, or
//! until every candidate has answered twice that it cannot serve.

use std::time::{Duration, Instant};

use causeway_routing::route::Candidate;
use causeway_telemetry::ConnectionOutcome;

/// Most candidates that are asked at the same time. When a further one is due, the oldest gives way.
pub(super) const MAX_PARALLEL_ASKS: usize = 3;
/// Most asks for one connection.
const MAX_ASKS: u32 = 64;
/// First pause before routing again when every candidate was asked; doubles each time.
const REROUTE_AFTER: Duration = Duration::from_millis(50);
/// Longest pause before routing again.
const MAX_REROUTE_AFTER: Duration = Duration::from_millis(400);
/// Hedge delay of an instance of this zone: a connect takes well under a millisecond unless its host is lost.
const LOCAL_HEDGE: Duration = Duration::from_millis(150);
/// Bounds of the hedge delay of a tunnel.
const MIN_HEDGE: Duration = Duration::from_millis(30);
const MAX_HEDGE: Duration = Duration::from_millis(400);
/// Time that an ingress may take beyond round trips: its own connect, and a busy moment.
const HEDGE_ALLOWANCE: Duration = Duration::from_millis(25);
/// Bounds of the time after which other arms and tiers are asked: longer than the pauses of a peer that is merely busy, short
/// enough that nobody waits for 1 s.
const MIN_FAILED_AFTER: Duration = Duration::from_millis(250);
const MAX_FAILED_AFTER: Duration = Duration::from_millis(500);
/// Time that a candidate rests after its first failure; doubles with each.
const FIRST_REST: Duration = Duration::from_millis(100);
const MAX_REST: Duration = Duration::from_secs(1);
/// So many answers alike of every candidate end the search.
const ENOUGH_ALIKE: u32 = 2;

/// Time that a candidate may take before the next one is asked too. `rtt` is that of the tunnel; `None`: an instance of
/// this zone. Two round trips are what an answer takes at most without loss; four leave room for one retransmission.
pub(super) fn hedge_delay(rtt: Option<Duration>) -> Duration {
    match rtt {
        None => LOCAL_HEDGE,
        Some(rtt) => (4 * rtt + HEDGE_ALLOWANCE).clamp(MIN_HEDGE, MAX_HEDGE),
    }
}

/// Time that an ask may go without an answer before other arms and tiers are asked as if it had failed; its answer still counts.
fn failed_after(hedge: Duration) -> Duration {
    (2 * hedge).clamp(MIN_FAILED_AFTER, MAX_FAILED_AFTER)
}

/// Act that is due now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PaceStep {
    /// Ask this candidate; first drop the asks named in `give_up`.
    Ask {
        candidate: Candidate,
        give_up: Option<u32>,
        /// It has failed before, so that asking it takes from the budget.
        again: bool,
    },
    /// Decide anew and call [`Pace::routed`].
    Route,
    /// Nothing to do before this moment.
    Wait(Instant),
    /// The deadline has passed, or nobody can serve.
    GiveUp,
}

/// Bearing of a failure on asking the same candidate again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AskFailure {
    /// It answered that it cannot serve, with this outcome.
    Answered(ConnectionOutcome),
    /// It was not reached, or not heard, or is about to go.
    Unheard,
}

#[derive(Debug)]
struct PendingAsk {
    number: u32,
    candidate: Candidate,
    /// Moment from which it counts as failed where a share is at stake.
    fails_at: Instant,
}

/// A candidate that has failed.
#[derive(Debug)]
struct FailedCandidate {
    candidate: Candidate,
    failures: u32,
    last: AskFailure,
    /// Answers in a row like the last one.
    alike: u32,
    rests_until: Instant,
}

/// The state of one connection's search for an instance.
#[derive(Debug)]
pub(super) struct Pace {
    /// Oldest first.
    under_way: Vec<PendingAsk>,
    /// At most one for each ask.
    failed: Vec<FailedCandidate>,
    /// The candidate that is due, if it had to wait.
    held: Option<Candidate>,
    /// The decision at hand has no further candidate.
    exhausted: bool,
    /// Tells whether the decision at hand had candidates, and all of them have been found not to serve.
    hopeless: Option<bool>,
    asked: u32,
    next: Instant,
    /// Moment at which a decision that waits for an answer is made anew.
    stale_at: Instant,
    deadline: Instant,
    reroute_after: Duration,
    /// Waits though every candidate has been found not to serve.
    is_patient: bool,
}

impl Pace {
    pub(super) fn new(now: Instant, deadline: Instant) -> Self {
        Self {
            under_way: Vec::with_capacity(MAX_PARALLEL_ASKS),
            failed: Vec::new(),
            held: None,
            exhausted: false,
            hopeless: None,
            asked: 0,
            next: now,
            stale_at: now + MAX_REROUTE_AFTER,
            deadline,
            reroute_after: REROUTE_AFTER,
            is_patient: false,
        }
    }

    /// Has it wait to the deadline for another candidate, whatever those that there are say.
    pub(super) fn wait_for_others(&mut self) {
        self.is_patient = true;
    }

    /// Candidates asked so far.
    pub(super) fn asked(&self) -> u32 {
        self.asked
    }

    /// Says what to do, with `candidates` the rest of the decision at hand.
    pub(super) fn step(
        &mut self,
        now: Instant,
        candidates: &mut impl Iterator<Item = Candidate>,
    ) -> PaceStep {
        if now >= self.deadline {
            return PaceStep::GiveUp;
        }
        if now < self.next {
            return PaceStep::Wait(self.next.min(self.deadline));
        }
        while !self.exhausted {
            let Some(candidate) = self.held.take().or_else(|| candidates.next()) else {
                self.exhausted = true;
                return self.after_the_last(now);
            };
            // One that is being asked already, from an earlier decision, is not asked twice at a time.
            if self.is_under_way(&candidate) {
                self.hopeless = Some(false);
                continue;
            }
            let failed = self
                .failed
                .iter()
                .find(|failed| failed.candidate.asks_like(&candidate));
            let again = failed.is_some();
            if let Some(failed) = failed {
                let pointless = failed.alike >= ENOUGH_ALIKE;
                self.hopeless = Some(self.hopeless.unwrap_or(true) && pointless);
                if pointless || now < failed.rests_until {
                    continue;
                }
            }
            if let Some(until) = self.held_until(&candidate).filter(|until| now < *until) {
                if now >= self.stale_at {
                    return PaceStep::Route;
                }
                self.held = Some(candidate);
                return PaceStep::Wait(until.min(self.stale_at).min(self.deadline));
            }
            if self.asked >= MAX_ASKS {
                return self.without_more();
            }
            self.hopeless = Some(false);
            let give_up = self.make_room();
            return PaceStep::Ask {
                candidate,
                give_up,
                again,
            };
        }
        PaceStep::Route
    }

    /// A candidate is being asked; the next one follows after `hedge`. Returns the number of the ask, from 1.
    pub(super) fn begun(&mut self, now: Instant, candidate: Candidate, hedge: Duration) -> u32 {
        self.asked += 1;
        self.under_way.push(PendingAsk {
            number: self.asked,
            candidate,
            fails_at: now + failed_after(hedge),
        });
        self.next = now + hedge;
        self.asked
    }

    /// The ask with this number has failed.
    pub(super) fn failed(&mut self, now: Instant, ask: u32, failure: AskFailure) {
        let Some(at) = self.under_way.iter().position(|ask_of| ask_of.number == ask) else {
            return;
        };
        let candidate = self.under_way.remove(at).candidate;
        self.note_failure(now, candidate, failure);
        if !self.exhausted {
            self.next = now;
        } else if self.under_way.is_empty() {
            // Nothing left to wait for but a change.
            self.next = self.next.min(now + self.reroute_after);
        }
    }

    /// The budget has nothing left for asking `candidate` again: it counts as having failed as before.
    pub(super) fn denied(&mut self, now: Instant, candidate: Candidate) {
        let before = self
            .failed
            .iter()
            .find(|failed| failed.candidate.asks_like(&candidate));
        let failure = before.map_or(AskFailure::Unheard, |failed| failed.last);
        self.note_failure(now, candidate, failure);
    }

    /// The decision was made anew.
    pub(super) fn routed(&mut self, now: Instant) {
        (self.held, self.exhausted, self.hopeless) = (None, false, None);
        self.next = now;
        self.stale_at = now + MAX_REROUTE_AFTER;
    }

    /// A tunnel has come or gone, of which the next decision may know: pauses between decisions begin anew.
    pub(super) fn woken(&mut self, now: Instant) {
        if self.exhausted && self.asked < MAX_ASKS {
            self.reroute_after = REROUTE_AFTER;
            self.next = self.next.min(now + REROUTE_AFTER);
        }
    }

    fn note_failure(&mut self, now: Instant, candidate: Candidate, failure: AskFailure) {
        let known = self
            .failed
            .iter()
            .position(|failed| failed.candidate.asks_like(&candidate));
        let at = known.unwrap_or_else(|| {
            self.failed.push(FailedCandidate {
                candidate,
                failures: 0,
                last: AskFailure::Unheard,
                alike: 0,
                rests_until: now,
            });
            self.failed.len() - 1
        });
        let failed = &mut self.failed[at];
        failed.alike = match failure {
            AskFailure::Unheard => 0,
            AskFailure::Answered(_) if failed.last == failure => failed.alike + 1,
            AskFailure::Answered(_) => 1,
        };
        failed.last = failure;
        let rest = FIRST_REST
            .saturating_mul(1 << failed.failures.min(8))
            .min(MAX_REST);
        failed.failures += 1;
        failed.rests_until = now + rest;
    }

    /// Until when `candidate` must leave the field to those under way: it is of another arm or tier than all of them.
    fn held_until(&self, candidate: &Candidate) -> Option<Instant> {
        let before = || self.under_way.iter().map(|ask| &ask.candidate);
        if before().any(|other| other.shares_with(candidate)) {
            return None;
        }
        self.under_way.iter().map(|ask| ask.fails_at).max()
    }

    /// Every candidate has been looked at: ends, or waits for an answer or a change.
    fn after_the_last(&mut self, now: Instant) -> PaceStep {
        if self.under_way.is_empty() && self.hopeless == Some(true) && !self.is_patient {
            return PaceStep::GiveUp;
        }
        self.next = now + self.reroute_after;
        self.reroute_after = (self.reroute_after * 2).min(MAX_REROUTE_AFTER);
        PaceStep::Wait(self.next.min(self.deadline))
    }

    /// No more can be asked: only an answer can still come.
    fn without_more(&mut self) -> PaceStep {
        if self.under_way.is_empty() {
            return PaceStep::GiveUp;
        }
        self.exhausted = true;
        self.next = self.deadline;
        PaceStep::Wait(self.deadline)
    }

    fn is_under_way(&self, candidate: &Candidate) -> bool {
        self.under_way
            .iter()
            .any(|ask| ask.candidate.asks_like(candidate))
    }

    /// The oldest ask, when there is no room for another.
    fn make_room(&mut self) -> Option<u32> {
        (self.under_way.len() >= MAX_PARALLEL_ASKS).then(|| self.under_way.remove(0).number)
    }
}

#[cfg(test)]
mod tests;
