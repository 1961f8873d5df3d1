//! Counts of answers, written by the data path without a lock.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use causeway_federation::name::{ServiceName, Tags, ZoneName};

use super::MAX_MEASURED;

/// Most tags of one service in one zone that are measured apart; others are not measured.
const MAX_TAGS: usize = 64;
/// Looks without a new answer after which a place is forgotten: a minute.
const FORGOTTEN_AFTER: u64 = 60;
/// Upper end of the first bucket of latencies in microseconds; two of them are twice as far.
const FIRST_BUCKET: f64 = 100.0;
const BUCKETS: usize = 48;

/// Answers that one look found of a place: instances of a service in a zone with some tags.
#[derive(Debug, Clone, PartialEq)]
pub struct CountedAnswers {
    pub service: ServiceName,
    pub zone: ZoneName,
    /// Tags that an instance had to carry.
    pub tags: Tags,
    /// Answers since the look before.
    pub well: u64,
    pub refused: u64,
    /// Median time to those that were well; 0 without any.
    pub latency: Duration,
    /// Requests that have no answer now.
    pub in_flight: u64,
}

type MeasuredPlaces = BTreeMap<ServiceName, BTreeMap<ZoneName, BTreeMap<Tags, Arc<AnswerCounts>>>>;

/// Meter of the answers that the clients of this gateway have of services whose capacity is measured.
#[derive(Debug, Default)]
pub struct AnswerMeter(ArcSwap<MeasuredPlaces>);

#[derive(Debug)]
struct AnswerCounts {
    /// Since the last look.
    refused: AtomicU64,
    well: [AtomicU64; BUCKETS],
    /// Those of which the time says nothing: they came before the whole request had been sent.
    untimed: AtomicU64,
    in_flight: AtomicU64,
    idle: AtomicU64,
    /// Microseconds to the zone and back, as of the last look.
    way: AtomicU64,
}

impl Default for AnswerCounts {
    fn default() -> Self {
        Self {
            refused: AtomicU64::default(),
            well: std::array::from_fn(|_| AtomicU64::default()),
            untimed: AtomicU64::default(),
            in_flight: AtomicU64::default(),
            idle: AtomicU64::default(),
            way: AtomicU64::default(),
        }
    }
}

/// Request that was given to an instance. Dropped before `heard` it had no answer.
#[derive(Debug)]
pub struct AwaitedAnswer {
    counts: Arc<AnswerCounts>,
    is_heard: bool,
    /// Time from the whole request to the answer.
    took: Option<Duration>,
}

impl AnswerMeter {
    /// Counts a request that is given to an instance; `None`: there is no place for more.
    #[must_use]
    pub fn given(&self, service: &ServiceName, zone: &ZoneName, tags: &Tags) -> Option<AwaitedAnswer> {
        let find = |places: &MeasuredPlaces| places.get(service)?.get(zone)?.get(tags).cloned();
        let known = find(&self.0.load());
        let counts = known.or_else(|| {
            if !has_room(&self.0.load(), service, zone) {
                return None;
            }
            // Once for each place, until it is forgotten.
            self.0.rcu(|places| {
                let mut places = MeasuredPlaces::clone(places);
                if has_room(&places, service, zone) {
                    let of_zone = places.entry(service.clone()).or_default();
                    let of_tags = of_zone.entry(zone.clone()).or_default();
                    of_tags.entry(tags.clone()).or_default();
                }
                places
            });
            find(&self.0.load())
        })?;
        counts.in_flight.fetch_add(1, Ordering::Relaxed);
        Some(AwaitedAnswer {
            counts,
            is_heard: false,
            took: None,
        })
    }

    /// All counts, at one of the looks that are taken each second: those of services that `keeps` does not name are forgotten, and those of
    /// places that have given no answer in a while. `way_to` tells the time to a zone and back, for which its instances are not to blame: it is
    /// left out of the latency of what is answered from here on.
    pub fn counts(
        &self,
        keeps: impl Fn(&ServiceName) -> bool,
        way_to: impl Fn(&ZoneName) -> Duration,
    ) -> Vec<CountedAnswers> {
        let places = self.0.load_full();
        let (mut all, mut forgets) = (Vec::new(), false);
        for (service, zone, tags, counts) in each(&places) {
            let counted = counts.take(service, zone, tags);
            counts.way.store(micros(way_to(zone)), Ordering::Relaxed);
            let is_idle = counted.well + counted.refused + counted.in_flight == 0;
            let idle = match is_idle {
                true => counts.idle.load(Ordering::Relaxed) + 1,
                false => 0,
            };
            counts.idle.store(idle, Ordering::Relaxed);
            forgets |= idle >= FORGOTTEN_AFTER || !keeps(service);
            if !is_idle && keeps(service) {
                all.push(counted);
            }
        }
        if forgets {
            self.0.rcu(|places| {
                let mut places = MeasuredPlaces::clone(places);
                for of_tags in places.values_mut().flat_map(BTreeMap::values_mut) {
                    of_tags.retain(|_, counts| counts.idle.load(Ordering::Relaxed) < FORGOTTEN_AFTER);
                }
                places.retain(|service, _| keeps(service));
                places
            });
        }
        all
    }
}

fn each(places: &MeasuredPlaces) -> impl Iterator<Item = (&ServiceName, &ZoneName, &Tags, &AnswerCounts)> {
    places.iter().flat_map(|(service, zones)| {
        zones.iter().flat_map(move |(zone, of_tags)| {
            let of_tags = of_tags.iter();
            of_tags.map(move |(tags, counts)| (service, zone, tags, &**counts))
        })
    })
}

