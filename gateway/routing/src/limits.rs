//! Limits on what a gateway carries of a service for its clients: how much at once, and how often. What part of a limit it may use when
//! its zone has several gateways is the business of [`limit_shares`](crate::limit_shares).
//!
//! Pure: time is an argument, that since any moment that is the same for all calls.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use causeway_federation::{name::ServiceName, topology::RouteLimits};
use serde::{Deserialize, Serialize};

/// Most services, and most callers, whose rates are kept count of. A further one waits until others have been quiet for a second.
const MAX_RATES: usize = 10_000;
/// Longest name of a caller whose rate goes on in another process; one with a longer one begins anew there.
const MAX_CARRIED_NAME: usize = 256;
/// Time over which is counted what is asked for in a second.
const ASKED_OVER: Duration = Duration::from_secs(2);

/// Limit on what is under way at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum UseKind {
    /// Connections of clients.
    Connections,
    /// Connections and requests that wait for an instance.
    Pending,
    Requests,
    /// Requests that are tried again.
    Retries,
}

impl UseKind {
    const COUNT: usize = 4;
    /// Every kind.
    pub const ALL: [Self; Self::COUNT] = [Self::Connections, Self::Pending, Self::Requests, Self::Retries];

    /// The word for metrics and `check`, as in the topology.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Pending => "pending",
            Self::Requests => "requests",
            Self::Retries => "retries",
        }
    }

    /// The limit; `None`: there is none.
    #[must_use]
    pub fn most(self, limits: &RouteLimits) -> Option<u32> {
        match self {
            Self::Connections => limits.connections,
            Self::Pending => limits.pending,
            Self::Requests => limits.requests,
            Self::Retries => limits.retries,
        }
    }

    fn index(self) -> usize {
        match self {
            Self::Connections => 0,
            Self::Pending => 1,
            Self::Requests => 2,
            Self::Retries => 3,
        }
    }
}

/// Numbers of what is under way of one service.
#[derive(Debug, Default)]
pub struct ServiceUse {
    taken: [AtomicU32; UseKind::COUNT],
    /// Those that processes before still hold, which this one was told.
    elsewhere: [AtomicU32; UseKind::COUNT],
}

/// Numbers of what a process has under way of one service, as its successor is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CarriedUse {
    pub service: ServiceName,
    /// By kind, in the order connections, pending, requests, retries.
    pub counts: [u32; UseKind::COUNT],
}

/// Limits of services as one process leaves them to the next: what rates have left, and what is under way.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CarriedLimits {
    pub rates: Vec<CarriedRate>,
    pub uses: Vec<CarriedUse>,
}

impl ServiceUse {
    /// Takes a place; `None`: `most` are taken.
    #[must_use]
    pub fn take(self: &Arc<Self>, kind: UseKind, most: u32) -> Option<UseGuard> {
        let count = &self.taken[kind.index()];
        let elsewhere = self.elsewhere[kind.index()].load(Ordering::Relaxed);
        let more = |taken: u32| (taken.saturating_add(elsewhere) < most).then(|| taken + 1);
        let taken = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        taken.is_ok().then(|| UseGuard {
            of: self.clone(),
            kind,
        })
    }

    /// Counts what processes before hold as taken.
    pub fn set_elsewhere(&self, counts: [u32; UseKind::COUNT]) {
        for (known, count) in self.elsewhere.iter().zip(counts) {
            known.store(count, Ordering::Relaxed);
        }
    }

    /// Everything that is taken, here and in processes before.
    #[must_use]
    pub fn counts(&self) -> [u32; UseKind::COUNT] {
        let mut counts = [0; UseKind::COUNT];
        for (count, (here, elsewhere)) in counts.iter_mut().zip(self.taken.iter().zip(&self.elsewhere)) {
            let here = here.load(Ordering::Relaxed);
            *count = here.saturating_add(elsewhere.load(Ordering::Relaxed));
        }
        counts
    }

    /// Tells whether processes before hold anything.
    #[must_use]
    pub fn is_elsewhere(&self) -> bool {
        self.elsewhere
            .iter()
            .any(|count| count.load(Ordering::Relaxed) > 0)
    }

    /// Number of places of one kind that are taken, here and in processes before.
    #[must_use]
    pub fn taken(&self, kind: UseKind) -> u32 {
        self.counts()[kind.index()]
    }
}

/// Place that is taken for as long as this lives.
#[derive(Debug)]
pub struct UseGuard {
    of: Arc<ServiceUse>,
    kind: UseKind,
}

impl Drop for UseGuard {
    fn drop(&mut self) {
        self.of.taken[self.kind.index()].fetch_sub(1, Ordering::Relaxed);
    }
}

