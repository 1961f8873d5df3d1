//! Requests of registrants: registering, heartbeats, taking out, and handing over all that a source knows.
//!
//! What is answered as done is in etcd, that is on the disks of most of its members. When etcd cannot be written, the
//! call as a whole is answered with [`Unavailable`], and may be made again as it is: nothing is done twice by that.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::atomic::Ordering,
    time::Instant,
};

use causeway_federation::registry::{
    CallSession, InstanceKey, InstanceSource, MAX_INSTANCES_PER_ZONE, Registration, RegistryError,
};
use tokio::sync::oneshot;

use super::{
    Contact, Inner, SharedRegistry, TRIED_FOR,
    keys::{Key, SlotKey, encode_registration},
    lane::NotWritten,
    leases::LeaseClass,
    view::{HeartbeatState, LeaseClaim},
    write::{Write, Written},
};

/// Nothing can be written at present.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the registry of the zone cannot be written: {why}; try again, here or at another zone-sync of the zone"
)]
pub struct Unavailable {
    pub why: String,
    /// Nothing of the call was done, for certain. Else that is not known.
    pub is_untouched: bool,
}

/// Reason why a registration was not ordered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    /// It would be refused again.
    #[error(transparent)]
    Refused(#[from] RegistryError),
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// Result of handing over all that a source knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReplaceResult {
    pub added: u32,
    pub changed: u32,
    pub removed: u32,
    pub refused: Vec<RegistryError>,
}

type Pending = oneshot::Receiver<Result<Written, NotWritten>>;

impl SharedRegistry {
    /// Lets a call of a gateway in, which names its session; from then on no call that was made before it is carried out if the gateway
    /// has given that up.
    ///
    /// # Errors
    /// When the gateway has attached itself anew since, or has given the call up.
    pub fn admit(&self, caller: &CallSession) -> Result<(), Unavailable> {
        let admitted = self.inner.sessions().admit(caller);
        admitted.map_err(|why| Unavailable {
            why: why.to_string(),
            is_untouched: true,
        })
    }

    /// Registers each by itself, or replaces what has its service and id. With a `caller`, a gateway whose call was admitted, only as long
    /// as its session lasts.
    ///
    /// # Errors
    /// When etcd cannot be written; some may be registered then.
    pub async fn register(
        &self,
        registrations: Vec<Result<Registration, RegistryError>>,
        caller: Option<&CallSession>,
    ) -> Result<Vec<Result<(), RegistryError>>, Unavailable> {
        self.inner.check_contact()?;
        let mut pending = Vec::with_capacity(registrations.len());
        for registration in registrations {
            let ordered = match registration {
                Ok(registration) => {
                    let source = InstanceSource::Registered;
                    self.inner.put(registration, source, caller).await
                }
                Err(refused) => Err(refused.into()),
            };
            pending.push(match ordered {
                Ok(pending) => Ok(pending),
                Err(RegisterError::Refused(refused)) => Err(refused),
                Err(RegisterError::Unavailable(unavailable)) => {
                    return Err(unavailable.among(pending.len() + 1));
                }
            });
        }
        let mut outcomes = Vec::with_capacity(pending.len());
        let ordered = pending.len();
        for pending in pending {
            outcomes.push(match pending {
                Ok(pending) => written(pending, ordered).await.map(|_| Ok(()))?,
                Err(refused) => Err(refused),
            });
        }
        Ok(outcomes)
    }

    /// Takes out what was registered under these keys, each by itself; `caller` as for [`SharedRegistry::register`].
    ///
    /// # Errors
    /// When etcd cannot be written; some may be gone then.
    pub async fn deregister(
        &self,
        keys: Vec<Result<InstanceKey, RegistryError>>,
        caller: Option<&CallSession>,
    ) -> Result<Vec<Result<(), RegistryError>>, Unavailable> {
        self.inner.check_contact()?;
        let mut pending = Vec::with_capacity(keys.len());
        for key in keys {
            pending.push(match key {
                Ok(key) => {
                    let source = InstanceSource::Registered;
                    let ordered = self.inner.delete(key.clone(), source, caller).await;
                    Ok((key, ordered.map_err(|error| error.among(pending.len() + 1))?))
                }
                Err(refused) => Err(refused),
            });
        }
        let mut outcomes = Vec::with_capacity(pending.len());
        let ordered = pending.len();
        for pending in pending {
            outcomes.push(match pending {
                Ok((key, pending)) => match written(pending, ordered).await? {
                    Written::Done(_) => Ok(()),
                    Written::Absent(_) | Written::Changed(_) | Written::Fenced => {
                        Err(self.inner.view().absent(&key))
                    }
                },
                Err(refused) => Err(refused),
            });
        }
        Ok(outcomes)
    }

