//! Decides when open connections end that do not belong where they are any more, or are too old, and at what pace: those who
//! are sent away come back at once, and must not do so all together.
//!
//! The question whether one belongs is for [`belongs`](crate::route::belongs).

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use causeway_federation::topology::ConnectionPolicy;

use crate::route::Misplacement;

/// Share of a service's open connections that are ended in a second.
const PACE_SHARE: f64 = 0.05;
/// Of few, so many are ended in a second all the same.
const MIN_PACE_PER_SECOND: f64 = 2.0;
/// Of many, no more: each that comes back takes a handshake, and perhaps a round trip to another zone.
const MAX_PACE_PER_SECOND: f64 = 1000.0;
/// Time for which the pace saves up what was not used.
const PACE_STEP: Duration = Duration::from_millis(100);
/// Share by which an age may be missed on either side, so that connections that began together do not end together.
const AGE_JITTER: f64 = 0.1;

/// Open connection of a service, as far as its end is concerned.
#[derive(Debug, Clone, Copy)]
pub struct OpenForEnding<K> {
    pub key: K,
    pub opened: Instant,
    /// Place among those of its age: from 0 to 1, and the same each time.
    pub jitter: f64,
    pub misplaced: Option<Misplacement>,
    /// Moment at which it has lingered long enough in any case, where it does not belong.
    pub leave_by: Option<Instant>,
}

/// Reason that a connection is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndingReason {
    /// It has lingered long enough where it does not belong.
    Misplaced(Misplacement),
    MaxAge,
}

impl EndingReason {
    /// The word for metrics.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Misplaced(why) => why.word(),
            Self::MaxAge => "max_age",
        }
    }
}

/// Connections that are to end now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueEndings<K> {
    /// Oldest first.
    pub end: Vec<(K, EndingReason)>,
    /// Time of the next look, if nothing changes before.
    pub look_again: Option<Instant>,
}

/// Memory of one service's connections that do not belong where they are, and of how many were ended lately.
#[derive(Debug, Clone)]
pub struct ServiceEndings<K> {
    /// Time since which each has not belonged.
    since: BTreeMap<K, Instant>,
    /// Connections that may be ended, saved up at `saved_at`.
    saved: f64,
    saved_at: Option<Instant>,
}

impl<K> Default for ServiceEndings<K> {
    fn default() -> Self {
        Self {
            since: BTreeMap::new(),
            saved: 1.0,
            saved_at: None,
        }
    }
}

impl<K: Ord + Copy> ServiceEndings<K> {
    /// Takes up which of the `open` connections belong, and says which of them are to end now. One that belongs again is
    /// forgotten, so that what comes and goes within `linger` ends nothing.
    pub fn look(
        &mut self,
        now: Instant,
        policy: ConnectionPolicy,
        open: &[OpenForEnding<K>],
    ) -> DueEndings<K> {
        let lingering = open.iter().filter(|one| one.misplaced.is_some());
        self.since = lingering
            .map(|one| (one.key, *self.since.get(&one.key).unwrap_or(&now)))
            .collect();
        let (mut due, mut look_again) = (Vec::new(), None);
        for one in open {
            match self.end_of(policy, one) {
                Some((at, reason)) if at <= now => due.push((one.opened, one.key, reason)),
                Some((at, _)) => look_again = sooner(look_again, at),
                None => {}
            }
        }
        due.sort_by_key(|(opened, key, _)| (*opened, *key));
        let pace = pace(open.len());
        self.save(now, pace);
        let mut end = Vec::new();
        for (_, key, reason) in due {
            if self.saved < 1.0 {
                let wait = Duration::from_secs_f64((1.0 - self.saved) / pace).max(PACE_STEP);
                look_again = sooner(look_again, now + wait);
                break;
            }
            self.saved -= 1.0;
            end.push((key, reason));
        }
        DueEndings { end, look_again }
    }

    /// The moment at which a connection ends by one limit or the other, if nothing changes.
    fn end_of(&self, policy: ConnectionPolicy, one: &OpenForEnding<K>) -> Option<(Instant, EndingReason)> {
        let misplaced = one.misplaced.and_then(|why| {
            let since = self.since.get(&one.key).zip(policy.linger);
            let lingered = since.map(|(since, linger)| *since + linger);
            let at = lingered.into_iter().chain(one.leave_by).min()?;
            Some((at, EndingReason::Misplaced(why)))
        });
        let aged = policy
            .max_age
            .map(|max_age| (one.opened + jittered(max_age, one.jitter), EndingReason::MaxAge));
        misplaced.into_iter().chain(aged).min_by_key(|(at, _)| *at)
    }

    /// Adds what may be ended since the last time.
    fn save(&mut self, now: Instant, pace: f64) {
        let passed = self
            .saved_at
            .map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let most = (pace * PACE_STEP.as_secs_f64()).max(1.0);
        self.saved = (self.saved + pace * passed.as_secs_f64()).min(most);
        self.saved_at = Some(now);
    }
}

fn sooner(one: Option<Instant>, other: Instant) -> Option<Instant> {
    Some(one.map_or(other, |one| one.min(other)))
}

/// Connections that are ended in a second, of so many that are open.
#[expect(clippy::cast_precision_loss, reason = "there are far fewer than 2^52")]
fn pace(open: usize) -> f64 {
    (open as f64 * PACE_SHARE).clamp(MIN_PACE_PER_SECOND, MAX_PACE_PER_SECOND)
}

