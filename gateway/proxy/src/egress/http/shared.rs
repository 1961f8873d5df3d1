//! A connection of HTTP/2 to an instance, or over a stream to the gateway that has one: many requests share it, each by itself.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Instant,
};

use causeway_federation::name::ServiceName;
use causeway_routing::{permit::Caller, snapshot::Instance};
use futures_util::task::AtomicWaker;
use hyper::{
    client::conn::http2::{self, SendRequest},
    rt::Executor,
};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{
    body::RequestBody,
    upstream::{HttpUpstream, TakenUpstream, UpstreamFacts, UpstreamServer},
    upstream_io::{CarriedBytes, UpstreamTraffic},
};
use crate::{
    egress::{EgressShared, connect::ConnectedUpstream},
    http::limits::{
        CALLS_BEFORE_SETTINGS, MAX_CALLS, MAX_HEAD_BYTES, MAX_SEND_BUFFER_BYTES, SHARED_MAX_AGE,
        UPSTREAM_STREAM_WINDOW, UPSTREAM_WINDOW,
    },
    tasks::ConnectionTasks,
};

/// Connection that is kept for the requests of one client. They hold it by themselves: it closes once they and this are gone.
#[derive(Debug)]
pub(super) struct SharedUpstream {
    sender: SendRequest<RequestBody>,
    facts: Arc<UpstreamFacts>,
    calls: Arc<CallCount>,
    opened: Instant,
}

/// Requests on one connection.
#[derive(Debug)]
struct CallCount {
    open: AtomicUsize,
    /// Most of them that this gateway gives it: fewer, once one was refused.
    most: AtomicUsize,
    /// Most of them that its instance says it takes.
    takes: AtomicUsize,
    /// The instance has said something, which begins with how many it takes (RFC 9113, 3.4).
    has_spoken: AtomicBool,
    /// The same, and it has been taken up.
    is_heard: AtomicBool,
    /// Wakes the one who looks how many that are.
    hearing: AtomicWaker,
    /// Wakes requests that wait for room on it.
    room: Arc<Notify>,
    /// Last time that one began or ended.
    used_at: Mutex<Instant>,
}

impl CallCount {
    fn new(room: Arc<Notify>) -> Self {
        Self {
            open: AtomicUsize::new(0),
            most: AtomicUsize::new(MAX_CALLS),
            takes: AtomicUsize::new(CALLS_BEFORE_SETTINGS),
            has_spoken: AtomicBool::new(false),
            is_heard: AtomicBool::new(false),
            hearing: AtomicWaker::new(),
            room,
            used_at: Mutex::new(Instant::now()),
        }
    }

    /// Takes up what hyper knows of how many the instance takes. Those who wait are told where that is news.
    fn may_take(&self, takes: usize) {
        let has_spoken = self.has_spoken.load(Ordering::Acquire);
        let is_more = self.takes.swap(takes, Ordering::Relaxed) != takes;
        if (has_spoken && !self.is_heard.swap(true, Ordering::Release)) || is_more {
            self.room.notify_waiters();
        }
    }
}

/// Starter of a connection's tasks, of which hyper starts the one that reads first.
#[derive(Debug, Clone)]
struct HearingTasks {
    tasks: ConnectionTasks,
    traffic: Arc<UpstreamTraffic>,
    calls: Arc<CallCount>,
    has_begun: Arc<AtomicBool>,
}

impl<F> Executor<F> for HearingTasks
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, task: F) {
        if self.has_begun.swap(true, Ordering::Relaxed) {
            return self.tasks.spawn(task);
        }
        let (calls, traffic) = (self.calls.clone(), self.traffic.clone());
        let mut task = Box::pin(task);
        self.tasks.spawn(poll_fn(move |cx| {
            let polled = task.as_mut().poll(cx);
            if traffic.is_heard() && !calls.has_spoken.swap(true, Ordering::Release) {
                calls.hearing.wake();
            }
            polled
        }));
    }
}

/// One request on a connection that others share: counted there for as long as it lives, and its bytes for itself.
#[derive(Debug)]
pub(super) struct SharedCall {
    calls: Arc<CallCount>,
    /// Of the bodies of the request and its answer.
    pub(super) bytes: Arc<CarriedBytes>,
}

impl SharedCall {
    fn new(calls: Arc<CallCount>) -> Self {
        calls.open.fetch_add(1, Ordering::Relaxed);
        *calls.used_at.lock() = Instant::now();
        Self {
            calls,
            bytes: Arc::default(),
        }
    }
}