    /// Gives each registration another full time to live. Needs etcd only for those that this process does not vouch for
    /// yet; when it is away, they are claimed afterwards.
    pub async fn heartbeat(
        &self,
        keys: Vec<Result<InstanceKey, RegistryError>>,
    ) -> Vec<Result<(), RegistryError>> {
        let counters = &self.inner.counters;
        counters
            .heartbeats
            .fetch_add(keys.len() as u64, Ordering::Relaxed);
        let beats = self.inner.hear(keys);
        let mut pending = Vec::new();
        let mut outcomes = Vec::with_capacity(beats.len());
        for (place, beat) in beats.into_iter().enumerate() {
            outcomes.push(match beat {
                Err(refused) => Err(refused),
                Ok((key, HeartbeatState::NotFound)) => Err(self.inner.view().absent(&key)),
                Ok((_, HeartbeatState::Renewed)) => Ok(()),
                Ok((key, HeartbeatState::Claim(claim))) => {
                    if let Some(order) = self.inner.claim(*claim).await {
                        pending.push((place, key, order));
                    }
                    Ok(())
                }
            });
        }
        for (place, key, order) in pending {
            match written(order, 1).await {
                // What changed meanwhile was registered anew, which is as good.
                Ok(Written::Done(_) | Written::Changed(_)) => {}
                Ok(Written::Absent(_)) => outcomes[place] = Err(self.inner.view().absent(&key)),
                Ok(Written::Fenced) | Err(_) => self.inner.claim_later(key),
            }
        }
        outcomes
    }

    /// Makes a source hold exactly these; `caller` as for [`SharedRegistry::register`]. Nothing that another source put in is touched.
    ///
    /// # Errors
    /// When the source's name cannot be one, or etcd cannot be written; a part may be done then.
    pub async fn replace(
        &self,
        source: &str,
        registrations: Vec<Result<Registration, RegistryError>>,
        caller: Option<&CallSession>,
    ) -> Result<ReplaceResult, RegisterError> {
        let source = InstanceSource::named(source)?;
        self.inner.check_contact()?;
        let mut replaced = ReplaceResult::default();
        let wanted = sift(registrations, &mut replaced.refused);
        let (puts, gone) = self.inner.difference(&source, wanted, &mut replaced);
        let mut pending = Vec::with_capacity(puts.len());
        for registration in puts {
            match self.inner.put(registration, source.clone(), caller).await {
                Ok(order) => pending.push(order),
                Err(RegisterError::Refused(refused)) => replaced.refused.push(refused),
                Err(RegisterError::Unavailable(unavailable)) => {
                    return Err(unavailable.among(pending.len() + 1).into());
                }
            }
        }
        let ordered = pending.len() + gone.len();
        for order in pending.drain(..) {
            written(order, ordered).await?;
        }
        // What is there no more goes last, so that a source which renames its instances never has none.
        for key in gone {
            let order = self.inner.delete(key, source.clone(), caller).await;
            pending.push(order.map_err(|error| error.among(ordered))?);
        }
        for order in pending {
            written(order, ordered).await?;
        }
        Ok(replaced)
    }
}

impl Inner {
    /// Checks that a write is worth a try.
    pub(super) fn check_contact(&self) -> Result<(), Unavailable> {
        let why = match *self.contact.borrow() {
            Contact::Never => {
                let why = self.unreached().clone();
                let why = why.map(|why| format!(": {why}")).unwrap_or_default();
                format!(
                    "etcd at {} has not been reached yet{why}",
                    self.client.addresses()
                )
            }
            Contact::Away { since } if since.elapsed() > TRIED_FOR => {
                format!("etcd has been out of reach for {} s", since.elapsed().as_secs())
            }
            Contact::Following | Contact::Away { .. } => return Ok(()),
        };
        Err(Unavailable {
            why,
            is_untouched: true,
        })
    }

    async fn put(
        &self,
        registration: Registration,
        source: InstanceSource,
        caller: Option<&CallSession>,
    ) -> Result<Pending, RegisterError> {
        if let Some(member) = self.client.member_at(registration.address).await {
            let address = registration.address;
            let reason = format!(
                "{address} is where the registry itself is kept ({member}): whoever connects there could change it"
            );
            return Err(RegistryError::ForbiddenAddress { reason }.into());
        }
        let key = SlotKey {
            instance: registration.key(),
            source,
        };
        let (room, kept) = {
            let view = self.view();
            (view.check_room(&registration, &key.source), view.own_lease(&key))
        };
        room?;
        let lease = self.lease_of(&registration, kept);
        let write = Write::Put {
            value: encode_registration(&registration),
            lease: 0,
        };
        let order = self.order(Key::Slot(key), write, Some(registration), lease, caller);
        Ok(order.await.map_err(Unavailable::from)?)
    }

    async fn delete(
        &self,
        instance: InstanceKey,
        source: InstanceSource,
        caller: Option<&CallSession>,
    ) -> Result<Pending, Unavailable> {
        let key = Key::Slot(SlotKey { instance, source });
        let order = self.order(key, Write::Delete { revision: None }, None, None, caller);
        order.await.map_err(Unavailable::from)
    }

