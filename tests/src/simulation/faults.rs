//! Everything that changes and everything that goes wrong in a run, a step at a time.

use std::time::Duration;

use causeway_federation::name::ZoneName;
use causeway_zone_sync::replica::LocalChange;
use rand::Rng;

use super::{
    clock::{Moment, RIGHT_RATE},
    liar::Lie,
    network::{End, Item},
    node::Start,
    oracle::Verdict,
    world::{Happening, World},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Register,
    Deregister,
    Flap,
    Bulk,
    Drain,
    /// A pair of gateways no longer reaches each other, or only one the other.
    Cut,
    CutOneWay,
    /// The same for all pairs of a zone.
    CutZone,
    /// A session dies, with what is on its way cut off anywhere.
    BreakSession,
    Crash,
    /// A crash after which the disk is an old copy, or gone, perhaps with a clock that was put back.
    LoseDisk,
    SetWallClock,
    LeapClock,
    ChangeRate,
    /// A gateway stops for a while, and then goes on.
    Freeze,
    /// A line becomes so thin that its writer has to wait.
    Slow,
    RemoveZone,
    ReturnZone,
    /// Nothing happens for long enough that ages pass.
    Wait,
    Lie,
}

/// Longest that a cut or a freeze lasts.
const LONGEST_OUTAGE: Duration = Duration::from_secs(25);
/// Longest that a gateway is down.
const LONGEST_DOWNTIME: Duration = Duration::from_secs(15);
/// Longest until a new topology has reached a gateway.
const SPREADING: Duration = Duration::from_secs(3);
const HOUR_MILLISECONDS: i64 = 3_600_000;

impl Fault {
    /// Each with how common it is, before a seed makes it more or less so.
    pub const ALL: [(Self, u32); 20] = [
        (Self::Register, 20),
        (Self::Deregister, 10),
        (Self::Flap, 30),
        (Self::Bulk, 1),
        (Self::Drain, 4),
        (Self::Cut, 8),
        (Self::CutOneWay, 6),
        (Self::CutZone, 3),
        (Self::BreakSession, 10),
        (Self::Crash, 5),
        (Self::LoseDisk, 2),
        (Self::SetWallClock, 2),
        (Self::LeapClock, 2),
        (Self::ChangeRate, 2),
        (Self::Freeze, 3),
        (Self::Slow, 5),
        (Self::RemoveZone, 2),
        (Self::ReturnZone, 4),
        (Self::Wait, 2),
        (Self::Lie, 20),
    ];

    /// Tells whether it is something that happens in a federation where all is well.
    #[must_use]
    pub fn is_change(self) -> bool {
        matches!(self, Self::Register | Self::Deregister | Self::Flap)
    }
}

impl World {
    /// Draws and carries out the next fault, or ends them all.
    pub fn step(&mut self) -> Verdict {
        if self.steps_left == 0 {
            return self.heal();
        }
        self.steps_left -= 1;
        let fault = self.draw_fault();
        self.trace.note(self.now, || format!("* {fault:?}"));
        let pause = self.pause(fault);
        self.after(pause, Happening::Step);
        self.carry_out(fault)
    }

    fn draw_fault(&mut self) -> Fault {
        let weights = &self.character.weights;
        let sum: u32 = weights.iter().map(|(_, weight)| weight).sum();
        let mut left = self.rng.random_range(0..sum);
        for (fault, weight) in weights {
            if left < *weight {
                return *fault;
            }
            left -= weight;
        }
        Fault::Flap
    }

    fn pause(&mut self, fault: Fault) -> Duration {
        if fault != Fault::Wait {
            return self.character.gap.mul_f64(self.rng.random_range(0.0..2.0));
        }
        let ages = self.character.ages;
        let longest = if self.network.pairs.len() <= 10 && ages.withdrawn < Duration::from_secs(60) {
            ages.withdrawn * 2
        } else {
            ages.fresh * 3
        };
        longest.mul_f64(self.rng.random())
    }

