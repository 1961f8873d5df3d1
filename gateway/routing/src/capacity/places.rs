//! From a snapshot and what is asked for to shares: which zones can serve whom, as this gateway sees them.

use std::collections::{BTreeMap, BTreeSet};

use causeway_federation::{
    catalog::{Age, Export, InstanceState, exports},
    name::{ServiceName, Tags, ZoneName},
    topology::{Criticality, Service},
};

use super::{
    CapacityPlan, CapacityShares, DemandedRate, PlannedService, ZoneDemands, ZoneRoom, ZoneShare,
    criticalities,
    fill::{CapacityClaim, CapacityPool, ClaimedZone, FilledClaim, fill},
    is_measured, is_respected,
    measured::MeasuredCapacities,
};
use crate::{
    outlier::Ejected,
    route::{TierHealth, healthy_below, tier_between},
    snapshot::{Health, Link, Snapshot},
};

/// Demand that is made up where none is, so that the first request finds a share.
const FIRST: f64 = 1e-3;
/// Share that is nobody's.
const NEGLIGIBLE: f64 = 1e-6;

/// Works out where the clients of this zone's gateways send what they ask for.
#[must_use]
pub fn plan(snapshot: &Snapshot, demands: &ZoneDemands) -> CapacityPlan {
    let own = BTreeSet::from([snapshot.zone.clone()]);
    let mut plans = plans(snapshot, demands, &own);
    plans.remove(&snapshot.zone).unwrap_or_default()
}

/// Tells whether any service has a capacity that is respected.
#[must_use]
pub fn matters(snapshot: &Snapshot) -> bool {
    let services = snapshot.topology.services.iter();
    let mut respected = services.filter(|(_, service)| is_respected(service));
    respected.any(|(name, service)| is_measured(service) || declares(&servers(snapshot, name, service)))
}

fn declares(zones: &[ServingZone<'_>]) -> bool {
    let mut exports = zones.iter().flat_map(|zone| &zone.exports);
    exports.any(|export| export.capacity_per_second.is_some())
}

/// The plan of each of these zones, as this gateway sees them.
#[must_use]
pub fn plans(
    snapshot: &Snapshot,
    demands: &ZoneDemands,
    wanted: &BTreeSet<ZoneName>,
) -> BTreeMap<ZoneName, CapacityPlan> {
    let mut plans: BTreeMap<ZoneName, CapacityPlan> = BTreeMap::new();
    let ejected = snapshot.ejections.load();
    let measured = snapshot.capacity.measured();
    for (name, service) in &snapshot.topology.services {
        if !is_respected(service) {
            continue;
        }
        let scene = ServiceScene {
            snapshot,
            ejected: &ejected,
            name,
            service,
            zones: servers(snapshot, name, service),
            measured: is_measured(service).then_some(&**measured),
        };
        if scene.measured.is_none() && !declares(&scene.zones) {
            continue;
        }
        for (zone, planned) in scene.planned(demands, wanted) {
            let plan = plans.entry(zone.clone()).or_default();
            plan.services.insert(name.clone(), planned);
        }
    }
    plans
}

/// Zone that tells of instances of a service.
struct ServingZone<'s> {
    name: &'s ZoneName,
    exports: Vec<Export>,
    /// It can be reached, and does not drain.
    is_usable: bool,
    /// The topology drains it, and else it would be usable.
    is_drained: bool,
}

/// One service, and who serves it.
struct ServiceScene<'s> {
    snapshot: &'s Snapshot,
    ejected: &'s Ejected,
    name: &'s ServiceName,
    service: &'s Service,
    zones: Vec<ServingZone<'s>>,
    /// Capacity that was measured; `None`: it is not asked for.
    measured: Option<&'s MeasuredCapacities>,
}

