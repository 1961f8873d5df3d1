//! Everything known of each instance: the registry and the checks brought together into the values that are published.
//!
//! Pure: told the time, given randomness, and without I/O. The task carries out the probes it orders.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use causeway_federation::{
    name::{ServiceName, Tags, ZoneName},
    registry::{
        InstanceKey, InstanceSource, Provenance, Registered, Registration, Registry, RegistryEntry,
        RegistryError, Replaced, Replacement,
    },
    topology::{FixedInstance, HealthCheck, Topology},
};
use causeway_routing::{
    balance::takes_traffic,
    snapshot::{Health, Instance, InstanceList, InstanceLoad},
};
use rand::Rng;

use super::{CheckFailure, InstanceStatus, KnownHealth, Published, RegistrationStanding};
use crate::drains::DrainedInstances;
use crate::health::{CheckId, Checks, Duty, ProbeOrder, ProbeResult, Sharing, Transition};

mod drain;
mod settle;
mod shared;

use settle::Settled;

/// This zone's instances.
#[derive(Debug)]
pub(super) struct Table {
    zone: ZoneName,
    /// Health check of each service by the topology; a service that is not here is not declared.
    services: BTreeMap<ServiceName, Option<Arc<HealthCheck>>>,
    /// Tags of the arms with a weight, of each service with a split.
    arms: BTreeMap<ServiceName, Vec<Tags>>,
    registry: Registry,
    checks: Checks,
    sharing: Sharing,
    members: BTreeMap<ServiceName, BTreeMap<String, Member>>,
    by_check: HashMap<CheckId, InstanceKey>,
    /// Health that the process before has found of instances that are not taken up yet.
    known: KnownHealth,
    /// Also of instances that are not there now.
    drains: DrainedInstances,
    /// A drained one has come back since the last look at them.
    is_back: bool,
    /// Services whose published list is out of date.
    dirty: BTreeSet<ServiceName>,
    published: Published,
}

#[derive(Debug)]
struct Member {
    instance: Arc<Instance>,
    /// `None`: its service is not checked, or it is watched while another gateway checks it.
    check: Option<CheckId>,
    /// `None`: its service is not checked.
    duty: Option<Duty>,
    /// Time at which a probe last was made because this gateway doubted it.
    doubted: Option<Instant>,
}

/// Tells whether an instance has taken traffic so far, `before` being the list that it was in.
fn served(before: Option<&InstanceList>, one: &Instance) -> bool {
    let at = |list: &InstanceList| list.binary_search_by(|old| old.id.cmp(&one.id)).ok();
    let old = before.and_then(|list| list.get(at(list)?));
    old.is_some_and(|old| takes_traffic(old) && Arc::ptr_eq(&old.load, &one.load))
}

/// A change of health, for the log.
#[derive(Debug)]
pub(super) struct HealthChange {
    pub(super) instance: Arc<Instance>,
    pub(super) transition: Transition,
}

impl Table {
    pub(super) fn new(zone: ZoneName, sharing: Sharing) -> Self {
        Self {
            zone,
            services: BTreeMap::new(),
            arms: BTreeMap::new(),
            registry: Registry::new(),
            checks: Checks::new(),
            sharing,
            members: BTreeMap::new(),
            by_check: HashMap::new(),
            known: KnownHealth::new(),
            drains: DrainedInstances::new(),
            is_back: false,
            dirty: BTreeSet::new(),
            published: Published::default(),
        }
    }

    /// Begins with the health that is known of instances.
    pub(super) fn knowing(self, known: KnownHealth) -> Self {
        Self { known, ..self }
    }

