//! Lists: many registrations, renewals or removals in one call, and everything that one source knows.

use causeway_federation::registry::{InstanceKey, InstanceSource, Registration, RegistryError, Replaced};
use causeway_zone_sync::registry::Durability;
use tokio::sync::oneshot;

use crate::attach::Forwarded;

use super::{
    Instances, RegistrationStanding,
    task::{InstancesCommand, Receipt},
};

/// Elements that the task takes in at one go, so that a long list does not keep it from probing.
pub(super) const BULK_PART: usize = 1000;
/// Whole lists of sources that wait or are under way at once; callers wait for their turn, so the number bounds memory.
pub const MAX_REPLACEMENTS: usize = 4;

/// Outcome of a list of registrations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptedAll {
    /// In the order of the list.
    pub each: Vec<Result<RegistrationStanding, RegistryError>>,
    /// The least durable of those accepted.
    pub durability: Durability,
}

/// Outcome of a list of removals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeregisteredAll {
    /// In the order of the list.
    pub each: Vec<Result<(), RegistryError>>,
    pub durability: Durability,
}

impl Instances {
    /// Registers a list, each on its own: one that is refused does not stop the rest.
    ///
    /// # Errors
    /// When the gateway is shutting down, or no zone-sync could take a list that belongs there.
    pub async fn register_all(&self, registrations: Vec<Registration>) -> Result<AcceptedAll, RegistryError> {
        if let Some(attach) = &self.attach {
            return self.forward_registrations(attach, registrations).await;
        }
        let make = |part, reply| InstancesCommand::Register { part, reply };
        let (each, durability) = self.in_parts(registrations, make).await?;
        Ok(AcceptedAll { each, durability })
    }

    /// Removes a list of registrations, each on its own.
    ///
    /// # Errors
    /// When the gateway is shutting down, or no zone-sync could take a list that belongs there.
    pub async fn deregister_all(&self, keys: Vec<InstanceKey>) -> Result<DeregisteredAll, RegistryError> {
        if let Some(attach) = &self.attach {
            let Forwarded { each, durability } = attach.deregister(&keys).await?;
            return Ok(DeregisteredAll { each, durability });
        }
        let make = |part, reply| InstancesCommand::Deregister { part, reply };
        let (each, durability) = self.in_parts(keys, make).await?;
        Ok(DeregisteredAll { each, durability })
    }

    /// Gives each registration of a list another full time to live; the answers are in the order of the list.
    ///
    /// # Errors
    /// When the gateway is shutting down, or no zone-sync could take a list that belongs there.
    pub async fn renew_all(
        &self,
        keys: Vec<InstanceKey>,
    ) -> Result<Vec<Result<(), RegistryError>>, RegistryError> {
        if let Some(attach) = &self.attach {
            return Ok(attach.renew(&keys).await?.each);
        }
        let mut each = Vec::with_capacity(keys.len());
        for part in parts(keys) {
            each.append(&mut self.ask(|reply| InstancesCommand::Renew { part, reply }).await?);
        }
        Ok(each)
    }

    /// Makes `source` hold exactly `wanted`, and touches nothing that another source put in. Once it has begun, it is
    /// carried through, even if the caller goes away. Returns when it is on disk, or is known not to be.
    ///
    /// # Errors
    /// When the gateway is shutting down, or no zone-sync could take a list that belongs there.
    pub async fn replace(
        &self,
        source: InstanceSource,
        wanted: Vec<Registration>,
    ) -> Result<(Replaced, Durability), RegistryError> {
        if let Some((attach, source)) = self.shared_source(&source) {
            let keys: Vec<_> = wanted.iter().map(Registration::key).collect();
            let (good, checked) = self.addresses.shareable(wanted);
            let (mut replaced, durability) = attach.replace(&source, good).await?;
            let refused = keys.into_iter().zip(checked);
            replaced
                .refused
                .extend(refused.filter_map(|(key, allowed)| Some((key, allowed.err()?))));
            return Ok((replaced, durability));
        }
        // The semaphore is never closed.
        let turn = self.replacements.clone().acquire_owned().await;
        let turn = turn.map_err(|_| RegistryError::Stopped)?;
        let make = |reply| InstancesCommand::Replace {
            source,
            wanted,
            turn,
            reply,
        };
        let (replaced, mut receipt) = self.ask(make).await?;
        Ok((replaced, receipt.durability().await))
    }

    async fn in_parts<E, T>(
        &self,
        list: Vec<E>,
        make: impl Fn(Vec<E>, oneshot::Sender<Receipt<T>>) -> InstancesCommand,
    ) -> Result<(Vec<Result<T, RegistryError>>, Durability), RegistryError> {
        let mut each = Vec::with_capacity(list.len());
        let mut receipts = Vec::new();
        for part in parts(list) {
            receipts.push(self.ask(|reply| make(part, reply)).await?);
        }
        let mut durability = Durability::Durable;
        for mut receipt in receipts {
            each.append(&mut receipt.each);
            durability = durability.max(receipt.durability().await);
        }
        Ok((each, durability))
    }
}

fn parts<E>(list: Vec<E>) -> impl Iterator<Item = Vec<E>> {
    let mut rest = list.into_iter();
    std::iter::from_fn(move || {
        let part: Vec<_> = rest.by_ref().take(BULK_PART).collect();
        (!part.is_empty()).then_some(part)
    })
}
