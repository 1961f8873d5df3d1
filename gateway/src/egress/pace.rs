//! When the next candidate is asked: the pure half of connecting. No clock, no I/O; `connect` carries it out.
//!
//! Candidates are asked in order. The next one is asked when the one before is late (hedging), and at once when one has
//! failed. When all have been asked, the decision is made anew after a pause, until the deadline.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::route::Candidate;

/// Most candidates that are asked at the same time. When a further one is due, the oldest gives way.
pub(super) const MAX_PARALLEL_ASKS: usize = 3;
/// First pause before routing again when every candidate was asked; doubles each time.
const REROUTE_AFTER: Duration = Duration::from_millis(50);
/// Longest pause before routing again.
const MAX_REROUTE_AFTER: Duration = Duration::from_millis(400);
/// Hedge delay of an instance of this zone: a connect takes well under a millisecond unless its host is lost.
const LOCAL_HEDGE: Duration = Duration::from_millis(150);
/// Bounds of the hedge delay of a tunnel.
const MIN_HEDGE: Duration = Duration::from_millis(30);
const MAX_HEDGE: Duration = Duration::from_millis(400);
/// What an ingress may take beyond round trips: its own connect, and a busy moment.
const HEDGE_ALLOWANCE: Duration = Duration::from_millis(25);

/// How long a candidate may take before the next one is asked too. `rtt` is that of the tunnel; `None`: an instance of
/// this zone. Two round trips are what an answer takes at most without loss; four leave room for one retransmission.
pub(super) fn hedge_delay(rtt: Option<Duration>) -> Duration {
    match rtt {
        None => LOCAL_HEDGE,
        Some(rtt) => (4 * rtt + HEDGE_ALLOWANCE).clamp(MIN_HEDGE, MAX_HEDGE),
    }
}

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Ask this candidate; first drop the asks named in `give_up`.
    Ask {
        candidate: Candidate,
        give_up: Option<u32>,
    },
    /// Decide anew and hand the candidates to [`Pace::routed`].
    Route,
    /// Nothing to do before this moment.
    Wait(Instant),
    /// The deadline has passed.
    GiveUp,
}

/// The state of one connection's search for an instance.
#[derive(Debug)]
pub(super) struct Pace {
    queue: VecDeque<Candidate>,
    /// By number of the ask, oldest first.
    under_way: Vec<(u32, Candidate)>,
    asked: u32,
    next: Instant,
    deadline: Instant,
    reroute_after: Duration,
}

impl Pace {
    pub(super) fn new(now: Instant, deadline: Instant, candidates: Vec<Candidate>) -> Self {
        let mut pace = Self {
            queue: VecDeque::new(),
            under_way: Vec::with_capacity(MAX_PARALLEL_ASKS),
            asked: 0,
            next: now,
            deadline,
            reroute_after: REROUTE_AFTER,
        };
        pace.routed(now, candidates);
        pace
    }

    /// Candidates asked so far.
    pub(super) fn asked(&self) -> u32 {
        self.asked
    }

    pub(super) fn step(&mut self, now: Instant) -> Step {
        if now >= self.deadline {
            return Step::GiveUp;
        }
        // One that is being asked already, from an earlier decision, is not asked twice at a time.
        while self.queue.front().is_some_and(|next| self.is_under_way(next)) {
            self.queue.pop_front();
        }
        if now < self.next {
            return Step::Wait(self.next.min(self.deadline));
        }
        match self.queue.pop_front() {
            Some(candidate) => Step::Ask {
                candidate,
                give_up: self.room(),
            },
            None => Step::Route,
        }
    }

    /// A candidate is being asked; the next one follows after `hedge`. Returns the number of the ask, from 1.
    pub(super) fn begun(&mut self, now: Instant, candidate: Candidate, hedge: Duration) -> u32 {
        self.asked += 1;
        self.under_way.push((self.asked, candidate));
        if self.queue.is_empty() {
            self.pause(now + hedge);
        } else {
            self.next = now + hedge;
        }
        self.asked
    }

    /// The ask with this number has failed.
    pub(super) fn failed(&mut self, now: Instant, ask: u32) {
        self.under_way.retain(|(number, _)| *number != ask);
        if !self.queue.is_empty() {
            self.next = now;
        } else if self.under_way.is_empty() {
            // Nothing left to wait for but a change.
            self.next = self.next.min(now + self.reroute_after);
        }
    }

    /// The decision was made anew.
    pub(super) fn routed(&mut self, now: Instant, candidates: Vec<Candidate>) {
        self.queue = candidates.into();
        self.queue
            .retain(|candidate| !self.under_way.iter().any(|(_, other)| other == candidate));
        if self.queue.is_empty() {
            self.pause(now);
        } else {
            self.next = now;
        }
    }

    fn is_under_way(&self, candidate: &Candidate) -> bool {
        self.under_way.iter().any(|(_, other)| other == candidate)
    }

