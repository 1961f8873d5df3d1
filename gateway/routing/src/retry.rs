//! Tries of one request after the first: whether there is another, and where. Pure.
//!
//! A try goes where the decision for the request leads, which is made anew: in its order the rest of the arm's tier, the next tiers
//! that `failover` declares, and then the other arms. What has failed is left out:
//!
//! 1. An instance that was given the request is not given it again.
//! 2. A gateway of another zone comes after all that has not failed; it is then told which instances to leave out, and is asked only
//!    if it exports more than those.
//! 3. So does this zone, or another zone with all its gateways, once two of its instances have failed.

use causeway_federation::{
    name::{ServiceName, Tags, ZoneName},
    topology::{GrpcCode, Retry, RetryCondition},
};

use crate::{
    balance::takes_traffic,
    outlier::healthy_at,
    route::{Candidate, Destination},
    snapshot::Snapshot,
};

/// Instances with the same tags that fail in a zone before another zone is tried.
const ENOUGH_IN_A_ZONE: usize = 2;
/// Places that one further try chooses among.
const MAX_PLACES: usize = 16;

/// End of a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TryEnd {
    /// No instance was given a byte.
    NotReached,
    /// The connection ended without a byte of an answer.
    Reset,
    /// There was no answer for as long as one try may take.
    Late,
    /// An answer has begun: its status, and the code of a call that has ended with it.
    Answered { status: u16, code: Option<u32> },
}

impl TryEnd {
    /// The word for metrics.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::NotReached => "connect_failure",
            Self::Reset => "reset",
            Self::Late => "late",
            Self::Answered { .. } => "answer",
        }
    }
}

/// Tells whether a request with this method is tried again after one try came to this end, where it can be made again at all.
#[must_use]
pub fn is_tried_again(retry: &Retry, method: &str, end: TryEnd) -> bool {
    let on = |condition| retry.on.contains(&condition);
    let is_reason = match end {
        TryEnd::NotReached => return on(RetryCondition::ConnectFailure),
        TryEnd::Reset => on(RetryCondition::Reset),
        TryEnd::Late => retry.per_try_timeout.is_some(),
        TryEnd::Answered { status, code } => {
            let code = code.and_then(GrpcCode::of_number);
            on(RetryCondition::Status(status)) || code.is_some_and(|code| on(RetryCondition::Code(code)))
        }
    };
    is_reason && retry.methods.contains(method)
}

/// A try that failed.
#[derive(Debug, Clone)]
struct FailedTry {
    candidate: Candidate,
    zone: ZoneName,
    /// Number of the instance; 0: unknown.
    instance: u64,
}

/// The tries of one request that have failed.
#[derive(Debug, Clone, Default)]
pub struct FailedTries(Vec<FailedTry>);

impl FailedTries {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes up that the instance with this number (0: unknown), which `candidate` led to, has failed.
    pub fn failed(&mut self, own: &ZoneName, candidate: &Candidate, instance: u64) {
        self.0.push(FailedTry {
            zone: candidate.zone(own).clone(),
            candidate: candidate.clone(),
            instance,
        });
    }

    /// Numbers of the instances of `zone` that have failed.
    #[must_use]
    pub fn instances_of(&self, zone: &ZoneName) -> Vec<u64> {
        let known = self.0.iter().filter(|failed| failed.zone == *zone);
        let mut numbers: Vec<u64> = known.map(|failed| failed.instance).collect();
        numbers.retain(|number| *number != 0);
        numbers
    }

    /// Picks those of `decision` that a further try may go to, in order.
    #[must_use]
    pub fn others(
        &self,
        snapshot: &Snapshot,
        service: &ServiceName,
        decision: impl Iterator<Item = Candidate>,
    ) -> Vec<Candidate> {
        let (mut others, mut last) = (Vec::new(), Vec::new());
        for candidate in decision {
            if others.len() >= MAX_PLACES {
                break;
            }
            let zone = candidate.zone(&snapshot.zone);
            let in_zone =
                self.count(|failed| failed.zone == *zone && failed.candidate.tags == candidate.tags);
            let is_local = candidate.place == Destination::Local;
            let in_place = self.count(|failed| failed.candidate.asks_like(&candidate));
            if in_zone > 0 && !self.leaves_another(snapshot, service, &candidate) {
                continue;
            }
            match (in_zone < ENOUGH_IN_A_ZONE) && (is_local || in_place == 0) {
                true => others.push(candidate),
                false => last.push(candidate),
            }
        }
        others.append(&mut last);
        others.truncate(MAX_PLACES);
        others
    }

