//! A shift in words, for a person who wants to know how it goes.

use std::fmt::Write as _;

use causeway_api::admin::view::{GenerationView, ShiftView, moment};
use causeway_federation::{
    name::ServiceName,
    topology::{Shift, parse},
};

use super::tables::tags;

/// Tells how far it has come, and what its gate sees.
pub(super) fn told(shift: &ShiftView) -> String {
    let ShiftView {
        service,
        state,
        step,
        percent,
        since,
        ..
    } = shift;
    let (to, steps) = (tags(&shift.to), shift.steps.len());
    let mut text = format!("{service} to {to}: {state} since {since}, step {step} of {steps} ({percent} %)");
    // Writing to a string cannot fail, here and below.
    if let Some(because) = &shift.because {
        let _ = write!(text, "\n  because   {because}");
    }
    let percents: Vec<String> = shift.steps.iter().map(ToString::to_string).collect();
    let _ = write!(
        text,
        "\n  steps     {} %, every {}",
        percents.join(", "),
        shift.every
    );
    if let Some(due) = &shift.due {
        let _ = write!(text, "; the next at {due}");
    }
    let gone = match shift.driver_gone {
        true => {
            ", which is gone: the shift stays as it is; `causeway shift resume` at another gateway takes it over"
        }
        false => "",
    };
    let _ = write!(text, "\n  driver    {}{gone}", shift.driver);
    let gate = match shift.abort_if.is_empty() {
        true => "none".to_owned(),
        false => shift.abort_if.join(" or "),
    };
    let least = shift.min_requests;
    let _ = write!(text, "\n  gate      {gate}; at least {least} requests in a step");
    let counted = against(&shift.abort_if, &shift.against);
    let _ = write!(text, "\n  requests  {}{counted}", shift.requests);
    for gateway in &shift.gateways {
        let back = match gateway.taken_back {
            true => ", has taken its share back",
            false => "",
        };
        let counted = against(&shift.abort_if, &gateway.against);
        let _ = write!(
            text,
            "\n    {}: {}{counted}{back}",
            gateway.gateway, gateway.requests
        );
    }
    text + "\n"
}

/// `, against success<99%: 3, p99>300ms: 0`.
fn against(conditions: &[String], counts: &[u64]) -> String {
    let each = conditions.iter().zip(counts);
    let each: Vec<String> = each
        .map(|(condition, count)| format!("{condition}: {count}"))
        .collect();
    match each.is_empty() {
        true => String::new(),
        false => format!(", against {}", each.join(", ")),
    }
}

/// Its steps and its end, as far as the generations that are kept tell of them, the oldest first.
pub(super) fn history_told(service: &ServiceName, shown: &ShiftView, history: &[GenerationView]) -> String {
    let counts = |one: &&GenerationView| one.standing == "in force" || one.standing == "former";
    let mut kept: Vec<&GenerationView> = history.iter().filter(counts).collect();
    kept.sort_by_key(|one| one.generation);
    let (mut text, mut last) = (String::new(), None);
    for one in kept {
        let shift = shift_in(service, &one.text).filter(|shift| moment(shift.begun) == shown.begun);
        let Some(shift) = shift.filter(|shift| last.as_ref() != Some(shift)) else {
            continue;
        };
        let because = shift.because.as_ref();
        let because = because.map(|because| format!(": {because}")).unwrap_or_default();
        let (at, percent, state) = (moment(shift.since), shift.percent(), shift.state.word());
        let (generation, by) = (one.generation, &one.applied_by);
        let _ = writeln!(
            text,
            "    {at}  {percent} %, {state}{because} (generation {generation}, by {by})"
        );
        last = Some(shift);
    }
    match text.is_empty() {
        true => text,
        false => format!("  history\n{text}"),
    }
}

/// The shift of a service that a text has.
fn shift_in(service: &ServiceName, text: &str) -> Option<Shift> {
    let topology = parse(text, "").ok()?.topology;
    let shift = topology.services.get(service)?.shift.as_deref()?;
    Some(shift.clone())
}
