//! Samples of how fast a path delivers (draft-cheng-iccrg-delivery-rate-estimation): what was acknowledged between the sending
//! of a packet and its acknowledgement, by the time that took.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Batches of packets under way that are remembered; with the largest that quinn sends at once, 100 MB. Of what comes on top the
/// oldest are forgotten, which costs samples.
const MAX_BATCHES: usize = 8192;
/// Room for batches that is kept without being used.
const SPARE_BATCHES: usize = 64;

/// Bytes that a path has delivered, and how fast.
#[derive(Debug, Clone, Default)]
pub(super) struct DeliveryRate {
    delivered: u64,
    /// Time of the latest delivery; once nothing is under way, of the first sending after it.
    delivered_at: Option<Instant>,
    /// Time at which the latest packet that was delivered had been sent.
    first_sent_at: Option<Instant>,
    /// Delivered bytes up to which samples tell what was offered to the path and not what it carries.
    limited_until: Option<u64>,
    nothing_under_way: bool,
    under_way: VecDeque<SentBatch>,
    /// The latest batch of which something was acknowledged since the last sample.
    acknowledged: Option<SentBatch>,
}

/// Packets that were sent at one moment, and the state then.
#[derive(Debug, Clone, Copy)]
struct SentBatch {
    at: Instant,
    delivered: u64,
    delivered_at: Instant,
    first_sent_at: Instant,
    limited: bool,
}

/// A measurement over about one round trip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RateSample {
    pub(super) bytes_per_second: u64,
    /// The application offered less than the path might have carried.
    pub(super) limited: bool,
    /// Bytes that had been delivered when the packet was sent that was acknowledged last.
    pub(super) delivered_before: u64,
    /// Time from its sending to its acknowledgement.
    pub(super) round_trip: Duration,
}

impl DeliveryRate {
    pub(super) fn delivered(&self) -> u64 {
        self.delivered
    }

    pub(super) fn on_sent(&mut self, now: Instant) {
        if self.under_way.back().is_some_and(|batch| batch.at == now) {
            return;
        }
        let fresh = self.nothing_under_way;
        let delivered_at = self.delivered_at.filter(|_| !fresh).unwrap_or(now);
        let first_sent_at = self.first_sent_at.filter(|_| !fresh).unwrap_or(now);
        (self.delivered_at, self.first_sent_at) = (Some(delivered_at), Some(first_sent_at));
        self.nothing_under_way = false;
        if self.under_way.len() >= MAX_BATCHES {
            self.under_way.pop_front();
        }
        self.under_way.push_back(SentBatch {
            at: now,
            delivered: self.delivered,
            delivered_at,
            first_sent_at,
            limited: self.limited_until.is_some(),
        });
    }

    /// Takes down that `bytes` that were sent at `sent` have been acknowledged.
    pub(super) fn on_acknowledged(&mut self, now: Instant, sent: Instant, bytes: u64) {
        self.delivered += bytes;
        self.delivered_at = Some(now);
        let at = self.under_way.partition_point(|batch| batch.at < sent);
        let batch = self.under_way.get(at).filter(|batch| batch.at == sent);
        if let Some(batch) = batch
            && self.acknowledged.is_none_or(|latest| latest.at <= batch.at)
        {
            self.acknowledged = Some(*batch);
        }
    }

    /// Makes a sample of the acknowledgements that came together; `None` where too little is known.
    pub(super) fn sample(&mut self, now: Instant, in_flight: u64, limited: bool) -> Option<RateSample> {
        if self.limited_until.is_some_and(|until| self.delivered > until) {
            self.limited_until = None;
        }
        if limited {
            self.limited_until = Some(self.delivered + in_flight);
        }
        let latest = self.acknowledged.take();
        if in_flight == 0 {
            self.nothing_under_way = true;
            self.under_way.clear();
        }
        self.forget(now, latest.as_ref());
        let latest = latest?;
        self.first_sent_at = Some(latest.at);
        let sending = latest.at.saturating_duration_since(latest.first_sent_at);
        let delivering = now.saturating_duration_since(latest.delivered_at);
        // Acknowledgements that come in a lump would seem a fast path, and so would packets that are sent in one.
        let interval = sending.max(delivering);
        let bytes = self.delivered - latest.delivered;
        let per_second = u128::from(bytes) * 1_000_000_000 / interval.as_nanos().max(1);
        Some(RateSample {
            bytes_per_second: u64::try_from(per_second).unwrap_or(u64::MAX),
            limited: latest.limited,
            delivered_before: latest.delivered,
            round_trip: now.saturating_duration_since(latest.at),
        })
    }

    /// Forgets what was sent more than a round trip before the packet that was acknowledged last: it is lost.
    fn forget(&mut self, now: Instant, latest: Option<&SentBatch>) {
        if let Some(latest) = latest {
            let round_trip = now.saturating_duration_since(latest.at);
            let old = |batch: &SentBatch| latest.at.saturating_duration_since(batch.at) > round_trip;
            while self.under_way.front().is_some_and(old) {
                self.under_way.pop_front();
            }
        }
        let used = self.under_way.len();
        if self.under_way.capacity() > SPARE_BATCHES.max(4 * used) {
            self.under_way.shrink_to(used.max(SPARE_BATCHES / 2));
        }
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.under_way.capacity()
    }
}

