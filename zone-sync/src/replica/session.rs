//! One session: what the peer wants and was told, what it told, and what is due to be sent.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Instant,
};

use causeway_federation::name::{GatewayId, ZoneName};
use causeway_proto::sync::{self as proto, Ack, Heartbeat, Hello, sync_message::Body};

use super::{
    Protocols,
    assembly::Assembly,
    held::HeldRecords,
    limits::{
        HEARTBEAT, MAX_KNOWN, MAX_NOTICES, RECEIVE_BURST, RECEIVE_INTERVAL, REFUSAL_BURST, REFUSAL_INTERVAL,
        RELAY_BEAT, SILENCE, WANT_AGAIN, WORD_BURST, WORD_INTERVAL,
    },
    own::OwnRecord,
    pace::SyncPace,
    parts::Parts,
    told::SendState,
    wire::{self, Stamp},
};

/// Acknowledgement that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Acknowledge {
    Nothing,
    /// The version that is held.
    Held,
    /// Nothing, so that the whole record is sent.
    None,
}

/// Newest word of the peer on one origin.
#[derive(Debug)]
pub(super) struct Heard {
    /// The newest version that the peer told of in this session.
    pub advertised: Option<Stamp>,
    pub acknowledge: Acknowledge,
    pub pace: SyncPace,
}

#[derive(Debug)]
pub(super) struct SyncSession {
    peer: GatewayId,
    pub connected: Instant,
    pub heard: Instant,
    /// Protocol that both sides speak; `None` until the peer's hello has come.
    pub protocol: Option<u32>,
    /// Tells whether the peer knows a newer protocol than this program, and so may say what is not known here.
    pub is_newer: bool,
    /// The own record.
    pub own: SendState,
    /// Other zones of which the peer wants the records.
    pub wanted: BTreeSet<ZoneName>,
    pub relayed: BTreeMap<GatewayId, SendState>,
    /// Origins of `relayed` that may have something new for the peer.
    pub due: BTreeSet<GatewayId>,
    pub heard_of: BTreeMap<GatewayId, Heard>,
    /// Zones that the peer was ever asked for.
    pub asked: BTreeSet<ZoneName>,
    /// Zones that it is asked for now.
    pub asking: BTreeSet<ZoneName>,
    want: Option<proto::Want>,
    want_again: Instant,
    /// A program that knows more than this one would say something that this one does not know; for tests.
    pub says_unknown: bool,
    pub assembly: Assembly,
    /// The transport takes nothing more for now.
    pub blocked: bool,
    pub words: SyncPace,
    pub refusals: SyncPace,
    hello_sent: bool,
    notices: VecDeque<proto::Refused>,
    parts: Option<Parts>,
    /// Time at which something that came too early for its pace is sent.
    paced_until: Option<Instant>,
    heartbeat_due: bool,
    next_heartbeat: Instant,
    beats_due: bool,
    next_beats: Instant,
}

impl SyncSession {
    pub(super) fn new(now: Instant, peer: GatewayId) -> Self {
        Self {
            connected: now,
            heard: now,
            protocol: None,
            is_newer: false,
            own: SendState::new(now),
            wanted: BTreeSet::new(),
            relayed: BTreeMap::new(),
            due: BTreeSet::new(),
            heard_of: BTreeMap::new(),
            asked: BTreeSet::new(),
            asking: BTreeSet::new(),
            want: None,
            want_again: now + WANT_AGAIN,
            says_unknown: false,
            assembly: Assembly::default(),
            blocked: false,
            words: SyncPace::new(now, WORD_INTERVAL, WORD_BURST),
            refusals: SyncPace::new(now, REFUSAL_INTERVAL, REFUSAL_BURST),
            hello_sent: false,
            notices: VecDeque::new(),
            parts: None,
            paced_until: None,
            heartbeat_due: false,
            next_heartbeat: now + HEARTBEAT,
            beats_due: false,
            next_beats: now + RELAY_BEAT,
            peer,
        }
    }

    pub(super) fn is_signed(&self) -> bool {
        self.protocol.is_some_and(|protocol| protocol >= 2)
    }

    /// Word of the peer on `origin`, to be brought up to date.
    pub(super) fn hears_of(&mut self, now: Instant, origin: &GatewayId) -> &mut Heard {
        self.heard_of.entry(origin.clone()).or_insert_with(|| Heard {
            advertised: None,
            acknowledge: Acknowledge::Nothing,
            pace: SyncPace::new(now, RECEIVE_INTERVAL, RECEIVE_BURST),
        })
    }

    pub(super) fn advertised(&self, origin: &GatewayId) -> Option<Stamp> {
        self.heard_of.get(origin).and_then(|heard| heard.advertised)
    }

