//! Ejections: of what, when, and by what.

use std::time::Duration;

use causeway_federation::topology::Outlier;

use super::{table::MAX_RECORDS, *};
use crate::testbed::{service, tags, topology, zone};

const NOW: Duration = Duration::from_secs(1000);
const EJECT: Duration = Duration::from_secs(30);

fn policy() -> Outlier {
    let topology = topology(
        "  home: {}",
        "  orders: { port: 80, protocol: http, outlier: { consecutive: 3, eject: 30s, max: 50% } }",
    );
    topology.services[&service("orders")].outlier.clone().unwrap()
}

/// A table, and the place that its tries go to.
struct Tried {
    table: OutlierTable,
    service: ServiceName,
    zone: ZoneName,
    tags: Tags,
    healthy: u64,
}

impl Tried {
    fn among(healthy: u64) -> Self {
        Self {
            table: OutlierTable::default(),
            service: service("orders"),
            zone: zone("east"),
            tags: tags(&[("version", "v1")]),
            healthy,
        }
    }

    fn tell(&mut self, now: Duration, instance: u64, is_well: bool) -> bool {
        self.tells(now, instance, (!is_well).then_some(TryFailure::Unavailable), 1)
    }

    /// One try of this client; `None`: it went well.
    fn tells(&mut self, now: Duration, instance: u64, failure: Option<TryFailure>, client: u64) -> bool {
        let at = TriedPlace {
            service: &self.service,
            port: None,
            zone: &self.zone,
            tags: &self.tags,
            instance,
            healthy: self.healthy,
            client,
        };
        match failure {
            None => self.table.succeeded(now, at),
            Some(failure) => self.table.failed(now, &policy(), failure, at),
        }
    }

    /// Numbers that come after the others, and whether the zone does.
    fn ejected(&mut self, now: Duration) -> (Vec<u64>, bool) {
        let ejected = self.table.ejected(now);
        let numbers = ejected.instances_of((&self.service, None), &self.zone, self.healthy, 0.5);
        let has_place = ejected.has_place((&self.service, None), &self.zone, &self.tags);
        (numbers.to_vec(), has_place)
    }
}

#[test]
fn an_instance_that_fails_in_a_row_is_ejected_and_its_zone_is_not() {
    let mut tried = Tried::among(4);
    for (instance, is_well) in [(7, false), (7, false), (7, true), (7, false), (7, false)] {
        assert!(!tried.tell(NOW, instance, is_well));
        assert_eq!(tried.ejected(NOW), (vec![], false));
    }
    assert!(tried.tell(NOW, 7, false));
    assert_eq!(tried.ejected(NOW), (vec![7], false));
    for _ in 0..10 {
        tried.tell(NOW, 7, false);
    }
    assert_eq!(
        tried.ejected(NOW),
        (vec![7], false),
        "what was under way says nothing new"
    );
    assert_eq!(tried.table.next(), Some(NOW + EJECT));
    assert_eq!(tried.ejected(NOW + EJECT), (vec![], false));
}

#[test]
fn one_that_has_come_back_has_a_single_chance_and_stays_away_longer_each_time() {
    let mut tried = Tried::among(4);
    for _ in 0..3 {
        tried.tell(NOW, 7, false);
    }
    let mut now = NOW + EJECT;
    for seconds in [60, 120, 240, 300, 300] {
        assert!(tried.tell(now, 7, false));
        let until = now + Duration::from_secs(seconds);
        assert_eq!(tried.table.next(), Some(until), "{seconds}");
        now = until;
    }
    tried.tell(now, 7, true);
    assert!(!tried.tell(now, 7, false), "all is forgotten once it is well");
    assert_eq!(tried.ejected(now), (vec![], false));
}

#[test]
fn a_set_keeps_at_least_half_but_one_of_two_can_go_and_never_all() {
    for (healthy, failing, expected) in [
        (1, 1, 0),
        (2, 1, 1),
        (2, 2, 0),
        (3, 1, 1),
        (3, 2, 1),
        (4, 3, 2),
        (10, 7, 5),
        (10, 10, 0),
    ] {
        let mut tried = Tried::among(healthy);
        for instance in 1..=failing {
            for _ in 0..3 {
                tried.tell(NOW, instance, false);
            }
        }
        let (numbers, _) = tried.ejected(NOW);
        assert_eq!(numbers.len(), expected, "{failing} of {healthy}");
    }
}

