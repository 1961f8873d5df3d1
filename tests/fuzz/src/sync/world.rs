//! The replica, its honest peer, and what must hold between them whatever the hostile peer says.
//!
//! The hostile gateway has a key of its own and can sign what it likes with it, so every signature in its name is good here.
//! It can also pass on what the zone `far` once signed, which has a tunnel with nobody else.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use causeway_federation::{
    catalog::{Export, Record},
    edition::Fingerprint,
    name::{GatewayId, GatewayName, ServiceName, ZoneName},
    signing::{
        Credential, Unproven, Verifier,
        keyed::{KeyedSigner, KeyedVerifier},
    },
};
use causeway_proto::sync::SyncMessage;
use causeway_zone_sync::replica::{
    LocalChange, Replica, ReplicaConfig, ReplicaEvent, Stamp,
    limits::{MAX_EXPORTS, MAX_HELD_BYTES, MAX_MESSAGE_BYTES},
};
use prost::Message as _;

use super::{conversation, script::Step};

/// Most messages that two honest replicas exchange before they are quiet; more is a loop.
const MAX_EXCHANGED: usize = 10_000;
const TICK: Duration = Duration::from_millis(50);
/// Time for which the honest ones may take to agree once the hostile peer is silent, in ticks: longer than any pace or repeat.
const TICKS_TO_AGREE: u16 = 250;
const SECRET: [u8; 32] = [7; 32];

pub const HERE: &str = "here";
pub const HONEST: &str = "honest";
pub const HOSTILE: &str = "hostile";
pub const FAR: &str = "far";

pub type Written = BTreeMap<(GatewayId, Stamp), Arc<Record>>;

/// Believes everything that is signed in the hostile gateway's name.
#[derive(Debug)]
struct Gullible(KeyedVerifier);

impl Verifier for Gullible {
    fn verify(
        &self,
        origin: &GatewayId,
        credential: &Credential,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), Unproven> {
        if origin.zone.as_str() == HOSTILE {
            return Ok(());
        }
        self.0.verify(origin, credential, message, signature)
    }
}

pub fn gateway(zone: &str) -> GatewayId {
    let zone = ZoneName::new(zone).expect("a name");
    GatewayId::new(zone, GatewayName::new("gw").expect("a name"))
}

pub fn exports(count: u8, healthy: u8) -> Vec<Export> {
    (0..count)
        .map(|service| Export {
            service: ServiceName::new(&format!("service-{service}")).expect("a name"),
            tags: [("version", "v1")].into_iter().collect(),
            instances: 9,
            healthy: u32::from(healthy % 10),
            weight: u64::from(healthy),
            capacity_per_second: Some(100).filter(|_| service % 2 == 0),
        })
        .collect()
}

/// A replica of this zone that knows all four zones and has a key.
pub fn replica(now: Instant, zone: &str) -> Replica {
    let origin = gateway(zone);
    let verifier = Arc::new(Gullible(KeyedVerifier::new(SECRET)));
    let config = ReplicaConfig {
        signer: Some(Arc::new(KeyedSigner::new(SECRET, &origin))),
        ..ReplicaConfig::new(origin, 1, verifier)
    };
    let mut replica = Replica::new(now, config, []);
    let zones = [HERE, HONEST, HOSTILE, FAR].map(|zone| gateway(zone).zone);
    let change = LocalChange::Topology {
        fingerprint: Fingerprint([3; 32]),
        zones: zones.into(),
    };
    replica.handle_local(now, change);
    replica
}

pub fn stamp(record: &Record) -> Stamp {
    Stamp {
        incarnation: record.incarnation,
        version: record.version,
    }
}

pub struct World {
    now: Instant,
    replica: Replica,
    honest: Replica,
    hostile: GatewayId,
    /// Everything that the honest ones wrote.
    written: Written,
    /// The newest version of each origin that the replica was seen to hold.
    newest: BTreeMap<GatewayId, Stamp>,
}

impl World {
    pub fn new() -> Self {
        static FAR_WROTE: OnceLock<Written> = OnceLock::new();
        let now = Instant::now();
        let mut world = Self {
            now,
            replica: replica(now, HERE),
            honest: replica(now, HONEST),
            hostile: gateway(HOSTILE),
            written: FAR_WROTE.get_or_init(conversation::far_writes).clone(),
            newest: BTreeMap::new(),
        };
        world.change(LocalChange::Exports(exports(3, 3)));
        world
            .honest
            .handle_local(now, LocalChange::Exports(exports(3, 3)));
        world.note_written();
        world.replica.handle_connected(now, gateway(HONEST));
        world.honest.handle_connected(now, gateway(HERE));
        world.reconnect(true);
        world.settle();
        world
    }

    pub fn take(&mut self, step: Step<'_>) {
        match step {
            Step::Message(bytes) => {
                if let Ok(message) = SyncMessage::decode(bytes) {
                    self.replica.handle_message(self.now, &self.hostile, message);
                }
            }
            Step::Wait(ticks) => self.wait(ticks % 256),
            Step::Reconnect { greeting } => self.reconnect(greeting),
            Step::Exports { count, healthy } => self.change(LocalChange::Exports(exports(count, healthy))),
        }
        self.settle();
    }

