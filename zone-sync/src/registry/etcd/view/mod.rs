//! The view that one zone-sync has of its zone: the instances, their health and the gateways, as etcd tells them. Pure: it is
//! told the time, what etcd says and what was written there, and says what changed.
//!
//! Every value carries the revision of etcd that it is of, and older word never replaces newer, so that what this process
//! wrote itself can count at once, before the watch tells it. What the watch tells later changes nothing then.
//!
//! **Removals after an outage.** Leases may have run out while registrants could not reach etcd through anybody. So for a
//! while after contact is regained ([`EtcdView::recovered`]), a leased instance that is found gone is *doubted* and not
//! removed: it gets one time to live to come back, at most [`MAX_GRACE`].
//!
//! **Vouching.** One zone-sync vouches for each leased instance: the one that heard its last heartbeat, whose lease the key goes with ([`vouch`]).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use causeway_federation::name::{GatewayName, ServiceName};
use causeway_federation::registry::{
    InstanceKey, InstanceSource, MAX_INSTANCES_PER_SERVICE, MAX_INSTANCES_PER_ZONE, MAX_NAMED_SOURCES,
    Registration, RegistryError,
};

use super::keys::{Key, SlotKey};

mod present;
pub mod vouch;

use present::{Present, Reported};
pub use vouch::{HeartbeatState, LeaseClaim, Overdue};

/// Longest time that an instance which was found gone after an outage is kept, however long it may live.
pub(crate) const MAX_GRACE: Duration = Duration::from_secs(60);

/// Place of a value in etcd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At {
    /// Of its last change.
    pub revision: i64,
    /// The lease that it goes with; 0: none.
    pub lease: i64,
}

/// Something that watchers are told.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum ViewChange {
    /// Another value of this instance is in force, or none any more.
    Instance(InstanceKey),
    Health(InstanceKey),
    Gateways,
}

/// One instance that is in force.
#[derive(Debug, Clone)]
pub struct InForce {
    pub registration: Arc<Registration>,
    pub source: InstanceSource,
    pub revision: i64,
}

/// Word of one source on one instance.
#[derive(Debug)]
struct Slot {
    source: InstanceSource,
    registration: Arc<Registration>,
    at: At,
    /// The revision since when the value has been what it is; a lease that only changed hands does not count.
    valued: i64,
    /// Until when this process vouches for it; `None`: another does, or nobody needs to.
    vouched: Option<Instant>,
    /// Until when it is kept although etcd no longer has it.
    doubted: Option<Instant>,
    /// Time under which it stands in `alarms`.
    alarm: Option<Instant>,
    /// The reading that last had it.
    reading: u32,
}

/// Everything that is known. See the module's page.
#[derive(Debug, Default)]
pub struct EtcdView {
    /// The slots of an instance are in order of precedence, and seldom more than one.
    services: BTreeMap<ServiceName, BTreeMap<String, Vec<Slot>>>,
    /// Instances over all services.
    instances: usize,
    /// Number of keys that this process put under each of its leases.
    own_leases: HashMap<i64, usize>,
    /// Slots of each named source; it is gone from here with its last slot.
    named: BTreeMap<InstanceSource, usize>,
    health: BTreeMap<InstanceKey, Reported>,
    gateways: BTreeMap<GatewayName, Present>,
    /// Gateways that are attached to this process, and how often.
    attached: BTreeMap<GatewayName, usize>,
    session_revisions: BTreeMap<GatewayName, i64>,
    /// Keys that this process removed at a revision that the watch has not reached.
    removed: HashMap<Key, i64>,
    alarms: BTreeSet<(Instant, SlotKey)>,
    /// The last revision of which everything is known.
    revision: i64,
    /// The newest value; ahead of `revision` while the watch has not told what this process wrote.
    newest: i64,
    reading: u32,
    recovered: Option<Instant>,
    /// etcd lost what it had; what the next reading lacks is put back.
    is_set_back: bool,
    changes: BTreeSet<ViewChange>,
    claims: BTreeSet<SlotKey>,
    orphans: Vec<(InstanceKey, i64)>,
}

