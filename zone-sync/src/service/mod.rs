//! The tokio shell around the replica: one task owns it, sessions run over any byte stream, the store is written off
//! the hot path.
//!
//! It decides nothing about records. Who opens a session, over which tunnel, and who the peer is, is the caller's: a
//! peer's identity is taken as authenticated.

mod counted;
mod saver;
mod session;
mod status;
mod task;
mod transport;

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use causeway_federation::{
    catalog::{Catalog, Export, MAX_TOLD_SHIFTS, ShiftFigures},
    edition::{Edition, Fingerprint},
    name::{GatewayId, ZoneName},
    signing::{Signer, Verifier},
    topology::Topology,
};
use causeway_host::tasks::Tasks;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{Notify, mpsc, oneshot, watch},
};

use self::{saver::Saver, task::SyncCommand};
pub use self::{
    session::SyncSessionError,
    status::{Disk, PeerStatus, PeerTotals, RefusingSide, SyncEvent, SyncStatus},
};
use crate::replica::{Ages, Replica, ReplicaConfig};

/// Messages and requests that may wait for the task. Each is at most 128 KiB, and sessions wait when it is full.
const MAX_WAITING_COMMANDS: usize = 64;
/// Events that may wait for the caller; later ones are dropped while it does not read.
const MAX_WAITING_EVENTS: usize = 256;

/// Settings that zone sync is started with.
#[derive(Debug, Clone)]
pub struct SyncConfig {
    /// This gateway: the one whose record is written here.
    pub origin: GatewayId,
    /// Folder of `catalog.redb`. `None`: nothing survives a restart.
    pub data_dir: Option<PathBuf>,
    pub ages: Ages,
    /// Every task that lives as long as the gateway.
    pub tasks: Tasks,
    /// Signs the own record. `None`: nobody passes it on to zones without a tunnel to this one.
    pub signer: Option<Arc<dyn Signer>>,
    /// Checks the records that are passed on.
    pub verifier: Arc<dyn Verifier>,
}

/// Reason why zone sync did not start. A disk that fails is not among the reasons: sync goes on without it.
#[derive(Debug, thiserror::Error)]
pub enum SyncStartError {
    #[error("cannot run the task that reads the stored catalog")]
    Blocking(#[source] tokio::task::JoinError),
}

/// A handle to zone sync. It ends when the last handle and session is gone, or with [`ZoneSync::shutdown`].
#[derive(Debug, Clone)]
pub struct ZoneSync {
    commands: mpsc::Sender<SyncCommand>,
    local: Arc<watch::Sender<Local>>,
    catalog: watch::Receiver<Arc<Catalog>>,
    /// Rung when a session that could take nothing more can again.
    room: Arc<Notify>,
    /// Tells the sessions of this process apart.
    next_session: Arc<AtomicU64>,
}

/// Last word of the zone on itself: only the latest counts, so that setting it never waits.
#[derive(Debug, Clone, Default)]
struct Local {
    exports: Option<Arc<Vec<Export>>>,
    draining: bool,
    topology: Option<(Fingerprint, Arc<BTreeSet<ZoneName>>)>,
    topology_generation: u64,
    /// The document in force, and how often who is trusted has changed.
    trust: (Edition, u64),
    trust_ended: u64,
    shifts: Arc<[ShiftFigures]>,
}

impl ZoneSync {
    /// Reads the stored catalog, takes a new incarnation and starts the task. The catalog that was stored is served at
    /// once. The receiver tells of refusals and ended sessions; it need not be read.
    ///
    /// # Errors
    /// When the runtime cannot run a blocking task.
    pub async fn start(config: SyncConfig) -> Result<(Self, mpsc::Receiver<SyncEvent>), SyncStartError> {
        let now = tokio::time::Instant::now().into_std();
        let clock = unix_milliseconds();
        let (saver, incarnation, records) = Saver::start(config.data_dir, clock)
            .await
            .map_err(SyncStartError::Blocking)?;
        let records = records.into_values().map(Arc::unwrap_or_clone);
        let replica = ReplicaConfig {
            ages: config.ages,
            signer: config.signer,
            ..ReplicaConfig::new(config.origin.clone(), incarnation, config.verifier)
        };
        let replica = Replica::new(now, replica, records);
        let (commands, waiting) = mpsc::channel(MAX_WAITING_COMMANDS);
        let (events, events_out) = mpsc::channel(MAX_WAITING_EVENTS);
        let (local, local_in) = watch::channel(Local::default());
        let (catalog_in, catalog) = watch::channel(replica.catalog().clone());
        tracing::info!(origin = %config.origin, incarnation, stored = catalog.borrow().entries().count(),
            "zone sync begins");
        let room = Arc::<Notify>::default();
        let task = task::SyncTask::new(replica, saver, catalog_in, events, room.clone());
        tokio::spawn(config.tasks.keep("zone sync", task.run(waiting, local_in)));
        let handle = Self {
            commands,
            local: Arc::new(local),
            catalog,
            room,
            next_session: Arc::default(),
        };
        Ok((handle, events_out))
    }

