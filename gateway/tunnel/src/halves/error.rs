//! Errors of streams, and what quinn's are among them.

use std::io;

use quinn::ConnectionError;

use super::StreamCode;
use crate::refusal::Ended;

/// The tunnel under a stream is gone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct LinkError(pub(crate) ConnectionError);

impl LinkError {
    /// Reads how it ended.
    #[must_use]
    pub fn ended(&self) -> Ended {
        Ended::of(&self.0)
    }
}

/// Reason that nothing more can be written to a stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    #[error("the peer reads no more of it ({0:?})")]
    Stopped(StreamCode),
    #[error("it was ended here before")]
    Closed,
    #[error("the tunnel is gone")]
    Lost(#[source] LinkError),
}

/// Reason that nothing more can be read from a stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("the peer reset it ({0:?})")]
    Reset(StreamCode),
    #[error("it was ended here before")]
    Closed,
    #[error("the tunnel is gone")]
    Lost(#[source] LinkError),
}

/// Reason that fewer bytes were read than asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadExactError {
    #[error("the stream ended after {0} bytes")]
    FinishedEarly(usize),
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// A half that has ended already cannot be ended again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("that half of the stream has ended before")]
pub struct HalfEnded;

impl From<quinn::WriteError> for WriteError {
    fn from(error: quinn::WriteError) -> Self {
        match error {
            quinn::WriteError::Stopped(code) => Self::Stopped(StreamCode::from_wire(code)),
            quinn::WriteError::ConnectionLost(error) => Self::Lost(LinkError(error)),
            // The second is of early data, which tunnels do not use.
            quinn::WriteError::ClosedStream | quinn::WriteError::ZeroRttRejected => Self::Closed,
        }
    }
}

impl From<quinn::ReadError> for ReadError {
    fn from(error: quinn::ReadError) -> Self {
        match error {
            quinn::ReadError::Reset(code) => Self::Reset(StreamCode::from_wire(code)),
            quinn::ReadError::ConnectionLost(error) => Self::Lost(LinkError(error)),
            // The second and third are of ways of reading that the halves do not offer.
            quinn::ReadError::ClosedStream
            | quinn::ReadError::IllegalOrderedRead
            | quinn::ReadError::ZeroRttRejected => Self::Closed,
        }
    }
}

impl From<WriteError> for io::Error {
    fn from(error: WriteError) -> Self {
        let kind = match error {
            WriteError::Stopped(_) => io::ErrorKind::ConnectionReset,
            WriteError::Closed | WriteError::Lost(_) => io::ErrorKind::NotConnected,
        };
        Self::new(kind, error)
    }
}

impl From<LinkError> for io::Error {
    fn from(error: LinkError) -> Self {
        error.0.into()
    }
}
