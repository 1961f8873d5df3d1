//! Sessions in the simulation: they begin, carry and end, as QUIC, gRPC and the gateway's session keeper let them.

use std::time::Duration;

use causeway_federation::name::GatewayId;
use causeway_proto::sync::SyncMessage;
use causeway_zone_sync::replica::Stamp;
use prost::Message as _;
use rand::Rng;

use super::{
    liar::{self, Lie, Scene},
    messages::{part_of, utterances},
    network::{ACCEPTOR, End, Item, OPENER, Parcel},
    node::stamp_of,
    oracle::{Verdict, Violation, violation},
    world::{Happening, World},
};

/// Pause before a session that ended is opened again, and the longest that is put on top of it at random.
const REOPEN_AFTER: Duration = Duration::from_millis(200);
/// The longest pause between two tries to reach a gateway that does not answer.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(3);
/// Pause before something is asked again because the other end is not ready for it yet.
const A_MOMENT: Duration = Duration::from_millis(1);

impl World {
    /// The opener tries to open a session, unless it has one.
    pub fn dial(&mut self, pair: usize) {
        let ends = self.network.pairs[pair].ends;
        let lives = ends.map(|node| self.nodes[node].life_number());
        let Some(opener) = lives[OPENER] else { return };
        let linked = |node: usize, peer: usize| {
            let life = self.nodes[node].life.as_ref();
            life.is_some_and(|life| life.links.contains_key(&peer))
        };
        let is_opening = self.network.sessions_of(pair).into_iter().any(|id| {
            let session = self.network.session(id);
            session.is_some_and(|s| s.ends[OPENER] == End::Opening && s.lives[OPENER] == opener)
        });
        if linked(ends[OPENER], ends[ACCEPTOR]) || is_opening {
            return;
        }
        let [opener_zones, acceptor_zones] = ends.map(|node| &self.nodes[node].topology.zones);
        let are_strangers = !opener_zones.contains(&self.nodes[ends[ACCEPTOR]].id.zone)
            || !acceptor_zones.contains(&self.nodes[ends[OPENER]].id.zone);
        // There would be no tunnel between them; now and then one is opened all the same, to be refused.
        let is_put_off = are_strangers && self.rng.random_bool(0.8);
        let answers = |node: usize| self.nodes[node].frozen_until <= self.now && !is_put_off;
        let Some(acceptor) = lives[ACCEPTOR].filter(|_| {
            self.network.pairs[pair].is_whole() && answers(ends[ACCEPTOR]) && answers(ends[OPENER])
        }) else {
            let at = self.soon(LONGEST_PAUSE);
            self.at(at.after(A_MOMENT), Happening::Dial { pair });
            return;
        };
        let session = self.network.open(pair, [opener, acceptor]);
        self.counts.sessions += 1;
        let there = self.travel(pair);
        let back = there + self.travel(pair);
        self.after(
            there,
            Happening::Opened {
                session,
                side: ACCEPTOR,
            },
        );
        self.after(
            back,
            Happening::Opened {
                session,
                side: OPENER,
            },
        );
    }

    /// Time for which a message is on its way.
    fn travel(&mut self, pair: usize) -> Duration {
        let late = self.character.lateness.mul_f64(self.rng.random());
        self.network.pairs[pair].latency + late
    }

    pub fn opened(&mut self, id: u64, side: usize) -> Verdict {
        let Some(session) = self.network.session_mut(id) else {
            return Ok(());
        };
        if session.ends[side] != End::Opening {
            return Ok(());
        }
        session.ends[side] = End::Open;
        let (life, pair) = (session.lives[side], session.pair);
        let ends = self.network.pairs[pair].ends;
        let (node, peer) = (ends[side], ends[1 - side]);
        if self.nodes[node].life_number() != Some(life) {
            self.close(id, side, false);
            return Ok(());
        }
        self.unlink(node, peer);
        let (now, peer_id) = (self.instant(node), self.nodes[peer].id.clone());
        let this_id = &self.nodes[node].id;
        self.trace
            .note(self.now, || format!("{this_id} has session {id} with {peer_id}"));
        self.linked_at.insert((node, peer), now);
        if let Some(life) = &mut self.nodes[node].life {
            life.links.insert(peer, id);
            life.connected(now, peer_id);
        }
        self.settle(node)
    }

    /// Ends the session that counts with a peer, in order, because this end has had enough of it.
    pub fn unlink(&mut self, node: usize, peer: usize) {
        let life = self.nodes[node].life.as_mut();
        let Some(id) = life.and_then(|life| life.links.remove(&peer)) else {
            return;
        };
        if let Some(session) = self.network.session(id) {
            let side = usize::from(self.network.node_at(session, 0) != node);
            self.close(id, side, true);
        }
    }