    /// Takes up a topology: its fixed instances of this zone, and how each service is checked.
    pub(super) fn apply_topology(&mut self, now: Instant, topology: &Topology) {
        let zone = topology.zones.get(&self.zone);
        let fixed = zone.into_iter().flat_map(|zone| &zone.instances);
        let fixed = fixed.map(registration_of).collect();
        self.registry.replace(now, &InstanceSource::Topology, fixed);
        let arms = topology.services.iter().filter_map(|(name, service)| {
            let arms = service.weighted_arms()?;
            Some((name.clone(), arms.into_iter().cloned().collect()))
        });
        self.arms = arms.collect();
        let before = std::mem::take(&mut self.services);
        for (name, service) in &topology.services {
            // A check that stays the same stays the same value, which thousands of instances share.
            let known = before.get(name).cloned().flatten();
            let check = match (&service.health, known) {
                (Some(new), Some(old)) if *old == *new => Some(old),
                (new, _) => new.clone().map(Arc::new),
            };
            self.services.insert(name.clone(), check);
        }
        let altered = self.members.iter();
        let altered = altered.filter(|(name, _)| before.get(*name) != self.services.get(*name));
        let keys: Vec<_> = altered
            .flat_map(|(name, ids)| ids.keys().map(move |id| (name, id)))
            .map(|(name, id)| super::key(name, id))
            .collect();
        for key in keys {
            self.reconcile(now, &key);
        }
        self.reconcile_changed(now);
    }

    /// Takes in what a source says of one instance, and says whether anything but the lease is new.
    pub(super) fn put(
        &mut self,
        now: Instant,
        source: &InstanceSource,
        registration: Registration,
    ) -> Result<(Registered, RegistrationStanding), RegistryError> {
        let key = registration.key();
        let done = self.registry.put(now, source, registration)?;
        self.reconcile_changed(now);
        let entry = self.registry.instance(&key.service, &key.id);
        let standing = if entry.is_some_and(|e| e.source != source) {
            RegistrationStanding::Shadowed
        } else if self.services.contains_key(&key.service) {
            RegistrationStanding::InForce
        } else {
            RegistrationStanding::Undeclared
        };
        Ok((done, standing))
    }

    /// Removes what one source says of an instance.
    pub(super) fn remove_from(&mut self, now: Instant, source: &InstanceSource, key: &InstanceKey) {
        self.registry.remove(source, key);
        self.reconcile_changed(now);
    }

    /// Tells how what is registered under `key` stands, or would.
    pub(super) fn standing(&self, key: &InstanceKey) -> RegistrationStanding {
        let entry = self.registry.instance(&key.service, &key.id);
        if entry.is_some_and(|e| *e.source == InstanceSource::Topology) {
            RegistrationStanding::Shadowed
        } else if self.services.contains_key(&key.service) {
            RegistrationStanding::InForce
        } else {
            RegistrationStanding::Undeclared
        }
    }

    pub(super) fn renew(&mut self, now: Instant, key: &InstanceKey) -> Result<(), RegistryError> {
        self.registry.renew(now, &key.service, &key.id)
    }

    pub(super) fn deregister(&mut self, now: Instant, key: &InstanceKey) -> Result<(), RegistryError> {
        self.registry.deregister(&key.service, &key.id)?;
        self.reconcile_changed(now);
        Ok(())
    }

