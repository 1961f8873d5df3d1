//! Reading the shift of a service, as `causeway shift` writes it.

use std::ops::RangeInclusive;

use super::{
    super::{
        diagnostic::{Diagnostic, Sink},
        fields::{Fields, MapKind, Spanned, items},
        scalar::{self, OWN},
        shift::{
            DEFAULT_MIN_REQUESTS, GateCondition, MAX_GATE_CONDITIONS, MAX_MIN_REQUESTS, MAX_REASON_BYTES,
            MAX_SHIFT_STEPS, SHIFT_INTERVALS, Shift, ShiftPlan, ShiftState,
        },
        tree::Node,
    },
    service::word,
    tags::tags,
};
use crate::name::{GatewayId, GatewayName, ZoneName};

pub(super) const SHIFT: MapKind = MapKind {
    what: "`shift`",
    keys: &[
        "to",
        "steps",
        "every",
        "abort_if",
        "min_requests",
        "state",
        "step",
        "begun",
        "since",
        "resumed",
        "by",
        "because",
    ],
    meant: &[
        ("from", "a shift begins at the `split` of its service"),
        ("gate", "write `abort_if: ['success<99%']`"),
        ("interval", "write `every: 5m`"),
    ],
};

const STATES: [(&str, ShiftState); 4] = [
    ("running", ShiftState::Running),
    ("paused", ShiftState::Paused),
    ("aborted", ShiftState::Aborted),
    ("done", ShiftState::Done),
];
const STEPS: RangeInclusive<u32> = 1..=100;

pub(super) fn shift(node: &Node, sink: &Sink) -> Option<Spanned<Shift>> {
    let fields = Fields::open(node, &node.span, &SHIFT, sink)?;
    let plan = plan(&fields);
    let state = fields.required("state", |node, sink| {
        word(node, "a state of a shift", STATES, sink)
    });
    let step = fields.required("step", |node, sink| {
        scalar::number(node, "a step", 1..=MAX_SHIFT_STEPS, sink)
    });
    let begun = fields.required("begun", scalar::moment);
    let since = fields.required("since", scalar::moment);
    let resumed = fields.optional("resumed", scalar::moment);
    let by = fields.required("by", gateway);
    let because = fields.optional("because", reason);
    let (plan, step) = (plan?, step?);
    if step.value > plan.steps.len() {
        let message = format!("step {} of a shift that has {}", step.value, plan.steps.len());
        let found = Diagnostic::error("bad-value", &step.span, message);
        sink.push(found.hint("steps count from 1"));
        return None;
    }
    Some(Spanned {
        value: Shift {
            plan,
            state: state?.value,
            step: step.value,
            begun: begun?,
            since: since?,
            resumed,
            by: by?,
            because,
            from: Vec::new(),
        },
        span: node.span.clone(),
    })
}

fn plan(fields: &Fields<'_>) -> Option<ShiftPlan> {
    let to = fields.required("to", tags);
    let steps = fields.required("steps", steps);
    let every = fields.required("every", |node, sink| {
        scalar::duration(node, "an interval", SHIFT_INTERVALS, sink)
    });
    let abort_if = match fields.has("abort_if") {
        true => fields.optional("abort_if", |node, sink| {
            let read = items(node, "`abort_if`", MAX_GATE_CONDITIONS, sink, condition)?;
            read.complete.then_some(read.items)
        }),
        false => Some(Vec::new()),
    };
    let min_requests = fields.optional("min_requests", |node, sink| {
        scalar::number(node, "a count", 0..=MAX_MIN_REQUESTS, sink)
    });
    Some(ShiftPlan {
        to: to?,
        steps: steps?,
        every: every?.value,
        abort_if: abort_if?,
        min_requests: min_requests.map_or(DEFAULT_MIN_REQUESTS, |count| count.value),
    })
}

fn steps(node: &Node, sink: &Sink) -> Option<Vec<u32>> {
    let read = items(node, "`steps`", MAX_SHIFT_STEPS, sink, |node, sink| {
        scalar::number(node, "a percentage", STEPS, sink)
    })?;
    let steps: Vec<u32> = read.items.iter().map(|step| step.value).collect();
    if steps.is_empty() && read.complete {
        let found = Diagnostic::error("empty-list", &node.span, "`steps` is empty");
        sink.push(found.hint("such as `[5, 25, 50, 100]`"));
    }
    if let Some(pair) = read.items.windows(2).find(|pair| pair[0].value >= pair[1].value) {
        let found = Diagnostic::error("bad-value", &pair[1].span, "the steps of a shift have to rise");
        sink.push(found.related(&pair[0].span, "after this one"));
        return None;
    }
    (read.complete && !steps.is_empty()).then_some(steps)
}

fn condition(node: &Node, sink: &Sink) -> Option<GateCondition> {
    let read = scalar::text(node, "a condition", sink)?;
    let condition = read.value.parse::<GateCondition>();
    let refused = |error: &_| {
        let found = Diagnostic::error("bad-value", &read.span, format!("{error}"));
        sink.push(
            found.hint("with 50, 90, 99, 99.9 or another percentile, and a time such as `300ms` or `1s`"),
        );
    };
    condition.inspect_err(refused).ok()
}

/// Reads `east/gw1`.
fn gateway(node: &Node, sink: &Sink) -> Option<GatewayId> {
    let read = scalar::text(node, "a gateway", sink)?;
    let id = read.value.split_once('/').and_then(|(zone, gateway)| {
        let (zone, gateway) = (ZoneName::new(zone).ok()?, GatewayName::new(gateway).ok()?);
        (zone.as_str() != OWN).then(|| GatewayId::new(zone, gateway))
    });
    if id.is_none() {
        let message = format!("`{}` is not a gateway", scalar::shortened(&read.value));
        let found = Diagnostic::error("bad-name", &read.span, message);
        sink.push(found.hint("write zone and gateway, such as `east/gw1`"));
    }
    id
}

fn reason(node: &Node, sink: &Sink) -> Option<String> {
    let read = scalar::text(node, "a reason", sink)?;
    if read.value.len() > MAX_REASON_BYTES || read.value.chars().any(char::is_control) {
        let message = format!("a reason is one line of at most {MAX_REASON_BYTES} bytes");
        sink.push(Diagnostic::error("bad-value", &read.span, message));
        return None;
    }
    Some(read.value)
}
