//! The shell of a gateway around its replica: starting, timers, the disk, and carrying out what it wants after
//! whatever happened.

use std::time::Duration;

use causeway_federation::name::{GatewayId, ZoneName};
use causeway_proto::sync::{SyncMessage, sync_message::Body};
use causeway_zone_sync::replica::{LocalChange, ReplicaEvent, SyncRefusal, limits};
use prost::Message as _;
use rand::Rng;

use super::{
    messages::{summary, utterances},
    network::Item,
    node::{Disk, Start},
    oracle::{Verdict, violation},
    world::{Happening, World},
};

/// Longest time that a write takes.
const LONGEST_WRITE: Duration = Duration::from_millis(120);
/// Earlier contents of the disk that are kept to be put back.
const MAX_COPIES: usize = 4;
/// Longest time after a start until the registry has been read and the exports are known.
const REGISTRY_READ: Duration = Duration::from_millis(300);
/// Bytes that a message may have besides its exports.
const MAX_HEAD_BYTES: usize = 2048;

impl World {
    pub fn start(&mut self, node: usize, start: Start) -> Verdict {
        let now = self.now;
        let this = &mut self.nodes[node];
        if this.life.is_some() {
            return Ok(());
        }
        match start {
            Start::Disk => {}
            Start::OldDisk if !this.copies.is_empty() => {
                let at = self.rng.random_range(0..this.copies.len());
                this.disk = this.copies[at].clone();
            }
            Start::OldDisk | Start::NoDisk => {
                this.disk = Disk::default();
                this.copies.clear();
            }
        }
        this.start(now, self.character.ages);
        let (life, disk) = (this.lives, &this.disk);
        self.trace.note(now, || {
            format!(
                "{} starts from {start:?}, incarnation {}, {} records",
                this.id,
                disk.incarnation,
                disk.records.len()
            )
        });
        self.counts.starts += 1;
        self.oracle.begin(node, this.instant(now));
        let (change, draining) = (this.topology_change(), this.draining);
        self.local(node, change)?;
        self.local(node, LocalChange::Draining(draining))?;
        let at = self.soon(REGISTRY_READ);
        self.at(at, Happening::Exports { node, life });
        for pair in self.network.pairs_of(node) {
            let at = self.soon(REGISTRY_READ);
            self.at(at, Happening::Dial { pair });
        }
        Ok(())
    }

    pub fn local(&mut self, node: usize, change: LocalChange) -> Verdict {
        let now = self.instant(node);
        if let Some(life) = &mut self.nodes[node].life {
            life.local(now, change);
        }
        self.settle(node)
    }

    pub fn exports(&mut self, node: usize, life: u64) -> Verdict {
        let now = self.instant(node);
        let exports = self.services[self.nodes[node].zone].all();
        let this = &mut self.nodes[node];
        let id = &this.id;
        self.trace
            .note(self.now, || format!("{id} exports {}", exports.len()));
        if let Some(life) = this.life_mut(life) {
            life.set_exports(now, exports);
        }
        self.settle(node)
    }

    pub fn take_topology(&mut self, node: usize) -> Verdict {
        self.nodes[node].topology = self.topology.clone();
        let change = self.nodes[node].topology_change();
        self.local(node, change)?;
        self.check_zones(node)
    }

    /// Nothing is held of a zone that is not in the topology.
    pub fn check_zones(&self, node: usize) -> Verdict {
        let node = &self.nodes[node];
        let entries = node.life.iter().flat_map(|life| life.catalog().entries());
        let mut origins = entries.map(|entry| &entry.record.origin);
        match origins.find(|origin| !node.topology.zones.contains(&origin.zone)) {
            Some(origin) => violation(format!(
                "{} holds a record of {origin}, whose zone has left the topology",
                node.id
            )),
            None => Ok(()),
        }
    }

    pub fn wake(&mut self, node: usize, life: u64) -> Verdict {
        let (moment, now) = (self.now, self.instant(node));
        let Some(life) = self.nodes[node].life_mut(life) else {
            return Ok(());
        };
        // One that was set for later than the timer is now, or was put off by a freeze, is as good as any.
        if life.wake.is_none_or(|at| at > moment) {
            return Ok(());
        }
        life.wake = None;
        if life.next_timeout().is_some_and(|due| due <= now) {
            life.timeout(now);
            if life.next_timeout().is_some_and(|due| due <= now) {
                return violation("a timeout that was carried out is still due".to_owned());
            }
        }
        self.settle(node)
    }

