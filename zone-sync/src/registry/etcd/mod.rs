//! The registry of one zone in etcd, shared by every `causeway zone-sync` of the zone. None of them is special, and none
//! has anything that another lacks.
//!
//! | part | what it does |
//! | --- | --- |
//! | [`keys`] | pure: which key stands for what |
//! | [`view`] | pure: what is known, what a word of etcd does to it, who vouches for which instance |
//! | [`write`] | pure: changes as transactions |
//! | [`leases`] | pure: which lease a key goes with, and when to renew it |
//! | [`mark`] | pure: which transaction of a lane comes too late |
//! | [`sessions`] | pure: which calls of a gateway come too late |
//! | [`presence`] | gateways that are attached here |
//! | [`client`], [`member`] | calls to any member of etcd |
//! | [`follow`] | reads everything once, then watches |
//! | [`lane`] | writes, in batches |
//! | [`settle`] | takes up what became of them |
//! | [`upkeep`] | renews leases; deletes what fell silent |
//!
//! While etcd is away, what is known is kept and told; nothing is removed, heartbeats are answered and made up for
//! afterwards, and registrations are refused. Deciding what an instance's health means is the gateway's; serving gRPC is
//! the program's.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use causeway_federation::{
    name::{GatewayName, ZoneName},
    registry::{InstanceKey, MAX_INSTANCES_PER_ZONE},
};
use causeway_host::tasks::Tasks;
use causeway_proto::registry as proto;
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use tokio::{
    sync::{Notify, broadcast, mpsc, watch},
    task::JoinSet,
};

pub mod client;
mod error;
mod follow;
pub mod keys;
mod lane;
mod leases;
mod mark;
mod member;
mod presence;
mod registering;
mod sessions;
mod settle;
mod upkeep;
pub mod view;
mod write;

pub use client::EtcdClient;
pub use error::EtcdError;
pub use presence::GatewayPresence;
pub use registering::{RegisterError, ReplaceResult, Unavailable};
use view::{EtcdView, InForce, ViewChange};

/// Changes that a watcher may be behind; one that is further behind is told to begin anew. A registration of 65,536
/// instances at a stroke fits; the entries are shared and small.
const MAX_BEHIND: usize = 65_536;
/// Lanes that write side by side. Few, because each transaction of etcd waits for a disk, and they share it.
const LANES: usize = 4;
/// Reports of health that one zone may have: one for each instance, and as many again for those that the topology fixes.
const MAX_REPORTS: usize = 2 * MAX_INSTANCES_PER_ZONE;
/// For how long etcd may be away before registrations are refused at once, without a try.
const TRIED_FOR: Duration = Duration::from_secs(3);

/// Event that a watcher is told of.
#[derive(Debug, Clone)]
pub enum RegistryEvent {
    /// The instance as it is now; `None`: it is gone.
    Instance(InstanceKey, Option<InForce>),
    Health(Arc<proto::HealthReport>),
    /// All that are present now.
    Gateways(Vec<String>),
}

/// Time for which writes that were refused say that the next ones would be: those who register try again sooner.
const REFUSED_LATELY: Duration = Duration::from_secs(300);

/// Contact with etcd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contact {
    /// Not once yet: nothing is known.
    Never,
    /// Everything that etcd tells is heard.
    Following,
    /// Out of reach since then, which is what all that is known is of.
    Away { since: Instant },
}

/// Everything at one moment, and what comes after it.
#[derive(Debug)]
pub struct Subscription {
    pub instances: Vec<InForce>,
    pub reports: Vec<Arc<proto::HealthReport>>,
    pub gateways: Vec<String>,
    pub revision: i64,
    /// Ends with `Lagged` when the watcher is too slow.
    pub events: broadcast::Receiver<RegistryEvent>,
}

/// Figures for `/metrics` and logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Figures {
    pub instances: usize,
    pub gateways: usize,
    /// Gateways attached to this process.
    pub attached: usize,
    pub watchers: usize,
    pub leases: usize,
    pub revision: i64,
    /// Writes that etcd has done for this process.
    pub written: u64,
    /// Writes that could not be done.
    pub failed: u64,
    pub heartbeats: u64,
    /// Number of times that contact with etcd was lost.
    pub lost: u64,
    /// Keys under the zone's prefix that could not be read.
    pub strange: u64,
}

