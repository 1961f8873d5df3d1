//! A client's socket as hyper takes it: plain or over TLS, with an eye on when bytes come and whether they are taken.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use causeway_host::write_stall::{WriteStall, is_stall};
use futures_util::FutureExt as _;
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
};

use super::watch::ClientWatch;
use crate::egress::{
    client::ClientSocket,
    tls::{SharedTcpStream, TlsSocket},
};

/// Client's socket that hyper reads and writes, and others watch and reset. Clones are the same socket.
#[derive(Debug, Clone)]
pub(super) enum SharedClient {
    Plain(SharedTcpStream),
    Tls(Arc<TlsSocket>),
}

impl SharedClient {
    pub(super) fn new(socket: ClientSocket) -> Self {
        match socket {
            ClientSocket::Plain(socket) => Self::Plain(SharedTcpStream::new(socket)),
            ClientSocket::Tls(socket) => Self::Tls(Arc::new(*socket)),
        }
    }

    pub(super) fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket.tcp(),
            Self::Tls(socket) => socket.tcp(),
        }
    }

    /// Has it send RST, and no FIN, once nobody has it any more: a FIN would look like the end of an answer.
    pub(super) fn reset_on_drop(&self) {
        // It fails only where the connection is gone.
        let _ = self.tcp().set_zero_linger();
    }

    /// Tells whether the client has ended its side. Reads nothing.
    pub(super) fn is_finished(&self) -> bool {
        let ready = self.tcp().ready(Interest::READABLE).now_or_never();
        ready.is_some_and(|ready| ready.is_ok_and(|ready| ready.is_read_closed()))
    }

    /// Waits until the client has reset the connection. Reads nothing.
    pub(super) async fn failed(&self) {
        let _ = self.tcp().ready(Interest::ERROR).await;
    }
}

/// The end that hyper has.
#[derive(Debug)]
pub(super) struct WatchedClient {
    socket: SharedClient,
    watch: Arc<ClientWatch>,
    stall: WriteStall,
}

impl WatchedClient {
    pub(super) fn new(socket: SharedClient, watch: Arc<ClientWatch>, stall_limit: Duration) -> Self {
        Self {
            socket,
            watch,
            stall: WriteStall::new(stall_limit),
        }
    }

    fn wrote(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let written = ready!(self.stall.watch(cx, written));
        match &written {
            Ok(0) => {}
            Ok(_) => self.watch.moved(),
            Err(error) if is_stall(error) => {
                self.watch.stalled();
                self.socket.reset_on_drop();
            }
            Err(_) => {}
        }
        Poll::Ready(written)
    }
}

impl AsyncRead for SharedClient {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &*self {
            Self::Plain(socket) => Pin::new(&mut socket.clone()).poll_read(cx, buffer),
            Self::Tls(socket) => Pin::new(&mut socket.half()).poll_read(cx, buffer),
        }
    }
}

impl AsyncRead for WatchedClient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.socket).poll_read(cx, buffer))?;
        if buffer.filled().len() > before {
            self.watch.read();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for WatchedClient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = match &self.socket {
            SharedClient::Plain(socket) => Pin::new(&mut socket.clone()).poll_write(cx, bytes),
            SharedClient::Tls(socket) => Pin::new(&mut socket.half()).poll_write(cx, bytes),
        };
        self.wrote(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = match &self.socket {
            SharedClient::Plain(socket) => Pin::new(&mut socket.clone()).poll_write_vectored(cx, slices),
            SharedClient::Tls(socket) => Pin::new(&mut socket.half()).poll_write_vectored(cx, slices),
        };
        self.wrote(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = match &self.socket {
            SharedClient::Plain(_) => return Poll::Ready(Ok(())),
            SharedClient::Tls(socket) => Pin::new(&mut socket.half()).poll_flush(cx),
        };
        self.stall.watch(cx, flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.socket {
            SharedClient::Plain(socket) => Pin::new(&mut socket.clone()).poll_shutdown(cx),
            SharedClient::Tls(socket) => Pin::new(&mut socket.half()).poll_shutdown(cx),
        }
    }
}