impl EtcdView {
    /// The last revision of which everything is known; 0 before the first reading.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// The revision that watchers are told: that of the newest thing known. No value that they were told is newer.
    #[must_use]
    pub fn newest(&self) -> i64 {
        self.revision.max(self.newest)
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

    /// Changes since the last call, for watchers.
    pub fn take_changes(&mut self) -> BTreeSet<ViewChange> {
        mem::take(&mut self.changes)
    }

    /// Reports of health, with their revisions, whose instance is gone since the last call.
    pub(crate) fn take_orphans(&mut self) -> Vec<(InstanceKey, i64)> {
        mem::take(&mut self.orphans)
    }

    /// Every instance in force, by service and id.
    pub fn instances(&self) -> impl Iterator<Item = InForce> {
        let slots = self.services.values().flat_map(BTreeMap::values);
        slots.filter_map(|slots| slots.first()).map(Slot::in_force)
    }

    #[must_use]
    pub fn instance(&self, key: &InstanceKey) -> Option<InForce> {
        Some(self.slots(key)?.first()?.in_force())
    }

    /// Everything that one source says.
    pub(crate) fn of_source<'a>(
        &'a self,
        source: &'a InstanceSource,
    ) -> impl Iterator<Item = &'a Arc<Registration>> {
        let slots = self.services.values().flat_map(BTreeMap::values).flatten();
        slots
            .filter(move |slot| slot.source == *source)
            .map(|slot| &slot.registration)
    }

    /// Checks that there is room for this registration. As several processes look at the same time, each at its own view, a
    /// limit may be passed by what they accept within milliseconds.
    ///
    /// # Errors
    /// When the zone or the service is full, or there are too many named sources.
    pub fn check_room(
        &self,
        registration: &Registration,
        source: &InstanceSource,
    ) -> Result<(), RegistryError> {
        if matches!(source, InstanceSource::Named(_))
            && !self.named.contains_key(source)
            && self.named.len() >= MAX_NAMED_SOURCES
        {
            return Err(RegistryError::TooManySources);
        }
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

    /// Reason why a source has nothing under this key.
    #[must_use]
    pub fn absent(&self, key: &InstanceKey) -> RegistryError {
        match self.instance(key) {
            Some(held) => RegistryError::HeldBy {
                key: key.clone(),
                holder: held.source,
            },
            None => RegistryError::NotFound(key.clone()),
        }
    }

    /// Takes up a value that etcd holds.
    pub(crate) fn put_slot(&mut self, now: Instant, key: &SlotKey, registration: Registration, at: At) {
        if self.is_outdated(&Key::Slot(key.clone()), at.revision) {
            return;
        }
        self.newest = self.newest.max(at.revision);
        let before = self.instance(&key.instance);
        let own = self.own_leases.contains_key(&at.lease);
        let expires = registration.time_to_live.map(|time| now + time);
        let reading = self.reading;
        let (slot, is_new) = self.slot_or_insert(key, registration, at);
        slot.reading = reading;
        if slot.at.revision > at.revision {
            return;
        }
        let (old, was_doubted) = (slot.at, slot.doubted.take().is_some());
        slot.at = at;
        slot.vouched = if own { slot.vouched.or(expires) } else { None };
        let alarm = slot.vouched;
        if !is_new && old == at && !was_doubted {
            return;
        }
        self.count_lease(if is_new { 0 } else { old.lease }, at.lease);
        if let Some(alarm) = alarm {
            self.set_alarm(key, alarm);
        }
        self.note_instance(&key.instance, before.as_ref());
    }

    /// Takes up that etcd no longer holds a value, as of `revision`.
    pub fn delete(&mut self, now: Instant, key: &Key, revision: i64) {
        match key {
            Key::Slot(key) => self.delete_slot(now, key, revision),
            Key::Health(key) => self.delete_report(key, revision),
            Key::Gateway(name) => self.delete_gateway(now, name, revision),
            Key::Session(name) => self.delete_session(name, revision),
            Key::Writer(_) => {}
        }
    }

    /// Takes up that this process removed a value on somebody's word: nobody doubts that.
    pub fn removed(&mut self, key: &SlotKey, revision: i64) {
        if self.slot(key).is_some_and(|slot| slot.at.revision < revision) {
            self.remove_slot(key);
        }
        if revision > self.revision {
            self.removed.insert(Key::Slot(key.clone()), revision);
        }
    }

    /// Everything up to `revision` has been told.
    pub fn advance(&mut self, revision: i64) {
        if revision > self.revision {
            self.revision = revision;
            self.removed.retain(|_, removed| *removed > revision);
        }
    }

    /// Before everything is read anew.
    pub(crate) fn begin_reading(&mut self) {
        self.reading = self.reading.wrapping_add(1);
        self.forget_sessions();
    }

    /// After everything that etcd held at `revision` was put: the rest is gone.
    pub(crate) fn end_reading(&mut self, now: Instant, revision: i64) {
        let reading = self.reading;
        let slots = self.services.values().flat_map(BTreeMap::values).flatten();
        let unseen = slots.filter(|slot| slot.reading != reading && slot.at.revision <= revision);
        let slots: Vec<_> = unseen.map(Slot::key).map(Key::Slot).collect();
        let reports = self.health.iter().filter(|(_, held)| held.reading != reading);
        let reports: Vec<_> = reports.map(|(key, _)| Key::Health(key.clone())).collect();
        let gateways = self.gateways.iter().filter(|(_, held)| held.reading != reading);
        let gateways: Vec<_> = gateways.map(|(name, _)| Key::Gateway(name.clone())).collect();
        for gone in slots.into_iter().chain(reports).chain(gateways) {
            self.delete(now, &gone, revision);
        }
        self.is_set_back = false;
        self.advance(revision);
    }

    /// Contact with etcd was regained after an outage: what is found gone from now on is doubted for a while, and every
    /// instance that this process vouches for gets another full time to live.
    pub(crate) fn recovered(&mut self, now: Instant) {
        self.recovered = Some(now);
        for slot in self
            .services
            .values_mut()
            .flat_map(BTreeMap::values_mut)
            .flatten()
        {
            if let (Some(until), Some(time)) = (&mut slot.vouched, slot.registration.time_to_live) {
                *until = (*until).max(now + time);
            }
        }
    }

    /// etcd is of an earlier revision than what is known: it was restored from a copy, or begun anew. What it holds counts
    /// from now on, and what the next reading lacks is to be claimed anew.
    pub(crate) fn set_back(&mut self, now: Instant) {
        self.recovered(now);
        self.is_set_back = true;
        self.revision = 0;
        self.removed.clear();
        for slot in self
            .services
            .values_mut()
            .flat_map(BTreeMap::values_mut)
            .flatten()
        {
            slot.at.revision = 0;
        }
        self.forget_present_revisions();
    }

    fn delete_slot(&mut self, now: Instant, key: &SlotKey, revision: i64) {
        let (recovered, is_set_back) = (self.recovered, self.is_set_back);
        let Some(slot) = self.slot_mut(key) else { return };
        if slot.at.revision > revision {
            return;
        }
        if is_set_back {
            self.claims.insert(key.clone());
            return;
        }
        let time_to_live = slot.registration.time_to_live.filter(|_| slot.at.lease != 0);
        let until = recovered
            .zip(time_to_live)
            .map(|(from, time)| from + time.min(MAX_GRACE));
        let Some(until) = until.filter(|until| *until > now) else {
            self.remove_slot(key);
            return;
        };
        slot.at.revision = revision;
        if slot.doubted.is_none() {
            slot.doubted = Some(until);
            let vouched = slot.vouched.is_some_and(|until| until > now);
            self.set_alarm(key, until);
            if vouched {
                self.claims.insert(key.clone());
            }
        }
    }

    /// Removes a slot whatever the reason.
    fn remove_slot(&mut self, key: &SlotKey) {
        let before = self.instance(&key.instance);
        let service = &key.instance.service;
        let Some(ids) = self.services.get_mut(service) else {
            return;
        };
        let Some(slots) = ids.get_mut(&key.instance.id) else {
            return;
        };
        let Some(place) = slots.iter().position(|slot| slot.source == key.source) else {
            return;
        };
        let slot = slots.remove(place);
        if slots.is_empty() {
            ids.remove(&key.instance.id);
            self.instances -= 1;
        }
        if ids.is_empty() {
            self.services.remove(service);
        }
        if let Some(left) = self.named.get_mut(&key.source) {
            *left -= 1;
            if *left == 0 {
                self.named.remove(&key.source);
            }
        }
        self.count_lease(slot.at.lease, 0);
        if let Some(alarm) = slot.alarm {
            self.alarms.remove(&(alarm, key.clone()));
        }
        self.note_instance(&key.instance, before.as_ref());
        self.orphan(&key.instance);
    }

    /// Tells whether this process removed the value at that revision or later.
    fn is_outdated(&mut self, key: &Key, revision: i64) -> bool {
        if self.removed.is_empty() {
            return false;
        }
        let outdated = self.removed.get(key).is_some_and(|removed| *removed >= revision);
        if !outdated {
            self.removed.remove(key);
        }
        outdated
    }

    fn note_instance(&mut self, key: &InstanceKey, before: Option<&InForce>) {
        let after = self.instance(key);
        let same = match (before, &after) {
            (Some(before), Some(after)) => {
                before.source == after.source && before.registration == after.registration
            }
            (None, None) => true,
            _ => false,
        };
        if !same {
            self.changes.insert(ViewChange::Instance(key.clone()));
        }
    }

    fn count_lease(&mut self, from: i64, to: i64) {
        if from == to {
            return;
        }
        if let Some(keys) = self.own_leases.get_mut(&from) {
            *keys = keys.saturating_sub(1);
        }
        if let Some(keys) = self.own_leases.get_mut(&to) {
            *keys += 1;
        }
    }

    fn slots(&self, key: &InstanceKey) -> Option<&Vec<Slot>> {
        self.services.get(&key.service)?.get(&key.id)
    }

    fn slot(&self, key: &SlotKey) -> Option<&Slot> {
        let mut slots = self.slots(&key.instance)?.iter();
        slots.find(|slot| slot.source == key.source)
    }

    fn slot_mut(&mut self, key: &SlotKey) -> Option<&mut Slot> {
        let ids = self.services.get_mut(&key.instance.service)?;
        let mut slots = ids.get_mut(&key.instance.id)?.iter_mut();
        slots.find(|slot| slot.source == key.source)
    }

    /// The slot with its new value, and whether there was none before.
    fn slot_or_insert(&mut self, key: &SlotKey, registration: Registration, at: At) -> (&mut Slot, bool) {
        let ids = self.services.entry(key.instance.service.clone()).or_default();
        let slots = ids.entry(key.instance.id.clone()).or_default();
        self.instances += usize::from(slots.is_empty());
        let place = slots.binary_search_by(|slot| slot.source.cmp(&key.source));
        match place {
            Ok(place) => {
                let slot = &mut slots[place];
                if slot.at.revision <= at.revision && *slot.registration != registration {
                    slot.registration = Arc::new(registration);
                    slot.valued = at.revision;
                }
                (slot, false)
            }
            Err(place) => {
                if matches!(key.source, InstanceSource::Named(_)) {
                    *self.named.entry(key.source.clone()).or_default() += 1;
                }
                let slot = Slot::new(key.source.clone(), registration, at);
                slots.insert(place, slot);
                (&mut slots[place], true)
            }
        }
    }
}

impl Slot {
    fn new(source: InstanceSource, registration: Registration, at: At) -> Self {
        Self {
            source,
            registration: Arc::new(registration),
            at,
            valued: at.revision,
            vouched: None,
            doubted: None,
            alarm: None,
            reading: 0,
        }
    }

    fn key(&self) -> SlotKey {
        SlotKey {
            instance: self.registration.key(),
            source: self.source.clone(),
        }
    }

    fn in_force(&self) -> InForce {
        InForce {
            registration: Arc::clone(&self.registration),
            source: self.source.clone(),
            revision: self.valued,
        }
    }
}

#[cfg(test)]
mod tests;