    fn carry_out(&mut self, fault: Fault) -> Verdict {
        let node = self.rng.random_range(0..self.nodes.len());
        let zone = self.nodes[node].zone;
        match fault {
            Fault::Register | Fault::Deregister | Fault::Flap | Fault::Bulk => {
                self.change_services(zone, fault)
            }
            Fault::Drain => return self.drain(node),
            Fault::Cut | Fault::CutOneWay | Fault::CutZone => self.cut_some(zone, fault),
            Fault::BreakSession => self.break_session(),
            Fault::Crash | Fault::LoseDisk => self.crash_and_restart(node, fault),
            Fault::SetWallClock | Fault::LeapClock | Fault::ChangeRate => {
                self.disturb_clock(node, fault);
                return self.wake_now(node);
            }
            Fault::Freeze => {
                let until = self.soon(LONGEST_OUTAGE);
                let frozen = &mut self.nodes[node].frozen_until;
                *frozen = until.max(*frozen);
                self.at(until, Happening::Thaw { node });
            }
            Fault::Slow => self.slow_down(),
            Fault::RemoveZone | Fault::ReturnZone => self.change_topology(zone, fault),
            Fault::Wait => {}
            Fault::Lie => self.lie(),
        }
        Ok(())
    }

    fn change_services(&mut self, zone: usize, fault: Fault) {
        let (services, rng) = (&mut self.services[zone], &mut self.rng);
        match fault {
            Fault::Register => services.register(rng),
            Fault::Deregister => services.deregister(rng),
            Fault::Bulk => services.bulk(rng),
            _ => services.flap(rng),
        }
        self.tell_exports(zone);
    }

    /// Each gateway of a zone learns of its exports a little apart.
    pub fn tell_exports(&mut self, zone: usize) {
        for node in 0..self.nodes.len() {
            let life = self.nodes[node].life_number();
            if let Some(life) = life.filter(|_| self.nodes[node].zone == zone) {
                let at = self.soon(self.character.lateness);
                self.at(at, Happening::Exports { node, life });
            }
        }
    }

    fn drain(&mut self, node: usize) -> Verdict {
        let draining = !self.nodes[node].draining;
        self.nodes[node].draining = draining;
        if self.nodes[node].frozen_until > self.now {
            return Ok(());
        }
        self.local(node, LocalChange::Draining(draining))
    }

    fn any_pair(&mut self) -> usize {
        self.rng.random_range(0..self.network.pairs.len())
    }

    fn cut_some(&mut self, zone: usize, fault: Fault) {
        if fault == Fault::CutZone {
            let nodes = self
                .nodes
                .iter()
                .enumerate()
                .filter(|(_, node)| node.zone == zone);
            let nodes: Vec<_> = nodes.map(|(at, _)| at).collect();
            let until = self.soon(LONGEST_OUTAGE);
            let pairs = nodes.into_iter().flat_map(|node| self.network.pairs_of(node));
            for pair in pairs.collect::<Vec<_>>() {
                (0..2).for_each(|side| self.cut(pair, side, until));
            }
            return;
        }
        let (pair, until) = (self.any_pair(), self.soon(LONGEST_OUTAGE));
        let only = self.rng.random_range(0..2);
        for side in 0..2 {
            if fault == Fault::Cut || side == only {
                self.cut(pair, side, until);
            }
        }
    }

    fn cut(&mut self, pair: usize, side: usize, until: Moment) {
        let at = &mut self.network.pairs[pair];
        at.cut[side] = true;
        at.cuts += 1;
        let (cuts, ends) = (Some(at.cuts), at.ends);
        let (from, to) = (&self.nodes[ends[side]].id, &self.nodes[ends[1 - side]].id);
        self.trace.note(self.now, || {
            format!("{from} no longer reaches {to} until {until}")
        });
        for session in self.network.sessions_of(pair) {
            for side in 0..2 {
                let notice = self.soon(self.character.notice);
                self.at(notice, Happening::Lost { session, side, cuts });
            }
        }
        self.at(until, Happening::Uncut { pair, side });
    }

    pub fn uncut(&mut self, pair: usize, side: usize) {
        let at = &mut self.network.pairs[pair];
        at.cut[side] = false;
        at.cuts += 1;
        for session in self.network.sessions_of(pair) {
            self.expect(session, side, Duration::ZERO);
        }
    }

    fn break_session(&mut self) {
        let pair = self.any_pair();
        let notices = [self.soon(self.character.notice), self.soon(self.character.notice)];
        for id in self.network.sessions_of(pair) {
            let Some(session) = self.network.session_mut(id) else {
                continue;
            };
            for stream in &mut session.streams {
                let kept = self.rng.random_range(0..=stream.len());
                stream.break_after(kept);
            }
            for (side, notice) in notices.into_iter().enumerate() {
                let (session, cuts) = (id, None);
                self.at(notice, Happening::Lost { session, side, cuts });
            }
        }
    }