/// Counters of several tasks.
#[derive(Debug, Default)]
struct Counters {
    written: AtomicU64,
    failed: AtomicU64,
    heartbeats: AtomicU64,
    lost: AtomicU64,
    strange: AtomicU64,
}

/// A handle on the zone's registry; clones are cheap. Its tasks end with the last clone.
#[derive(Debug, Clone)]
pub struct SharedRegistry {
    inner: Arc<Inner>,
    /// Ended when this is dropped.
    _running: Arc<JoinSet<()>>,
}

#[derive(Debug)]
struct Inner {
    zone: ZoneName,
    layout: keys::Layout,
    client: EtcdClient,
    view: Mutex<EtcdView>,
    leases: Mutex<leases::Leases>,
    /// Held while a lease is granted, so that many who need one ask for one.
    granting: tokio::sync::Mutex<()>,
    events: broadcast::Sender<RegistryEvent>,
    contact: watch::Sender<Contact>,
    /// Reason why etcd has not been reached yet, as the latest try has it.
    unreached: Mutex<Option<String>>,
    /// The latest writes were refused, then and for this reason; `None`: they were done.
    refused: Mutex<Option<(Instant, String)>>,
    /// Reports of health that are not in etcd yet.
    reports: Mutex<BTreeMap<InstanceKey, presence::UnwrittenReport>>,
    reported: Notify,
    /// The lease of each gateway that is attached here.
    presences: Mutex<BTreeMap<GatewayName, i64>>,
    /// Locked for a moment, also while the view is, and never the other way round.
    sessions: Mutex<sessions::Sessions>,
    lanes: Vec<mpsc::Sender<lane::WriteOrder>>,
    counters: Counters,
    /// Set when the process ends: what attached gateways left behind is then left to their next zone-sync.
    stopping: AtomicBool,
    tasks: Tasks,
}

impl SharedRegistry {
    /// Begins to follow etcd. Must be called within a tokio runtime. Returns at once: see [`SharedRegistry::contact`].
    #[must_use]
    pub fn start(zone: ZoneName, client: EtcdClient, tasks: Tasks) -> Self {
        let (senders, receivers): (Vec<_>, Vec<_>) =
            (0..LANES).map(|_| mpsc::channel(lane::MAX_ORDERS)).unzip();
        let inner = Arc::new(Inner {
            layout: keys::Layout::new(&zone),
            zone,
            client,
            view: Mutex::default(),
            leases: Mutex::default(),
            granting: tokio::sync::Mutex::default(),
            events: broadcast::Sender::new(MAX_BEHIND),
            contact: watch::Sender::new(Contact::Never),
            unreached: Mutex::default(),
            refused: Mutex::default(),
            reports: Mutex::default(),
            reported: Notify::new(),
            presences: Mutex::default(),
            sessions: Mutex::default(),
            lanes: senders,
            counters: Counters::default(),
            stopping: AtomicBool::new(false),
            tasks: tasks.clone(),
        });
        let mut running = JoinSet::new();
        running.spawn(tasks.keep("changes in etcd", follow::run(Arc::clone(&inner))));
        running.spawn(tasks.keep("upkeep of etcd", upkeep::run(Arc::clone(&inner))));
        running.spawn(tasks.keep("leases in etcd", upkeep::keep_leases(Arc::clone(&inner))));
        let process = SmallRng::from_os_rng().random();
        for (lane, orders) in (0u8..).zip(receivers) {
            let key = keys::WriterKey { process, lane };
            let writing = lane::run(Arc::clone(&inner), key, orders);
            running.spawn(tasks.keep(format!("writes to etcd, lane {lane}"), writing));
        }
        Self {
            inner,
            _running: Arc::new(running),
        }
    }

    #[must_use]
    pub fn zone(&self) -> &ZoneName {
        &self.inner.zone
    }