    /// Everything that the zone exports now. Peers are told nothing before this was called once, even with none.
    pub fn set_exports(&self, exports: Vec<Export>) {
        self.local
            .send_modify(|local| local.exports = Some(Arc::new(exports)));
    }

    pub fn set_draining(&self, draining: bool) {
        self.local.send_modify(|local| local.draining = draining);
    }

    /// The topology in force. Zones that are not in it are forgotten, and their sessions end.
    pub fn set_topology(&self, topology: &Topology) {
        let zones = Arc::new(topology.zones.keys().cloned().collect());
        // In one step: a fingerprint with the generation of another topology would send peers looking for it.
        self.local.send_modify(|local| {
            local.topology = Some((topology.fingerprint, zones));
            local.topology_generation = topology.generation;
        });
    }

    /// As [`ZoneSync::set_topology`], for callers that have no whole topology.
    pub fn set_zones(&self, fingerprint: Fingerprint, zones: impl IntoIterator<Item = ZoneName>) {
        let zones = Arc::new(zones.into_iter().collect());
        self.local
            .send_modify(|local| local.topology = Some((fingerprint, zones)));
    }

    /// Generation of the topology in force; 0, as at the start, when it was read from a file.
    pub fn set_topology_generation(&self, generation: u64) {
        self.local
            .send_modify(|local| local.topology_generation = generation);
    }

    /// Tells that who is trusted has changed, and which document says so now. Call it when the verifier believes
    /// otherwise than before: what is held is checked anew.
    pub fn trust_changed(&self, edition: Edition) {
        self.local
            .send_modify(|local| local.trust = (edition, local.trust.1 + 1));
    }

    /// Tells how many connections were ended since that document was taken up, because their other side was believed no more.
    pub fn trust_ended(&self, ended: u64) {
        self.local.send_modify(|local| local.trust_ended = ended);
    }

    /// Figures on the shifts that are under way; of more than [`MAX_TOLD_SHIFTS`] the first.
    pub fn set_shifts(&self, mut shifts: Vec<ShiftFigures>) {
        shifts.truncate(MAX_TOLD_SHIFTS);
        self.local.send_if_modified(|local| {
            let changed = *local.shifts != *shifts;
            if changed {
                local.shifts = shifts.into();
            }
            changed
        });
    }

    /// The catalog, now and as it changes.
    #[must_use]
    pub fn catalog(&self) -> watch::Receiver<Arc<Catalog>> {
        self.catalog.clone()
    }

    /// Runs a session that this side opens on `io`, a byte stream to the authenticated `peer`. Returns when the session
    /// has ended; dropping the future ends it as well. A session with the same peer that was there before ends.
    ///
    /// # Errors
    /// When the session ended otherwise than by an orderly close of either side.
    pub async fn open_session<S>(&self, peer: GatewayId, io: S) -> Result<(), SyncSessionError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        session::open(self, peer, io).await
    }

    /// Runs a session that the authenticated `peer` opened on `io`. Otherwise as [`ZoneSync::open_session`].
    ///
    /// # Errors
    /// When the session ended otherwise than by an orderly close of either side.
    pub async fn accept_session<S>(&self, peer: GatewayId, io: S) -> Result<(), SyncSessionError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        session::accept(self, peer, io).await
    }

    /// State of zone sync; `None` after a shutdown.
    pub async fn status(&self) -> Option<SyncStatus> {
        let (answer, status) = oneshot::channel();
        self.commands.send(SyncCommand::Status(answer)).await.ok()?;
        status.await.ok()
    }

    /// Ends every session, writes what is not on disk yet and ends the task.
    pub async fn shutdown(&self) {
        let (answer, done) = oneshot::channel();
        if self.commands.send(SyncCommand::Shutdown(answer)).await.is_ok() {
            // An error means that the task is gone, which is what was asked for.
            let _ = done.await;
        }
    }

    fn new_session(&self) -> u64 {
        self.next_session.fetch_add(1, Ordering::Relaxed)
    }
}

/// The wall clock: used only to make incarnations grow when the store is lost, never to compare two zones.
fn unix_milliseconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(0)
}
