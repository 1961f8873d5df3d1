//! Shifts of services, and the figures that are known here of each.

use causeway_federation::{
    catalog::{Age, ShiftFigures, ShiftStepNumber},
    name::{GatewayId, ServiceName, Tags},
    topology::{GateCondition, Shift, ShiftState},
};
use causeway_routing::{shift::sum, snapshot::Snapshot};
use serde::{Deserialize, Serialize};

use super::{ArmView, moment};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShiftView {
    pub service: String,
    pub to: Tags,
    /// Percent for `to`, rising.
    pub steps: Vec<u32>,
    /// Such as `5m`.
    pub every: String,
    pub abort_if: Vec<String>,
    pub min_requests: u64,
    /// `running`, `paused`, `aborted` or `done`.
    pub state: String,
    /// Counts from 1; the one that it had come to, of a shift that has ended.
    pub step: usize,
    /// Percent of that step.
    pub percent: u32,
    /// Reason that it does not go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
    /// RFC 3339, as are the following.
    pub begun: String,
    /// Moment at which the step or state began.
    pub since: String,
    /// Moment at which the gateway that drives it takes the next step, or ends it; `None`: it does not go on by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due: Option<String>,
    /// Gateway that drives it.
    pub driver: String,
    /// Is set while that gateway cannot be heard: the shift stays as it is.
    pub driver_gone: bool,
    /// Share that the gateway which answers has taken back, whatever the topology says.
    pub taken_back: bool,
    /// The split without the shift.
    pub from: Vec<ArmView>,
    /// Figures on this step, of all gateways together.
    pub requests: u64,
    /// In the order of `abort_if`.
    pub against: Vec<u64>,
    /// The same of each gateway that tells some.
    pub gateways: Vec<ShiftGatewayView>,
}

/// Figures of one gateway on the present step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShiftGatewayView {
    pub gateway: String,
    pub requests: u64,
    pub against: Vec<u64>,
    pub taken_back: bool,
}

/// Says what a shift makes of the split of a service: `shift: 25 % to {version=v2} (step 2 of 4), running`.
#[must_use]
pub fn shift_in_words(snapshot: &Snapshot, name: &ServiceName) -> Option<String> {
    let service = snapshot.topology.services.get(name)?;
    let shift = service.active_shift()?;
    let (percent, to, state) = (shift.percent(), &shift.plan.to, shift.state.word());
    let (step, steps) = (shift.step, shift.plan.steps.len());
    let back = match snapshot.shifts.load().takes_back(name, shift) {
        true => "; this gateway has taken its share back, because its own requests have broken the gate",
        false => "",
    };
    Some(format!(
        "shift: {percent} % to {to} (step {step} of {steps}), {state}{back}"
    ))
}

/// Shows the last shift of each service that has one, as the gateway `own` knows it.
#[must_use]
pub fn shifts(snapshot: &Snapshot, own: &GatewayId) -> Vec<ShiftView> {
    let services = snapshot.topology.services.iter();
    let shifts = services.filter_map(|(name, service)| Some((name, service.shift.as_deref()?)));
    shifts
        .map(|(name, shift)| shift_view(snapshot, own, name, shift))
        .collect()
}

fn shift_view(snapshot: &Snapshot, own: &GatewayId, name: &ServiceName, shift: &Shift) -> ShiftView {
    let figures = figures(snapshot, own, name, shift);
    let all = sum(&shift.plan, figures.iter().map(|(_, figures)| figures));
    let is_active = shift.state.is_active();
    let local = snapshot.shifts.load();
    ShiftView {
        service: name.to_string(),
        to: shift.plan.to.clone(),
        steps: shift.plan.steps.clone(),
        every: humantime::format_duration(shift.plan.every).to_string(),
        abort_if: shift.plan.abort_if.iter().map(GateCondition::to_string).collect(),
        min_requests: shift.plan.min_requests,
        state: shift.state.word().to_owned(),
        step: shift.step,
        percent: shift.percent(),
        because: shift.because.clone(),
        begun: moment(shift.begun),
        since: moment(shift.since),
        due: (shift.state == ShiftState::Running)
            .then(|| shift.due().map(moment))
            .flatten(),
        driver: shift.by.to_string(),
        driver_gone: is_active && !is_heard(snapshot, own, &shift.by),
        taken_back: is_active && local.takes_back(name, shift),
        from: shift
            .from
            .iter()
            .map(|arm| ArmView {
                tags: arm.tags.clone(),
                weight: arm.weight,
            })
            .collect(),
        requests: all.requests,
        against: all.against,
        gateways: figures
            .into_iter()
            .map(|(gateway, figures)| ShiftGatewayView {
                gateway: gateway.to_string(),
                requests: figures.requests,
                against: figures.against,
                taken_back: figures.taken_back,
            })
            .collect(),
    }
}

fn is_heard(snapshot: &Snapshot, own: &GatewayId, driver: &GatewayId) -> bool {
    let entry = snapshot.catalog.entry(driver);
    driver == own || entry.is_some_and(|entry| entry.age == Age::Fresh)
}

/// Figures that are known here on the present step of a shift, those of the gateway `own` first.
fn figures(
    snapshot: &Snapshot,
    own: &GatewayId,
    name: &ServiceName,
    shift: &Shift,
) -> Vec<(GatewayId, ShiftFigures)> {
    if !shift.state.is_active() {
        return Vec::new();
    }
    let step = ShiftStepNumber::of(name, shift);
    snapshot.shift_figures(own, name, step)
}
