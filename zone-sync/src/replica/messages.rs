//! Handling of each message of a peer: hellos, acknowledgements and words without data. Data is in `data`.

use std::time::Instant;

use causeway_federation::name::GatewayId;
use causeway_proto::sync::{Ack, Heartbeat, Hello, Known, Refused, SyncMessage, sync_message::Body};
use prost::Message as _;

use super::{
    Replica, ReplicaEvent, bounded,
    data::Advertisement,
    limits::{MAX_INCARNATION, MAX_KNOWN, MAX_MESSAGE_BYTES, PROTOCOL, RAISE_STRIDE},
    refusal::{SyncRefusal, known_reason},
    session::Acknowledge,
    wire::{self, Stamp},
};

impl Replica {
    /// Takes a message of an authenticated peer. One that breaks the protocol or a limit ends that peer's session and
    /// nothing else. Without a session it is ignored.
    pub fn handle_message(&mut self, now: Instant, peer: &GatewayId, message: SyncMessage) {
        let Some(session) = self.sessions.get_mut(peer) else {
            return;
        };
        session.heard = now;
        self.pending.insert(peer.clone());
        match self.take(now, peer, message) {
            Ok(()) => self.note_heard(now, peer),
            Err(refusal) => self.handle_broken(now, peer, refusal),
        }
    }

    fn take(&mut self, now: Instant, peer: &GatewayId, message: SyncMessage) -> Result<(), SyncRefusal> {
        if message.encoded_len() > MAX_MESSAGE_BYTES {
            return Err(SyncRefusal::MessageTooLarge);
        }
        let Some(session) = self.sessions.get_mut(peer) else {
            return Ok(());
        };
        let has_data = matches!(
            message.body,
            Some(Body::Snapshot(_) | Body::Delta(_) | Body::Ack(_))
        );
        if !has_data && !session.words.take(now) {
            return Err(SyncRefusal::TooFast);
        }
        let (greeted, signed) = (session.protocol.is_some(), session.is_signed());
        let Some(body) = message.body else {
            if !session.is_newer {
                return Err(SyncRefusal::Malformed("it has no known body"));
            }
            self.events
                .push_back(ReplicaEvent::PassedOver { peer: peer.clone() });
            return Ok(());
        };
        match body {
            Body::Hello(hello) => self.take_hello(now, peer, hello),
            Body::Refused(refused) if signed && refused.origin.is_some() => {
                self.take_notice(now, peer, refused)
            }
            Body::Refused(refused) => {
                self.take_refused(now, peer, &refused);
                Ok(())
            }
            _ if !greeted => Err(SyncRefusal::HelloExpected),
            Body::Snapshot(part) => self.take_snapshot(now, peer, part),
            Body::Delta(delta) => self.take_delta(now, peer, delta),
            Body::Ack(ack) => self.take_ack(now, peer, &ack),
            Body::Heartbeat(heartbeat) if signed => self.take_beats(now, peer, heartbeat),
            Body::Heartbeat(heartbeat) => self.take_heartbeat(now, peer, heartbeat),
            Body::Want(want) if signed => self.take_want(now, peer, want),
            Body::Want(_) => Err(SyncRefusal::Malformed(
                "it is not of the protocol that was agreed on",
            )),
        }
    }

    fn take_hello(&mut self, now: Instant, peer: &GatewayId, hello: Hello) -> Result<(), SyncRefusal> {
        let theirs = (hello.protocol, hello.newest_protocol.max(hello.protocol));
        let agreed = theirs.1.min(self.speaks.newest);
        if agreed < theirs.0.max(self.speaks.oldest) {
            return Err(SyncRefusal::UnknownProtocol(theirs.1));
        }
        let origin = wire::read_origin(hello.origin)?;
        if origin != *peer {
            return Err(SyncRefusal::WrongOrigin(origin.to_string()));
        }
        let own_origin = self.own.origin().clone();
        let (mut peer_holds, mut newest) = (Stamp::NONE, None);
        for (origin, stamp, elsewhere) in read_all_known(hello.known, MAX_KNOWN)? {
            if origin == own_origin {
                peer_holds = stamp;
                self.check_elsewhere(now, peer, elsewhere);
            } else if origin == *peer {
                newest = Some(stamp);
            }
        }
        let held = self.held.stamp(peer);
        let unsigned = self
            .held
            .record(peer)
            .is_some_and(|record| record.signed.is_none());
        if let Some(session) = self.sessions.get_mut(peer) {
            session.protocol = Some(agreed);
            session.is_newer = theirs.1 > self.speaks.newest;
            session.says_unknown = agreed > 1 && self.speaks.newest > PROTOCOL.max(theirs.1);
            session.acknowledged_own(&self.own, peer_holds);
            let heard = session.hears_of(now, peer);
            // A peer that has lost its place learns so from our hello, and tells of nothing before it has caught up.
            if let Some(stamp) = newest.filter(|stamp| *stamp >= held) {
                heard.advertised = heard.advertised.max(Some(stamp));
            }
            if agreed > 1 && unsigned {
                // Held from the time when one of both spoke protocol 1; now the origin's signature can be had.
                heard.acknowledge = Acknowledge::None;
            }
        }
        self.check_ahead(now, peer, peer_holds);
        self.update_wants(now);
        Ok(())
    }