    pub fn saved(&mut self, node: usize, life: u64) -> Verdict {
        let keeps_copy = self.rng.random_bool(0.1);
        let now = self.instant(node);
        let this = &mut self.nodes[node];
        let Some(disk) = this.life_mut(life).and_then(|life| life.saving.take()) else {
            return Ok(());
        };
        if keeps_copy && this.copies.len() < MAX_COPIES {
            this.copies.push(this.disk.clone());
        }
        this.disk = disk;
        let stored = this.disk.incarnation;
        if let Some(life) = this.life_mut(life)
            && let Some(incarnation) = life.awaited.take_if(|awaited| *awaited <= stored)
        {
            life.local(now, LocalChange::Incarnation(incarnation));
        }
        self.settle(node)
    }

    /// Carries out what the replica wants after whatever happened, then asks the oracle.
    pub fn settle(&mut self, node: usize) -> Verdict {
        self.transmit(node)?;
        while let Some(event) = self.nodes[node].life.as_mut().and_then(|life| life.event()) {
            self.event(node, event)?;
        }
        self.save(node);
        self.set_timer(node);
        let Some(life) = &self.nodes[node].life else {
            return Ok(());
        };
        self.oracle.note_written(life.own())?;
        self.oracle.look(node, self.now, life.catalog())
    }

    fn transmit(&mut self, node: usize) -> Verdict {
        let now = self.instant(node);
        while let Some((peer, message)) = self.nodes[node].life.as_mut().and_then(|life| life.transmit(now)) {
            let bytes = message.encode_to_vec();
            if bytes.len() > limits::MAX_PART_BYTES + MAX_HEAD_BYTES {
                return violation(format!("a message to {peer} has {} bytes", bytes.len()));
            }
            let to = self.places[&peer];
            let linked = self.nodes[node]
                .life
                .as_ref()
                .and_then(|life| life.links.get(&to));
            if let Some(session) = linked.copied() {
                self.send(node, to, session, &message, bytes)?;
            }
        }
        Ok(())
    }

    fn send(&mut self, node: usize, to: usize, id: u64, message: &SyncMessage, bytes: Vec<u8>) -> Verdict {
        let Some(session) = self.network.session(id) else {
            return Ok(());
        };
        let side = usize::from(self.network.node_at(session, 0) != node);
        let (from, peer) = (&self.nodes[node].id, &self.nodes[to].id);
        self.trace
            .note(self.now, || format!("{from} -> {peer} {}", summary(message)));
        let utterances = utterances(message, from);
        if let Some(life) = &self.nodes[node].life {
            self.oracle.check_passed_on(from, &utterances, life.catalog())?;
        }
        self.oracle.note_said(from, utterances);
        if let Some(Body::Want(want)) = &message.body {
            let zones = want.zones.iter().filter_map(|zone| ZoneName::new(zone).ok());
            self.asked.extend(zones.map(|zone| (id, node, zone)));
        }
        let stream = &session.streams[side];
        let is_last = matches!(&message.body, Some(Body::Refused(refused)) if refused.origin.is_none());
        if stream.blocked && !is_last {
            return violation(format!(
                "sent {} to {peer}, which takes nothing now",
                summary(message)
            ));
        }
        self.counts.messages += 1;
        self.counts.bytes += bytes.len() as u64;
        if stream.broken || stream.blocked {
            return Ok(());
        }
        self.post(id, side, Item::Message(bytes));
        let window = self.character.window;
        let stream = self
            .network
            .session_mut(id)
            .map(|session| &mut session.streams[side]);
        if let Some(stream) = stream.filter(|stream| stream.len() >= window) {
            stream.blocked = true;
            let peer = self.nodes[to].id.clone();
            if let Some(life) = &mut self.nodes[node].life {
                life.blocked(&peer);
            }
        }
        Ok(())
    }

    fn event(&mut self, node: usize, event: ReplicaEvent) -> Verdict {
        let id = &self.nodes[node].id;
        self.trace.note(self.now, || format!("{id} says {event:?}"));
        match event {
            ReplicaEvent::Refused { peer, refusal } => {
                self.judge_refusal(node, &peer, &refusal)?;
                self.unlink(node, self.places[&peer]);
            }
            ReplicaEvent::RefusedByPeer { peer, .. } => self.unlink(node, self.places[&peer]),
            ReplicaEvent::Outdated { incarnation, .. } => {
                if let Some(life) = &mut self.nodes[node].life
                    && incarnation > life.incarnation
                {
                    life.incarnation = incarnation;
                    life.awaited = Some(incarnation);
                    life.dirty = true;
                }
            }
            ReplicaEvent::RelayRefused {
                peer,
                origin,
                refusal,
            } => return self.judge_relay(&peer, &origin, &refusal),
            ReplicaEvent::OwnRefused { by, reason, .. }
                if self.character.liars == 0
                    && !(reason == "version_reused" && self.oracle.is_forgetful(id)) =>
            {
                return violation(format!(
                    "{by} refused what was passed on of an honest gateway: {reason}"
                ));
            }
            ReplicaEvent::Diverged { origin, peer } => return self.judge_divergence(node, &origin, &peer),
            ReplicaEvent::NotSigned { cause } => {
                return violation(format!("a good key cannot sign: {cause}"));
            }
            ReplicaEvent::PassedOver { .. } | ReplicaEvent::OwnRefused { .. } => {}
            ReplicaEvent::ExportsLeftOut { count } => {
                return violation(format!("{count} exports within the limits were left out"));
            }
            ReplicaEvent::RecordChanged { .. }
            | ReplicaEvent::AgeChanged { .. }
            | ReplicaEvent::Forgotten { .. } => {
                if let Some(life) = &mut self.nodes[node].life {
                    life.dirty = true;
                }
            }
        }
        Ok(())
    }