/// The largest of the values of the latest rounds.
#[derive(Debug, Clone, Default)]
pub(super) struct RoundMax {
    /// By round, each value smaller than the one before it.
    values: VecDeque<(u64, u64)>,
}

impl RoundMax {
    /// Rounds after which a value counts no more.
    const ROUNDS: u64 = 10;

    /// The largest value; 0: there is none yet. The last one stays, however old.
    pub(super) fn get(&self) -> u64 {
        self.values.front().map_or(0, |(_, value)| *value)
    }

    pub(super) fn put(&mut self, round: u64, value: u64) {
        while self.values.back().is_some_and(|(_, last)| *last <= value) {
            self.values.pop_back();
        }
        // One value for each round, so that there are never more than rounds that count.
        if self.values.back().is_none_or(|(last, _)| *last < round) {
            self.values.push_back((round, value));
        }
        while self.values.len() > 1
            && self
                .values
                .front()
                .is_some_and(|(first, _)| round - first >= Self::ROUNDS)
        {
            self.values.pop_front();
        }
    }

    pub(super) fn clear(&mut self) {
        self.values.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_sample_is_what_was_delivered_over_the_time_it_took() {
        let start = Instant::now();
        let mut rate = DeliveryRate::default();
        // A round trip of 10 ms; each packet of 1,000 bytes is acknowledged by itself.
        let mut last = None;
        for step in 0..30 {
            let now = start + step * MS;
            if step >= 10 {
                rate.on_acknowledged(now, now - 10 * MS, 1000);
                last = rate.sample(now, 9000, false);
            }
            rate.on_sent(now);
        }
        let last = last.unwrap();
        assert_eq!(last.round_trip, 10 * MS);
        assert!(!last.limited);
        assert_eq!(last.delivered_before, 10_000, "when the last was sent, at 19 ms");
        assert!((950_000..=1_100_000).contains(&last.bytes_per_second), "{last:?}");
    }

    #[test]
    fn acknowledgements_in_a_lump_do_not_seem_a_fast_path() {
        let start = Instant::now();
        let mut rate = DeliveryRate::default();
        for step in 0..20 {
            rate.on_sent(start + step * MS);
        }
        let now = start + 40 * MS;
        for step in 0..20 {
            rate.on_acknowledged(now, start + step * MS, 1000);
        }
        let sample = rate.sample(now, 0, false).unwrap();
        assert!(sample.bytes_per_second <= 20_000 * 1000 / 40, "{sample:?}");
    }

    #[test]
    fn what_the_application_did_not_offer_is_told_apart() {
        let start = Instant::now();
        let mut rate = DeliveryRate::default();
        rate.on_sent(start);
        rate.on_acknowledged(start + 10 * MS, start, 1000);
        assert!(!rate.sample(start + 10 * MS, 0, true).unwrap().limited);
        rate.on_sent(start + 50 * MS);
        rate.on_acknowledged(start + 60 * MS, start + 50 * MS, 1000);
        let second = rate.sample(start + 60 * MS, 0, false).unwrap();
        assert!(second.limited);
        assert_eq!(
            second.bytes_per_second, 100_000,
            "silence is not held against the path"
        );
        rate.on_sent(start + 70 * MS);
        rate.on_acknowledged(start + 80 * MS, start + 70 * MS, 1000);
        assert!(!rate.sample(start + 80 * MS, 0, false).unwrap().limited);
    }

    #[test]
    fn what_is_remembered_is_bounded_and_given_back() {
        let start = Instant::now();
        let mut rate = DeliveryRate::default();
        for step in 0..3 * u32::try_from(MAX_BATCHES).unwrap() {
            rate.on_sent(start + step * MS / 1000);
        }
        assert_eq!(rate.under_way.len(), MAX_BATCHES);
        // The first were forgotten: delivered, and no sample.
        rate.on_acknowledged(start + 30 * MS, start, 1000);
        assert_eq!(rate.sample(start + 30 * MS, 1000, false), None);
        assert_eq!(rate.delivered(), 1000);
        rate.sample(start + 31 * MS, 0, true);
        assert!(rate.capacity() <= SPARE_BATCHES, "{}", rate.capacity());
    }

    #[test]
    fn the_largest_of_ten_rounds_counts_and_the_last_one_stays() {
        let mut max = RoundMax::default();
        assert_eq!(max.get(), 0);
        max.put(1, 100);
        max.put(2, 50);
        max.put(2, 60);
        assert_eq!(max.get(), 100);
        max.put(10, 10);
        assert_eq!(max.get(), 100);
        max.put(11, 10);
        assert_eq!(max.get(), 60);
        max.put(5000, 5);
        assert_eq!(max.get(), 5);
        for round in 6000..7000 {
            max.put(round, 10_000 - round);
            assert!(max.values.len() <= 10);
        }
    }
}
