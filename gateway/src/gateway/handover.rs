//! Leaving the place to a successor: everything that one process has at a time changes hands at one moment, and this process
//! finishes what it holds.

use std::{
    collections::BTreeSet,
    os::unix::net::UnixDatagram,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant, SystemTime},
};

use causeway_api::{admin::Admin, registration::RegistrationServer};
use causeway_control::topology::AppliedTopology;
use causeway_federation::{name::GatewayId, registry::InstanceKey};
use causeway_host::{
    first_process::is_first_process,
    handed::{AnySocket, OwnUnixSocket},
};
use causeway_instances::KnownHealth;
use causeway_routing::{
    limits::CarriedLimits,
    snapshot::{Health, Link},
};
use causeway_tunnel::Succession;
use futures_util::future::{OptionFuture, join_all};

use super::{Cut, Findings, Gateway, GatewayConfig, history, shutdown::CLIENTS_MAY_ASK};
use crate::handover::HandoverServer;

/// Longest time that the moment waits for calls of the gateway's own APIs to finish.
const CALLS_MAY_TAKE: Duration = Duration::from_millis(250);
/// Longest time that the end of this process waits for those that have not.
const LATE_CALLS_MAY_TAKE: Duration = Duration::from_secs(2);

/// Shortest time that tunnels stay up for which a successor is to have its own: several round trips between continents, and a busy moment.
/// Peers that had none in between would have their clients wait.
const TUNNELS_STAY: Duration = Duration::from_secs(2);

/// Longest time that a successor leaves clients to the process before, until it has tunnels of its own: a busy host has many handshakes to do.
/// That one serves them as well, by what it knew of instances at the moment.
const TUNNELS_MAY_TAKE: Duration = Duration::from_secs(5);
/// The same as [`CLIENTS_MAY_ASK`], at most, where a successor serves those who come back.
const SUCCEEDED_CLIENTS_MAY_ASK: Duration = Duration::from_secs(10);
/// Interval at which a process that has finished looks whether one before it still holds what counts towards limits.
const LOOK_AT_LIMITS_EVERY: Duration = Duration::from_millis(250);
/// Interval at which it looks whether that process is still there.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Listens for successors. `None`: nothing is kept that one could take over, or the folder's file system has no sockets, or this is process
/// 1, with whose end a container ends, and a successor in it too.
pub(super) fn listen_for_successors(config: &GatewayConfig) -> Option<HandoverServer> {
    if is_first_process() {
        return None;
    }
    let bound = HandoverServer::bind(config.storage.folder()?, &config.handed.sockets);
    bound
        .inspect_err(|error| {
            tracing::warn!(%error, "this gateway can be restarted, and hands over to no other process");
        })
        .ok()
}

impl Gateway {
    /// Takes the socket at which successors come; `None`: there is none, or it was taken.
    pub(crate) fn take_handover_server(&mut self) -> Option<HandoverServer> {
        self.handover.take()
    }

    /// Describes what a successor is to know before it takes over.
    #[must_use]
    pub fn succession(&self) -> Succession {
        self.tunnels.succession()
    }

    /// Sockets that a successor is to have.
    #[must_use]
    pub fn sockets(&self) -> Vec<Arc<AnySocket>> {
        self.handed.own()
    }

    /// Unix sockets that a successor is to have.
    #[must_use]
    pub fn unix_sockets(&self) -> Vec<OwnUnixSocket> {
        self.handed.own_unix()
    }

    /// Leaves the files of unix sockets to a successor that has the sockets.
    pub fn leave_unix_sockets(&self) {
        self.handed.leave_unix();
    }

    /// Applied topologies, if this is where topologies can be applied.
    #[must_use]
    pub fn applied_topology(&self) -> Option<&AppliedTopology> {
        self.topology.applied()
    }