/// Allowance that a rate has left. A quiet second fills it; so much may come at once.
#[derive(Debug, Clone, Copy)]
struct Allowance {
    left: f64,
    at: Duration,
    per_second: f64,
    /// Number that was asked for in a second, of late.
    asked: f64,
}

impl Allowance {
    fn now(self, now: Duration, per_second: f64) -> f64 {
        let gained = now.saturating_sub(self.at).as_secs_f64() * per_second;
        (self.left + gained).min(per_second)
    }

    /// Number that is asked for in a second: what is longer ago loses two thirds of its weight in [`ASKED_OVER`].
    fn asked(self, now: Duration) -> f64 {
        let passed = now.saturating_sub(self.at).as_secs_f64();
        self.asked * (-passed / ASKED_OVER.as_secs_f64()).exp()
    }
}

/// Allowance that a rate has left in one process, as another goes on with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CarriedRate {
    pub service: ServiceName,
    /// Empty: of the service as a whole.
    #[serde(default)]
    pub caller: String,
    pub left: f64,
    pub per_second: f64,
}

/// Rates of services, and of their callers.
#[derive(Debug, Default)]
pub struct RateTable(BTreeMap<(ServiceName, String), Allowance>);

impl RateTable {
    /// Takes one from the rate of `service`, or of one caller of it; `caller` is empty for the service as a whole. `false`: nothing is left.
    #[must_use]
    pub fn take(&mut self, now: Duration, service: &ServiceName, caller: &str, per_second: u64) -> bool {
        let key = (service.clone(), caller.to_owned());
        if self.0.len() >= MAX_RATES && !self.0.contains_key(&key) {
            let quiet = Duration::from_secs(1);
            self.0.retain(|_, allowance| allowance.at + quiet > now);
            if self.0.len() >= MAX_RATES {
                return false;
            }
        }
        let per_second = float(per_second.max(1));
        let full = Allowance {
            left: per_second,
            at: now,
            per_second,
            asked: 0.0,
        };
        let allowance = self.0.entry(key).or_insert(full);
        let left = allowance.now(now, per_second);
        let is_enough = left >= 1.0;
        *allowance = Allowance {
            left: left - f64::from(u8::from(is_enough)),
            at: now,
            per_second,
            asked: allowance.asked(now) + 1.0 / ASKED_OVER.as_secs_f64(),
        };
        is_enough
    }

    /// Allowances that are not full, for another process to go on with.
    #[must_use]
    pub fn carried(&self, now: Duration) -> Vec<CarriedRate> {
        let known = self.0.iter().filter_map(|((service, caller), allowance)| {
            let left = allowance.now(now, allowance.per_second);
            (left < allowance.per_second && caller.len() <= MAX_CARRIED_NAME).then(|| CarriedRate {
                service: service.clone(),
                caller: caller.clone(),
                left,
                per_second: allowance.per_second,
            })
        });
        known.collect()
    }

