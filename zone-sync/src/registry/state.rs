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
    InstanceKey, MAX_INSTANCES_PER_SERVICE, MAX_INSTANCES_PER_ZONE, Registration, RegistryError, Source,
    check,
};

/// What a registration did.
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
pub struct Entry<'a> {
    pub registration: &'a Registration,
    pub source: &'a Source,
    /// When it goes unless renewed; `None`: it stays.
    pub expires: Option<Instant>,
}

/// The instances of one zone.
#[derive(Debug, Default)]
pub struct Registry {
    services: BTreeMap<ServiceName, BTreeMap<String, Slot>>,
    /// One alarm for each lease that can expire. A renewal does not move it: when the alarm goes off and the lease runs
    /// longer by then, the alarm is set again. So that renewing, the most frequent call by far, allocates nothing.
    alarms: BTreeSet<(Instant, InstanceKey)>,
    /// What [`Registry::take_changed`] hands out.
    changed: BTreeSet<InstanceKey>,
    /// Slots over all services.
    instances: usize,
}

/// What each source says about one key.
#[derive(Debug, Default)]
struct Slot {
    fixed: Option<Registration>,
    registered: Option<Lease>,
}

#[derive(Debug)]
struct Lease {
    registration: Registration,
    expires: Option<Instant>,
    /// Where this lease stands in `alarms`; at or before `expires`.
    alarm: Option<Instant>,
}

impl Slot {
    /// The entry of the source that comes first.
    fn in_force(&self) -> Option<Entry<'_>> {
        let fixed = self.fixed.as_ref().map(|registration| Entry {
            registration,
            source: &Source::Topology,
            expires: None,
        });
        fixed.or_else(|| {
            self.registered.as_ref().map(|lease| Entry {
                registration: &lease.registration,
                source: &Source::Registered,
                expires: lease.expires,
            })
        })
    }
}

impl Registry {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds or replaces what is registered under this key, with a full time to live from `now` on. Where the topology
    /// fixes the same key, the registration is kept, and comes into force when the topology lets go of it.
    ///
    /// # Errors
    /// When a limit is broken; nothing is changed then.
    pub fn register(
        &mut self,
        now: Instant,
        registration: Registration,
    ) -> Result<Registered, RegistryError> {
        check(&registration)?;
        self.check_room(&registration)?;
        let key = registration.key();
        let expires = registration.time_to_live.map(|time| now + time);
        let slot = self.slot(&key);
        let before = slot.registered.replace(Lease {
            registration,
            expires,
            alarm: expires,
        });
        let lease = slot.registered.as_ref();
        let done = match &before {
            None => Registered::Added,
            Some(old) if lease.is_some_and(|new| new.registration == old.registration) => Registered::Renewed,
            Some(_) => Registered::Replaced,
        };
        if let Some(alarm) = before.and_then(|old| old.alarm) {
            self.alarms.remove(&(alarm, key.clone()));
        }
        if let Some(expires) = expires {
            self.alarms.insert((expires, key.clone()));
        }
        if done != Registered::Renewed {
            self.changed.insert(key);
        }
        Ok(done)
    }

    /// Gives the registration another full time to live.
    ///
    /// # Errors
    /// When nothing is registered under this key, or the topology alone holds it.
    pub fn renew(&mut self, now: Instant, service: &ServiceName, id: &str) -> Result<(), RegistryError> {
        let slot = self.services.get_mut(service).and_then(|ids| ids.get_mut(id));
        let Some(lease) = slot.and_then(|slot| slot.registered.as_mut()) else {
            return Err(self.absent(service, id));
        };
        lease.expires = lease.registration.time_to_live.map(|time| now + time);
        Ok(())
    }

    /// Removes what is registered under this key.
    ///
    /// # Errors
    /// When nothing is registered under it, or the topology alone holds it.
    pub fn deregister(&mut self, service: &ServiceName, id: &str) -> Result<Registration, RegistryError> {
        let slot = self.services.get_mut(service).and_then(|ids| ids.get_mut(id));
        let Some(lease) = slot.and_then(|slot| slot.registered.take()) else {
            return Err(self.absent(service, id));
        };
        let key = lease.registration.key();
        if let Some(alarm) = lease.alarm {
            self.alarms.remove(&(alarm, key.clone()));
        }
        self.forget_if_empty(&key);
        self.changed.insert(key);
        Ok(lease.registration)
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
                self.slot(&key).registered = None;
                self.forget_if_empty(&key);
                self.changed.insert(key.clone());
                expired.push(key);
            }
        }
        expired
    }

    /// When [`Registry::expire`] should be called next. It may then find that everything was renewed.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.alarms.first().map(|(alarm, _)| *alarm)
    }

    /// Replaces everything that the topology fixes in this zone. Fixed instances are not held to the limits above: the
    /// topology was checked as a whole before it came into force.
    pub fn set_fixed(&mut self, fixed: impl IntoIterator<Item = Registration>) {
        let mut wanted: BTreeMap<InstanceKey, Registration> =
            fixed.into_iter().map(|r| (r.key(), r)).collect();
        let mut gone = Vec::new();
        for slot in self.services.values_mut().flat_map(BTreeMap::values_mut) {
            let Some(old) = &slot.fixed else { continue };
            let key = old.key();
            match wanted.remove(&key) {
                Some(new) if new == *old => {}
                Some(new) => {
                    slot.fixed = Some(new);
                    self.changed.insert(key);
                }
                None => {
                    slot.fixed = None;
                    gone.push(key);
                }
            }
        }
        for key in gone {
            self.forget_if_empty(&key);
            self.changed.insert(key);
        }
        for (key, registration) in wanted {
            self.slot(&key).fixed = Some(registration);
            self.changed.insert(key);
        }
    }

    /// Every instance in force, by service and id.
    pub fn instances(&self) -> impl Iterator<Item = Entry<'_>> {
        let slots = self.services.values().flat_map(BTreeMap::values);
        slots.filter_map(Slot::in_force)
    }

    /// The instances of one service that are in force, by id.
    pub fn service(&self, service: &ServiceName) -> impl Iterator<Item = Entry<'_>> {
        let slots = self.services.get(service).into_iter();
        slots.flat_map(BTreeMap::values).filter_map(Slot::in_force)
    }

    #[must_use]
    pub fn instance(&self, service: &ServiceName, id: &str) -> Option<Entry<'_>> {
        self.services.get(service)?.get(id)?.in_force()
    }

    /// Everything that was registered, in force or not: what a store holds.
    pub fn registrations(&self) -> impl Iterator<Item = &Registration> {
        let slots = self.services.values().flat_map(BTreeMap::values);
        slots.filter_map(|slot| Some(&slot.registered.as_ref()?.registration))
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

    /// Whether the lease runs past `now` because it was renewed.
    fn set_alarm_again(&mut self, now: Instant, key: &InstanceKey) -> bool {
        let Some(lease) = self.slot(key).registered.as_mut() else {
            return false;
        };
        lease.alarm = lease.expires.filter(|expires| *expires > now);
        let alarm = lease.alarm;
        if let Some(alarm) = alarm {
            self.alarms.insert((alarm, key.clone()));
        }
        alarm.is_some()
    }

    fn forget_if_empty(&mut self, key: &InstanceKey) {
        let Some(ids) = self.services.get_mut(&key.service) else {
            return;
        };
        if ids.get(&key.id).is_some_and(|s| s.in_force().is_none()) {
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
