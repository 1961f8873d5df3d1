//! The task that owns the replica: takes commands in, sends messages out, publishes the catalog. It decides nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use causeway_federation::{catalog::Catalog, name::GatewayId};
use causeway_host::moment::until;
use causeway_proto::sync::SyncMessage;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::{
    Local, PeerStatus, PeerTotals, RefusingSide, SyncEvent, SyncStatus, counted::Counters, saver::Saver,
};
use crate::replica::{LocalChange, Replica, ReplicaEvent, Stamp, SyncRefusal, limits::MAX_PEERS};

pub(super) enum SyncCommand {
    Opened(GatewayId, SessionHandle),
    Message(GatewayId, u64, SyncMessage),
    Broken(GatewayId, u64, SyncRefusal),
    Closed(GatewayId, u64),
    Status(oneshot::Sender<SyncStatus>),
    Shutdown(oneshot::Sender<()>),
}

/// Reason why the task ended a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SessionEnding {
    Refused(&'static str),
    RefusedByPeer(&'static str),
    Replaced,
    /// Either side, or zone sync itself, is done.
    Over,
}

/// The task's end of a session.
pub(super) struct SessionHandle {
    pub session: u64,
    outgoing: mpsc::Sender<SyncMessage>,
    blocked: Arc<AtomicBool>,
    counters: Arc<Counters>,
    end: oneshot::Sender<SessionEnding>,
}

impl SessionHandle {
    pub(super) fn new(
        session: u64,
        outgoing: mpsc::Sender<SyncMessage>,
        blocked: Arc<AtomicBool>,
        counters: Arc<Counters>,
        end: oneshot::Sender<SessionEnding>,
    ) -> Self {
        Self {
            session,
            outgoing,
            blocked,
            counters,
            end,
        }
    }

    /// Tells whether nothing more goes in now. From then on the other end rings when there is room.
    fn is_full(&self) -> bool {
        if self.outgoing.capacity() > 0 {
            return false;
        }
        self.blocked.store(true, Ordering::SeqCst);
        // It may have been emptied between the two; then nobody rings.
        self.outgoing.capacity() == 0
    }
}

pub(super) struct SyncTask {
    replica: Replica,
    saver: Saver,
    catalog: watch::Sender<Arc<Catalog>>,
    events: mpsc::Sender<SyncEvent>,
    room: Arc<Notify>,
    links: BTreeMap<GatewayId, SessionHandle>,
    totals: BTreeMap<GatewayId, PeerTotals>,
    /// Last word of the zone on itself, as far as the replica was told.
    told: Local,
    /// Later incarnations of this gateway that peers knew of, and the last of them.
    outdated: (u32, u64),
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl SyncTask {
    pub(super) fn new(
        replica: Replica,
        saver: Saver,
        catalog: watch::Sender<Arc<Catalog>>,
        events: mpsc::Sender<SyncEvent>,
        room: Arc<Notify>,
    ) -> Self {
        Self {
            replica,
            saver,
            catalog,
            events,
            room,
            links: BTreeMap::new(),
            totals: BTreeMap::new(),
            told: Local::default(),
            outdated: (0, 0),
        }
    }

    pub(super) async fn run(
        mut self,
        mut commands: mpsc::Receiver<SyncCommand>,
        mut local: watch::Receiver<Local>,
    ) {
        let mut done = None;
        loop {
            let room = self.room.clone();
            let timeout = self.replica.poll_timeout();
            // Every branch is cancel-safe: channels, a bell, timers and a join handle.
            tokio::select! {
                command = commands.recv() => match command {
                    None => break,
                    Some(SyncCommand::Shutdown(answer)) => {
                        done = Some(answer);
                        break;
                    }
                    Some(command) => self.command(command),
                },
                Ok(()) = local.changed() => {
                    let latest = local.borrow_and_update().clone();
                    self.local(latest);
                }
                () = room.notified() => self.unblock(),
                () = until(timeout) => self.replica.handle_timeout(now()),
                () = self.saver.due() => {}
            }
            self.settle();
        }
        for link in std::mem::take(&mut self.links).into_values() {
            let _ = link.end.send(SessionEnding::Over);
        }
        self.saver.finish(self.replica.catalog()).await;
        // Dropping the sender would do as well; the caller may also have gone.
        done.map(|done| done.send(()));
    }

    fn command(&mut self, command: SyncCommand) {
        match command {
            SyncCommand::Opened(peer, link) => {
                self.close(&peer, SessionEnding::Replaced);
                self.links.insert(peer.clone(), link);
                self.replica.handle_connected(now(), peer);
            }
            SyncCommand::Message(peer, session, message) if self.is_current(&peer, session) => {
                self.replica.handle_message(now(), &peer, message);
            }
            SyncCommand::Broken(peer, session, refusal) if self.is_current(&peer, session) => {
                self.replica.handle_broken(now(), &peer, refusal);
            }
            SyncCommand::Closed(peer, session) if self.is_current(&peer, session) => {
                self.close(&peer, SessionEnding::Over);
                self.replica.handle_disconnected(now(), &peer);
            }
            SyncCommand::Status(answer) => drop(answer.send(self.status())),
            // Late words of sessions that were replaced or ended; `run` keeps `Shutdown` to itself.
            _ => {}
        }
    }

    fn is_current(&self, peer: &GatewayId, session: u64) -> bool {
        self.links.get(peer).is_some_and(|link| link.session == session)
    }

    /// Hands the replica what is new of what the zone says of itself.
    fn local(&mut self, latest: Local) {
        if latest.topology != self.told.topology
            && let Some((fingerprint, zones)) = latest.topology.clone()
        {
            self.totals.retain(|peer, _| zones.contains(&peer.zone));
            let zones = Arc::unwrap_or_clone(zones);
            let change = LocalChange::Topology { fingerprint, zones };
            self.replica.handle_local(now(), change);
        }
        if latest.draining != self.told.draining {
            self.replica
                .handle_local(now(), LocalChange::Draining(latest.draining));
        }
        if latest.topology_generation != self.told.topology_generation {
            let change = LocalChange::TopologyGeneration(latest.topology_generation);
            self.replica.handle_local(now(), change);
        }
        if latest.trust != self.told.trust {
            self.replica
                .handle_local(now(), LocalChange::Trust(latest.trust.0));
        }
        if latest.trust_ended != self.told.trust_ended {
            let change = LocalChange::TrustEnded(latest.trust_ended);
            self.replica.handle_local(now(), change);
        }
        if latest.shifts != self.told.shifts {
            let change = LocalChange::Shifts(latest.shifts.clone());
            self.replica.handle_local(now(), change);
        }
        let same = match (&latest.exports, &self.told.exports) {
            (Some(new), Some(old)) => Arc::ptr_eq(new, old),
            (new, _) => new.is_none(),
        };
        if let (false, Some(exports)) = (same, &latest.exports) {
            let exports = exports.as_ref().clone();
            self.replica.handle_local(now(), LocalChange::Exports(exports));
        }
        self.told = latest;
    }

    fn unblock(&mut self) {
        for (peer, link) in &self.links {
            if link.outgoing.capacity() > 0 {
                self.replica.handle_writable(peer);
            }
        }
    }

    /// Carries out what the replica wants after whatever happened.
    fn settle(&mut self) {
        self.transmit();
        let mut changed = false;
        while let Some(event) = self.replica.poll_event() {
            changed |= self.event(event);
        }
        // Who passes a record on may change without any event.
        if !Arc::ptr_eq(&self.catalog.borrow(), self.replica.catalog()) {
            self.catalog.send_replace(self.replica.catalog().clone());
        }
        if changed {
            self.saver.note_change();
        }
        if let Some(incarnation) = self.saver.turn(now(), self.replica.catalog()) {
            self.replica
                .handle_local(now(), LocalChange::Incarnation(incarnation));
            self.transmit();
        }
    }

    fn transmit(&mut self) {
        while let Some((peer, message)) = self.replica.poll_transmit(now()) {
            self.send(&peer, message);
        }
    }

    fn send(&mut self, peer: &GatewayId, message: SyncMessage) {
        let Some(link) = self.links.get(peer) else {
            return;
        };
        match link.outgoing.try_send(message) {
            Ok(()) if link.is_full() => self.replica.handle_blocked(peer),
            Ok(()) => {}
            // Only the last word to a peer that reads nothing finds no room.
            Err(mpsc::error::TrySendError::Full(_)) => self.replica.handle_blocked(peer),
            // The caller dropped the session.
            Err(mpsc::error::TrySendError::Closed(_)) => {
                self.close(peer, SessionEnding::Over);
                self.replica.handle_disconnected(now(), peer);
            }
        }
    }

    /// Answers whether the catalog is another one now.
    fn event(&mut self, event: ReplicaEvent) -> bool {
        match event {
            ReplicaEvent::RecordChanged { origin } => {
                tracing::debug!(peer = %origin, "took a newer record");
                return true;
            }
            ReplicaEvent::AgeChanged { origin, age } => {
                tracing::info!(peer = %origin, ?age, "what a gateway told is believed differently");
                return true;
            }
            ReplicaEvent::Forgotten { origin } => {
                tracing::info!(peer = %origin, "forgot a gateway");
                return true;
            }
            ReplicaEvent::Refused { peer, refusal } => {
                let cause = std::error::Error::source(&refusal).map(tracing::field::display);
                tracing::warn!(%peer, reason = refusal.reason(), %refusal, cause, "refused a sync session");
                self.refused(&peer, RefusingSide::Local, refusal.reason());
            }
            ReplicaEvent::RefusedByPeer {
                peer,
                reason,
                message,
            } => {
                tracing::warn!(%peer, reason, message, "a peer refused the sync session");
                self.refused(&peer, RefusingSide::Peer, reason);
            }
            ReplicaEvent::Outdated { peer, incarnation } => {
                // Several peers may know of one.
                if incarnation > self.outdated.1 {
                    self.outdated = (self.outdated.0 + 1, incarnation);
                }
                match self.outdated.0 {
                    1 => {
                        tracing::warn!(%peer, incarnation, "a peer knows this gateway from a later incarnation; taking one after it")
                    }
                    // Once is a data folder of before. Again and again is somebody else; told less and less.
                    again if again.is_power_of_two() => tracing::error!(%peer, incarnation, again,
                        "another process is alive with the identity of this gateway: end one of them, or, if it is not yours, \
                         `causeway revoke gateway` this one and let it join anew"),
                    _ => {}
                }
                self.saver.raise(incarnation);
            }
            ReplicaEvent::ExportsLeftOut { count } => {
                tracing::warn!(count, "left out exports that other zones would refuse");
            }
            other => self.rare_event(other),
        }
        false
    }

    /// Handles what hardly ever happens.
    fn rare_event(&mut self, event: ReplicaEvent) {
        match event {
            ReplicaEvent::RelayRefused {
                peer,
                origin,
                refusal,
            } => {
                let cause = std::error::Error::source(&refusal).map(tracing::field::display);
                tracing::warn!(%peer, %origin, reason = refusal.reason(), %refusal, cause,
                    "refused a record that a peer passed on");
                self.count(&origin, RefusingSide::Local, refusal.reason());
            }
            ReplicaEvent::OwnRefused {
                by,
                via,
                reason,
                message,
            } => {
                tracing::error!(peer = %by, %via, reason, message,
                    "a gateway refuses what this zone exports; it serves none of it until that is mended");
                self.count(&by, RefusingSide::Peer, reason);
            }
            ReplicaEvent::Diverged { origin, peer } => {
                tracing::warn!(%peer, %origin, "what was held of a gateway is not what it says; asked for the whole");
                self.tell(SyncEvent::Diverged { origin });
            }
            ReplicaEvent::PassedOver { peer } => {
                tracing::debug!(%peer, "passed over a message that only a newer program knows");
                self.tell(SyncEvent::PassedOver { peer });
            }
            ReplicaEvent::NotSigned { cause } => {
                tracing::error!(
                    cause,
                    "this gateway's key cannot sign; zones without a tunnel to it will not see it"
                );
            }
            _ => {}
        }
    }

    fn count(&mut self, peer: &GatewayId, side: RefusingSide, reason: &'static str) {
        self.totals_of(peer).refusal(side, reason);
        self.tell(SyncEvent::Refused {
            peer: peer.clone(),
            side,
            reason,
        });
    }

    fn refused(&mut self, peer: &GatewayId, side: RefusingSide, reason: &'static str) {
        self.count(peer, side, reason);
        let ending = match side {
            RefusingSide::Local => SessionEnding::Refused(reason),
            RefusingSide::Peer => SessionEnding::RefusedByPeer(reason),
        };
        self.close(peer, ending);
    }

    /// Ends the session with a peer, if there is one. What was handed to it before still goes out.
    fn close(&mut self, peer: &GatewayId, ending: SessionEnding) {
        let Some(link) = self.links.remove(peer) else {
            return;
        };
        let (bytes_sent, bytes_received) = (link.counters.sent(), link.counters.received());
        // Nobody waits for the ending of a session that the peer or the caller ended.
        let _ = link.end.send(ending);
        self.totals_of(peer).add(bytes_sent, bytes_received);
        self.tell(SyncEvent::SessionEnded {
            peer: peer.clone(),
            bytes_sent,
            bytes_received,
        });
    }

    /// Events are for counting; a caller that does not read them holds nothing up.
    fn tell(&self, event: SyncEvent) {
        let _ = self.events.try_send(event);
    }

    fn totals_of(&mut self, peer: &GatewayId) -> &mut PeerTotals {
        if self.totals.len() >= MAX_PEERS && !self.totals.contains_key(peer) {
            let idle = self
                .totals
                .keys()
                .find(|peer| !self.links.contains_key(peer))
                .cloned();
            idle.map(|idle| self.totals.remove(&idle));
        }
        self.totals.entry(peer.clone()).or_default()
    }

    fn status(&self) -> SyncStatus {
        let own = self.replica.own();
        let held = self.replica.catalog().entries().map(|entry| &entry.record.origin);
        let peers: BTreeSet<_> = held.chain(self.links.keys()).chain(self.totals.keys()).collect();
        SyncStatus {
            origin: own.origin.clone(),
            own: Stamp {
                incarnation: own.incarnation,
                version: own.version,
            },
            exports: own.exports.len(),
            draining: own.draining,
            disk: self.saver.disk(),
            peers: peers.into_iter().map(|peer| self.peer_status(peer)).collect(),
        }
    }

    fn peer_status(&self, peer: &GatewayId) -> PeerStatus {
        let session = self.replica.session(peer);
        let entry = self.replica.catalog().entry(peer);
        let mut totals = self.totals.get(peer).cloned().unwrap_or_default();
        if let Some(link) = self.links.get(peer) {
            totals.add(link.counters.sent(), link.counters.received());
        }
        let ago = |at: Instant| now().saturating_duration_since(at);
        let held = entry.map(|entry| Stamp::of(&entry.record));
        let heard = self.replica.heard(peer);
        let heard = heard
            .into_iter()
            .chain(session.as_ref().map(|session| session.heard))
            .max();
        let behind = session.as_ref().and_then(|session| session.advertised);
        PeerStatus {
            peer: peer.clone(),
            connected_for: session.as_ref().map(|session| ago(session.connected)),
            heard_ago: heard.map(ago),
            protocol: session.as_ref().and_then(|session| session.protocol),
            via: entry.and_then(|entry| entry.via.clone()),
            relays: session
                .as_ref()
                .map(|session| session.asked.clone())
                .unwrap_or_default(),
            lag: session
                .as_ref()
                .map(|session| session.acknowledged.versions_to(Stamp::of(self.replica.own()))),
            behind: behind.map(|told| held.unwrap_or(Stamp::NONE).versions_to(told)),
            acknowledged: session.map(|session| session.acknowledged),
            held,
            age: entry.map(|entry| entry.age),
            exports: entry.map_or(0, |entry| entry.record.exports.len()),
            totals,
        }
    }
}
