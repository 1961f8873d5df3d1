//! Tests of when whom is asked, moment by moment.

use causeway_federation::name::{GatewayId, GatewayName, Tags, ZoneName};
use causeway_routing::route::Destination;

use super::*;
use causeway_telemetry::{Side, StreamRefusal};

fn in_tier(zone: &str, tier: usize) -> Candidate {
    let zone = ZoneName::new(zone).unwrap();
    Candidate {
        place: Destination::Remote {
            gateway: GatewayId::new(zone, GatewayName::new("gw").unwrap()),
        },
        tags: Tags::default(),
        arm: Tags::default(),
        tier: Some(tier),
        in_panic: false,
    }
}

fn remote(zone: &str) -> Candidate {
    in_tier(zone, 1)
}

fn of_arm(zone: &str, version: &str) -> Candidate {
    let arm: Tags = [("version", version)].into_iter().collect();
    Candidate {
        tags: arm.clone(),
        arm,
        ..remote(zone)
    }
}

/// One search, with the rest of its decision.
struct Paced {
    pace: Pace,
    rest: std::vec::IntoIter<Candidate>,
    now: Instant,
}

fn paced(candidates: Vec<Candidate>) -> Paced {
    let now = Instant::now();
    Paced {
        pace: Pace::new(now, now + Duration::from_secs(5)),
        rest: candidates.into_iter(),
        now,
    }
}

fn zones(zones: &[&str]) -> Paced {
    paced(zones.iter().map(|zone| remote(zone)).collect())
}

const HEDGE: Duration = Duration::from_millis(30);
const REFUSED: AskFailure = AskFailure::Answered(ConnectionOutcome::Refused {
    by: Side::Peer,
    reason: StreamRefusal::ConnectFailed,
});

impl Paced {
    fn step(&mut self) -> PaceStep {
        self.pace.step(self.now, &mut self.rest)
    }

    /// Expects to be told to ask `candidate`, and does.
    fn ask(&mut self, expected: &Candidate) -> u32 {
        match self.step() {
            PaceStep::Ask {
                candidate,
                give_up: None,
                ..
            } => {
                assert_eq!(candidate, *expected);
                self.pace.begun(self.now, candidate, HEDGE)
            }
            other => panic!("{other:?} instead of asking {expected:?}"),
        }
    }

    fn fail(&mut self, ask: u32, failure: AskFailure) {
        self.pace.failed(self.now, ask, failure);
    }

    fn route(&mut self, candidates: Vec<Candidate>) {
        self.pace.routed(self.now);
        self.rest = candidates.into_iter();
    }

