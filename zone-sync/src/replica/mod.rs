//! The sans-I/O core of zone sync: what this gateway tells the others, what it holds of them, and every message
//! between them. It has no sockets, tasks or clock: callers hand in what happened and `now`, and take out messages,
//! events and the time of the next timeout, in the manner of a protocol state machine.
//!
//! A gateway writes only its own record. `(incarnation, version)` orders the versions of a record: the incarnation
//! grows with every start of its gateway, the version with every change. A session begins with a hello from both sides
//! that names what each holds; then each is sent what it misses: a delta where the short history reaches back far
//! enough, else the whole record in bounded parts. One message with data is in flight for each peer, and changes that
//! come meanwhile gather into the next. Heartbeats carry the newest version and a digest of the exports, so that a loss
//! or a divergence is noticed and repaired.
//!
//! Every version is signed by its origin, so that anyone can pass it on and everyone can check it. A gateway that has no
//! session with a zone asks two of its peers for that zone's records (`relay`). Such a record is believed as long as
//! higher and higher beats of its origin come: a relay can delay them, and cannot make one. After a restart the first
//! beat of an origin is believed however old it is, because nothing is known to compare it with.
//!
//! Clocks of two zones are never compared: an age is measured here, from when the origin was last heard.

mod assembly;
mod changes;
mod config;
mod data;
mod event;
mod head;
mod held;
mod keys;
pub mod limits;
mod messages;
mod own;
mod pace;
mod parts;
mod refusal;
mod relay;
mod session;
#[cfg(test)]
mod tests;
mod told;
mod wants;
mod wire;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Instant,
};

use causeway_federation::{
    catalog::{Catalog, Record},
    name::{GatewayId, ZoneName},
    signing::Verifier,
};
use causeway_proto::sync::{Refused, SyncMessage, sync_message::Body};

pub(crate) use self::{
    assembly::framed,
    head::{Head, read_signed, signed_message},
    wire::{fingerprint_message, origin_message, read_export, read_fingerprint, read_origin},
};
pub use self::{
    config::{Ages, AgesError, Protocols, ReplicaConfig},
    event::{LocalChange, ReplicaEvent, SessionState},
    refusal::SyncRefusal,
    wire::Stamp,
};
use self::{
    held::HeldRecords,
    keys::OwnKeys,
    limits::{MAX_PEERS, MAX_REFUSAL_BYTES, RAISE_INTERVAL, RAISE_STRIDE},
    own::OwnRecord,
    session::SyncSession,
    wants::Wants,
};

/// One gateway's part in zone sync.
#[derive(Debug)]
pub struct Replica {
    own: OwnRecord,
    held: HeldRecords,
    /// `None` until a topology was handed in: every zone is accepted.
    zones: Option<BTreeSet<ZoneName>>,
    sessions: BTreeMap<GatewayId, SyncSession>,
    /// Sessions that may have something to send.
    pending: BTreeSet<GatewayId>,
    /// No timer of a session that is not pending is due before this: never too late, but perhaps too early, so that not
    /// every session has to be looked at after every message.
    sessions_due: Option<Instant>,
    /// Last words to sessions that are gone.
    farewells: VecDeque<(GatewayId, Refused)>,
    events: VecDeque<ReplicaEvent>,
    raised: Option<Instant>,
    speaks: Protocols,
    verifier: Arc<dyn Verifier>,
    wants: Wants,
    /// Time of each gateway's last word about another's refused records.
    noticed: BTreeMap<(GatewayId, GatewayId), Instant>,
    /// Tells whether it was said that the own key cannot sign: once is enough.
    told_unsigned: bool,
}

impl Replica {
    /// `restored` is what was known before the start; it is suspect until its origins are heard.
    #[must_use]
    pub fn new(now: Instant, config: ReplicaConfig, restored: impl IntoIterator<Item = Record>) -> Self {
        let mut held = HeldRecords::new(config.ages);
        for record in restored.into_iter().take(MAX_PEERS) {
            if record.origin.zone != config.origin.zone {
                held.restore(now, record, now, None);
            }
        }
        let keys = OwnKeys::new(config.signer, config.unknown_fields);
        Self {
            own: OwnRecord::new(config.origin, config.incarnation, keys),
            held,
            zones: None,
            sessions: BTreeMap::new(),
            pending: BTreeSet::new(),
            sessions_due: None,
            farewells: VecDeque::new(),
            events: VecDeque::new(),
            raised: None,
            speaks: config.speaks,
            verifier: config.verifier,
            wants: Wants::default(),
            noticed: BTreeMap::new(),
            told_unsigned: false,
        }
    }

