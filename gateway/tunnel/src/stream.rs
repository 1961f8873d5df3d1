//! A stream that a peer opened: its header is read here, and a bad one refused, so that handlers see only good ones.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use causeway_proto::tunnel::{
    FrameError, Refusal, RefusalReason, StreamHeader, stream_header::Kind as HeaderKind,
};
use causeway_telemetry::Side;
use futures_util::future::BoxFuture;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::{
    IncomingStream, Tunnel,
    frame::{ReadFrameError, read_frame, stream_refusal, write_refusal},
    halves::{SendHalf, Stream, StreamCode},
    shared::{LogKind, TunnelShared},
};

/// Longest time that a peer may take from opening a stream to the end of its header.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// Reason that a stream was not handed to the handler.
struct Rejection {
    reason: RefusalReason,
    retryable: bool,
    message: String,
}

/// Reads the header and hands the stream to the handler, or refuses it. Nothing else on the tunnel is disturbed. Reading is
/// boxed apart, so that an open stream carries neither its state nor the room for it.
pub(super) fn receive(
    shared: Arc<TunnelShared>,
    tunnel: Arc<Tunnel>,
    stream: Stream,
) -> impl Future<Output = ()> + Send {
    let counted = Counted::new(Arc::clone(&tunnel));
    let reading = Box::pin(read(shared, tunnel, stream));
    async move {
        if let Some(handling) = reading.await {
            handling.await;
        }
        drop(counted);
    }
}

/// Returns the handling of a stream; `None`: it was refused, or broke off.
async fn read(
    shared: Arc<TunnelShared>,
    tunnel: Arc<Tunnel>,
    mut stream: Stream,
) -> Option<BoxFuture<'static, ()>> {
    let kind = match timeout(HEADER_TIMEOUT, read_frame::<StreamHeader>(&mut stream.recv)).await {
        Ok(Err(ReadFrameError::Broken(error))) => {
            debug!(peer = %tunnel.peer(), %error, "a stream broke off before its header");
            return None;
        }
        Ok(header) => admit(header),
        Err(_) => Err(bad_header("no header in time".to_owned())),
    };
    match kind {
        Ok(kind) => {
            tunnel.assign(&mut stream, Some(&kind));
            let Stream { send, recv } = stream;
            let stream = IncomingStream {
                kind,
                send,
                recv,
                tunnel,
            };
            Some(shared.handler.handle(stream))
        }
        Err(rejection) => {
            report(&shared, &tunnel, &rejection);
            let _ = stream.recv.stop(StreamCode::Refused);
            refuse(&mut stream.send, rejection).await;
            None
        }
    }
}

/// Gives what a header asks for, where handlers are given that.
fn admit(header: Result<StreamHeader, ReadFrameError>) -> Result<HeaderKind, Rejection> {
    match header.map(|header| header.kind) {
        Ok(Some(kind)) => Ok(kind),
        // A later program may ask for more, and another gateway may run one.
        Ok(None) => Err(Rejection {
            reason: RefusalReason::UnknownKind,
            retryable: true,
            message: "the header asks for nothing that is known here".to_owned(),
        }),
        Err(ReadFrameError::Frame(error @ FrameError::TooLong { .. })) => Err(Rejection {
            reason: RefusalReason::HeaderTooLong,
            retryable: false,
            message: error.to_string(),
        }),
        Err(error) => Err(bad_header(error.to_string())),
    }
}

fn bad_header(message: String) -> Rejection {
    Rejection {
        reason: RefusalReason::BadHeader,
        retryable: false,
        message,
    }
}

fn report(shared: &TunnelShared, tunnel: &Tunnel, rejection: &Rejection) {
    let reason = stream_refusal(rejection.reason);
    shared.metrics.stream_refused(Side::Local, reason);
    let peer = tunnel.peer();
    if let Some(repeats) = shared.admit(LogKind::Stream(peer.clone(), reason)) {
        warn!(%peer, reason = reason.word(), detail = %rejection.message, repeats, "refused a stream");
    }
}

async fn refuse(send: &mut SendHalf, rejection: Rejection) {
    let refusal = Refusal {
        reason: rejection.reason.into(),
        retryable: rejection.retryable,
        message: rejection.message,
    };
    let _ = write_refusal(send, refusal).await;
}

/// Counts a stream for as long as its task runs.
struct Counted(Arc<Tunnel>);

impl Counted {
    fn new(tunnel: Arc<Tunnel>) -> Self {
        tunnel.streams().fetch_add(1, Ordering::Relaxed);
        tunnel.accepted_streams().fetch_add(1, Ordering::Relaxed);
        Self(tunnel)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.streams().fetch_sub(1, Ordering::Relaxed);
        self.0.accepted_streams().fetch_sub(1, Ordering::Relaxed);
    }
}
