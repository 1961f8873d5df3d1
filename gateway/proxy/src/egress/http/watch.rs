//! The state of a client's connection between bytes: what is awaited of it, since when, and what is due.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::http::limits::{
    DRAIN_WAIT, FINISHED_CLIENT_WAIT, FINISHED_LOOK, FIRST_BYTE_TIMEOUT, HASTY, HEAD_TIMEOUT, KEEP_ALIVE,
    MAX_HASTY_RESETS,
};

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
    /// A part of its head has come. With HTTP/2 this is not looked at: other bytes come between requests too.
    Head,
    /// At least one request is under way.
    Request,
}

/// Act that is due because of time alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// Connections to instances are kept no longer.
    CloseUpstreams,
    /// The client's connection is closed.
    Close,
    /// The same for HTTP/2: the client is told first, so that a request that is on its way is not lost.
    SayGoodbye,
    /// Nothing has moved for as long as the service allows.
    Idle,
    /// It is to be looked whether the client has ended its side.
    LookForEnd,
    /// A client that has ended its side has waited long enough for its answer.
    GiveUp,
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
    /// Requests under way.
    open: u32,
    is_version_2: bool,
    /// The client has been told that the connection ends.
    is_leaving: bool,
    /// Requests that were given up in haste, less others.
    hasty_resets: u32,
    /// The client takes nothing of what was written.
    is_stalled: bool,
    /// Last look for the end of the client's side, of those since its request began.
    looked_at: Option<Instant>,
    /// Time at which that was found.
    finished_at: Option<Instant>,
    /// Longest wait of a client that has ended its side.
    finished_wait: Duration,
}

impl WatchState {
    /// The next moment at which something is due, if nothing changes, and what.
    fn due(&self, idle: Option<Duration>) -> Option<(Instant, Due)> {
        let idle = idle.map(|limit| (self.moved_at + limit, Due::Idle));
        let own = match self.phase {
            ClientPhase::Waiting if self.is_leaving => Some((self.since + DRAIN_WAIT, Due::Close)),
            ClientPhase::Waiting if self.is_version_2 => Some((self.since + KEEP_ALIVE, Due::SayGoodbye)),
            ClientPhase::Waiting if self.requests == 0 => Some((self.since + FIRST_BYTE_TIMEOUT, Due::Close)),
            ClientPhase::Waiting => Some((self.since + KEEP_ALIVE, Due::Close)),
            ClientPhase::Head => Some((self.since + HEAD_TIMEOUT, Due::Close)),
            // HTTP/2 tells of each request that is given up.
            ClientPhase::Request if self.is_version_2 => None,
            ClientPhase::Request => Some(match self.finished_at {
                Some(at) => (at + self.finished_wait, Due::GiveUp),
                None => {
                    let last = self.looked_at.unwrap_or(self.since);
                    (last + FINISHED_LOOK.min(self.finished_wait), Due::LookForEnd)
                }
            }),
        };
        own.into_iter().chain(idle).min_by_key(|(at, _)| *at)
    }
}

impl ClientWatch {
    /// State of a new connection. `half_closed` is the limit on connections of which one side has ended.
    pub(super) fn new(now: Instant, half_closed: Option<Duration>) -> Self {
        Self {
            state: Mutex::new(WatchState {
                phase: ClientPhase::Waiting,
                since: now,
                moved_at: now,
                requests: 0,
                open: 0,
                is_version_2: false,
                is_leaving: false,
                hasty_resets: 0,
                is_stalled: false,
                looked_at: None,
                finished_at: None,
                finished_wait: half_closed
                    .map_or(FINISHED_CLIENT_WAIT, |limit| limit.min(FINISHED_CLIENT_WAIT)),
            }),
            changed: Notify::new(),
        }
    }

    /// Bytes have come from the client.
    pub(super) fn read(&self) {
        let mut state = self.state.lock();
        state.moved_at = Instant::now();
        if state.phase == ClientPhase::Waiting && !state.is_version_2 {
            (state.phase, state.since) = (ClientPhase::Head, state.moved_at);
            self.changed.notify_one();
        }
    }

    /// Takes down whether the client has ended its side, as was found just now.
    pub(super) fn looked_for_end(&self, now: Instant, is_ended: bool) {
        let mut state = self.state.lock();
        state.looked_at = Some(now);
        state.finished_at = is_ended.then_some(now);
    }

