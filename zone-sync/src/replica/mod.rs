//! The sans-I/O core of zone sync: what this gateway tells the others, what it holds of them, and every message
//! between them. It has no sockets, tasks or clock: callers hand in what happened and `now`, and take out messages,
//! events and the time of the next timeout, in the manner of a protocol state machine.
//!
//! A gateway writes only its own record. `(incarnation, version)` orders the versions of a record: the incarnation
//! grows with every start of its gateway, the version with every change. A session begins with a hello from both sides
//! that names what each holds; then each is sent what it misses: a delta where the short history reaches back far
//! enough, else the whole record in bounded parts. One message with data is in flight for each peer, and changes that
//! come meanwhile gather into the next. Heartbeats carry the newest version, so that a loss is noticed and repaired.
//!
//! Deliberately absent: relaying. A record is taken only from its own origin; [`may_tell_of`] is the one place that
//! says so, and where a check of the origin's signature would go. Clocks of two zones are never compared: an age is
//! measured here, from when the origin was last heard.

mod assembly;
mod held;
pub mod limits;
mod messages;
mod own;
mod refusal;
mod session;
#[cfg(test)]
mod tests;
mod wire;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use causeway_proto::sync::{Refused, SyncMessage, sync_message::Body};

pub(crate) use self::wire::{
    export_message, fingerprint_message, key_message, origin_message, read_export, read_fingerprint,
    read_origin,
};
use self::{
    held::Held,
    limits::{MAX_PEERS, MAX_REFUSAL_BYTES, RAISE_INTERVAL, RAISE_STRIDE},
    own::OwnRecord,
    session::Session,
};
pub use self::{
    refusal::{Refusal, known_reason},
    wire::Stamp,
};
use crate::{
    catalog::{Age, Catalog, Export, Record},
    name::{GatewayId, ZoneName},
    topology::Fingerprint,
};

/// When a record stops being believed, counted from when its origin was last heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ages {
    /// From then on it is suspect: used only when nothing fresh is left.
    pub fresh: Duration,
    /// From then on it is withdrawn: never used.
    pub withdrawn: Duration,
}

impl Default for Ages {
    fn default() -> Self {
        Self {
            fresh: Duration::from_secs(5),
            withdrawn: Duration::from_secs(300),
        }
    }
}

/// Something changed at this gateway.
#[derive(Debug, Clone)]
pub enum LocalChange {
    /// Everything that the zone exports now. Nothing is told to peers before this has come once, even if it is empty.
    Exports(Vec<Export>),
    Draining(bool),
    /// The topology in force: its fingerprint and its zones. Sessions with other zones end, their records are forgotten.
    Topology {
        fingerprint: Fingerprint,
        zones: BTreeSet<ZoneName>,
    },
    /// The answer to [`Event::Outdated`]: a later incarnation, already stored.
    Incarnation(u64),
}

/// Something that the caller has to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A newer record of this origin is in the catalog.
    RecordChanged { origin: GatewayId },
    /// This origin's record is believed more, or less, than before.
    AgeChanged { origin: GatewayId, age: Age },
    /// This origin's record is gone.
    Forgotten { origin: GatewayId },
    /// The session with `peer` is over as soon as what `poll_transmit` gives for it is sent.
    Refused { peer: GatewayId, refusal: Refusal },
    /// The peer ended the session.
    RefusedByPeer {
        peer: GatewayId,
        /// A word of [`Refusal::reason`], or `other`.
        reason: &'static str,
        message: String,
    },
    /// `peer` holds a later version of the own record than this process ever wrote: the store was lost or put back.
    /// The caller stores `incarnation` and hands it in as [`LocalChange::Incarnation`].
    Outdated { peer: GatewayId, incarnation: u64 },
    /// Exports that no peer would accept were left out of the own record.
    ExportsLeftOut { count: usize },
}

/// How one session stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionState {
    pub connected: Instant,
    pub heard: Instant,
    /// The newest own version that the peer says it holds.
    pub acknowledged: Stamp,
}

/// Whether `peer` may tell of `origin`'s record.
fn may_tell_of(peer: &GatewayId, origin: &GatewayId) -> bool {
    peer == origin
}

/// One gateway's part in zone sync.
#[derive(Debug)]
pub struct Replica {
    own: OwnRecord,
    held: Held,
    /// `None` until a topology was handed in: every zone is accepted.
    zones: Option<BTreeSet<ZoneName>>,
    sessions: BTreeMap<GatewayId, Session>,
    /// Sessions that may have something to send.
    pending: BTreeSet<GatewayId>,
    /// Last words to sessions that are gone.
    farewells: VecDeque<(GatewayId, Refused)>,
    events: VecDeque<Event>,
    raised: Option<Instant>,
}

impl Replica {
    /// `incarnation` must be greater than any that this origin ever used. `restored` is what was known before the
    /// start; it is suspect until its origins are heard.
    #[must_use]
    pub fn new(
        now: Instant,
        origin: GatewayId,
        incarnation: u64,
        ages: Ages,
        restored: impl IntoIterator<Item = Record>,
    ) -> Self {
        let mut held = Held::new(ages);
        for record in restored.into_iter().take(MAX_PEERS) {
            if record.origin.zone != origin.zone {
                held.restore(now, record);
            }
        }
        Self {
            own: OwnRecord::new(origin, incarnation),
            held,
            zones: None,
            sessions: BTreeMap::new(),
            pending: BTreeSet::new(),
            farewells: VecDeque::new(),
            events: VecDeque::new(),
            raised: None,
        }
    }

