//! Asking a peer for something over whichever tunnel is best: a stream, its header, and the peer's word on it. What follows
//! on the stream is for the caller. The data path asks by itself (`egress`): it has a thread, a deadline and a rival.

use causeway_proto::tunnel::{StreamHeader, stream_reply::Outcome};
use causeway_zone_sync::name::GatewayId;
use quinn::{RecvStream, SendStream};

use super::{OpenError, ReplyError, TunnelSet, read_reply, refusal_word};

/// Longest text of a peer's refusal that is kept, in characters.
const MAX_REFUSAL_CHARS: usize = 200;

/// Why a peer did not agree to what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("no tunnel leads there")]
    NoTunnel,
    #[error("cannot ask")]
    Open(#[from] OpenError),
    #[error("cannot read the reply")]
    Reply(#[from] ReplyError),
    #[error("it refused: {reason}: {message}")]
    Refused { reason: &'static str, message: String },
}

/// Opens a stream to `peer` and waits until it is ready.
///
/// # Errors
/// When no tunnel leads there, it is lost, or the peer refuses.
pub async fn ask(
    tunnels: &TunnelSet,
    peer: &GatewayId,
    header: &StreamHeader,
) -> Result<(SendStream, RecvStream), AskError> {
    // The control runtime has no data thread of its own; any tunnel will do.
    let tunnel = tunnels.choose(peer, usize::MAX).ok_or(AskError::NoTunnel)?;
    let (send, mut recv) = tunnel.open(header).await?;
    match read_reply(&mut recv).await? {
        Outcome::Ready(_) => Ok((send, recv)),
        Outcome::Refusal(refusal) => Err(AskError::Refused {
            reason: refusal_word(refusal.reason()),
            message: refusal.message.chars().take(MAX_REFUSAL_CHARS).collect(),
        }),
    }
}
