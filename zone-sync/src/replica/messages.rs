//! What the replica does with each message of a peer.

use std::time::Instant;

use causeway_proto::sync::{
    Ack, Delta, Heartbeat, Hello, Known, Refused, Snapshot, SyncMessage, sync_message::Body,
};
use prost::Message as _;

use super::{
    Event, Replica, assembly, bounded, held,
    limits::{MAX_INCARNATION, MAX_KNOWN, MAX_MESSAGE_BYTES, MAX_PEERS, PROTOCOL},
    may_tell_of,
    refusal::{Refusal, known_reason},
    session::Session,
    wire::{self, Stamp},
};
use crate::{catalog::Record, name::GatewayId};

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

    fn take(&mut self, now: Instant, peer: &GatewayId, message: SyncMessage) -> Result<(), Refusal> {
        if message.encoded_len() > MAX_MESSAGE_BYTES {
            return Err(Refusal::MessageTooLarge);
        }
        let body = message.body.ok_or(Refusal::Malformed("it has no known body"))?;
        let greeted = self.sessions.get(peer).is_some_and(|session| session.greeted);
        match body {
            Body::Hello(hello) => self.take_hello(now, peer, hello),
            Body::Refused(refused) => {
                self.take_refused(peer, &refused);
                Ok(())
            }
            _ if !greeted => Err(Refusal::HelloExpected),
            Body::Snapshot(part) => self.take_snapshot(now, peer, part),
            Body::Delta(delta) => self.take_delta(now, peer, delta),
            Body::Ack(ack) => self.take_ack(now, peer, ack),
            Body::Heartbeat(heartbeat) => self.take_heartbeat(peer, heartbeat),
        }
    }

    fn take_hello(&mut self, now: Instant, peer: &GatewayId, hello: Hello) -> Result<(), Refusal> {
        if hello.protocol != PROTOCOL {
            return Err(Refusal::UnknownProtocol(hello.protocol));
        }
        let origin = wire::read_origin(hello.origin)?;
        if origin != *peer {
            return Err(Refusal::WrongOrigin(origin.to_string()));
        }
        let own_origin = self.own.record().origin.clone();
        let mut peer_holds = Stamp::NONE;
        let mut newest = None;
        for (origin, stamp) in read_all_known(hello.known)? {
            if origin == own_origin {
                peer_holds = stamp;
            } else if origin == *peer {
                newest = Some(stamp);
            }
        }
        let held = self.held.stamp(peer);
        if let Some(session) = self.sessions.get_mut(peer) {
            session.greeted = true;
            session.acknowledged(peer_holds);
            // A peer that has lost its place learns so from our hello, and tells of nothing before it has caught up.
            if let Some(stamp) = newest.filter(|stamp| *stamp >= held) {
                session.advertise(stamp);
            }
        }
        self.check_ahead(now, peer, peer_holds);
        Ok(())
    }

    fn take_ack(&mut self, now: Instant, peer: &GatewayId, ack: Ack) -> Result<(), Refusal> {
        let origin = wire::read_origin(ack.origin)?;
        if origin != self.own.record().origin {
            return Err(Refusal::WrongOrigin(origin.to_string()));
        }
        let stamp = Stamp::new(ack.incarnation, ack.version)?;
        if let Some(session) = self.sessions.get_mut(peer) {
            session.acknowledged(stamp);
        }
        self.check_ahead(now, peer, stamp);
        Ok(())
    }

    /// A peer that holds a later version than was ever written here heard it from an earlier life of this gateway.
    fn check_ahead(&mut self, now: Instant, peer: &GatewayId, stamp: Stamp) {
        if stamp > self.own.newest() && stamp.incarnation < MAX_INCARNATION {
            self.ask_for_incarnation(now, peer, stamp);
        }
    }

    fn take_heartbeat(&mut self, peer: &GatewayId, heartbeat: Heartbeat) -> Result<(), Refusal> {
        for (origin, stamp) in read_all_known(heartbeat.current)? {
            let (held, session) = self.told(peer, &origin, stamp)?;
            // Either it is ahead of us, or behind what it once told: both are settled by our word for what we hold.
            if held != stamp {
                session.ack_due = true;
            }
        }
        Ok(())
    }

    fn take_delta(&mut self, now: Instant, peer: &GatewayId, delta: Delta) -> Result<(), Refusal> {
        let origin = wire::read_origin(delta.origin.clone())?;
        let stamp = Stamp::new(delta.incarnation, delta.to_version)?;
        if delta.to_version <= delta.from_version {
            return Err(Refusal::VersionBackwards);
        }
        if !assembly::names_each_key_once(&delta) {
            return Err(Refusal::Malformed("a delta names an export twice"));
        }
        let (held, session) = self.told(peer, &origin, stamp)?;
        session.ack_due = true;
        let follows =
            stamp > held && delta.incarnation == held.incarnation && delta.from_version <= held.version;
        // One that does not follow what is held is answered with what is held, and the origin sends what is missing.
        let Some(base) = self.held.record(&origin).filter(|_| follows) else {
            return Ok(());
        };
        let record = held::with_delta(base, delta)?;
        self.hold(now, peer, record);
        Ok(())
    }

    fn take_snapshot(&mut self, now: Instant, peer: &GatewayId, part: Snapshot) -> Result<(), Refusal> {
        let origin = wire::read_origin(part.origin.clone())?;
        let stamp = Stamp::new(part.incarnation, part.version)?;
        let known = self.held.len();
        let (held, session) = self.told(peer, &origin, stamp)?;
        if held == Stamp::NONE && known >= MAX_PEERS {
            return Err(Refusal::TooManyPeers);
        }
        let Some(record) = session.assembly.take(&origin, part)? else {
            return Ok(());
        };
        session.ack_due = true;
        if stamp > held {
            self.hold(now, peer, record);
        } else if stamp == held && self.held.record(&origin).is_some_and(|old| **old != record) {
            return Err(Refusal::VersionReused);
        }
        Ok(())
    }

    /// Notes that `peer` told of a version of `origin`; answers what is held of it.
    fn told(
        &mut self,
        peer: &GatewayId,
        origin: &GatewayId,
        stamp: Stamp,
    ) -> Result<(Stamp, &mut Session), Refusal> {
        if !may_tell_of(peer, origin) {
            return Err(Refusal::WrongOrigin(origin.to_string()));
        }
        let held = self.held.stamp(origin);
        if stamp.incarnation < held.incarnation {
            return Err(Refusal::VersionBackwards);
        }
        let session = self.sessions.get_mut(peer).ok_or(Refusal::HelloExpected)?;
        session.advertise(stamp);
        Ok((held, session))
    }

    fn hold(&mut self, now: Instant, peer: &GatewayId, record: Record) {
        let origin = record.origin.clone();
        let stamp = Stamp {
            incarnation: record.incarnation,
            version: record.version,
        };
        let newest = self.sessions.get(peer).and_then(|session| session.advertised) <= Some(stamp);
        self.held.replace(now, record, newest);
        self.events.push_back(Event::RecordChanged { origin });
    }

    /// An origin counts as heard when it speaks while the newest version that it told of is held.
    fn note_heard(&mut self, now: Instant, peer: &GatewayId) {
        let advertised = self.sessions.get(peer).and_then(|session| session.advertised);
        if advertised.is_some_and(|stamp| stamp <= self.held.stamp(peer))
            && let Some(age) = self.held.heard(now, peer)
        {
            let origin = peer.clone();
            self.events.push_back(Event::AgeChanged { origin, age });
        }
    }

    fn take_refused(&mut self, peer: &GatewayId, refused: &Refused) {
        self.sessions.remove(peer);
        self.events.push_back(Event::RefusedByPeer {
            peer: peer.clone(),
            reason: known_reason(&refused.reason),
            message: bounded(&refused.message),
        });
    }
}

fn read_all_known(known: Vec<Known>) -> Result<Vec<(GatewayId, Stamp)>, Refusal> {
    if known.len() > MAX_KNOWN {
        return Err(Refusal::TooManyOrigins);
    }
    known.into_iter().map(wire::read_known).collect()
}
