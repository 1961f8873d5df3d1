//! The replica, its honest peer, and what must hold between them whatever the hostile peer says.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use causeway_proto::sync::{SyncMessage, sync_message::Body};
use causeway_zone_sync::{
    catalog::Export,
    name::{GatewayId, GatewayName, ServiceName, ZoneName},
    replica::{
        Ages, Event, LocalChange, Replica, Stamp,
        limits::{MAX_EXPORTS, MAX_HELD_BYTES, MAX_MESSAGE_BYTES},
    },
};
use prost::Message as _;

use super::script::{Step, write_script};

/// Most messages that two honest replicas exchange before they are quiet; more is a loop.
const MAX_EXCHANGED: usize = 10_000;
const TICK: Duration = Duration::from_millis(10);

pub struct World {
    now: Instant,
    replica: Replica,
    honest: Replica,
    hostile: GatewayId,
    /// The newest version of each origin that the replica was seen to hold.
    newest: BTreeMap<GatewayId, Stamp>,
}

fn gateway(zone: &str) -> GatewayId {
    let zone = ZoneName::new(zone).expect("a name");
    GatewayId::new(zone, GatewayName::new("gw").expect("a name"))
}

fn exports(count: u8, healthy: u8) -> Vec<Export> {
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

impl World {
    pub fn new() -> Self {
        let now = Instant::now();
        let replica = |zone| Replica::new(now, gateway(zone), 1, Ages::default(), []);
        let mut world = Self {
            now,
            replica: replica("here"),
            honest: replica("honest"),
            hostile: gateway("hostile"),
            newest: BTreeMap::new(),
        };
        for replica in [&mut world.replica, &mut world.honest] {
            replica.handle_local(now, LocalChange::Exports(exports(3, 3)));
        }
        world.replica.handle_connected(now, gateway("honest"));
        world.honest.handle_connected(now, gateway("here"));
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
            Step::Wait(ticks) => self.wait(ticks),
            Step::Reconnect { greeting } => self.reconnect(greeting),
            Step::Exports { count, healthy } => {
                let change = LocalChange::Exports(exports(count, healthy));
                self.replica.handle_local(self.now, change);
            }
        }
        self.settle();
    }

    fn reconnect(&mut self, greeting: bool) {
        self.replica.handle_connected(self.now, self.hostile.clone());
        if greeting {
            let mut peer = Replica::new(self.now, self.hostile.clone(), 1, Ages::default(), []);
            for hello in greeting_of(&mut peer, self.now) {
                self.replica.handle_message(self.now, &self.hostile, hello);
            }
        }
    }

    /// Lets time pass, so that no honest timer is late.
    fn wait(&mut self, ticks: u16) {
        let end = self.now + TICK * u32::from(ticks % 1024);
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
                return self.look_at_events();
            }
            if let Some((peer, message)) = said {
                let message = as_read(&message);
                if peer != self.hostile {
                    self.honest.handle_message(self.now, &gateway("here"), message);
                }
            }
            if let Some((_, message)) = heard {
                self.replica
                    .handle_message(self.now, &gateway("honest"), as_read(&message));
            }
        }
        panic!("two honest replicas do not come to rest");
    }

    fn look_at_events(&mut self) {
        while let Some(event) = self.replica.poll_event() {
            match event {
                Event::Refused { peer, refusal } => {
                    assert_eq!(peer, self.hostile, "the honest peer was refused: {refusal}");
                }
                Event::RefusedByPeer { peer, reason, .. } => {
                    assert_eq!(peer, self.hostile, "the honest peer refused: {reason}");
                }
                // As the service does it.
                Event::Outdated { incarnation, .. } => {
                    let change = LocalChange::Incarnation(incarnation);
                    self.replica.handle_local(self.now, change);
                }
                _ => {}
            }
        }
        while let Some(event) = self.honest.poll_event() {
            let fell_out = matches!(event, Event::Refused { .. } | Event::RefusedByPeer { .. });
            assert!(!fell_out, "the honest peer fell out with the replica: {event:?}");
        }
    }

    pub fn check(&mut self) {
        self.settle();
        let honest = gateway("honest");
        for entry in self.replica.catalog().entries() {
            let record = &entry.record;
            assert!(
                record.origin == honest || record.origin == self.hostile,
                "the hostile peer made up the origin {}",
                record.origin
            );
            assert!(record.exports.len() <= MAX_EXPORTS && record.exports.bytes() <= MAX_HELD_BYTES);
            let stamp = Stamp {
                incarnation: record.incarnation,
                version: record.version,
            };
            let newest = self.newest.entry(record.origin.clone()).or_insert(stamp);
            assert!(*newest <= stamp, "{} went back to {stamp:?}", record.origin);
            *newest = stamp;
        }
        let held = self
            .replica
            .catalog()
            .entry(&honest)
            .expect("the honest peer is known");
        assert_eq!(
            held.record,
            *self.honest.own(),
            "the honest peer's record was changed"
        );
        let told = self
            .honest
            .catalog()
            .entry(&gateway("here"))
            .expect("the replica is known");
        assert_eq!(
            told.record,
            *self.replica.own(),
            "the honest peer was told something else"
        );
    }
}

