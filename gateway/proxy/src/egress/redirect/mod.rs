//! Redirect of local clients by the kernel: whoever connects to a virtual address arrives at one port of the gateway, which takes
//! no port from any program, and finds none taken.
//!
//! A table of nftables of this gateway alone says so to the kernel. It is put in place once the gateway listens there, replaced
//! when ranges or ports change, and looked at now and then, because a reload of the host's firewall removes it. What it is to
//! say is worked out in `plan`, which is pure. The gateway's own connections to instances need no exception: no instance is at a
//! virtual address of its zone.

mod destination;
mod error;
mod keep;
mod nft;
mod plan;

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use causeway_federation::name::GatewayId;
use causeway_routing::target::Binding;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::{EgressShared, layout::Covered};
use keep::InstalledTable;
use nft::Nft;
use plan::RedirectPlan;

pub(super) use destination::{RedirectRefusal, destination};
pub use error::RedirectError;

/// Port at which redirected clients arrive unless something else is said.
pub const REDIRECT_PORT: u16 = 7815;
/// Pause between two looks at whether the table is as it was put in place, and between two tries to put it there.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// Time for which it is told that somebody had removed the table.
const LOSS_TOLD_FOR: Duration = Duration::from_secs(60);

/// Settings of a redirect.
#[derive(Debug, Clone)]
pub struct RedirectConfig {
    /// Port at which redirected clients arrive.
    pub port: u16,
    /// Name of this gateway's table.
    table: String,
    /// The program `nft`, and arguments before all others.
    program: Vec<OsString>,
    look_every: Duration,
}

impl RedirectConfig {
    /// Settings of the redirect of this gateway.
    #[must_use]
    pub fn new(gateway: &GatewayId, port: u16) -> Self {
        Self {
            port,
            table: plan::table_of(gateway),
            program: vec!["nft".into()],
            look_every: LOOK_EVERY,
        }
    }

    /// Puts another program in the place of `nft`, and looks more often.
    #[cfg(test)]
    pub(super) fn with_program(self, program: Vec<OsString>) -> Self {
        Self {
            program,
            look_every: Duration::from_millis(20),
            ..self
        }
    }
}

/// State of a redirect, for who looks after the gateway.
#[derive(Debug, Clone, Default)]
pub struct RedirectStatus {
    /// Name of the table.
    pub table: String,
    /// Clients are redirected.
    pub in_force: bool,
    /// Reason that it is not as it should be, and what to do.
    pub failure: Option<(String, String)>,
    /// Time at which it was found that somebody had removed the table.
    pub lost: Option<Instant>,
}

impl RedirectStatus {
    /// Tells whether somebody had removed the table within the last minute.
    #[must_use]
    pub fn was_lost_lately(&self, now: Instant) -> bool {
        self.lost
            .is_some_and(|at| now.saturating_duration_since(at) < LOSS_TOLD_FOR)
    }
}

/// The redirect of one gateway.
#[derive(Debug)]
pub(super) struct Redirect {
    config: RedirectConfig,
    nft: Nft,
    /// Plan that the kernel follows by now.
    in_force: watch::Sender<Option<Arc<RedirectPlan>>>,
    /// One of this process was in force.
    has_begun: AtomicBool,
    /// The table as it was put in place. Locked while it is changed.
    installed: tokio::sync::Mutex<Option<InstalledTable>>,
    status: Mutex<RedirectStatus>,
    /// Virtual addresses whose clients are not redirected, as mesh DNS was told.
    failed: Mutex<BTreeSet<SocketAddr>>,
    /// Wakes who waits for a listener that cannot be had.
    listener_failed: Notify,
}

impl Redirect {
    pub(super) fn new(config: RedirectConfig) -> Self {
        Self {
            nft: Nft::new(config.program.clone()),
            status: Mutex::new(RedirectStatus {
                table: config.table.clone(),
                ..RedirectStatus::default()
            }),
            config,
            in_force: watch::Sender::default(),
            has_begun: AtomicBool::new(false),
            installed: tokio::sync::Mutex::default(),
            failed: Mutex::default(),
            listener_failed: Notify::new(),
        }
    }

    pub(super) fn status(&self) -> RedirectStatus {
        self.status.lock().clone()
    }

    /// Tells of every change of what the kernel does.
    pub(super) fn changes(&self) -> watch::Receiver<Option<Arc<RedirectPlan>>> {
        self.in_force.subscribe()
    }

    /// Notes that a listener cannot be had, of which the reason is known by now.
    pub(super) fn listener_failed(&self) {
        self.listener_failed.notify_one();
    }

    /// Works out the sockets for redirected clients for which `is_mine` holds, and what each covers: no more than the kernel
    /// redirects by now, and before it has begun to for this process, what it may redirect for the process before, whose clients wait.
    pub(super) fn sockets(
        &self,
        shared: &EgressShared,
        bindings: &BTreeMap<SocketAddr, Binding>,
        is_mine: impl Fn(SocketAddr) -> bool,
    ) -> BTreeMap<SocketAddr, Covered> {
        let in_force = self.in_force.borrow().clone();
        let listeners = self.plan(shared, bindings).listeners().into_iter();
        let listeners = listeners.filter(|listener| is_mine(*listener));
        let cover = |listener: SocketAddr| {
            let covered = bindings.iter().filter(|(address, _)| {
                let is_covered = match &in_force {
                    Some(plan) => plan.covers(**address),
                    None => !self.has_begun.load(Ordering::Relaxed),
                };
                address.is_ipv4() == listener.is_ipv4() && is_covered
            });
            let covered = covered.map(|(address, binding)| (*address, binding.clone()));
            (listener, covered.collect())
        };
        listeners.map(cover).collect()
    }

    fn plan(&self, shared: &EgressShared, bindings: &BTreeMap<SocketAddr, Binding>) -> RedirectPlan {
        let snapshot = shared.snapshots.load();
        let zone = snapshot.topology.zones.get(&snapshot.zone);
        RedirectPlan::new(zone.map(|zone| &zone.vips), bindings, self.config.port)
    }
}
