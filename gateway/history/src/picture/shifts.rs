//! Shifts, as the topology holds them, and what this gateway has taken back of them.

use causeway_federation::{
    name::ServiceName,
    topology::{Shift, ShiftState},
};

use super::Picture;
use crate::event::{EventKind, NewEvent};

/// Tells of shifts that began, went on and ended.
pub(super) fn changed(before: &Picture, after: &Picture, events: &mut Vec<NewEvent>) {
    let (old, new) = (&before.snapshot.topology, &after.snapshot.topology);
    for (name, service) in &new.services {
        let Some(shift) = service.shift.as_deref() else {
            continue;
        };
        let known = old
            .services
            .get(name)
            .and_then(|service| service.shift.as_deref());
        let known = known.filter(|known| known.begun == shift.begun);
        events.extend(step(name, known, shift));
        let taken_back =
            |picture: &Picture| shift.state.is_active() && picture.shifts.takes_back(name, shift);
        if taken_back(after) && !taken_back(before) {
            let text = format!(
                "this gateway has taken its share of the shift of {name} to {} back",
                shift.plan.to
            );
            let event =
                NewEvent::new(EventKind::ShiftTakenBack, text).because("its own requests broke the gate");
            events.push(of(event, name, shift));
        }
    }
}

fn of(event: NewEvent, name: &ServiceName, shift: &Shift) -> NewEvent {
    event.service(name).subject(&shift.plan.to)
}

fn step(name: &ServiceName, before: Option<&Shift>, now: &Shift) -> Option<NewEvent> {
    let (to, percent) = (&now.plan.to, now.percent());
    let what = format!("the shift of {name} to {to}");
    let resumed = before.is_some_and(|before| before.state == ShiftState::Paused);
    let advanced = before.is_some_and(|before| before.step != now.step);
    let (kind, text) = match (before.map(|before| before.state), now.state) {
        (Some(before), state) if before == state && !advanced => return None,
        (None, ShiftState::Running) => (EventKind::ShiftBegun, format!("{what} begins at {percent} %")),
        (_, ShiftState::Running) if resumed => {
            (EventKind::ShiftResumed, format!("{what} goes on at {percent} %"))
        }
        (_, ShiftState::Running) => (EventKind::ShiftStep, format!("{what} has come to {percent} %")),
        (_, ShiftState::Paused) => (EventKind::ShiftPaused, format!("{what} is paused at {percent} %")),
        (_, ShiftState::Aborted) => (
            EventKind::ShiftAborted,
            format!("{what} is aborted at {percent} %, and the split is what it was before"),
        ),
        (_, ShiftState::Done) => (EventKind::ShiftDone, format!("{what} is done")),
    };
    let because = now.because.clone().unwrap_or_default();
    Some(of(NewEvent::new(kind, text).because(because), name, now))
}
