//! One simulated gateway: the production `Replica`, and around it what its tokio shell and its disk would do. This is
//! the one file that builds and drives a `Replica`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use causeway_federation::{
    catalog::{Age, Catalog, Export, Record},
    edition::Fingerprint,
    name::{GatewayId, ZoneName},
    signing::keyed::{KeyedSigner, KeyedVerifier},
};
use causeway_proto::sync::SyncMessage;
use causeway_zone_sync::replica::{
    Ages, LocalChange, Protocols, Replica, ReplicaConfig, ReplicaEvent, Stamp, SyncRefusal, limits::PROTOCOL,
};

use super::{
    clock::{Clock, Moment},
    world::Happening,
};

/// Content of the store: the whole of one moment.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    pub incarnation: u64,
    pub records: Vec<Arc<Record>>,
}

/// The topology that a gateway runs: a number that stands for its content, and its zones.
#[derive(Debug, Clone, Default)]
pub struct Topology {
    pub number: u8,
    pub zones: BTreeSet<ZoneName>,
}

/// State that a gateway starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// State that was last written to the disk.
    Disk,
    /// A copy of the disk from some time ago.
    OldDisk,
    /// Nothing: the disk was lost.
    NoDisk,
}

#[derive(Debug)]
pub struct Node {
    pub id: GatewayId,
    pub zone: usize,
    pub clock: Clock,
    pub disk: Disk,
    /// Earlier contents of the disk, of which a restart may be given one.
    pub copies: Vec<Disk>,
    pub life: Option<Life>,
    pub lives: u64,
    pub topology: Topology,
    pub draining: bool,
    /// Nothing runs here before then: a stopped process, a suspended machine.
    pub frozen_until: Moment,
    /// Events that happened to it meanwhile.
    pub held_up: Vec<Happening>,
    pub is_liar: bool,
    /// The newest protocol that its program speaks.
    pub speaks: u32,
}

/// One run of the process.
#[derive(Debug)]
pub struct Life {
    pub number: u64,
    /// The session with each peer that counts, by the peer's place among the nodes.
    pub links: BTreeMap<usize, u64>,
    /// Time at which the replica's timer is set to go off.
    pub wake: Option<Moment>,
    /// State that a write under way will leave on the disk.
    pub saving: Option<Disk>,
    pub dirty: bool,
    /// An incarnation that may be used once it is on the disk.
    pub awaited: Option<u64>,
    pub incarnation: u64,
    replica: Replica,
}

/// Secret that every signature of a run is made with.
const SECRET: [u8; 32] = [7; 32];
/// Field 1000 with the value 1, as only a newer program would write it.
pub const UNKNOWN_FIELDS: [u8; 3] = [0xc0, 0x3e, 0x01];

pub fn stamp_of(record: &Record) -> Stamp {
    Stamp {
        incarnation: record.incarnation,
        version: record.version,
    }
}

impl Node {
    /// Starts the process as its shell does: a new incarnation is on the disk before it is used.
    pub fn start(&mut self, now: Moment, ages: Ages) {
        let incarnation = self.clock.wall(now).max(self.disk.incarnation) + 1;
        self.disk.incarnation = incarnation;
        self.lives += 1;
        let restored = self.disk.records.iter().map(|record| record.as_ref().clone());
        let config = ReplicaConfig {
            ages,
            signer: Some(Arc::new(KeyedSigner::new(SECRET, &self.id))),
            speaks: Protocols {
                oldest: 1,
                newest: self.speaks,
            },
            unknown_fields: if self.speaks > PROTOCOL {
                UNKNOWN_FIELDS.into()
            } else {
                Arc::default()
            },
            ..ReplicaConfig::new(self.id.clone(), incarnation, Arc::new(KeyedVerifier::new(SECRET)))
        };
        let replica = Replica::new(self.clock.instant(now), config, restored);
        self.life = Some(Life {
            number: self.lives,
            links: BTreeMap::new(),
            wake: None,
            saving: None,
            dirty: false,
            awaited: None,
            incarnation,
            replica,
        });
    }

    /// The life that this number stands for, if it still goes on.
    pub fn life_mut(&mut self, number: u64) -> Option<&mut Life> {
        self.life.as_mut().filter(|life| life.number == number)
    }

    #[must_use]
    pub fn life_number(&self) -> Option<u64> {
        self.life.as_ref().map(|life| life.number)
    }

    #[must_use]
    pub fn instant(&self, now: Moment) -> Instant {
        self.clock.instant(now)
    }

    pub fn topology_change(&self) -> LocalChange {
        LocalChange::Topology {
            fingerprint: Fingerprint([self.topology.number; 32]),
            zones: self.topology.zones.clone(),
        }
    }
}

impl Life {
    pub fn local(&mut self, now: Instant, change: LocalChange) {
        self.replica.handle_local(now, change);
    }

    pub fn set_exports(&mut self, now: Instant, exports: Vec<Export>) {
        self.local(now, LocalChange::Exports(exports));
    }

    pub fn connected(&mut self, now: Instant, peer: GatewayId) {
        self.replica.handle_connected(now, peer);
    }

    pub fn disconnected(&mut self, now: Instant, peer: &GatewayId) {
        self.replica.handle_disconnected(now, peer);
    }

    /// Takes what came off the wire, as the transport does: bytes that are no message (`None`) end the session.
    pub fn message(&mut self, now: Instant, peer: &GatewayId, message: Option<SyncMessage>) {
        match message {
            Some(message) => self.replica.handle_message(now, peer, message),
            None => {
                let refusal = SyncRefusal::Malformed("it cannot be decoded");
                self.replica.handle_broken(now, peer, refusal);
            }
        }
    }

    /// Protocol that is spoken with a peer.
    #[must_use]
    pub fn protocol(&self, peer: &GatewayId) -> Option<u32> {
        self.replica.session(peer)?.protocol
    }

    /// The newest version of its own record that a peer told of in this session.
    #[must_use]
    pub fn advertised(&self, peer: &GatewayId) -> Stamp {
        let session = self.replica.session(peer);
        session
            .and_then(|session| session.advertised)
            .unwrap_or(Stamp::NONE)
    }

    pub fn timeout(&mut self, now: Instant) {
        self.replica.handle_timeout(now);
    }

    pub fn next_timeout(&self) -> Option<Instant> {
        self.replica.poll_timeout()
    }

    pub fn transmit(&mut self, now: Instant) -> Option<(GatewayId, SyncMessage)> {
        self.replica.poll_transmit(now)
    }

    pub fn event(&mut self) -> Option<ReplicaEvent> {
        self.replica.poll_event()
    }

    pub fn blocked(&mut self, peer: &GatewayId) {
        self.replica.handle_blocked(peer);
    }

    pub fn writable(&mut self, peer: &GatewayId) {
        self.replica.handle_writable(peer);
    }

    #[must_use]
    pub fn catalog(&self) -> &Arc<Catalog> {
        self.replica.catalog()
    }

    #[must_use]
    pub fn own(&self) -> &Arc<Record> {
        self.replica.own()
    }

    /// State that the store would be given now: a withdrawn record is not worth storing.
    #[must_use]
    pub fn worth_storing(&self) -> Disk {
        let entries = self.replica.catalog().entries();
        let believed = entries.filter(|entry| entry.age != Age::Withdrawn);
        Disk {
            incarnation: self.incarnation,
            records: believed.map(|entry| entry.record.clone()).collect(),
        }
    }
}
