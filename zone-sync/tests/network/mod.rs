//! A made-up network of replicas with a clock of its own. It checks after every step that no version goes back and
//! that no record differs from what its origin wrote at that version.

#![allow(dead_code, reason = "each file of tests uses the part that it needs")]

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use causeway_federation::{
    catalog::{Export, Record},
    name::{GatewayId, GatewayName, ServiceName, ZoneName},
    signing::keyed::{KeyedSigner, KeyedVerifier},
};
use causeway_proto::sync::{SyncMessage, sync_message::Body};
use causeway_zone_sync::replica::{LocalChange, Protocols, Replica, ReplicaConfig, ReplicaEvent};
use prost::Message as _;
use rand::{Rng, rngs::SmallRng};

#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// Share of messages that never arrive.
    pub lose: f64,
    pub repeat: f64,
    /// Share of messages that the next one overtakes.
    pub swap: f64,
}

pub fn gateway(index: usize) -> GatewayId {
    GatewayId::new(
        ZoneName::new(&format!("z{index}")).unwrap(),
        GatewayName::new("gw").unwrap(),
    )
}

pub fn zones(indexes: &[usize]) -> BTreeSet<ZoneName> {
    indexes.iter().map(|index| gateway(*index).zone).collect()
}

pub fn export(service: usize, healthy: u32) -> Export {
    Export {
        service: ServiceName::new(&format!("service-{service}")).unwrap(),
        tags: [("version", "v1")].into_iter().collect(),
        instances: 9,
        healthy,
        weight: u64::from(healthy),
        capacity_per_second: None,
    }
}

/// Program that a replica runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// Protocol 1 only.
    Older,
    Present,
    /// Protocol 3, with fields and messages that nobody else knows.
    Newer,
}

pub fn config(index: usize, incarnation: u64, program: Program) -> ReplicaConfig {
    let mut config = ReplicaConfig::new(gateway(index), incarnation, Arc::new(KeyedVerifier::new([7; 32])));
    config.signer = Some(Arc::new(KeyedSigner::new([7; 32], &gateway(index))));
    config.speaks = match program {
        Program::Older => Protocols { oldest: 1, newest: 1 },
        Program::Present => Protocols::default(),
        Program::Newer => Protocols { oldest: 1, newest: 3 },
    };
    if program == Program::Newer {
        config.unknown_fields = [0xf8, 7, 1][..].into();
    }
    config
}

type Stamped = (usize, u64, u64);
/// From whom to whom, and what is done to a message.
type Tamper = ((usize, usize), fn(&mut Body) -> bool);

pub struct Network {
    pub now: Instant,
    replicas: Vec<Replica>,
    incarnations: Vec<u64>,
    programs: Vec<Program>,
    /// In flight from one to another, in order.
    wires: BTreeMap<(usize, usize), VecDeque<SyncMessage>>,
    faults: Faults,
    /// Tells whether ended sessions are opened anew; off where a scenario cuts and connects by hand.
    pub reopens: bool,
    /// Everything that was ever written, for comparison.
    written: BTreeMap<Stamped, Arc<Record>>,
    /// The newest that each replica held of each origin since it started.
    newest: BTreeMap<(usize, usize), (u64, u64)>,
    /// A record that was damaged on purpose is held.
    pub unchecked: bool,
    /// Changes what one tells another; answers whether it did.
    pub tamper: Option<Tamper>,
    pub tampered: usize,
    tap: Option<(usize, usize)>,
    tapped: Vec<SyncMessage>,
    pub events: Vec<(usize, ReplicaEvent)>,
    pub bytes: usize,
    pub messages: usize,
    pub largest: usize,
}

impl Network {
    pub fn new(count: usize, faults: Faults) -> Self {
        Self::of(&vec![Program::Present; count], faults)
    }

    pub fn of(programs: &[Program], faults: Faults) -> Self {
        let now = Instant::now();
        let count = programs.len();
        let replica = |(i, program): (usize, &Program)| Replica::new(now, config(i, 1, *program), []);
        Self {
            now,
            replicas: programs.iter().enumerate().map(replica).collect(),
            incarnations: vec![1; count],
            programs: programs.to_vec(),
            wires: BTreeMap::new(),
            faults,
            reopens: false,
            written: BTreeMap::new(),
            newest: BTreeMap::new(),
            unchecked: false,
            tamper: None,
            tampered: 0,
            tap: None,
            tapped: Vec::new(),
            events: Vec::new(),
            bytes: 0,
            messages: 0,
            largest: 0,
        }
    }

    pub fn replica(&self, at: usize) -> &Replica {
        &self.replicas[at]
    }