#[test]
fn a_zone_is_ejected_by_several_instances_in_a_row_or_by_the_only_one() {
    let mut tried = Tried::among(10);
    for instance in [1, 2, 3] {
        tried.tell(NOW, instance, false);
    }
    assert_eq!(tried.ejected(NOW), (vec![], true));
    assert!(tried.tell(NOW, 4, true), "one that is well brings it back");
    assert_eq!(tried.ejected(NOW), (vec![], false));
    let mut tried = Tried::among(10);
    for instance in [1, 2, 9, 2, 1] {
        tried.tell(NOW, instance, instance == 9);
    }
    assert_eq!(tried.ejected(NOW), (vec![], false), "one is well between them");
    let mut alone = Tried::among(1);
    for _ in 0..3 {
        alone.tell(NOW, 1, false);
    }
    assert_eq!(alone.ejected(NOW), (vec![], true));
}

#[test]
fn the_table_is_bounded() {
    let mut tried = Tried::among(100_000);
    for number in 1..=20_000 {
        tried.tell(NOW, number, false);
    }
    assert!(tried.table.instances.len() <= MAX_RECORDS);
}

/// Errors such as 500, of these clients at these instances in turn; `None`: it went well.
fn errors(tried: &mut Tried, tries: &[(u64, u64, bool)]) -> (Vec<u64>, bool) {
    for (client, instance, is_well) in tries {
        tried.tells(NOW, *instance, (!is_well).then_some(TryFailure::Error), *client);
    }
    tried.ejected(NOW)
}

#[test]
fn errors_that_one_client_alone_gets_wherever_it_goes_eject_nothing() {
    let poisonous: Vec<_> = (0..40).map(|nth| (1, nth % 4 + 1, false)).collect();
    assert_eq!(errors(&mut Tried::among(4), &poisonous), (vec![], false));
    let alone: Vec<_> = (0..40).map(|_| (1, 1, false)).collect();
    assert_eq!(errors(&mut Tried::among(1), &alone), (vec![], false));
    // Others are served well elsewhere, and a row of the poisonous client's alone comes about.
    let mut mixed = poisonous;
    mixed.extend((0..40).map(|nth| (2 + nth % 5, nth % 4 + 1, true)));
    mixed.extend((0..12).map(|nth| (1, nth % 4 + 1, false)));
    assert_eq!(errors(&mut Tried::among(4), &mixed), (vec![], false));
}

#[test]
fn errors_of_two_clients_or_of_one_that_others_serve_well_eject() {
    let two = [(1, 7, false), (1, 7, false), (2, 7, false)];
    assert_eq!(errors(&mut Tried::among(4), &two), (vec![7], false));
    let served = [
        (1, 7, false),
        (1, 8, true),
        (1, 7, false),
        (1, 8, true),
        (1, 7, false),
    ];
    assert_eq!(errors(&mut Tried::among(4), &served), (vec![7], false));
    // Half of the instances fail it, and one after the other is found.
    let mut half = Tried::among(4);
    let round = [
        (1, 1, false),
        (1, 2, false),
        (1, 3, true),
        (1, 4, true),
        (1, 3, true),
    ];
    let found = (0..4).map(|_| errors(&mut half, &round)).last();
    assert_eq!(found, Some((vec![1, 2], false)));
}

#[test]
fn what_no_request_is_to_blame_for_ejects_whoever_met_with_it() {
    for failure in [TryFailure::Unavailable, TryFailure::Reset, TryFailure::Late] {
        let mut tried = Tried::among(1);
        for failure in [TryFailure::Error, TryFailure::Error, failure] {
            tried.tells(NOW, 1, Some(failure), 1);
        }
        assert_eq!(tried.ejected(NOW), (vec![], true), "{failure:?}");
    }
}

