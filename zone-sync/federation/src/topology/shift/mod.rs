//! Shifts: the gradual move of a service's traffic to one set of tags, as the topology holds it.
//!
//! While a shift is under way it lies over the service's own `split`, which is where it began and where an abort goes back to. What
//! becomes of a shift next is decided in `causeway-routing`; here is its state, and the steps from one state to the next.

mod gate;
mod plan;
mod shares;
#[cfg(test)]
mod tests;

pub use gate::{GateCondition, GateConditionError, JudgedEnd};
pub use plan::{
    DEFAULT_MIN_REQUESTS, MAX_GATE_CONDITIONS, MAX_MIN_REQUESTS, MAX_SHIFT_STEPS, SHIFT_INTERVALS, ShiftPlan,
    ShiftRefusal,
};

use std::{fmt, time::SystemTime};

use super::model::{Service, SplitArm, Topology};
use crate::name::{GatewayId, ServiceName};

/// Longest reason, in bytes.
pub const MAX_REASON_BYTES: usize = 200;

/// Move of a service's traffic to `to`, step by step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shift {
    pub plan: ShiftPlan,
    pub state: ShiftState,
    /// Counts from 1.
    pub step: usize,
    /// Moment at which it was begun, which tells it from others of the service.
    pub begun: SystemTime,
    /// Moment at which the step began, by the clock of the gateway that drives it.
    pub since: SystemTime,
    /// Moment at which somebody last had it go on.
    pub resumed: Option<SystemTime>,
    /// Gateway that drives it.
    pub by: GatewayId,
    /// Reason that it does not go on.
    pub because: Option<String>,
    /// The split of the service under it.
    pub from: Vec<SplitArm>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShiftState {
    Running,
    /// It stays at its step.
    Paused,
    /// The split is what it was before.
    Aborted,
    /// The split is that of its last step.
    Done,
}

impl ShiftState {
    /// The word in the file.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Aborted => "aborted",
            Self::Done => "done",
        }
    }

    /// Tells whether it lies over the split.
    #[must_use]
    pub fn is_active(self) -> bool {
        matches!(self, Self::Running | Self::Paused)
    }
}

impl Shift {
    /// Begins one of this service, at its first step.
    ///
    /// # Errors
    /// Says why not.
    pub fn begin(
        service: &Service,
        plan: ShiftPlan,
        by: GatewayId,
        now: SystemTime,
    ) -> Result<Self, ShiftRefusal> {
        plan.check()?;
        plan.check_for(service)?;
        Ok(Self {
            from: service.split.clone(),
            plan,
            state: ShiftState::Running,
            step: 1,
            begun: now,
            since: now,
            resumed: None,
            by,
            because: None,
        })
    }

    /// Percent for `to` at its step.
    #[must_use]
    pub fn percent(&self) -> u32 {
        let last = self.plan.steps.last();
        let step = self.plan.steps.get(self.step.saturating_sub(1)).or(last);
        step.copied().unwrap_or_default()
    }

    /// The split at its step.
    #[must_use]
    pub fn split(&self) -> Vec<SplitArm> {
        shares::shifted(&self.from, &self.plan.to, self.percent())
    }

    /// Percent of the next step; `None`: there is none.
    #[must_use]
    pub fn next_percent(&self) -> Option<u32> {
        self.plan.steps.get(self.step).copied()
    }

    /// Moment of the next step.
    #[must_use]
    pub fn due(&self) -> Option<SystemTime> {
        self.since.checked_add(self.plan.every)
    }

    /// At its next step.
    #[must_use]
    pub fn advanced(&self, now: SystemTime) -> Self {
        Self {
            step: (self.step + 1).min(self.plan.steps.len()),
            since: now,
            because: None,
            ..self.clone()
        }
    }

    /// After its last step.
    #[must_use]
    pub fn done(&self, now: SystemTime) -> Self {
        Self {
            state: ShiftState::Done,
            since: now,
            because: None,
            ..self.clone()
        }
    }

    /// # Errors
    /// When it has ended.
    pub fn paused(&self, now: SystemTime, because: &str) -> Result<Self, ShiftRefusal> {
        self.changed(ShiftState::Paused, now, Some(because))
    }

    /// # Errors
    /// When it has ended.
    pub fn aborted(&self, now: SystemTime, because: &str) -> Result<Self, ShiftRefusal> {
        self.changed(ShiftState::Aborted, now, Some(because))
    }

    /// Goes on from its step, whose time begins anew, driven by another gateway or the same.
    ///
    /// # Errors
    /// When it has ended.
    pub fn resumed(&self, now: SystemTime, by: GatewayId) -> Result<Self, ShiftRefusal> {
        Ok(Self {
            by,
            resumed: Some(now),
            ..self.changed(ShiftState::Running, now, None)?
        })
    }

    fn changed(
        &self,
        state: ShiftState,
        now: SystemTime,
        because: Option<&str>,
    ) -> Result<Self, ShiftRefusal> {
        if !self.state.is_active() {
            let to = self.plan.to.clone();
            return Err(ShiftRefusal::Ended {
                to,
                state: self.state,
            });
        }
        Ok(Self {
            state,
            since: now,
            because: because.map(fitting),
            ..self.clone()
        })
    }
}

/// A reason as the file may hold it: short, and of one line.
fn fitting(because: &str) -> String {
    let mut reason = String::new();
    for character in because.chars().filter(|character| !character.is_control()) {
        if reason.len() + character.len_utf8() > MAX_REASON_BYTES {
            break;
        }
        reason.push(character);
    }
    reason
}

/// Services that `after` changes, and that are under a shift before or afterwards.
pub(super) fn under_shift(before: Option<&Topology>, after: &Topology) -> Vec<ServiceName> {
    let before = before.map(|before| &before.services);
    let known = |name: &ServiceName| before.and_then(|services| services.get(name));
    let is_active =
        |service: Option<&Service>| service.is_some_and(|service| service.active_shift().is_some());
    let names = before.into_iter().flatten().map(|(name, _)| name);
    let mut names: Vec<&ServiceName> = names.chain(after.services.keys()).collect();
    names.sort_unstable();
    names.dedup();
    let changed = names.into_iter().filter(|name| {
        let (before, after) = (known(name), after.services.get(*name));
        (is_active(before) || is_active(after)) && before != after
    });
    changed.cloned().collect()
}

/// RFC 3339, in UTC, to the millisecond.
pub(super) fn moment(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}

/// All of it: `to {version=v2} by 5, 25 % every 5m; step 1 (5 %), running since …, driven by east/gw1`.
impl fmt::Display for Shift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ShiftPlan {
            to,
            steps,
            every,
            abort_if,
            min_requests,
        } = &self.plan;
        let steps: Vec<String> = steps.iter().map(ToString::to_string).collect();
        let every = humantime::format_duration(*every);
        write!(f, "to {to} by {} % every {every}", steps.join(", "))?;
        for condition in abort_if {
            write!(f, ", abort if {condition}")?;
        }
        write!(
            f,
            ", {min_requests} requests at least; begun {}",
            moment(self.begun)
        )?;
        let (state, step, percent) = (self.state.word(), self.step, self.percent());
        write!(
            f,
            "; step {step} ({percent} %), {state} since {}",
            moment(self.since)
        )?;
        if let Some(because) = &self.because {
            write!(f, " ({because})")?;
        }
        if let Some(resumed) = self.resumed {
            write!(f, ", resumed {}", moment(resumed))?;
        }
        write!(f, ", driven by {}", self.by)
    }
}
