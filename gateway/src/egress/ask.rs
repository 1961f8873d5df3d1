//! Asks one candidate for a connection to an instance. Dropping an ask takes it back: its stream is reset, and an
//! instance that was connected to has been given no byte.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use causeway_proto::tunnel::{
    Connect, FrameError, RefusalReason, StreamHeader, encode_frame, stream_header::Kind,
    stream_reply::Outcome,
};
use causeway_zone_sync::name::{GatewayId, ServiceName, Tags};
use quinn::{RecvStream, SendStream, WriteError};
use rand::rngs::SmallRng;

use crate::{
    ingress::{self, DialError, Dialled},
    instances::ConnectFailures,
    permit::Caller,
    relay,
    snapshot::Snapshot,
    telemetry::Metrics,
    tunnel::{ReadFrameError, ReplyError, Tunnel, read_reply, refusal_word},
};

/// Longest wait for the answer of one candidate, whatever else is under way. An ingress tries three instances for one
/// second each.
const ASK_TIMEOUT: Duration = Duration::from_millis(3500);

/// A connection that an instance is ready for.
#[derive(Debug)]
pub(super) enum Path {
    /// Boxed: it is what makes the two differ in size.
    Local(Box<Dialled>),
    Remote(RemotePath),
}

#[derive(Debug)]
pub(super) struct RemotePath {
    pub(super) stream: OpenStream,
    pub(super) counted: StreamCount,
    /// Bytes of the client that went with the header.
    pub(super) early_bytes: u64,
}

/// Why a candidate did not become ready.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("no tunnel to the gateway is up")]
    NoTunnel,
    #[error("refused: {message} ({})", refusal_word(*reason))]
    Refused {
        reason: RefusalReason,
        retryable: bool,
        message: String,
    },
    #[error("the tunnel was lost before the answer")]
    Lost(#[source] io::Error),
    #[error("the answer cannot be used")]
    Reply(#[from] ReplyError),
    #[error("the stream header cannot be sent")]
    Header(#[source] FrameError),
    #[error("no answer in time")]
    Timeout,
}

impl AskError {
    /// The word for metrics and the access log.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Dial(DialError::NoInstance { .. }) => "no_instance",
            Self::Dial(DialError::Connect { .. }) => "connect_failed",
            Self::NoTunnel => "no_tunnel",
            Self::Refused { reason, .. } => refusal_word(*reason),
            Self::Lost(_) => "tunnel_lost",
            Self::Reply(ReplyError::Read(ReadFrameError::Broken(_))) => "tunnel_lost",
            Self::Reply(_) => "bad_reply",
            Self::Header(_) => "bad_header",
            Self::Timeout => "timeout",
        }
    }

    /// Whether asking anyone else is pointless.
    pub(super) fn is_final(&self) -> bool {
        matches!(self, Self::Refused { retryable: false, .. } | Self::Header(_))
    }
}

/// Counts one stream of a tunnel for as long as it lives.
#[derive(Debug)]
pub(super) struct StreamCount(Arc<Tunnel>);

impl StreamCount {
    fn new(tunnel: Arc<Tunnel>) -> Self {
        tunnel.streams().fetch_add(1, Ordering::Relaxed);
        Self(tunnel)
    }

    pub(super) fn peer(&self) -> &GatewayId {
        self.0.peer()
    }
}

impl Drop for StreamCount {
    fn drop(&mut self) {
        self.0.streams().fetch_sub(1, Ordering::Relaxed);
    }
}

/// Both halves of a stream; resets it when dropped before it was given away.
#[derive(Debug)]
pub(super) struct OpenStream(Option<(SendStream, RecvStream)>);

impl OpenStream {
    fn halves(&mut self) -> io::Result<&mut (SendStream, RecvStream)> {
        self.0.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// The stream, for the relay, which ends it itself.
    pub(super) fn into_halves(mut self) -> Option<(SendStream, RecvStream)> {
        self.0.take()
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        if let Some((send, recv)) = &mut self.0 {
            // Each fails only when the peer has ended that half already.
            let _ = send.reset(relay::code::LOST_RACE);
            let _ = recv.stop(relay::code::LOST_RACE);
        }
    }
}

/// What a remote candidate is asked for.
#[derive(Debug, Clone)]
pub(super) struct Question {
    pub(super) service: ServiceName,
    pub(super) tags: Tags,
    pub(super) attempt: u32,
    pub(super) caller: Arc<Caller>,
    /// The client's first bytes; empty unless the service is marked `early`.
    pub(super) early: Bytes,
}

impl Question {
    fn header(&self) -> StreamHeader {
        let caller = &self.caller;
        let identity = caller.identity.as_ref();
        StreamHeader {
            kind: Some(Kind::Connect(Connect {
                service: self.service.as_str().to_owned(),
                tags: pairs(&self.tags),
                caller: caller
                    .service
                    .as_ref()
                    .map(ToString::to_string)
                    .unwrap_or_default(),
                caller_tags: pairs(&caller.tags),
                caller_identity: identity.map(ToString::to_string).unwrap_or_default(),
                trace_parent: String::new(),
                attempt: self.attempt,
                early: !self.early.is_empty(),
            })),
        }
    }
}

fn pairs(tags: &Tags) -> BTreeMap<String, String> {
    let pairs = tags.iter().map(|(key, value)| (key.to_owned(), value.to_owned()));
    pairs.collect()
}

/// Asks an instance of this zone.
pub(super) async fn local(
    snapshot: Arc<Snapshot>,
    service: ServiceName,
    tags: Tags,
    metrics: Arc<Metrics>,
    failures: ConnectFailures,
    mut rng: SmallRng,
) -> Result<Path, AskError> {
    let dialled = ingress::dial(&snapshot, &service, &tags, &metrics, &failures, &mut rng).await?;
    Ok(Path::Local(Box::new(dialled)))
}

/// Asks a gateway of another zone over `tunnel`. Waiting for the peer's stream limit counts as waiting for the answer.
pub(super) async fn remote(tunnel: Arc<Tunnel>, question: Question) -> Result<Path, AskError> {
    let asking = exchange(&tunnel, &question);
    let answer = tokio::time::timeout(ASK_TIMEOUT, asking).await;
    let stream = answer.map_err(|_| AskError::Timeout)??;
    Ok(Path::Remote(RemotePath {
        stream,
        early_bytes: question.early.len() as u64,
        counted: StreamCount::new(tunnel),
    }))
}

async fn exchange(tunnel: &Tunnel, question: &Question) -> Result<OpenStream, AskError> {
    let frame = encode_frame(&question.header()).map_err(AskError::Header)?;
    let opened = tunnel.connection().open_bi().await;
    let mut stream = OpenStream(Some(opened.map_err(|error| AskError::Lost(error.into()))?));
    let (send, recv) = stream.halves().map_err(AskError::Lost)?;
    write(send, frame).await?;
    if !question.early.is_empty() {
        write(send, question.early.clone()).await?;
    }
    match read_reply(recv).await? {
        Outcome::Ready(_) => Ok(stream),
        Outcome::Refusal(refusal) => Err(AskError::Refused {
            reason: refusal.reason(),
            retryable: refusal.retryable,
            message: refusal.message,
        }),
    }
}

/// A peer that stops the stream has an answer to read, so that is not an error yet.
async fn write(send: &mut SendStream, bytes: Bytes) -> Result<(), AskError> {
    match send.write_chunk(bytes).await {
        Ok(()) | Err(WriteError::Stopped(_)) => Ok(()),
        Err(error) => Err(AskError::Lost(error.into())),
    }
}
