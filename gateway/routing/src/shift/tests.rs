//! Tests of the next act in a shift, by tables and for any figures; and of what one gateway takes back.

use std::{sync::Arc, time::Duration};

use causeway_federation::{
    catalog::Age,
    topology::{JudgedEnd, Topology},
};
use proptest::prelude::*;
use rand::{SeedableRng, rngs::SmallRng};

use super::*;
use crate::{
    route::{Request, route},
    snapshot::{Link, Snapshot},
    target::Target,
    testbed::{self, entry, gateway, service, snapshot, tags, topology},
};

const BEGUN: &str = "2026-12-01T02:00:00Z";

fn orders(keys: &str) -> Arc<Topology> {
    topology(
        "  home: {}\n  east: {}",
        &format!(
            "  orders:\n    port: 80\n    split: [{{ tags: {{ v: '1' }} }}]\n    shift: {{ to: {{ v: '2' }}, steps: [5, 25, 100], every: 60s, \
             abort_if: ['success<99%', 'p90>100ms'], begun: '{BEGUN}', since: '{BEGUN}', by: home/gw1, {keys} }}\n"
        ),
    )
}

fn shift(keys: &str) -> Shift {
    let shift = orders(keys).services["orders"].shift.clone();
    Shift::clone(&shift.unwrap())
}

fn told(requests: u64, against: [u64; 2]) -> ShiftFigures {
    ShiftFigures {
        requests,
        against: against.to_vec(),
        ..ShiftFigures::default()
    }
}

/// Judges so many seconds after the step began.
fn judged(shift: &Shift, seconds: u64, figures: &[ShiftFigures]) -> ShiftVerdict {
    let gateways = ["home", "east", "west"].map(gateway);
    let figures: Vec<_> = gateways.into_iter().zip(figures.iter().cloned()).collect();
    judge(shift, shift.since + Duration::from_secs(seconds), &figures)
}

fn word(verdict: &ShiftVerdict) -> &'static str {
    match verdict {
        ShiftVerdict::Hold => "hold",
        ShiftVerdict::Advance => "advance",
        ShiftVerdict::Finish => "finish",
        ShiftVerdict::Pause(_) => "pause",
        ShiftVerdict::Abort(_) => "abort",
    }
}

#[test]
fn a_shift_goes_on_when_its_step_has_lasted_and_nothing_breaks_its_gate() {
    let running = shift("state: running, step: 1");
    for (seconds, figures, expected) in [
        (0, &[][..], "hold"),
        (59, &[told(1000, [0, 0])][..], "hold"),
        (60, &[told(1000, [0, 0])], "advance"),
        (60, &[told(1000, [10, 100])], "advance"),
        (10, &[told(1000, [11, 0])], "abort"),
        (10, &[told(1000, [0, 101])], "abort"),
        (60, &[], "pause"),
        (60, &[told(99, [0, 0])], "pause"),
        (60, &[told(60, [0, 0]), told(40, [1, 0])], "advance"),
        // Too few to say anything of what is well, and enough to know what is not.
        (1, &[told(1, [1, 0])], "hold"),
        (1, &[told(2, [2, 0])], "abort"),
        (1, &[told(20, [1, 0]), told(20, [1, 0])], "abort"),
        // What one gateway sees breaks it, whatever the others see.
        (1, &[told(1_000_000, [0, 0]), told(100, [2, 0])], "abort"),
    ] {
        let verdict = judged(&running, seconds, figures);
        assert_eq!(word(&verdict), expected, "{seconds} s, {figures:?}: {verdict:?}");
    }
    let last = shift("state: running, step: 3");
    assert_eq!(judged(&last, 60, &[told(100, [0, 0])]), ShiftVerdict::Finish);
    let patient = shift("state: running, step: 1, min_requests: 0");
    assert_eq!(judged(&patient, 60, &[]), ShiftVerdict::Advance);
    assert!(
        matches!(judged(&running, 60, &[told(1, [0, 0])]), ShiftVerdict::Pause(why) if why.starts_with("1 request in this step"))
    );
}