    /// Number of data threads, each of which reads one socket of the tunnels.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.threads.handles().len()
    }

    /// The moment of a hand-over: stops speaking, and closes the files. Clients are accepted, until [`Gateway::leave_clients`]: the successor
    /// has no tunnels yet. `relay` is where that sends what is still for this process. Returns what is known of the instances.
    pub async fn let_go(&mut self, relay: UnixDatagram) -> Findings {
        tracing::info!(gateway = %self.id, open = self.open(), "a successor takes over");
        self.is_succeeded = true;
        self.draining.store(true, Ordering::Relaxed);
        self.background.hand_over();
        self.history
            .note(SystemTime::now(), history::ended(&self.id, true));
        self.end_apis().await;
        self.ingress.drain();
        if let Some(dns) = &self.dns {
            dns.hand_over();
        }
        let findings = Findings {
            health: self.known_health(),
            ejections: self.egress.ejections(),
            failback: self.failback.carried(),
            shifts: self.snapshots.load().shifts.load().carried(),
            estimates: self.demand.carried(),
            limits: self.egress.limits_left(),
            linked: self.linked(),
        };
        tokio::join!(
            self.instances.shutdown(),
            self.zone_sync.shutdown(),
            self.history.close()
        );
        self.vips.let_go();
        if let Some(applied) = self.topology.applied().cloned() {
            // It waits for a write that is under way.
            let letting_go = tokio::task::spawn_blocking(move || applied.let_go());
            if letting_go.await.is_err() {
                tracing::error!("the file of applied topologies may not be closed");
            }
        }
        self.tunnels.hand_over(relay);
        findings
    }

    /// Gateways that tunnels lead to now.
    fn linked(&self) -> BTreeSet<GatewayId> {
        let snapshot = self.snapshots.load();
        let up = snapshot.links.iter().filter(|(_, link)| **link == Link::Up);
        up.map(|(peer, _)| peer.clone()).collect()
    }

    /// Limits of services as the successor is to go on with them.
    #[must_use]
    pub fn limits_left(&self) -> CarriedLimits {
        self.egress.limits_left()
    }

    /// Those without what rates have left.
    #[must_use]
    pub fn limits_held(&self) -> CarriedLimits {
        self.egress.limits_held()
    }

    /// Gives a way to go on with what the process before says of limits.
    pub fn carry_limits(&self) -> impl Fn(&CarriedLimits) + Send + use<> {
        let egress = self.egress.clone();
        move |left| egress.carry_limits(left)
    }

    /// Leaves new clients to a successor, and asks those of HTTP to come back on a new connection, which it takes. `longest` is the time that
    /// clients have in all: of half of it, up to 10 s, those are waited for who ask for nothing just then, because whose connection is closed while it
    /// sends a request has lost that.
    pub async fn leave_clients(&self, longest: Duration) {
        self.egress.close();
        self.egress
            .drain((longest / 2).clamp(CLIENTS_MAY_ASK, SUCCEEDED_CLIENTS_MAY_ASK));
        self.egress.closed().await;
    }

    /// Takes clients from now on, of which the process before took care so far: once this process has tunnels to the gateways that one
    /// had, so that nobody waits for a handshake, or that one `is_gone`.
    pub async fn take_clients(&self, linked: &BTreeSet<GatewayId>, is_gone: impl Fn() -> bool) {
        let until = Instant::now() + TUNNELS_MAY_TAKE;
        let lacks = || {
            let snapshot = self.snapshots.load();
            let is_up = |peer: &&GatewayId| snapshot.links.get(*peer) == Some(&Link::Up);
            linked.iter().filter(|peer| !is_up(peer)).count()
        };
        while lacks() > 0 && Instant::now() < until && !is_gone() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        if let missing @ 1.. = lacks() {
            tracing::info!(
                missing,
                "not every gateway that the process before had tunnels with is reached yet"
            );
        }
        self.egress.accept_clients();
    }

    /// Stops taking calls of the gateway's own APIs. Those that have not finished soon do so later, by what this process knows.
    async fn end_apis(&mut self) {
        let registration = self.registration.take();
        let admin = std::mem::take(&mut self.admin);
        let mut calls = tokio::spawn(async {
            tokio::join!(
                OptionFuture::from(registration.map(RegistrationServer::shutdown)),
                join_all(admin.into_iter().map(Admin::hand_over)),
            );
        });
        if tokio::time::timeout(CALLS_MAY_TAKE, &mut calls).await.is_err() {
            self.late_calls = Some(calls);
        }
    }

    /// Leaves the place to another successor, where the one that this process had let go for is gone.
    pub fn leave_to_another(&self, relay: UnixDatagram) {
        self.tunnels.hand_over(relay);
    }

    /// Waits, for at most `longest`, until nothing is open any more, and peers have tunnels with the successor.
    pub async fn finished(&self, longest: Duration) {
        let finished = async {
            // Until a successor serves, whoever connects comes to this process.
            self.egress.closed().await;
            if !self.snapshots.load().links.is_empty() {
                tokio::time::sleep(TUNNELS_STAY.min(longest)).await;
            }
            self.emptied().await;
            // The successor knows of what those before this process hold by this one.
            while self.egress.counts_elsewhere() {
                tokio::time::sleep(LOOK_AT_LIMITS_EVERY).await;
            }
        };
        tokio::select! {
            biased;
            () = finished => {}
            () = tokio::time::sleep(longest) => tracing::warn!("the drain deadline has passed"),
        }
    }

    /// Ends a process of which another has taken the place, and cuts what is still open.
    pub async fn finish(mut self) -> Cut {
        if let Some(calls) = self.late_calls.take() {
            let _ = tokio::time::timeout(LATE_CALLS_MAY_TAKE, calls).await;
        }
        let cut = self.cut().await;
        self.end().await;
        cut
    }

    fn known_health(&self) -> KnownHealth {
        let published = self.instances.subscribe();
        let published = published.borrow();
        let instances = published.values().flat_map(|list| list.iter());
        let known = instances.filter(|instance| instance.health != Health::Unknown);
        known
            .map(|instance| {
                let key = InstanceKey {
                    service: instance.service.clone(),
                    id: instance.id.clone(),
                };
                (key, instance.health)
            })
            .collect()
    }
}
