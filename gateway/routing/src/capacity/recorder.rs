//! Loads as clients asked for them, before any arm was drawn: what `causeway get loads` shows, and `causeway simulate` takes.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use causeway_federation::{
    name::{ServiceName, Tags},
    topology::Criticality,
};

use super::DemandedRate;

/// Time over which a load is a mean, or a little less.
const WINDOW: Duration = Duration::from_secs(60);
/// Time between two counts that are kept.
const MARKED_EVERY: Duration = Duration::from_secs(10);
/// Times shorter than this say nothing of a rate.
const SHORTEST: Duration = Duration::from_millis(500);

type LoadKey = (ServiceName, Tags, Criticality);
type LoadCounts = BTreeMap<LoadKey, u64>;

/// Mean rate of something that clients ask for.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordedLoad {
    pub rate: DemandedRate,
    /// Time over which that is the mean.
    pub over: Duration,
}

/// Something that was first seen between two marks.
#[derive(Debug)]
struct BegunLoad {
    /// Time of the look before.
    before: Duration,
    /// Time of the look that found it, and the count then.
    seen: Duration,
    count: u64,
}

/// Counts of the last minute.
#[derive(Debug, Default)]
pub struct LoadRecorder {
    /// The oldest first.
    marks: VecDeque<(Duration, LoadCounts)>,
    /// Keys that were first seen since the newest of them, with that look, and the time of the one before.
    begun: BTreeMap<LoadKey, BegunLoad>,
    last: Option<(Duration, LoadCounts)>,
}

impl LoadRecorder {
    /// Takes what has been counted until `now`, of any clock that never goes back.
    pub fn look(&mut self, now: Duration, counts: Vec<(ServiceName, Tags, Criticality, u64)>) {
        let counts: LoadCounts = counts
            .into_iter()
            .map(|(service, tags, criticality, count)| ((service, tags, criticality), count))
            .collect();
        let is_due = self
            .marks
            .back()
            .is_none_or(|(marked, _)| now.saturating_sub(*marked) >= MARKED_EVERY);
        if is_due {
            self.marks.push_back((now, counts.clone()));
            self.begun.clear();
        } else if let Some((before, known)) = &self.last {
            let new = counts.iter().filter(|(key, _)| !known.contains_key(key));
            let begun = |(key, count): (&LoadKey, &u64)| {
                let begun = BegunLoad {
                    before: *before,
                    seen: now,
                    count: *count,
                };
                (key.clone(), begun)
            };
            self.begun.extend(new.map(begun));
        }
        while self
            .marks
            .front()
            .is_some_and(|(marked, _)| now.saturating_sub(*marked) > WINDOW)
        {
            self.marks.pop_front();
        }
        self.last = Some((now, counts));
    }

    /// Mean rates over the last minute, or since something was first seen to be asked for in it; the highest first.
    #[must_use]
    pub fn loads(&self) -> Vec<RecordedLoad> {
        let Some((until, counts)) = &self.last else {
            return Vec::new();
        };
        let load = |(key, count): (&LoadKey, &u64)| {
            let (begun, before) = self.before(key, *until)?;
            let over = until.saturating_sub(begun);
            let (service, tags, criticality) = key.clone();
            // One that was forgotten meanwhile has begun at 0.
            let more = count.checked_sub(before).unwrap_or(*count);
            (over >= SHORTEST && more > 0).then(|| RecordedLoad {
                rate: DemandedRate {
                    service,
                    tags,
                    criticality,
                    per_second: counted(more) / over.as_secs_f64(),
                },
                over,
            })
        };
        let mut loads: Vec<RecordedLoad> = counts.iter().filter_map(load).collect();
        loads.sort_by(|a, b| b.rate.per_second.total_cmp(&a.rate.per_second));
        loads
    }

    /// The first count of something that is kept, and its time; of what began since the last mark, that of the look that found it. Where that
    /// has just been, it has begun after the look before, nobody knows when.
    fn before(&self, key: &LoadKey, until: Duration) -> Option<(Duration, u64)> {
        let mut marks = self.marks.iter();
        let known = marks.find_map(|(marked, counts)| Some((*marked, *counts.get(key)?)));
        known.or_else(|| {
            let begun = self.begun.get(key)?;
            Some(match until.saturating_sub(begun.seen) >= SHORTEST {
                true => (begun.seen, begun.count),
                false => (begun.before, 0),
            })
        })
    }
}

#[expect(clippy::cast_precision_loss, reason = "a count of a minute fits a float")]
fn counted(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testbed::service;

    #[test]
    fn a_load_is_the_mean_of_the_last_minute() {
        let mut recorder = LoadRecorder::default();
        let mut count = 0;
        let mut look = |recorder: &mut LoadRecorder, second: u64, per_second: u64| {
            count += per_second;
            let counts = vec![(service("orders"), Tags::default(), Criticality::Normal, count)];
            recorder.look(Duration::from_secs(second), counts);
        };
        let rate = |recorder: &LoadRecorder| {
            let loads = recorder.loads();
            loads
                .first()
                .map(|load| (load.over.as_secs(), load.rate.per_second))
        };
        look(&mut recorder, 0, 0);
        assert_eq!(rate(&recorder), None, "one look says nothing");
        for second in 1..=5 {
            look(&mut recorder, second, 100);
        }
        assert_eq!(rate(&recorder), Some((5, 100.0)));
        for second in 6..=200 {
            look(&mut recorder, second, 40);
        }
        assert_eq!(rate(&recorder), Some((60, 40.0)), "what was before has gone");
        for second in 201..=270 {
            look(&mut recorder, second, 0);
        }
        assert_eq!(rate(&recorder), None);
    }

    #[test]
    fn what_began_a_moment_ago_is_not_taken_for_less() {
        let mut recorder = LoadRecorder::default();
        for second in 0..=45 {
            // That of `late` is between two marks, and in the middle between two looks; that of `now` has just been found.
            let counts = [("orders", 250), ("late", 425), ("now", 440)].map(|(name, begun)| {
                let count = 10 * u64::saturating_sub(second * 10, begun);
                (service(name), Tags::default(), Criticality::Normal, count)
            });
            let counts = counts.into_iter().filter(|counted| counted.3 > 0).collect();
            recorder.look(Duration::from_secs(second), counts);
        }
        let loads = recorder.loads();
        let loads: Vec<_> = loads
            .iter()
            .map(|load| {
                let rate = &load.rate;
                (rate.service.as_str(), load.over.as_secs(), rate.per_second)
            })
            .collect();
        assert_eq!(
            loads,
            [("late", 2, 100.0), ("now", 1, 100.0), ("orders", 15, 100.0)]
        );
    }

    #[test]
    fn one_that_was_forgotten_begins_anew() {
        let mut recorder = LoadRecorder::default();
        for (second, count) in [(0, 1000), (5, 20)] {
            let counts = vec![(service("orders"), Tags::default(), Criticality::Normal, count)];
            recorder.look(Duration::from_secs(second), counts);
        }
        assert_eq!(recorder.loads()[0].rate.per_second, 4.0);
    }
}
