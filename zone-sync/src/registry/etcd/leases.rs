//! The leases of this process: which one a key goes with, and keeping them alive.
//!
//! Keys with about the same time to live share a lease, up to [`MAX_KEYS`] of them, so that 100,000 instances are a
//! hundred leases to keep alive, and one that runs out takes no more than [`MAX_KEYS`] with it in one revision.
//!
//! A lease is longer than the time to live that it stands for, because it is renewed at its own pace and not with each
//! heartbeat: what was heard just before this process died must still live its full time.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Most keys under one lease.
pub(crate) const MAX_KEYS: usize = 1_000;
/// Time to live of what belongs to no instance's: reports of health.
pub(crate) const HEALTH_TIME_TO_LIVE: Duration = Duration::from_secs(60);
/// Shortest time between two renewals of a lease.
const SHORTEST_PACE: Duration = Duration::from_millis(300);
/// Longest time between two renewals: a lease of a day need not wait hours to learn that it is gone.
const LONGEST_PACE: Duration = Duration::from_secs(60);
/// A lease without keys is given back after this long, so that one that is about to be used is not.
const KEPT_EMPTY: Duration = Duration::from_secs(60);

/// One step of the ladder of times to live, in seconds: see [`LeaseClass::of`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct LeaseClass(u32);

impl LeaseClass {
    /// The lowest step that is no shorter than `time_to_live`. Steps lie about a quarter apart, so that however many
    /// different times registrants choose, there are few kinds of leases.
    #[must_use]
    pub(super) fn of(time_to_live: Duration) -> Self {
        let wanted = time_to_live.as_millis().div_ceil(1000);
        let mut step: u32 = 1;
        while u128::from(step) < wanted && step < u32::MAX / 2 {
            step += (step / 4).max(1);
        }
        Self(step)
    }

    /// Seconds that etcd is asked for: the time to live and, on top, twice the longest that a renewal may lie back.
    #[must_use]
    pub(crate) fn lease_seconds(self) -> i64 {
        i64::from(self.0) + i64::try_from(2 * self.pace().as_secs()).unwrap_or(0) + 2
    }

    /// Time between two renewals.
    #[must_use]
    pub(super) fn pace(self) -> Duration {
        (Duration::from_secs(self.0.into()) / 4).clamp(SHORTEST_PACE, LONGEST_PACE)
    }
}

/// One lease of this process.
#[derive(Debug, Clone, Copy)]
struct OwnLease {
    class: LeaseClass,
    /// Time at which the next renewal is due.
    due: Instant,
    /// Keys that were assigned to it, whether or not they still are.
    assigned: usize,
    granted: Instant,
    /// Time at which etcd last said that it lives.
    alive: Instant,
}

/// The leases of this process. Pure: granting and renewing is for the caller.
#[derive(Debug, Default)]
pub(super) struct Leases {
    held: BTreeMap<i64, OwnLease>,
    /// The lease of each class that still takes keys.
    open: BTreeMap<LeaseClass, i64>,
}

impl Leases {
    /// Assigns up to `wanted` keys to an open lease of the class; `None`: one must be granted first.
    pub(crate) fn assign(&mut self, class: LeaseClass, wanted: usize) -> Option<i64> {
        let lease = *self.open.get(&class)?;
        let held = self.held.get_mut(&lease)?;
        held.assigned += wanted;
        if held.assigned >= MAX_KEYS {
            self.open.remove(&class);
        }
        Some(lease)
    }

    /// etcd granted a lease that takes keys.
    pub(super) fn add(&mut self, now: Instant, class: LeaseClass, lease: i64) {
        self.add_apart(now, class, lease);
        self.open.insert(class, lease);
    }

    /// etcd granted a lease for one key alone.
    pub(crate) fn add_apart(&mut self, now: Instant, class: LeaseClass, lease: i64) {
        let held = OwnLease {
            class,
            due: now + class.pace(),
            assigned: 0,
            granted: now,
            alive: now,
        };
        self.held.insert(lease, held);
    }

    /// Tells whether it is still a lease of this process.
    #[must_use]
    pub(super) fn contains(&self, lease: i64) -> bool {
        self.held.contains_key(&lease)
    }

    /// Tells whether it is a lease of this process, of this class.
    #[must_use]
    pub(super) fn is_of(&self, lease: i64, class: LeaseClass) -> bool {
        self.held.get(&lease).is_some_and(|held| held.class == class)
    }