    /// Closes one end. In order, the other end learns of it after what was sent before; else from nothing but silence,
    /// and what is on its way is cut off anywhere.
    pub fn close(&mut self, id: u64, side: usize, in_order: bool) {
        let notice = self.soon(self.character.notice);
        let Some(session) = self.network.session_mut(id) else {
            return;
        };
        let pair = session.pair;
        session.ends[side] = End::Closed;
        if in_order {
            if !session.streams[side].broken {
                self.post(id, side, Item::End);
            }
        } else {
            let stream = &mut session.streams[side];
            let kept = self.rng.random_range(0..=stream.len());
            stream.break_after(kept);
            let side = 1 - side;
            let cuts = None;
            self.at(
                notice,
                Happening::Lost {
                    session: id,
                    side,
                    cuts,
                },
            );
        }
        self.network.bury(id);
        if side == OPENER {
            let at = self.soon(REOPEN_AFTER).after(REOPEN_AFTER);
            self.at(at, Happening::Dial { pair });
        }
    }

    /// An end learns, from its transport, that the session is over.
    pub fn lost(&mut self, id: u64, side: usize, cuts: Option<u64>) -> Verdict {
        let Some(session) = self.network.session(id) else {
            return Ok(());
        };
        let pair = &self.network.pairs[session.pair];
        let is_past = cuts.is_some_and(|cuts| pair.cuts != cuts || pair.is_whole());
        if session.ends[side] == End::Closed || is_past {
            return Ok(());
        }
        let (node, peer) = (pair.ends[side], pair.ends[1 - side]);
        self.close(id, side, false);
        self.disconnect(node, peer, id)
    }

    fn disconnect(&mut self, node: usize, peer: usize, id: u64) -> Verdict {
        let (now, peer_id) = (self.instant(node), self.nodes[peer].id.clone());
        let this_id = &self.nodes[node].id;
        self.trace
            .note(self.now, || format!("{this_id} lost session {id} with {peer_id}"));
        if let Some(life) = &mut self.nodes[node].life
            && life.links.get(&peer) == Some(&id)
        {
            life.links.remove(&peer);
            life.disconnected(now, &peer_id);
        }
        self.settle(node)
    }

    /// Puts something on its way.
    pub fn post(&mut self, id: u64, side: usize, item: Item) {
        let Some(pair) = self.network.session(id).map(|session| session.pair) else {
            return;
        };
        let due = self.now.after(self.travel(pair));
        if let Some(session) = self.network.session_mut(id) {
            session.streams[side].push(due, item);
        }
        self.expect(id, side, Duration::ZERO);
    }

    /// Sees to it that what is on its way arrives.
    pub fn expect(&mut self, id: u64, side: usize, pause: Duration) {
        let earliest = self.now.after(pause);
        let stream = self
            .network
            .session_mut(id)
            .map(|session| &mut session.streams[side]);
        if let Some(stream) = stream.filter(|stream| !stream.expected)
            && let Some(due) = stream.next_due()
        {
            stream.expected = true;
            self.at(due.max(earliest), Happening::Arrival { session: id, side });
        }
    }

    pub fn arrival(&mut self, id: u64, side: usize) -> Verdict {
        let Some((writer, reader)) = self.ends_of(id, side) else {
            return Ok(());
        };
        let Some(parcel) = self.take_parcel(id, side)? else {
            return Ok(());
        };
        let is_current = self.nodes[reader]
            .life
            .as_ref()
            .is_some_and(|life| life.links.get(&writer) == Some(&id));
        if !is_current {
            return Ok(());
        }
        match parcel.item {
            Item::End => {
                self.close(id, 1 - side, true);
                self.disconnect(reader, writer, id)
            }
            Item::Message(bytes) => self.deliver(reader, writer, &bytes),
            Item::Lie(lie) => self.deliver_lie(reader, writer, lie),
        }
    }

    /// Writer and reader of a stream.
    fn ends_of(&self, id: u64, side: usize) -> Option<(usize, usize)> {
        let session = self.network.session(id)?;
        Some((
            self.network.node_at(session, side),
            self.network.node_at(session, 1 - side),
        ))
    }