    pub fn handle_local(&mut self, now: Instant, change: LocalChange) {
        match change {
            LocalChange::Exports(exports) => {
                let count = self.own.set_exports(exports);
                if count > 0 {
                    self.events.push_back(ReplicaEvent::ExportsLeftOut { count });
                }
            }
            LocalChange::Draining(draining) => self.own.set_draining(draining),
            LocalChange::Topology { fingerprint, zones } => {
                self.own.set_topology(fingerprint);
                self.set_zones(now, zones);
            }
            LocalChange::TopologyGeneration(generation) => self.own.set_topology_generation(generation),
            LocalChange::Trust(edition) => {
                self.own.set_trust(edition);
                self.forget_unproven(now);
            }
            LocalChange::TrustEnded(ended) => self.own.set_trust_ended(ended),
            LocalChange::Shifts(shifts) => self.own.set_shifts(shifts),
            LocalChange::Incarnation(incarnation) => self.own.set_incarnation(incarnation),
        }
        self.pending.extend(self.sessions.keys().cloned());
    }

    fn set_zones(&mut self, now: Instant, zones: BTreeSet<ZoneName>) {
        let strangers: Vec<_> = self
            .sessions
            .keys()
            .filter(|peer| !zones.contains(&peer.zone))
            .cloned()
            .collect();
        for peer in strangers {
            let refusal = SyncRefusal::UnknownZone(peer.zone.to_string());
            self.handle_broken(now, &peer, refusal);
        }
        for origin in self.held.keep_zones(&zones) {
            self.events.push_back(ReplicaEvent::Forgotten { origin });
        }
        for session in self.sessions.values_mut() {
            session.forget_zones(&zones);
        }
        self.zones = Some(zones);
        self.update_wants(now);
    }

    /// Forgets what nobody who is trusted signed. A certificate that has merely ended since was good when it was used.
    fn forget_unproven(&mut self, now: Instant) {
        for origin in self.held.keep_proven(&*self.verifier) {
            self.events.push_back(ReplicaEvent::Forgotten { origin });
        }
        self.update_wants(now);
    }

    /// A session with an authenticated peer begins; it takes the place of an earlier one.
    pub fn handle_connected(&mut self, now: Instant, peer: GatewayId) {
        self.sessions.remove(&peer);
        let refusal = if peer.zone == self.own.origin().zone {
            Some(SyncRefusal::OwnZone)
        } else if self
            .zones
            .as_ref()
            .is_some_and(|zones| !zones.contains(&peer.zone))
        {
            Some(SyncRefusal::UnknownZone(peer.zone.to_string()))
        } else if self.sessions.len() >= MAX_PEERS {
            Some(SyncRefusal::TooManyPeers)
        } else {
            None
        };
        if let Some(refusal) = refusal {
            self.handle_broken(now, &peer, refusal);
            return;
        }
        self.sessions
            .insert(peer.clone(), SyncSession::new(now, peer.clone()));
        self.pending.insert(peer);
    }

    pub fn handle_disconnected(&mut self, now: Instant, peer: &GatewayId) {
        if self.sessions.remove(peer).is_some() {
            self.update_wants(now);
        }
    }

    /// The peer broke a rule that the caller watches over, or one of ours: it is told, and its session ends.
    pub fn handle_broken(&mut self, now: Instant, peer: &GatewayId, refusal: SyncRefusal) {
        self.handle_disconnected(now, peer);
        let farewell = Refused {
            reason: refusal.reason().to_owned(),
            message: bounded(&refusal.to_string()),
            ..Refused::default()
        };
        self.farewells.push_back((peer.clone(), farewell));
        self.events.push_back(ReplicaEvent::Refused {
            peer: peer.clone(),
            refusal,
        });
    }

    /// The transport to `peer` takes nothing more: `poll_transmit` gives nothing for it until it is writable again.
    pub fn handle_blocked(&mut self, peer: &GatewayId) {
        if let Some(session) = self.sessions.get_mut(peer) {
            session.blocked = true;
        }
    }

    pub fn handle_writable(&mut self, peer: &GatewayId) {
        if let Some(session) = self.sessions.get_mut(peer) {
            session.blocked = false;
            self.pending.insert(peer.clone());
        }
    }