/// The age at which a connection ends, `jitter` being from 0 to 1.
fn jittered(max_age: Duration, jitter: f64) -> Duration {
    max_age.mul_f64(1.0 + AGE_JITTER * (2.0 * jitter.clamp(0.0, 1.0) - 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn policy(connections: &str) -> ConnectionPolicy {
        let services = format!("  orders: {{ port: 80, connections: {connections} }}");
        let topology = crate::testbed::topology("  home: {}", &services);
        topology.services[&crate::testbed::service("orders")].connections
    }

    fn open(key: u32, opened: Instant, misplaced: bool) -> OpenForEnding<u32> {
        OpenForEnding {
            key,
            opened,
            jitter: 0.5,
            misplaced: misplaced.then_some(Misplacement::BetterTier),
            leave_by: None,
        }
    }

    /// Looks whenever it says so, until nothing is left to do, and tells what ended after how many milliseconds.
    fn run(
        endings: &mut ServiceEndings<u32>,
        start: Instant,
        policy: ConnectionPolicy,
        mut all: Vec<OpenForEnding<u32>>,
    ) -> Vec<(u32, u128, &'static str)> {
        let (mut now, mut ended) = (start, Vec::new());
        loop {
            let due = endings.look(now, policy, &all);
            for (key, reason) in &due.end {
                ended.push((*key, (now - start).as_millis(), reason.word()));
                all.retain(|one| one.key != *key);
            }
            match due.look_again {
                Some(at) => {
                    assert!(at > now, "it would be looked at without end");
                    now = at;
                }
                None => return ended,
            }
        }
    }

    #[test]
    fn without_linger_nothing_ends_wherever_it_is() {
        let now = Instant::now();
        let all = vec![open(1, now, true)];
        let mut endings = ServiceEndings::default();
        let due = endings.look(now + SECOND * 86_400, policy("{}"), &all);
        assert_eq!((due.end, due.look_again), (vec![], None));
    }

    #[test]
    fn what_does_not_belong_ends_after_linger_oldest_first_and_two_a_second() {
        let now = Instant::now();
        let all = vec![
            open(1, now - SECOND, true),
            open(2, now - 3 * SECOND, true),
            open(3, now - 2 * SECOND, true),
            open(4, now - 4 * SECOND, false),
        ];
        let ended = run(
            &mut ServiceEndings::default(),
            now,
            policy("{ linger: 30s }"),
            all,
        );
        assert_eq!(
            ended,
            [
                (2, 30_000, "better_tier"),
                (3, 30_500, "better_tier"),
                (1, 31_000, "better_tier")
            ]
        );
    }

    #[test]
    fn what_has_to_leave_by_a_moment_lingers_no_longer_and_nothing_else_leaves() {
        let now = Instant::now();
        let one = |key, misplaced, after: Option<u32>| OpenForEnding {
            leave_by: after.map(|after| now + after * SECOND),
            ..open(key, now, misplaced)
        };
        let all = vec![
            one(1, true, Some(5)),
            one(2, false, Some(5)),
            one(3, true, Some(60)),
            one(4, true, None),
        ];
        let ended = |connections| {
            run(
                &mut ServiceEndings::default(),
                now,
                policy(connections),
                all.clone(),
            )
        };
        assert_eq!(
            ended("{}"),
            [(1, 5_000, "better_tier"), (3, 60_000, "better_tier")]
        );
        let lingering = [
            (1, 5_000, "better_tier"),
            (3, 30_000, "better_tier"),
            (4, 30_500, "better_tier"),
        ];
        assert_eq!(ended("{ linger: 30s }"), lingering);
    }

    #[test]
    fn what_belongs_again_in_time_is_forgotten() {
        let now = Instant::now();
        let (mut endings, policy) = (ServiceEndings::default(), policy("{ linger: 30s }"));
        let mut look = |after: u32, misplaced| {
            let due = endings.look(now + after * SECOND, policy, &[open(1, now, misplaced)]);
            (due.end.len(), due.look_again.map(|at| (at - now).as_secs()))
        };
        assert_eq!(look(0, true), (0, Some(30)));
        assert_eq!(look(29, false), (0, None));
        assert_eq!(look(31, true), (0, Some(61)));
        assert_eq!(look(60, true), (0, Some(61)));
        assert_eq!(look(61, true), (1, None));
    }

    #[test]
    fn an_age_is_missed_by_a_tenth_at_most_and_the_earlier_limit_counts() {
        let now = Instant::now();
        let policy = policy("{ linger: 95s, max_age: 100s }");
        for (jitter, misplaced, expected) in [
            (0.0, false, (90, "max_age")),
            (0.5, false, (100, "max_age")),
            (1.0, false, (110, "max_age")),
            (1.0, true, (95, "better_tier")),
            (0.0, true, (90, "max_age")),
        ] {
            let one = OpenForEnding {
                jitter,
                ..open(1, now, misplaced)
            };
            let ended = run(&mut ServiceEndings::default(), now, policy, vec![one]);
            let [(1, after, reason)] = ended[..] else {
                panic!("{ended:?}");
            };
            assert_eq!((after / 1000, reason), expected);
        }
    }

    #[test]
    fn of_many_a_twentieth_ends_in_a_second_and_never_more_than_a_thousand() {
        assert_eq!(
            [0, 10, 40, 1000, 100_000].map(pace),
            [2.0, 2.0, 2.0, 50.0, 1000.0]
        );
        let now = Instant::now();
        let policy = policy("{ linger: 1s }");
        let mut endings = ServiceEndings::default();
        let all: Vec<_> = (0..1000).map(|key| open(key, now, true)).collect();
        let ended = run(&mut endings, now, policy, all);
        assert_eq!(ended.len(), 1000);
        for (index, (_, after, _)) in ended.iter().enumerate() {
            let second = ended[index..]
                .iter()
                .take_while(|(_, other, _)| other - after < 1000);
            assert!(second.count() <= 56, "a storm after {after} ms");
        }
    }
}
