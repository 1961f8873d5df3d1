//! Writes chunks into a socket, keeping what it does not take.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;

use super::CHUNKS;

/// Chunks that a socket has not taken yet. Holds no memory while empty.
#[derive(Default)]
pub(super) struct WriteQueue(VecDeque<Bytes>);

impl WriteQueue {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Queues chunks behind those that wait.
    pub(super) fn push(&mut self, chunks: &mut [Bytes]) {
        self.0.extend(chunks.iter_mut().map(std::mem::take));
    }

    /// Writes once, if there is anything to write, and returns how many bytes the socket took.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        socket: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<u64>> {
        if self.0.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let written = ready!(poll_write_slices(cx, socket, self.0.iter()))?;
        self.take(written);
        Poll::Ready(Ok(written as u64))
    }

    /// Writes chunks that have just come, while nothing is queued before them, and queues what the socket does not take.
    /// Where it takes nothing now, the task has been registered to be woken.
    pub(super) fn poll_write_first(
        &mut self,
        cx: &mut Context<'_>,
        socket: &mut (impl AsyncWrite + Unpin),
        chunks: &mut [Bytes],
    ) -> io::Result<u64> {
        let mut written = match poll_write_slices(cx, socket, chunks.iter()) {
            Poll::Ready(written) => written?,
            Poll::Pending => 0,
        };
        let total = written as u64;
        for chunk in chunks {
            let taken = written.min(chunk.len());
            written -= taken;
            chunk.advance(taken);
            if !chunk.is_empty() {
                self.0.push_back(std::mem::take(chunk));
            }
        }
        Ok(total)
    }

    fn take(&mut self, mut written: usize) {
        while let Some(front) = self.0.front_mut() {
            if written < front.len() {
                front.advance(written);
                return;
            }
            written -= front.len();
            self.0.pop_front();
        }
        // A slow moment must not leave its memory with an idle connection.
        self.0 = VecDeque::new();
    }
}

fn poll_write_slices<'a>(
    cx: &mut Context<'_>,
    socket: &mut (impl AsyncWrite + Unpin),
    chunks: impl Iterator<Item = &'a Bytes>,
) -> Poll<io::Result<usize>> {
    let mut slices = [IoSlice::new(&[]); CHUNKS];
    let mut count = 0;
    for (slice, chunk) in slices.iter_mut().zip(chunks) {
        *slice = IoSlice::new(chunk);
        count += 1;
    }
    match ready!(Pin::new(socket).poll_write_vectored(cx, &slices[..count])) {
        Ok(0) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
        written => Poll::Ready(written),
    }
}

/// Sends FIN, with TLS's word for the end before it.
pub(super) fn poll_shutdown(
    socket: &mut (impl AsyncWrite + Unpin),
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    Pin::new(socket).poll_shutdown(cx)
}
