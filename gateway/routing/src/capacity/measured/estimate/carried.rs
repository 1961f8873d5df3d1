//! Estimates that another process goes on with, whose clock has another beginning.

use std::time::Duration;

use causeway_federation::{
    catalog::ExportKey,
    name::{ServiceName, Tags},
};
use serde::{Deserialize, Serialize};

use super::{BoundPhase, CapacityBound, CapacityEstimate, JudgedAnswers, PAUSES, STEPS};
use crate::capacity::{measured::MAX_LATENCY, table::MAX_RATE};

/// Estimate of what the instances of one export can take, as another process goes on with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CarriedEstimate {
    pub service: ServiceName,
    /// Tags of the instances.
    pub tags: Tags,
    /// Low-water marks of latency in seconds, and of the share of refusals.
    #[serde(default)]
    pub low: Option<f64>,
    #[serde(default)]
    pub usual: f64,
    /// The most that was answered in a second lately.
    #[serde(default)]
    pub peak: f64,
    #[serde(default)]
    pub bound: Option<CarriedBound>,
}

/// Bound of what is given away. Times are in milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CarriedBound {
    pub per_second: f64,
    /// Requests that are given away now.
    pub given: f64,
    pub phase: CarriedPhase,
    pub since_ago: u64,
    pub step: f64,
    pub pause: u64,
    pub needed_ago: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CarriedPhase {
    Draining {
        well_per_second: f64,
        #[serde(default)]
        latency: Option<f64>,
        refused: f64,
        settled: u32,
    },
    Holding,
    Trying,
}

impl CarriedEstimate {
    /// Time since the first moment that it tells of: a clock that goes on with it must have run for so long.
    #[must_use]
    pub fn age(&self) -> Duration {
        let bound = self.bound.iter();
        let ages = bound.flat_map(|bound| [bound.since_ago, bound.needed_ago]);
        Duration::from_millis(ages.max().unwrap_or_default())
    }

    /// Tells whether all of it can be so.
    fn is_believed(&self) -> bool {
        let is_rate = |rate: f64| (0.0..=MAX_RATE).contains(&rate);
        let is_share = |share: f64| (0.0..=1.0).contains(&share);
        let is_latency = |latency: Option<f64>| latency.is_none_or(|one| (0.0..=MAX_LATENCY).contains(&one));
        let is_bound = |bound: &CarriedBound| {
            let phase = match &bound.phase {
                CarriedPhase::Draining {
                    well_per_second,
                    latency,
                    refused,
                    ..
                } => is_rate(*well_per_second) && is_latency(*latency) && is_share(*refused),
                CarriedPhase::Holding | CarriedPhase::Trying => true,
            };
            let rates = [bound.per_second, bound.given];
            phase && rates.iter().all(|rate| *rate > 0.0 && is_rate(*rate)) && is_share(bound.step)
        };
        is_latency(self.low)
            && is_share(self.usual)
            && is_rate(self.peak)
            && self.bound.as_ref().is_none_or(is_bound)
    }
}

impl CapacityEstimate {
    /// State for another process; `None`: nothing was learned yet.
    pub(in crate::capacity::measured) fn carried(
        &self,
        now: Duration,
        (service, tags): &ExportKey,
    ) -> Option<CarriedEstimate> {
        if self.low.is_none() && self.bound.is_none() {
            return None;
        }
        Some(CarriedEstimate {
            service: service.clone(),
            tags: tags.clone(),
            low: self.low,
            usual: self.usual,
            peak: self.peak,
            bound: self.bound.map(|bound| bound.carried(now)),
        })
    }

    /// Goes on with what another process knew; `None`: it cannot be so. `now` is of a clock that has run for as long as its
    /// [age](CarriedEstimate::age).
    pub(in crate::capacity::measured) fn carrying_on(now: Duration, from: &CarriedEstimate) -> Option<Self> {
        from.is_believed().then(|| Self {
            low: from.low,
            usual: from.usual,
            peak: from.peak,
            bound: from
                .bound
                .as_ref()
                .map(|bound| CapacityBound::carrying_on(now, bound)),
            ..Self::default()
        })
    }
}

impl CapacityBound {
    fn carried(self, now: Duration) -> CarriedBound {
        let ago = |at: Duration| millis(now.saturating_sub(at));
        CarriedBound {
            per_second: self.per_second,
            given: self.given,
            phase: match self.phase {
                BoundPhase::Draining { before, settled } => CarriedPhase::Draining {
                    well_per_second: before.well_per_second,
                    latency: before.latency,
                    refused: before.refused,
                    settled,
                },
                BoundPhase::Holding => CarriedPhase::Holding,
                BoundPhase::Trying => CarriedPhase::Trying,
            },
            since_ago: ago(self.since),
            step: self.step,
            pause: millis(self.pause),
            needed_ago: ago(self.needed),
        }
    }

    fn carrying_on(now: Duration, from: &CarriedBound) -> Self {
        let at = |ago: u64| now.saturating_sub(Duration::from_millis(ago));
        Self {
            per_second: from.per_second,
            given: from.given,
            phase: match from.phase {
                CarriedPhase::Draining {
                    well_per_second,
                    latency,
                    refused,
                    settled,
                } => BoundPhase::Draining {
                    before: JudgedAnswers {
                        well_per_second,
                        latency,
                        refused,
                    },
                    settled,
                },
                CarriedPhase::Holding => BoundPhase::Holding,
                CarriedPhase::Trying => BoundPhase::Trying,
            },
            since: at(from.since_ago),
            step: from.step.clamp(STEPS.0, STEPS.1),
            pause: Duration::from_millis(from.pause).clamp(PAUSES.0, PAUSES.1),
            needed: at(from.needed_ago),
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