    pub fn handle_local(&mut self, now: Instant, change: LocalChange) {
        match change {
            LocalChange::Exports(exports) => {
                let count = self.own.set_exports(exports);
                if count > 0 {
                    self.events.push_back(Event::ExportsLeftOut { count });
                }
            }
            LocalChange::Draining(draining) => self.own.set_draining(draining),
            LocalChange::Topology { fingerprint, zones } => {
                self.own.set_topology(fingerprint);
                self.set_zones(now, zones);
            }
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
            let refusal = Refusal::UnknownZone(peer.zone.to_string());
            self.handle_broken(now, &peer, refusal);
        }
        for origin in self.held.keep_zones(&zones) {
            self.events.push_back(Event::Forgotten { origin });
        }
        self.zones = Some(zones);
    }

    /// A session with an authenticated peer begins; it takes the place of an earlier one.
    pub fn handle_connected(&mut self, now: Instant, peer: GatewayId) {
        self.sessions.remove(&peer);
        let refusal = if peer.zone == self.own.record().origin.zone {
            Some(Refusal::OwnZone)
        } else if self
            .zones
            .as_ref()
            .is_some_and(|zones| !zones.contains(&peer.zone))
        {
            Some(Refusal::UnknownZone(peer.zone.to_string()))
        } else if self.sessions.len() >= MAX_PEERS {
            Some(Refusal::TooManyPeers)
        } else {
            None
        };
        if let Some(refusal) = refusal {
            self.handle_broken(now, &peer, refusal);
            return;
        }
        self.sessions.insert(peer.clone(), Session::new(now));
        self.pending.insert(peer);
    }

    pub fn handle_disconnected(&mut self, _now: Instant, peer: &GatewayId) {
        self.sessions.remove(peer);
    }

    /// The peer broke a rule that the caller watches over, or one of ours: it is told, and its session ends.
    pub fn handle_broken(&mut self, _now: Instant, peer: &GatewayId, refusal: Refusal) {
        self.sessions.remove(peer);
        let farewell = Refused {
            reason: refusal.reason().to_owned(),
            message: bounded(&refusal.to_string()),
        };
        self.farewells.push_back((peer.clone(), farewell));
        self.events.push_back(Event::Refused {
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

    /// Carries out what is due: heartbeats, ages, silent sessions.
    pub fn handle_timeout(&mut self, now: Instant) {
        let mut silent = Vec::new();
        let mut ahead = None;
        for (peer, session) in &mut self.sessions {
            if session.is_silent(now) {
                silent.push(peer.clone());
            } else if session.tick(now) {
                self.pending.insert(peer.clone());
            }
            if session.peer_holds > self.own.newest() {
                ahead = Some((peer.clone(), session.peer_holds));
            }
        }
        for peer in silent {
            self.handle_broken(now, &peer, Refusal::Silent);
        }
        if let Some((peer, stamp)) = ahead {
            self.ask_for_incarnation(now, &peer, stamp);
        }
        let aged = self.held.age(now);
        let changed = aged.changed.into_iter();
        self.events
            .extend(changed.map(|(origin, age)| Event::AgeChanged { origin, age }));
        let forgotten = aged.forgotten.into_iter();
        self.events
            .extend(forgotten.map(|origin| Event::Forgotten { origin }));
    }

    fn ask_for_incarnation(&mut self, now: Instant, peer: &GatewayId, stamp: Stamp) {
        if self.raised.is_some_and(|raised| now < raised + RAISE_INTERVAL) {
            return;
        }
        self.raised = Some(now);
        // A peer's claim is not proved. Were it followed all the way, one lie could use up the incarnations there are.
        let furthest = self.own.newest().incarnation.saturating_add(RAISE_STRIDE);
        self.events.push_back(Event::Outdated {
            peer: peer.clone(),
            incarnation: stamp.incarnation.saturating_add(1).min(furthest),
        });
    }

    /// When `handle_timeout` is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let sessions = self.sessions.values().map(Session::next_timeout).min();
        sessions.into_iter().chain(self.held.next_change()).min()
    }

    /// The next message to send, and to whom. Call until it answers `None`.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<(GatewayId, SyncMessage)> {
        if let Some((peer, refused)) = self.farewells.pop_front() {
            return Some((peer, wire::message(Body::Refused(refused))));
        }
        while let Some(peer) = self.pending.first().cloned() {
            let held = self.held.stamp(&peer);
            let body = self
                .sessions
                .get_mut(&peer)
                .and_then(|session| session.next_message(now, &self.own, &peer, held));
            match body {
                Some(body) => return Some((peer, wire::message(body))),
                None => drop(self.pending.remove(&peer)),
            }
        }
        None
    }

    /// The next event. Call until it answers `None`.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// What every other gateway exports.
    #[must_use]
    pub fn catalog(&self) -> &Arc<Catalog> {
        self.held.catalog()
    }

    /// The own record as peers are told it.
    #[must_use]
    pub fn own(&self) -> &Arc<Record> {
        self.own.record()
    }

    #[must_use]
    pub fn session(&self, peer: &GatewayId) -> Option<SessionState> {
        self.sessions.get(peer).map(|session| SessionState {
            connected: session.connected,
            heard: session.heard,
            acknowledged: session.peer_holds,
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