    /// The next message for this peer, the most urgent first.
    pub(super) fn next_message(
        &mut self,
        now: Instant,
        speaks: Protocols,
        own: &mut OwnRecord,
        held: &HeldRecords,
    ) -> Option<Body> {
        if self.blocked {
            return None;
        }
        if !self.hello_sent {
            self.hello_sent = true;
            return Some(Body::Hello(hello(speaks, own, &self.peer, held)));
        }
        if let Some(ack) = self.next_ack(held) {
            return Some(Body::Ack(ack));
        }
        let protocol = self.protocol?;
        if let Some(notice) = self.notices.pop_front() {
            return Some(Body::Refused(notice));
        }
        if let Some(want) = self.want.take() {
            // Not sooner: a peer that takes nothing now has not been asked.
            self.asked.extend(self.asking.iter().cloned());
            return Some(Body::Want(want));
        }
        if let Some(body) = self.next_own(now, own, protocol) {
            self.quiet_from(now);
            return Some(body);
        }
        if let Some(body) = self.next_part().or_else(|| self.next_relayed(now, held)) {
            return Some(body);
        }
        if self.heartbeat_due {
            self.quiet_from(now);
            return Some(Body::Heartbeat(self.heartbeat(now, own, protocol)));
        }
        self.next_beats(now, held).map(Body::Heartbeat)
    }

    fn next_ack(&mut self, held: &HeldRecords) -> Option<Ack> {
        let waits = |(_, heard): &(&GatewayId, &mut Heard)| heard.acknowledge != Acknowledge::Nothing;
        let (origin, heard) = self.heard_of.iter_mut().find(waits)?;
        let stamp = match heard.acknowledge {
            Acknowledge::None => Stamp::NONE,
            _ => held.stamp(origin),
        };
        heard.acknowledge = Acknowledge::Nothing;
        let understood = *origin == self.peer && self.protocol.is_some_and(|protocol| protocol >= 2);
        Some(Ack {
            origin: (!understood).then(|| wire::origin_message(origin)),
            incarnation: stamp.incarnation,
            version: stamp.version,
            elsewhere: held.elsewhere(origin),
        })
    }

    fn next_own(&mut self, now: Instant, own: &mut OwnRecord, protocol: u32) -> Option<Body> {
        let newest = own.stamp()?;
        if !self.own.lacks(newest) {
            return None;
        }
        if let Some(at) = self.own.wait(now) {
            self.wait_until(at);
            return None;
        }
        if let Some((stamp, delta)) = own.delta(self.own.peer_holds, protocol) {
            self.own.sending(now, stamp, None);
            return Some(Body::Delta(delta));
        }
        if self.parts.is_some() {
            return None;
        }
        if let Some(at) = self.own.whole_again_at(now, newest) {
            self.wait_until(at);
            return None;
        }
        self.own.sending_whole(now, newest, None);
        self.parts = Some(own.parts(protocol));
        self.next_part()
    }

    fn next_part(&mut self) -> Option<Body> {
        let part = self.parts.as_mut()?.next_part();
        if part.is_none() {
            self.parts = None;
        }
        part.map(Body::Snapshot)
    }

    /// News of the records that the peer wants.
    fn next_relayed(&mut self, now: Instant, held: &HeldRecords) -> Option<Body> {
        let mut later = Vec::new();
        let mut found = None;
        while let Some(origin) = self.due.pop_first() {
            let Some((record, told)) = held.proven(&origin).zip(self.relayed.get_mut(&origin)) else {
                continue;
            };
            let stamp = Stamp::of(record);
            if !told.lacks(stamp) {
                continue;
            }
            let delta = told.relayed_delta(record);
            let again = told.whole_again_at(now, stamp).filter(|_| delta.is_none());
            let wait = told.wait(now).or(again);
            if let Some(at) = wait {
                self.paced_until = Some(self.paced_until.map_or(at, |other| other.min(at)));
            }
            if wait.is_some() || (delta.is_none() && self.parts.is_some()) {
                later.push(origin);
                continue;
            }
            let outdated = !held.is_lively(now, &origin);
            if let Some(delta) = delta {
                told.sending(now, stamp, Some(record));
                found = Some(Body::Delta(proto::Delta { outdated, ..delta }));
            } else if let Some(signed) = &record.signed {
                told.sending_whole(now, stamp, Some(record));
                self.parts = Some(Parts::relayed(record.clone(), signed, outdated));
                found = self.next_part();
            }
            break;
        }
        self.due.extend(later);
        found
    }

    fn wait_until(&mut self, at: Instant) {
        self.paced_until = Some(self.paced_until.map_or(at, |other| other.min(at)));
    }

    /// Tells nothing of the own record to a peer that knows more of it than this process: it would see versions go
    /// backwards. A new incarnation ends that.
    fn heartbeat(&self, now: Instant, own: &mut OwnRecord, protocol: u32) -> Heartbeat {
        let Some(newest) = own.stamp().filter(|stamp| self.own.peer_holds <= *stamp) else {
            return Heartbeat::default();
        };
        if protocol >= 2 {
            let beats = own.beat(now).into_iter().collect();
            return Heartbeat {
                beats,
                ..Heartbeat::default()
            };
        }
        Heartbeat {
            current: vec![wire::known_message(own.origin(), newest)],
            ..Heartbeat::default()
        }
    }

