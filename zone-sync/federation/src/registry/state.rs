//! The core of the registry: which instances there are, who put them in, and until when.
//!
//! A value that is told the time; it neither reads a clock nor touches a disk, and knows nothing of health.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    time::Instant,
};

use crate::name::ServiceName;

use super::{
    InstanceKey, InstanceSource, MAX_INSTANCES_PER_SERVICE, MAX_INSTANCES_PER_ZONE, MAX_NAMED_SOURCES,
    Registration, RegistryError, check,
};

/// Effect of a registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registered {
    Added,
    /// Something other than the lease is different from before.
    Replaced,
    /// The same as before: only the lease was renewed.
    Renewed,
}

/// One instance that is in force.
#[derive(Debug, Clone, Copy)]
pub struct RegistryEntry<'a> {
    pub registration: &'a Registration,
    pub source: &'a InstanceSource,
    /// Time at which it goes unless renewed; `None`: it stays.
    pub expires: Option<Instant>,
}

/// The instances of one zone.
#[derive(Debug, Default)]
pub struct Registry {
    services: BTreeMap<ServiceName, BTreeMap<String, Slot>>,
    /// One alarm for each lease that can expire. A renewal does not move it: when the alarm goes off and the lease runs
    /// longer by then, the alarm is set again. So that renewing, the most frequent call by far, allocates nothing.
    alarms: BTreeSet<(Instant, InstanceKey)>,
    /// Keys that [`Registry::take_changed`] hands out.
    changed: BTreeSet<InstanceKey>,
    /// Slots over all services.
    instances: usize,
    /// Keys that each source holds; none that holds nothing.
    holdings: BTreeMap<InstanceSource, usize>,
}

/// Word of each source on one key: in order of precedence, at most one for each source, and never empty.
#[derive(Debug, Default)]
struct Slot {
    held: Vec<SourceEntry>,
}

#[derive(Debug)]
struct SourceEntry {
    source: InstanceSource,
    registration: Registration,
    expires: Option<Instant>,
    /// Time under which this lease stands in `alarms`; at or before `expires`.
    alarm: Option<Instant>,
}

impl Slot {
    /// The entry of the source that comes first.
    fn in_force(&self) -> Option<RegistryEntry<'_>> {
        self.held.first().map(|held| RegistryEntry {
            registration: &held.registration,
            source: &held.source,
            expires: held.expires,
        })
    }

    fn of(&mut self, source: &InstanceSource) -> Option<&mut SourceEntry> {
        self.held.iter_mut().find(|held| held.source == *source)
    }

    /// Puts what one source says in its place, and returns what it said before.
    fn put(&mut self, new: SourceEntry) -> Option<SourceEntry> {
        match self.held.binary_search_by(|held| held.source.cmp(&new.source)) {
            Ok(at) => Some(mem::replace(&mut self.held[at], new)),
            Err(at) => {
                // Nearly every slot has one holder for good, and there are a hundred thousand of them.
                self.held.reserve_exact(1);
                self.held.insert(at, new);
                None
            }
        }
    }

    fn take(&mut self, source: &InstanceSource) -> Option<SourceEntry> {
        let at = self.held.iter().position(|held| held.source == *source)?;
        Some(self.held.remove(at))
    }
}

impl Registry {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers: [`Registry::put`] as [`InstanceSource::Registered`], with a full time to live from `now` on.
    ///
    /// # Errors
    /// When a limit is broken; nothing is changed then.
    pub fn register(
        &mut self,
        now: Instant,
        registration: Registration,
    ) -> Result<Registered, RegistryError> {
        self.put(now, &InstanceSource::Registered, registration)
    }

