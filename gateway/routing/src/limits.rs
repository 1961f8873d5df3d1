//! Limits on what one gateway carries of a service for its clients: how much at once, and how often. Over several gateways of a zone
//! each holds them by itself.
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

/// Most services, and most callers, whose rates are kept count of. A further one waits until others have been quiet for a second.
const MAX_RATES: usize = 10_000;

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
pub struct ServiceUse([AtomicU32; UseKind::COUNT]);

impl ServiceUse {
    /// Takes a place; `None`: `most` are taken.
    #[must_use]
    pub fn take(self: &Arc<Self>, kind: UseKind, most: u32) -> Option<UseGuard> {
        let count = &self.0[kind.index()];
        let more = |taken: u32| (taken < most).then(|| taken + 1);
        let taken = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        taken.is_ok().then(|| UseGuard {
            of: self.clone(),
            kind,
        })
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
        self.of.0[self.kind.index()].fetch_sub(1, Ordering::Relaxed);
    }
}

/// Allowance that a rate has left. A quiet second fills it; so much may come at once.
#[derive(Debug, Clone, Copy)]
struct Allowance {
    left: f64,
    at: Duration,
}

impl Allowance {
    fn now(self, now: Duration, per_second: f64) -> f64 {
        let gained = now.saturating_sub(self.at).as_secs_f64() * per_second;
        (self.left + gained).min(per_second)
    }
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
        };
        let allowance = self.0.entry(key).or_insert(full);
        let left = allowance.now(now, per_second);
        let is_enough = left >= 1.0;
        *allowance = Allowance {
            left: left - f64::from(u8::from(is_enough)),
            at: now,
        };
        is_enough
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
