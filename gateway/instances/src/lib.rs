//! This zone's instances: fixed by the topology or registered, checked, and published for routing and zone sync.
//!
//! One task owns all of it. Others hold a clone of [`Instances`], which asks that task, and read what it publishes: every
//! change of an instance or its health yields a new map, in which services that did not change share what they had.
//! Choosing among instances is `balance`'s, telling other zones about them is zone sync's.
//!
//! An instance of a service that the topology does not declare is kept and shown, and is [`Health::Unknown`], so that it
//! gets no traffic; it comes into play with the topology that declares its service.
//!
//! [`Health::Unknown`]: causeway_routing::snapshot::Health::Unknown

#![warn(unreachable_pub)]

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use causeway_federation::{
    name::{ServiceName, ZoneName},
    registry::{InstanceKey, InstanceSource, Registration, RegistryError},
    topology::Topology,
};
use causeway_host::tasks::Tasks;
use causeway_routing::{
    failures::ConnectFailures,
    reach::OwnListeners,
    snapshot::{Health, Instance},
};
use causeway_zone_sync::registry::{Durability, RegistryStoreError, Writer};
use serde::Serialize;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use crate::{
    addresses::AddressCheck,
    attach::{Attach, AttachConfig},
    health::Sharing,
};

mod addresses;
pub mod attach;
mod bulk;
mod carried;
mod drains;
mod health;
mod metrics;
mod replacing;
mod shared;
pub mod sources;
mod table;
mod task;

pub use bulk::{AcceptedAll, DeregisteredAll, MAX_REPLACEMENTS};
pub use causeway_routing::snapshot::Published;
pub use metrics::InstanceMetrics;
pub(crate) use shared::SHARED_REGISTRY_FILE;

use drains::DrainFile;
use shared::AttachmentShared;
use table::Table;
use task::{InstancesCommand, InstancesTask};

/// The registry's file in the data directory.
pub(crate) const REGISTRY_FILE: &str = "registry.redb";
/// Commands that may wait for the task. Callers wait for room, so the number bounds memory, not work.
const COMMANDS: usize = 1024;
/// Connect failures that may wait for the task; what does not fit is dropped, as the probe it asks for will come anyway.
const HINTS: usize = 1024;

#[derive(Debug, Clone)]
pub struct InstancesConfig {
    pub zone: ZoneName,
    /// Folder in which registrations survive a restart; `None`: they do not.
    pub data_dir: Option<PathBuf>,
    /// Way to the registry that the gateways of the zone share; `None`: the registry is embedded.
    pub shared: Option<AttachConfig>,
    /// Every task that lives as long as the gateway.
    pub tasks: Tasks,
    /// Addresses that this process listens on, where no instance can be.
    pub listeners: watch::Receiver<OwnListeners>,
    /// Health that the process before knew of; the checks go on from there.
    pub health: KnownHealth,
}

/// Health of instances, by what the process before has found.
pub type KnownHealth = BTreeMap<InstanceKey, Health>;

/// Reason why instances could not be looked after.
#[derive(Debug, thiserror::Error)]
pub enum InstancesError {
    #[error("cannot take up the registrations of zone {zone}")]
    Store {
        zone: ZoneName,
        #[source]
        source: RegistryStoreError,
    },
}

/// Outcome of a registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct AcceptedRegistration {
    pub standing: RegistrationStanding,
    /// Tells whether it survives a restart of the gateway.
    pub durability: Durability,
}

/// Present effect of an accepted registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RegistrationStanding {
    /// It gets traffic when it is healthy.
    InForce,
    /// The topology does not declare its service: it gets no traffic until it does.
    Undeclared,
    /// A source that goes before it holds an instance of the same service and id.
    Shadowed,
}

/// One instance as views show it.
#[derive(Debug, Clone)]
pub struct InstanceStatus {
    pub instance: Arc<Instance>,
    pub source: InstanceSource,
    /// Tells whether the topology declares its service.
    pub declared: bool,
    /// Tells whether its health comes from checks; otherwise it counts as healthy for as long as it is registered.
    pub checked: bool,
    /// Time for which its health has been what it is; `None` when unchecked.
    pub unchanged_for: Option<Duration>,
    pub last_failure: Option<CheckFailure>,
    /// Until its lease ends; `None`: it has none.
    pub expires_in: Option<Duration>,
}

