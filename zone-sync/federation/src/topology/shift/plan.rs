//! Plan of a shift: what somebody asks for, and why that is refused.

use std::{ops::RangeInclusive, time::Duration};

use super::{GateCondition, ShiftState};
use crate::{
    name::{MAX_TAGS, Tags},
    topology::{
        model::{Service, SplitArm},
        read::is_tag,
        scalar::OWN,
    },
};

/// Most steps of a shift.
pub const MAX_SHIFT_STEPS: usize = 20;
/// Most conditions of its gate. What gateways tell each other of them has to fit a statement of zone sync.
pub const MAX_GATE_CONDITIONS: usize = 4;
/// Times between two steps.
pub const SHIFT_INTERVALS: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(7 * 24 * 3600);
/// Requests without which a gate says nothing, unless the shift says otherwise.
pub const DEFAULT_MIN_REQUESTS: u64 = 100;
/// Most requests that a gate may want: more than any gateway counts in a step.
pub const MAX_MIN_REQUESTS: u64 = 1_000_000_000;
/// Most arms of a split, as in the file.
const MAX_ARMS: usize = 32;

/// Wish of whoever begins a shift.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShiftPlan {
    pub to: Tags,
    /// Percent for `to`, rising.
    pub steps: Vec<u32>,
    pub every: Duration,
    /// Gate: it is aborted when one of these holds.
    pub abort_if: Vec<GateCondition>,
    /// Requests to `to`, in one step, without which the gate says nothing.
    pub min_requests: u64,
}

/// Reason that a shift is not begun, or not changed so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShiftRefusal {
    #[error("the service is under a shift to {0} already")]
    UnderWay(Tags),
    #[error("the service is under no shift")]
    NoShift,
    #[error("the shift to {to} is {}", .state.word())]
    Ended { to: Tags, state: ShiftState },
    #[error("the service has no `split`, so nothing says who has its traffic now")]
    NoSplit,
    #[error(
        "an instance with {to} also belongs to the arm {arm} of the split, so shares would not be what the steps say"
    )]
    Overlap { to: Tags, arm: Tags },
    #[error("{0} has all of the traffic already")]
    NothingElse(Tags),
    #[error("{to} has {has} % of the traffic already, and the first step is {first} %")]
    Backwards { to: Tags, has: u64, first: u32 },
    #[error("the split has {MAX_ARMS} arms already")]
    TooManyArms,
    #[error("the steps have to rise, from 1 to 100, and there are at most {MAX_SHIFT_STEPS}")]
    Steps,
    #[error("the time between two steps is from 1s to 7 days")]
    Every,
    #[error("a gate has at most {MAX_GATE_CONDITIONS} conditions")]
    Conditions,
    #[error("`to` needs a tag")]
    NoTags,
    #[error("`{0}` is not a tag that a topology can hold")]
    BadTag(String),
    #[error("more than {MAX_MIN_REQUESTS} requests in a step are more than any gateway counts")]
    MinRequests,
}

impl ShiftRefusal {
    /// The way out.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::UnderWay(_) => {
                "`causeway shift status SERVICE` shows it; `causeway shift abort SERVICE` ends it"
            }
            Self::NoShift => "`causeway get shifts` lists them",
            Self::Ended { .. } => "begin another one with `causeway shift SERVICE --to …`",
            Self::NoSplit => "apply a topology in which it has one: `split: [{ tags: { version: v1 } }]`",
            Self::Overlap { .. } => {
                "have the arms tell instances apart: `split: [{ tags: { version: v1 } }, { tags: { version: v2 }, weight: 0 }]`"
            }
            Self::NothingElse(_) => {
                "is it the arm that you mean? `causeway get services -o wide` shows the split"
            }
            Self::Backwards { .. } => {
                "begin at a higher step, such as `--steps 50,100`; or move it back by another `--to`"
            }
            Self::TooManyArms => "remove arms that have weight 0",
            Self::Steps => "such as `--steps 5,25,50,100`",
            Self::Every => "such as `--every 5m`",
            Self::Conditions => "such as `--abort-if 'success<99%' --abort-if 'p99>300ms'`",
            Self::NoTags => "such as `--to version=v2`",
            Self::BadTag(_) => {
                "key and value have 1 to 63 of a-z, A-Z, 0-9 and `._/-`, and the value is not `self`"
            }
            Self::MinRequests => "such as `--min-requests 100`",
        }
    }
}

impl ShiftPlan {
    /// # Errors
    /// When it is none that could be written into a topology.
    pub fn check(&self) -> Result<(), ShiftRefusal> {
        if self.to.is_empty() {
            return Err(ShiftRefusal::NoTags);
        }
        let bad = |(key, value): &(&str, &str)| !is_tag(key) || !is_tag(value) || *value == OWN;
        if let Some((key, value)) = self.to.iter().find(bad) {
            let shown: String = format!("{key}={value}").chars().take(80).collect();
            return Err(ShiftRefusal::BadTag(shown.escape_debug().to_string()));
        }
        if self.to.len() > MAX_TAGS {
            return Err(ShiftRefusal::BadTag(format!("{} tags", self.to.len())));
        }
        if self.min_requests > MAX_MIN_REQUESTS {
            return Err(ShiftRefusal::MinRequests);
        }
        let rise = self.steps.is_sorted_by(|a, b| a < b);
        let fits = self.steps.iter().all(|step| (1..=100).contains(step));
        if self.steps.is_empty() || self.steps.len() > MAX_SHIFT_STEPS || !rise || !fits {
            return Err(ShiftRefusal::Steps);
        }
        if !SHIFT_INTERVALS.contains(&self.every) {
            return Err(ShiftRefusal::Every);
        }
        match self.abort_if.len() > MAX_GATE_CONDITIONS {
            true => Err(ShiftRefusal::Conditions),
            false => Ok(()),
        }
    }

    /// # Errors
    /// When it means nothing to that service as it is now.
    pub(super) fn check_for(&self, service: &Service) -> Result<(), ShiftRefusal> {
        if let Some(shift) = service.shift.as_ref().filter(|shift| shift.state.is_active()) {
            return Err(ShiftRefusal::UnderWay(shift.plan.to.clone()));
        }
        let (from, to) = (&service.split, &self.to);
        if matches!(&from[..], [only] if only.tags.is_empty()) {
            return Err(ShiftRefusal::NoSplit);
        }
        let mut others = from.iter().filter(|arm| arm.tags != *to);
        if let Some(arm) = others.clone().find(|arm| to.matches(&arm.tags)) {
            let (to, arm) = (to.clone(), arm.tags.clone());
            return Err(ShiftRefusal::Overlap { to, arm });
        }
        if others.all(|arm| arm.weight == 0) {
            return Err(ShiftRefusal::NothingElse(to.clone()));
        }
        let weight = |arm: &SplitArm| u64::from(arm.weight);
        let total: u64 = from.iter().map(weight).sum();
        let own: u64 = from.iter().filter(|arm| arm.tags == *to).map(weight).sum();
        let first = self.steps.first().copied().unwrap_or_default();
        if own * 100 > u64::from(first) * total {
            let has = (own * 100).div_ceil(total.max(1));
            let to = to.clone();
            return Err(ShiftRefusal::Backwards { to, has, first });
        }
        if own == 0 && from.len() >= MAX_ARMS && !from.iter().any(|arm| arm.tags == *to) {
            return Err(ShiftRefusal::TooManyArms);
        }
        Ok(())
    }
}
