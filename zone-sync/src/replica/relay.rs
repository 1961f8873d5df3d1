//! Passing records on: what this gateway asks its peers for, what they ask it for, and word of what was refused.
//!
//! Nothing here needs to know the way that a record takes. A gateway passes on only what was asked for, only newer
//! than what it told or was told, and only with a signature that it checked; so records cannot go around in circles.

use std::{collections::BTreeSet, time::Instant};

use causeway_federation::{
    name::{GatewayId, ZoneName},
    signing::Unproven,
};
use causeway_proto::sync as proto;

use super::{
    Replica, ReplicaEvent, bounded,
    data::Advertisement,
    limits::{MAX_PEERS, MAX_WANTED_ZONES, NOTICE_INTERVAL},
    messages::read_all_known,
    refusal::{SyncRefusal, known_reason},
    told::SendState,
    wire::{self, Stamp},
};

impl Replica {
    /// Decides whom to ask for what, and makes the words due where that changed.
    pub(super) fn update_wants(&mut self, now: Instant) {
        let Some(zones) = &self.zones else { return };
        let own = &self.own.origin().zone;
        let others = zones.iter().filter(|zone| *zone != own).cloned().collect();
        let greeted = self
            .sessions
            .iter()
            .filter(|(_, session)| session.protocol.is_some());
        let direct = greeted.clone().map(|(peer, _)| peer.zone.clone()).collect();
        let peers = greeted.filter(|(_, session)| session.is_signed());
        let peers = peers.map(|(peer, _)| peer.clone()).collect();
        self.wants.update(now, &others, &direct, &peers);
        let mut asked = self.wants.asked();
        for peer in peers {
            let asking = asked.remove(&peer).unwrap_or_default();
            let changed = self.sessions.get(&peer).is_some_and(|s| s.asking != asking);
            if changed {
                self.ask(now, &peer, asking);
            }
        }
    }

    /// Makes it due to tell `peer` what is wanted of it.
    pub(super) fn ask(&mut self, now: Instant, peer: &GatewayId, zones: BTreeSet<ZoneName>) {
        let mut known = Vec::new();
        for origin in zones.iter().flat_map(|zone| self.held.origins_of(zone)) {
            // A record without a signature is as good as none: what follows it could not be checked.
            if self.held.credential(&origin).is_none_or(|c| c.0.is_empty()) || known.len() == MAX_PEERS {
                continue;
            }
            known.push(proto::Known {
                elsewhere: self.held.elsewhere(&origin),
                ..wire::known_message(&origin, self.held.stamp(&origin))
            });
        }
        let names = zones.iter().map(ToString::to_string).collect();
        if let Some(session) = self.sessions.get_mut(peer) {
            session.ask(now, proto::Want { zones: names, known }, zones);
            self.pending.insert(peer.clone());
        }
    }

    /// The peer says which zones it has no session with: from now on it is told of those that are held.
    pub(super) fn take_want(
        &mut self,
        now: Instant,
        peer: &GatewayId,
        want: proto::Want,
    ) -> Result<(), SyncRefusal> {
        if want.zones.len() > MAX_WANTED_ZONES {
            return Err(SyncRefusal::TooManyOrigins);
        }
        let mut wanted = BTreeSet::new();
        for zone in &want.zones {
            let zone = ZoneName::new(zone).map_err(SyncRefusal::BadName)?;
            // Nobody needs to be told of itself, and the own zone's other gateways speak for themselves.
            if zone != peer.zone && zone != self.own.origin().zone {
                wanted.insert(zone);
            }
        }
        let known = read_all_known(want.known, MAX_PEERS)?;
        let origins: Vec<_> = wanted
            .iter()
            .flat_map(|zone| self.held.origins_of(zone))
            .collect();
        let Some(session) = self.sessions.get_mut(peer) else {
            return Ok(());
        };
        session.relayed.retain(|origin, _| wanted.contains(&origin.zone));
        session.wanted = wanted;
        for origin in &origins {
            let told = session.relayed.entry(origin.clone());
            told.or_insert_with(|| SendState::new(now));
            let holds = known.iter().find(|(of, ..)| of == origin);
            let holds = holds.map_or(Stamp::NONE, |(_, stamp, _)| *stamp);
            session.acknowledged(origin, holds, &self.held);
        }
        for (origin, stamp, elsewhere) in known {
            self.claim(now, &origin, stamp.incarnation.max(elsewhere));
        }
        for origin in origins {
            if let Err(why) = self.tell_on(now, &origin) {
                self.blame_origin(now, &origin, why);
            }
        }
        Ok(())
    }

    /// A record is new: whoever wants it is told, once its signature is found good.
    ///
    /// # Errors
    /// When it is not; then nobody is told.
    pub(super) fn tell_on(&mut self, now: Instant, origin: &GatewayId) -> Result<(), Unproven> {
        let wants = |peer: &GatewayId, wanted: &BTreeSet<ZoneName>| {
            peer.zone != origin.zone && wanted.contains(&origin.zone)
        };
        if !self.sessions.iter().any(|(peer, s)| wants(peer, &s.wanted)) {
            return Ok(());
        }
        let proven = self.held.prove(origin, &*self.verifier);
        if !proven? {
            return Ok(());
        }
        for (peer, session) in &mut self.sessions {
            if wants(peer, &session.wanted) {
                let told = session.relayed.entry(origin.clone());
                told.or_insert_with(|| SendState::new(now));
                session.due.insert(origin.clone());
                self.pending.insert(peer.clone());
            }
        }
        Ok(())
    }