    fn count(&self, of: impl Fn(&FailedTry) -> bool) -> usize {
        self.0.iter().filter(|failed| of(failed)).count()
    }

    /// Tells whether a place has instances that have not failed.
    fn leaves_another(&self, snapshot: &Snapshot, service: &ServiceName, candidate: &Candidate) -> bool {
        let tags = &candidate.tags;
        let zone = candidate.zone(&snapshot.zone);
        match candidate.place {
            Destination::Local => {
                let failed = self.instances_of(zone);
                let instances = snapshot
                    .instances
                    .get(service)
                    .into_iter()
                    .flat_map(|list| list.iter());
                let mut instances = instances.filter(|instance| takes_traffic(instance));
                instances.any(|instance| instance.tags.matches(tags) && !failed.contains(&instance.number()))
            }
            Destination::Remote { .. } => {
                healthy_at(snapshot, service, candidate) > self.distinct(zone, tags)
            }
        }
    }

    /// Number of the instances that have failed, those that are unknown counted as one each.
    fn distinct(&self, zone: &ZoneName, tags: &Tags) -> u64 {
        let of_zone = self
            .0
            .iter()
            .filter(|failed| failed.zone == *zone && failed.candidate.tags == *tags);
        let mut known: Vec<u64> = of_zone.map(|failed| failed.instance).collect();
        known.sort_unstable();
        known.dedup_by(|one, other| one == other && *one != 0);
        known.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use causeway_federation::{catalog::Age, topology::Topology};
    use rand::{SeedableRng, rngs::SmallRng};

    use super::*;
    use crate::{
        route::{Request, route},
        snapshot::Link,
        target::Target,
        testbed::{entry, instance, service, snapshot, topology, zone},
    };

    fn declared(more: &str) -> Arc<Topology> {
        topology(
            "  home: {}\n  east: {}\n  west: {}",
            &format!("  orders: {{ port: 80, protocol: http, {more} }}"),
        )
    }

    fn retry(more: &str) -> Arc<Retry> {
        let topology = declared(&format!("retry: {{ {more} }}"));
        topology.services[&service("orders")].retry.clone().unwrap()
    }

    #[test]
    fn what_is_tried_again_is_what_the_service_says() {
        let answered = |status, code| TryEnd::Answered { status, code };
        let given = "on: [reset, 503, resource-exhausted], per_try_timeout: 2s";
        for (more, method, end, expected) in [
            ("", "GET", TryEnd::NotReached, true),
            ("", "POST", TryEnd::NotReached, true),
            (given, "POST", TryEnd::NotReached, false),
            ("", "GET", TryEnd::Reset, true),
            ("", "POST", TryEnd::Reset, false),
            ("methods: [POST]", "POST", TryEnd::Reset, true),
            ("methods: [POST]", "GET", TryEnd::Reset, false),
            ("on: [503]", "GET", TryEnd::Reset, false),
            ("", "GET", TryEnd::Late, false),
            (given, "GET", TryEnd::Late, true),
            (given, "POST", TryEnd::Late, false),
            ("", "GET", answered(200, None), false),
            ("", "GET", answered(503, None), true),
            ("", "PATCH", answered(503, None), false),
            ("", "GET", answered(500, None), false),
            ("on: [500]", "GET", answered(500, None), true),
            (given, "GET", answered(502, None), false),
            ("", "GET", answered(200, Some(0)), false),
            ("", "GET", answered(200, Some(14)), true),
            (given, "GET", answered(200, Some(14)), false),
            (given, "GET", answered(200, Some(8)), true),
            (given, "GET", answered(200, Some(77)), false),
        ] {
            let retry = retry(more);
            assert_eq!(
                is_tried_again(&retry, method, end),
                expected,
                "{more}: {method} {end:?}"
            );
        }
    }

    /// Two instances of v1 here and one of v2; two of v1 in east, one in west, which is the next tier.
    fn known() -> Snapshot {
        let split = "split: [{ tags: { version: v1 }, weight: 1000000 }, { tags: { version: v2 } }]";
        let failover = "failover: [{ zone: self }, { zone: east }, { zone: west }]";
        let topology = declared(&format!("{split}, {failover}"));
        let one = |id: &str, version: &str| {
            instance(id, "127.0.0.1:1".parse().unwrap(), 1, &[("version", version)])
        };
        let (v1, two) = (&[("version", "v1")][..], 2);
        snapshot(
            "home",
            &topology,
            vec![one("a", "v1"), one("b", "v1"), one("c", "v2")],
            vec![
                entry("east", Age::Fresh, false, &[(v1, two, two)]),
                entry("west", Age::Fresh, false, &[(v1, 1, 1)]),
            ],
            &[("east", Link::Up), ("west", Link::Up)],
        )
    }

    fn words(tries: &FailedTries, snapshot: &Snapshot) -> Vec<String> {
        let request = Request::new(Target::service(service("orders")));
        let decision = route(snapshot, &request, SmallRng::seed_from_u64(1));
        let others = tries.others(snapshot, &service("orders"), decision);
        let word = |candidate: &Candidate| {
            let version = candidate.tags.value("version").unwrap_or_default();
            format!("{} {version}", candidate.zone(&snapshot.zone))
        };
        others.iter().map(word).collect()
    }

    fn after(failed: &[(usize, &str)], snapshot: &Snapshot) -> Vec<String> {
        let request = Request::new(Target::service(service("orders")));
        let decision: Vec<_> = route(snapshot, &request, SmallRng::seed_from_u64(1)).collect();
        let mut tries = FailedTries::default();
        for (place, id) in failed {
            let number = match *id {
                "" => 0,
                id => crate::snapshot::instance_number(id),
            };
            tries.failed(&zone("home"), &decision[*place], number);
        }
        words(&tries, snapshot)
    }

    #[test]
    fn a_further_try_goes_on_where_failover_leads_and_never_to_what_has_failed() {
        let snapshot = known();
        let all = ["home v1", "east v1", "west v1", "home v2"];
        assert_eq!(after(&[], &snapshot), all);
        assert_eq!(after(&[(0, "a")], &snapshot), all, "the other instance here");
        assert_eq!(after(&[(0, "a"), (0, "b")], &snapshot), all[1..]);
        let east = ["home v1", "west v1", "home v2", "east v1"];
        assert_eq!(
            after(&[(1, "x")], &snapshot),
            east,
            "a gateway comes after the others"
        );
        assert_eq!(after(&[(1, "")], &snapshot), east);
        let gone = ["home v1", "west v1", "home v2"];
        assert_eq!(after(&[(1, "x"), (1, "y")], &snapshot), gone, "it exports two");
        assert_eq!(after(&[(2, "z")], &snapshot), ["home v1", "east v1", "home v2"]);
        let nowhere = [(0, "a"), (0, "b"), (1, "x"), (1, "y"), (2, "z"), (3, "c")];
        assert!(after(&nowhere, &snapshot).is_empty());
    }

    #[test]
    fn a_zone_is_left_once_two_of_its_instances_have_failed() {
        let mut snapshot = known();
        let v1 = &[("version", "v1")][..];
        let east = entry("east/gw1", Age::Fresh, false, &[(v1, 9, 9)]);
        let other = entry("east/gw2", Age::Fresh, false, &[(v1, 9, 9)]);
        let west = entry("west", Age::Fresh, false, &[(v1, 1, 1)]);
        let ids = [&east, &other, &west].map(|entry| entry.record.origin.clone());
        snapshot.catalog = Arc::new(causeway_federation::catalog::Catalog::new([east, other, west]));
        snapshot.links = Arc::new(ids.map(|id| (id, Link::Up)).into());
        snapshot.instances = Arc::default();
        assert_eq!(after(&[], &snapshot), ["east v1", "east v1", "west v1"]);
        assert_eq!(after(&[(0, "x")], &snapshot), ["east v1", "west v1", "east v1"]);
        let twice = after(&[(0, "x"), (1, "y")], &snapshot);
        assert_eq!(twice, ["west v1", "east v1", "east v1"]);
    }
}
