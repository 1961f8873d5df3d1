//! Reads from a socket into a chunk that all connections of a thread share.
//!
//! A buffer of its own would cost each idle connection its size, and an allocation for every read otherwise. Here, a read
//! takes the next part of a large chunk and hands it over as `Bytes`; the chunk is freed when its last part is.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncRead;
use tokio_util::io::poll_read_buf;

/// Size of the shared chunk, and the most that is read at once.
const CHUNK_BYTES: usize = 256 * 1024;
/// A chunk with less room than this is left to its readers, and a new one begun.
const ROOM_BYTES: usize = 64 * 1024;
/// Reads up to this size are copied out, so that a few bytes waiting for a slow peer do not keep a whole chunk alive.
const COPY_BYTES: usize = 4 * 1024;

thread_local! {
    /// Scratch space, not state: what is in it has been handed over.
    static CHUNK: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

/// The next bytes of `socket`; empty at its end. Nothing is held while it is pending.
pub(super) fn poll_read(
    socket: &mut (impl AsyncRead + Unpin),
    cx: &mut Context<'_>,
) -> Poll<io::Result<Bytes>> {
    CHUNK.with_borrow_mut(|chunk| {
        if chunk.capacity() - chunk.len() < ROOM_BYTES {
            *chunk = BytesMut::with_capacity(CHUNK_BYTES);
        }
        let read = ready!(poll_read_buf(Pin::new(socket), cx, chunk))?;
        let bytes = if read <= COPY_BYTES {
            let bytes = Bytes::copy_from_slice(chunk);
            chunk.clear();
            bytes
        } else {
            chunk.split().freeze()
        };
        Poll::Ready(Ok(bytes))
    })
}
