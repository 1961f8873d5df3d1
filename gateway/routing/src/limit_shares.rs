//! Limits of services over all gateways of a zone together: gateways tell each other what their clients use of a limit, and each holds
//! itself to what the others leave, or to its equal part where that is more. Pure.
//!
//! Exactness: what others use is some two seconds old. Gateways that all want more than their part have it to one place or to one a second
//! each; one that began to want more within those two seconds may take up to its equal part beyond the limit. A gateway that is not heard
//! of takes no part, and where none is heard, each holds the whole limit.

use std::{collections::BTreeMap, sync::Arc};

use arc_swap::ArcSwap;
use causeway_federation::{
    name::{ServiceName, ZoneName},
    topology::{RouteLimits, Topology},
};

use crate::{limits::UseKind, snapshot::Snapshot};

/// Most uses of limits that one gateway tells of, or keeps of another; the rest of each limit that is not told is held by each gateway alone.
pub const MAX_LIMIT_USES: usize = 1000;
/// Longest name of a caller that is told, in bytes.
pub const MAX_CALLER_BYTES: usize = 256;

/// Limit of a service, of which gateways of a zone have parts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum SharedLimit {
    /// Number of those under way at once.
    AtOnce(UseKind),
    /// Requests or connections a second.
    Rate,
    /// The same, of one caller.
    CallerRate(String),
}

/// Use of a limit by the clients of one gateway.
#[derive(Debug, Clone, PartialEq)]
pub struct LimitUse {
    pub service: ServiceName,
    pub limit: SharedLimit,
    /// Places that are taken; of a rate what is asked for in a second, whether or not it is served.
    pub amount: f64,
}

/// Use of limits by the other gateways of the zone.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct OthersUse(BTreeMap<ServiceName, BTreeMap<SharedLimit, Vec<f64>>>);

impl OthersUse {
    /// Adds what one gateway uses.
    pub fn add(&mut self, uses: &[LimitUse]) {
        for one in uses {
            let of_service = self.0.entry(one.service.clone()).or_default();
            of_service.entry(one.limit.clone()).or_default().push(one.amount);
        }
    }

    /// The part of a limit of `most` that this gateway may use: at least 1.
    #[must_use]
    pub fn allowed(&self, service: &ServiceName, limit: &SharedLimit, most: u64) -> u64 {
        let others = self.0.get(service).and_then(|limits| limits.get(limit));
        others.map_or(most, |others| rest(most, others))
    }
}

/// Rest that the others leave of a limit when it is divided so that nobody gets more than it uses, and nobody less than another that uses more
/// (max-min fairness), if this one would use all that it can get.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a limit above 2^53 loses nothing that matters, and no part is negative"
)]
fn rest(most: u64, others: &[f64]) -> u64 {
    let mut others: Vec<f64> = others.to_vec();
    others.sort_by(f64::total_cmp);
    let (mut left, mut sharers) = (most as f64, others.len() as f64 + 1.0);
    for used in others {
        if used > left / sharers {
            break;
        }
        left -= used.max(0.0);
        sharers -= 1.0;
    }
    ((left / sharers) as u64).clamp(1.min(most), most)
}

/// Use of limits by other gateways of the zone, as it is known now. Shared by all snapshots of a process, and changes in place.
#[derive(Debug, Default)]
pub struct LimitBoard(ArcSwap<OthersUse>);

impl LimitBoard {
    /// The part of a limit that this gateway may use.
    #[must_use]
    pub fn allowed(&self, service: &ServiceName, limit: &SharedLimit, most: u64) -> u64 {
        self.0.load().allowed(service, limit, most)
    }

    /// Has other uses take the place of those of before.
    pub fn publish(&self, others: OthersUse) {
        if **self.0.load() != others {
            self.0.store(Arc::new(others));
        }
    }
}

/// Tells whether any limit is declared, and any zone may have several gateways that share it.
#[must_use]
pub fn are_shared(snapshot: &Snapshot) -> bool {
    let topology = &snapshot.topology;
    let mut services = topology.services.values();
    if !services.any(|service| service.limits != RouteLimits::default()) {
        return false;
    }
    let mut others = topology.zones.keys().filter(|zone| **zone != snapshot.zone);
    has_several(topology, &snapshot.zone) || others.any(|zone| snapshot.catalog.zone(zone).nth(1).is_some())
}

/// Tells whether the own zone may have several gateways: the catalog has none of it, and gateways that nobody dials are not in the topology.
#[must_use]
pub fn has_several(topology: &Topology, own: &ZoneName) -> bool {
    topology
        .zones
        .get(own)
        .is_some_and(|zone| zone.gateways.len() != 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testbed::service;

    #[test]
    fn others_leave_what_they_do_not_use_and_never_less_than_an_equal_part() {
        for (others, expected) in [
            (&[][..], 100),
            (&[0.0], 100),
            (&[30.0], 70),
            (&[50.0], 50),
            (&[300.0], 50),
            (&[300.0, 300.0, 300.0], 25),
            (&[10.0, 300.0], 45),
            (&[300.0, 10.0], 45),
            (&[-5.0], 100),
        ] {
            assert_eq!(rest(100, others), expected, "{others:?}");
        }
        assert_eq!(rest(1, &[5.0, 5.0]), 1, "one at least");
        assert_eq!(rest(0, &[5.0]), 0);
    }

    #[test]
    fn limits_that_nobody_else_uses_are_whole() {
        let mut others = OthersUse::default();
        let used = |name: &str, limit, amount| LimitUse {
            service: service(name),
            limit,
            amount,
        };
        let web = || SharedLimit::CallerRate("web@east".to_owned());
        others.add(&[
            used("orders", SharedLimit::Rate, 80.0),
            used("orders", web(), 5.0),
        ]);
        others.add(&[used("orders", SharedLimit::Rate, 10.0)]);
        let board = LimitBoard::default();
        board.publish(others);
        let allowed = |name: &str, limit: SharedLimit| board.allowed(&service(name), &limit, 100);
        assert_eq!(allowed("orders", SharedLimit::Rate), 45);
        assert_eq!(allowed("orders", web()), 95);
        assert_eq!(
            allowed("orders", SharedLimit::CallerRate("other".to_owned())),
            100
        );
        assert_eq!(allowed("orders", SharedLimit::AtOnce(UseKind::Requests)), 100);
        assert_eq!(allowed("stock", SharedLimit::Rate), 100);
    }

    proptest! {
        /// Gateways that know of each other hold the limit together, and waste nothing of it.
        #[test]
        fn parts_add_up_to_the_limit(most in 10u64..10_000, wanted in prop::collection::vec(0.0f64..20_000.0, 1..8)) {
            let wanted: Vec<f64> = wanted.into_iter().map(f64::floor).collect();
            let got = |index: usize| {
                let mut others = wanted.clone();
                others.remove(index);
                wanted[index].min(f64::from(u32::try_from(rest(most, &others)).unwrap()))
            };
            let sum: f64 = (0..wanted.len()).map(got).sum();
            let (most, count) = (f64::from(u32::try_from(most).unwrap()), f64::from(u32::try_from(wanted.len()).unwrap()));
            prop_assert!(sum <= most);
            prop_assert!(sum >= most.min(wanted.iter().sum()) - count);
        }
    }
}