fn has_room(places: &MeasuredPlaces, service: &ServiceName, zone: &ZoneName) -> bool {
    let of_zone = places.get(service).and_then(|zones| zones.get(zone));
    let all = places.values().flat_map(BTreeMap::values).map(BTreeMap::len);
    of_zone.map_or(0, BTreeMap::len) < MAX_TAGS && all.sum::<usize>() < MAX_MEASURED
}

impl AnswerCounts {
    fn take(&self, service: &ServiceName, zone: &ZoneName, tags: &Tags) -> CountedAnswers {
        let well = self.well.each_ref().map(|count| count.swap(0, Ordering::Relaxed));
        CountedAnswers {
            service: service.clone(),
            zone: zone.clone(),
            tags: tags.clone(),
            well: well.iter().sum::<u64>() + self.untimed.swap(0, Ordering::Relaxed),
            refused: self.refused.swap(0, Ordering::Relaxed),
            latency: median(&well),
            in_flight: self.in_flight.load(Ordering::Relaxed),
        }
    }
}

impl AwaitedAnswer {
    /// Its answer has begun, so long after the whole request was sent; `None`: before that.
    pub fn heard(&mut self, sent_ago: Option<Duration>) {
        self.took = sent_ago;
        self.ends();
    }

    fn ends(&mut self) {
        if !std::mem::replace(&mut self.is_heard, true) {
            self.counts.in_flight.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// It was answered well.
    pub fn well(&self) {
        let way = Duration::from_micros(self.counts.way.load(Ordering::Relaxed));
        let count = match self.took {
            Some(took) => &self.counts.well[bucket(took.saturating_sub(way))],
            None => &self.counts.untimed,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// It was told that there is too much to do, or nothing came.
    pub fn refused(&self) {
        self.counts.refused.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for AwaitedAnswer {
    fn drop(&mut self) {
        self.ends();
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it is no longer than the table"
)]
fn bucket(took: Duration) -> usize {
    let times = (took.as_secs_f64() * 1e6 / FIRST_BUCKET).max(1.0);
    ((times.log2() * 2.0) as usize).min(BUCKETS - 1)
}

/// Time below which half of them were, as if they lay evenly in their bucket.
#[expect(clippy::cast_precision_loss, reason = "counts of a second fit a float")]
fn median(counts: &[u64; BUCKETS]) -> Duration {
    let half = counts.iter().sum::<u64>() as f64 / 2.0;
    if half == 0.0 {
        return Duration::ZERO;
    }
    let mut before = 0.0;
    for (place, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        let count = *count as f64;
        if before + count >= half {
            let at = place as f64 + (half - before) / count;
            return Duration::from_secs_f64(FIRST_BUCKET * (at / 2.0).exp2() / 1e6);
        }
        before += count;
    }
    Duration::ZERO
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testbed::{service, tags, zone};

    #[test]
    fn answers_are_counted_once_and_a_median_is_near() {
        let meter = AnswerMeter::default();
        let none = tags(&[]);
        let give = || meter.given(&service("orders"), &zone("west"), &none).unwrap();
        for millis in 1..=99 {
            let mut given = give();
            given.heard(Some(Duration::from_millis(millis)));
            given.well();
        }
        give().refused();
        let (waits, gone) = (give(), give());
        drop(gone);
        let counts = meter.counts(|_| true, |_| Duration::ZERO);
        let [counted] = &counts[..] else {
            panic!("{counts:?}")
        };
        assert_eq!((counted.well, counted.refused, counted.in_flight), (99, 1, 1));
        let median = counted.latency.as_secs_f64();
        assert!((0.045..0.056).contains(&median), "{median}");
        assert_eq!(
            meter.counts(|_| true, |_| Duration::ZERO)[0].well,
            0,
            "they are told once"
        );
        drop(waits);
        assert_eq!(meter.counts(|_| true, |_| Duration::ZERO), []);
    }

    #[test]
    fn the_way_is_no_part_of_the_latency_and_a_slow_client_neither() {
        let (meter, none) = (AnswerMeter::default(), tags(&[]));
        let answered = |sent_ago: Option<u64>| {
            let mut given = meter.given(&service("orders"), &zone("west"), &none).unwrap();
            given.heard(sent_ago.map(Duration::from_millis));
            given.well();
        };
        answered(Some(500));
        let look = || meter.counts(|_| true, |_| Duration::from_millis(48));
        look();
        for millis in [49, 50, 51, 53, 60] {
            answered(Some(millis));
        }
        answered(None);
        let counted = &look()[0];
        assert_eq!(counted.well, 6);
        let median = counted.latency.as_secs_f64();
        assert!((0.002..0.005).contains(&median), "{median}");
    }

    #[test]
    fn places_have_a_bound_and_are_forgotten() {
        let meter = AnswerMeter::default();
        let give = |name: &str, version: usize| {
            let version = version.to_string();
            let tags = tags(&[("version", version.as_str())]);
            meter.given(&service(name), &zone("west"), &tags)
        };
        let given = (0..500).filter_map(|version| give("noisy", version));
        assert_eq!(given.count(), MAX_TAGS);
        assert!(give("quiet", 0).is_some());
        for _ in 0..FORGOTTEN_AFTER {
            meter.counts(|_| true, |_| Duration::ZERO);
        }
        assert!(give("noisy", 999).is_some(), "the others have gone");
        meter.counts(|name| *name == service("quiet"), |_| Duration::ZERO);
        assert_eq!(each(&meter.0.load()).count(), 0);
    }
}
