//! The half of a stream that this side writes.

use std::{
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use quinn::{SendStream, VarInt};
use tokio::io::AsyncWrite;

use super::{HalfEnded, LinkError, StreamCode, WriteError};
use crate::{class::CarriedHalf, credit::Credit, ledger::UNCOUNTED_BYTES};

/// Priority of what gateways tell each other for themselves, before the bytes of connections (0).
const CONTROL_PRIORITY: i32 = 1;

/// The half that this side writes. Dropping it ends it as if all had been written.
#[derive(Debug)]
pub struct SendHalf {
    quinn: SendStream,
    written: u64,
    /// Account of what the peer has not taken; `None`: it is not counted.
    pub(super) credit: Option<Arc<Credit>>,
    pub(super) carried: CarriedHalf,
}

impl SendHalf {
    pub(crate) fn of(quinn: SendStream) -> Self {
        Self {
            quinn,
            written: 0,
            credit: None,
            carried: CarriedHalf::default(),
        }
    }

    pub(crate) fn hurry(&self) {
        // It fails only where the half has ended.
        let _ = self.quinn.set_priority(CONTROL_PRIORITY);
    }

    fn id(&self) -> u64 {
        VarInt::from(self.quinn.id()).into_inner()
    }

    /// Says how many bytes it may write about now without being held back; so a caller need not hold more.
    #[inline]
    #[must_use]
    pub fn outlook(&self) -> usize {
        let outlook = self
            .credit
            .as_ref()
            .map(|credit| credit.outlook(self.id(), self.written));
        outlook.map_or(usize::MAX, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX))
    }

    /// Waits until some of `wanted` bytes may be written, and says how many.
    #[inline]
    fn poll_room(&self, cx: &mut Context<'_>, wanted: usize) -> Poll<usize> {
        match &self.credit {
            Some(credit) if self.written + wanted as u64 >= UNCOUNTED_BYTES => {
                let claim = ready!(credit.poll_claim(cx, self.id(), self.written));
                if let Some(priority) = claim.priority {
                    // It fails only where the half has ended.
                    let _ = self.quinn.set_priority(priority);
                }
                Poll::Ready(usize::try_from(claim.room).unwrap_or(usize::MAX).min(wanted))
            }
            _ => Poll::Ready(wanted),
        }
    }

    #[inline]
    fn count(&mut self, written: usize) {
        self.written += written as u64;
        self.carried.count(self.written);
        if let Some(credit) = &self.credit
            && self.written >= UNCOUNTED_BYTES
        {
            credit.wrote(self.id(), self.written);
        }
    }

    /// Nothing of this stream lies at the other side any more.
    fn forget(&mut self) {
        if let Some(credit) = self.credit.take() {
            credit.close(self.id());
        }
    }

    /// Writes some of `chunks` without copying them and takes what was written out of them. Zero: there is nothing to write.
    ///
    /// # Errors
    /// When the peer has stopped the stream or is gone.
    #[inline]
    pub fn poll_write_chunks(
        &mut self,
        cx: &mut Context<'_>,
        chunks: &mut [Bytes],
    ) -> Poll<Result<usize, WriteError>> {
        let wanted = chunks.iter().map(Bytes::len).sum();
        let room = ready!(self.poll_room(cx, wanted));
        let written = if room == wanted {
            let written = ready!(pin!(self.quinn.write_chunks(chunks)).poll(cx));
            written.map(|written| written.bytes)
        } else {
            ready!(self.poll_write_part(cx, chunks, room))
        };
        match written {
            Ok(written) => {
                self.count(written);
                Poll::Ready(Ok(written))
            }
            Err(error) => {
                self.forget();
                Poll::Ready(Err(error.into()))
            }
        }
    }

    /// Writes at most `room` bytes of the first chunk that has any.
    fn poll_write_part(
        &mut self,
        cx: &mut Context<'_>,
        chunks: &mut [Bytes],
        room: usize,
    ) -> Poll<Result<usize, quinn::WriteError>> {
        let Some(chunk) = chunks.iter_mut().find(|chunk| !chunk.is_empty()) else {
            return Poll::Ready(Ok(0));
        };
        let mut part = [chunk.slice(..room.min(chunk.len()))];
        let written = ready!(pin!(self.quinn.write_chunks(&mut part)).poll(cx))?.bytes;
        chunk.advance(written);
        Poll::Ready(Ok(written))
    }

    /// Writes some of `chunks` without copying them and takes what was written out of them. Cancel-safe.
    ///
    /// # Errors
    /// When the peer has stopped the stream or is gone.
    #[inline]
    pub async fn write_chunks(&mut self, chunks: &mut [Bytes]) -> Result<usize, WriteError> {
        poll_fn(|cx| self.poll_write_chunks(cx, chunks)).await
    }

    /// Writes all of `chunk`, without copying it. Not cancel-safe.
    ///
    /// # Errors
    /// When the peer has stopped the stream or is gone.
    #[inline]
    pub async fn write_chunk(&mut self, chunk: Bytes) -> Result<(), WriteError> {
        let mut rest = [chunk];
        while !rest[0].is_empty() {
            self.write_chunks(&mut rest).await?;
        }
        Ok(())
    }

    /// Writes a copy of all of `bytes`. Not cancel-safe.
    ///
    /// # Errors
    /// When the peer has stopped the stream or is gone.
    #[inline]
    pub async fn write_all(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let written = poll_fn(|cx| self.poll_write(cx, rest)).await?;
            rest = &rest[written..];
        }
        Ok(())
    }

    #[inline]
    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize, WriteError>> {
        let room = ready!(self.poll_room(cx, bytes.len()));
        match ready!(Pin::new(&mut self.quinn).poll_write(cx, &bytes[..room])) {
            Ok(written) => {
                self.count(written);
                Poll::Ready(Ok(written))
            }
            Err(error) => {
                self.forget();
                Poll::Ready(Err(error.into()))
            }
        }
    }

    /// Ends this half: what was written is delivered, then the peer reads the end.
    ///
    /// # Errors
    /// When it has ended already.
    #[inline]
    pub fn finish(&mut self) -> Result<(), HalfEnded> {
        self.quinn.finish().map_err(|_| HalfEnded)
    }

    /// Ends this half at once; what was not delivered yet is not any more.
    ///
    /// # Errors
    /// When it has ended already.
    #[inline]
    pub fn reset(&mut self, code: StreamCode) -> Result<(), HalfEnded> {
        self.forget();
        self.quinn.reset(code.to_wire()).map_err(|_| HalfEnded)
    }

    /// Waits until the peer reads no more, with its code, or has received all to the end, without one.
    ///
    /// # Errors
    /// When the tunnel is lost first.
    #[inline]
    pub fn stopped(
        &self,
    ) -> impl Future<Output = Result<Option<StreamCode>, LinkError>> + Send + Sync + use<> {
        let stopped = self.quinn.stopped();
        async move {
            match stopped.await {
                Ok(code) => Ok(code.map(StreamCode::from_wire)),
                Err(quinn::StoppedError::ConnectionLost(error)) => Err(LinkError(error)),
                // Of early data, which tunnels do not use.
                Err(quinn::StoppedError::ZeroRttRejected) => Ok(None),
            }
        }
    }
}

impl AsyncWrite for SendHalf {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().poll_write(cx, bytes).map_err(io::Error::from)
    }

    #[inline]
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.quinn).poll_flush(cx)
    }

    #[inline]
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.quinn).poll_shutdown(cx)
    }
}

impl Drop for SendHalf {
    fn drop(&mut self) {
        if let Some(credit) = &self.credit {
            match self.written >= UNCOUNTED_BYTES {
                // The peer tells when it has taken the rest.
                true => credit.leave(self.id()),
                false => credit.close(self.id()),
            }
        }
    }
}
