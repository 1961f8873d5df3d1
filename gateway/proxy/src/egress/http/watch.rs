//! The state of a client's connection between bytes: what is awaited of it, since when, and what is due.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::http::limits::{FIRST_BYTE_TIMEOUT, HEAD_TIMEOUT, KEEP_ALIVE, UPSTREAM_KEEP_ALIVE};

/// State that the connection's task, its socket and its requests share.
#[derive(Debug)]
pub(super) struct ClientWatch {
    state: Mutex<WatchState>,
    changed: Notify,
}

/// Part of the exchange that a connection is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClientPhase {
    /// Nothing has come of the next request.
    Waiting,
    /// A part of its head has come.
    Head,
    /// A request is under way.
    Request,
}

/// Act that is due because of time alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// The connection to the instance is kept no longer.
    CloseUpstream,
    /// The client's connection is closed.
    Close,
    /// Nothing has moved for as long as the service allows.
    Idle,
    /// A shutdown is to be looked at again.
    Nothing,
}

#[derive(Debug, Clone, Copy)]
struct WatchState {
    phase: ClientPhase,
    since: Instant,
    /// Last time that a byte came or went.
    moved_at: Instant,
    requests: u64,
    upstream_kept: bool,
    /// The client takes nothing of what was written.
    is_stalled: bool,
}

impl WatchState {
    /// The next moment at which something is due, if nothing changes, and what.
    fn due(&self, idle: Option<Duration>) -> Option<(Instant, Due)> {
        let idle = idle.map(|limit| (self.moved_at + limit, Due::Idle));
        let own = match self.phase {
            ClientPhase::Waiting if self.upstream_kept => {
                Some((self.since + UPSTREAM_KEEP_ALIVE, Due::CloseUpstream))
            }
            ClientPhase::Waiting if self.requests == 0 => Some((self.since + FIRST_BYTE_TIMEOUT, Due::Close)),
            ClientPhase::Waiting => Some((self.since + KEEP_ALIVE, Due::Close)),
            ClientPhase::Head => Some((self.since + HEAD_TIMEOUT, Due::Close)),
            ClientPhase::Request => None,
        };
        own.into_iter().chain(idle).min_by_key(|(at, _)| *at)
    }
}

impl ClientWatch {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            state: Mutex::new(WatchState {
                phase: ClientPhase::Waiting,
                since: now,
                moved_at: now,
                requests: 0,
                upstream_kept: false,
                is_stalled: false,
            }),
            changed: Notify::new(),
        }
    }

    /// Bytes have come from the client.
    pub(super) fn read(&self) {
        let mut state = self.state.lock();
        state.moved_at = Instant::now();
        if state.phase == ClientPhase::Waiting {
            (state.phase, state.since) = (ClientPhase::Head, state.moved_at);
            self.changed.notify_one();
        }
    }

    /// Bytes have gone to the client.
    pub(super) fn moved(&self) {
        self.state.lock().moved_at = Instant::now();
    }

    /// Last time that a byte came or went.
    pub(super) fn moved_at(&self) -> Instant {
        self.state.lock().moved_at
    }

    /// Has the connection's task look at it again.
    pub(super) fn wake(&self) {
        self.changed.notify_one();
    }

    /// The client has taken nothing for as long as is allowed.
    pub(super) fn stalled(&self) {
        self.state.lock().is_stalled = true;
    }

    pub(super) fn is_stalled(&self) -> bool {
        self.state.lock().is_stalled
    }

    pub(super) fn request_began(&self) {
        let mut state = self.state.lock();
        (state.phase, state.since) = (ClientPhase::Request, Instant::now());
        state.requests += 1;
        self.changed.notify_one();
    }

    /// A head that has not come in time is about to be answered.
    pub(super) fn head_refused(&self) {
        let mut state = self.state.lock();
        (state.phase, state.since) = (ClientPhase::Request, Instant::now());
    }

    pub(super) fn request_ended(&self, upstream_kept: bool) {
        let mut state = self.state.lock();
        (state.phase, state.since) = (ClientPhase::Waiting, Instant::now());
        state.upstream_kept = upstream_kept;
        self.changed.notify_one();
    }

    pub(super) fn upstream_closed(&self) {
        self.state.lock().upstream_kept = false;
    }

    /// Waits until what is due may have changed.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// The next moment at which something is due, if nothing changes, and what. `idle` is the service's limit.
    pub(super) fn due(&self, idle: Option<Duration>) -> Option<(Instant, Due)> {
        self.state.lock().due(idle)
    }

    /// Tells whether a shutdown may close the connection after the request at hand, or now if it has had one and there is none.
    pub(super) fn may_drain(&self) -> bool {
        let state = self.state.lock();
        match state.phase {
            ClientPhase::Waiting => state.requests > 0,
            ClientPhase::Head => false,
            ClientPhase::Request => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(phase: ClientPhase, upstream_kept: bool, now: Instant) -> WatchState {
        WatchState {
            phase,
            since: now,
            moved_at: now,
            requests: 1,
            upstream_kept,
            is_stalled: false,
        }
    }

    #[test]
    fn each_part_of_an_exchange_has_its_limit_and_a_request_that_of_its_service() {
        let now = Instant::now();
        let due = |phase, kept, idle| state(phase, kept, now).due(idle);
        let second = Duration::from_secs(1);
        assert_eq!(
            due(ClientPhase::Waiting, true, None),
            Some((now + UPSTREAM_KEEP_ALIVE, Due::CloseUpstream))
        );
        assert_eq!(
            due(ClientPhase::Waiting, false, None),
            Some((now + KEEP_ALIVE, Due::Close))
        );
        let new = WatchState {
            requests: 0,
            ..state(ClientPhase::Waiting, false, now)
        };
        assert_eq!(new.due(None), Some((now + FIRST_BYTE_TIMEOUT, Due::Close)));
        assert_eq!(
            due(ClientPhase::Head, true, None),
            Some((now + HEAD_TIMEOUT, Due::Close))
        );
        assert_eq!(due(ClientPhase::Request, true, None), None);
        for phase in [ClientPhase::Waiting, ClientPhase::Head, ClientPhase::Request] {
            assert_eq!(due(phase, true, Some(second)), Some((now + second, Due::Idle)));
        }
    }

    #[test]
    fn a_shutdown_waits_for_the_first_request_and_for_the_rest_of_a_head() {
        let watch = ClientWatch::new(Instant::now());
        assert!(!watch.may_drain());
        watch.read();
        assert!(!watch.may_drain());
        watch.request_began();
        assert!(watch.may_drain());
        watch.request_ended(false);
        assert!(watch.may_drain());
        watch.read();
        assert!(!watch.may_drain());
    }
}