    /// Honest gateways refuse each other only for what is true.
    fn judge_refusal(&mut self, node: usize, peer: &GatewayId, refusal: &SyncRefusal) -> Verdict {
        self.refused_as = Some(refusal.reason());
        *self.counts.refusals.entry(refusal.reason()).or_default() += 1;
        let this = &self.nodes[node];
        if this.is_liar || self.nodes[self.places[peer]].is_liar {
            return Ok(());
        }
        let is_true = match refusal {
            SyncRefusal::UnknownZone(_) => !this.topology.zones.contains(&peer.zone),
            SyncRefusal::Silent => {
                let began = self.linked_at.get(&(node, self.places[peer]));
                let word = self.oracle.last_message(node, peer).max(began.copied());
                word.is_some_and(|came| {
                    this.instant(self.now).saturating_duration_since(came) >= limits::SILENCE
                })
            }
            SyncRefusal::VersionReused => self.oracle.is_forgetful(peer),
            _ => false,
        };
        if is_true {
            return Ok(());
        }
        violation(format!("{} refused {peer}, which is honest: {refusal}", this.id))
    }

    /// Holds that what an honest gateway passes on of an honest one is never refused.
    fn judge_relay(&mut self, peer: &GatewayId, origin: &GatewayId, refusal: &SyncRefusal) -> Verdict {
        self.refused_as = Some(refusal.reason());
        *self.counts.relays_refused.entry(refusal.reason()).or_default() += 1;
        let is_honest = |id: &GatewayId| !self.nodes[self.places[id]].is_liar;
        let is_reused = *refusal == SyncRefusal::VersionReused && self.oracle.is_forgetful(origin);
        if is_honest(peer) && is_honest(origin) && !is_reused {
            return violation(format!(
                "a record of {origin} that {peer} passed on was refused: {refusal}"
            ));
        }
        Ok(())
    }

    /// Gateways hold different things at one stamp only where a lost disk made an origin use the stamp twice, or by lies.
    fn judge_divergence(&mut self, node: usize, origin: &GatewayId, peer: &GatewayId) -> Verdict {
        let is_liar = |id: &GatewayId| self.nodes[self.places[id]].is_liar;
        if self.oracle.is_forgetful(origin) || is_liar(origin) || is_liar(peer) || self.nodes[node].is_liar {
            return Ok(());
        }
        violation(format!("what is held of {origin} is not what {peer} says it is"))
    }

    fn save(&mut self, node: usize) {
        let at = self.soon(LONGEST_WRITE);
        let Some(life) = &mut self.nodes[node].life else {
            return;
        };
        if life.dirty && life.saving.is_none() {
            life.saving = Some(life.worth_storing());
            life.dirty = false;
            let life = life.number;
            self.at(at, Happening::Saved { node, life });
        }
    }

    /// Lets the timer go off at once, because its clock was changed: a leap may have made it overdue.
    pub fn wake_now(&mut self, node: usize) -> Verdict {
        let now = self.now;
        let is_frozen = self.nodes[node].frozen_until > now;
        let Some(life) = &mut self.nodes[node].life else {
            return Ok(());
        };
        life.wake = Some(now);
        let life = life.number;
        if is_frozen {
            self.at(now, Happening::Wake { node, life });
            return Ok(());
        }
        self.wake(node, life)
    }

    fn set_timer(&mut self, node: usize) {
        let late = self.character.lateness.mul_f64(self.rng.random());
        let now = self.now;
        let this = &mut self.nodes[node];
        let Some(life) = &mut this.life else { return };
        let Some(due) = life.next_timeout() else { return };
        let at = this
            .clock
            .moment(due)
            .after(late)
            .max(now.after(Duration::from_micros(1)));
        if life.wake.is_none_or(|wake| at < wake) {
            life.wake = Some(at);
            let life = life.number;
            self.at(at, Happening::Wake { node, life });
        }
    }
}
