//! The version that a client speaks, by the first bytes of its connection (RFC 9113, 3.4).

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf as _, Bytes};
use http::Version;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

use super::watched::WatchedClient;

/// Bytes that every connection of HTTP/2 begins with, and none of HTTP/1.1.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Client's socket whose first bytes were looked at, and are read again from here.
#[derive(Debug)]
pub(super) struct RecognisedClient {
    first: Bytes,
    io: WatchedClient,
}

/// Reads until it is clear which version a client speaks.
///
/// # Errors
/// Bytes of the client that cannot be read.
pub(super) async fn recognise(mut io: WatchedClient) -> io::Result<(Version, RecognisedClient)> {
    let mut first = [0; PREFACE.len()];
    let mut count = 0;
    let version = loop {
        let read = io.read(&mut first[count..]).await?;
        count += read;
        if read == 0 || !PREFACE.starts_with(&first[..count]) {
            break Version::HTTP_11;
        }
        if count == PREFACE.len() {
            break Version::HTTP_2;
        }
    };
    let first = Bytes::copy_from_slice(&first[..count]);
    Ok((version, RecognisedClient { first, io }))
}

impl AsyncRead for RecognisedClient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buffer);
        }
        let count = self.first.len().min(buffer.remaining());
        buffer.put_slice(&self.first[..count]);
        self.first.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for RecognisedClient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
