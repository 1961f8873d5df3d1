//! Vouching for instances, and what their heartbeats do.
//!
//! A lease of etcd for each instance would have etcd handle every heartbeat, and moving keys between leases would make
//! every heartbeat a write. Instead, the zone-sync that hears an instance's heartbeats *vouches* for it: it keeps the
//! time of the last one in memory, keeps alive a lease that a thousand such keys share, and deletes the key when the
//! instance falls silent. So a heartbeat costs etcd nothing. When a heartbeat comes to another zone-sync, that one
//! *claims* the key: it writes it anew under a lease of its own. When a zone-sync dies, its leases run out, half a time
//! to live later than its instances' last heartbeats could, and take with them whatever nobody claimed by then.

use std::time::{Duration, Instant};

use causeway_federation::registry::{InstanceKey, InstanceSource, Registration};

use super::{EtcdView, SlotKey};

/// Time after which a silent instance that was named is named again, unless etcd says by then that it is gone.
const NAME_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// State that a heartbeat came upon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeartbeatState {
    /// The source has no such instance.
    NotFound,
    /// It is known and needs nothing further.
    Renewed,
    /// It is known, and its key must be put under a lease of this process.
    Claim(Box<LeaseClaim>),
}

/// A key that is to come under a lease of this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseClaim {
    pub key: SlotKey,
    pub registration: Registration,
    /// It is claimed only if it is still as of this revision.
    pub revision: i64,
    /// It is also claimed when it does not exist any more: it went with its lease and not on anybody's word.
    pub recreate: bool,
}

/// An instance that fell silent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overdue {
    pub key: SlotKey,
    /// It is to be deleted only if it is still as of this revision.
    pub revision: i64,
}

impl EtcdView {
    /// A lease was granted to this process.
    pub(crate) fn add_lease(&mut self, lease: i64) {
        self.own_leases.entry(lease).or_default();
    }

    /// Number of keys that go with a lease of this process.
    #[must_use]
    pub(crate) fn keys_of_lease(&self, lease: i64) -> usize {
        self.own_leases.get(&lease).copied().unwrap_or(0)
    }

    /// A lease of this process ran out, and etcd removes its keys: those whose instances live are to be claimed anew.
    pub(crate) fn lose_lease(&mut self, now: Instant, lease: i64) {
        if self.own_leases.remove(&lease).is_none() {
            return;
        }
        let slots = self
            .services
            .values_mut()
            .flat_map(|ids| ids.values_mut())
            .flatten();
        for slot in slots.filter(|slot| slot.at.lease == lease) {
            if slot.vouched.is_some_and(|until| until > now) {
                self.claims.insert(slot.key());
            }
        }
        self.lose_reports(lease);
    }

    /// Keys to claim, because a lease ran out under instances that live.
    pub(crate) fn take_claims(&mut self) -> Vec<LeaseClaim> {
        let keys = std::mem::take(&mut self.claims);
        keys.iter().filter_map(|key| self.claim(key, true)).collect()
    }

    /// This process just wrote the value on its registrant's word, which is as good as a heartbeat.
    pub fn heard(&mut self, now: Instant, key: &SlotKey) {
        let Some(slot) = self.slot(key) else { return };
        let until = slot.registration.time_to_live.map(|time| now + time);
        if !self.own_leases.contains_key(&slot.at.lease) {
            return;
        }
        if let (Some(slot), Some(until)) = (self.slot_mut(key), until) {
            slot.vouched = Some(until);
            self.set_alarm(key, until);
        }
    }

    /// The lease of this process that the key goes with.
    #[must_use]
    pub(crate) fn own_lease(&self, key: &SlotKey) -> Option<i64> {
        let lease = self.slot(key)?.at.lease;
        self.own_leases.contains_key(&lease).then_some(lease)
    }

    /// An instance sent a heartbeat that could not be written: it is claimed once etcd is back.
    pub(crate) fn claim_later(&mut self, key: SlotKey) {
        self.claims.insert(key);
    }

    /// Takes up a heartbeat of a registered instance.
    pub fn heartbeat(&mut self, now: Instant, instance: &InstanceKey) -> HeartbeatState {
        let key = SlotKey {
            instance: instance.clone(),
            source: InstanceSource::Registered,
        };
        let recovering = self.is_recovering(now, &key);
        let is_own = |lease| self.own_leases.contains_key(&lease);
        let Some(slot) = self.slot(&key) else {
            return HeartbeatState::NotFound;
        };
        let Some(time) = slot.registration.time_to_live else {
            return HeartbeatState::Renewed;
        };
        if is_own(slot.at.lease) && slot.doubted.is_none() {
            if let Some(slot) = self.slot_mut(&key) {
                slot.vouched = Some(now + time);
            }
            return HeartbeatState::Renewed;
        }
        let recreate = slot.doubted.is_some() || recovering;
        let claim = self.claim(&key, recreate).map(Box::new);
        claim.map_or(HeartbeatState::NotFound, HeartbeatState::Claim)
    }

    /// Time at which [`EtcdView::expire`] should be called next. It may then find nothing to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.alarms.first().map(|(alarm, _)| *alarm)
    }

    /// Removes what was doubted for long enough, and says which instances fell silent. Those stay until etcd says that
    /// they are gone, and are named again if it does not. To be called only in contact with etcd.
    pub fn expire(&mut self, now: Instant) -> Vec<Overdue> {
        let mut overdue = Vec::new();
        while self.alarms.first().is_some_and(|(alarm, _)| *alarm <= now) {
            let Some((_, key)) = self.alarms.pop_first() else {
                break;
            };
            let Some(slot) = self.slot_mut(&key) else { continue };
            slot.alarm = None;
            if slot.doubted.is_some_and(|until| until <= now) {
                self.remove_slot(&key);
                continue;
            }
            let next = [slot.doubted, slot.vouched]
                .into_iter()
                .flatten()
                .filter(|at| *at > now)
                .min();
            let silent = slot.vouched.is_some_and(|until| until <= now) && slot.doubted.is_none();
            let revision = slot.at.revision;
            if let Some(alarm) = next.or(silent.then(|| now + NAME_AGAIN_AFTER)) {
                self.set_alarm(&key, alarm);
            }
            if silent {
                overdue.push(Overdue { key, revision });
            }
        }
        overdue
    }

    fn is_recovering(&self, now: Instant, key: &SlotKey) -> bool {
        let time_to_live = self.slot(key).and_then(|slot| slot.registration.time_to_live);
        let until = self.recovered.zip(time_to_live);
        until.is_some_and(|(from, time)| now < from + time.min(super::MAX_GRACE))
    }

    fn claim(&self, key: &SlotKey, recreate: bool) -> Option<LeaseClaim> {
        let slot = self.slot(key)?;
        Some(LeaseClaim {
            key: key.clone(),
            registration: Registration::clone(&slot.registration),
            revision: slot.at.revision,
            recreate,
        })
    }

    /// Sets the slot's alarm unless an earlier one is set, which then sets it again.
    pub(super) fn set_alarm(&mut self, key: &SlotKey, alarm: Instant) {
        let Some(slot) = self.slot_mut(key) else { return };
        if slot.alarm.is_some_and(|set| set <= alarm) {
            return;
        }
        if let Some(set) = slot.alarm.replace(alarm) {
            self.alarms.remove(&(set, key.clone()));
        }
        self.alarms.insert((alarm, key.clone()));
    }
}
