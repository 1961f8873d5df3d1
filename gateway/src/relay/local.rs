//! Relays between two sockets, for instances of the client's own zone.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use prometheus_client::metrics::counter::Counter;
use tokio::{io::AsyncWrite, net::TcpStream};
use tokio_util::sync::CancellationToken;

use super::{
    End, Meters, Reader, Relayed, Socket, chunk,
    write::{self, Queue},
};

/// From one socket into another.
struct Way {
    pending: Queue,
    bytes: u64,
    meter: Counter,
    done: bool,
}

/// Which of the two sockets failed.
enum Failed {
    Reader,
    Writer,
}

impl Way {
    fn new(meter: Counter) -> Self {
        Self {
            pending: Queue::default(),
            bytes: 0,
            meter,
            done: false,
        }
    }

    fn count(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.meter.inc_by(bytes);
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut impl Reader,
        to: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<Result<(), Failed>> {
        let writer = |_: io::Error| Failed::Writer;
        while !self.done {
            let wrote = ready!(self.pending.poll_write(cx, to)).map_err(writer)?;
            self.count(wrote);
            if !self.pending.is_empty() {
                continue;
            }
            let Poll::Ready(read) = chunk::poll_read(from, cx) else {
                // Nothing more comes for now, so nothing may be held back.
                ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(writer)?;
                return Poll::Pending;
            };
            let read: Bytes = read.map_err(|_| Failed::Reader)?;
            if read.is_empty() {
                ready!(write::poll_shutdown(to, cx)).map_err(writer)?;
                self.done = true;
            } else {
                let wrote = self.pending.poll_write_first(cx, to, &mut [read]);
                self.count(wrote.map_err(writer)?);
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Relays between a client and an instance until both directions are done, one is reset, or `cut` is cancelled. On
/// anything but [`End::Finished`] both sockets send RST when the caller drops them.
pub async fn sockets(
    client: &mut impl Socket,
    instance: &mut TcpStream,
    meters: Meters,
    cut: &CancellationToken,
) -> Relayed {
    let mut up = Way::new(meters.sent);
    let mut down = Way::new(meters.received);
    let end = match cut
        .run_until_cancelled(both_ways(client, instance, &mut up, &mut down))
        .await
    {
        Some(Ok(())) => End::Finished,
        Some(Err(end)) => end,
        None => End::Cut,
    };
    if end != End::Finished {
        let _ = client.reset_on_drop();
        let _ = instance.set_zero_linger();
    }
    Relayed {
        sent: up.bytes,
        received: down.bytes,
        end,
    }
}

async fn both_ways(
    client: &mut impl Socket,
    instance: &mut TcpStream,
    up: &mut Way,
    down: &mut Way,
) -> Result<(), End> {
    let (mut from_client, mut to_client) = client.split();
    let (mut from_instance, mut to_instance) = instance.split();
    let one_done = |cx: &mut Context<'_>| {
        let up = up.poll(cx, &mut from_client, &mut to_instance).map_err(upward)?;
        let down = down
            .poll(cx, &mut from_instance, &mut to_client)
            .map_err(downward)?;
        if up.is_ready() || down.is_ready() {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    };
    poll_fn(one_done).await?;
    // The side that has sent its FIN is not read any more; only its error readiness tells of a reset.
    if !up.done {
        return tokio::select! {
            ended = poll_fn(|cx| up.poll(cx, &mut from_client, &mut to_instance)) => ended.map_err(upward),
            () = from_instance.failed() => Err(End::PeerReset),
        };
    }
    if !down.done {
        return tokio::select! {
            ended = poll_fn(|cx| down.poll(cx, &mut from_instance, &mut to_client)) => ended.map_err(downward),
            () = from_client.failed() => Err(End::SocketReset),
        };
    }
    Ok(())
}

fn upward(failed: Failed) -> End {
    match failed {
        Failed::Reader => End::SocketReset,
        Failed::Writer => End::PeerReset,
    }
}

fn downward(failed: Failed) -> End {
    match failed {
        Failed::Reader => End::PeerReset,
        Failed::Writer => End::SocketReset,
    }
}
