//! Data and beats as the replica takes them, from their origin itself and passed on.
//!
//! What an origin says itself is believed because of the session's certificate; its signature is checked before its
//! words are first passed on. What is passed on is checked before anything else is done with it.

use std::{sync::Arc, time::Instant};

use causeway_federation::{
    catalog::{Age, Record},
    name::GatewayId,
    signing::{Purpose, Signed},
};
use causeway_proto::sync as proto;

use super::{
    Replica, ReplicaEvent,
    assembly::{Framing, framed},
    changes::Changes,
    head::{self, Beat, Head},
    limits::{MAX_KNOWN, MAX_PEERS},
    refusal::SyncRefusal,
    session::Acknowledge,
    wire::{self, Stamp},
};

/// Word of a peer that there is a version of an origin's record: of its own, or of one that it passes on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Advertisement<'a> {
    pub(super) now: Instant,
    pub(super) peer: &'a GatewayId,
    pub(super) origin: &'a GatewayId,
    pub(super) stamp: Stamp,
}

impl Advertisement<'_> {
    /// Tells whether the peer passes on what another gateway said.
    fn is_relayed(&self) -> bool {
        self.peer != self.origin
    }
}

impl Replica {
    /// Finds the gateway that is spoken of: the speaker, unless somebody is named.
    fn spoken_of(&self, peer: &GatewayId, origin: Option<proto::Origin>) -> Result<GatewayId, SyncRefusal> {
        let signed = self.sessions.get(peer).is_some_and(|session| session.is_signed());
        match origin {
            None if signed => Ok(peer.clone()),
            origin => wire::read_origin(origin),
        }
    }

    /// Tells whether `peer` may tell of `origin`'s record: its own, or that of a zone which it was asked for. `false`
    /// when that is so and nobody wants to know it any more.
    fn may_tell_of(&self, peer: &GatewayId, origin: &GatewayId) -> Result<bool, SyncRefusal> {
        if peer == origin {
            return Ok(true);
        }
        let asked = self.sessions.get(peer).is_some_and(|session| {
            session.is_signed() && origin.zone != peer.zone && session.asked.contains(&origin.zone)
        });
        if !asked || origin.zone == self.own.origin().zone {
            return Err(SyncRefusal::WrongOrigin(origin.to_string()));
        }
        Ok(self
            .zones
            .as_ref()
            .is_none_or(|zones| zones.contains(&origin.zone)))
    }

    /// Lets what is wrong with a peer's own record end its session, but not what is wrong with one that it passed on.
    fn blame(
        &mut self,
        advertisement: Advertisement<'_>,
        result: Result<(), SyncRefusal>,
    ) -> Result<(), SyncRefusal> {
        match result {
            Err(refusal) if advertisement.is_relayed() => self.refuse_relayed(advertisement, refusal),
            result => result,
        }
    }

    /// Notes an advertisement; answers what is held of its origin, or `None` when that is from a later life of the origin,
    /// of which the peer is told.
    pub(super) fn told(&mut self, advertisement: Advertisement<'_>) -> Result<Option<Stamp>, SyncRefusal> {
        let Advertisement {
            now,
            peer,
            origin,
            stamp,
        } = advertisement;
        let held = self.held.stamp(origin);
        let session = self.sessions.get_mut(peer).ok_or(SyncRefusal::HelloExpected)?;
        if session.heard_of.len() > MAX_PEERS && !session.heard_of.contains_key(origin) {
            return Err(SyncRefusal::TooManyOrigins);
        }
        let heard = session.hears_of(now, origin);
        let told_later = heard
            .advertised
            .is_some_and(|told| told.incarnation > stamp.incarnation);
        if told_later && !advertisement.is_relayed() {
            return Err(SyncRefusal::VersionBackwards);
        }
        if held.incarnation > stamp.incarnation {
            heard.acknowledge = Acknowledge::Held;
            return Ok(None);
        }
        heard.advertised = heard.advertised.max(Some(stamp));
        Ok(Some(held))
    }

    pub(super) fn acknowledge(&mut self, advertisement: Advertisement<'_>, what: Acknowledge) {
        if let Some(session) = self.sessions.get_mut(advertisement.peer) {
            session
                .hears_of(advertisement.now, advertisement.origin)
                .acknowledge = what;
        }
    }

