//! Last bytes of a socket that was reset: an instance that answers a request without reading all of it closes its connection so, and a reset of the
//! stream would overtake the answer.

use std::{
    future::poll_fn,
    task::{Context, Poll},
    time::Duration,
};

use causeway_tunnel::SendHalf;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::{RelayEnd, Socket, SocketToStream, chunk, socket::Reader};

/// Time that bytes have to reach the other side before it is told of the reset, from when they were read: some round trips.
const DELIVERY: Duration = Duration::from_millis(500);

/// Sends what lies in the socket, and waits until the other side wants no more, or has had time to take what was read lately.
pub(super) async fn hear_out(
    socket: &mut impl Socket,
    send: &mut SendHalf,
    up: &mut SocketToStream,
    cut: &CancellationToken,
) {
    let (mut reader, _) = socket.split();
    let delivered = async {
        poll_fn(|cx| poll_rest(cx, &mut reader, send, up)).await;
        let Some(read) = up.read_at else { return };
        let left = DELIVERY.saturating_sub(read.elapsed());
        // Who has an answer whole stops the stream.
        let _ = timeout(left, send.stopped()).await;
    };
    tokio::select! {
        () = cut.cancelled() => {}
        _ = timeout(2 * DELIVERY, delivered) => {}
    }
}

/// Goes on until the socket has nothing more. Its end may be that of the reset, and is never told as one.
fn poll_rest<R: Reader>(
    cx: &mut Context<'_>,
    reader: &mut R,
    send: &mut SendHalf,
    up: &mut SocketToStream,
) -> Poll<()> {
    if up.done {
        return Poll::Ready(());
    }
    loop {
        let written: Result<bool, RelayEnd> = up.poll_pending(cx, send);
        match written {
            Ok(true) => {}
            Ok(false) => return Poll::Pending,
            Err(_) => return Poll::Ready(()),
        }
        match chunk::poll_read(reader, cx, send.outlook()) {
            Poll::Ready(Ok(bytes)) if !bytes.is_empty() => up.take(bytes, Instant::now()),
            Poll::Ready(_) => return Poll::Ready(()),
            // Who wrote was told of the reset before who reads is; that comes.
            Poll::Pending => return Poll::Pending,
        }
    }
}