    /// The class of lease that a registration needs, and the lease that it has and may keep.
    fn lease_of(&self, registration: &Registration, kept: Option<i64>) -> Option<(LeaseClass, Option<i64>)> {
        let class = LeaseClass::of(registration.time_to_live?);
        let kept = kept.filter(|lease| self.leases().is_of(*lease, class));
        Some((class, kept))
    }

    fn hear(
        &self,
        keys: Vec<Result<InstanceKey, RegistryError>>,
    ) -> Vec<Result<(InstanceKey, HeartbeatState), RegistryError>> {
        let now = Instant::now();
        let mut view = self.view();
        let hear = |key: InstanceKey| {
            let beat = view.heartbeat(now, &key);
            (key, beat)
        };
        let mut hear = hear;
        keys.into_iter().map(|key| key.map(&mut hear)).collect()
    }

    /// Orders a claim; `None`: it is made later.
    async fn claim(&self, claim: LeaseClaim) -> Option<Pending> {
        let key = claim.key.clone();
        if !self.is_following() {
            self.view().claim_later(key);
            return None;
        }
        let (key, write, value, lease) = self.claim_parts(claim);
        match self
            .order(Key::Slot(key.clone()), write, Some(value), lease, None)
            .await
        {
            Ok(order) => Some(order),
            Err(_) => {
                self.view().claim_later(key);
                None
            }
        }
    }

    fn claim_later(&self, instance: InstanceKey) {
        let source = InstanceSource::Registered;
        self.view().claim_later(SlotKey { instance, source });
    }

    pub(super) fn claim_parts(
        &self,
        claim: LeaseClaim,
    ) -> (SlotKey, Write, Registration, Option<(LeaseClass, Option<i64>)>) {
        let lease = self.lease_of(&claim.registration, None);
        let write = Write::Claim {
            value: encode_registration(&claim.registration),
            lease: 0,
            revision: claim.revision,
            recreate: claim.recreate,
        };
        (claim.key, write, claim.registration, lease)
    }

    /// Finds what must be put so that the source holds exactly `wanted`, and what must go.
    fn difference(
        &self,
        source: &InstanceSource,
        mut wanted: BTreeMap<InstanceKey, Registration>,
        replaced: &mut ReplaceResult,
    ) -> (Vec<Registration>, Vec<InstanceKey>) {
        let view = self.view();
        let mut puts = Vec::new();
        let mut gone = Vec::new();
        for held in view.of_source(source) {
            match wanted.remove(&held.key()) {
                Some(same) if same == **held => {}
                Some(changed) => {
                    replaced.changed += 1;
                    puts.push(changed);
                }
                None => {
                    replaced.removed += 1;
                    gone.push(held.key());
                }
            }
        }
        for new in wanted.into_values() {
            match view.check_room(&new, source) {
                Ok(()) => {
                    replaced.added += 1;
                    puts.push(new);
                }
                Err(refused) => replaced.refused.push(refused),
            }
        }
        (puts, gone)
    }
}

/// Keeps what a source may hand over: each key once, and nothing with a time to live.
fn sift(
    registrations: Vec<Result<Registration, RegistryError>>,
    refused: &mut Vec<RegistryError>,
) -> BTreeMap<InstanceKey, Registration> {
    let mut wanted = BTreeMap::new();
    for registration in registrations {
        let registration = match registration {
            Ok(registration) if registration.time_to_live.is_some() => {
                refused.push(RegistryError::NeedlessTimeToLive(registration.key()));
                continue;
            }
            Ok(registration) => registration,
            Err(error) => {
                refused.push(error);
                continue;
            }
        };
        if wanted.len() >= MAX_INSTANCES_PER_ZONE {
            refused.push(RegistryError::ZoneFull);
            continue;
        }
        match wanted.entry(registration.key()) {
            Entry::Vacant(place) => {
                place.insert(registration);
            }
            Entry::Occupied(first) => refused.push(RegistryError::Twice(first.key().clone())),
        }
    }
    wanted
}

/// Waits for one of the orders of a call, of which there are `ordered`.
async fn written(pending: Pending, ordered: usize) -> Result<Written, Unavailable> {
    match pending.await {
        Ok(written) => written.map_err(|error| Unavailable::from(error).among(ordered)),
        Err(_) => Err(Unavailable {
            why: "zone sync is stopping".to_owned(),
            is_untouched: false,
        }),
    }
}

impl Unavailable {
    /// For a call of which so many were ordered: what became of the others is not asked any more.
    fn among(self, ordered: usize) -> Self {
        Self {
            is_untouched: self.is_untouched && ordered == 1,
            ..self
        }
    }
}

impl From<NotWritten> for Unavailable {
    fn from(error: NotWritten) -> Self {
        Self {
            why: error.why,
            is_untouched: error.is_untouched,
        }
    }
}