impl Drop for SharedCall {
    fn drop(&mut self) {
        *self.calls.used_at.lock() = Instant::now();
        self.calls.open.fetch_sub(1, Ordering::Relaxed);
        self.calls.room.notify_waiters();
    }
}

impl SharedUpstream {
    /// Takes a connection that is ready into use. Its tasks end with it, or at `cut`; `room` is told when it can be given more requests.
    /// `None`: it is gone already.
    pub(super) async fn open(
        shared: &EgressShared,
        service: &ServiceName,
        caller: Arc<Caller>,
        connected: ConnectedUpstream,
        cut: &CancellationToken,
        room: Arc<Notify>,
    ) -> Option<Self> {
        let TakenUpstream { io, facts, load } = TakenUpstream::of(shared, service, caller, connected)?;
        let calls = Arc::new(CallCount::new(room));
        let tasks = HearingTasks {
            tasks: ConnectionTasks::until(cut.clone()),
            traffic: facts.traffic.clone(),
            calls: calls.clone(),
            has_begun: Arc::default(),
        };
        let handshake = http2::Builder::new(tasks.clone())
            .initial_stream_window_size(UPSTREAM_STREAM_WINDOW)
            .initial_connection_window_size(UPSTREAM_WINDOW)
            .max_header_list_size(u32::try_from(MAX_HEAD_BYTES).unwrap_or(u32::MAX))
            .max_send_buf_size(MAX_SEND_BUFFER_BYTES)
            .initial_max_send_streams(CALLS_BEFORE_SETTINGS)
            .handshake(TokioIo::new(io));
        let (sender, connection) = handshake.await.ok()?;
        // Each request is counted with the instance by itself.
        drop(load);
        let counted = calls.clone();
        tasks.tasks.spawn(async move {
            let mut connection = pin!(connection);
            // The reason of its end is told by its traffic.
            poll_fn(|cx| {
                counted.hearing.register(cx.waker());
                let polled = connection.as_mut().poll(cx);
                // Of what has been spoken by now it knows.
                counted.may_take(connection.current_max_send_streams());
                polled.map(drop)
            })
            .await;
        });
        Some(Self {
            sender,
            facts,
            calls,
            opened: Instant::now(),
        })
    }

    /// Takes it into use for one request.
    pub(super) fn call(&self) -> HttpUpstream {
        let call = SharedCall::new(self.calls.clone());
        HttpUpstream::shared(self.sender.clone(), self.facts.clone(), call)
    }

    pub(super) fn facts(&self) -> &UpstreamFacts {
        &self.facts
    }

    /// Tells whether it may be given no further request.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.sender.is_closed() || self.opened + SHARED_MAX_AGE <= now
    }

    /// Tells whether its instance has as many requests on it as it takes, as far as is known.
    pub(super) fn is_full(&self) -> bool {
        let calls = &self.calls;
        let takes = calls.takes.load(Ordering::Relaxed);
        self.open_calls() >= calls.most.load(Ordering::Relaxed).min(takes)
    }

    /// Tells whether its instance has yet to say how many requests it takes.
    pub(super) fn is_unheard(&self) -> bool {
        !self.calls.is_heard.load(Ordering::Acquire)
    }

    /// Gives it no more requests at once than it has beside one that was refused. Returns whether it has any.
    pub(super) fn refused(&self) -> bool {
        let others = self.open_calls().saturating_sub(1);
        self.calls.most.fetch_min(others.max(1), Ordering::Relaxed);
        others > 0
    }

    pub(super) fn open_calls(&self) -> usize {
        self.calls.open.load(Ordering::Relaxed)
    }

    pub(super) fn used_at(&self) -> Instant {
        *self.calls.used_at.lock()
    }

    /// Returns since when it has had no request; `None`: it has one.
    pub(super) fn unused_since(&self) -> Option<Instant> {
        (self.open_calls() == 0).then(|| self.used_at())
    }

    pub(super) fn serves(&self, instance: &Instance) -> bool {
        match &self.facts.server {
            UpstreamServer::Instance(own) => own.id == instance.id && own.address == instance.address,
            UpstreamServer::Gateway(_) => false,
        }
    }

    pub(super) fn is_that_of(&self, upstream: &HttpUpstream) -> bool {
        Arc::ptr_eq(&self.facts, &upstream.facts)
    }
}
