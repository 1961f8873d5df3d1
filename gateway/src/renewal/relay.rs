//! Giving gateways of other zones a way to the CA: bytes from a stream to the CA's port and back. What they say is TLS
//! between them and the CA; here nobody can look into it, and nobody is let through to anywhere else.

use std::{path::PathBuf, sync::Arc, time::Duration};

use causeway_proto::tunnel::{Ready, Refusal, RefusalReason, StreamReply, stream_reply::Outcome};
use quinn::SendStream;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy},
    net::TcpStream,
    sync::Semaphore,
    time::timeout,
};

use super::settings::Settings;
use crate::{
    join::connect,
    telemetry::{Metrics, Side},
    tunnel::{IncomingStream, WriteFrameError, refusal_word, write_frame},
};

/// Streams at once, over all peers. A renewal takes a fraction of a second.
const MAX_STREAMS: usize = 16;
/// For the whole of a stream, from its first byte to its last.
const STREAM_LIMIT: Duration = Duration::from_secs(30);
/// Bytes in each direction: a renewal has about 5 KiB.
const MAX_BYTES: u64 = 512 * 1024;
/// How long a peer may take to get to the CA. Longer than a gateway tries to connect to it.
pub(super) const CONNECT_THROUGH_LIMIT: Duration = Duration::from_secs(8);

/// Passes on what gateways of other zones say to the CA. Clones share the limit.
#[derive(Debug, Clone)]
pub struct Relay {
    /// The folder of the own identity, where it is written where the CA is; `None`: nothing is passed on.
    folder: Option<PathBuf>,
    places: Arc<Semaphore>,
    metrics: Arc<Metrics>,
}

impl Relay {
    #[must_use]
    pub fn new(folder: Option<PathBuf>, metrics: Arc<Metrics>) -> Self {
        Self {
            folder,
            places: Arc::new(Semaphore::new(MAX_STREAMS)),
            metrics,
        }
    }

    /// Serves one stream to its end.
    pub async fn serve(&self, mut stream: IncomingStream) {
        let peer = stream.tunnel.peer().clone();
        let reached = match self.places.clone().try_acquire_owned() {
            Ok(place) => self.reach().await.map(|ca| (place, ca)),
            Err(_) => Err((
                RefusalReason::Overloaded,
                "too many ask for the CA at once".to_owned(),
            )),
        };
        let (_place, ca) = match reached {
            Ok(reached) => reached,
            Err((reason, message)) => {
                self.metrics.stream_refused(Side::Local, refusal_word(reason));
                tracing::debug!(%peer, reason = refusal_word(reason), message, "gave no way to the CA");
                let _ = refuse(&mut stream.send, reason, message).await;
                return;
            }
        };
        match timeout(STREAM_LIMIT, pass_on(stream, ca)).await {
            Ok(Ok((up, down))) => tracing::info!(%peer, up, down, "passed a call on to the CA"),
            Ok(Err(error)) => tracing::debug!(%peer, %error, "a call to the CA broke off"),
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
            match connect(address).await {
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

/// Moves the bytes, and ends each direction when its source does.
async fn pass_on(stream: IncomingStream, ca: TcpStream) -> std::io::Result<(u64, u64)> {
    let IncomingStream { mut send, recv, .. } = stream;
    write_frame(&mut send, &reply(Outcome::Ready(Ready::default())))
        .await
        .map_err(std::io::Error::other)?;
    let (from_ca, mut to_ca) = ca.into_split();
    let up = async {
        let count = copy(&mut recv.take(MAX_BYTES), &mut to_ca).await?;
        to_ca.shutdown().await?;
        Ok::<_, std::io::Error>(count)
    };
    let down = async {
        let count = copy(&mut from_ca.take(MAX_BYTES), &mut send).await?;
        // A peer that is gone needs no end.
        let _ = send.finish();
        Ok(count)
    };
    tokio::try_join!(up, down)
}

fn reply(outcome: Outcome) -> StreamReply {
    StreamReply {
        outcome: Some(outcome),
    }
}

async fn refuse(
    stream: &mut SendStream,
    reason: RefusalReason,
    message: String,
) -> Result<(), WriteFrameError> {
    let refusal = Refusal {
        reason: reason.into(),
        retryable: false,
        message,
    };
    write_frame(stream, &reply(Outcome::Refusal(refusal))).await?;
    let _ = stream.finish();
    Ok(())
}