    fn crash_and_restart(&mut self, node: usize, fault: Fault) {
        self.crash(node);
        let start = match fault {
            Fault::Crash => Start::Disk,
            _ if self.rng.random_bool(0.5) => Start::OldDisk,
            _ => Start::NoDisk,
        };
        if start != Start::Disk {
            let back = self.rng.random_range(-HOUR_MILLISECONDS..=HOUR_MILLISECONDS);
            if self.rng.random_bool(0.5) {
                self.nodes[node].clock.set_wall_offset(back);
            }
            self.oracle.note_forgetful(&self.nodes[node].id);
        }
        // Some stay away until everything heals.
        if start != Start::Disk || self.rng.random_bool(0.8) {
            let at = self.soon(LONGEST_DOWNTIME);
            self.at(at, Happening::Start { node, start });
        }
    }

    fn crash(&mut self, node: usize) {
        let id = &self.nodes[node].id;
        self.trace.note(self.now, || format!("{id} is killed"));
        self.nodes[node].life = None;
        self.nodes[node].frozen_until = self.now;
        self.thaw(node);
        for pair in self.network.pairs_of(node) {
            for session in self.network.sessions_of(pair) {
                let at = self.network.session(session);
                let Some(at) = at else { continue };
                let side = usize::from(self.network.node_at(at, 0) != node);
                if at.ends[side] != End::Closed {
                    self.close(session, side, false);
                }
            }
        }
    }

    fn disturb_clock(&mut self, node: usize, fault: Fault) {
        let drift = self.character.drift;
        let off = self.rng.random_range(0..=2 * drift);
        let leap = Duration::from_secs(20).mul_f64(self.rng.random());
        let hours = self.rng.random_range(-HOUR_MILLISECONDS..=HOUR_MILLISECONDS);
        let clock = &mut self.nodes[node].clock;
        match fault {
            Fault::SetWallClock => clock.set_wall_offset(hours),
            Fault::LeapClock => clock.leap(self.now, leap),
            _ => clock.set_rate(self.now, RIGHT_RATE + off - drift),
        }
    }

    fn slow_down(&mut self) {
        let (pair, side) = (self.any_pair(), self.rng.random_range(0..2));
        let pace = Duration::from_millis(self.rng.random_range(0..400));
        self.network.pairs[pair].pace[side] = pace;
    }

    fn change_topology(&mut self, zone: usize, fault: Fault) {
        let of = |world: &Self, zone: usize| -> Vec<ZoneName> {
            let nodes = world.nodes.iter().filter(|node| node.zone == zone);
            nodes.map(|node| node.id.zone.clone()).collect()
        };
        if fault == Fault::RemoveZone {
            for name in of(self, zone) {
                self.topology.zones.remove(&name);
            }
        } else {
            for zone in 0..self.services.len() {
                let names = of(self, zone);
                self.topology.zones.extend(names);
            }
        }
        self.topology.number = self.topology.number.wrapping_add(1).max(1);
        self.spread_topology(SPREADING);
    }

    pub fn spread_topology(&mut self, within: Duration) {
        for node in 0..self.nodes.len() {
            let at = self.soon(within);
            self.at(at, Happening::Topology { node });
        }
    }

    /// A liar slips a lie into one of its sessions.
    fn lie(&mut self) {
        let lie = Lie::ALL[self.rng.random_range(0..Lie::ALL.len())];
        let liars = self.nodes.iter().enumerate().filter(|(_, node)| node.is_liar);
        let mut sessions = Vec::new();
        for (at, node) in liars {
            let links = node.life.iter().flat_map(|life| &life.links);
            sessions.extend(links.map(|(_, id)| (at, *id)));
        }
        if sessions.is_empty() {
            return;
        }
        let (liar, id) = sessions[self.rng.random_range(0..sessions.len())];
        let Some(session) = self.network.session(id) else {
            return;
        };
        let side = usize::from(self.network.node_at(session, 0) != liar);
        if !session.streams[side].broken {
            self.post(id, side, Item::Lie(lie));
        }
    }
}
