//! The balancer's memory of one instance: connections under way, time to connect, refusals. All of it fades with time, so
//! that an instance that was slow or refused once is soon tried again. Time is an argument: that since any moment that is the
//! same for all calls.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

/// Latencies under this count as equal, in microseconds: within a zone they are noise of its hosts, and preferring the one that happens
/// to be faster would bend the weights.
const LATENCY_FLOOR_MICROS: u64 = 5_000;
/// A lower sample moves the average down by 1/8 of the distance; a higher one replaces it at once.
const LATENCY_DECAY: u64 = 8;
/// Time in which an average that no sample renews halves. Whoever is slower than all others is picked by nobody, and would
/// never show that it is not slow any more.
const LATENCY_HALVES_IN: Duration = Duration::from_secs(1);
/// Time to connect as which a failed answer counts: fast failures must not look like fast answers.
const FAILURE_LATENCY: Duration = Duration::from_secs(1);
/// An instance that says that it has too much to do counts as so many times slower, and gets less, not nothing.
const OVERLOAD_FACTOR: u32 = 4;
/// Part of its share that an instance has at the beginning of its slow start.
pub(crate) const FIRST_PART: f64 = 0.1;
/// Time for which an instance that refused a connection comes after the others; doubles with each further refusal in a row.
const FIRST_REST: Duration = Duration::from_millis(500);
/// Longest such time: by then health checks have had their say.
const MAX_REST: Duration = Duration::from_secs(8);

/// Knowledge of the balancer about an instance; updated in place by the data path.
#[derive(Debug, Default)]
pub struct InstanceLoad {
    /// Connections under way.
    pub outstanding: AtomicU32,
    /// Moving average of the time to connect, in microseconds, as of the last sample; 0 until measured.
    pub latency_micros: AtomicU64,
    /// Time at which that sample was taken, in milliseconds.
    measured_at: AtomicU64,
    /// Time that the last connection took, in microseconds.
    last_micros: AtomicU64,
    /// Refusals in a row.
    refusals: AtomicU32,
    /// Time until which it comes after the others, in milliseconds.
    rests_until: AtomicU64,
    /// Time at which it began to take traffic, in milliseconds and one; 0: at no time that is known.
    began_at: AtomicU64,
}

