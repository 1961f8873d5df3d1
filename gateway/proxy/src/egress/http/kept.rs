//! Connections to instances that are kept for one client: those of HTTP/1.1 until a request takes one, and those of HTTP/2 while
//! requests share them. Which of them a request may use is decided here, for each request anew.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use causeway_routing::{
    balance::{InstanceList, takes_traffic, takes_traffic_in_panic},
    permit::Caller,
    route::{Candidate, Destination, ExportCount},
    snapshot::Instance,
    sticky::StickyKey,
};
use parking_lot::Mutex;
use tokio::sync::{Notify, futures::Notified};

use super::{
    shared::SharedUpstream,
    upstream::{HttpUpstream, UpstreamServer},
};
use crate::http::limits::{
    LENT_KEEP_ALIVE, LENT_MAX_AGE, LOCAL_SPREAD, MAX_ALIKE_UPSTREAMS, MAX_IDLE_UPSTREAMS, MAX_OPENING,
    MAX_SHARED_UPSTREAMS, REMOTE_SPREAD, SHARED_KEEP_ALIVE, UPSTREAM_KEEP_ALIVE,
};

/// Connections to instances that one client's requests go out on.
#[derive(Debug, Default)]
pub(super) struct KeptUpstreams {
    state: Mutex<KeptState>,
    /// Wakes requests that wait for a connection that is being opened, or for room on one.
    room: Arc<Notify>,
}

#[derive(Debug, Default)]
struct KeptState {
    /// The client makes requests that may be made once, for which a stream is kept that is ready.
    needs_ready: bool,
    /// Of HTTP/1.1, the one that was used last at the end, and since when none is on it.
    idle: VecDeque<(Instant, HttpUpstream)>,
    shared: Vec<SharedUpstream>,
    /// Places to which connections of HTTP/2 are being opened.
    opening: Vec<Candidate>,
}

/// Request that wants a connection of HTTP/2.
pub(super) struct CallWish<'a> {
    pub(super) candidate: &'a Candidate,
    /// Exports of its gateway now.
    pub(super) exported: Option<ExportCount>,
    pub(super) caller: &'a Arc<Caller>,
    pub(super) key: Option<StickyKey>,
    /// The instance of this zone that was picked for it.
    pub(super) picked: Option<&'a Arc<Instance>>,
    /// Numbers of the instances that come after the others.
    pub(super) avoided: &'a [u64],
    /// Instances of this zone.
    pub(super) list: &'a InstanceList,
    /// Its wait for one that is being opened.
    pub(super) waited: OpeningWait,
}

/// Wait of a request for a connection that is opened for another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OpeningWait {
    NotYet,
    /// Something has come of it.
    Once,
    /// It was as long as it may be.
    Over,
}

/// Answer to such a wish.
pub(super) enum CallChoice<'a> {
    Use(HttpUpstream),
    /// Connections are being opened that it may use.
    Wait,
    /// Their instances take no more requests, and no other connection is to be opened.
    WaitForRoom,
    Open(OpeningUpstream<'a>),
}

/// Place to which a connection is being opened, for as long as it is.
pub(super) struct OpeningUpstream<'a> {
    kept: &'a KeptUpstreams,
    candidate: Candidate,
}

impl KeptUpstreams {
    /// Takes out the connection of HTTP/1.1 that was used last of those that fit.
    pub(super) fn take_idle(&self, fits: impl Fn(&HttpUpstream) -> bool) -> Option<HttpUpstream> {
        let mut state = self.state.lock();
        let place = state.idle.iter().rposition(|(_, upstream)| fits(upstream))?;
        state.idle.remove(place).map(|(_, upstream)| upstream)
    }

    /// The client has made a request that may be made once, and may make another.
    pub(super) fn needs_ready(&self) {
        self.state.lock().needs_ready = true;
    }

    /// Keeps a connection of HTTP/1.1 for the next request. One that the far gateway lends goes back at once if none is expected that
    /// needs it, or it has been used for so long that another instance is to have its turn.
    pub(super) fn lay_by(&self, upstream: HttpUpstream) {
        let mut state = self.state.lock();
        if upstream.facts.is_lent {
            if !state.needs_ready || upstream.facts.opened.elapsed() >= LENT_MAX_AGE {
                return;
            }
            // One is enough for the next request that needs it, and another client may be lent the others.
            let candidate = &upstream.facts.candidate;
            let is_other =
                |one: &HttpUpstream| !one.facts.is_lent || !one.facts.candidate.asks_like(candidate);
            state.idle.retain(|(_, one)| is_other(one));
        }
        state.idle.push_back((Instant::now(), upstream));
        if state.idle.len() > MAX_IDLE_UPSTREAMS {
            state.idle.pop_front();
        }
    }

