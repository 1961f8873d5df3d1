//! A gateway's attachment to the zone-sync processes of its zone: through them the gateways of a zone share one registry
//! and what each found of its instances.
//!
//! [`Attach`] is the handle, and the task behind it keeps one attachment at a time, to whichever server answers. What
//! comes in is turned into [`SharedChange`]s by [`Intake`], which is pure. What a change does to the zone's instances, what is
//! kept on disk, and whose check an instance is, is decided by `instances` and `health`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::InstanceMetrics;
use causeway_federation::{
    name::{GatewayId, GatewayName},
    registry::{InstanceKey, InstanceSource, Registration},
};
use causeway_host::{resolve::NameResolver, tasks::Tasks};
use causeway_identity::Secure;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::health::Finding;

mod address;
mod calls;
mod forward;
mod intake;
mod replace;
mod session;
mod status;
mod task;

pub use address::{AddressError, ServerAddress};
pub use forward::Forwarded;
pub use status::{AttachStatus, AttachedServer, Detached};

use calls::SessionCalls;
use task::AttachTask;

/// Batches of changes that may wait for the owner of the instances; the server waits when it is full.
const CHANGES: usize = 16;
/// Verdicts that may wait to be told; the rest waits, the latest of each instance, where it was found.
const REPORTS: usize = 1024;

/// Settings of an attachment: who attaches, and to whom.
#[derive(Debug, Clone)]
pub struct AttachConfig {
    pub id: GatewayId,
    /// The zone-sync processes of the zone; any one of them does.
    pub servers: Vec<ServerAddress>,
    /// Makes the way to a server on another host secure; `None`: it is trusted as it is.
    pub secure: Option<Secure>,
    /// Looks up the names of servers.
    pub resolver: NameResolver,
}

/// One instance of the shared registry. It has no time to live here: the store ends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedInstance {
    pub registration: Registration,
    pub source: InstanceSource,
}

/// Everything that the zone-sync knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegistryView {
    pub instances: Vec<SharedInstance>,
    pub verdicts: BTreeMap<InstanceKey, Finding>,
    pub gateways: BTreeSet<String>,
}

/// Difference that the zone-sync tells of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SharedChange {
    /// This gateway has joined the others: what it knew is replaced by this.
    Joined(RegistryView),
    Put(SharedInstance),
    Removed(InstanceKey),
    /// Every gateway that is present.
    Gateways(BTreeSet<String>),
    Found(InstanceKey, Finding),
    /// No server could be reached for a while: this gateway is on its own.
    CutOff,
}

/// Finding of this gateway about an instance.
pub type Report = (InstanceKey, Finding);

/// The ends of the attachment that the owner of the instances holds.
#[derive(Debug)]
pub struct AttachmentEnds {
    pub changes: mpsc::Receiver<Vec<SharedChange>>,
    pub reports: mpsc::Sender<Report>,
}

/// A handle on the attachment; clones are cheap. It ends with [`Attach::stop`], or after the last clone is dropped.
#[derive(Debug, Clone)]
pub struct Attach {
    gateway: GatewayName,
    calls: watch::Receiver<Option<SessionCalls>>,
    status: watch::Receiver<AttachStatus>,
    stop: CancellationToken,
    _ends_with_the_last: Arc<DropGuard>,
}

impl Attach {
    /// Begins to look for a server, on the current runtime.
    #[must_use]
    pub fn start(
        config: AttachConfig,
        metrics: Arc<InstanceMetrics>,
        tasks: &Tasks,
    ) -> (Self, AttachmentEnds) {
        let (changes, change_queue) = mpsc::channel(CHANGES);
        let (reports, report_queue) = mpsc::channel(REPORTS);
        let (calls, sessions) = watch::channel(None);
        let (status, statuses) = watch::channel(AttachStatus::new(&config.servers));
        let token = CancellationToken::new();
        let gateway = config.id.gateway.clone();
        let task = AttachTask::new(config, changes, report_queue, calls, status, metrics);
        let attached = token.clone().run_until_cancelled_owned(task.run());
        tokio::spawn(tasks.keep("attachment to the shared registry", attached));
        let attach = Self {
            gateway,
            calls: sessions,
            status: statuses,
            _ends_with_the_last: Arc::new(token.clone().drop_guard()),
            stop: token,
        };
        let feed = AttachmentEnds {
            changes: change_queue,
            reports,
        };
        (attach, feed)
    }

    /// This gateway.
    #[must_use]
    pub fn gateway(&self) -> &GatewayName {
        &self.gateway
    }

    /// State of the attachment.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<AttachStatus> {
        self.status.clone()
    }

    /// Lets go of the server, so that this gateway's share of the checks moves to the others.
    pub fn stop(&self) {
        self.stop.cancel();
    }
}

#[cfg(test)]
pub(crate) mod testing;
