//! Giving gateways of other zones a way to the CA: bytes from a stream to the CA's port and back. What they say is TLS
//! between them and the CA; here nobody can look into it, and nobody is let through to anywhere else.

use std::{
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use causeway_authority::join::connect;
use causeway_host::resolve::NameResolver;
use causeway_proto::tunnel::{Ready, Refusal, RefusalReason, StreamReply, stream_reply::Outcome};
use causeway_telemetry::Side;
use causeway_tunnel::{IncomingStream, TunnelMetrics, stream_refusal, write_frame, write_refusal};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, ReadBuf, copy},
    net::TcpStream,
    time::timeout,
};

use super::settings::Settings;
use crate::places::AnswerPlaces;

/// Streams at once for the gateways of one zone. A renewal takes a fraction of a second.
const MAX_STREAMS_OF_ZONE: usize = 4;
/// For those of all zones together.
const MAX_STREAMS: usize = 64;
/// For the whole of a stream, from its first byte to its last.
const STREAM_LIMIT: Duration = Duration::from_secs(30);
/// Bytes in each direction: a renewal has about 5 KiB.
const MAX_BYTES: u64 = 512 * 1024;
/// Longest time that a peer may take to get to the CA. Longer than a gateway tries to connect to it.
pub(super) const CONNECT_THROUGH_LIMIT: Duration = Duration::from_secs(8);

/// Passes on what gateways of other zones say to the CA. Clones share the limit.
#[derive(Debug, Clone)]
pub struct Relay {
    /// The folder of the own identity, where it is written where the CA is; `None`: nothing is passed on.
    folder: Option<PathBuf>,
    places: AnswerPlaces,
    metrics: Arc<TunnelMetrics>,
    resolver: NameResolver,
}

impl Relay {
    #[must_use]
    pub fn new(folder: Option<PathBuf>, metrics: Arc<TunnelMetrics>) -> Self {
        Self {
            folder,
            places: AnswerPlaces::new(MAX_STREAMS_OF_ZONE, MAX_STREAMS),
            metrics,
            resolver: NameResolver::default(),
        }
    }

    /// Serves one stream to its end.
    pub async fn serve(&self, mut stream: IncomingStream) {
        let peer = stream.tunnel.peer().clone();
        let reached = match self.places.take(&peer.zone) {
            Some(place) => self.reach().await.map(|ca| (place, ca)),
            None => Err((
                RefusalReason::Overloaded,
                "too many ask for the CA at once".to_owned(),
            )),
        };
        let (_place, ca) = match reached {
            Ok(reached) => reached,
            Err((reason, message)) => {
                let refusal = stream_refusal(reason);
                self.metrics.stream_refused(Side::Local, refusal);
                tracing::debug!(%peer, reason = refusal.word(), message, "gave no way to the CA");
                let refusal = Refusal {
                    reason: reason.into(),
                    retryable: false,
                    message,
                };
                let _ = write_refusal(&mut stream.send, refusal).await;
                return;
            }
        };
        match timeout(STREAM_LIMIT, pass_on(stream, ca)).await {
            Ok((up, down)) => tracing::info!(%peer, up, down, "passed a call on to the CA"),
            Err(_) => tracing::warn!(%peer, "cut a call to the CA that took longer than {STREAM_LIMIT:?}"),
        }
    }

    async fn reach(&self) -> Result<TcpStream, (RefusalReason, String)> {
        let no_ca = |message: &str| (RefusalReason::NoCa, message.to_owned());
        let folder = self.folder.clone().ok_or_else(|| no_ca("no CA is known here"))?;
        let read = tokio::task::spawn_blocking(move || Settings::read(&folder)).await;
        let Ok(Ok(Some(settings))) = read else {
            return Err(no_ca("no CA is known here"));
        };
        for address in &settings.ca {
            match connect(address, &self.resolver).await {
                Ok(stream) => return Ok(stream),
                Err(error) => tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "cannot reach the CA for another gateway"
                ),
            }
        }
        Err(no_ca("the CA cannot be reached from here either"))
    }
}

/// Moves the bytes, and ends each direction when its source does. How a direction ends matters to nobody here: who asked
/// knows whether it was answered. Returns the bytes that went to the CA and came from it.
async fn pass_on(stream: IncomingStream, ca: TcpStream) -> (u64, u64) {
    let IncomingStream { mut send, recv, .. } = stream;
    let ready = StreamReply {
        outcome: Some(Outcome::Ready(Ready::default())),
    };
    if write_frame(&mut send, &ready).await.is_err() {
        return (0, 0);
    }
    let (from_ca, mut to_ca) = ca.into_split();
    let (mut up, mut down) = (
        Counted::new(recv.take(MAX_BYTES)),
        Counted::new(from_ca.take(MAX_BYTES)),
    );
    tokio::join!(
        async {
            let _ = copy(&mut up, &mut to_ca).await;
            let _ = to_ca.shutdown().await;
        },
        async {
            let _ = copy(&mut down, &mut send).await;
            let _ = send.finish();
        }
    );
    (up.bytes, down.bytes)
}

/// Counts what is read, however the reading ends.
struct Counted<R> {
    from: R,
    bytes: u64,
}

impl<R> Counted<R> {
    fn new(from: R) -> Self {
        Self { from, bytes: 0 }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Counted<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.from).poll_read(cx, buffer);
        self.bytes += (buffer.filled().len() - before) as u64;
        polled
    }
}
