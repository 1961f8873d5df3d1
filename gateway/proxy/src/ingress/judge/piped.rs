//! The two sockets of what reads calls: one end of a pipe, which is the relay's, and the instance's.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use causeway_host::own_sockets::OwnSocket;
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, ReadHalf, WriteHalf, split},
    net::TcpStream,
};

use crate::relay::{Reader, Socket};

/// Socket of an instance, by which it is known again if it comes back.
pub(super) struct KnownSocket {
    /// Before the socket, because it is to be given up first.
    #[expect(dead_code, reason = "it is held")]
    pub(super) own: OwnSocket,
    pub(super) socket: TcpStream,
}

impl AsyncRead for KnownSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buffer)
    }
}

impl AsyncWrite for KnownSocket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// The relay's end of a pipe.
pub(super) struct PipedSocket(pub(super) DuplexStream);

impl Socket for PipedSocket {
    type Reader<'a> = ReadHalf<&'a mut DuplexStream>;
    type Writer<'a> = WriteHalf<&'a mut DuplexStream>;

    fn split(&mut self) -> (Self::Reader<'_>, Self::Writer<'_>) {
        split(&mut self.0)
    }

    fn reset_on_drop(&self) -> io::Result<()> {
        Ok(())
    }
}

impl Reader for ReadHalf<&mut DuplexStream> {
    async fn failed(&self) {
        // The other end is let go of only with the relay, or read to its end.
        std::future::pending().await
    }
}
