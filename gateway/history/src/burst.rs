//! Sums up events of which many of a kind come at once, so that a zone with a thousand instances that fall ill does not push a day of
//! history out. Time is an argument.

use std::{collections::BTreeMap, time::Duration};

use crate::event::{EventKind, NewEvent};

/// Events of one kind and service that are told one by one within a minute, or of one kind that are about no service.
pub const MAX_OF_KIND_PER_MINUTE: u64 = 60;
/// Events of one kind that are told one by one within a minute, of all services together.
const MAX_OF_ALL_SERVICES: u64 = 300;
/// Of each service so many are told in any case, so that a flood of others' events hides none of its first ones.
const OF_EACH_SERVICE: u64 = 5;
/// Services that are told apart within a minute, by kind; all further ones count as one.
const MAX_SERVICES: usize = 256;
/// Time after which those beyond it are summed up.
const MINUTE: Duration = Duration::from_secs(60);

/// Counts of the minute that is under way.
#[derive(Debug, Default)]
pub struct BurstLimit {
    began: Duration,
    kinds: BTreeMap<EventKind, KindCounts>,
}

/// Counts of one kind.
#[derive(Debug, Default)]
struct KindCounts {
    told: u64,
    services: BTreeMap<Subject, Counts>,
}

/// Service that events are about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    None,
    Service(String),
    /// Those beyond [`MAX_SERVICES`].
    Others,
}

/// Events that were told one by one, and those that were held back.
#[derive(Debug, Default)]
struct Counts {
    told: u64,
    held: u64,
}

impl KindCounts {
    /// Counts another one, and says whether it is to be told.
    fn count(&mut self, service: Option<&str>) -> bool {
        let is_full = self.services.len() >= MAX_SERVICES;
        let subject = service.map_or(Subject::None, |name| Subject::Service(name.to_owned()));
        let subject = match is_full && !self.services.contains_key(&subject) {
            true => Subject::Others,
            false => subject,
        };
        let counts = self.services.entry(subject).or_default();
        let has_room = self.told < MAX_OF_ALL_SERVICES && counts.told < MAX_OF_KIND_PER_MINUTE;
        let is_told = has_room || counts.told < OF_EACH_SERVICE;
        match is_told {
            true => {
                counts.told += 1;
                self.told += 1;
            }
            false => counts.held += 1,
        }
        is_told
    }
}

impl BurstLimit {
    /// Gives the events to be told at `now`, of any clock that never goes back: those that there is room for, and once a minute is over
    /// how many were held back in it. To be called now and then without events, too.
    pub fn admit(&mut self, now: Duration, events: Vec<NewEvent>) -> Vec<NewEvent> {
        let mut told = Vec::new();
        if now.saturating_sub(self.began) >= MINUTE {
            told = self.sum_up();
            self.began = now;
        }
        for event in events {
            let counts = self.kinds.entry(event.kind).or_default();
            if counts.count(event.service.as_deref()) {
                told.push(event);
            }
        }
        told
    }

    /// Tells how many were held back until now.
    pub fn sum_up(&mut self) -> Vec<NewEvent> {
        let kinds = std::mem::take(&mut self.kinds).into_iter();
        let all = kinds.flat_map(|(kind, counts)| {
            let services = counts.services.into_iter();
            services.map(move |(subject, counts)| (kind, subject, counts.held))
        });
        let held = all.filter(|(_, _, held)| *held > 0);
        held.map(|(kind, subject, count)| {
            let of = match &subject {
                Subject::None => String::new(),
                Subject::Service(name) => format!(" of {name}"),
                Subject::Others => " of other services".to_owned(),
            };
            let text = format!("{count} more events of kind {}{of} within a minute", kind.word());
            let because = format!("{MAX_OF_KIND_PER_MINUTE} of a kind and service are told one by one, of all services {MAX_OF_ALL_SERVICES}");
            let event = NewEvent::new(kind, text).because(because);
            let event = match subject {
                Subject::Service(name) => event.service(name),
                Subject::None | Subject::Others => event,
            };
            NewEvent { count, ..event }
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ill(count: usize) -> Vec<NewEvent> {
        (0..count)
            .map(|nth| NewEvent::new(EventKind::InstanceUnhealthy, format!("instance {nth}")))
            .collect()
    }

    #[test]
    fn a_thousand_at_once_are_told_in_part_and_summed_up_after_a_minute() {
        let mut limit = BurstLimit::default();
        let at = Duration::from_secs;
        assert_eq!(limit.admit(at(1), ill(900)).len(), 60);
        let other = NewEvent::new(EventKind::TunnelDown, "down");
        assert_eq!(
            limit.admit(at(2), vec![other.clone()]),
            vec![other],
            "each kind has its own room"
        );
        assert!(limit.admit(at(59), ill(100)).is_empty());
        let told = limit.admit(at(60), ill(1));
        assert_eq!(told.len(), 2);
        assert_eq!((told[0].count, told[0].kind), (940, EventKind::InstanceUnhealthy));
        assert!(told[0].text.starts_with("940 more events"), "{}", told[0].text);
        assert!(
            limit.admit(at(120), Vec::new()).is_empty(),
            "nothing was held back"
        );
    }

    /// Events of a service.
    fn of(service: &str, count: usize) -> Vec<NewEvent> {
        ill(count)
            .into_iter()
            .map(|event| event.service(service))
            .collect()
    }

    #[test]
    fn a_flood_of_one_service_or_of_many_hides_no_others_events() {
        let mut limit = BurstLimit::default();
        let at = Duration::from_secs;
        assert_eq!(limit.admit(at(1), of("orders", 900)).len(), 60);
        assert_eq!(limit.admit(at(1), of("carts", 20)).len(), 20);
        let many = (0..20).flat_map(|nth| of(&format!("flood{nth}"), 100)).collect();
        assert!(limit.admit(at(2), many).len() < 400);
        assert_eq!(limit.admit(at(3), of("ledger", 7)).len(), 5);
        let told = limit.admit(at(61), Vec::new());
        let of = |service: &str| {
            told.iter()
                .find(|event| event.service.as_deref() == Some(service))
        };
        let sum = |service: &str| of(service).map(|event| (event.count, event.text.as_str()));
        let text = "840 more events of kind instance_unhealthy of orders within a minute";
        assert_eq!(sum("orders"), Some((840, text)));
        assert_eq!(sum("carts"), None);
        assert_eq!(sum("ledger").map(|(count, _)| count), Some(2));
    }

    #[test]
    fn there_is_an_end_to_the_services_that_are_told_apart() {
        let mut limit = BurstLimit::default();
        let many = (0..10_000)
            .flat_map(|nth| of(&format!("s{nth:04}"), 10))
            .collect();
        let told = limit.admit(Duration::from_secs(1), many);
        assert!(told.len() <= 300 + 5 * (MAX_SERVICES + 1), "{}", told.len());
        let sums = limit.sum_up();
        assert!(sums.len() <= MAX_SERVICES + 1, "{}", sums.len());
        let summed: u64 = sums.iter().map(|event| event.count).sum();
        assert_eq!(summed + told.len() as u64, 100_000);
        let last = sums.last().map(|event| event.text.as_str()).unwrap_or_default();
        assert!(last.ends_with("of other services within a minute"), "{last}");
    }
}