    /// Goes through waits until there is something to do.
    fn next(&mut self) -> PaceStep {
        loop {
            match self.step() {
                PaceStep::Wait(until) => {
                    assert!(until > self.now, "a wait for nothing");
                    self.now = until;
                }
                other => return other,
            }
        }
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
    let mut paced = zones(&["a", "b"]);
    paced.ask(&remote("a"));
    assert_eq!(paced.step(), PaceStep::Wait(paced.now + HEDGE));
    paced.now += HEDGE;
    paced.ask(&remote("b"));
}

#[test]
fn the_next_is_asked_at_once_when_one_fails() {
    let mut paced = paced(vec![in_tier("a", 1), in_tier("b", 2)]);
    let first = paced.ask(&in_tier("a", 1));
    paced.fail(first, AskFailure::Unheard);
    assert_eq!(paced.ask(&in_tier("b", 2)), 2);
}

#[test]
fn a_late_answer_is_hedged_within_its_arm_and_tier_only() {
    for other in [in_tier("b", 2), of_arm("b", "v2"), of_arm("a", "v2")] {
        let mut paced = paced(vec![remote("a"), other.clone()]);
        let begun = paced.now;
        paced.ask(&remote("a"));
        paced.now += HEDGE;
        // What changes meanwhile is seen, and nobody else is asked.
        loop {
            match paced.step() {
                PaceStep::Wait(until) => {
                    assert!(until > paced.now && until <= begun + failed_after(HEDGE));
                    paced.now = until;
                }
                PaceStep::Route => paced.route(vec![remote("a"), other.clone()]),
                PaceStep::Ask { candidate, .. } => {
                    assert_eq!(candidate, other);
                    break;
                }
                PaceStep::GiveUp => panic!("gave up"),
            }
        }
        assert_eq!(paced.now, begun + failed_after(HEDGE));
    }
}

#[test]
fn a_silent_tier_is_left_by_the_round_trip_and_never_after_a_mere_pause() {
    let ms = Duration::from_millis;
    for (hedge, expected) in [(MIN_HEDGE, 250), (ms(150), 300), (MAX_HEDGE, 500)] {
        assert_eq!(failed_after(hedge), ms(expected));
    }
}

#[test]
fn a_failure_beside_an_ask_of_the_same_tier_crosses_nothing() {
    let mut paced = paced(vec![remote("a"), remote("b"), in_tier("c", 2)]);
    let first = paced.ask(&remote("a"));
    paced.now += HEDGE;
    let second = paced.ask(&remote("b"));
    paced.fail(first, REFUSED);
    assert!(matches!(paced.step(), PaceStep::Wait(_)));
    paced.fail(second, REFUSED);
    paced.ask(&in_tier("c", 2));
}

#[test]
fn the_oldest_ask_gives_way_when_a_fourth_candidate_is_due() {
    let mut paced = zones(&["a", "b", "c", "d"]);
    for zone in ["a", "b", "c"] {
        paced.ask(&remote(zone));
        paced.now += HEDGE;
    }
    let step = paced.step();
    assert_eq!(
        step,
        PaceStep::Ask {
            candidate: remote("d"),
            give_up: Some(1),
            again: false
        }
    );
}

#[test]
fn with_all_asked_it_routes_again_after_a_pause_and_skips_those_under_way() {
    let mut paced = zones(&["a"]);
    let begun = paced.now;
    paced.ask(&remote("a"));
    assert_eq!(paced.next(), PaceStep::Route);
    assert_eq!(paced.now, begun + HEDGE + REROUTE_AFTER);
    paced.route(vec![remote("a"), remote("b")]);
    paced.ask(&remote("b"));
}

#[test]
fn without_any_candidate_it_pauses_longer_each_time_until_the_deadline() {
    let mut paced = zones(&[]);
    let deadline = paced.now + Duration::from_secs(5);
    let mut rounds = 0;
    loop {
        match paced.next() {
            PaceStep::Route => {
                rounds += 1;
                paced.route(vec![]);
            }
            PaceStep::GiveUp => break,
            step => panic!("{step:?}"),
        }
    }
    assert_eq!(paced.now, deadline);
    assert!((10..20).contains(&rounds), "{rounds}");
}

#[test]
fn a_tunnel_that_comes_shortens_a_pause_that_has_grown() {
    let mut paced = zones(&[]);
    for _ in 0..4 {
        while let PaceStep::Wait(until) = paced.step() {
            paced.now = until;
        }
        paced.pace.routed(paced.now);
    }
    let PaceStep::Wait(grown) = paced.step() else {
        panic!("it pauses")
    };
    assert!(grown > paced.now + REROUTE_AFTER);
    paced.pace.woken(paced.now);
    assert_eq!(paced.step(), PaceStep::Wait(paced.now + REROUTE_AFTER));
}

/// Plays a search in which every candidate fails at once; answers how many were asked, and after how long it gave up.
fn play(candidates: &[Candidate], failure: AskFailure, permits: u32) -> (u32, Duration) {
    let mut paced = paced(candidates.to_vec());
    let (begun, mut permits) = (paced.now, permits);
    loop {
        match paced.next() {
            PaceStep::Route => paced.route(candidates.to_vec()),
            PaceStep::Ask {
                candidate,
                again: true,
                ..
            } if permits == 0 => paced.pace.denied(paced.now, candidate),
            PaceStep::Ask { candidate, again, .. } => {
                permits -= u32::from(again);
                let ask = paced.pace.begun(paced.now, candidate, HEDGE);
                paced.fail(ask, failure);
            }
            PaceStep::GiveUp => return (paced.pace.asked(), paced.now - begun),
            PaceStep::Wait(_) => unreachable!(),
        }
    }
}

#[test]
fn it_gives_up_when_every_candidate_has_answered_alike_twice() {
    let three = [remote("a"), remote("b"), in_tier("c", 2)];
    let (asked, after) = play(&three, REFUSED, 100);
    assert_eq!(asked, 6);
    assert!(after < Duration::from_secs(1), "{after:?}");
}

#[test]
fn those_that_were_not_heard_are_asked_to_the_deadline_and_ever_more_rarely() {
    let three = [remote("a"), remote("b"), in_tier("c", 2)];
    let (asked, after) = play(&three, AskFailure::Unheard, 100);
    assert_eq!(after, Duration::from_secs(5));
    assert!((15..25).contains(&asked), "{asked}");
}

#[test]
fn without_a_budget_nobody_is_asked_again() {
    let three = [remote("a"), remote("b"), in_tier("c", 2)];
    assert_eq!(play(&three, REFUSED, 0).0, 3);
    assert_eq!(play(&three, AskFailure::Unheard, 0), (3, Duration::from_secs(5)));
    assert_eq!(play(&three, REFUSED, 1).0, 4);
}

#[test]
fn one_search_asks_a_limited_number_of_candidates() {
    let many: Vec<_> = (0..500).map(|number| remote(&format!("z{number}"))).collect();
    assert_eq!(play(&many, AskFailure::Unheard, 1000).0, MAX_ASKS);
}