    /// Ends the leases that have run out, and says which.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<InstanceKey> {
        let expired = self.registry.expire(now);
        self.reconcile_changed(now);
        expired
    }

    /// Prepares to make `source` hold exactly `wanted`.
    pub(super) fn replacement(
        &self,
        source: InstanceSource,
        wanted: Vec<Registration>,
        check: impl Fn(&Registration) -> Result<(), RegistryError>,
    ) -> Replacement {
        Replacement::new(&self.registry, source, wanted, check)
    }

    /// Goes on with a replacement: see [`Replacement::advance`].
    pub(super) fn advance(
        &mut self,
        now: Instant,
        replacement: &mut Replacement,
        steps: usize,
        noted: impl FnMut(&InstanceKey, Option<&Registration>),
    ) -> Option<Replaced> {
        let replaced = replacement.advance(now, &mut self.registry, steps, noted);
        self.reconcile_changed(now);
        replaced
    }

    pub(super) fn stored(&self) -> impl Iterator<Item = (&InstanceSource, &Registration)> {
        self.registry.stored()
    }

    pub(super) fn poll_order(&mut self, now: Instant) -> Option<ProbeOrder> {
        self.checks.poll_order(now)
    }

    /// The service that an order is for; `None` when it is not checked any more.
    pub(super) fn service_of(&self, order: &ProbeOrder) -> Option<&ServiceName> {
        self.by_check.get(&order.id).map(|key| &key.service)
    }

    /// Side from which the instance was put in that an order is for.
    pub(super) fn provenance_of(&self, order: &ProbeOrder) -> Provenance {
        let member = self.by_check.get(&order.id).and_then(|key| self.member(key));
        member.map_or(Provenance::Elsewhere, |member| member.instance.provenance)
    }

    /// Time at which the next lease may end or the next probe is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let times = [self.registry.poll_timeout(), self.checks.poll_timeout()];
        times.into_iter().flatten().min()
    }

    pub(super) fn handle_hint(&mut self, now: Instant, key: &InstanceKey) {
        let Some(member) = self.member(key) else {
            return;
        };
        if let Some(check) = member.check {
            self.checks.hint(now, check);
        } else if member.duty == Some(Duty::Watch) && member.instance.health == Health::Healthy {
            self.sharing.doubt(key);
            self.reconcile(now, key);
        }
    }

    pub(super) fn handle_result(
        &mut self,
        now: Instant,
        order: &ProbeOrder,
        outcome: ProbeResult,
        rng: &mut impl Rng,
    ) -> Option<HealthChange> {
        let transition = self.checks.handle_result(now, order, outcome, rng);
        let change = transition.and_then(|transition| self.turn(order.id, transition));
        self.share_result(now, order.id);
        change
    }

    fn turn(&mut self, check: CheckId, transition: Transition) -> Option<HealthChange> {
        let key = self.by_check.get(&check)?;
        let ids = self.members.get_mut(&key.service)?;
        let member = ids.get_mut(&key.id)?;
        member.instance = Arc::new(with_health(&member.instance, transition.to));
        if transition.to == Health::Healthy {
            // What it refused while it was not says nothing about it now.
            member.instance.load.forget_refusals();
        }
        self.dirty.insert(key.service.clone());
        Some(HealthChange {
            instance: Arc::clone(&member.instance),
            transition,
        })
    }

    pub(super) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// The instances as they are now. Those that take traffic from now on begin to at `now`.
    pub(super) fn publish(&mut self, now: Duration) -> Published {
        let mut published = BTreeMap::clone(&self.published);
        for service in std::mem::take(&mut self.dirty) {
            match self.members.get(&service) {
                Some(ids) => {
                    let instances = ids.values().map(|member| Arc::clone(&member.instance));
                    let list: InstanceList = instances.collect();
                    let before = published.get(&service);
                    let new = list
                        .iter()
                        .filter(|one| takes_traffic(one) && !served(before, one));
                    new.for_each(|one| one.load.begins(now));
                    published.insert(service, list);
                }
                None => drop(published.remove(&service)),
            }
        }
        self.published = Arc::new(published);
        Arc::clone(&self.published)
    }

    pub(super) fn last_failure(&self, now: Instant, key: &InstanceKey) -> Option<CheckFailure> {
        let Some(check) = self.member(key)?.check else {
            return self.told_failure(now, key);
        };
        let last = self.checks.state(check)?.last_failure()?;
        Some(CheckFailure {
            reason: last.reason.clone(),
            ago: now.saturating_duration_since(last.at),
        })
    }

    pub(super) fn status(&self, now: Instant, only: Option<&ServiceName>) -> Vec<InstanceStatus> {
        match only {
            Some(service) => {
                let entries = self.registry.service(service);
                entries.filter_map(|e| self.status_of(now, e)).collect()
            }
            None => {
                let entries = self.registry.instances();
                entries.filter_map(|e| self.status_of(now, e)).collect()
            }
        }
    }

    fn status_of(&self, now: Instant, entry: RegistryEntry<'_>) -> Option<InstanceStatus> {
        let key = entry.registration.key();
        let member = self.member(&key)?;
        let state = member.check.and_then(|check| self.checks.state(check));
        Some(InstanceStatus {
            instance: Arc::clone(&member.instance),
            source: entry.source.clone(),
            declared: self.services.contains_key(&key.service),
            checked: member.duty.is_some(),
            unchanged_for: state.map(|state| now.saturating_duration_since(state.since())),
            last_failure: self.last_failure(now, &key),
            expires_in: entry.expires.map(|at| at.saturating_duration_since(now)),
        })
    }

    fn member(&self, key: &InstanceKey) -> Option<&Member> {
        self.members.get(&key.service)?.get(&key.id)
    }

    fn reconcile_changed(&mut self, now: Instant) {
        for key in self.registry.take_changed() {
            self.reconcile(now, &key);
        }
    }

    /// Makes the member under `key` what the registry and the topology say. Health and load carry over for as long as
    /// the address stays the same: at another address it is another process.
    fn reconcile(&mut self, now: Instant, key: &InstanceKey) {
        let Some(entry) = self.registry.instance(&key.service, &key.id) else {
            self.let_go(key);
            return;
        };
        let (registration, source) = (entry.registration.clone(), entry.source.clone());
        let known = self.remember(key);
        if known
            .old
            .as_ref()
            .is_some_and(|old| old.address != registration.address)
        {
            self.let_go(key);
            return self.reconcile(now, key);
        }
        let settled = self.settle_check(now, key, registration.address, &known);
        let Settled { health, check, .. } = settled;
        let old = known.old;
        let load = old.as_ref().map(|old| Arc::clone(&old.load));
        let instance = Instance {
            drain: self.drain_of(key),
            ..instance_of(registration, source, health, load.unwrap_or_default())
        };
        if let Some(check) = check {
            self.by_check.insert(check, key.clone());
        }
        if old.as_ref().is_none_or(|old| !is_same(old, &instance)) {
            self.dirty.insert(key.service.clone());
        }
        let ids = self.members.entry(key.service.clone()).or_default();
        let member = Member {
            instance: Arc::new(instance),
            check,
            duty: settled.duty,
            doubted: settled.doubted,
        };
        ids.insert(key.id.clone(), member);
    }

    fn remove(&mut self, key: &InstanceKey) {
        let Some(ids) = self.members.get_mut(&key.service) else {
            return;
        };
        let Some(member) = ids.remove(&key.id) else {
            return;
        };
        if ids.is_empty() {
            self.members.remove(&key.service);
        }
        self.end_check(member.check);
        self.dirty.insert(key.service.clone());
    }
}

