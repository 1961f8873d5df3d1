//! Documents on a stream: the answer to a question for them is a reply and then each document behind its length as a
//! big-endian u32. What is in them is for others to say.

use std::{io, time::Duration};

use causeway_federation::name::GatewayId;
use causeway_proto::tunnel::{
    Ready, Refusal, RefusalReason, StreamHeader, StreamReply, stream_reply::Outcome,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::timeout,
};

use super::{
    AskError, RecvHalf, SendHalf, Stream, TunnelSet, WriteFrameError, ask, write_frame, write_refusal,
};

/// Longest wait for a peer to take the next [`PIECE_BYTES`] of what it asked for.
const STALL_LIMIT: Duration = Duration::from_secs(5);
/// Bytes that a peer has to take within [`STALL_LIMIT`].
const PIECE_BYTES: usize = 64 * 1024;

/// Failure to read a document from a stream.
#[derive(Debug, thiserror::Error)]
pub enum ReadDocumentError {
    #[error("the answer broke off")]
    Broken(#[from] io::Error),
    #[error("the answer is longer than {0} bytes")]
    TooLong(usize),
}

/// Asks a peer, over whichever tunnel is best, and gives the stream that its documents come on.
///
/// # Errors
/// When no tunnel leads there, it is lost, or the peer refuses.
pub async fn ask_for_documents(
    tunnels: &TunnelSet,
    peer: &GatewayId,
    header: &StreamHeader,
) -> Result<RecvHalf, AskError> {
    let Stream { mut send, recv } = ask(tunnels, peer, header).await?;
    let _ = send.finish();
    Ok(recv)
}

/// Reads one document; `None` where the stream ends instead. Nothing is allocated for one of more than `limit` bytes.
///
/// # Errors
/// When the stream breaks off or the document is too long.
pub async fn read_document(
    recv: &mut (impl AsyncRead + Unpin),
    limit: usize,
) -> Result<Option<Vec<u8>>, ReadDocumentError> {
    let mut length = [0; 4];
    let (first, rest) = length.split_at_mut(1);
    if recv.read(first).await? == 0 {
        return Ok(None);
    }
    recv.read_exact(rest).await?;
    let length = usize::try_from(u32::from_be_bytes(length)).ok();
    let length = length
        .filter(|length| *length <= limit)
        .ok_or(ReadDocumentError::TooLong(limit))?;
    let mut bytes = vec![0; length];
    recv.read_exact(&mut bytes).await?;
    Ok(Some(bytes))
}

/// Answers with these documents, and waits until the peer has them or is gone.
///
/// # Errors
/// When the stream breaks, or the peer takes nothing for [`STALL_LIMIT`].
pub async fn send_documents(
    stream: &mut SendHalf,
    documents: impl IntoIterator<Item = Vec<u8>>,
) -> Result<(), WriteFrameError> {
    let ready = StreamReply {
        outcome: Some(Outcome::Ready(Ready::default())),
    };
    write_frame(stream, &ready).await?;
    for bytes in documents {
        // Bounded by the largest document.
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        for piece in std::iter::once(&length.to_be_bytes()[..]).chain(bytes.chunks(PIECE_BYTES)) {
            let taken = timeout(STALL_LIMIT, stream.write_all(piece)).await;
            taken.map_err(|_| WriteFrameError::Stalled)??;
        }
    }
    // A peer that is gone needs no end.
    let _ = stream.finish();
    let _ = stream.stopped().await;
    Ok(())
}

/// Answers that there will be no documents.
///
/// # Errors
/// When the stream breaks.
pub async fn refuse_documents(
    stream: &mut SendHalf,
    reason: RefusalReason,
    message: &str,
) -> Result<(), WriteFrameError> {
    let refusal = Refusal {
        reason: reason.into(),
        retryable: reason == RefusalReason::Overloaded,
        message: message.to_owned(),
    };
    write_refusal(stream, refusal).await
}