    /// Checks the beats that are about to be passed on.
    pub(super) fn prove_beats(&mut self, now: Instant) {
        let due = self.sessions.values().filter(|session| session.has_beats_due());
        let origins: BTreeSet<_> = due.flat_map(|session| session.relayed.keys().cloned()).collect();
        for origin in origins {
            if let Err(why) = self.held.prove_beat(&origin, &*self.verifier) {
                self.blame_origin(now, &origin, why);
            }
        }
    }

    /// Lets an origin go whose signature is found to be bad. A certificate that has ended since it signed is no lie, and
    /// neither is it to have no key.
    pub(super) fn blame_origin(&mut self, now: Instant, origin: &GatewayId, why: Unproven) {
        if self.sessions.contains_key(origin) && !matches!(why, Unproven::Credential(_) | Unproven::Unsigned)
        {
            self.handle_broken(now, origin, SyncRefusal::BadSignature(why));
        }
    }

    /// Refuses a record that `peer` passed on. The session goes on, unless that happens all the time; the word travels
    /// back towards the origin, whose operator has to know.
    pub(super) fn refuse_relayed(
        &mut self,
        advertisement: Advertisement<'_>,
        refusal: SyncRefusal,
    ) -> Result<(), SyncRefusal> {
        let Advertisement {
            now,
            peer,
            origin,
            stamp,
        } = advertisement;
        let Some(session) = self.sessions.get_mut(peer) else {
            return Ok(());
        };
        if !session.refusals.take(now) {
            return Err(refusal);
        }
        session.notify(proto::Refused {
            reason: refusal.reason().to_owned(),
            message: bounded(&refusal.to_string()),
            origin: Some(wire::origin_message(origin)),
            refused_by: Some(wire::origin_message(self.own.origin())),
            incarnation: stamp.incarnation,
            version: stamp.version,
        });
        self.events.push_back(ReplicaEvent::RelayRefused {
            peer: peer.clone(),
            origin: origin.clone(),
            refusal,
        });
        self.wants.failed(&origin.zone, peer);
        self.update_wants(now);
        Ok(())
    }

    /// Somebody refused a record that was passed on: the own one, or one that this gateway passes the word on for.
    pub(super) fn take_notice(
        &mut self,
        now: Instant,
        peer: &GatewayId,
        notice: proto::Refused,
    ) -> Result<(), SyncRefusal> {
        let origin = wire::read_origin(notice.origin.clone())?;
        let by = wire::read_origin(notice.refused_by.clone())?;
        let stamp = Stamp::new(notice.incarnation, notice.version)?;
        if let Some(session) = self.sessions.get_mut(peer)
            && let Some(told) = session.relayed.get_mut(&origin)
        {
            told.refused(stamp);
        }
        if !self.may_notice(now, &origin, &by) {
            return Ok(());
        }
        if origin == *self.own.origin() {
            self.check_reused(now, peer, &notice.reason);
            self.events.push_back(ReplicaEvent::OwnRefused {
                by,
                via: peer.clone(),
                reason: known_reason(&notice.reason),
                message: bounded(&notice.message),
            });
            return Ok(());
        }
        let via = self
            .held
            .catalog()
            .entry(&origin)
            .and_then(|entry| entry.via.clone());
        let next = match self.sessions.contains_key(&origin) {
            true => Some(origin),
            false => via.filter(|via| via != peer),
        };
        if let Some(next) = next
            && let Some(session) = self.sessions.get_mut(&next)
        {
            session.notify(proto::Refused {
                reason: known_reason(&notice.reason).to_owned(),
                message: bounded(&notice.message),
                ..notice
            });
            self.pending.insert(next);
        }
        Ok(())
    }

    /// Tells whether it is time for another word of `by` about `origin`'s records.
    fn may_notice(&mut self, now: Instant, origin: &GatewayId, by: &GatewayId) -> bool {
        self.noticed.retain(|_, at| now < *at + NOTICE_INTERVAL);
        let key = (origin.clone(), by.clone());
        if self.noticed.len() >= MAX_PEERS || self.noticed.contains_key(&key) {
            return false;
        }
        self.noticed.insert(key, now);
        true
    }

    /// Somebody holds a later life of `origin` than this gateway: the origin must hear of it, through whoever can tell.
    pub(super) fn claim(&mut self, now: Instant, origin: &GatewayId, incarnation: u64) {
        if !self.held.claim(origin, incarnation) {
            return;
        }
        if let Some(session) = self.sessions.get_mut(origin) {
            session.hears_of(now, origin).acknowledge = super::session::Acknowledge::Held;
            self.pending.insert(origin.clone());
            return;
        }
        let asked = self.sessions.iter();
        let asked: Vec<_> = asked
            .filter(|(_, session)| session.asking.contains(&origin.zone))
            .map(|(peer, session)| (peer.clone(), session.asking.clone()))
            .collect();
        for (peer, zones) in asked {
            self.ask(now, &peer, zones);
        }
    }
}