    /// Takes the next of what is on its way, if the line lets it through and somebody reads it; its writer may then have
    /// room for more.
    fn take_parcel(&mut self, id: u64, side: usize) -> Result<Option<Parcel>, Violation> {
        let window = self.character.window;
        let Some(session) = self.network.session_mut(id) else {
            return Ok(None);
        };
        let (pair, ends) = (session.pair, session.ends);
        let stream = &mut session.streams[side];
        stream.expected = false;
        if ends[1 - side] == End::Opening {
            self.expect(id, side, A_MOMENT);
            return Ok(None);
        }
        let pair = &self.network.pairs[pair];
        let (is_cut, pace, nodes) = (pair.cut[side], pair.pace[side], pair.ends);
        let session = self.network.session_mut(id).filter(|_| !is_cut);
        let Some(stream) = session.map(|session| &mut session.streams[side]) else {
            return Ok(None);
        };
        let parcel = stream.pop();
        let has_room = stream.blocked && stream.len() < window;
        stream.blocked &= !has_room;
        self.expect(id, side, pace);
        if has_room && ends[side] == End::Open {
            self.make_writable(nodes[side], nodes[1 - side], id)?;
        }
        Ok(parcel.filter(|_| ends[1 - side] == End::Open))
    }

    fn make_writable(&mut self, node: usize, peer: usize, id: u64) -> Verdict {
        let peer_id = self.nodes[peer].id.clone();
        if let Some(life) = &mut self.nodes[node].life
            && life.links.get(&peer) == Some(&id)
        {
            life.writable(&peer_id);
        }
        self.settle(node)
    }

    fn deliver(&mut self, node: usize, peer: usize, bytes: &[u8]) -> Verdict {
        let (now, peer_id) = (self.instant(node), self.nodes[peer].id.clone());
        let message = SyncMessage::decode(bytes).ok();
        let utterances = message
            .as_ref()
            .map_or_else(Vec::new, |m| utterances(m, &peer_id));
        self.oracle.note_message(node, &peer_id, &utterances, now);
        if let Some((origin, part, parts)) = message.as_ref().and_then(|m| part_of(m, &peer_id)) {
            self.oracle.note_part(node, &peer_id, &origin, part, parts);
        }
        if self.nodes[node].is_liar
            && let Some(message) = &message
        {
            self.captured.note(message, &peer_id, &mut self.rng);
        }
        if let Some(life) = &mut self.nodes[node].life {
            life.message(now, &peer_id, message);
            let held = |origin: &GatewayId| {
                let entry = life.catalog().entry(origin);
                entry.map_or(Stamp::NONE, |entry| stamp_of(&entry.record))
            };
            self.oracle.note_taken(node, &utterances, held);
        }
        self.settle(node)
    }

    /// A lie arrives. It must be refused if it breaks a rule, and must not end anyone else's session.
    fn deliver_lie(&mut self, victim: usize, liar: usize, lie: Lie) -> Verdict {
        let Some(told) = self.make_up(victim, liar, lie) else {
            return Ok(());
        };
        let (liar_id, victim_id) = (self.nodes[liar].id.clone(), self.nodes[victim].id.clone());
        self.trace
            .note(self.now, || format!("{liar_id} lies to {victim_id}: {lie:?}"));
        self.counts.lies += 1;
        let others = |world: &Self| -> Vec<usize> {
            let life = world.nodes[victim].life.as_ref();
            let peers = life.into_iter().flat_map(|life| life.links.keys().copied());
            peers.filter(|peer| *peer != liar).collect()
        };
        let before = others(self);
        self.refused_as = None;
        self.deliver(victim, liar, &told.bytes)?;
        if others(self) != before {
            return violation(format!("{lie:?} of {liar_id} ended the sessions of others"));
        }
        let refused_as = self.refused_as.take();
        let is_right = told.refused_as.is_empty()
            || refused_as.is_some_and(|word| word == "hello_expected" || told.refused_as.contains(&word));
        if is_right {
            return Ok(());
        }
        violation(format!(
            "{victim_id} refused {lie:?} of {liar_id} as {refused_as:?} instead of {:?}",
            told.refused_as
        ))
    }

    fn make_up(&mut self, victim: usize, liar: usize, lie: Lie) -> Option<liar::LieMessage> {
        let others = self.nodes.iter().enumerate();
        let third = others
            .filter(|(at, _)| *at != victim && *at != liar)
            .map(|(_, n)| &n.id);
        let third: Vec<_> = third.collect();
        let third = third[self.rng.random_range(0..third.len())];
        let life = self.nodes[victim].life.as_ref()?;
        let session = life.links.get(&liar)?;
        let held = |id: &GatewayId| {
            let entry = life.catalog().entry(id);
            entry.map_or(Stamp::NONE, |entry| stamp_of(&entry.record))
        };
        let liar = &self.nodes[liar].id;
        let scene = Scene {
            liar,
            victim: &self.nodes[victim].id,
            third,
            held: held(liar),
            told: held(liar).max(life.advertised(liar)),
            held_of_third: held(third),
            victim_own: stamp_of(life.own()),
            protocol: life.protocol(liar)?,
            was_asked: self.asked.contains(&(*session, victim, third.zone.clone())),
            captured: &self.captured,
        };
        liar::make_up(lie, &scene, &mut self.rng)
    }
}
