//! Moves bytes between a TCP socket and a stream of a tunnel, or between two sockets, both ways, in one task.
//!
//! FIN maps to finish and RST to reset in both directions, each direction closes on its own, and a side that does not
//! read stops the side that writes. Nothing here dials, decides or logs.
//!
//! An idle connection holds no buffer: bytes are read into a chunk that all connections of a thread share (`chunk`),
//! and handed over without a copy. What is held while one side is slow is bounded by the windows of the other: at most
//! one read from a socket, at most [`CHUNKS`] chunks from a stream.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use prometheus_client::metrics::counter::Counter;
use quinn::{ReadError, RecvStream, SendStream, StoppedError, VarInt, WriteError};
use tokio::io::AsyncWrite;
use tokio_util::sync::CancellationToken;

mod chunk;
mod local;
mod open;
mod socket;
#[cfg(test)]
mod tests;
mod write;

pub use local::sockets;
pub use open::{Hold, OpenConnection, OpenConnections, OpenGuard, Withdrawn};
pub use socket::{Reader, Socket};

use write::Queue;

/// Most chunks taken from a stream at once. A chunk is at most a packet's payload, so this is about 45 KiB a system call.
const CHUNKS: usize = 32;

/// Error codes of `RESET_STREAM` and `STOP_SENDING` on a stream that carries a connection.
pub mod code {
    use quinn::VarInt;

    /// The TCP connection at the other end was reset.
    pub const RESET: VarInt = VarInt::from_u32(1);
    /// Another candidate was `ready` first.
    pub const LOST_RACE: VarInt = VarInt::from_u32(2);
    /// The gateway is shutting down, or an operator cut the connection.
    pub const CUT: VarInt = VarInt::from_u32(3);
    /// The request was refused; the reply says why.
    pub const REFUSED: VarInt = VarInt::from_u32(4);
}

/// How a relayed connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Both sides finished.
    Finished,
    /// The socket was reset or failed; for [`sockets`], the client's.
    SocketReset,
    /// The stream was reset by the peer; for [`sockets`], the instance's socket was.
    PeerReset,
    /// The peer took its request back because another gateway was ready first: the instance has been given nothing.
    LostRace,
    /// The tunnel is gone.
    TunnelLost,
    /// Cut by this gateway.
    Cut,
}

impl End {
    fn of_write(error: &WriteError) -> Self {
        match error {
            WriteError::Stopped(code) => Self::of_code(*code),
            WriteError::ClosedStream => Self::PeerReset,
            WriteError::ConnectionLost(_) | WriteError::ZeroRttRejected => Self::TunnelLost,
        }
    }

    fn of_read(error: &ReadError) -> Self {
        match error {
            ReadError::ConnectionLost(_) | ReadError::ZeroRttRejected => Self::TunnelLost,
            ReadError::Reset(code) => Self::of_code(*code),
            ReadError::ClosedStream | ReadError::IllegalOrderedRead => Self::PeerReset,
        }
    }

    fn of_code(code: VarInt) -> Self {
        if code == code::LOST_RACE {
            Self::LostRace
        } else {
            Self::PeerReset
        }
    }

    fn code(self) -> VarInt {
        if self == Self::Cut { code::CUT } else { code::RESET }
    }
}

/// What a connection carried and how it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Relayed {
    /// Bytes from the socket into the stream; for [`sockets`], from the client to the instance.
    pub sent: u64,
    /// Bytes from the stream into the socket; for [`sockets`], from the instance to the client.
    pub received: u64,
    pub end: End,
}

/// Counts bytes as they flow: those from the socket into the stream, and those from the stream into the socket. For
/// [`sockets`]: from the client to the instance, and back.
#[derive(Debug, Clone, Default)]
pub struct Meters {
    pub sent: Counter,
    pub received: Counter,
}

/// From a socket into a stream.
struct Upward {
    pending: Bytes,
    bytes: u64,
    meter: Counter,
    done: bool,
}

