//! Counts of what clients asked for and got, service by service, since they were last taken: for the figures of each minute.
//!
//! A count takes a lock for some tens of nanoseconds, which whoever takes the counts holds no longer.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::Duration,
};

use causeway_federation::name::{ServiceName, Tags, ZoneName};
use causeway_routing::route::Why;
use parking_lot::Mutex;

use super::{AccessRecord, ConnectionOutcome, OutcomeSide, Role};

/// Parts of the table, so that threads seldom want the same one.
const SHARDS: usize = 16;
/// Services in one part; a topology has 10,000 at most.
const MAX_SERVICES_OF_SHARD: usize = 1_024;
/// Places that are told apart of one service.
const MAX_PLACES: usize = 32;
/// Steps in which waits are counted, each half as long again as the one before.
const STEPS: usize = 40;
const FIRST_STEP: Duration = Duration::from_micros(100);
const STEP_FACTOR: f64 = 1.5;

/// Place that connections or requests went to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServedPlace {
    pub zone: ZoneName,
    pub tags: Tags,
}

/// Counts of one service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceCounts {
    /// All that ended: connections, or with HTTP requests.
    pub ended: u64,
    pub ok: u64,
    pub failed: u64,
    /// For want of capacity.
    pub shed: u64,
    /// By permissions and limits.
    pub refused: u64,
    pub waits: WaitCounts,
    /// At most 32; what goes elsewhere is in none.
    pub places: BTreeMap<ServedPlace, u64>,
}

/// Counts of waits by how long they were, so that sums of several keep their percentiles.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WaitCounts(Vec<u64>);

impl WaitCounts {
    fn add(&mut self, wait: Duration) {
        let steps = (wait.as_secs_f64() / FIRST_STEP.as_secs_f64()).max(1.0);
        let step = steps.log(STEP_FACTOR).ceil();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is from 0 to some 60"
        )]
        let step = (step as usize).min(STEPS - 1);
        if self.0.len() <= step {
            self.0.resize(step + 1, 0);
        }
        self.0[step] += 1;
    }

    fn plus(&mut self, other: &Self) {
        self.0.resize(self.0.len().max(other.0.len()), 0);
        for (sum, count) in self.0.iter_mut().zip(&other.0) {
            *sum += count;
        }
    }

    /// Wait that so many percent were no longer than, to a step of half its length; `None`: nobody waited.
    #[must_use]
    pub fn percentile(&self, percent: u64) -> Option<Duration> {
        let all: u64 = self.0.iter().sum();
        let wanted = (all * percent).div_ceil(100).max(1);
        let mut seen = 0;
        for (step, count) in (0..).zip(&self.0) {
            seen += count;
            if seen >= wanted && all > 0 {
                return Some(FIRST_STEP.mul_f64(STEP_FACTOR.powi(step)));
            }
        }
        None
    }
}

impl ServiceCounts {
    fn add(&mut self, record: &AccessRecord) {
        self.ended += 1;
        let status = record.request.as_ref().and_then(|request| request.status);
        match (record.outcome, record.outcome.side()) {
            (ConnectionOutcome::Unrouted(Why::Shed), _) => self.shed += 1,
            (ConnectionOutcome::RateLimited, _) | (_, Some(OutcomeSide::Permission)) => self.refused += 1,
            (_, None) if status.is_none_or(|status| status < 500) => self.ok += 1,
            // Whoever leaves has not been failed.
            (_, Some(OutcomeSide::Client)) => {}
            (_, _) => self.failed += 1,
        }
        if let Some(wait) = record.ready_after {
            self.waits.add(wait);
        }
        if let (Some(zone), Some(_)) = (&record.to_zone, record.ready_after) {
            let place = ServedPlace {
                zone: zone.clone(),
                tags: record.tags.clone(),
            };
            if self.places.len() < MAX_PLACES || self.places.contains_key(&place) {
                *self.places.entry(place).or_default() += 1;
            }
        }
    }

    /// Adds those of another service.
    pub fn plus(&mut self, other: &Self) {
        self.ended += other.ended;
        self.ok += other.ok;
        self.failed += other.failed;
        self.shed += other.shed;
        self.refused += other.refused;
        self.waits.plus(&other.waits);
    }
}

/// The counts of all services.
#[derive(Debug, Default)]
pub struct MinuteBoard([Mutex<BTreeMap<ServiceName, ServiceCounts>>; SHARDS]);

impl MinuteBoard {
    /// Counts a connection or request that ended at the gateway that its client connected to.
    pub fn count(&self, record: &AccessRecord) {
        if record.role != Role::Egress {
            return;
        }
        let mut hasher = DefaultHasher::new();
        record.service.hash(&mut hasher);
        #[expect(clippy::cast_possible_truncation, reason = "the lowest bits are wanted")]
        let shard = hasher.finish() as usize % SHARDS;
        let mut services = self.0[shard].lock();
        if let Some(counts) = services.get_mut(&record.service) {
            counts.add(record);
        } else if services.len() < MAX_SERVICES_OF_SHARD {
            services.entry(record.service.clone()).or_default().add(record);
        }
    }

    /// Takes the counts; they begin anew.
    #[must_use]
    pub fn take(&self) -> BTreeMap<ServiceName, ServiceCounts> {
        let taken = self.0.iter().map(|shard| std::mem::take(&mut *shard.lock()));
        taken.flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_within_half_of_what_was_waited() {
        let mut waits = WaitCounts::default();
        assert_eq!(waits.percentile(50), None);
        for milliseconds in 1..=100 {
            waits.add(Duration::from_millis(milliseconds));
        }
        for (percent, expected) in [(50, 50.0), (95, 95.0), (99, 99.0)] {
            let found = waits.percentile(percent).unwrap().as_secs_f64() * 1000.0;
            assert!((expected..expected * 1.5).contains(&found), "p{percent}: {found}");
        }
        let mut long = WaitCounts::default();
        long.add(Duration::from_secs(1_000_000));
        long.add(Duration::ZERO);
        assert_eq!(long.percentile(1), Some(FIRST_STEP));
        assert!(long.percentile(99).unwrap() > Duration::from_secs(60));
        long.plus(&waits);
        assert_eq!(long.0.iter().sum::<u64>(), 102);
    }
}
