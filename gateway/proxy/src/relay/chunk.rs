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

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::AsyncRead;
use tokio_util::io::poll_read_buf;

/// Size of the shared chunk, and the most that is read at once.
const CHUNK_BYTES: usize = 256 * 1024;
/// A chunk with less room than this is left to its readers, and a new one begun.
const ROOM_BYTES: usize = 64 * 1024;
/// Reads up to this size are copied out, so that what waits for a slow peer does not keep a chunk alive of which it is less than an
/// eighth. Copying so much costs a few microseconds, less than the read itself.
const COPY_BYTES: usize = 32 * 1024;
/// Least that is read at once, if there is so much, however little can be written on.
const LEAST_READ_BYTES: usize = 16 * 1024;

thread_local! {
    /// Scratch space, not state: what is in it has been handed over.
    static CHUNK: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

/// The next bytes of `socket`, about as many as `limit` at most; empty at its end. Nothing is held while it is pending.
pub(super) fn poll_read(
    socket: &mut (impl AsyncRead + Unpin),
    cx: &mut Context<'_>,
    limit: usize,
) -> Poll<io::Result<Bytes>> {
    CHUNK.with_borrow_mut(|chunk| {
        if chunk.capacity() - chunk.len() < ROOM_BYTES {
            *chunk = BytesMut::with_capacity(CHUNK_BYTES);
        }
        let mut room = (&mut *chunk).limit(limit.max(LEAST_READ_BYTES));
        let read = ready!(poll_read_buf(Pin::new(socket), cx, &mut room))?;
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

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    /// Reads `sizes` in turn, of which the next ones do not come together with the one before.
    fn read(sizes: &[usize]) -> Vec<Bytes> {
        let mut context = Context::from_waker(Waker::noop());
        let each = sizes.iter().map(|size| {
            let sent = vec![7; *size];
            let Poll::Ready(read) = poll_read(&mut sent.as_slice(), &mut context, usize::MAX) else {
                panic!("bytes that are there are read at once");
            };
            read.unwrap()
        });
        each.collect()
    }

    #[test]
    fn bytes_that_wait_keep_no_more_than_eight_times_their_size() {
        for size in [1, 1_400, 5_000, CHUNK_BYTES / 8] {
            let mut waiting = read(&[size, 1]);
            assert_eq!(waiting[0].len(), size);
            // One that shares a chunk with others could not be taken back.
            assert!(
                waiting.swap_remove(0).try_into_mut().is_ok(),
                "{size} bytes share a chunk"
            );
        }
        let mut large = read(&[CHUNK_BYTES / 8 + 1, 1]);
        assert!(large.swap_remove(0).try_into_mut().is_err(), "without a copy");
    }
}
