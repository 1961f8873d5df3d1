//! Instances of a registry that the gateways of a zone share: what comes from the zone-sync goes into the table and onto the
//! disk, and what is registered here is passed on.
//!
//! The file is not the registry but the last view of it, so that a gateway that restarts while every zone-sync is away
//! serves what it knew. Nothing in it ends by itself: only the zone-sync says that an instance is gone.

use std::{
    collections::{BTreeMap, BTreeSet},
    future,
};

use causeway_federation::registry::{InstanceKey, InstanceSource, Registered, Registration, RegistryError};
use causeway_routing::snapshot::Health;
use tokio::{sync::mpsc, time::Instant};

use super::{
    AcceptedAll, Instances,
    task::{InstancesCommand, InstancesTask},
};
use crate::{
    attach::{Attach, AttachmentEnds, Forwarded, RegistryView, Report, SharedChange, SharedInstance},
    health::Finding,
};

/// The file of the last view in the data directory. Not the one of the embedded registry, so that a gateway can be
/// started either way and finds what it left.
pub(crate) const SHARED_REGISTRY_FILE: &str = "shared-registry.redb";
/// Instances that are kept for a topology that allows them at their addresses.
const MAX_LEFT_OUT: usize = 10_000;
/// Instances that are named one by one in the log when a view no longer has them; the rest is counted.
const MAX_NAMED: usize = 20;

/// The task's side of the attachment.
#[derive(Debug, Default)]
pub(super) struct AttachmentShared {
    feed: Option<AttachmentEnds>,
    /// Source that the zone-sync named for each instance.
    sources: BTreeMap<InstanceKey, InstanceSource>,
    /// Instances that the topology does not allow at their addresses: another one may, and the zone-sync does not name them again.
    left_out: BTreeMap<InstanceKey, SharedInstance>,
}

impl AttachmentShared {
    pub(super) fn new(feed: Option<AttachmentEnds>) -> Self {
        Self {
            feed,
            ..Self::default()
        }
    }

    pub(super) fn reports(&self) -> Option<mpsc::Sender<Report>> {
        self.feed.as_ref().map(|feed| feed.reports.clone())
    }

    /// Notes what was read from the disk.
    pub(super) fn note_stored(&mut self, key: InstanceKey, source: InstanceSource) {
        if self.feed.is_some() {
            self.sources.insert(key, source);
        }
    }

    /// Tells whether what is on the disk is what other gateways share.
    pub(super) fn is_shared(&self) -> bool {
        self.feed.is_some()
    }

    /// The next changes; never, where there is no attachment or it has ended. May be dropped and called again.
    pub(super) async fn changes(&mut self) -> Vec<SharedChange> {
        if let Some(feed) = &mut self.feed
            && let Some(changes) = feed.changes.recv().await
        {
            return changes;
        }
        future::pending().await
    }
}

/// Waits for room to tell the other gateways something; never has any where there are none.
pub(super) async fn room(reports: Option<&mpsc::Sender<Report>>) -> mpsc::Permit<'_, Report> {
    if let Some(reports) = reports
        && let Ok(permit) = reports.reserve().await
    {
        return permit;
    }
    future::pending().await
}

impl InstancesTask {
    pub(super) fn take_changes(&mut self, changes: Vec<SharedChange>) {
        for change in changes {
            self.take_change(change);
        }
    }

    fn take_change(&mut self, change: SharedChange) {
        let now = Instant::now().into_std();
        match change {
            SharedChange::Joined(view) => self.join(view),
            SharedChange::Put(held) => self.put_shared(held),
            SharedChange::Removed(key) => {
                tracing::debug!(service = %key.service, id = key.id, "the zone-sync says it is gone");
                self.remove_shared(key);
            }
            SharedChange::Gateways(gateways) => {
                self.table.set_gateways(now, gateways.clone());
                self.log_shares(&gateways);
            }
            SharedChange::Found(key, verdict) => self.hear(key, verdict),
            SharedChange::CutOff => {
                self.table.cut_off(now);
                tracing::warn!(
                    "no zone-sync can be reached: what was known is served on, and this gateway checks every instance itself"
                );
            }
        }
    }

    fn join(&mut self, view: RegistryView) {
        let now = Instant::now().into_std();
        let gateways = view.gateways.clone();
        self.table.join(now, view.gateways, view.verdicts);
        let here: BTreeSet<_> = view
            .instances
            .iter()
            .map(|held| held.registration.key())
            .collect();
        let held = self.shared.sources.keys();
        let gone: Vec<_> = held.filter(|key| !here.contains(*key)).cloned().collect();
        for key in gone.iter().take(MAX_NAMED) {
            tracing::info!(service = %key.service, id = key.id, "the zone-sync no longer has an instance");
        }
        if !gone.is_empty() {
            tracing::info!(count = gone.len(), "removed what the zone-sync no longer has");
        }
        self.shared.left_out.retain(|key, _| here.contains(key));
        for held in view.instances {
            self.put_shared(held);
        }
        for key in gone {
            self.remove_shared(key);
        }
        self.table.settle_shares(now);
        self.log_shares(&gateways);
    }