    /// Adds or replaces what `source` says under this key. Where a source that goes before it holds the same key, it is
    /// kept, and comes into force when that one lets go.
    ///
    /// # Errors
    /// When a limit is broken; nothing is changed then. What the topology fixes is not held to limits, because the
    /// topology was checked as a whole before it came into force.
    pub fn put(
        &mut self,
        now: Instant,
        source: &InstanceSource,
        registration: Registration,
    ) -> Result<Registered, RegistryError> {
        if *source != InstanceSource::Topology {
            check(&registration)?;
            self.check_source(source, &registration)?;
            self.check_room(&registration)?;
        }
        let key = registration.key();
        let expires = registration.time_to_live.map(|time| now + time);
        let slot = self.slot(&key);
        let same = slot
            .of(source)
            .is_some_and(|held| held.registration == registration);
        let before = slot.put(SourceEntry {
            source: source.clone(),
            registration,
            expires,
            alarm: expires,
        });
        let done = match &before {
            None => Registered::Added,
            Some(_) if same => Registered::Renewed,
            Some(_) => Registered::Replaced,
        };
        match before {
            Some(before) => self.drop_alarm(before.alarm, &key),
            None => *self.holdings.entry(source.clone()).or_default() += 1,
        }
        if let Some(expires) = expires {
            self.alarms.insert((expires, key.clone()));
        }
        if done != Registered::Renewed {
            self.changed.insert(key);
        }
        Ok(done)
    }

    /// Removes what `source` says under this key, and nothing that another source says; `None` when it says nothing.
    pub fn remove(&mut self, source: &InstanceSource, key: &InstanceKey) -> Option<Registration> {
        let slot = self.services.get_mut(&key.service)?.get_mut(&key.id)?;
        let held = slot.take(source)?;
        self.drop_alarm(held.alarm, key);
        self.let_go(source, key);
        Some(held.registration)
    }

    /// The keys that `source` holds, in force or not.
    pub(crate) fn keys_of(&self, source: &InstanceSource) -> impl Iterator<Item = InstanceKey> {
        let count = self.holdings.get(source).copied().unwrap_or(0);
        let slots = self.services.values().flat_map(BTreeMap::values);
        let held = slots.flat_map(|slot| &slot.held);
        // Stops at the last one, so that a source that holds nothing costs nothing.
        held.filter(|held| held.source == *source)
            .map(|held| held.registration.key())
            .take(count)
    }

    /// Gives the registration another full time to live.
    ///
    /// # Errors
    /// When nothing is registered under this key, or another source alone holds it.
    pub fn renew(&mut self, now: Instant, service: &ServiceName, id: &str) -> Result<(), RegistryError> {
        let slot = self.services.get_mut(service).and_then(|ids| ids.get_mut(id));
        let Some(held) = slot.and_then(|slot| slot.of(&InstanceSource::Registered)) else {
            return Err(self.absent(service, id));
        };
        held.expires = held.registration.time_to_live.map(|time| now + time);
        Ok(())
    }

    /// Removes what is registered under this key.
    ///
    /// # Errors
    /// When nothing is registered under it, or another source alone holds it.
    pub fn deregister(&mut self, service: &ServiceName, id: &str) -> Result<Registration, RegistryError> {
        let key = InstanceKey {
            service: service.clone(),
            id: id.to_owned(),
        };
        let removed = self.remove(&InstanceSource::Registered, &key);
        removed.ok_or_else(|| self.absent(service, id))
    }

    /// Removes every registration whose time has run out, and says which.
    pub fn expire(&mut self, now: Instant) -> Vec<InstanceKey> {
        let mut expired = Vec::new();
        while let Some((alarm, _)) = self.alarms.first() {
            if *alarm > now {
                break;
            }
            let Some((_, key)) = self.alarms.pop_first() else {
                break;
            };
            if !self.set_alarm_again(now, &key) {
                self.slot(&key).take(&InstanceSource::Registered);
                self.let_go(&InstanceSource::Registered, &key);
                expired.push(key);
            }
        }
        expired
    }

