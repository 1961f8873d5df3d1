//! A limit on the time for which a client takes nothing of what it asked for, since what it does not read takes memory here.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use causeway_host::write_stall::WriteStall;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Longest time for which a client may take nothing.
pub(super) const STALL_LIMIT: Duration = Duration::from_secs(30);

/// Stream whose writes fail once the other side has taken nothing for so long.
#[derive(Debug)]
pub(super) struct WithinStall<S> {
    stream: S,
    stall: WriteStall,
}

impl<S> WithinStall<S> {
    pub(super) fn new(stream: S, limit: Duration) -> Self {
        let stall = WriteStall::new(limit);
        Self { stream, stall }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WithinStall<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WithinStall<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.stall.watch(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.stall.watch(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.stall.watch(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ended = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.stall.watch(cx, ended)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn a_client_that_takes_nothing_ends_its_connection_and_one_that_reads_does_not() {
        let (client, server) = duplex(16);
        let mut server = WithinStall::new(server, Duration::from_millis(50));
        let unread = server.write_all(&[7; 1000]).await.unwrap_err();
        assert_eq!(unread.kind(), io::ErrorKind::TimedOut);
        drop(client);
        let (mut client, server) = duplex(16);
        let mut server = WithinStall::new(server, STALL_LIMIT);
        let mut read = Vec::new();
        let writing = async {
            server.write_all(&[7; 1000]).await.unwrap();
            server.shutdown().await.unwrap();
        };
        let ((), all) = tokio::join!(writing, client.read_to_end(&mut read));
        assert_eq!((all.unwrap(), read), (1000, vec![7; 1000]));
    }
}