/// Part (0.1 to 1) of its full share that something has which began to serve so long ago.
#[must_use]
pub(crate) fn part_after(began: Duration, slow_start: Duration) -> f64 {
    if began >= slow_start {
        return 1.0;
    }
    (began.as_secs_f64() / slow_start.as_secs_f64()).max(FIRST_PART)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl InstanceLoad {
    /// Counts the connections and requests under way.
    #[must_use]
    pub fn outstanding(&self) -> u32 {
        self.outstanding.load(Ordering::Relaxed)
    }

    /// The time to connect as far as it is still believed, in microseconds.
    #[must_use]
    pub fn latency(&self, now: Duration) -> f64 {
        let average = self.latency_micros.load(Ordering::Relaxed);
        let floor = float(LATENCY_FLOOR_MICROS);
        if average <= LATENCY_FLOOR_MICROS {
            return floor;
        }
        let age = millis(now).saturating_sub(self.measured_at.load(Ordering::Relaxed));
        let halvings = float(age) / float(millis(LATENCY_HALVES_IN));
        (float(average) * (-halvings).exp2()).max(floor)
    }

    /// The time to connect as it is believed now, for people; `None`: it was never measured.
    #[must_use]
    pub fn latency_now(&self, now: Duration) -> Option<Duration> {
        match self.latency_micros.load(Ordering::Relaxed) {
            0 => None,
            micros @ ..=LATENCY_FLOOR_MICROS => Some(Duration::from_micros(micros)),
            _ => Some(Duration::from_secs_f64(self.latency(now) / 1e6)),
        }
    }

    /// Takes up that it takes traffic from now on, because it is new or healthy again.
    pub fn begins(&self, now: Duration) {
        self.began_at
            .store(millis(now).saturating_add(1), Ordering::Relaxed);
    }

    /// Part (0.1 to 1) of its share that it has at `now`, `slow_start` being the time after which it is all of it.
    #[must_use]
    pub fn part(&self, now: Duration, slow_start: Duration) -> f64 {
        match self.began_at.load(Ordering::Relaxed).checked_sub(1) {
            None => 1.0,
            Some(began) => part_after(now.saturating_sub(Duration::from_millis(began)), slow_start),
        }
    }

    /// Tells whether it refused a connection a moment ago.
    #[must_use]
    pub fn is_resting(&self, now: Duration) -> bool {
        millis(now) < self.rests_until.load(Ordering::Relaxed)
    }

    /// Takes a measured time to connect, or the time waited in vain, into the average.
    pub fn took(&self, now: Duration, time: Duration) {
        let sample = u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1);
        // Two threads may overwrite each other's sample: it is an average.
        let old = self.latency_micros.load(Ordering::Relaxed);
        let faded = self.latency(now);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an average of microseconds that only fades fits what it was"
        )]
        let old = if old > LATENCY_FLOOR_MICROS {
            faded as u64
        } else {
            old
        };
        let new = if sample >= old {
            sample
        } else {
            old - (old - sample).div_ceil(LATENCY_DECAY)
        };
        self.latency_micros.store(new, Ordering::Relaxed);
        self.measured_at.store(millis(now), Ordering::Relaxed);
    }

    /// Takes up that it accepted a connection. A long time counts as far as the connection before took as long: a single one says that this host
    /// was busy, and would have the instance stand idle for seconds.
    pub fn connected(&self, now: Duration, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let before = self.last_micros.swap(micros, Ordering::Relaxed);
        self.took(
            now,
            time.min(Duration::from_micros(before.max(LATENCY_FLOOR_MICROS))),
        );
        self.forget_refusals();
    }

    /// Takes up that it failed a request that it was given.
    pub fn failed(&self, now: Duration) {
        self.took(now, FAILURE_LATENCY);
    }

    /// Takes up that it says that it has too much to do.
    pub fn overloaded(&self, now: Duration) {
        let latency = Duration::from_secs_f64(self.latency(now) / 1e6);
        self.took(now, (latency * OVERLOAD_FACTOR).min(FAILURE_LATENCY));
    }

    /// Takes up that it did not accept a connection. It says nothing about its latency.
    pub fn refused(&self, now: Duration) {
        // Connections that were refused at the same moment are one refusal.
        if self.is_resting(now) {
            return;
        }
        let before = self.refusals.fetch_add(1, Ordering::Relaxed);
        let rest = FIRST_REST.saturating_mul(1 << before.min(8)).min(MAX_REST);
        self.rests_until
            .store(millis(now.saturating_add(rest)), Ordering::Relaxed);
    }

    /// Lets it be picked like the others again, as one that has become healthy is.
    pub fn forget_refusals(&self) {
        self.refusals.store(0, Ordering::Relaxed);
        self.rests_until.store(0, Ordering::Relaxed);
    }
}

#[expect(clippy::cast_precision_loss, reason = "microseconds of a connect fit a float")]
fn float(number: u64) -> f64 {
    number as f64
}

/// Counts one connection to an instance for as long as it lives.
#[derive(Debug)]
pub struct LoadGuard(Arc<InstanceLoad>);

impl LoadGuard {
    #[must_use]
    pub fn new(load: Arc<InstanceLoad>) -> Self {
        load.outstanding.fetch_add(1, Ordering::Relaxed);
        Self(load)
    }
}

impl Drop for LoadGuard {
    fn drop(&mut self) {
        self.0.outstanding.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latency_that_people_see_fades_as_that_of_the_balancer_does() {
        let load = InstanceLoad::default();
        let at = |seconds| Duration::from_secs(seconds);
        assert_eq!(load.latency_now(at(1)), None);
        load.took(at(1), Duration::from_micros(300));
        assert_eq!(load.latency_now(at(9)), Some(Duration::from_micros(300)));
        load.failed(at(10));
        assert_eq!(load.latency_now(at(10)), Some(FAILURE_LATENCY));
        assert_eq!(load.latency_now(at(12)), Some(FAILURE_LATENCY / 4));
        assert_eq!(
            load.latency_now(at(100)),
            Some(Duration::from_micros(LATENCY_FLOOR_MICROS))
        );
    }
}