/// The latest probe of an instance that did not pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckFailure {
    pub reason: String,
    pub ago: Duration,
}

/// A handle on this zone's instances; clones are cheap. The task ends with [`Instances::shutdown`], or after the last
/// clone is dropped.
#[derive(Debug, Clone)]
pub struct Instances {
    commands: mpsc::Sender<InstancesCommand>,
    hints: mpsc::Sender<InstanceKey>,
    published: watch::Receiver<Published>,
    /// One for each list that is being handed over as a whole.
    replacements: Arc<Semaphore>,
    /// `None`: the registry is embedded.
    attach: Option<Attach>,
    addresses: AddressCheck,
    drains: DrainFile,
    /// Set while the disk refuses what is registered.
    store_failing: Arc<AtomicBool>,
}

/// Has an instance probed at once that could not be connected to, if its service is checked.
#[derive(Debug)]
struct Hints(mpsc::Sender<InstanceKey>);

impl ConnectFailures for Hints {
    fn report(&self, service: &ServiceName, id: &str) {
        // A full queue means that many such probes are on their way already.
        let _ = self.0.try_send(key(service, id));
    }
}

impl Instances {
    /// Reads the stored registrations, publishes them with the fixed instances, and begins to check them. Must be called
    /// within a tokio runtime, which the checks then run on. Blocks for as long as reading the file takes.
    ///
    /// # Errors
    /// When the registry's file cannot be opened: another process has it, or it may not be read. A damaged file is set
    /// aside and is no error.
    pub fn start(
        config: InstancesConfig,
        topology: watch::Receiver<Arc<Topology>>,
        metrics: Arc<InstanceMetrics>,
    ) -> Result<Self, InstancesError> {
        let file = match &config.shared {
            Some(_) => SHARED_REGISTRY_FILE,
            None => REGISTRY_FILE,
        };
        let (writer, stored) = match &config.data_dir {
            None => (Writer::none(), Vec::new()),
            Some(folder) => Writer::open(&folder.join(file)).map_err(|source| InstancesError::Store {
                zone: config.zone.clone(),
                source,
            })?,
        };
        let store_failing = writer.failing();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let (drains, drained) =
            DrainFile::open(config.data_dir.as_deref(), now.unwrap_or_default().as_secs());
        let (commands, command_queue) = mpsc::channel(COMMANDS);
        let (hints, hint_queue) = mpsc::channel(HINTS);
        let sharing = match &config.shared {
            Some(shared) => Sharing::among(shared.id.gateway.as_str()),
            None => Sharing::alone(),
        };
        let addresses = AddressCheck {
            zone: config.zone.clone(),
            topology: topology.clone(),
            listeners: config.listeners,
        };
        let table = Table::new(config.zone, sharing)
            .knowing(config.health)
            .draining(drained);
        let attached = config
            .shared
            .map(|shared| Attach::start(shared, metrics.clone(), &config.tasks));
        let (attach, feed) = attached.unzip();
        if let (Some(attach), Some(folder)) = (&attach, &config.data_dir) {
            let carrying = carried::carry_over(attach.clone(), addresses.clone(), folder.join(REGISTRY_FILE));
            tokio::spawn(carrying);
        }
        let (task, published) = InstancesTask::new(
            table,
            writer,
            stored,
            AttachmentShared::new(feed),
            addresses.clone(),
            topology,
            metrics,
        );
        let forgetting = drains::keep_forgetting(drains::LOOK_EVERY, drains.clone(), commands.downgrade());
        let working = async move {
            tokio::select! {
                () = task.run(command_queue, hint_queue) => {}
                () = forgetting => {}
            }
        };
        tokio::spawn(config.tasks.keep("instances", working));
        Ok(Self {
            commands,
            hints,
            published,
            replacements: Arc::new(Semaphore::new(MAX_REPLACEMENTS)),
            attach,
            addresses,
            drains,
            store_failing,
        })
    }