/// What a reader makes of a message: it must be within the limit, and say the same.
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

/// The first messages of a session that `peer` opens.
fn greeting_of(peer: &mut Replica, now: Instant) -> Vec<SyncMessage> {
    peer.handle_connected(now, gateway("here"));
    std::iter::from_fn(|| peer.poll_transmit(now))
        .map(|(_, message)| message)
        .collect()
}

/// What an honest peer in the hostile one's place would have said: a whole life of messages, of which fuzzing makes others.
pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let conversation = conversation();
    let message = |bytes: &Vec<u8>| write_script(&[Step::Message(bytes)]);
    let steps: Vec<_> = conversation.iter().map(|bytes| Step::Message(bytes)).collect();
    let mut seeds = vec![
        ("conversation".to_owned(), write_script(&steps)),
        (
            "no-greeting".to_owned(),
            write_script(&[&[Step::Reconnect { greeting: false }], steps.as_slice()].concat()),
        ),
        (
            "local".to_owned(),
            write_script(&[
                Step::Exports {
                    count: 200,
                    healthy: 1,
                },
                Step::Wait(150),
                Step::Exports { count: 7, healthy: 9 },
                Step::Reconnect { greeting: true },
                Step::Wait(700),
            ]),
        ),
    ];
    let numbered = conversation.iter().enumerate();
    seeds.extend(numbered.map(|(i, bytes)| (format!("message-{i:02}"), message(bytes))));
    seeds
}

/// Everything that a peer says over some changes, restarts and heartbeats, in order.
fn conversation() -> Vec<Vec<u8>> {
    let mut world = World::new();
    let mut peer = Replica::new(world.now, world.hostile.clone(), 1, Ages::default(), []);
    world.replica.handle_connected(world.now, world.hostile.clone());
    peer.handle_connected(world.now, gateway("here"));
    let mut said = Vec::new();
    let changes = [
        LocalChange::Exports(exports(4, 4)),
        LocalChange::Exports(exports(4, 3)),
        LocalChange::Exports(exports(2, 3)),
        LocalChange::Draining(true),
        LocalChange::Incarnation(5),
        LocalChange::Exports(exports(5, 1)),
    ];
    for change in changes {
        peer.handle_local(world.now, change);
        exchange(&mut world, &mut peer, &mut said);
        world.now += Duration::from_millis(1_100);
        peer.handle_timeout(world.now);
        world.replica.handle_timeout(world.now);
    }
    said
}

fn exchange(world: &mut World, peer: &mut Replica, said: &mut Vec<Vec<u8>>) {
    loop {
        let outward = peer.poll_transmit(world.now);
        let inward = world.replica.poll_transmit(world.now);
        if outward.is_none() && inward.is_none() {
            return;
        }
        if let Some((_, message)) = outward {
            said.push(message.encode_to_vec());
            world.replica.handle_message(world.now, &world.hostile, message);
        }
        if let Some((to, message)) = inward
            && matches!(message.body, Some(Body::Refused(_))) | (to == world.hostile)
        {
            peer.handle_message(world.now, &gateway("here"), message);
        }
    }
}