    fn take_ack(&mut self, now: Instant, peer: &GatewayId, ack: &Ack) -> Result<(), SyncRefusal> {
        let stamp = Stamp::new(ack.incarnation, ack.version)?;
        let signed = self.sessions.get(peer).is_some_and(|session| session.is_signed());
        let origin = match &ack.origin {
            None if signed => self.own.origin().clone(),
            origin => wire::read_origin(origin.clone())?,
        };
        let Some(session) = self.sessions.get_mut(peer) else {
            return Ok(());
        };
        if origin == *self.own.origin() {
            session.acknowledged_own(&self.own, stamp);
            self.check_ahead(now, peer, stamp);
            self.check_elsewhere(now, peer, ack.elsewhere);
            return Ok(());
        }
        if !signed {
            return Err(SyncRefusal::WrongOrigin(origin.to_string()));
        }
        // What the peer wanted and no longer wants may be on its way still.
        session.acknowledged(&origin, stamp, &self.held);
        if session.wanted.contains(&origin.zone) {
            self.claim(now, &origin, stamp.incarnation.max(ack.elsewhere));
        }
        Ok(())
    }

    /// A peer that holds a later version than was ever written here heard it from an earlier life of this gateway.
    fn check_ahead(&mut self, now: Instant, peer: &GatewayId, stamp: Stamp) {
        if stamp > self.own.newest() && stamp.incarnation < MAX_INCARNATION {
            self.ask_for_incarnation(now, peer, stamp);
        }
    }

    /// The same, for what a peer heard that others hold. Such a word goes around for as long as nothing makes it true, so
    /// one that is out of all proportion is not followed even a stride.
    fn check_elsewhere(&mut self, now: Instant, peer: &GatewayId, incarnation: u64) {
        let own = self.own.newest().incarnation;
        if incarnation > own && incarnation - own <= RAISE_STRIDE {
            let version = 0;
            self.check_ahead(now, peer, Stamp { incarnation, version });
        }
    }

    /// Somebody holds something else at a version of this gateway: an earlier life, of which the disk knows nothing, used
    /// the same incarnation. Only a new one ends that.
    pub(super) fn check_reused(&mut self, now: Instant, peer: &GatewayId, reason: &str) {
        if reason == SyncRefusal::VersionReused.reason() {
            self.ask_for_incarnation(now, peer, self.own.newest());
        }
    }

    /// Heartbeats of protocol 1.
    fn take_heartbeat(
        &mut self,
        now: Instant,
        peer: &GatewayId,
        heartbeat: Heartbeat,
    ) -> Result<(), SyncRefusal> {
        for (origin, stamp, _) in read_all_known(heartbeat.current, MAX_KNOWN)? {
            if origin != *peer {
                return Err(SyncRefusal::WrongOrigin(origin.to_string()));
            }
            // Either it is ahead of us, or behind what it once told: both are settled by our word for what we hold.
            let advertisement = Advertisement {
                now,
                peer,
                origin: &origin,
                stamp,
            };
            if let Some(held) = self.told(advertisement)?
                && held != stamp
            {
                self.acknowledge(advertisement, Acknowledge::Held);
            }
        }
        Ok(())
    }

    /// An origin counts as heard when it speaks while the newest version that it told of is held.
    fn note_heard(&mut self, now: Instant, peer: &GatewayId) {
        let advertised = self
            .sessions
            .get(peer)
            .and_then(|session| session.advertised(peer));
        let held = self.held.stamp(peer);
        let is_held = |told: Stamp| told.incarnation == held.incarnation && told <= held;
        if advertised.is_some_and(is_held)
            && let Some(age) = self.held.heard(now, peer, None)
        {
            let origin = peer.clone();
            self.events.push_back(ReplicaEvent::AgeChanged { origin, age });
            // It may have been withdrawn, and so not passed on.
            if let Err(why) = self.tell_on(now, peer) {
                self.blame_origin(now, peer, why);
            }
        }
    }

    fn take_refused(&mut self, now: Instant, peer: &GatewayId, refused: &Refused) {
        self.handle_disconnected(now, peer);
        self.check_reused(now, peer, &refused.reason);
        self.events.push_back(ReplicaEvent::RefusedByPeer {
            peer: peer.clone(),
            reason: known_reason(&refused.reason),
            message: bounded(&refused.message),
        });
    }
}

/// Origins, their stamps, and the incarnations that others hold.
pub(super) fn read_all_known(
    known: Vec<Known>,
    most: usize,
) -> Result<Vec<(GatewayId, Stamp, u64)>, SyncRefusal> {
    if known.len() > most {
        return Err(SyncRefusal::TooManyOrigins);
    }
    let read = |known: Known| {
        let elsewhere = known.elsewhere;
        wire::read_known(known).map(|(origin, stamp)| (origin, stamp, elsewhere))
    };
    known.into_iter().map(read).collect()
}