    /// Chooses how a request comes by a connection of HTTP/2.
    pub(super) fn choose(&self, wish: &CallWish<'_>, now: Instant) -> CallChoice<'_> {
        let mut state = self.state.lock();
        state.shared.retain(|shared| !shared.is_over(now));
        let fitting = || state.shared.iter().filter(|shared| wish.fits(shared));
        let free = || fitting().filter(|shared| !shared.is_full());
        let picked = free().filter(|shared| wish.picked.is_some_and(|picked| shared.serves(picked)));
        if let Some(shared) = least_busy(picked) {
            return CallChoice::Use(shared.call());
        }
        let alike = |candidate: &&Candidate| candidate.asks_like(wish.candidate);
        let opening = state.opening.iter().filter(alike).count();
        let spread = match wish.candidate.place {
            Destination::Local => LOCAL_SPREAD,
            Destination::Remote { .. } => REMOTE_SPREAD,
        };
        let count = fitting().count() + opening;
        let is_spread = count >= spread || opening >= MAX_OPENING;
        // Of those that have just been opened nobody knows yet how many requests they take.
        let coming = opening + fitting().filter(|shared| shared.is_unheard()).count();
        match least_busy(free()) {
            Some(shared) if wish.waited != OpeningWait::NotYet || is_spread => {
                return CallChoice::Use(shared.call());
            }
            None if wish.waited != OpeningWait::Over && coming >= MAX_OPENING => return CallChoice::Wait,
            None if count >= MAX_ALIKE_UPSTREAMS => return CallChoice::WaitForRoom,
            _ => {}
        }
        state.opening.push(wish.candidate.clone());
        CallChoice::Open(OpeningUpstream {
            kept: self,
            candidate: wish.candidate.clone(),
        })
    }

    /// Has the connection shared from here on.
    pub(super) fn share(&self, upstream: SharedUpstream) {
        let mut state = self.state.lock();
        if state.shared.len() >= MAX_SHARED_UPSTREAMS {
            // Its requests go on; it closes after them.
            state.shared.remove(0);
        }
        state.shared.push(upstream);
    }

    /// Gives no further request to a connection that has refused one.
    pub(super) fn forget(&self, upstream: &HttpUpstream) {
        let mut state = self.state.lock();
        state.shared.retain(|shared| !shared.is_that_of(upstream));
    }

    /// Takes up that a request was refused unread on a connection: it is given fewer at once, or none.
    pub(super) fn refused(&self, upstream: &HttpUpstream) {
        let mut state = self.state.lock();
        state
            .shared
            .retain(|shared| !shared.is_that_of(upstream) || shared.refused());
    }

    /// Waits until a connection was opened, or could not be, or one has room.
    pub(super) fn room(&self) -> Notified<'_> {
        self.room.notified()
    }

    /// Word for those who wait.
    pub(super) fn room_to_tell(&self) -> Arc<Notify> {
        self.room.clone()
    }

    /// The next moment at which a connection is to be closed, if nothing changes.
    pub(super) fn due(&self) -> Option<Instant> {
        let state = self.state.lock();
        let idle = state
            .idle
            .iter()
            .map(|(since, one)| *since + keep_alive(one))
            .min();
        let unused = state.shared.iter().filter_map(SharedUpstream::unused_since);
        let unused = unused.map(|since| since + SHARED_KEEP_ALIVE);
        unused.chain(idle).min()
    }

    /// Closes what was unused for too long.
    pub(super) fn close_due(&self, now: Instant) {
        let mut state = self.state.lock();
        state.idle.retain(|(since, one)| *since + keep_alive(one) > now);
        let is_due = |shared: &SharedUpstream| {
            let since = shared.unused_since();
            since.is_some_and(|since| since + SHARED_KEEP_ALIVE <= now)
        };
        state.shared.retain(|shared| !is_due(shared));
    }
}

impl CallWish<'_> {
    fn fits(&self, shared: &SharedUpstream) -> bool {
        let facts = shared.facts();
        facts.candidate.asks_like(self.candidate)
            && facts.caller == *self.caller
            && !self.avoided.contains(&facts.instance)
            && match &facts.server {
                UpstreamServer::Gateway(_) => facts.key == self.key && facts.exported == self.exported,
                UpstreamServer::Instance(_) if self.key.is_some() => {
                    self.picked.is_some_and(|picked| shared.serves(picked))
                }
                UpstreamServer::Instance(_) => {
                    let tags = &self.candidate.tags;
                    self.list.iter().any(|instance| {
                        let takes = match facts.candidate.in_panic {
                            true => takes_traffic_in_panic(instance),
                            false => takes_traffic(instance),
                        };
                        shared.serves(instance) && takes && instance.tags.matches(tags)
                    })
                }
            }
    }
}

/// Longest time that a connection of HTTP/1.1 is kept.
fn keep_alive(upstream: &HttpUpstream) -> Duration {
    match upstream.facts.is_lent {
        true => LENT_KEEP_ALIVE,
        false => UPSTREAM_KEEP_ALIVE,
    }
}

/// The one with the fewest requests; among equals the one that was used longest ago.
fn least_busy<'a>(all: impl Iterator<Item = &'a SharedUpstream>) -> Option<&'a SharedUpstream> {
    all.min_by_key(|shared| (shared.open_calls(), shared.used_at()))
}

impl Drop for OpeningUpstream<'_> {
    fn drop(&mut self) {
        let mut state = self.kept.state.lock();
        if let Some(place) = state
            .opening
            .iter()
            .position(|one| one.asks_like(&self.candidate))
        {
            state.opening.swap_remove(place);
        }
        drop(state);
        self.kept.room.notify_waiters();
    }
}