    /// The oldest ask, when there is no room for another.
    fn room(&mut self) -> Option<u32> {
        (self.under_way.len() >= MAX_PARALLEL_ASKS).then(|| self.under_way.remove(0).0)
    }

    fn pause(&mut self, from: Instant) {
        self.next = from + self.reroute_after;
        self.reroute_after = (self.reroute_after * 2).min(MAX_REROUTE_AFTER);
    }
}

#[cfg(test)]
mod tests {
    use causeway_zone_sync::name::{GatewayId, GatewayName, Tags, ZoneName};

    use super::*;

    fn remote(zone: &str) -> Candidate {
        Candidate::Remote {
            gateway: GatewayId::new(ZoneName::new(zone).unwrap(), GatewayName::new("gw").unwrap()),
            tags: Tags::default(),
        }
    }

    fn pace(zones: &[&str]) -> (Pace, Instant) {
        let now = Instant::now();
        let candidates = zones.iter().map(|zone| remote(zone)).collect();
        (Pace::new(now, now + Duration::from_secs(5), candidates), now)
    }

    const HEDGE: Duration = Duration::from_millis(30);

    /// Expects to be told to ask `zone`, and does.
    fn ask(pace: &mut Pace, now: Instant, zone: &str) -> u32 {
        match pace.step(now) {
            Step::Ask {
                candidate,
                give_up: None,
            } => {
                assert_eq!(candidate, remote(zone));
                pace.begun(now, candidate, HEDGE)
            }
            other => panic!("{other:?} instead of asking {zone}"),
        }
    }

    #[test]
    fn the_hedge_delay_follows_the_round_trip_within_bounds() {
        assert_eq!(hedge_delay(Some(Duration::ZERO)), MIN_HEDGE);
        assert_eq!(
            hedge_delay(Some(Duration::from_millis(10))),
            Duration::from_millis(65)
        );
        assert_eq!(hedge_delay(Some(Duration::from_secs(1))), MAX_HEDGE);
        assert_eq!(hedge_delay(None), LOCAL_HEDGE);
    }

    #[test]
    fn the_next_is_asked_when_the_first_is_late_and_not_before() {
        let (mut pace, now) = pace(&["a", "b"]);
        ask(&mut pace, now, "a");
        assert_eq!(pace.step(now), Step::Wait(now + HEDGE));
        ask(&mut pace, now + HEDGE, "b");
    }

    #[test]
    fn the_next_is_asked_at_once_when_one_fails() {
        let (mut pace, now) = pace(&["a", "b"]);
        let first = ask(&mut pace, now, "a");
        pace.failed(now, first);
        assert_eq!(ask(&mut pace, now, "b"), 2);
    }

    #[test]
    fn the_oldest_ask_gives_way_when_a_fourth_candidate_is_due() {
        let (mut pace, now) = pace(&["a", "b", "c", "d"]);
        for (i, zone) in ["a", "b", "c"].into_iter().enumerate() {
            ask(&mut pace, now + HEDGE * u32::try_from(i).unwrap(), zone);
        }
        let step = pace.step(now + HEDGE * 3);
        assert_eq!(
            step,
            Step::Ask {
                candidate: remote("d"),
                give_up: Some(1)
            }
        );
    }

    #[test]
    fn with_all_asked_it_routes_again_after_a_pause_and_skips_those_under_way() {
        let (mut pace, now) = pace(&["a"]);
        ask(&mut pace, now, "a");
        let Step::Wait(later) = pace.step(now) else {
            panic!("no pause")
        };
        assert_eq!(later, now + HEDGE + REROUTE_AFTER);
        assert_eq!(pace.step(later), Step::Route);
        pace.routed(later, vec![remote("a"), remote("b")]);
        ask(&mut pace, later, "b");
    }

    #[test]
    fn without_any_candidate_it_pauses_longer_each_time_until_the_deadline() {
        let (mut pace, mut now) = pace(&[]);
        let deadline = now + Duration::from_secs(5);
        let mut rounds = 0;
        loop {
            match pace.step(now) {
                Step::Wait(until) => {
                    assert!(until > now);
                    now = until;
                }
                Step::Route => {
                    rounds += 1;
                    pace.routed(now, vec![]);
                }
                Step::GiveUp => break,
                ask @ Step::Ask { .. } => panic!("{ask:?}"),
            }
        }
        assert_eq!(now, deadline);
        assert!((10..20).contains(&rounds), "{rounds}");
    }

    #[test]
    fn a_failed_round_is_followed_by_a_short_pause_only() {
        let (mut pace, now) = pace(&["a"]);
        let only = ask(&mut pace, now, "a");
        pace.failed(now, only);
        let Step::Wait(until) = pace.step(now) else {
            panic!("no pause")
        };
        assert!(until <= now + REROUTE_AFTER * 2, "{:?}", until - now);
        assert_eq!(pace.step(until), Step::Route);
    }
}