    /// A change of the replica's own.
    fn change(&mut self, change: LocalChange) {
        self.replica.handle_local(self.now, change);
        self.note_written();
    }

    fn note_written(&mut self) {
        for own in [self.replica.own(), self.honest.own()] {
            self.written.insert((own.origin.clone(), stamp(own)), own.clone());
        }
    }

    fn reconnect(&mut self, greeting: bool) {
        self.replica.handle_connected(self.now, self.hostile.clone());
        if greeting {
            let mut peer = replica(self.now, HOSTILE);
            peer.handle_connected(self.now, gateway(HERE));
            while let Some((_, hello)) = peer.poll_transmit(self.now) {
                self.replica.handle_message(self.now, &self.hostile, hello);
            }
        }
    }

    /// Lets time pass, so that no honest timer is late.
    fn wait(&mut self, ticks: u16) {
        let end = self.now + TICK * u32::from(ticks);
        while self.now < end {
            let due = [self.replica.poll_timeout(), self.honest.poll_timeout()];
            let due = due.into_iter().flatten().min().unwrap_or(end);
            self.now = due.clamp(self.now + TICK, end.max(self.now + TICK));
            self.replica.handle_timeout(self.now);
            self.honest.handle_timeout(self.now);
            self.settle();
        }
    }

    /// Delivers between the honest ones until both are quiet; what the hostile peer is told is only looked at.
    fn settle(&mut self) {
        for _ in 0..MAX_EXCHANGED {
            let said = self.replica.poll_transmit(self.now);
            let heard = self.honest.poll_transmit(self.now);
            if said.is_none() && heard.is_none() {
                if self.look_at_events() {
                    continue;
                }
                return;
            }
            if let Some((peer, message)) = said {
                let message = as_read(&message);
                if peer != self.hostile {
                    self.honest.handle_message(self.now, &gateway(HERE), message);
                }
            }
            if let Some((_, message)) = heard {
                self.replica
                    .handle_message(self.now, &gateway(HONEST), as_read(&message));
            }
        }
        panic!("two honest replicas do not come to rest");
    }

    /// Answers whether there is more to say because of them.
    fn look_at_events(&mut self) -> bool {
        let mut changed = false;
        while let Some(event) = self.replica.poll_event() {
            match event {
                ReplicaEvent::Refused { peer, refusal } => {
                    assert_eq!(peer, self.hostile, "the honest peer was refused: {refusal}");
                }
                ReplicaEvent::RefusedByPeer { peer, reason, .. } => {
                    assert_eq!(peer, self.hostile, "the honest peer refused: {reason}");
                }
                ReplicaEvent::Outdated { incarnation, .. } => {
                    self.change(LocalChange::Incarnation(incarnation));
                    changed = true;
                }
                _ => {}
            }
        }
        while let Some(event) = self.honest.poll_event() {
            if let ReplicaEvent::Outdated { incarnation, .. } = event {
                let change = LocalChange::Incarnation(incarnation);
                self.honest.handle_local(self.now, change);
                self.note_written();
                changed = true;
                continue;
            }
            let fell_out = matches!(
                event,
                ReplicaEvent::Refused { .. }
                    | ReplicaEvent::RefusedByPeer { .. }
                    | ReplicaEvent::RelayRefused { .. }
            );
            assert!(!fell_out, "the honest peer fell out with the replica: {event:?}");
        }
        changed
    }

    pub fn check(&mut self) {
        for holder in [&self.replica, &self.honest] {
            for entry in holder.catalog().entries() {
                self.check_record(&entry.record);
            }
        }
        for entry in self.replica.catalog().entries() {
            let stamp = stamp(&entry.record);
            let newest = self.newest.entry(entry.record.origin.clone()).or_insert(stamp);
            assert!(*newest <= stamp, "{} went back to {stamp:?}", entry.record.origin);
            *newest = stamp;
        }
    }

    fn check_record(&self, record: &Arc<Record>) {
        assert!(record.exports.len() <= MAX_EXPORTS && record.exports.bytes() <= MAX_HELD_BYTES);
        if record.origin.zone == self.hostile.zone {
            return;
        }
        let written = self.written.get(&(record.origin.clone(), stamp(record)));
        assert_eq!(
            written,
            Some(record),
            "{} never wrote what is held of it",
            record.origin
        );
    }

    /// With the hostile peer silent, the honest ones must agree.
    pub fn finish(&mut self) {
        self.wait(TICKS_TO_AGREE);
        self.check();
        let held = self.replica.catalog().entry(&gateway(HONEST));
        let told = self.honest.catalog().entry(&gateway(HERE));
        assert_eq!(held.map(|entry| &entry.record), Some(self.honest.own()));
        assert_eq!(told.map(|entry| &entry.record), Some(self.replica.own()));
    }
}

/// Gives what a reader makes of a message: it must be within the limit, and say the same.
fn as_read(message: &SyncMessage) -> SyncMessage {
    let bytes = message.encode_to_vec();
    assert!(
        bytes.len() <= MAX_MESSAGE_BYTES,
        "a message is too large to be accepted"
    );
    let read = SyncMessage::decode(bytes.as_slice()).expect("an own message can be read");
    assert_eq!(read, *message);
    read
}