    /// Time at which [`Registry::expire`] should be called next. It may then find that everything was renewed.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.alarms.first().map(|(alarm, _)| *alarm)
    }

    /// Every instance in force, by service and id.
    pub fn instances(&self) -> impl Iterator<Item = RegistryEntry<'_>> {
        let slots = self.services.values().flat_map(BTreeMap::values);
        slots.filter_map(Slot::in_force)
    }

    /// The instances of one service that are in force, by id.
    pub fn service(&self, service: &ServiceName) -> impl Iterator<Item = RegistryEntry<'_>> {
        let slots = self.services.get(service).into_iter();
        slots.flat_map(BTreeMap::values).filter_map(Slot::in_force)
    }

    #[must_use]
    pub fn instance(&self, service: &ServiceName, id: &str) -> Option<RegistryEntry<'_>> {
        self.services.get(service)?.get(id)?.in_force()
    }

    /// Everything that a store holds, in force or not; see [`InstanceSource::is_stored`].
    pub fn stored(&self) -> impl Iterator<Item = (&InstanceSource, &Registration)> {
        let slots = self.services.values().flat_map(BTreeMap::values);
        let held = slots.flat_map(|slot| &slot.held);
        held.filter(|held| held.source.is_stored())
            .map(|held| (&held.source, &held.registration))
    }

    /// The sources that hold something, each with how much.
    #[cfg(test)]
    pub(crate) fn holdings(&self) -> &BTreeMap<InstanceSource, usize> {
        &self.holdings
    }

    /// Instances over all services.
    #[must_use]
    pub fn len(&self) -> usize {
        self.instances
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.instances == 0
    }

    /// The keys that something happened to since the last call, leases apart.
    pub fn take_changed(&mut self) -> BTreeSet<InstanceKey> {
        mem::take(&mut self.changed)
    }

    fn check_room(&self, registration: &Registration) -> Result<(), RegistryError> {
        let ids = self.services.get(&registration.service);
        if ids.is_some_and(|ids| ids.contains_key(&registration.id)) {
            return Ok(());
        }
        if self.instances >= MAX_INSTANCES_PER_ZONE {
            return Err(RegistryError::ZoneFull);
        }
        if ids.is_some_and(|ids| ids.len() >= MAX_INSTANCES_PER_SERVICE) {
            return Err(RegistryError::ServiceFull(registration.service.clone()));
        }
        Ok(())
    }

    fn check_source(
        &self,
        source: &InstanceSource,
        registration: &Registration,
    ) -> Result<(), RegistryError> {
        if *source == InstanceSource::Registered {
            return Ok(());
        }
        if registration.time_to_live.is_some() {
            return Err(RegistryError::NeedlessTimeToLive(registration.key()));
        }
        let is_named = |source: &&InstanceSource| matches!(source, InstanceSource::Named(_));
        let is_new = is_named(&source) && !self.holdings.contains_key(source);
        if is_new && self.holdings.keys().filter(is_named).count() >= MAX_NAMED_SOURCES {
            return Err(RegistryError::TooManySources);
        }
        Ok(())
    }

    fn absent(&self, service: &ServiceName, id: &str) -> RegistryError {
        let key = InstanceKey {
            service: service.clone(),
            id: id.to_owned(),
        };
        match self.instance(service, id) {
            Some(entry) => RegistryError::HeldBy {
                key,
                holder: entry.source.clone(),
            },
            None => RegistryError::NotFound(key),
        }
    }

    fn slot(&mut self, key: &InstanceKey) -> &mut Slot {
        let ids = self.services.entry(key.service.clone()).or_default();
        ids.entry(key.id.clone()).or_insert_with(|| {
            self.instances += 1;
            Slot::default()
        })
    }

    /// Tells whether the lease runs past `now` because it was renewed.
    fn set_alarm_again(&mut self, now: Instant, key: &InstanceKey) -> bool {
        let Some(held) = self.slot(key).of(&InstanceSource::Registered) else {
            return false;
        };
        held.alarm = held.expires.filter(|expires| *expires > now);
        let alarm = held.alarm;
        if let Some(alarm) = alarm {
            self.alarms.insert((alarm, key.clone()));
        }
        alarm.is_some()
    }

    fn drop_alarm(&mut self, alarm: Option<Instant>, key: &InstanceKey) {
        if let Some(alarm) = alarm {
            self.alarms.remove(&(alarm, key.clone()));
        }
    }

    /// Settles the counts after `source` has let go of a key.
    fn let_go(&mut self, source: &InstanceSource, key: &InstanceKey) {
        if let Some(count) = self.holdings.get_mut(source) {
            *count -= 1;
            if *count == 0 {
                self.holdings.remove(source);
            }
        }
        self.changed.insert(key.clone());
        let Some(ids) = self.services.get_mut(&key.service) else {
            return;
        };
        if ids.get(&key.id).is_some_and(|slot| slot.held.is_empty()) {
            ids.remove(&key.id);
            self.instances -= 1;
        }
        if ids.is_empty() {
            self.services.remove(&key.service);
        }
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