    pub fn replica_mut(&mut self, at: usize) -> &mut Replica {
        &mut self.replicas[at]
    }

    pub fn connect(&mut self, a: usize, b: usize) {
        for (from, to) in [(a, b), (b, a)] {
            self.wires.insert((from, to), VecDeque::new());
            self.replicas[from].handle_connected(self.now, gateway(to));
        }
    }

    pub fn connect_all(&mut self) {
        for a in 0..self.replicas.len() {
            for b in a + 1..self.replicas.len() {
                if !self.wires.contains_key(&(a, b)) {
                    self.connect(a, b);
                }
            }
        }
    }

    pub fn cut(&mut self, a: usize, b: usize) {
        for (from, to) in [(a, b), (b, a)] {
            if self.wires.remove(&(from, to)).is_some() {
                self.replicas[from].handle_disconnected(self.now, &gateway(to));
            }
        }
    }

    pub fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
    }

    /// Records what is delivered from one to another, from now on.
    pub fn tap(&mut self, from: usize, to: usize) {
        self.tap = Some((from, to));
        self.tapped.clear();
    }

    pub fn tapped(&self) -> &[SyncMessage] {
        &self.tapped
    }

    fn cut_all(&mut self, at: usize) {
        for other in 0..self.replicas.len() {
            self.cut(at, other);
        }
    }

    /// As after a crash: what was held is restored, the own record begins anew in a later incarnation.
    pub fn restart(&mut self, at: usize, _rng: &mut SmallRng) {
        self.cut_all(at);
        self.incarnations[at] += 1;
        let held: Vec<Record> = self.replicas[at]
            .catalog()
            .entries()
            .map(|e| e.record.as_ref().clone())
            .collect();
        let exports: Vec<Export> = self.replicas[at].own().exports.iter().cloned().collect();
        let incarnation = self.incarnations[at];
        self.replicas[at] = Replica::new(self.now, config(at, incarnation, self.programs[at]), held);
        self.local(at, LocalChange::Exports(exports));
    }

    /// As after the loss of the disk, with a clock that went back.
    pub fn restart_without_memory(&mut self, at: usize, _rng: &mut SmallRng) {
        self.cut_all(at);
        self.replicas[at] = Replica::new(self.now, config(at, 0, self.programs[at]), []);
        self.newest.retain(|(holder, _), _| *holder != at);
    }

    pub fn local(&mut self, at: usize, change: LocalChange) {
        self.replicas[at].handle_local(self.now, change);
        self.note_written(at);
    }

    fn note_written(&mut self, at: usize) {
        let own = self.replicas[at].own().clone();
        self.written.insert((at, own.incarnation, own.version), own);
    }

    pub fn change_exports(&mut self, at: usize, rng: &mut SmallRng) {
        let exports = (0..30).filter_map(|service| {
            let present = rng.random_bool(0.8);
            present.then(|| export(service, rng.random_range(0..9)))
        });
        let exports = exports.collect();
        self.local(at, LocalChange::Exports(exports));
    }

    /// Puts on the wires what the replicas want to send, and does what their events ask for.
    pub fn collect(&mut self) {
        for at in 0..self.replicas.len() {
            while let Some((peer, message)) = self.replicas[at].poll_transmit(self.now) {
                let to = (0..self.replicas.len()).find(|i| gateway(*i) == peer).unwrap();
                self.bytes += message.encoded_len();
                self.largest = self.largest.max(message.encoded_len());
                self.messages += 1;
                if let Some(wire) = self.wires.get_mut(&(at, to)) {
                    wire.push_back(message);
                }
            }
            while let Some(event) = self.replicas[at].poll_event() {
                if let ReplicaEvent::Outdated { incarnation, .. } = &event {
                    self.incarnations[at] = *incarnation;
                    let change = LocalChange::Incarnation(*incarnation);
                    self.local(at, change);
                }
                if let ReplicaEvent::Forgotten { origin } = &event {
                    self.newest
                        .retain(|(holder, of), _| *holder != at || gateway(*of) != *origin);
                }
                self.events.push((at, event));
            }
        }
        self.check();
    }

    /// Delivers everything, faultlessly, until nobody has anything to say; no time passes.
    pub fn settle(&mut self) {
        loop {
            self.collect();
            let next = self
                .wires
                .iter()
                .find(|(_, wire)| !wire.is_empty())
                .map(|(at, _)| *at);
            let Some((from, to)) = next else { return };
            let message = self
                .wires
                .get_mut(&(from, to))
                .and_then(VecDeque::pop_front)
                .unwrap();
            self.deliver(from, to, message);
        }
    }

    fn deliver(&mut self, from: usize, to: usize, mut message: SyncMessage) {
        if let (Some((at, change)), Some(body)) = (self.tamper, &mut message.body)
            && at == (from, to)
        {
            self.tampered += usize::from(change(body));
        }
        if self.tap == Some((from, to)) {
            self.tapped.push(message.clone());
        }
        self.replicas[to].handle_message(self.now, &gateway(from), message);
        self.collect();
    }

    pub fn lose_everything_in_flight(&mut self) {
        self.wires.values_mut().for_each(VecDeque::clear);
    }

    pub fn heal(&mut self) {
        self.faults = Faults::default();
    }

    /// Lets time pass, in steps, with timers and deliveries under the faults. Ended sessions are opened anew.
    pub fn advance(&mut self, time: Duration, rng: &mut SmallRng) {
        let end = self.now + time;
        while self.now < end {
            self.deliver_some(rng);
            let due = self.replicas.iter().filter_map(|r| r.poll_timeout()).min();
            self.now = due.unwrap_or(end).clamp(self.now + Duration::from_millis(1), end);
            for replica in &mut self.replicas {
                if replica.poll_timeout().is_some_and(|due| due <= self.now) {
                    replica.handle_timeout(self.now);
                }
            }
            self.collect();
        }
        self.deliver_some(rng);
        self.reopen(rng);
    }

    fn deliver_some(&mut self, rng: &mut SmallRng) {
        self.collect();
        for _ in 0..2_000 {
            let busy: Vec<_> = self
                .wires
                .iter()
                .filter(|(_, w)| !w.is_empty())
                .map(|(at, _)| *at)
                .collect();
            if busy.is_empty() {
                return;
            }
            let at = busy[rng.random_range(0..busy.len())];
            let Some(wire) = self.wires.get_mut(&at) else {
                continue;
            };
            if wire.len() > 1 && rng.random_bool(self.faults.swap) {
                wire.swap(0, 1);
            }
            let Some(message) = wire.pop_front() else { continue };
            if rng.random_bool(self.faults.repeat) {
                wire.push_back(message.clone());
            }
            if !rng.random_bool(self.faults.lose) {
                self.deliver(at.0, at.1, message);
            }
        }
    }

    fn reopen(&mut self, rng: &mut SmallRng) {
        for a in 0..self.replicas.len() {
            for b in a + 1..self.replicas.len() {
                let up = self.replicas[a].session(&gateway(b)).is_some()
                    && self.replicas[b].session(&gateway(a)).is_some();
                if self.reopens && !up && rng.random_bool(0.5) {
                    self.cut(a, b);
                    self.connect(a, b);
                }
            }
        }
    }

    fn check(&mut self) {
        for at in 0..self.replicas.len() {
            for entry in self.replicas[at].catalog().entries() {
                let record = &entry.record;
                let origin = (0..self.replicas.len())
                    .find(|i| gateway(*i) == record.origin)
                    .unwrap();
                let stamp = (record.incarnation, record.version);
                let newest = self.newest.entry((at, origin)).or_insert(stamp);
                assert!(
                    stamp >= *newest,
                    "{at} went back from {newest:?} to {stamp:?} of {origin}"
                );
                *newest = stamp;
                // Versions in the middle of one local change are not seen from outside.
                if self.unchecked {
                    continue;
                }
                if let Some(written) = self.written.get(&(origin, stamp.0, stamp.1)) {
                    assert_eq!(written, record, "{at} holds what {origin} never wrote");
                }
            }
        }
    }

    pub fn has_converged(&self) -> bool {
        (0..self.replicas.len()).all(|at| {
            (0..self.replicas.len())
                .filter(|origin| *origin != at)
                .all(|origin| {
                    let entry = self.replicas[at].catalog().entry(&gateway(origin));
                    let own = self.replicas[origin].own();
                    entry.map(|e| &e.record) == Some(own) || (entry.is_none() && own.version == 0)
                })
        })
    }

    pub fn describe(&self) -> String {
        let line = |at: usize| {
            let held = self.replicas[at].catalog().entries();
            let held: Vec<_> = held
                .map(|e| {
                    (
                        e.record.origin.to_string(),
                        e.record.incarnation,
                        e.record.version,
                    )
                })
                .collect();
            let own = self.replicas[at].own();
            format!(
                "{} at {}.{} holds {held:?}\n",
                own.origin, own.incarnation, own.version
            )
        };
        let last = self.events.iter().rev().take(8).map(|e| format!("{e:?}\n"));
        (0..self.replicas.len()).map(line).chain(last).collect()
    }
}