    /// Tells whether etcd is in reach, now and from now on.
    #[must_use]
    pub fn contact(&self) -> watch::Receiver<Contact> {
        self.inner.contact.subscribe()
    }

    /// Reason why nothing can be registered at the moment; `None`: something can, as far as is known.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        if let Err(unavailable) = self.inner.check_contact() {
            return Some(unavailable.why);
        }
        let refused = self.inner.refused();
        let lately = refused.as_ref().filter(|(at, _)| at.elapsed() < REFUSED_LATELY);
        lately.map(|(_, why)| why.clone())
    }

    /// Everything that is known, and from then on every change.
    #[must_use]
    pub fn subscribe(&self) -> Subscription {
        let view = self.inner.view();
        // While the view is locked nothing is told, so the two fit together.
        Subscription {
            events: self.inner.events.subscribe(),
            instances: view.instances().collect(),
            reports: view.reports().cloned().collect(),
            gateways: view.gateway_names(),
            revision: view.newest(),
        }
    }

    /// The revision of etcd that this process knows of.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.inner.view().newest()
    }

    /// To be called before the attachments are ended because the process ends: the gateways' presence is left to its
    /// leases then, so that a gateway which attaches elsewhere within seconds was never away.
    pub fn stop(&self) {
        self.inner.stopping.store(true, Ordering::Relaxed);
    }

    #[must_use]
    pub fn figures(&self) -> Figures {
        let leases = self.inner.leases().len();
        let view = self.inner.view();
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.inner.counters;
        Figures {
            instances: view.len(),
            gateways: view.gateway_names().len(),
            attached: view.attached(),
            watchers: self.inner.events.receiver_count(),
            leases,
            revision: view.newest(),
            written: count(&counters.written),
            failed: count(&counters.failed),
            heartbeats: count(&counters.heartbeats),
            lost: count(&counters.lost),
            strange: count(&counters.strange),
        }
    }
}

impl Inner {
    fn view(&self) -> MutexGuard<'_, EtcdView> {
        // The view is changed by pure code that does not panic half-way; a poisoned lock would mean that it did.
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leases(&self) -> MutexGuard<'_, leases::Leases> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reports(&self) -> MutexGuard<'_, BTreeMap<InstanceKey, presence::UnwrittenReport>> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refused(&self) -> MutexGuard<'_, Option<(Instant, String)>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unreached(&self) -> MutexGuard<'_, Option<String>> {
        self.unreached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn presences(&self) -> MutexGuard<'_, BTreeMap<GatewayName, i64>> {
        self.presences.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sessions(&self) -> MutexGuard<'_, sessions::Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the view and tells the watchers.
    fn change<T>(&self, change: impl FnOnce(&mut EtcdView) -> T) -> T {
        let mut view = self.view();
        let done = change(&mut view);
        for change in view.take_changes() {
            let event = match change {
                ViewChange::Instance(key) => {
                    let now = view.instance(&key);
                    RegistryEvent::Instance(key, now)
                }
                ViewChange::Health(key) => match view.report(&key) {
                    Some(report) => RegistryEvent::Health(Arc::clone(report)),
                    None => continue,
                },
                ViewChange::Gateways => RegistryEvent::Gateways(view.gateway_names()),
            };
            // Without watchers there is nobody to tell.
            let _ = self.events.send(event);
        }
        done
    }

    /// Tells whether etcd was never reached.
    fn is_waiting(&self) -> bool {
        *self.contact.borrow() == Contact::Never
    }

    fn is_following(&self) -> bool {
        *self.contact.borrow() == Contact::Following
    }

    /// Contact was lost; told once.
    fn lost_contact(&self) {
        let now = Instant::now();
        let lost = self.contact.send_if_modified(|contact| {
            let was_following = *contact == Contact::Following;
            if was_following {
                *contact = Contact::Away { since: now };
            }
            was_following
        });
        if lost {
            self.counters.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Tells whether contact was lost and has to be taken up as such.
    fn is_away(&self) -> bool {
        matches!(*self.contact.borrow(), Contact::Away { .. })
    }
}