    /// Tells whether the disk refuses what is registered: it is in force all the same, and a restart would forget it.
    #[must_use]
    pub fn is_store_failing(&self) -> bool {
        self.store_failing.load(Ordering::Relaxed)
    }

    /// The instances as they are now and become.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Published> {
        self.published.clone()
    }

    /// Registers an instance, or replaces and renews what has its service and id. Returns when the registration is on
    /// disk, or is known not to be (see [`AcceptedRegistration::durability`]); it is in force either way.
    ///
    /// # Errors
    /// When it breaks a limit, or the gateway is shutting down.
    pub async fn register(&self, registration: Registration) -> Result<AcceptedRegistration, RegistryError> {
        let mut all = self.register_all(vec![registration]).await?;
        let standing = all.each.pop().unwrap_or(Err(RegistryError::Stopped))?;
        Ok(AcceptedRegistration {
            standing,
            durability: all.durability,
        })
    }

    /// Gives a registration another full time to live.
    ///
    /// # Errors
    /// When there is no such registration, or the gateway is shutting down.
    pub async fn renew(&self, service: &ServiceName, id: &str) -> Result<(), RegistryError> {
        let each = self.renew_all(vec![key(service, id)]).await?;
        each.into_iter().next().unwrap_or(Err(RegistryError::Stopped))
    }

    /// Removes a registration. Returns when it is gone from the disk, or it is known that it cannot be removed there
    /// yet; no new connection goes to it either way.
    ///
    /// # Errors
    /// When there is no such registration, another source holds it, or the gateway is shutting down.
    pub async fn deregister(&self, service: &ServiceName, id: &str) -> Result<Durability, RegistryError> {
        let mut all = self.deregister_all(vec![key(service, id)]).await?;
        all.each.pop().unwrap_or(Err(RegistryError::Stopped))?;
        Ok(all.durability)
    }

    /// The attachment to the registry that the gateways of the zone share; `None`: the registry is embedded.
    #[must_use]
    pub fn attachment(&self) -> Option<&Attach> {
        self.attach.as_ref()
    }

    /// For the data path, to tell which instances it could not connect to.
    #[must_use]
    pub fn connect_failures(&self) -> Arc<dyn ConnectFailures> {
        Arc::new(Hints(self.hints.clone()))
    }

    /// Every instance, or those of one service, as views show them.
    ///
    /// # Errors
    /// When the gateway is shutting down.
    pub async fn status(&self, service: Option<&ServiceName>) -> Result<Vec<InstanceStatus>, RegistryError> {
        let service = service.cloned();
        self.ask(|reply| InstancesCommand::Status { service, reply })
            .await
    }

    /// Reason why an instance last failed its check; `None` if it never did, is not checked, or does not exist.
    pub async fn last_failure(&self, service: &ServiceName, id: &str) -> Option<CheckFailure> {
        let key = key(service, id);
        let asked = self
            .ask(|reply| InstancesCommand::LastFailure { key, reply })
            .await;
        asked.ok().flatten()
    }

    /// Waits until the task has answered. Returns whether it did; it has ended otherwise.
    pub async fn answer(&self) -> bool {
        let keys = Vec::new();
        self.ask(|reply| InstancesCommand::Standings { keys, reply })
            .await
            .is_ok()
    }

    /// Stops checking, writes what is not on disk yet, and ends the task. What is published stays readable.
    pub async fn shutdown(&self) {
        if let Some(attach) = &self.attach {
            attach.stop();
        }
        // A task that has ended already has nothing left to write.
        let _ = self.ask(|reply| InstancesCommand::Shutdown { reply }).await;
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> InstancesCommand,
    ) -> Result<T, RegistryError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.commands.send(command(reply)).await;
        sent.map_err(|_| RegistryError::Stopped)?;
        answer.await.map_err(|_| RegistryError::Stopped)
    }
}

fn key(service: &ServiceName, id: &str) -> InstanceKey {
    InstanceKey {
        service: service.clone(),
        id: id.to_owned(),
    }
}

#[cfg(test)]
mod tests;
