//! Tests of what may be begun, and of the way from state to state.

use std::time::Duration;

use super::*;
use crate::name::{GatewayName, Tags, ZoneName};
use crate::topology::parse;

const T0: SystemTime = SystemTime::UNIX_EPOCH;

fn tags(version: &str) -> Tags {
    [("version", version)].into_iter().collect()
}

fn plan(steps: &[u32]) -> ShiftPlan {
    ShiftPlan {
        to: tags("v2"),
        steps: steps.to_vec(),
        every: Duration::from_secs(60),
        abort_if: Vec::new(),
        min_requests: 0,
    }
}

fn gw1() -> GatewayId {
    GatewayId::new(ZoneName::new("east").unwrap(), GatewayName::new("gw1").unwrap())
}

fn service(keys: &str) -> Service {
    let text = format!(
        "version: 1\ntrust_domain: a.b\nzones: {{ east: {{ gateways: [] }} }}\nservices: {{ orders: {{ port: 80, {keys} }} }}\n"
    );
    parse(&text, "").unwrap().topology.services["orders"].clone()
}

#[test]
fn a_shift_is_begun_only_where_its_steps_mean_something() {
    let refused = |keys: &str, steps: &[u32]| Shift::begin(&service(keys), plan(steps), gw1(), T0).err();
    let split = "split: [{ tags: { version: v1 }, weight: 90 }, { tags: { version: v2 }, weight: 10 }]";
    assert_eq!(refused(split, &[10, 100]), None);
    let backwards = ShiftRefusal::Backwards {
        to: tags("v2"),
        has: 10,
        first: 5,
    };
    assert_eq!(refused(split, &[5, 100]), Some(backwards));
    for steps in [&[][..], &[50, 50], &[50, 20], &[0, 5], &[50, 101]] {
        assert_eq!(refused(split, steps), Some(ShiftRefusal::Steps), "{steps:?}");
    }
    assert_eq!(refused("early: false", &[50]), Some(ShiftRefusal::NoSplit));
    let overlap = refused("split: [{ tags: {} }, { tags: { version: v2 } }]", &[60]);
    assert!(
        matches!(overlap, Some(ShiftRefusal::Overlap { .. })),
        "{overlap:?}"
    );
    let nothing = refused("split: [{ tags: { version: v2 } }]", &[100]);
    assert_eq!(nothing, Some(ShiftRefusal::NothingElse(tags("v2"))));
}

#[test]
fn what_has_ended_is_neither_paused_nor_resumed_nor_aborted() {
    let split = "split: [{ tags: { version: v1 } }]";
    let shift = Shift::begin(&service(split), plan(&[5, 100]), gw1(), T0).unwrap();
    let paused = shift.paused(T0, "by hand").unwrap();
    assert_eq!(
        (paused.state, paused.split()),
        (ShiftState::Paused, shift.split())
    );
    let resumed = paused.resumed(T0, gw1()).unwrap();
    assert_eq!((resumed.state, resumed.because), (ShiftState::Running, None));
    for ended in [shift.aborted(T0, "by hand\n").unwrap(), shift.done(T0)] {
        assert!(ended.paused(T0, "").is_err() && ended.aborted(T0, "").is_err());
        assert!(ended.resumed(T0, gw1()).is_err());
    }
    assert_eq!(shift.advanced(T0).advanced(T0).advanced(T0).percent(), 100);
}

#[test]
fn what_no_topology_could_hold_is_refused_in_words_before_it_is_written() {
    let with = |key: &str, value: &str| ShiftPlan {
        to: [(key, value)].into_iter().collect(),
        ..plan(&[5, 100])
    };
    for (key, value) in [
        ("version", "v2, weight: 100 }"),
        ("version", "v2\n  allow: []"),
        ("version", "self"),
        ("version", ""),
        ("ver sion", "v2"),
        ("version", &"x".repeat(64)),
    ] {
        let refused = with(key, value).check().unwrap_err();
        assert!(matches!(refused, ShiftRefusal::BadTag(_)), "{refused}");
        assert!(!refused.to_string().contains('\n'), "{refused}");
    }
    assert_eq!(with("version", "v2").check(), Ok(()));
    let many = ShiftPlan {
        min_requests: MAX_MIN_REQUESTS + 1,
        ..plan(&[5, 100])
    };
    assert_eq!(many.check(), Err(ShiftRefusal::MinRequests));
}
