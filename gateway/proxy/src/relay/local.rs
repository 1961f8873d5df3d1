//! Relays between two sockets, for instances of the client's own zone.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use prometheus_client::metrics::counter::Counter;
use tokio::{io::AsyncWrite, net::TcpStream};
use tokio_util::sync::CancellationToken;

use super::{
    Reader, RelayCounters, RelayEnd, RelayLimits, Relayed, Socket, chunk,
    idle::IdleTimer,
    source::ByteSource,
    write::{self, WriteQueue},
};

/// From one socket into another.
struct SocketToSocket {
    pending: WriteQueue,
    bytes: u64,
    meter: Counter,
    done: bool,
}

/// Socket that failed, of the two.
enum FailedSide {
    Reader,
    Writer,
}

impl SocketToSocket {
    fn new(meter: Counter) -> Self {
        Self {
            pending: WriteQueue::default(),
            bytes: 0,
            meter,
            done: false,
        }
    }

    fn count(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.meter.inc_by(bytes);
    }

    /// Tells whether its next step is to read.
    fn is_reading(&self) -> bool {
        !self.done && self.pending.is_empty()
    }

    /// Goes as far as it can now.
    fn poll<R: Reader>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut ByteSource<'_, R>,
        to: &mut (impl AsyncWrite + Unpin),
    ) -> Result<(), FailedSide> {
        let writer = |_: io::Error| FailedSide::Writer;
        while !self.done {
            let Poll::Ready(wrote) = self.pending.poll_write(cx, to) else {
                return Ok(());
            };
            self.count(wrote.map_err(writer)?);
            if !self.pending.is_empty() {
                continue;
            }
            let ByteSource::Reading(from) = source else {
                return Ok(());
            };
            let Poll::Ready(read) = chunk::poll_read(*from, cx, usize::MAX) else {
                // Nothing more comes for now, so nothing may be held back.
                return match Pin::new(&mut *to).poll_flush(cx) {
                    Poll::Ready(Err(error)) => Err(writer(error)),
                    Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
                };
            };
            let read: Bytes = read.map_err(|_| FailedSide::Reader)?;
            if !read.is_empty() {
                let wrote = self.pending.poll_write_first(cx, to, &mut [read]);
                self.count(wrote.map_err(writer)?);
                continue;
            }
            match write::poll_shutdown(to, cx) {
                Poll::Ready(shut) => shut.map_err(writer)?,
                Poll::Pending => return Ok(()),
            }
            self.done = true;
        }
        Ok(())
    }
}

/// Relays between a client and an instance until both directions are done, one is reset, a limit is reached, or `cut` is
/// cancelled. On anything but [`RelayEnd::Finished`] both sockets send RST when the caller drops them.
pub(crate) fn sockets<'a>(
    client: &'a mut impl Socket,
    instance: &'a mut TcpStream,
    counters: RelayCounters,
    limits: RelayLimits,
    cut: &'a CancellationToken,
) -> impl Future<Output = Relayed> {
    // Not of the async block, which would hold what is moved into its locals twice, for as long as the connection is open.
    let mut up = SocketToSocket::new(counters.sent);
    let mut down = SocketToSocket::new(counters.received);
    let mut idle = IdleTimer::new(&limits);
    async move {
        let end = tokio::select! {
            biased;
            () = cut.cancelled() => RelayEnd::Cut,
            ended = both_ways(client, instance, (&mut up, &mut down), &mut idle) => match ended {
                Ok(()) => RelayEnd::Finished,
                Err(end) => end,
            },
        };
        if end != RelayEnd::Finished {
            let _ = client.reset_on_drop();
            let _ = instance.set_zero_linger();
        }
        Relayed {
            sent: up.bytes,
            received: down.bytes,
            end,
        }
    }
}

fn both_ways<'a>(
    client: &'a mut impl Socket,
    instance: &'a mut TcpStream,
    (up, down): (&'a mut SocketToSocket, &'a mut SocketToSocket),
    idle: &'a mut IdleTimer,
) -> impl Future<Output = Result<(), RelayEnd>> {
    let (mut from_client, mut to_client) = client.split();
    let (mut from_instance, mut to_instance) = instance.split();
    async move {
        loop {
            let mut client = ByteSource::new(&mut from_client, up.is_reading());
            let mut instance = ByteSource::new(&mut from_instance, down.is_reading());
            let finished = poll_fn(|cx| {
                up.poll(cx, &mut client, &mut to_instance).map_err(upward)?;
                down.poll(cx, &mut instance, &mut to_client).map_err(downward)?;
                if up.done && down.done {
                    return Poll::Ready(Ok(true));
                }
                // Whoever reads must not be watched, and whoever does not must be.
                if up.is_reading() != client.is_read() || down.is_reading() != instance.is_read() {
                    return Poll::Ready(Ok(false));
                }
                if client.poll_failed(cx).is_ready() {
                    return Poll::Ready(Err(RelayEnd::SocketReset));
                }
                if instance.poll_failed(cx).is_ready() {
                    return Poll::Ready(Err(RelayEnd::PeerReset));
                }
                let half_closed = up.done || down.done;
                idle.poll(cx, half_closed, up.bytes + down.bytes).map(Err)
            });
            if finished.await? {
                return Ok(());
            }
        }
    }
}

fn upward(failed: FailedSide) -> RelayEnd {
    match failed {
        FailedSide::Reader => RelayEnd::SocketReset,
        FailedSide::Writer => RelayEnd::PeerReset,
    }
}

fn downward(failed: FailedSide) -> RelayEnd {
    match failed {
        FailedSide::Reader => RelayEnd::PeerReset,
        FailedSide::Writer => RelayEnd::SocketReset,
    }
}
