//! Standing of a service at one moment: which tier serves an arm of it, and what goes elsewhere. The same filters and shares as those of
//! [`route`](super::route()), without a draw.

use causeway_federation::name::{ServiceName, Tags, ZoneName};
use rand::{SeedableRng as _, rngs::SmallRng};

use super::{
    Request, Why,
    homes::{Home, Homes},
    reason::Reason,
    route,
    spill::healthy_below,
    tiers::of_arm_alone,
};
use crate::{snapshot::Snapshot, target::Target};

/// Most zones that a standing names.
const MAX_ZONES: usize = 8;
/// Share below which nothing goes elsewhere, but for rounding.
const NO_SHARE: f64 = 1e-6;

/// Places that serve an arm of a service now.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ArmStanding {
    /// Tier (from 1) that comes first; `None`: no zone can serve it, not even in panic.
    pub tier: Option<usize>,
    /// Zones of it that come first, at most 8.
    pub zones: Vec<ZoneName>,
    /// Share (0 to 1) of the traffic that goes to later tiers.
    pub spilled: f64,
    /// Share (0 to 1) that is refused for want of capacity.
    pub shed: f64,
    /// An earlier tier, or this one, could take more than failback lets it.
    pub is_returning: bool,
    /// Its instances are ill, and used because none of its service is healthy in any zone.
    pub in_panic: bool,
}

impl ArmStanding {
    /// Tier that serves with healthy instances.
    #[must_use]
    pub fn home(&self) -> Option<usize> {
        self.tier.filter(|_| !self.in_panic)
    }
}

/// Finds out how an arm of a service stands. `None`: the topology has no such service.
#[must_use]
pub fn standing(snapshot: &Snapshot, name: &ServiceName, arm: &Tags) -> Option<ArmStanding> {
    let now = arm_standing(snapshot, name, arm)?;
    match now.tier.is_none() && panics(snapshot, name) {
        true => of_arm_alone(snapshot, (name, arm), true, |_, homes| {
            let (tier, zones) = first(&homes, &snapshot.zone);
            ArmStanding {
                tier,
                in_panic: tier.is_some(),
                zones,
                ..ArmStanding::default()
            }
        }),
        false => Some(now),
    }
}

/// Tells whether no arm of a service has a home, so that those are used that are ill.
fn panics(snapshot: &Snapshot, name: &ServiceName) -> bool {
    let Some(service) = snapshot
        .topology
        .services
        .get(name)
        .filter(|service| service.panics())
    else {
        return false;
    };
    let arms = snapshot.split_of(name, service).iter();
    let has_home = |arm: &Tags| {
        of_arm_alone(snapshot, (name, arm), false, |_, homes| !homes.left.is_empty()) == Some(true)
    };
    !arms.filter(|arm| arm.weight > 0).any(|arm| has_home(&arm.tags))
}

fn arm_standing(snapshot: &Snapshot, name: &ServiceName, arm: &Tags) -> Option<ArmStanding> {
    of_arm_alone(snapshot, (name, arm), false, |service, homes| {
        let plan = snapshot.capacity.plan();
        let planned = plan.shares(name, arm, service.criticality);
        let (tier, zones) = first(&homes, &snapshot.zone);
        let later = homes.shares.iter().skip(tier.unwrap_or(homes.shares.len()));
        let ceilings = snapshot.ceilings.load();
        let ceilings = ceilings.of(name, arm).iter();
        let returns = |(ceiling, fitness): (&f64, f64)| *ceiling + NO_SHARE < fitness;
        let fitness = homes
            .tiers
            .iter()
            .map(|tier| tier.fitness(healthy_below(service)));
        ArmStanding {
            tier,
            zones,
            spilled: some_share(later.sum()),
            shed: some_share(planned.map_or(0.0, |planned| planned.shed)),
            is_returning: ceilings.zip(fitness).any(returns),
            in_panic: false,
        }
    })
}

/// Says of each place why it is taken or passed over for an arm of a service, as `explain` does.
#[must_use]
pub fn reasons(snapshot: &Snapshot, name: &ServiceName, arm: &Tags) -> Vec<Reason> {
    let service = snapshot.topology.services.get(name);
    let port = service.and_then(|service| service.ports.primary.name.clone());
    let split = service.and_then(|service| {
        let arms = snapshot.split_of(name, service).iter();
        let arms: Vec<_> = arms.filter(|one| one.tags == *arm).cloned().collect();
        (!arms.is_empty()).then(|| arms.into())
    });
    let request = Request::explained(Target::service(name.clone()));
    let request = request.at_port(port).with_split(split);
    let decision = route(snapshot, &request, SmallRng::seed_from_u64(0));
    let all = decision.complete().reasons.into_iter();
    let is_place = |reason: &Reason| !matches!(reason.why, Why::ArmPicked | Why::ArmByName);
    all.filter(is_place).collect()
}

/// Tier that comes first, and its zones.
fn first(homes: &Homes<'_>, own: &ZoneName) -> (Option<usize>, Vec<ZoneName>) {
    let by_share = homes.shares.iter().position(|share| *share > NO_SHARE);
    let in_first = |home: &&Home<'_>| by_share.is_none_or(|place| home.grounds.tier == Some(place + 1));
    let candidates = || homes.left.iter().filter(in_first);
    let Some(best) = candidates().map(|home| home.grounds.rank()).min() else {
        return (None, Vec::new());
    };
    let mut zones: Vec<ZoneName> = candidates()
        .filter(|home| home.grounds.rank() == best)
        .map(|home| home.zone().unwrap_or(own).clone())
        .collect();
    zones.sort_unstable();
    zones.dedup();
    zones.truncate(MAX_ZONES);
    (best.tier, zones)
}

fn some_share(share: f64) -> f64 {
    if share > NO_SHARE { share.min(1.0) } else { 0.0 }
}
