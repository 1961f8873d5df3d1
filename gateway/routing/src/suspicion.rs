//! Suspicion that connections of a service come back: an instance of it is where another gateway takes clients, which in the end
//! leads here again. To ask the other gateways about every client would cost each a round trip; so it is asked when there are
//! twice as many connections as when it was asked last, and about every one once another gateway has owned to one.
//!
//! Pure: time is an argument, that since any moment that is the same for all calls.

use std::{collections::BTreeMap, time::Duration};

use causeway_federation::name::ServiceName;

/// Connections of a service under way from which on it is asked.
pub const FEWEST: u64 = 16;
/// Time after which it is asked again at the same number of connections.
const AGAIN_AFTER: Duration = Duration::from_secs(30);
/// Time for which it is asked about every connection after another gateway has owned to one.
const RETURNING_FOR: Duration = Duration::from_secs(60);
/// Most services that are remembered. A further one is not asked about until others are forgotten.
const MAX_SERVICES: usize = 10_000;

/// Suspicion of each service.
#[derive(Debug, Default)]
pub struct Suspicions {
    services: BTreeMap<ServiceName, Suspicion>,
}

#[derive(Debug, Clone, Copy)]
struct Suspicion {
    /// Time of the last question, or of the last time that a gateway owned to a connection.
    at: Duration,
    /// Connections that were under way then.
    open: u64,
    returning: bool,
}

impl Suspicion {
    fn is_over(self, now: Duration) -> bool {
        let lasts = if self.returning {
            RETURNING_FOR
        } else {
            AGAIN_AFTER
        };
        now.saturating_sub(self.at) >= lasts
    }
}

/// Tells whether so many connections of a service under way are a reason to ask.
#[must_use]
pub fn is_reason(open: u64) -> bool {
    open >= FEWEST && open.is_power_of_two()
}

impl Suspicions {
    /// Tells whether to ask about a new connection with which `open` of the service are under way.
    pub fn is_to_ask(&mut self, now: Duration, service: &ServiceName, open: u64) -> bool {
        match self.services.get(service).filter(|known| !known.is_over(now)) {
            Some(known) if known.returning => return true,
            Some(known) if open <= known.open => return false,
            _ => {}
        }
        let returning = false;
        is_reason(open)
            && self.remember(
                now,
                service,
                Suspicion {
                    at: now,
                    open,
                    returning,
                },
            )
    }

    /// Takes up that another gateway owned to a connection. Tells whether that is new.
    pub fn found(&mut self, now: Duration, service: &ServiceName) -> bool {
        let known = self.services.get(service).copied();
        let (at, open, returning) = (now, known.map_or(FEWEST, |known| known.open), true);
        self.remember(now, service, Suspicion { at, open, returning })
            && !known.is_some_and(|known| known.returning && !known.is_over(now))
    }

    /// Tells whether connections of a service are known to come back.
    #[must_use]
    pub fn is_found(&self, now: Duration, service: &ServiceName) -> bool {
        let known = self.services.get(service);
        known.is_some_and(|known| known.returning && !known.is_over(now))
    }

    /// Tells whether connections of any service are known to come back.
    #[must_use]
    pub fn has_found(&self, now: Duration) -> bool {
        self.services
            .values()
            .any(|known| known.returning && !known.is_over(now))
    }

    /// `false`: there is no room.
    fn remember(&mut self, now: Duration, service: &ServiceName, suspicion: Suspicion) -> bool {
        if self.services.len() >= MAX_SERVICES && !self.services.contains_key(service) {
            self.services.retain(|_, known| !known.is_over(now));
            if self.services.len() >= MAX_SERVICES {
                return false;
            }
        }
        self.services.insert(service.clone(), suspicion);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testbed::service;

    const NOW: Duration = Duration::from_secs(1000);

    /// Numbers of connections at which it is asked while they grow to `most`.
    fn asked(suspicions: &mut Suspicions, now: Duration, most: u64) -> Vec<u64> {
        let orders = service("orders");
        (1..=most)
            .filter(|open| suspicions.is_to_ask(now, &orders, *open))
            .collect()
    }

    #[test]
    fn it_is_asked_whenever_there_are_twice_as_many_and_not_again_for_a_while() {
        let mut suspicions = Suspicions::default();
        assert_eq!(asked(&mut suspicions, NOW, 100), [16, 32, 64]);
        assert_eq!(asked(&mut suspicions, NOW, 300), [128, 256]);
        assert!(asked(&mut suspicions, NOW, 300).is_empty());
        assert_eq!(asked(&mut suspicions, NOW + AGAIN_AFTER, 40), [16, 32]);
    }

    #[test]
    fn it_is_asked_about_every_connection_once_one_was_owned_to() {
        let (mut suspicions, orders) = (Suspicions::default(), service("orders"));
        assert!(suspicions.found(NOW, &orders));
        assert!(!suspicions.found(NOW, &orders));
        assert_eq!(asked(&mut suspicions, NOW, 3), [1, 2, 3]);
        assert!(!suspicions.is_to_ask(NOW, &service("web"), 3));
        assert!(suspicions.is_found(NOW, &orders) && !suspicions.is_found(NOW, &service("web")));
        let later = NOW + RETURNING_FOR;
        assert!(suspicions.has_found(NOW) && !suspicions.has_found(later));
        assert!(asked(&mut suspicions, later, 3).is_empty());
    }

    #[test]
    fn the_table_is_bounded() {
        let mut suspicions = Suspicions::default();
        for number in 0..MAX_SERVICES {
            assert!(suspicions.is_to_ask(NOW, &service(&format!("s{number}")), FEWEST));
        }
        assert!(!suspicions.is_to_ask(NOW, &service("one-more"), FEWEST));
        assert!(suspicions.is_to_ask(NOW + AGAIN_AFTER, &service("one-more"), FEWEST));
        assert_eq!(suspicions.services.len(), 1);
    }
}