    fn take_turn(&mut self, advertisement: Advertisement<'_>) -> Result<(), SyncRefusal> {
        let session = self.sessions.get_mut(advertisement.peer);
        let session = session.ok_or(SyncRefusal::HelloExpected)?;
        match session
            .hears_of(advertisement.now, advertisement.origin)
            .pace
            .take(advertisement.now)
        {
            true => Ok(()),
            false => Err(SyncRefusal::TooFast),
        }
    }

    /// Reads what was signed, and checks it if it was passed on.
    fn read_signed(
        &self,
        advertisement: Advertisement<'_>,
        message: Option<proto::Signed>,
        purpose: Purpose,
    ) -> Result<Signed, SyncRefusal> {
        let signed = head::read_signed(message, self.held.credential(advertisement.origin))?;
        if advertisement.is_relayed() {
            let checked = signed.check(&*self.verifier, purpose, advertisement.origin);
            checked.map_err(SyncRefusal::BadSignature)?;
        }
        Ok(signed)
    }

    pub(super) fn take_snapshot(
        &mut self,
        now: Instant,
        peer: &GatewayId,
        mut part: proto::Snapshot,
    ) -> Result<(), SyncRefusal> {
        let origin = self.spoken_of(peer, part.origin.take())?;
        if !self.may_tell_of(peer, &origin)? {
            return Ok(());
        }
        let stamp = Stamp::new(part.incarnation, part.version)?;
        let advertisement = Advertisement {
            now,
            peer,
            origin: &origin,
            stamp,
        };
        let result = self.take_part(advertisement, part);
        self.blame(advertisement, result)
    }

    fn take_part(
        &mut self,
        advertisement: Advertisement<'_>,
        mut part: proto::Snapshot,
    ) -> Result<(), SyncRefusal> {
        let framing = match part.part {
            0 => Some(self.framing(advertisement, part.head.take())?),
            _ => None,
        };
        let known = self.held.len();
        let Some(held) = self.told(advertisement)? else {
            return Ok(());
        };
        if held == Stamp::NONE && known >= MAX_PEERS {
            return Err(SyncRefusal::TooManyPeers);
        }
        let session = self.sessions.get_mut(advertisement.peer);
        let session = session.ok_or(SyncRefusal::HelloExpected)?;
        let lives = !part.outdated;
        let assembled = session
            .assembly
            .take(advertisement.now, advertisement.origin, part, framing)?;
        let Some((record, began)) = assembled else {
            return Ok(());
        };
        self.take_turn(advertisement)?;
        self.acknowledge(advertisement, Acknowledge::Held);
        if advertisement.stamp > held {
            self.hold(advertisement.now, advertisement.peer, record, began, lives)
        } else if advertisement.stamp == held {
            self.take_again(advertisement.now, advertisement.peer, record)
        } else {
            Ok(())
        }
    }

    fn framing(
        &self,
        advertisement: Advertisement<'_>,
        message: Option<proto::Signed>,
    ) -> Result<Framing, SyncRefusal> {
        let session = self.sessions.get(advertisement.peer);
        if !session.is_some_and(|session| session.is_signed()) {
            return Ok(Framing::Flat);
        }
        let signed = self.read_signed(advertisement, message, Purpose::Record)?;
        let head = Head::read(&signed.words)?;
        if head.stamp != advertisement.stamp {
            return Err(SyncRefusal::Malformed("a statement is about another version"));
        }
        Ok(Framing::Signed(head, Arc::new(signed)))
    }

    /// Takes a whole record at the version that is held: the same again, the first with a signature, or the repair of
    /// one that is not what its origin signed.
    fn take_again(&mut self, now: Instant, peer: &GatewayId, record: Record) -> Result<(), SyncRefusal> {
        let Some(old) = self.held.record(&record.origin).cloned() else {
            return Ok(());
        };
        let signed_first = old.signed.is_none() && record.signed.is_some();
        if *old == record && !signed_first {
            return Ok(());
        }
        let stated = old
            .signed
            .as_ref()
            .and_then(|signed| Head::read(&signed.words).ok());
        let is_sound = stated.as_ref().map(|head| head.digest) == self.held.digest(&record.origin);
        if signed_first || (stated.is_some() && !is_sound) {
            return self.hold(now, peer, record, now, false);
        }
        Err(SyncRefusal::VersionReused)
    }

