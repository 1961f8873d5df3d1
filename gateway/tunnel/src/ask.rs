//! Asking a peer for something over whichever tunnel is best: a stream, its header, and the peer's word on it. What follows
//! on the stream is for the caller. The data path asks by itself (`egress`): it has a thread, a deadline and a rival.

use causeway_federation::name::GatewayId;
use causeway_proto::tunnel::{StreamHeader, stream_reply::Outcome};
use causeway_telemetry::StreamRefusal;

use super::{Ended, LinkError, ReplyError, Stream, StreamOpenError, TunnelSet, read_reply, stream_refusal};

/// Longest text of a peer's refusal that is kept, in characters.
const MAX_REFUSAL_CHARS: usize = 200;

/// Reason that a peer did not agree to what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("no tunnel leads there")]
    NoTunnel,
    #[error("cannot ask")]
    Open(#[from] StreamOpenError),
    #[error("cannot read the reply")]
    Reply(#[from] ReplyError),
    #[error("it refused: {}: {message}", reason.word())]
    Refused { reason: StreamRefusal, message: String },
}

impl AskError {
    /// Tells whether the tunnel was closed in good order under the question, as one that another takes the place of is: asked again, it
    /// goes over that one.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = cause {
            if let Some(link) = error.downcast_ref::<LinkError>() {
                return matches!(link.ended(), Ended::Closed { .. });
            }
            cause = error.source();
        }
        false
    }
}

/// Opens a stream to `peer` and waits until it is ready.
///
/// # Errors
/// When no tunnel leads there, it is lost, or the peer refuses.
pub async fn ask(tunnels: &TunnelSet, peer: &GatewayId, header: &StreamHeader) -> Result<Stream, AskError> {
    // The control runtime has no data thread of its own; any tunnel will do.
    let tunnel = tunnels.choose_for_control(peer).ok_or(AskError::NoTunnel)?;
    let mut stream = tunnel.open(header).await?;
    match read_reply(&mut stream.recv).await? {
        Outcome::Ready(_) => Ok(stream),
        Outcome::Refusal(refusal) => Err(AskError::Refused {
            reason: stream_refusal(refusal.reason()),
            message: refusal.message.chars().take(MAX_REFUSAL_CHARS).collect(),
        }),
    }
}