impl Upward {
    fn new(meter: Counter) -> Self {
        Self {
            pending: Bytes::new(),
            bytes: 0,
            meter,
            done: false,
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        socket: &mut impl Reader,
        send: &mut SendStream,
    ) -> Poll<Result<(), End>> {
        while !self.done {
            while !self.pending.is_empty() {
                let written = {
                    let write = pin!(send.write_chunks(std::slice::from_mut(&mut self.pending)));
                    ready!(write.poll(cx)).map_err(|error| End::of_write(&error))?
                };
                self.bytes += written.bytes as u64;
                self.meter.inc_by(written.bytes as u64);
            }
            self.pending = ready!(chunk::poll_read(socket, cx)).map_err(|_| End::SocketReset)?;
            if self.pending.is_empty() {
                self.done = true;
                // It fails only when the peer has stopped the stream, which the other direction reports.
                let _ = send.finish();
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// From a stream into a socket.
struct Downward {
    pending: Queue,
    bytes: u64,
    meter: Counter,
    done: bool,
}

impl Downward {
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
        recv: &mut RecvStream,
        socket: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<Result<(), End>> {
        while !self.done {
            let wrote = ready!(self.pending.poll_write(cx, socket)).map_err(|_| End::SocketReset)?;
            self.count(wrote);
            if !self.pending.is_empty() {
                continue;
            }
            // On the stack, so that an idle connection does not carry it.
            let mut chunks = [const { Bytes::new() }; CHUNKS];
            let Poll::Ready(read) = pin!(recv.read_chunks(&mut chunks)).poll(cx) else {
                // Nothing more comes for now, so nothing may be held back.
                ready!(Pin::new(&mut *socket).poll_flush(cx)).map_err(|_| End::SocketReset)?;
                return Poll::Pending;
            };
            match read.map_err(|error| End::of_read(&error))? {
                Some(count) => {
                    let chunks = &mut chunks[..count];
                    let wrote = self.pending.poll_write_first(cx, socket, chunks);
                    self.count(wrote.map_err(|_| End::SocketReset)?);
                }
                None => {
                    ready!(write::poll_shutdown(socket, cx)).map_err(|_| End::SocketReset)?;
                    self.done = true;
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Relays until both directions are done, one is reset, or `cut` is cancelled. On anything but [`End::Finished`] the
/// stream has been reset, and `socket` sends RST when the caller drops it.
pub async fn stream(
    socket: &mut impl Socket,
    send: &mut SendStream,
    recv: &mut RecvStream,
    meters: Meters,
    cut: &CancellationToken,
) -> Relayed {
    let mut up = Upward::new(meters.sent);
    let mut down = Downward::new(meters.received);
    let both = both_ways(socket, send, recv, &mut up, &mut down);
    let end = match cut.run_until_cancelled(both).await {
        Some(Ok(())) => End::Finished,
        Some(Err(end)) => end,
        None => End::Cut,
    };
    if end != End::Finished {
        // Each fails only where that side has already ended.
        let _ = send.reset(end.code());
        let _ = recv.stop(end.code());
        let _ = socket.reset_on_drop();
    }
    Relayed {
        sent: up.bytes,
        received: down.bytes,
        end,
    }
}

async fn both_ways(
    socket: &mut impl Socket,
    send: &mut SendStream,
    recv: &mut RecvStream,
    up: &mut Upward,
    down: &mut Downward,
) -> Result<(), End> {
    let (mut reader, mut writer) = socket.split();
    let one_done = |cx: &mut Context<'_>| {
        let up = up.poll(cx, &mut reader, send)?;
        let down = down.poll(cx, recv, &mut writer)?;
        if up.is_ready() || down.is_ready() {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    };
    poll_fn(one_done).await?;
    if !up.done {
        // Nothing is read from the stream any more, so only this tells that the far side has gone.
        let stopped = send.stopped();
        return tokio::select! {
            ended = poll_fn(|cx| up.poll(cx, &mut reader, send)) => ended,
            stop = stopped => Err(end_of_stop(&stop)),
        };
    }
    if !down.done {
        // Nothing is read from the socket any more, so only this tells of its reset.
        return tokio::select! {
            ended = poll_fn(|cx| down.poll(cx, recv, &mut writer)) => ended,
            () = reader.failed() => Err(End::SocketReset),
        };
    }
    Ok(())
}

fn end_of_stop(stop: &Result<Option<VarInt>, StoppedError>) -> End {
    match stop {
        Ok(code) => code.map_or(End::PeerReset, End::of_code),
        Err(_) => End::TunnelLost,
    }
}
