//! One session: what the peer holds of the own record, what is on its way there, and what is due to be sent.

use std::time::Instant;

use causeway_proto::sync::{Ack, Heartbeat, Hello, sync_message::Body};

use super::{
    assembly::Assembly,
    limits::{HEARTBEAT, PROTOCOL, SILENCE},
    own::{OwnRecord, Parts},
    wire::{self, Stamp},
};
use crate::name::GatewayId;

/// What was sent and is not acknowledged. Further changes wait for the acknowledgement, and so gather into one delta.
#[derive(Debug)]
enum InFlight {
    /// A snapshot of which some parts are still to be handed out.
    Parts(Parts),
    /// Everything was handed out.
    Sent,
}

#[derive(Debug)]
pub struct Session {
    pub connected: Instant,
    pub heard: Instant,
    /// Whether the peer's hello has come.
    pub greeted: bool,
    /// The newest own version that the peer holds whole, by its own account.
    pub peer_holds: Stamp,
    /// The newest version that the peer told of its own record in this session.
    pub advertised: Option<Stamp>,
    pub assembly: Assembly,
    pub ack_due: bool,
    /// The transport takes nothing more for now.
    pub blocked: bool,
    hello_sent: bool,
    in_flight: Option<InFlight>,
    heartbeat_due: bool,
    next_heartbeat: Instant,
}

impl Session {
    pub fn new(now: Instant) -> Self {
        Self {
            connected: now,
            heard: now,
            greeted: false,
            peer_holds: Stamp::NONE,
            advertised: None,
            assembly: Assembly::default(),
            ack_due: false,
            blocked: false,
            hello_sent: false,
            in_flight: None,
            heartbeat_due: false,
            next_heartbeat: now + HEARTBEAT,
        }
    }

    /// The next message for this peer, the most urgent first.
    pub fn next_message(
        &mut self,
        now: Instant,
        own: &OwnRecord,
        peer: &GatewayId,
        held: Stamp,
    ) -> Option<Body> {
        if self.blocked {
            return None;
        }
        if !self.hello_sent {
            self.hello_sent = true;
            return Some(Body::Hello(hello(own, peer, held)));
        }
        if self.ack_due {
            self.ack_due = false;
            return Some(Body::Ack(Ack {
                origin: Some(wire::origin_message(peer)),
                incarnation: held.incarnation,
                version: held.version,
            }));
        }
        if !self.greeted {
            return None;
        }
        if let Some(body) = self.next_data(own) {
            self.quiet_from(now);
            return Some(body);
        }
        if self.heartbeat_due {
            self.quiet_from(now);
            return Some(Body::Heartbeat(self.heartbeat(own)));
        }
        None
    }

    fn next_data(&mut self, own: &OwnRecord) -> Option<Body> {
        if let Some(InFlight::Parts(parts)) = &mut self.in_flight {
            if let Some(part) = parts.next_part() {
                return Some(Body::Snapshot(part));
            }
            self.in_flight = Some(InFlight::Sent);
        }
        let newest = own.stamp()?;
        if self.in_flight.is_some() || self.peer_holds >= newest {
            return None;
        }
        if let Some(delta) = own.delta(self.peer_holds) {
            self.in_flight = Some(InFlight::Sent);
            return Some(Body::Delta(delta));
        }
        let mut parts = Parts::new(own.record().clone());
        let first = parts.next_part();
        self.in_flight = Some(InFlight::Parts(parts));
        first.map(Body::Snapshot)
    }

    /// Tells nothing of the own record to a peer that knows more of it than this process: it would see versions go
    /// backwards. A new incarnation ends that.
    fn heartbeat(&self, own: &OwnRecord) -> Heartbeat {
        let newest = own.stamp().filter(|stamp| self.peer_holds <= *stamp);
        let current = newest.map(|stamp| wire::known_message(&own.record().origin, stamp));
        Heartbeat {
            current: current.into_iter().collect(),
        }
    }

    fn quiet_from(&mut self, now: Instant) {
        self.heartbeat_due = false;
        self.next_heartbeat = now + HEARTBEAT;
    }

    /// Takes the peer's word for what it holds. What is in flight and did not arrive is sent again.
    pub fn acknowledged(&mut self, stamp: Stamp) {
        self.peer_holds = stamp;
        let still_going = match &self.in_flight {
            Some(InFlight::Parts(parts)) => stamp < parts.stamp(),
            _ => false,
        };
        if !still_going {
            self.in_flight = None;
        }
    }

    /// Notes a version that the peer told of its own record.
    pub fn advertise(&mut self, stamp: Stamp) {
        self.advertised = self.advertised.max(Some(stamp));
    }

    /// Makes the heartbeat due when its time has come; answers whether there is something to send.
    pub fn tick(&mut self, now: Instant) -> bool {
        if now < self.next_heartbeat {
            return false;
        }
        // Armed anew in any case, so that a blocked session does not keep the timer in the past.
        self.next_heartbeat = now + HEARTBEAT;
        self.heartbeat_due = true;
        true
    }

    pub fn is_silent(&self, now: Instant) -> bool {
        now >= self.heard + SILENCE
    }

    pub fn next_timeout(&self) -> Instant {
        self.next_heartbeat.min(self.heard + SILENCE)
    }
}

/// Names what is held of the one origin that may be told of in this session, and the own record's newest version.
fn hello(own: &OwnRecord, peer: &GatewayId, held: Stamp) -> Hello {
    let origin = &own.record().origin;
    let newest = own.stamp().map(|stamp| wire::known_message(origin, stamp));
    let held = Some(held).filter(|held| *held > Stamp::NONE);
    let held = held.map(|held| wire::known_message(peer, held));
    Hello {
        protocol: PROTOCOL,
        origin: Some(wire::origin_message(origin)),
        known: newest.into_iter().chain(held).collect(),
    }
}