    fn put_shared(&mut self, held: SharedInstance) {
        let SharedInstance { registration, source } = held;
        let key = registration.key();
        let now = Instant::now().into_std();
        // What is fixed in the topology every gateway knows from its own.
        if source == InstanceSource::Topology {
            return;
        }
        if let Err(error) = self.addresses.check(&registration) {
            let held = SharedInstance { registration, source };
            return self.leave_out(key, held, &error);
        }
        self.shared.left_out.remove(&key);
        match self.table.put(now, &source, registration.clone()) {
            Ok((Registered::Added | Registered::Replaced, _)) => {
                self.writer.put(source.clone(), registration, None);
            }
            Ok((Registered::Renewed, _)) => {}
            Err(error) => {
                tracing::warn!(instance = %key, %source, %error, "an instance of the shared registry is left out");
                return;
            }
        }
        let before = self.shared.sources.insert(key.clone(), source.clone());
        if let Some(before) = before.filter(|before| *before != source) {
            self.drop_shared(before, key);
        }
    }

    /// Keeps an instance for a topology that allows it, and takes out what its key stood for before.
    fn leave_out(&mut self, key: InstanceKey, held: SharedInstance, error: &RegistryError) {
        if self.shared.left_out.get(&key) == Some(&held) {
            return;
        }
        tracing::warn!(instance = %key, source = %held.source, %error, "an instance of the shared registry is left out");
        if self.shared.left_out.len() < MAX_LEFT_OUT {
            self.shared.left_out.insert(key.clone(), held);
        }
        if let Some(source) = self.shared.sources.remove(&key) {
            self.drop_shared(source, key);
        }
    }

    /// Looks again at what was left out, under another topology.
    pub(super) fn look_at_left_out(&mut self) {
        for held in self.shared.left_out.clone().into_values() {
            self.put_shared(held);
        }
    }

    fn remove_shared(&mut self, key: InstanceKey) {
        self.shared.left_out.remove(&key);
        if let Some(source) = self.shared.sources.remove(&key) {
            self.drop_shared(source, key);
        }
    }

    fn drop_shared(&mut self, source: InstanceSource, key: InstanceKey) {
        self.table.remove_from(Instant::now().into_std(), &source, &key);
        self.writer.remove((source, key), None);
    }

    fn hear(&mut self, key: InstanceKey, verdict: Finding) {
        let (found_by, failure) = (verdict.gateway.clone(), verdict.failure.clone());
        let now = Instant::now().into_std();
        let Some(instance) = self.table.hear(now, key, verdict) else {
            return;
        };
        let (service, id, address) = (&instance.service, &instance.id, instance.address);
        match instance.health {
            Health::Unhealthy => {
                tracing::info!(%service, id, %address, found_by, reason = failure, "another gateway finds an instance unhealthy");
            }
            _ => {
                tracing::info!(%service, id, %address, found_by, "another gateway finds an instance healthy")
            }
        }
    }

    fn log_shares(&self, gateways: &BTreeSet<String>) {
        let (own, others) = self.table.shares();
        tracing::info!(
            ?gateways,
            own,
            others,
            "the gateways of the zone share the checks out"
        );
    }
}

impl Instances {
    /// Way on which everything that a source knows is handed over, and the name for it; `None`: it stays here.
    ///
    /// What DNS says every gateway of the zone asks for itself. A folder is one gateway's, so it is a source of its own in
    /// the registry that they share: two gateways with different folders do not take each other's instances out.
    pub(super) fn shared_source(&self, source: &InstanceSource) -> Option<(&Attach, InstanceSource)> {
        let attach = self.attach.as_ref()?;
        let source = match source {
            InstanceSource::Topology | InstanceSource::Dns => return None,
            InstanceSource::Folder => InstanceSource::named(&format!("folder-{}", attach.gateway())).ok()?,
            InstanceSource::Registered | InstanceSource::Named(_) => source.clone(),
        };
        Some((attach, source))
    }

    pub(super) async fn forward_registrations(
        &self,
        attach: &Attach,
        registrations: Vec<Registration>,
    ) -> Result<AcceptedAll, RegistryError> {
        // What may not be an instance is not even told to the others.
        let (good, checked) = self.addresses.shareable(registrations);
        let keys = good.iter().map(Registration::key).collect();
        let Forwarded { each, durability } = attach.register(&good).await?;
        let standings = self
            .ask(|reply| InstancesCommand::Standings { keys, reply })
            .await?;
        let mut taken = each
            .into_iter()
            .zip(standings)
            .map(|(taken, standing)| taken.map(|()| standing));
        let each = checked.into_iter().map(|allowed| {
            // The server has answered for each that it was told of.
            allowed.and_then(|()| taken.next().unwrap_or(Err(RegistryError::Stopped)))
        });
        Ok(AcceptedAll {
            each: each.collect(),
            durability,
        })
    }
}

#[cfg(test)]
#[path = "shared_tests/mod.rs"]
mod tests;