    /// Carries out what is due: heartbeats, ages, silent sessions, and whom to ask for what.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.own.renew() {
            self.pending.extend(self.sessions.keys().cloned());
        }
        let mut silent = Vec::new();
        let mut again = Vec::new();
        let mut ahead = None;
        for (peer, session) in &mut self.sessions {
            if session.is_silent(now) {
                silent.push(peer.clone());
            } else if session.tick(now) {
                self.pending.insert(peer.clone());
            }
            if session.own.peer_holds > self.own.newest() {
                ahead = Some((peer.clone(), session.own.peer_holds));
            }
            if session.asks_again(now) {
                again.push((peer.clone(), session.asking.clone()));
            }
        }
        self.prove_beats(now);
        for peer in silent {
            self.handle_broken(now, &peer, SyncRefusal::Silent);
        }
        if let Some((peer, stamp)) = ahead {
            self.ask_for_incarnation(now, &peer, stamp);
        }
        for (peer, zones) in again {
            self.ask(now, &peer, zones);
        }
        if self.wants.next_change().is_some_and(|at| at <= now) {
            self.update_wants(now);
        }
        let aged = self.held.age(now);
        let changed = aged.changed.into_iter();
        self.events
            .extend(changed.map(|(origin, age)| ReplicaEvent::AgeChanged { origin, age }));
        let forgotten = aged.forgotten.into_iter();
        self.events
            .extend(forgotten.map(|origin| ReplicaEvent::Forgotten { origin }));
        self.sessions_due = self.sessions.values().map(SyncSession::next_timeout).min();
    }

    fn ask_for_incarnation(&mut self, now: Instant, peer: &GatewayId, stamp: Stamp) {
        if self.raised.is_some_and(|raised| now < raised + RAISE_INTERVAL) {
            return;
        }
        self.raised = Some(now);
        // A peer's claim is not proved. Were it followed all the way, one lie could use up the incarnations there are.
        let furthest = self.own.newest().incarnation.saturating_add(RAISE_STRIDE);
        self.events.push_back(ReplicaEvent::Outdated {
            peer: peer.clone(),
            incarnation: stamp.incarnation.saturating_add(1).min(furthest),
        });
    }

    /// Time at which `handle_timeout` is due: never too late, but perhaps too early.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let pending = self.pending.iter().filter_map(|peer| self.sessions.get(peer));
        let others = [
            self.sessions_due,
            self.held.next_change(),
            self.wants.next_change(),
        ];
        let others = others.into_iter().flatten();
        pending.map(SyncSession::next_timeout).chain(others).min()
    }

    /// The next message to send, and to whom. Call until it answers `None`.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<(GatewayId, SyncMessage)> {
        if let Some((peer, refused)) = self.farewells.pop_front() {
            return Some((peer, wire::message(Body::Refused(refused))));
        }
        while let Some(peer) = self.pending.first().cloned() {
            let message = self.sessions.get_mut(&peer).and_then(|session| {
                let may_speak = session.protocol.is_some() && !session.blocked;
                if may_speak && std::mem::take(&mut session.says_unknown) {
                    return Some(SyncMessage { body: None });
                }
                let body = session.next_message(now, self.speaks, &mut self.own, &self.held);
                body.map(wire::message)
            });
            match message {
                Some(message) => return Some((peer, message)),
                None => self.settled(&peer),
            }
        }
        if let Some(cause) = self.own.take_failure()
            && !std::mem::replace(&mut self.told_unsigned, true)
        {
            self.events.push_back(ReplicaEvent::NotSigned { cause });
        }
        None
    }

    /// A session has nothing to send: from here on its timers count with all others.
    fn settled(&mut self, peer: &GatewayId) {
        self.pending.remove(peer);
        let due = self.sessions.get(peer).map(SyncSession::next_timeout);
        self.sessions_due = self.sessions_due.into_iter().chain(due).min();
    }

    /// The next event. Call until it answers `None`.
    pub fn poll_event(&mut self) -> Option<ReplicaEvent> {
        self.events.pop_front()
    }

    /// Catalog of what every other gateway exports.
    #[must_use]
    pub fn catalog(&self) -> &Arc<Catalog> {
        self.held.catalog()
    }

    /// The own record as peers are told it.
    #[must_use]
    pub fn own(&self) -> &Arc<Record> {
        self.own.record()
    }

    /// Time at which `origin` last gave a sign of life, itself or through a relay; `None` if it did not since the start.
    #[must_use]
    pub fn heard(&self, origin: &GatewayId) -> Option<Instant> {
        self.held.heard_at(origin)
    }

    #[must_use]
    pub fn session(&self, peer: &GatewayId) -> Option<SessionState> {
        self.sessions.get(peer).map(|session| SessionState {
            connected: session.connected,
            heard: session.heard,
            protocol: session.protocol,
            acknowledged: session.own.peer_holds,
            advertised: session.advertised(peer),
            asked: session.asking.clone(),
            wanted: session.wanted.clone(),
        })
    }
}

/// At most [`MAX_REFUSAL_BYTES`] of a text, cut between characters.
fn bounded(text: &str) -> String {
    let mut end = text.len().min(MAX_REFUSAL_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}
