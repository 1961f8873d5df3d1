//! The half of a stream that the peer writes.

use std::{
    future::Future as _,
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use quinn::{Connection, RecvStream, VarInt};
use tokio::io::{AsyncRead, ReadBuf};

use super::{HalfEnded, ReadError, ReadExactError, StreamCode};
use crate::{
    class::CarriedHalf,
    credit::{Credit, TELL_EVERY_BYTES},
    ledger::UNCOUNTED_BYTES,
};

/// The half that the peer writes. Dropping it tells the peer to stop.
#[derive(Debug)]
pub struct RecvHalf {
    quinn: RecvStream,
    taken: u64,
    /// Bytes of `taken` that the peer has been told of.
    told: u64,
    ended: bool,
    /// Account by which the peer is told; `None`: it need not be.
    pub(super) credit: Option<Arc<Credit>>,
    pub(super) carried: CarriedHalf,
    /// Knows whether the tunnel is gone; `None`: nobody asks.
    pub(super) link: Option<Connection>,
}

impl RecvHalf {
    pub(crate) fn of(quinn: RecvStream) -> Self {
        Self {
            quinn,
            taken: 0,
            told: 0,
            ended: false,
            credit: None,
            carried: CarriedHalf::default(),
            link: None,
        }
    }

    #[inline]
    fn count(&mut self, taken: usize) {
        self.taken += taken as u64;
        self.carried.count(self.taken);
        if self.taken >= UNCOUNTED_BYTES && self.taken - self.told >= TELL_EVERY_BYTES {
            self.tell(false);
        }
    }

    fn tell(&mut self, done: bool) {
        let more = self.taken - std::mem::replace(&mut self.told, self.taken);
        if let Some(credit) = &self.credit {
            credit.took(VarInt::from(self.quinn.id()).into_inner(), self.taken, more, done);
        }
    }

    /// The end was read. One who wrote less than is counted need not be told.
    fn end(&mut self) {
        if !std::mem::replace(&mut self.ended, true) && self.taken >= UNCOUNTED_BYTES {
            self.tell(true);
        }
    }

    /// Nothing more is read, though more may come.
    fn abandon(&mut self) {
        if !std::mem::replace(&mut self.ended, true) {
            self.tell(true);
        }
    }

    /// Gives the chunks that have come, at most as many as `chunks` has room for; `None` at the end. They count as taken once the caller
    /// says that it holds them no more: [`RecvHalf::took`]. Cancel-safe.
    ///
    /// # Errors
    /// When the peer has reset the stream or is gone.
    #[inline]
    pub async fn read_chunks(&mut self, chunks: &mut [Bytes]) -> Result<Option<usize>, ReadError> {
        match self.quinn.read_chunks(chunks).await? {
            Some(count) => Ok(Some(count)),
            None => {
                self.end();
                Ok(None)
            }
        }
    }

    /// Takes down that so many of the bytes that [`RecvHalf::read_chunks`] gave are held no more.
    #[inline]
    pub fn took(&mut self, bytes: usize) {
        self.count(bytes);
    }

    /// Looks whether the peer has reset the stream or is gone, and takes nothing. Where bytes have come that were not read, nobody is woken
    /// later: it has to be asked again.
    pub fn poll_failed(&mut self, cx: &mut Context<'_>) -> Poll<ReadError> {
        // A reset drops what has come, so a read of nothing finds it in front.
        match pin!(self.quinn.read_chunk(0, true)).poll(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(error.into()),
            Poll::Ready(Ok(_)) | Poll::Pending => Poll::Pending,
        }
    }

    /// Tells whether the tunnel is gone: what has come can be read yet, and nothing more comes.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        let end = self.link.as_ref().and_then(Connection::close_reason);
        end.is_some()
    }

    /// Takes the next chunk, of at most `limit` bytes; `None` at the end. Cancel-safe.
    ///
    /// # Errors
    /// When the peer has reset the stream or is gone.
    #[inline]
    pub async fn read_chunk(&mut self, limit: usize) -> Result<Option<Bytes>, ReadError> {
        match self.quinn.read_chunk(limit, true).await? {
            Some(chunk) => {
                self.count(chunk.bytes.len());
                Ok(Some(chunk.bytes))
            }
            None => {
                self.end();
                Ok(None)
            }
        }
    }

    /// Fills `bytes`. Not cancel-safe.
    ///
    /// # Errors
    /// When the stream ends first, was reset, or the peer is gone.
    #[inline]
    pub async fn read_exact(&mut self, bytes: &mut [u8]) -> Result<(), ReadExactError> {
        let read = self.quinn.read_exact(bytes).await;
        if read.is_ok() {
            self.count(bytes.len());
        }
        read.map_err(|error| match error {
            quinn::ReadExactError::FinishedEarly(read) => ReadExactError::FinishedEarly(read),
            quinn::ReadExactError::ReadError(error) => ReadExactError::Read(error.into()),
        })
    }

    /// Tells the peer that nothing more is read, and drops what has come.
    ///
    /// # Errors
    /// When the half has ended already.
    #[inline]
    pub fn stop(&mut self, code: StreamCode) -> Result<(), HalfEnded> {
        self.abandon();
        self.quinn.stop(code.to_wire()).map_err(|_| HalfEnded)
    }

    /// Waits for the peer's reset, or for the end: then there is none.
    ///
    /// # Errors
    /// When the peer is gone.
    #[cfg(feature = "test-util")]
    pub async fn received_reset(&mut self) -> Result<Option<StreamCode>, ReadError> {
        match self.quinn.received_reset().await {
            Ok(code) => Ok(code.map(StreamCode::from_wire)),
            Err(quinn::ResetError::ConnectionLost(error)) => Err(ReadError::Lost(super::LinkError(error))),
            Err(quinn::ResetError::ZeroRttRejected) => Err(ReadError::Closed),
        }
    }

    /// Reads all that comes to the end, which a test expects to be at most `limit` bytes.
    ///
    /// # Errors
    /// When it was reset, or the peer is gone.
    ///
    /// # Panics
    /// When it is longer.
    #[cfg(feature = "test-util")]
    pub async fn read_to_end(&mut self, limit: usize) -> Result<Vec<u8>, ReadError> {
        let mut all = Vec::new();
        while let Some(chunk) = self.read_chunk(limit + 1).await? {
            all.extend_from_slice(&chunk);
            assert!(all.len() <= limit, "more than {limit} bytes");
        }
        Ok(all)
    }
}

impl AsyncRead for RecvHalf {
    #[inline]
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(AsyncRead::poll_read(Pin::new(&mut self.quinn), cx, buffer))?;
        match buffer.filled().len() - before {
            0 if buffer.remaining() > 0 => self.end(),
            read => self.count(read),
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for RecvHalf {
    fn drop(&mut self) {
        self.abandon();
    }
}
