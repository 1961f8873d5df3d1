//! Frames on QUIC streams: the asynchronous side of `causeway_proto::tunnel`'s framing.

use causeway_proto::tunnel::{
    self, FRAME_PREFIX_BYTES, FrameError, Refusal, RefusalReason, StreamReply, stream_reply::Outcome,
};
use causeway_telemetry::StreamRefusal;
use prost::Message;

use super::halves::{ReadError, ReadExactError, RecvHalf, SendHalf, WriteError};

/// Failure to read a frame.
#[derive(Debug, thiserror::Error)]
pub enum ReadFrameError {
    #[error("the stream ended inside a frame")]
    Ended,
    #[error("the stream broke off")]
    Broken(#[source] ReadError),
    #[error("the frame cannot be read")]
    Frame(#[from] FrameError),
}

/// Failure to write a frame.
#[derive(Debug, thiserror::Error)]
pub enum WriteFrameError {
    #[error("the stream broke off")]
    Broken(#[from] WriteError),
    #[error("the frame cannot be written")]
    Frame(#[from] FrameError),
    #[error("the peer takes nothing")]
    Stalled,
}

/// Reads one frame. Not cancel-safe: a frame that was begun is lost.
///
/// # Errors
/// When the stream ends or breaks, or the bytes are no frame of this type. Never buffers more than one frame.
pub async fn read_frame<M: Message + Default>(recv: &mut RecvHalf) -> Result<M, ReadFrameError> {
    let mut prefix = [0; FRAME_PREFIX_BYTES];
    recv.read_exact(&mut prefix).await.map_err(cut)?;
    let mut body = vec![0; tunnel::frame_length(prefix)?];
    recv.read_exact(&mut body).await.map_err(cut)?;
    Ok(tunnel::decode_frame(&body)?)
}

/// Writes one frame. Not cancel-safe.
///
/// # Errors
/// When the stream breaks or the message is too long.
pub async fn write_frame(send: &mut SendHalf, message: &impl Message) -> Result<(), WriteFrameError> {
    let frame = tunnel::encode_frame(message)?;
    Ok(send.write_chunk(frame).await?)
}

/// Answers a stream header with a refusal and ends the stream.
///
/// # Errors
/// When the stream breaks or the message is too long; who is refused may be gone, which needs no answer.
pub async fn write_refusal(send: &mut SendHalf, refusal: Refusal) -> Result<(), WriteFrameError> {
    let outcome = Some(Outcome::Refusal(refusal));
    write_frame(send, &StreamReply { outcome }).await?;
    let _ = send.finish();
    Ok(())
}

fn cut(error: ReadExactError) -> ReadFrameError {
    match error {
        ReadExactError::FinishedEarly(_) => ReadFrameError::Ended,
        ReadExactError::Read(source) => ReadFrameError::Broken(source),
    }
}

/// Failure to get a reply on a stream that was opened.
#[derive(Debug, thiserror::Error)]
pub enum ReplyError {
    #[error("the peer's reply cannot be read")]
    Read(#[from] ReadFrameError),
    #[error("the peer's reply says nothing")]
    Empty,
}

/// Reads the reply to a stream header that this side wrote. Not cancel-safe.
///
/// # Errors
/// When the stream ends first, or the reply is not one.
pub async fn read_reply(recv: &mut RecvHalf) -> Result<Outcome, ReplyError> {
    let reply: StreamReply = read_frame(recv).await?;
    reply.outcome.ok_or(ReplyError::Empty)
}

/// The reason of a refusal on the wire, as the gateway's parts know it.
#[must_use]
pub fn stream_refusal(reason: RefusalReason) -> StreamRefusal {
    match reason {
        RefusalReason::Unspecified => StreamRefusal::Unspecified,
        RefusalReason::BadHeader => StreamRefusal::BadHeader,
        RefusalReason::HeaderTooLong => StreamRefusal::HeaderTooLong,
        RefusalReason::UnknownService => StreamRefusal::UnknownService,
        RefusalReason::NotExported => StreamRefusal::NotExported,
        RefusalReason::NoInstance => StreamRefusal::NoInstance,
        RefusalReason::ConnectFailed => StreamRefusal::ConnectFailed,
        RefusalReason::Overloaded => StreamRefusal::Overloaded,
        RefusalReason::Draining => StreamRefusal::Draining,
        RefusalReason::Forbidden => StreamRefusal::Forbidden,
        RefusalReason::Unvouched => StreamRefusal::Unvouched,
        RefusalReason::NoCa => StreamRefusal::NoCa,
        RefusalReason::UnknownKind => StreamRefusal::UnknownKind,
        RefusalReason::TooManyHops => StreamRefusal::TooManyHops,
        RefusalReason::Crowded => StreamRefusal::Crowded,
        RefusalReason::UnknownPort => StreamRefusal::UnknownPort,
    }
}