    pub(super) fn take_delta(
        &mut self,
        now: Instant,
        peer: &GatewayId,
        mut delta: proto::Delta,
    ) -> Result<(), SyncRefusal> {
        let origin = self.spoken_of(peer, delta.origin.take())?;
        if !self.may_tell_of(peer, &origin)? {
            return Ok(());
        }
        let mut advertisement = Advertisement {
            now,
            peer,
            origin: &origin,
            stamp: Stamp::new(delta.incarnation, delta.to_version)?,
        };
        let result = self.take_changes(&mut advertisement, delta);
        self.blame(advertisement, result)
    }

    /// The advertisement's stamp is what the delta says; where the head says it, it is set to that.
    fn take_changes(
        &mut self,
        advertisement: &mut Advertisement<'_>,
        mut delta: proto::Delta,
    ) -> Result<(), SyncRefusal> {
        let Advertisement {
            now, peer, origin, ..
        } = *advertisement;
        let mut head = None;
        if self.sessions.get(peer).is_some_and(|session| session.is_signed()) {
            let message = delta.head.take();
            let is_bare = message
                .as_ref()
                .is_some_and(|signed| signed.credential.is_empty());
            if advertisement.is_relayed() && is_bare && self.held.credential(origin).is_none() {
                // The credential went with a record that was forgotten here meanwhile.
                self.take_turn(*advertisement)?;
                self.acknowledge(*advertisement, Acknowledge::Held);
                return Ok(());
            }
            let signed = self.read_signed(*advertisement, message, Purpose::Record)?;
            let read = Head::read(&signed.words)?;
            advertisement.stamp = read.stamp;
            head = Some((read, Arc::new(signed)));
        }
        let (advertisement, stamp) = (*advertisement, advertisement.stamp);
        if stamp.version <= delta.from_version {
            return Err(SyncRefusal::VersionBackwards);
        }
        let changes = Changes::read(&mut delta)?;
        let Some(held) = self.told(advertisement)? else {
            return Ok(());
        };
        self.take_turn(advertisement)?;
        self.acknowledge(advertisement, Acknowledge::Held);
        let from = delta.from_version;
        // A relay makes its deltas of two records, so they fit the first of them only.
        let from_fits = from == held.version || (!advertisement.is_relayed() && from < held.version);
        let follows = stamp > held && stamp.incarnation == held.incarnation && from_fits;
        // One that does not follow what is held is answered with what is held, and what is missing is sent.
        let Some(base) = self.held.record(origin).filter(|_| follows) else {
            return Ok(());
        };
        let mut record = changes.applied_to(base)?;
        record.version = stamp.version;
        match head {
            None => {
                record.draining = delta.draining;
                record.topology = wire::read_fingerprint(&delta.topology)?;
                record.signed = None;
            }
            Some((head, signed)) => {
                let digest = head.digest;
                framed(&mut record, head, signed);
                if record.exports.digest() != digest {
                    self.diverged(advertisement);
                    return Ok(());
                }
            }
        }
        self.hold(now, peer, record, now, !delta.outdated)
    }

    /// Asks for the whole record, because what is held of `origin` is not what it says.
    fn diverged(&mut self, advertisement: Advertisement<'_>) {
        self.acknowledge(advertisement, Acknowledge::None);
        self.events.push_back(ReplicaEvent::Diverged {
            origin: advertisement.origin.clone(),
            peer: advertisement.peer.clone(),
        });
    }