    /// Goes on with what another process has left. Where both have taken from a rate, the smaller allowance counts.
    pub fn carry_on<'a>(&mut self, now: Duration, rates: impl IntoIterator<Item = &'a CarriedRate>) {
        for from in rates {
            let key = (from.service.clone(), from.caller.clone());
            let known = self.0.get(&key).copied();
            if (known.is_none() && self.0.len() >= MAX_RATES) || from.per_second < 1.0 {
                continue;
            }
            let here = known.map_or(from.left, |known| known.now(now, from.per_second));
            let allowance = Allowance {
                left: from.left.min(here).clamp(0.0, from.per_second),
                at: now,
                per_second: from.per_second,
                asked: known.map_or(0.0, |known| known.asked(now)),
            };
            self.0.insert(key, allowance);
        }
    }

    /// Numbers that are asked for in a second of each service and caller, whether or not it is served.
    pub fn asked(&self, now: Duration) -> impl Iterator<Item = (&ServiceName, &str, f64)> {
        self.0
            .iter()
            .map(move |((service, caller), allowance)| (service, caller.as_str(), allowance.asked(now)))
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate fits a float")]
fn float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testbed::service;

    const NOW: Duration = Duration::from_secs(1000);

    #[test]
    fn places_are_taken_up_to_the_limit_and_given_back() {
        let of = Arc::new(ServiceUse::default());
        let mut taken: Vec<_> = (0..2).map(|_| of.take(UseKind::Requests, 2).unwrap()).collect();
        assert!(of.take(UseKind::Requests, 2).is_none());
        assert!(of.take(UseKind::Retries, 1).is_some(), "each kind by itself");
        taken.pop();
        assert!(of.take(UseKind::Requests, 2).is_some());
        assert!(
            of.take(UseKind::Requests, 1).is_none(),
            "a limit may become lower"
        );
    }

    #[test]
    fn what_a_process_before_holds_takes_places_until_it_has_ended() {
        let of = Arc::new(ServiceUse::default());
        of.set_elsewhere([2, 0, 0, 0]);
        let taken = of.take(UseKind::Connections, 3).unwrap();
        assert!(
            of.take(UseKind::Connections, 3).is_none(),
            "two are held elsewhere"
        );
        assert!(of.take(UseKind::Requests, 1).is_some());
        assert_eq!(of.counts(), [3, 0, 0, 0], "a third process is told of all");
        assert!(of.is_elsewhere());
        of.set_elsewhere([0; UseKind::COUNT]);
        assert!(!of.is_elsewhere());
        assert!(of.take(UseKind::Connections, 3).is_some());
        drop(taken);
    }

    #[test]
    fn a_rate_goes_on_in_another_process_and_is_not_given_twice() {
        let mut before = RateTable::default();
        assert_eq!(all_at(&mut before, NOW, "orders", ""), 10);
        assert!(before.take(NOW, &service("stock"), "web@east", 10));
        let text = serde_json::to_string(&before.carried(NOW + Duration::from_millis(200))).unwrap();
        let carried: Vec<CarriedRate> = serde_json::from_str(&text).unwrap();
        assert_eq!(carried.len(), 1, "what is full again is not told: {text}");
        // The other process has a clock of its own, which has only begun.
        let (mut after, begun) = (RateTable::default(), Duration::from_millis(1));
        after.carry_on(begun, &carried);
        assert_eq!(all_at(&mut after, begun, "orders", ""), 2);
        // A later word takes nothing back that was taken here meanwhile.
        let later = [CarriedRate {
            left: 1.0,
            ..carried[0].clone()
        }];
        after.carry_on(begun, &later);
        assert_eq!(all_at(&mut after, begun, "orders", ""), 0);
        assert_eq!(
            all_at(&mut after, begun + Duration::from_secs(1), "orders", ""),
            10
        );
        let nonsense = [CarriedRate {
            left: -7.0,
            per_second: 0.0,
            ..carried[0].clone()
        }];
        after.carry_on(begun, &nonsense);
        assert_eq!(
            all_at(&mut after, begun + Duration::from_secs(60), "orders", ""),
            10
        );
    }

    fn all_at(table: &mut RateTable, now: Duration, name: &str, caller: &str) -> u32 {
        let mut taken = 0;
        while table.take(now, &service(name), caller, 10) {
            taken += 1;
        }
        taken
    }

    #[test]
    fn a_rate_allows_a_second_at_once_and_then_so_many_a_second() {
        let mut table = RateTable::default();
        assert_eq!(all_at(&mut table, NOW, "orders", ""), 10);
        assert_eq!(
            all_at(&mut table, NOW + Duration::from_millis(500), "orders", ""),
            5
        );
        assert_eq!(
            all_at(&mut table, NOW + Duration::from_secs(60), "orders", ""),
            10
        );
    }

    #[test]
    fn what_is_asked_for_counts_whether_or_not_it_is_served_and_is_forgotten() {
        let (mut table, mut now) = (RateTable::default(), NOW);
        for _ in 0..1000 {
            now += Duration::from_millis(10);
            let _ = table.take(now, &service("orders"), "", 10);
        }
        let asked = |table: &RateTable, now| table.asked(now).next().unwrap().2;
        assert!((asked(&table, now) - 100.0).abs() < 2.0, "{}", asked(&table, now));
        assert!(asked(&table, now + Duration::from_secs(10)) < 1.0);
    }

    #[test]
    fn each_caller_and_each_service_has_a_rate_of_its_own() {
        let mut table = RateTable::default();
        assert_eq!(all_at(&mut table, NOW, "orders", "web@east"), 10);
        assert_eq!(all_at(&mut table, NOW, "orders", "batch@east"), 10);
        assert_eq!(all_at(&mut table, NOW, "stock", "web@east"), 10);
        assert_eq!(all_at(&mut table, NOW, "orders", "web@east"), 0);
    }

    #[test]
    fn the_table_is_bounded_and_forgets_those_that_are_quiet() {
        let (mut table, orders) = (RateTable::default(), service("orders"));
        for number in 0..MAX_RATES {
            assert!(table.take(NOW, &orders, &number.to_string(), 10));
        }
        assert!(!table.take(NOW, &orders, "one more", 10));
        assert!(table.take(NOW + Duration::from_secs(1), &orders, "one more", 10));
        assert_eq!(table.0.len(), 1);
    }
}
