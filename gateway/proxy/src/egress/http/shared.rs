//! A connection of HTTP/2 to an instance, or over a stream to the gateway that has one: many requests share it, each by itself.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use causeway_federation::name::ServiceName;
use causeway_routing::{permit::Caller, snapshot::Instance};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::{
    body::RequestBody,
    upstream::{HttpUpstream, TakenUpstream, UpstreamFacts, UpstreamServer},
    upstream_io::CarriedBytes,
};
use crate::{
    egress::{EgressShared, connect::ConnectedUpstream},
    http::limits::{
        MAX_CALLS, MAX_HEAD_BYTES, MAX_SEND_BUFFER_BYTES, SHARED_MAX_AGE, UPSTREAM_STREAM_WINDOW,
        UPSTREAM_WINDOW,
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
    /// Last time that one began or ended.
    used_at: Mutex<Instant>,
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
    }
}

impl SharedUpstream {
    /// Takes a connection that is ready into use. Its tasks end with it, or at `cut`. `None`: it is gone already.
    pub(super) async fn open(
        shared: &EgressShared,
        service: &ServiceName,
        caller: Arc<Caller>,
        connected: ConnectedUpstream,
        cut: &CancellationToken,
    ) -> Option<Self> {
        let TakenUpstream { io, facts, load } = TakenUpstream::of(shared, service, caller, connected)?;
        let tasks = ConnectionTasks::until(cut.clone());
        let handshake = http2::Builder::new(tasks.clone())
            .initial_stream_window_size(UPSTREAM_STREAM_WINDOW)
            .initial_connection_window_size(UPSTREAM_WINDOW)
            .max_header_list_size(u32::try_from(MAX_HEAD_BYTES).unwrap_or(u32::MAX))
            .max_send_buf_size(MAX_SEND_BUFFER_BYTES)
            .initial_max_send_streams(MAX_CALLS)
            .handshake(TokioIo::new(io));
        let (sender, connection) = handshake.await.ok()?;
        tasks.spawn(async move {
            // The reason of its end is told by its traffic.
            let _ = connection.await;
        });
        // Each request is counted with the instance by itself.
        drop(load);
        let calls = CallCount {
            open: AtomicUsize::new(0),
            used_at: Mutex::new(Instant::now()),
        };
        Some(Self {
            sender,
            facts,
            calls: Arc::new(calls),
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

    pub(super) fn is_full(&self) -> bool {
        self.open_calls() >= MAX_CALLS
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