    /// Holds a newer record. If `peer` passed it on, it counts from when it `came`, and is a sign of life if it `lives`.
    fn hold(
        &mut self,
        now: Instant,
        peer: &GatewayId,
        record: Record,
        came: Instant,
        lives: bool,
    ) -> Result<(), SyncRefusal> {
        let (origin, stamp) = (record.origin.clone(), Stamp::of(&record));
        let session = self.sessions.get(peer);
        let via = (origin != *peer).then_some(peer);
        let newest = session.and_then(|session| session.advertised(&origin)) <= Some(stamp);
        let (came, lives) = match via {
            Some(_) => (came, lives),
            None => (now, newest),
        };
        self.held.replace(now, record, came, lives, via);
        if via.is_some() && lives {
            self.wants.served(now, &origin.zone, peer);
        }
        self.events.push_back(ReplicaEvent::RecordChanged {
            origin: origin.clone(),
        });
        if let Some(session) = self.sessions.get_mut(peer) {
            // Who told of a record needs not be told of it.
            session.acknowledged(&origin, stamp, &self.held);
        }
        self.tell_on(now, &origin).map_err(SyncRefusal::BadSignature)
    }

    pub(super) fn take_beats(
        &mut self,
        now: Instant,
        peer: &GatewayId,
        heartbeat: proto::Heartbeat,
    ) -> Result<(), SyncRefusal> {
        if heartbeat.beats.len() > MAX_KNOWN {
            return Err(SyncRefusal::TooManyOrigins);
        }
        for beat in heartbeat.beats {
            let origin = self.spoken_of(peer, beat.origin)?;
            if !self.may_tell_of(peer, &origin)? {
                continue;
            }
            let known = self.held.credential(&origin);
            let signed = head::read_signed(beat.signed, known)?;
            let beat = Beat::read(&signed.words)?;
            let advertisement = Advertisement {
                now,
                peer,
                origin: &origin,
                stamp: beat.stamp,
            };
            let result = match advertisement.is_relayed() {
                false => self.take_own_beat(advertisement, beat, signed),
                true => self.take_relayed_beat(advertisement, beat, signed),
            };
            self.blame(advertisement, result)?;
        }
        Ok(())
    }

    /// Either the peer is ahead of what is held, or behind what it once told: both are settled by the word for what is
    /// held.
    fn take_own_beat(
        &mut self,
        advertisement: Advertisement<'_>,
        beat: Beat,
        signed: Signed,
    ) -> Result<(), SyncRefusal> {
        let Some(held) = self.told(advertisement)? else {
            return Ok(());
        };
        let Advertisement { now, peer, .. } = advertisement;
        let session = self.sessions.get(peer);
        let told = session.and_then(|session| session.advertised(peer));
        // A beat of less than was told is no sign of life here, and must not become one elsewhere.
        if held != beat.stamp || told != Some(beat.stamp) {
            self.acknowledge(advertisement, Acknowledge::Held);
        } else if self.held.digest(peer) != Some(beat.digest) {
            self.diverged(advertisement);
        } else {
            self.held.note_beat(now, peer, beat, signed, false);
        }
        Ok(())
    }

    /// Only a beat that is higher than all before says that its origin lives.
    fn take_relayed_beat(
        &mut self,
        advertisement: Advertisement<'_>,
        beat: Beat,
        signed: Signed,
    ) -> Result<(), SyncRefusal> {
        let Advertisement {
            now, peer, origin, ..
        } = advertisement;
        let held = self.held.stamp(origin);
        if beat.stamp != held || signed.credential.0.is_empty() {
            // A beat is checked by the credential of the record that it speaks of. One that was overtaken by a newer
            // record says nothing; for one that is ahead, the record is to be sent.
            self.told(advertisement)?;
            self.acknowledge(advertisement, Acknowledge::Held);
            return Ok(());
        }
        if !self.held.is_newer_beat(origin, &beat) {
            let entry = self.held.catalog().entry(origin);
            if entry.is_some_and(|entry| entry.age == Age::Fresh) {
                self.wants.served(now, &origin.zone, peer);
            }
            return Ok(());
        }
        let checked = signed.check(&*self.verifier, Purpose::Beat, origin);
        checked.map_err(SyncRefusal::BadSignature)?;
        if self.held.digest(origin) != Some(beat.digest) {
            self.diverged(advertisement);
            return Ok(());
        }
        self.held.note_beat(now, origin, beat, signed, true);
        self.wants.served(now, &origin.zone, peer);
        if let Some(age) = self.held.heard(now, origin, Some(peer)) {
            self.events.push_back(ReplicaEvent::AgeChanged {
                origin: origin.clone(),
                age,
            });
            return self.tell_on(now, origin).map_err(SyncRefusal::BadSignature);
        }
        Ok(())
    }
}