#[test]
fn an_ejection_says_since_when_until_when_and_why() {
    let mut tried = Tried::among(1);
    let before = tried.table.ejected(NOW);
    for failure in [TryFailure::Late, TryFailure::Unavailable, TryFailure::Late] {
        tried.tells(NOW, 5, Some(failure), 1);
    }
    let after = tried.table.ejected(NOW);
    let told: Vec<_> = after.added_to(&before).map(|ejection| &ejection.part).collect();
    assert_eq!(
        told,
        [&EjectedPart::Instance(5), &EjectedPart::Zone(tried.tags.clone())]
    );
    let ejection = &after.list()[0];
    assert_eq!(
        (ejection.since, ejection.until, ejection.times),
        (NOW, NOW + EJECT, 1)
    );
    let why = "3 failures in a row (1 unavailable such as 503, 2 no answer in time)";
    assert_eq!(ejection.failures.to_string(), why);
    assert_eq!(after.added_to(&after).count(), 0);
    let back = tried.table.ejected(NOW + EJECT);
    assert_eq!(back.returned_from(&after).count(), 2);
    assert_eq!(after.returned_from(&after).count(), 0);
    tried.tell(NOW + EJECT, 5, false);
    let again = tried.table.ejected(NOW + EJECT);
    assert_eq!(
        again.added_to(&after).count(),
        2,
        "ejected anew before anybody looked"
    );
    assert_eq!(again.of_service(&service("orders")).count(), 2);
    assert_eq!(again.of_service(&service("web")).count(), 0);
}

#[test]
fn each_port_of_a_service_is_judged_by_itself() {
    let (orders, east, none) = (service("orders"), zone("east"), tags(&[]));
    let names = ["http", "admin"].map(|name| PortName::new(name).unwrap());
    let [http, admin] = &names;
    let at = |port| TriedPlace {
        service: &orders,
        port: Some(port),
        zone: &east,
        tags: &none,
        instance: 7,
        healthy: 1,
        client: 1,
    };
    let mut table = OutlierTable::default();
    for _ in 0..3 {
        table.failed(NOW, &policy(), TryFailure::Unavailable, at(admin));
        // What goes well at one port takes nothing back at the other.
        table.succeeded(NOW, at(http));
    }
    let ejected = table.ejected(NOW);
    let comes_last = |port| {
        let at = (&orders, Some(port));
        let numbers = ejected.instances_of(at, &east, 4, 0.5);
        (numbers.to_vec(), ejected.has_place(at, &east, &none))
    };
    assert_eq!(comes_last(admin), (vec![7], true));
    assert_eq!(comes_last(http), (vec![], false));
    assert_eq!(ejected.list()[0].port.as_ref(), Some(admin));
}

#[test]
fn another_process_goes_on_with_what_is_ejected_for_the_time_that_is_left_and_no_longer() {
    let mut tried = Tried::among(1);
    for _ in 0..3 {
        tried.tell(NOW, 7, false);
    }
    let told_at = NOW + Duration::from_secs(10);
    let told = tried.table.carried(told_at);
    assert_eq!(told.len(), 2, "the instance, and its zone");
    // Its clock has just begun.
    let (mut next, began) = (Tried::among(4), Duration::from_secs(1));
    next.table.carry_on(began, &told);
    let left = Duration::from_secs(20);
    assert_eq!(next.table.next(), Some(began + left));
    assert_eq!(
        next.ejected(began + left - Duration::from_millis(1)),
        (vec![7], true)
    );
    assert_eq!(
        next.table.ejected(began).list()[0].failures,
        tried.table.ejected(told_at).list()[0].failures
    );
    assert_eq!(next.ejected(began + left), (vec![], false));
    // One more failure has it away for twice as long, as it would have been there.
    assert!(next.tell(began + left, 7, false));
    assert_eq!(next.table.next(), Some(began + left + 2 * EJECT));
}

#[test]
fn another_process_ejects_what_has_just_come_back_for_longer_too() {
    let mut tried = Tried::among(1);
    for _ in 0..3 {
        tried.tell(NOW, 7, false);
    }
    let told_at = NOW + EJECT + Duration::from_secs(1);
    assert_eq!(tried.ejected(told_at), (vec![], false));
    let told = tried.table.carried(told_at);
    let (mut next, began) = (Tried::among(4), Duration::from_secs(1));
    next.table.carry_on(began, &told);
    assert_eq!(next.ejected(began), (vec![], false), "it has come back");
    assert!(next.tell(began, 7, false), "it has a single chance");
    assert_eq!(next.table.next(), Some(began + 2 * EJECT));
}