    /// A lease is gone.
    pub(super) fn remove(&mut self, lease: i64) {
        self.close(lease);
        self.held.remove(&lease);
    }

    /// A lease takes no further keys: etcd may have dropped it.
    pub(super) fn close(&mut self, lease: i64) {
        if let Some(held) = self.held.get(&lease)
            && self.open.get(&held.class) == Some(&lease)
        {
            self.open.remove(&held.class);
        }
    }

    /// Leases to renew now. Each is named again after a pace.
    pub(super) fn due(&mut self, now: Instant) -> Vec<i64> {
        let mut due = Vec::new();
        for (lease, held) in &mut self.held {
            if held.due <= now {
                held.due = now + held.class.pace();
                due.push(*lease);
            }
        }
        due
    }

    /// Every lease is to be renewed at once: the stream that does it is a new one.
    pub(crate) fn all_due(&mut self, now: Instant) {
        for held in self.held.values_mut() {
            held.due = now;
        }
    }

    /// etcd says that the lease lives.
    pub(super) fn renewed(&mut self, now: Instant, lease: i64) {
        if let Some(held) = self.held.get_mut(&lease) {
            held.alive = now;
        }
    }

    /// Leases that no key goes with any more, by `keys`, and that take none either.
    pub(super) fn empty(&self, now: Instant, keys: impl Fn(i64) -> usize) -> Vec<i64> {
        let unused = |lease: i64, held: &OwnLease| {
            let is_closed = self.open.get(&held.class) != Some(&lease);
            is_closed
                && now.duration_since(held.granted) > KEPT_EMPTY
                && held.assigned > 0
                && keys(lease) == 0
        };
        let leases = self.held.iter();
        leases
            .filter(|(lease, held)| unused(**lease, held))
            .map(|(lease, _)| *lease)
            .collect()
    }

    #[must_use]
    pub(super) fn len(&self) -> usize {
        self.held.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_lease_outlives_what_was_heard_just_before_its_last_renewal(milliseconds in 1_000u64..86_400_000) {
            let time_to_live = Duration::from_millis(milliseconds);
            let class = LeaseClass::of(time_to_live);
            let lease = Duration::from_secs(class.lease_seconds().try_into().unwrap());
            prop_assert!(lease >= time_to_live + class.pace());
            prop_assert!(lease <= time_to_live * 2 + Duration::from_secs(5), "{lease:?} for {time_to_live:?}");
        }
    }

    #[test]
    fn many_times_to_live_are_few_kinds_of_leases() {
        let classes: std::collections::BTreeSet<_> = (1..86_400)
            .map(|s| LeaseClass::of(Duration::from_secs(s)))
            .collect();
        assert!(classes.len() < 60, "{}", classes.len());
    }

    #[test]
    fn a_lease_takes_no_more_keys_than_it_may() {
        let now = Instant::now();
        let class = LeaseClass::of(Duration::from_secs(10));
        let mut leases = Leases::default();
        assert_eq!(leases.assign(class, 1), None);
        leases.add(now, class, 7);
        for _ in 0..MAX_KEYS {
            assert_eq!(leases.assign(class, 1), Some(7));
        }
        assert_eq!(leases.assign(class, 1), None);
        assert_eq!(leases.assign(LeaseClass::of(Duration::from_secs(60)), 1), None);
    }

    #[test]
    fn every_lease_is_due_once_in_a_pace() {
        let now = Instant::now();
        let class = LeaseClass::of(Duration::from_secs(8));
        let mut leases = Leases::default();
        leases.add(now, class, 7);
        assert!(leases.due(now).is_empty());
        assert_eq!(leases.due(now + class.pace()), [7]);
        assert!(leases.due(now + class.pace()).is_empty());
        leases.all_due(now);
        assert_eq!(leases.due(now), [7]);
    }

    #[test]
    fn a_lease_is_given_back_when_it_is_full_and_all_its_keys_are_gone() {
        let now = Instant::now();
        let class = LeaseClass::of(Duration::from_secs(8));
        let mut leases = Leases::default();
        leases.add(now, class, 7);
        leases.assign(class, MAX_KEYS);
        let later = now + KEPT_EMPTY * 2;
        assert!(leases.empty(later, |_| 1).is_empty());
        assert!(leases.empty(now, |_| 0).is_empty());
        assert_eq!(leases.empty(later, |_| 0), [7]);
    }
}
