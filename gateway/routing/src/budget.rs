//! The budget for asking again: how many further asks of candidates that have failed a service may cost, so that an outage
//! does not multiply the connections to what is left. A first ask of a candidate takes nothing from it. Retries of requests take from
//! the same budget, to which the service's requests then add the share that its topology declares.
//!
//! Pure: time is an argument, that since any moment that is the same for all calls.

use std::{collections::BTreeMap, time::Duration};

use causeway_federation::name::ServiceName;

/// Asks again that a service may have in a row after a quiet time.
pub const BURST: u32 = 100;
/// Asks again that a service gains each second: a few clients that are asked for again and again stay within it, and the
/// clients of an outage do not.
pub const ASKS_AGAIN_PER_SECOND: u32 = 20;
/// Most services that are kept count of. A further one waits for one to be full again.
const MAX_SERVICES: usize = 10_000;

/// The asks again that every service has left.
#[derive(Debug, Default)]
pub struct Budgets {
    /// Full ones are not in it.
    services: BTreeMap<ServiceName, Left>,
}

#[derive(Debug, Clone, Copy)]
struct Left {
    asks: f64,
    at: Duration,
}

impl Left {
    fn now(self, now: Duration) -> f64 {
        let gained = now.saturating_sub(self.at).as_secs_f64() * f64::from(ASKS_AGAIN_PER_SECOND);
        (self.asks + gained).min(f64::from(BURST))
    }
}

impl Budgets {
    /// Adds the share (0 to 1) of one request of `service` that may be a retry.
    pub fn earn(&mut self, now: Duration, service: &ServiceName, share: f64) {
        if let Some(left) = self.services.get_mut(service) {
            let asks = (left.now(now) + share).min(f64::from(BURST));
            *left = Left { asks, at: now };
        }
    }

    /// Takes one ask again from the budget of `service`; `false` when nothing is left.
    pub fn take(&mut self, now: Duration, service: &ServiceName) -> bool {
        let known = self.services.get(service).copied();
        if known.is_none() && self.services.len() >= MAX_SERVICES {
            self.services.retain(|_, left| left.now(now) < f64::from(BURST));
            if self.services.len() >= MAX_SERVICES {
                return false;
            }
        }
        let asks = known.map_or(f64::from(BURST), |left| left.now(now)) - 1.0;
        let enough = asks >= 0.0;
        if enough {
            self.services.insert(service.clone(), Left { asks, at: now });
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testbed::service;

    const NOW: Duration = Duration::from_secs(1000);

    fn all_at(budgets: &mut Budgets, now: Duration, name: &str) -> u32 {
        let mut taken = 0;
        while budgets.take(now, &service(name)) {
            taken += 1;
        }
        taken
    }

    #[test]
    fn a_service_has_a_burst_and_then_so_many_a_second() {
        let mut budgets = Budgets::default();
        assert_eq!(all_at(&mut budgets, NOW, "orders"), BURST);
        let later = NOW + Duration::from_secs(2);
        assert_eq!(all_at(&mut budgets, later, "orders"), 2 * ASKS_AGAIN_PER_SECOND);
        let much_later = NOW + Duration::from_secs(3600);
        assert_eq!(all_at(&mut budgets, much_later, "orders"), BURST);
    }

    #[test]
    fn requests_add_their_share_and_never_more_than_a_burst() {
        let (mut budgets, orders) = (Budgets::default(), service("orders"));
        budgets.earn(NOW, &orders, 0.5);
        assert_eq!(all_at(&mut budgets, NOW, "orders"), BURST);
        for _ in 0..10 {
            budgets.earn(NOW, &orders, 0.25);
        }
        budgets.earn(NOW, &service("web"), 1.0);
        assert_eq!(all_at(&mut budgets, NOW, "orders"), 2);
        for _ in 0..1000 {
            budgets.earn(NOW, &orders, 0.25);
        }
        assert_eq!(all_at(&mut budgets, NOW, "orders"), BURST);
    }

    #[test]
    fn one_service_takes_nothing_from_another() {
        let mut budgets = Budgets::default();
        all_at(&mut budgets, NOW, "orders");
        assert!(budgets.take(NOW, &service("web")));
    }

    #[test]
    fn the_table_is_bounded_and_forgets_those_that_are_full_again() {
        let mut budgets = Budgets::default();
        for number in 0..MAX_SERVICES {
            assert!(budgets.take(NOW, &service(&format!("s{number}"))));
        }
        assert!(!budgets.take(NOW, &service("one-more")));
        assert!(budgets.take(NOW + Duration::from_secs(1), &service("one-more")));
        assert_eq!(budgets.services.len(), 1);
    }
}