    /// Tells whether a request of HTTP/1.1 is under way: what becomes of its client is not heard by reading then.
    pub(super) fn is_deaf(&self) -> bool {
        let state = self.state.lock();
        state.phase == ClientPhase::Request && !state.is_version_2
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

    /// The client has said that it speaks HTTP/2.
    pub(super) fn speaks_version_2(&self) {
        let mut state = self.state.lock();
        (state.phase, state.since) = (ClientPhase::Waiting, Instant::now());
        state.is_version_2 = true;
    }

    /// The client has been told that the connection ends.
    pub(super) fn said_goodbye(&self) {
        let mut state = self.state.lock();
        state.is_leaving = true;
        if state.phase == ClientPhase::Waiting {
            state.since = Instant::now();
        }
    }

    pub(super) fn request_began(&self) {
        let mut state = self.state.lock();
        (state.phase, state.since) = (ClientPhase::Request, Instant::now());
        state.looked_at = None;
        state.requests += 1;
        state.open += 1;
        self.changed.notify_one();
    }

    /// A head that has not come in time is about to be answered.
    pub(super) fn head_refused(&self) {
        let mut state = self.state.lock();
        (state.phase, state.since) = (ClientPhase::Request, Instant::now());
    }

    /// Returns whether no other is under way.
    pub(super) fn request_ended(&self) -> bool {
        let mut state = self.state.lock();
        state.open = state.open.saturating_sub(1);
        if state.open == 0 {
            (state.phase, state.since) = (ClientPhase::Waiting, Instant::now());
        }
        self.changed.notify_one();
        state.open == 0
    }

    /// Counts how a request ended: given up by its client after such a time, or otherwise. Returns whether the client does that too
    /// often.
    pub(super) fn is_flood(&self, given_up: Option<Duration>) -> bool {
        let mut state = self.state.lock();
        state.hasty_resets = match given_up {
            Some(after) if after < HASTY => state.hasty_resets + 1,
            Some(_) => state.hasty_resets,
            None => state.hasty_resets.saturating_sub(1),
        };
        state.hasty_resets > MAX_HASTY_RESETS
    }

    /// Waits until what is due may have changed.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// The next moment at which something is due, if nothing changes, and what. `idle` is the service's limit.
    pub(super) fn due(&self, idle: Option<Duration>) -> Option<(Instant, Due)> {
        self.state.lock().due(idle)
    }

    /// Tells whether a shutdown may close the connection after the request at hand, or now. One of HTTP/1.1 that is kept waits for its next
    /// request, which may be on its way and would be lost; HTTP/2 says which it has taken.
    pub(super) fn may_drain(&self) -> bool {
        let state = self.state.lock();
        match state.phase {
            ClientPhase::Waiting => state.is_version_2 && state.requests > 0,
            ClientPhase::Head => false,
            ClientPhase::Request => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(phase: ClientPhase, now: Instant) -> WatchState {
        WatchState {
            phase,
            since: now,
            moved_at: now,
            requests: 1,
            open: 0,
            is_version_2: false,
            is_leaving: false,
            hasty_resets: 0,
            is_stalled: false,
            looked_at: None,
            finished_at: None,
            finished_wait: FINISHED_CLIENT_WAIT,
        }
    }

    #[test]
    fn each_part_of_an_exchange_has_its_limit_and_a_request_that_of_its_service() {
        let now = Instant::now();
        let due = |phase, idle| state(phase, now).due(idle);
        let second = Duration::from_secs(1);
        assert_eq!(
            due(ClientPhase::Waiting, None),
            Some((now + KEEP_ALIVE, Due::Close))
        );
        let new = WatchState {
            requests: 0,
            ..state(ClientPhase::Waiting, now)
        };
        assert_eq!(new.due(None), Some((now + FIRST_BYTE_TIMEOUT, Due::Close)));
        assert_eq!(
            due(ClientPhase::Head, None),
            Some((now + HEAD_TIMEOUT, Due::Close))
        );
        let looks = Some((now + FINISHED_LOOK, Due::LookForEnd));
        assert_eq!(due(ClientPhase::Request, None), looks);
        for phase in [ClientPhase::Waiting, ClientPhase::Head, ClientPhase::Request] {
            assert_eq!(due(phase, Some(second)), Some((now + second, Due::Idle)));
        }
    }

    #[test]
    fn a_client_that_has_ended_its_side_waits_for_its_answer_for_a_while() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let watch = ClientWatch::new(now, Some(second));
        watch.request_began();
        assert!(watch.is_deaf());
        let (at, act) = watch.due(None).unwrap();
        assert!(at <= Instant::now() + second && act == Due::LookForEnd);
        watch.looked_for_end(now + second, false);
        assert_eq!(watch.due(None), Some((now + 2 * second, Due::LookForEnd)));
        watch.looked_for_end(now + 2 * second, true);
        assert_eq!(watch.due(None), Some((now + 3 * second, Due::GiveUp)));
        watch.speaks_version_2();
        watch.request_began();
        assert_eq!((watch.due(None), watch.is_deaf()), (None, false));
    }

    #[test]
    fn a_client_of_http_2_is_told_before_it_is_closed() {
        let now = Instant::now();
        let mut state = state(ClientPhase::Waiting, now);
        state.is_version_2 = true;
        assert_eq!(state.due(None), Some((now + KEEP_ALIVE, Due::SayGoodbye)));
        state.is_leaving = true;
        assert_eq!(state.due(None), Some((now + DRAIN_WAIT, Due::Close)));
    }

    #[test]
    fn the_wait_between_requests_begins_when_the_last_of_them_has_ended() {
        let watch = ClientWatch::new(Instant::now(), None);
        watch.speaks_version_2();
        watch.read();
        watch.request_began();
        watch.request_began();
        assert!(!watch.request_ended());
        assert_eq!(watch.due(None), None);
        assert!(watch.request_ended());
        assert_eq!(watch.due(None).unwrap().1, Due::SayGoodbye);
    }

    #[test]
    fn many_requests_that_are_given_up_in_haste_are_a_flood_unless_others_are_answered() {
        let watch = ClientWatch::new(Instant::now(), None);
        let hasty = Some(HASTY / 2);
        for _ in 0..MAX_HASTY_RESETS {
            assert!(!watch.is_flood(hasty));
            assert!(!watch.is_flood(Some(HASTY)));
        }
        assert!(!watch.is_flood(None));
        assert!(!watch.is_flood(hasty));
        assert!(watch.is_flood(hasty));
    }

    #[test]
    fn a_shutdown_waits_for_the_next_request_and_for_the_rest_of_a_head() {
        let watch = ClientWatch::new(Instant::now(), None);
        assert!(!watch.may_drain());
        watch.read();
        assert!(!watch.may_drain());
        watch.request_began();
        assert!(watch.may_drain());
        watch.request_ended();
        assert!(!watch.may_drain(), "one may be on its way");
        watch.read();
        assert!(!watch.may_drain());
        watch.speaks_version_2();
        assert!(watch.may_drain(), "its client is told which were taken");
    }
}
