//! Shifts: what becomes of one next, by the time and by what has become of the requests to its arm. Pure.
//!
//! Two judge. Each gateway judges the requests that it has itself given to the arm, and takes its own share back at once when these break the
//! gate ([`LocalShifts`]); it never gives more. The gateway that drives the shift judges the figures of all ([`judge`]), and changes the
//! topology.

mod local;
#[cfg(test)]
mod tests;

use std::time::SystemTime;

use causeway_federation::{
    catalog::ShiftFigures,
    name::GatewayId,
    topology::{GateCondition, Shift, ShiftPlan, ShiftState},
};

pub use local::{CarriedShift, LocalShifts, Shifts, TakenBackShift};

/// Next act of the driver of a shift.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShiftVerdict {
    /// Nothing.
    Hold,
    /// Its next step.
    Advance,
    /// The last step has held.
    Finish,
    /// Too few requests to say anything.
    Pause(String),
    Abort(String),
}

/// Judges a shift by the figures on its present step of every gateway that tells some. In this order:
///
/// 1. One that has ended is left alone.
/// 2. A gateway that has taken its arm back, or whose figures break the gate by themselves, aborts it, paused or not.
/// 3. So do the figures of all gateways together.
/// 4. It holds while it is paused, and until its step has lasted for as long as a step does.
/// 5. With fewer requests than it wants, at all gateways together, it is paused.
/// 6. It goes on, or is done after the last step.
#[must_use]
pub fn judge(shift: &Shift, now: SystemTime, figures: &[(GatewayId, ShiftFigures)]) -> ShiftVerdict {
    if !shift.state.is_active() {
        return ShiftVerdict::Hold;
    }
    for (gateway, told) in figures {
        if let Some(broken) = broken(&shift.plan, told) {
            return ShiftVerdict::Abort(format!("{broken} at {gateway}"));
        }
        if told.taken_back {
            let figures = told_against(&shift.plan, told);
            return ShiftVerdict::Abort(format!("{gateway} has taken its share back, {figures}"));
        }
    }
    let all = sum(&shift.plan, figures.iter().map(|(_, told)| told));
    if let Some(broken) = broken(&shift.plan, &all) {
        return ShiftVerdict::Abort(format!("{broken} at all gateways together"));
    }
    let is_due = shift.due().is_some_and(|due| due <= now);
    if shift.state == ShiftState::Paused || !is_due {
        return ShiftVerdict::Hold;
    }
    let least = shift.plan.min_requests;
    if all.requests < least {
        let requests = all.requests;
        let word = if requests == 1 { "request" } else { "requests" };
        return ShiftVerdict::Pause(format!("{requests} {word} in this step, fewer than {least}"));
    }
    match shift.next_percent() {
        Some(_) => ShiftVerdict::Advance,
        None => ShiftVerdict::Finish,
    }
}

/// Figures of several gateways in one.
#[must_use]
pub fn sum<'a>(plan: &ShiftPlan, figures: impl Iterator<Item = &'a ShiftFigures>) -> ShiftFigures {
    let none = ShiftFigures {
        against: vec![0; plan.abort_if.len()],
        ..ShiftFigures::default()
    };
    figures.fold(none, |mut all, told| {
        all.requests = all.requests.saturating_add(told.requests);
        for (sum, counted) in all.against.iter_mut().zip(&told.against) {
            *sum = sum.saturating_add(*counted);
        }
        all.taken_back |= told.taken_back;
        all
    })
}

/// Says how figures stand to each condition, whether they meet it or not: what has broken it may have been outnumbered since.
fn told_against(plan: &ShiftPlan, figures: &ShiftFigures) -> String {
    let each = plan.abort_if.iter().zip(&figures.against);
    let each = each.map(|(condition, counted)| {
        let told = condition.told(*counted, figures.requests);
        format!("{condition}: {told}")
    });
    let each: Vec<String> = each.collect();
    each.join("; ")
}

/// Says which condition of the gate these figures meet, if any. Of fewer requests than the gate wants those that are missing count as
/// well: what breaks it then would break it whatever came.
fn broken(plan: &ShiftPlan, figures: &ShiftFigures) -> Option<String> {
    let requests = figures.requests.max(plan.min_requests);
    let mut conditions = plan.abort_if.iter().zip(&figures.against);
    let met = |(condition, counted): &(&GateCondition, &u64)| condition.holds(**counted, requests);
    let (condition, counted) = conditions.find(met)?;
    Some(format!(
        "{condition}: {}",
        condition.told(*counted, figures.requests)
    ))
}