impl<'s> ServiceScene<'s> {
    fn planned<'w>(
        &self,
        demands: &'w ZoneDemands,
        wanted: &'w BTreeSet<ZoneName>,
    ) -> Vec<(&'w ZoneName, PlannedService)> {
        let (whose, claims): (Vec<&ZoneName>, Vec<CapacityClaim>) =
            self.claims(demands, wanted).into_iter().unzip();
        let mut pools = self.pools();
        let before = pools.clone();
        let mut filled = fill(&mut pools, &claims, healthy_below(self.service));
        self.fill_drained(&mut pools, &claims, &mut filled);
        let rooms = self.rooms(&before, &pools);
        let asked = claims.iter().map(|claim| claim.per_second);
        // What is made up is asked for by nobody.
        let demanded_per_second = asked.filter(|rate| *rate > FIRST).sum();
        let of_zone = |zone: &'w ZoneName| {
            let mut planned = PlannedService {
                rooms: rooms.clone(),
                demanded_per_second,
                ..PlannedService::default()
            };
            let own = whose.iter().zip(&claims).zip(&filled);
            for ((_, claim), filled) in own.filter(|((of, _), _)| **of == zone) {
                if filled.is_limited {
                    let shares = planned.shares.entry(claim.tags.clone()).or_default();
                    shares[claim.criticality.index()] = Some(self.shares(claim, filled));
                }
            }
            (zone, planned)
        };
        wanted.iter().map(of_zone).collect()
    }

    /// Gives what nobody else has room for to zones that the topology drains: it would be shed while they can serve.
    fn fill_drained(&self, pools: &mut [CapacityPool], claims: &[CapacityClaim], filled: &mut [FilledClaim]) {
        if !self.zones.iter().any(|zone| zone.is_drained) {
            return;
        }
        let left = |claim: &CapacityClaim, filled: &FilledClaim| match filled.is_limited {
            true => (claim.per_second - filled.taken.iter().sum::<f64>()).max(0.0),
            false => 0.0,
        };
        let rest = claims.iter().zip(&*filled).map(|(claim, filled)| CapacityClaim {
            per_second: left(claim, filled),
            zones: claim.zones.iter().map(ClaimedZone::if_drained).collect(),
            ceilings: Vec::new(),
            ..claim.clone()
        });
        let rest: Vec<CapacityClaim> = rest.collect();
        let more = fill(pools, &rest, healthy_below(self.service));
        for (filled, more) in filled.iter_mut().zip(more) {
            for (taken, more) in filled.taken.iter_mut().zip(more.taken) {
                *taken += more;
            }
        }
    }

    /// Every demand that may be served somewhere, and those that the zones of `wanted` may have.
    fn claims<'w>(
        &self,
        demands: &'w ZoneDemands,
        wanted: &'w BTreeSet<ZoneName>,
    ) -> Vec<(&'w ZoneName, CapacityClaim)> {
        let mut claims = Vec::new();
        let callers: BTreeSet<&ZoneName> = demands.keys().chain(wanted).collect();
        for caller in callers {
            let mut rates: BTreeMap<(&Tags, Criticality), f64> = BTreeMap::new();
            if wanted.contains(caller) {
                for arm in self.service.all_arms() {
                    for criticality in criticalities(self.service) {
                        rates.insert((&arm.tags, criticality), FIRST);
                    }
                }
            }
            let demanded = demands.get(caller).into_iter().flatten();
            let of_service = |one: &&DemandedRate| one.service == *self.name;
            for one in demanded.filter(of_service) {
                rates.insert((&one.tags, one.criticality), one.per_second);
            }
            for ((tags, criticality), per_second) in rates {
                claims.push((caller, self.claim(caller, tags, criticality, per_second)));
            }
        }
        claims
    }

    fn claim(
        &self,
        caller: &ZoneName,
        tags: &Tags,
        criticality: Criticality,
        per_second: f64,
    ) -> CapacityClaim {
        let declared = &self.snapshot.topology.zones;
        let caller_tags = declared.get(caller).map(|zone| &zone.tags);
        let is_own = *caller == self.snapshot.zone;
        let starts = self.snapshot.ceilings.load();
        let part_of = |zone: &ZoneName| match is_own {
            true => starts.part_of_zone(self.name, tags, zone),
            false => 1.0,
        };
        let claimed = |(place, zone): (usize, &ServingZone<'_>)| {
            if zone.name != caller && !self.service.is_exported_to(caller) {
                return None;
            }
            let zone_tags = declared.get(zone.name).map(|zone| &zone.tags);
            let tier = tier_between(self.service, (caller, caller_tags), (zone.name, zone_tags))?;
            let port = self.service.ports.primary.name.as_ref();
            let fails = self.ejected.has_place((self.name, port), zone.name, tags);
            let fitting = zone.exports.iter().filter(|export| export.tags.matches(tags));
            let (mut health, mut weight) = (TierHealth::default(), 0u64);
            for export in fitting {
                health = health.plus(TierHealth {
                    healthy: export.healthy.into(),
                    instances: export.instances.into(),
                });
                // Without a healthy one it is the weight of those that serve in panic.
                if export.healthy > 0 {
                    weight = weight.saturating_add(export.weight);
                }
            }
            let drained = match zone.is_drained && !fails && weight > 0 {
                true => health,
                false => TierHealth::default(),
            };
            if !zone.is_usable || fails || weight == 0 {
                health.healthy = 0;
            }
            Some(ClaimedZone {
                zone: place,
                tier,
                is_own: zone.name == caller,
                weight: float(weight) * part_of(zone.name),
                health,
                drained,
            })
        };
        let ceilings = match is_own {
            true => starts.of(self.name, tags).to_vec(),
            false => Vec::new(),
        };
        CapacityClaim {
            tags: tags.clone(),
            criticality,
            per_second,
            zones: self.zones.iter().enumerate().filter_map(claimed).collect(),
            ceilings,
        }
    }

    fn pools(&self) -> Vec<CapacityPool> {
        let zones = self.zones.iter().enumerate();
        let of_zone = |(zone, serving): (usize, &ServingZone<'_>)| {
            let exports = serving
                .exports
                .iter()
                .filter(|export| export.healthy > 0 && export.weight > 0);
            let pool = |export: &Export| {
                let (room, is_measured) = self.room_of(serving.name, export);
                CapacityPool {
                    zone,
                    tags: export.tags.clone(),
                    room,
                    is_measured,
                }
            };
            exports.map(pool).collect::<Vec<_>>()
        };
        zones.flat_map(of_zone).collect()
    }

    /// Capacity of the instances behind an export, and whether that was measured.
    fn room_of(&self, zone: &ZoneName, export: &Export) -> (f64, bool) {
        match self.measured {
            Some(measured) => measured.room_of(zone, export),
            None => MeasuredCapacities::default().room_of(zone, export),
        }
    }

    fn is_bound_measured(&self, zone: &ServingZone<'_>) -> bool {
        let mut exports = zone.exports.iter();
        exports.any(|export| self.room_of(zone.name, export).1)
    }

    fn shares(&self, claim: &CapacityClaim, filled: &FilledClaim) -> CapacityShares {
        let taken = claim.zones.iter().zip(&filled.taken);
        let share = |(zone, taken): (&ClaimedZone, &f64)| ZoneShare {
            zone: self.zones[zone.zone].name.clone(),
            tier: zone.tier + 1,
            share: taken / claim.per_second,
            is_measured: self.is_bound_measured(&self.zones[zone.zone]),
        };
        let mut zones: Vec<ZoneShare> = taken.map(share).collect();
        zones.retain(|zone| zone.share > NEGLIGIBLE);
        zones.sort_by(|a, b| (a.tier, &a.zone).cmp(&(b.tier, &b.zone)));
        let shed = 1.0 - zones.iter().map(|zone| zone.share).sum::<f64>();
        CapacityShares {
            zones,
            // What rounding leaves is nobody's.
            shed: if shed > NEGLIGIBLE { shed } else { 0.0 },
        }
    }

    /// Of zones all of whose instances declare what they can take, or were found to.
    fn rooms(&self, before: &[CapacityPool], after: &[CapacityPool]) -> BTreeMap<ZoneName, ZoneRoom> {
        let mut rooms: BTreeMap<usize, ZoneRoom> = BTreeMap::new();
        for (before, after) in before.iter().zip(after) {
            let room = rooms.entry(before.zone).or_default();
            room.capacity_per_second += before.room;
            room.planned_per_second += before.room - after.room;
            room.is_measured |= before.is_measured;
        }
        let known = rooms
            .into_iter()
            .filter(|(_, room)| room.capacity_per_second.is_finite());
        known
            .map(|(zone, room)| (self.zones[zone].name.clone(), room))
            .collect()
    }
}

