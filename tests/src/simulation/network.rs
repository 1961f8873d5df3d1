//! The network between gateways: pairs that can have a session, sessions as QUIC and gRPC give them, and what is on its
//! way. Within a session and direction, messages arrive in order, or from some point on not at all.
//!
//! It decides nothing: the world draws the times, cuts and heals.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use super::{clock::Moment, liar::Lie};

/// The two ends of a pair: the gateway with the lower id opens sessions, the other accepts.
pub const OPENER: usize = 0;
pub const ACCEPTOR: usize = 1;

/// Two gateways of different zones between which there can be a tunnel.
#[derive(Debug)]
pub struct Pair {
    pub ends: [usize; 2],
    /// Tells whether what this end sends is held up.
    pub cut: [bool; 2],
    /// Grows with every change of `cut`, so that a timer set for one cut does not end the session in the next.
    pub cuts: u64,
    pub latency: Duration,
    /// Least time between two messages that this end sends: a thin or busy line.
    pub pace: [Duration; 2],
}

impl Pair {
    #[must_use]
    pub fn is_whole(&self) -> bool {
        !self.cut[0] && !self.cut[1]
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The session is being set up, and this end does not know of it yet.
    Opening,
    Open,
    Closed,
}

#[derive(Debug, Clone)]
pub enum Item {
    Message(Vec<u8>),
    /// Made up when it arrives, by what hurts the receiver most then.
    Lie(Lie),
    /// The writer closed the session in order.
    End,
}

#[derive(Debug)]
pub struct Parcel {
    pub item: Item,
    due: Moment,
}

/// One direction of a session.
#[derive(Debug, Default)]
pub struct Stream {
    parcels: VecDeque<Parcel>,
    /// Time at which the last of them arrives: nothing overtakes it.
    last_due: Moment,
    /// Tells whether an arrival is in the world's queue.
    pub expected: bool,
    /// Nothing that is written from now on arrives.
    pub broken: bool,
    /// The writer was told to wait.
    pub blocked: bool,
}

impl Stream {
    pub fn push(&mut self, due: Moment, item: Item) {
        let due = due.max(self.last_due);
        self.last_due = due;
        self.parcels.push_back(Parcel { item, due });
    }

    #[must_use]
    pub fn next_due(&self) -> Option<Moment> {
        self.parcels.front().map(|parcel| parcel.due)
    }

    pub fn pop(&mut self) -> Option<Parcel> {
        self.parcels.pop_front()
    }

    /// Breaks the stream after `kept` of the parcels that are on their way.
    pub fn break_after(&mut self, kept: usize) {
        self.parcels.truncate(kept);
        self.broken = true;
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.parcels.len()
    }
}

#[derive(Debug)]
pub struct Session {
    pub pair: usize,
    pub ends: [End; 2],
    /// Life of each gateway that it belongs to.
    pub lives: [u64; 2],
    /// Stream that each end writes.
    pub streams: [Stream; 2],
}

#[derive(Debug, Default)]
pub struct Network {
    pub pairs: Vec<Pair>,
    sessions: BTreeMap<u64, Session>,
    next_session: u64,
}

impl Network {
    #[must_use]
    pub fn pairs_of(&self, node: usize) -> Vec<usize> {
        let mine = self.pairs.iter().enumerate();
        mine.filter(|(_, pair)| pair.ends.contains(&node))
            .map(|(at, _)| at)
            .collect()
    }

    pub fn open(&mut self, pair: usize, lives: [u64; 2]) -> u64 {
        let id = self.next_session;
        self.next_session += 1;
        let session = Session {
            pair,
            ends: [End::Opening; 2],
            lives,
            streams: Default::default(),
        };
        self.sessions.insert(id, session);
        id
    }

    #[must_use]
    pub fn session(&self, id: u64) -> Option<&Session> {
        self.sessions.get(&id)
    }

    pub fn session_mut(&mut self, id: u64) -> Option<&mut Session> {
        self.sessions.get_mut(&id)
    }

    /// Gateway at an end of a session.
    #[must_use]
    pub fn node_at(&self, session: &Session, side: usize) -> usize {
        self.pairs[session.pair].ends[side]
    }

    /// The sessions of a pair that are not over at both ends.
    #[must_use]
    pub fn sessions_of(&self, pair: usize) -> Vec<u64> {
        let all = self.sessions.iter();
        all.filter(|(_, session)| session.pair == pair)
            .map(|(id, _)| *id)
            .collect()
    }

    /// Drops a session that is over at both ends: whatever is still on its way, nobody takes it.
    pub fn bury(&mut self, id: u64) {
        if self.sessions.get(&id).is_some_and(|s| s.ends == [End::Closed; 2]) {
            self.sessions.remove(&id);
        }
    }
}
