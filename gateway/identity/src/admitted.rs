//! A connection as a gRPC server takes it: its byte stream, who is at the other end, and the place it holds.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

/// A connection that was let in, for a gRPC server: its byte stream, who is at the other end, and the place that it holds
/// among those that are served at once.
pub struct Admitted<S, F, P> {
    stream: S,
    from: F,
    _place: P,
}

impl<S, F, P> Admitted<S, F, P> {
    /// Calls on this connection find `from` among their extensions; `place` is free again when it is dropped.
    pub fn new(stream: S, from: F, place: P) -> Self {
        Self {
            stream,
            from,
            _place: place,
        }
    }
}

impl<S, F: Clone + Send + Sync + 'static, P> Connected for Admitted<S, F, P> {
    type ConnectInfo = F;

    fn connect_info(&self) -> F {
        self.from.clone()
    }
}

impl<S: AsyncRead + Unpin, F: Unpin, P: Unpin> AsyncRead for Admitted<S, F, P> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin, F: Unpin, P: Unpin> AsyncWrite for Admitted<S, F, P> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