/// Everybody who may serve a service and tells of instances: this zone, and of each other zone the gateway that can do most.
fn servers<'s>(snapshot: &'s Snapshot, name: &ServiceName, service: &Service) -> Vec<ServingZone<'s>> {
    let mut zones = vec![ServingZone {
        name: &snapshot.zone,
        exports: own_exports(snapshot, name),
        is_usable: !snapshot.drains(&snapshot.zone),
        is_drained: snapshot.drains(&snapshot.zone),
    }];
    for entry in snapshot.catalog.exporters(name) {
        let gateway = &entry.record.origin;
        let Some(declared) = snapshot.topology.zones.get(&gateway.zone) else {
            continue;
        };
        let is_up = snapshot.links.get(gateway) == Some(&Link::Up);
        let serves = is_up && !entry.record.draining && entry.age != Age::Withdrawn;
        let zone = ServingZone {
            name: &gateway.zone,
            exports: entry.record.exports.of(name).cloned().collect(),
            is_usable: serves && declared.drain.is_none(),
            is_drained: serves && declared.drain.is_some(),
        };
        match zones.last_mut().filter(|last| last.name == zone.name) {
            Some(last) if merit(last) >= merit(&zone) => {}
            Some(last) => *last = zone,
            None => zones.push(zone),
        }
    }
    zones.retain(|zone| service.may_run_in(zone.name));
    zones
}

/// Exports of this zone's instances, as far as they were checked.
pub(super) fn own_exports(snapshot: &Snapshot, name: &ServiceName) -> Vec<Export> {
    let own = snapshot
        .instances
        .get(name)
        .into_iter()
        .flat_map(|list| list.iter())
        .filter(|instance| instance.health != Health::Unknown);
    let states = own.map(|instance| InstanceState {
        service: &instance.service,
        tags: &instance.tags,
        weight: instance.weight,
        healthy: instance.counts_as_healthy(),
        serves_in_panic: false,
        capacity_per_second: instance.capacity_per_second,
    });
    exports(states)
}

fn merit(zone: &ServingZone<'_>) -> (bool, u64) {
    let healthy = zone.exports.iter().map(|export| u64::from(export.healthy)).sum();
    (zone.is_usable, healthy)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a weight or a capacity above 2^53 loses nothing that matters"
)]
fn float(number: u64) -> f64 {
    number as f64
}