fn registration_of(fixed: &FixedInstance) -> Registration {
    Registration {
        service: fixed.service.clone(),
        id: fixed.address.to_string(),
        address: fixed.address,
        tags: fixed.tags.clone(),
        weight: fixed.weight,
        capacity_per_second: fixed.capacity_per_second,
        time_to_live: None,
        provenance: Provenance::ThisHost,
    }
}

fn instance_of(
    registration: Registration,
    source: InstanceSource,
    health: Health,
    load: Arc<InstanceLoad>,
) -> Instance {
    Instance {
        id: registration.id,
        service: registration.service,
        address: registration.address,
        tags: registration.tags,
        weight: registration.weight,
        capacity_per_second: registration.capacity_per_second,
        time_to_live: registration.time_to_live,
        source,
        health,
        drain: None,
        load,
        provenance: registration.provenance,
    }
}

fn with_health(instance: &Instance, health: Health) -> Instance {
    Instance {
        id: instance.id.clone(),
        service: instance.service.clone(),
        tags: instance.tags.clone(),
        source: instance.source.clone(),
        load: Arc::clone(&instance.load),
        drain: instance.drain.clone(),
        health,
        ..*instance
    }
}

/// Tells whether two values of one instance (same service, id and address) read alike.
fn is_same(old: &Instance, new: &Instance) -> bool {
    old.tags == new.tags
        && old.provenance == new.provenance
        && old.weight == new.weight
        && old.capacity_per_second == new.capacity_per_second
        && old.time_to_live == new.time_to_live
        && old.source == new.source
        && old.health == new.health
        && old.drain == new.drain
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
