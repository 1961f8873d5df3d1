//! Answers before the answer (1xx), from the instance to the client: hyper takes one answer for each request, so these are
//! written beside it, at a moment when it has nothing to write.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::Notify,
};

use crate::http::{headers::strip_bodiless, limits::MAX_INTERIM_BYTES};

/// Interim answers that are still to be written.
#[derive(Debug, Default)]
pub(super) struct InterimQueue {
    waiting: Mutex<InterimBytes>,
    written: Notify,
}

#[derive(Debug, Default)]
struct InterimBytes {
    bytes: BytesMut,
    /// A part has been taken and is not written yet.
    is_writing: bool,
}

impl InterimQueue {
    /// Puts an answer last. One for which there is no room is left out: a client can do without it.
    pub(super) fn push(&self, status: StatusCode, headers: &HeaderMap) {
        let mut headers = headers.clone();
        strip_bodiless(&mut headers);
        let mut bytes = BytesMut::new();
        let reason = status.canonical_reason().unwrap_or("Interim");
        bytes.put_slice(format!("HTTP/1.1 {} {reason}\r\n", status.as_u16()).as_bytes());
        for (name, value) in &headers {
            bytes.put_slice(name.as_str().as_bytes());
            bytes.put_slice(b": ");
            bytes.put_slice(value.as_bytes());
            bytes.put_slice(b"\r\n");
        }
        bytes.put_slice(b"\r\n");
        let mut waiting = self.waiting.lock();
        if waiting.bytes.len() + bytes.len() <= MAX_INTERIM_BYTES {
            waiting.bytes.extend_from_slice(&bytes);
        }
    }

    /// Waits until all have been written: the answer itself comes after them.
    pub(super) async fn written(&self) {
        loop {
            let written = self.written.notified();
            if self.is_empty() {
                return;
            }
            written.await;
        }
    }

    fn is_empty(&self) -> bool {
        let waiting = self.waiting.lock();
        waiting.bytes.is_empty() && !waiting.is_writing
    }

    /// Takes what is to be written next. Nothing: all is written.
    fn take(&self) -> Bytes {
        let mut waiting = self.waiting.lock();
        let bytes = waiting.bytes.split().freeze();
        let was_writing = std::mem::replace(&mut waiting.is_writing, !bytes.is_empty());
        drop(waiting);
        if was_writing && bytes.is_empty() {
            self.written.notify_one();
        }
        bytes
    }
}

/// A client's socket on which interim answers are written between hyper's.
#[derive(Debug)]
pub(super) struct InterimClient<S> {
    socket: S,
    queue: Arc<InterimQueue>,
    /// Bytes that have been taken and are not written.
    taken: Bytes,
}

impl<S> InterimClient<S> {
    pub(super) fn new(socket: S, queue: Arc<InterimQueue>) -> Self {
        Self {
            socket,
            queue,
            taken: Bytes::new(),
        }
    }
}

impl<S: AsyncWrite + Unpin> InterimClient<S> {
    fn poll_taken(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.taken.is_empty() {
            let written = ready!(Pin::new(&mut self.socket).poll_write(cx, &self.taken))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.taken.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for InterimClient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for InterimClient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_taken(cx))?;
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_taken(cx))?;
        Pin::new(&mut self.socket).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    /// Hyper flushes when it has nothing left to write: the place for what was written beside it.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_taken(cx))?;
            self.taken = self.queue.take();
            if self.taken.is_empty() {
                return Pin::new(&mut self.socket).poll_flush(cx);
            }
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_taken(cx))?;
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