#[test]
fn a_paused_shift_does_not_go_on_and_is_aborted_all_the_same() {
    let paused = shift("state: paused, step: 2");
    assert_eq!(judged(&paused, 3600, &[told(1000, [0, 0])]), ShiftVerdict::Hold);
    let taken = ShiftFigures {
        taken_back: true,
        ..told(900, [9, 0])
    };
    // Whoever takes its share back has seen it broken, whatever ended well since then: the figures are named all the same.
    let verdict = judged(&paused, 0, &[told(0, [0, 0]), taken]);
    let because = "east/gw1 has taken its share back, success<99%: 9 of 900 requests failed";
    assert!(
        matches!(&verdict, ShiftVerdict::Abort(why) if why.starts_with(because)),
        "{verdict:?}"
    );
    let because = ShiftVerdict::Abort("success<99%: 12 of 400 requests failed at home/gw1".to_owned());
    assert_eq!(judged(&paused, 0, &[told(400, [12, 0])]), because);
    for state in ["aborted", "done"] {
        let ended = shift(&format!("state: {state}, step: 2"));
        assert_eq!(judged(&ended, 3600, &[told(400, [400, 0])]), ShiftVerdict::Hold);
    }
}

/// Percent of connections from `home` that go to v2.
fn share_of_v2(topology: &Arc<Topology>, shifts: &Shifts) -> usize {
    let exports: &[testbed::Exported<'_>] = &[(&[("v", "1")], 1, 1), (&[("v", "2")], 1, 1)];
    let entries = vec![entry("east", Age::Fresh, false, exports)];
    let snapshot = Snapshot {
        shifts: shifts.clone(),
        ..snapshot("home", topology, vec![], entries, &[("east", Link::Up)])
    };
    let request = Request::new(Target::service(service("orders")));
    let firsts = (0..400).filter_map(|seed| route(&snapshot, &request, SmallRng::seed_from_u64(seed)).next());
    firsts.filter(|first| first.arm == tags(&[("v", "2")])).count() / 4
}

/// Has the gateway see the ends of so many requests, `failed` of them failures.
fn see(shifts: &Shifts, requests: u64, failed: u64) {
    for number in 0..requests {
        let end = JudgedEnd {
            failed: number < failed,
            took: Duration::ZERO,
        };
        let tags = tags(&[("v", "2"), ("more", "of-the-name")]);
        shifts.load().count(&service("orders"), &tags, end);
        let of_others = JudgedEnd { failed: true, ..end };
        shifts
            .load()
            .count(&service("orders"), &self::tags(&[("v", "1")]), of_others);
        shifts.load().count(&service("carts"), &tags, of_others);
    }
}

#[test]
fn a_gateway_takes_its_share_back_when_its_own_requests_break_the_gate_and_until_the_shift_is_resumed() {
    let shifts = Shifts::default();
    let begun = orders("state: running, step: 2");
    shifts.store(Arc::new(shifts.load().following(&begun)));
    see(&shifts, 200, 2);
    assert_eq!(shifts.load().of(&service("orders")).unwrap().against, [2, 0]);
    assert_eq!(shifts.load().of(&service("orders")).unwrap().requests, 200);
    assert!(shifts.load().judged(&begun).is_none(), "99 % succeed");
    let before = share_of_v2(&begun, &shifts);
    assert!((15..35).contains(&before), "{before}");
    see(&shifts, 1, 1);
    let (after, taken) = shifts.load().judged(&begun).unwrap();
    assert_eq!(taken.len(), 1, "{taken:?}");
    assert!(after.judged(&begun).is_none(), "it is told once");
    assert!(after.told()[0].taken_back);
    shifts.store(Arc::new(after));
    assert_eq!(share_of_v2(&begun, &shifts), 0);
    // The next step is not what it has taken back for, and a resumption is.
    let next = orders("state: running, step: 3");
    shifts.store(Arc::new(shifts.load().following(&next)));
    assert_eq!(share_of_v2(&next, &shifts), 0);
    assert_eq!(
        shifts.load().of(&service("orders")).unwrap().requests,
        0,
        "a step has its own figures"
    );
    let resumed = orders("state: running, step: 3, resumed: '2026-12-01T03:00:00Z'");
    assert_eq!(
        share_of_v2(&resumed, &shifts),
        100,
        "before the gateway has looked at it, too"
    );
    shifts.store(Arc::new(shifts.load().following(&resumed)));
    assert_eq!(share_of_v2(&resumed, &shifts), 100);
    let ended = orders("state: aborted, step: 3");
    shifts.store(Arc::new(shifts.load().following(&ended)));
    assert!(shifts.load().is_empty());
}

proptest! {
    #[test]
    fn no_figures_take_a_shift_past_its_gate(
        seconds in 0u64..200, step in 1usize..=3, least in 0u64..300,
        figures in prop::collection::vec((0u64..2000, 0u64..60, 0u64..300, any::<bool>()), 0..3),
    ) {
        let shift = shift(&format!("state: running, step: {step}, min_requests: {least}"));
        let figures: Vec<ShiftFigures> = figures.into_iter().map(|(requests, failed, slow, taken_back)| ShiftFigures {
            taken_back,
            ..told(requests, [failed.min(requests), slow.min(requests)])
        }).collect();
        let all = sum(&shift.plan, figures.iter());
        let failed = 100 * all.against[0] > all.requests;
        let slow = 10 * all.against[1] > all.requests;
        match judged(&shift, seconds, &figures) {
            ShiftVerdict::Advance | ShiftVerdict::Finish => {
                prop_assert!(seconds >= 60 && all.requests >= least && !failed && !slow && !all.taken_back);
            }
            ShiftVerdict::Pause(_) => prop_assert!(seconds >= 60 && all.requests < least),
            ShiftVerdict::Hold => prop_assert!(seconds < 60 && !all.taken_back),
            ShiftVerdict::Abort(_) => {
                let breaks = |told: &ShiftFigures| {
                    100 * told.against[0] > told.requests || 10 * told.against[1] > told.requests
                };
                prop_assert!(all.taken_back || figures.iter().chain([&all]).any(breaks));
            }
        }
    }

    #[test]
    fn figures_of_more_failures_never_turn_an_abort_into_anything_else(
        requests in 0u64..500, failed in 0u64..50, more in 0u64..50, seconds in 0u64..200,
    ) {
        let shift = shift("state: running, step: 2");
        let at = |failed: u64| judged(&shift, seconds, &[told(requests, [failed.min(requests), 0])]);
        if word(&at(failed)) == "abort" {
            prop_assert_eq!(word(&at(failed + more)), "abort");
        }
    }
}

#[test]
fn another_process_goes_on_with_what_was_counted_and_taken_back() {
    let running = orders("state: running, step: 1");
    let local = LocalShifts::default().following(&running);
    let (name, to) = (service("orders"), tags(&[("v", "2")]));
    for failed in [true, true, false] {
        let took = Duration::ZERO;
        local.count(&name, &to, JudgedEnd { failed, took });
    }
    let (local, taken) = local.judged(&running).unwrap();
    assert_eq!(taken.len(), 1);
    let text = serde_json::to_string(&local.carried()).unwrap();
    let carried: Vec<CarriedShift> = serde_json::from_str(&text).unwrap();
    let next = LocalShifts::carrying_on(&carried, &running);
    assert_eq!(next.of(&name), local.of(&name));
    let step = running.services["orders"].active_shift().unwrap();
    assert!(next.takes_back(&name, step) && next.judged(&running).is_none());
    // At another step the counts begin anew, and what was taken back stays so.
    let later = orders("state: running, step: 2");
    let mut carried = carried;
    carried[0].step += 1;
    let next = LocalShifts::carrying_on(&carried, &later);
    let figures = next.of(&name).unwrap();
    assert_eq!((figures.requests, figures.taken_back), (0, true));
    // What counts against other conditions says nothing.
    carried[0].against.pop();
    let next = LocalShifts::carrying_on(&carried, &running);
    assert_eq!(next.of(&name).map(|figures| figures.requests), Some(0));
    assert!(LocalShifts::carrying_on(&carried, &orders("state: done, step: 3")).is_empty());
}
