//! A stream that a peer opened: its header is read here, and a bad one refused, so that handlers see only good ones.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use causeway_proto::tunnel::{
    FrameError, Refusal, RefusalReason, StreamHeader, stream_header::Kind as HeaderKind,
};
use quinn::{RecvStream, SendStream, VarInt};
use tokio::time::timeout;
use tracing::{debug, warn};

use super::{
    IncomingStream, Tunnel,
    frame::{ReadFrameError, read_frame, refusal_word, write_refusal},
    shared::{Kind, Shared},
};
use crate::telemetry::Side;

/// How long a peer may take from opening a stream to the end of its header.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Stops what the peer still sends on a stream that was refused.
const REFUSED_STREAM: VarInt = VarInt::from_u32(0x1);

/// Why a stream was not handed to the handler.
struct Rejection {
    reason: RefusalReason,
    retryable: bool,
    message: String,
}

/// Reads the header and hands the stream to the handler, or refuses it. Nothing else on the tunnel is disturbed.
pub(super) async fn receive(
    shared: Arc<Shared>,
    tunnel: Arc<Tunnel>,
    mut send: SendStream,
    mut recv: RecvStream,
) {
    let _counted = Counted::new(&tunnel);
    let header = match timeout(HEADER_TIMEOUT, read_frame::<StreamHeader>(&mut recv)).await {
        Ok(Err(ReadFrameError::Broken(error))) => {
            debug!(peer = %tunnel.peer(), %error, "a stream broke off before its header");
            return;
        }
        Ok(header) => admit(header, shared.is_draining()),
        Err(_) => Err(bad_header("no header in time".to_owned())),
    };
    match header {
        Ok(header) => {
            let stream = IncomingStream {
                header,
                send,
                recv,
                tunnel: Arc::clone(&tunnel),
            };
            shared.handler.handle(stream).await;
        }
        Err(rejection) => {
            report(&shared, &tunnel, &rejection);
            let _ = recv.stop(REFUSED_STREAM);
            refuse(&mut send, rejection).await;
        }
    }
}

/// Whether a header is one that handlers are given.
fn admit(header: Result<StreamHeader, ReadFrameError>, draining: bool) -> Result<StreamHeader, Rejection> {
    match header {
        Ok(header) => match &header.kind {
            None => Err(bad_header(
                "the header asks for nothing that is known here".to_owned(),
            )),
            Some(HeaderKind::Connect(_)) if draining => Err(Rejection {
                reason: RefusalReason::Draining,
                retryable: true,
                message: "this gateway is shutting down".to_owned(),
            }),
            Some(
                HeaderKind::Connect(_)
                | HeaderKind::Sync(_)
                | HeaderKind::Topology(_)
                | HeaderKind::Ca(_)
                | HeaderKind::Trust(_),
            ) => Ok(header),
        },
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

fn report(shared: &Shared, tunnel: &Tunnel, rejection: &Rejection) {
    let word = refusal_word(rejection.reason);
    shared.metrics.stream_refused(Side::Local, word);
    let peer = tunnel.peer();
    if rejection.reason == RefusalReason::Draining {
        debug!(%peer, "refused a stream while draining");
    } else if let Some(repeats) = shared.admit(Kind::Stream(peer.clone(), word)) {
        warn!(%peer, reason = word, detail = %rejection.message, repeats, "refused a stream");
    }
}

async fn refuse(send: &mut SendStream, rejection: Rejection) {
    let refusal = Refusal {
        reason: rejection.reason.into(),
        retryable: rejection.retryable,
        message: rejection.message,
    };
    let _ = write_refusal(send, refusal).await;
}

/// Counts a stream for as long as its task runs.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(tunnel: &'a Tunnel) -> Self {
        tunnel.streams().fetch_add(1, Ordering::Relaxed);
        Self(tunnel.streams())
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