    /// The beats of the origins that the peer wants, as many as one message carries.
    fn next_beats(&mut self, now: Instant, held: &HeldRecords) -> Option<Heartbeat> {
        if !std::mem::take(&mut self.beats_due) {
            return None;
        }
        let mut beats = Vec::new();
        for (origin, told) in &mut self.relayed {
            if beats.len() == MAX_KNOWN {
                self.beats_due = true;
                break;
            }
            if let Some((mark, beat)) = held
                .proven_beat(now, origin)
                .filter(|(mark, _)| *mark > told.beat)
            {
                told.beat = mark;
                beats.push(beat);
            }
        }
        (!beats.is_empty()).then(|| Heartbeat {
            beats,
            ..Heartbeat::default()
        })
    }

    fn quiet_from(&mut self, now: Instant) {
        self.heartbeat_due = false;
        self.next_heartbeat = now + HEARTBEAT;
    }

    /// Takes the peer's word for what it holds of the own record.
    pub(super) fn acknowledged_own(&mut self, own: &OwnRecord, stamp: Stamp) {
        let going = self.is_sending(own.origin());
        self.own.acknowledged(stamp, going, None);
    }

    /// Takes the peer's word for what it holds of another origin's record.
    pub(super) fn acknowledged(&mut self, origin: &GatewayId, stamp: Stamp, held: &HeldRecords) {
        let going = self.is_sending(origin);
        if let Some(told) = self.relayed.get_mut(origin) {
            told.acknowledged(stamp, going, held.record(origin));
            self.due.insert(origin.clone());
        }
    }

    fn is_sending(&self, origin: &GatewayId) -> bool {
        self.parts
            .as_ref()
            .is_some_and(|parts| parts.record().origin == *origin)
    }

    /// Asks for `zones`, in the words of `want`.
    pub(super) fn ask(&mut self, now: Instant, want: proto::Want, zones: BTreeSet<ZoneName>) {
        self.asking = zones;
        self.want = Some(want);
        self.want_again = now + WANT_AGAIN;
    }

    /// Forgets what was told and heard of zones that are not among `zones`.
    pub(super) fn forget_zones(&mut self, zones: &BTreeSet<ZoneName>) {
        self.wanted.retain(|zone| zones.contains(zone));
        self.relayed.retain(|origin, _| zones.contains(&origin.zone));
        self.heard_of.retain(|origin, _| zones.contains(&origin.zone));
    }

    /// Tells whether what is wanted is to be said again.
    pub(super) fn asks_again(&self, now: Instant) -> bool {
        !self.asking.is_empty() && now >= self.want_again
    }

    /// Says something of a refused record. What finds no room is lost: it is said again when the record comes again.
    pub(super) fn notify(&mut self, notice: proto::Refused) {
        if self.is_signed() && self.notices.len() < MAX_NOTICES {
            self.notices.push_back(notice);
        }
    }

    /// Makes due what has come due; answers whether there is something to send.
    pub(super) fn tick(&mut self, now: Instant) -> bool {
        let mut due = false;
        if now >= self.next_heartbeat {
            // Armed anew in any case, so that a blocked session does not keep the timer in the past.
            self.next_heartbeat = now + HEARTBEAT;
            self.heartbeat_due = true;
            due = true;
        }
        if self.paced_until.is_some_and(|at| now >= at) {
            self.paced_until = None;
            due = true;
        }
        if now >= self.next_beats {
            self.next_beats = now + RELAY_BEAT;
            self.beats_due = !self.relayed.is_empty();
            due |= self.beats_due;
        }
        due
    }

    pub(super) fn has_beats_due(&self) -> bool {
        self.beats_due
    }

    pub(super) fn is_silent(&self, now: Instant) -> bool {
        now >= self.heard + SILENCE
    }

    pub(super) fn next_timeout(&self) -> Instant {
        let beats = Some(self.next_beats).filter(|_| !self.relayed.is_empty());
        let again = Some(self.want_again).filter(|_| !self.asking.is_empty());
        let times = [self.paced_until, beats, again].into_iter().flatten();
        times.fold(self.next_heartbeat.min(self.heard + SILENCE), Instant::min)
    }
}

/// Names what is held of the peer's record, and the own record's newest version.
fn hello(speaks: Protocols, own: &OwnRecord, peer: &GatewayId, held: &HeldRecords) -> Hello {
    let newest = own.stamp().map(|stamp| wire::known_message(own.origin(), stamp));
    let known = Some(held.stamp(peer)).filter(|held| *held > Stamp::NONE);
    let known = known.map(|stamp| wire::known_message(peer, stamp));
    Hello {
        protocol: speaks.oldest,
        origin: Some(wire::origin_message(own.origin())),
        known: newest.into_iter().chain(known).collect(),
        newest_protocol: speaks.newest,
    }
}
