//! A client's socket that speaks TLS, as the relay takes it: decrypted bytes out, bytes to encrypt in, and the TCP socket
//! itself for what only it can tell.

use std::{
    io::{self, IoSlice},
    net::Shutdown,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use parking_lot::Mutex;
use rustls_pki_types::CertificateDer;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;

use crate::relay::{Reader, Socket};

/// The TCP socket below TLS, shared with those who only wait for its failure.
#[derive(Debug, Clone)]
pub(in crate::egress) struct SharedTcpStream(Arc<TcpStream>);

impl SharedTcpStream {
    pub(in crate::egress) fn new(socket: TcpStream) -> Self {
        Self(Arc::new(socket))
    }

    pub(in crate::egress) fn tcp(&self) -> &TcpStream {
        &self.0
    }
}

impl AsyncRead for SharedTcpStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(cx))?;
            match self.0.try_read(buffer.initialize_unfilled()) {
                Ok(read) => {
                    buffer.advance(read);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl SharedTcpStream {
    fn poll_try(
        &self,
        cx: &mut Context<'_>,
        mut attempt: impl FnMut(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(cx))?;
            match attempt(&self.0) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }
}

impl AsyncWrite for SharedTcpStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_try(cx, |socket| socket.try_write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_try(cx, |socket| socket.try_write_vectored(slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(SockRef::from(&*self.0).shutdown(Shutdown::Write))
    }
}

/// A client after its handshake. Its end is the `close_notify` of TLS, in both directions; a connection that ends without one
/// was cut short, and reads fail.
#[derive(Debug)]
pub(in crate::egress) struct TlsSocket {
    wire: SharedTcpStream,
    /// Locked for the length of a poll, by the one task that has the connection: never waited for.
    stream: Mutex<TlsStream<SharedTcpStream>>,
}

impl TlsSocket {
    pub(super) fn new(wire: SharedTcpStream, stream: TlsStream<SharedTcpStream>) -> Self {
        Self {
            wire,
            stream: Mutex::new(stream),
        }
    }

    /// Chain that the client showed, its own certificate first.
    pub(super) fn chain(&self) -> Option<Arc<[CertificateDer<'static>]>> {
        let stream = self.stream.lock();
        let chain = stream.get_ref().1.peer_certificates()?;
        Some(chain.into())
    }

    pub(in crate::egress) fn tcp(&self) -> &TcpStream {
        self.wire.tcp()
    }

    pub(in crate::egress) fn half(&self) -> TlsHalf<'_> {
        TlsHalf(self)
    }
}

impl Socket for TlsSocket {
    type Reader<'a> = TlsHalf<'a>;
    type Writer<'a> = TlsHalf<'a>;

    fn split(&mut self) -> (TlsHalf<'_>, TlsHalf<'_>) {
        (TlsHalf(self), TlsHalf(self))
    }

    fn reset_on_drop(&self) -> io::Result<()> {
        self.tcp().set_zero_linger()
    }
}

/// One direction of a client's socket.
#[derive(Debug)]
pub(in crate::egress) struct TlsHalf<'a>(&'a TlsSocket);

impl Reader for TlsHalf<'_> {
    async fn failed(&self) {
        // A readiness that cannot be waited for is a failure too.
        let _ = self.0.tcp().ready(Interest::ERROR).await;
    }
}

impl AsyncRead for TlsHalf<'_> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.stream.lock()).poll_read(cx, buffer)
    }
}

impl AsyncWrite for TlsHalf<'_> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.stream.lock()).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.stream.lock()).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.stream.lock()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.stream.lock()).poll_shutdown(cx)
    }
}
