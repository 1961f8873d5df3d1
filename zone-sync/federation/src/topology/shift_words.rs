//! Words for what becomes of shifts and splits from one topology to the next, a line for each step.

use super::{
    Diff,
    diff::split,
    model::Service,
    shift::{Shift, ShiftPlan, ShiftState, moment},
};
use crate::name::ServiceName;

/// Reason for the generation in which a shift has this state: `shift orders 50 %`.
#[must_use]
pub fn shift_reason(service: &ServiceName, shift: &Shift) -> String {
    format!("shift {service} {}", progress(shift))
}

/// `50 %`, `paused at 50 %`.
fn progress(shift: &Shift) -> String {
    let percent = shift.percent();
    match shift.state {
        ShiftState::Running => format!("{percent} %"),
        ShiftState::Paused | ShiftState::Aborted | ShiftState::Done => {
            format!("{} at {percent} %", shift.state.word())
        }
    }
}

/// `paused at 50 % (by hand at east/gw1)`.
fn progress_and_why(shift: &Shift) -> String {
    match &shift.because {
        Some(because) => format!("{} ({because})", progress(shift)),
        None => progress(shift),
    }
}

/// `50 % to {version=v2}, by 5, 50, 100 % every 5m`.
fn outline(shift: &Shift) -> String {
    let ShiftPlan { to, steps, every, .. } = &shift.plan;
    let steps: Vec<String> = steps.iter().map(ToString::to_string).collect();
    let every = humantime::format_duration(*every);
    let mut text = format!(
        "{} to {to}, by {} % every {every}",
        progress(shift),
        steps.join(", ")
    );
    for condition in &shift.plan.abort_if {
        text.push_str(&format!(", abort if {condition}"));
    }
    text
}

/// Compares splits and shifts. What a shift makes of the split is told as a step of the shift.
pub(super) fn compare(diff: &mut Diff, subject: &str, before: &Service, after: &Service) {
    let (old, new) = (before.shift.as_deref(), after.shift.as_deref());
    let same = old.zip(new).filter(|(old, new)| is_continued(old, new));
    let ended = same.filter(|(old, new)| old.state.is_active() && !new.state.is_active());
    // The split that its end leaves, of which nothing is to be told.
    let outcome = ended.map(|(old, new)| match new.state {
        // One that is done is read with the split that it has left as its beginning.
        ShiftState::Done => Shift {
            from: old.from.clone(),
            ..new.clone()
        }
        .split(),
        _ => old.from.clone(),
    });
    let key = match before.active_shift().is_some() && after.active_shift().is_some() {
        true => "split before the shift",
        false => "split",
    };
    diff.compare(
        &format!("{subject}: {key}"),
        split(outcome.as_deref().unwrap_or(before.split_before())),
        split(after.split_before()),
    );
    let whole = |shift: Option<&Shift>| shift.map_or_else(String::new, ToString::to_string);
    if whole(old) == whole(new) {
        return;
    }
    let (mut was, mut is) = match same {
        Some((old, new)) => {
            let by = (old.by != new.by).then(|| format!(", driven by {}", new.by));
            (
                progress_and_why(old),
                progress_and_why(new) + &by.unwrap_or_default(),
            )
        }
        None => {
            let none = || "none".to_owned();
            (old.map_or_else(none, progress), new.map_or_else(none, outline))
        }
    };
    if was == is {
        // Somebody else drives it, or its time begins anew.
        (was, is) = (whole(old), whole(new));
    }
    diff.compare(&format!("{subject}: shift"), was, is);
}

/// Tells whether both are states of one shift.
fn is_continued(old: &Shift, new: &Shift) -> bool {
    moment(old.begun) == moment(new.begun) && old.plan == new.plan
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::{
        name::GatewayId,
        topology::{Topology, diff, parse},
    };

    const TEXT: &str = "
version: 1
trust_domain: acme.internal
zones:
  east: { gateways: [gw.east:7800], instances: [{ service: orders, address: '10.0.0.1:80', tags: { version: v1 } }, { service: orders, address: '10.0.0.2:80', tags: { version: v2 } }] }
services:
  orders: { port: 8080, split: [{ tags: { version: v1 } }] }
";

    fn orders() -> ServiceName {
        ServiceName::new("orders").unwrap()
    }

    fn gateway() -> GatewayId {
        GatewayId::new("east".parse().unwrap(), "gw1".parse().unwrap())
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    /// The topology with the shift in this state, and the split that the edit of the text would leave.
    fn with(shift: Option<Shift>) -> Topology {
        let mut topology = parse(TEXT, "test").unwrap().topology;
        let service = topology.services.get_mut(&orders()).unwrap();
        if let Some(shift) = &shift {
            service.split = match shift.state {
                ShiftState::Aborted => shift.from.clone(),
                _ => shift.split(),
            };
        }
        service.shift = shift.map(Into::into);
        topology
    }

    fn lines(before: &Topology, after: &Topology) -> Vec<String> {
        diff(before, after)
            .changes
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn each_step_of_a_shift_is_one_line() {
        let plan = ShiftPlan {
            to: [("version", "v2")].into_iter().collect(),
            steps: vec![25, 100],
            every: Duration::from_secs(300),
            abort_if: vec!["success<99%".parse().unwrap()],
            min_requests: 100,
        };
        let none = with(None);
        let first = Shift::begin(&none.services[&orders()], plan, gateway(), at(1)).unwrap();
        let paused = first.paused(at(2), "by hand at east/gw1").unwrap();
        let last = first.advanced(at(3));
        let done = last.done(at(4));
        let aborted = first.aborted(at(5), "success 90 %").unwrap();
        let moved = first.resumed(at(6), gateway()).unwrap();
        let line =
            |before: &Shift, after: &Shift| lines(&with(Some(before.clone())), &with(Some(after.clone())));
        assert_eq!(
            lines(&none, &with(Some(first.clone()))),
            [
                "~ service orders: shift: none -> 25 % to {version=v2}, by 25, 100 % every 5m, abort if success<99%"
            ]
        );
        assert_eq!(line(&first, &last), ["~ service orders: shift: 25 % -> 100 %"]);
        assert_eq!(
            line(&first, &paused),
            ["~ service orders: shift: 25 % -> paused at 25 % (by hand at east/gw1)"]
        );
        // As it is read from the text that is left.
        let done = Shift {
            from: done.split(),
            ..done
        };
        assert_eq!(
            line(&last, &done),
            ["~ service orders: shift: 100 % -> done at 100 %"]
        );
        assert_eq!(
            line(&first, &aborted),
            ["~ service orders: shift: 25 % -> aborted at 25 % (success 90 %)"]
        );
        assert_eq!(line(&first, &moved).len(), 1, "somebody else drives it");
        assert_eq!(line(&first, &first), [""; 0]);
        // What somebody else has made of the split is told beside it.
        let mut other = with(Some(done));
        other.services.get_mut(&orders()).unwrap().split = none.services[&orders()].split.clone();
        let told = lines(&with(Some(last.clone())), &other);
        assert_eq!(
            told,
            [
                "~ service orders: split: 0 of 100 to {version=v1}, 100 of 100 to {version=v2} -> all to {version=v1}",
                "~ service orders: shift: 100 % -> done at 100 %"
            ],
            "it is what it was before, and not what the shift has come to"
        );
        assert_eq!(shift_reason(&orders(), &last), "shift orders 100 %");
        assert_eq!(shift_reason(&orders(), &paused), "shift orders paused at 25 %");
    }
}
