//! Moves bytes between a TCP socket and a stream of a tunnel, or between two sockets, both ways, in one task.
//!
//! FIN maps to finish and RST to reset in both directions, each direction closes on its own, and a side that does not
//! read stops the side that writes. Nothing here dials, decides or logs.
//!
//! An idle connection holds no buffer: bytes are read into a chunk that all connections of a thread share (`chunk`),
//! and handed over without a copy. What is held while one side is slow is bounded by the windows of the other: at most
//! one read from a socket, which is small where the stream takes little, at most [`CHUNKS`] chunks from a stream, which count as unread.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use causeway_tunnel::{ReadError, RecvHalf, SendHalf, StreamCode, WriteError};
use prometheus_client::metrics::counter::Counter;
use tokio::{io::AsyncWrite, time::Instant};
use tokio_util::sync::CancellationToken;

mod chunk;
mod far_side;
mod idle;
mod last_words;
#[cfg(test)]
mod limit_tests;
mod linger;
mod local;
mod socket;
mod source;
mod stall;
#[cfg(test)]
mod tests;
mod write;

pub(crate) use linger::linger;
pub(crate) use local::sockets;
pub(crate) use socket::{Reader, Socket};

use far_side::FarSide;
use idle::IdleTimer;
use source::ByteSource;
use stall::StallTimer;
use write::WriteQueue;

/// Longest time that bytes of a connection between zones may wait of which the other side takes none, unless an operator
/// says otherwise. A reader that pauses for longer looks like one that hangs, and what it does not read is held by both
/// gateways.
pub const STALL_LIMIT: Duration = Duration::from_secs(5 * 60);
/// Such limits that make sense: shorter ones end connections that merely wait for a round trip.
pub const STALL_LIMITS: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(7 * 24 * 3_600);
/// Longest time that a connection of which one side has finished may go on without a byte, unless an operator says otherwise.
pub const HALF_CLOSED_LIMIT: Duration = Duration::from_secs(3_600);
/// Such limits that make sense: an answer may take a while after its question has ended.
pub const HALF_CLOSED_LIMITS: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(7 * 24 * 3_600);
/// Most chunks taken from a stream at once. A chunk is at most a packet's payload, so this is about 45 KiB a system call.
const CHUNKS: usize = 32;

/// End of a relayed connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RelayEnd {
    /// Both sides finished.
    Finished,
    /// The socket was reset or failed; for [`sockets`], the client's.
    SocketReset,
    /// The stream was reset by the peer; for [`sockets`], the instance's socket was.
    PeerReset,
    /// The gateway at the other end of the stream cut it, to shut down or because somebody told it to.
    PeerCut,
    /// The peer took its request back because another gateway was ready first: the instance has been given nothing.
    LostRace,
    /// The tunnel is gone.
    TunnelLost,
    /// Cut by this gateway.
    Cut,
    /// Bytes waited in one direction for longer than the limit, and none was taken.
    Stalled,
    /// Nothing moved for as long as the service allows.
    Idle,
    /// One side had finished, and then nothing moved for as long as is allowed.
    HalfClosed,
    /// The peer has given the socket back: nothing is under way on it.
    GivenBack,
    /// The peer has all that it asked for, and the socket can be lent to no other.
    Spent,
}

/// Limits of one connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RelayLimits {
    /// Longest time that bytes for or from a stream may wait of which the other side takes none.
    pub(crate) stall: Duration,
    /// Longest time without a byte once one side has finished; `None`: any.
    pub(crate) half_closed: Option<Duration>,
    /// Longest time without a byte; `None`: any.
    pub(crate) idle: Option<Duration>,
    /// The end of the stream gives the socket back, instead of ending that side of it.
    pub(crate) gives_back: bool,
    /// The other side is told of a reset of the socket after what that has said before: an instance may have answered what it does not read.
    pub(crate) hears_out: bool,
}

impl RelayEnd {
    pub(crate) fn of_write(error: &WriteError) -> Self {
        match error {
            WriteError::Stopped(code) => Self::of_code(*code),
            WriteError::Closed => Self::PeerReset,
            WriteError::Lost(_) => Self::TunnelLost,
        }
    }

    pub(crate) fn of_read(error: &ReadError) -> Self {
        match error {
            ReadError::Reset(code) => Self::of_code(*code),
            ReadError::Closed => Self::PeerReset,
            ReadError::Lost(_) => Self::TunnelLost,
        }
    }

    fn of_code(code: StreamCode) -> Self {
        match code {
            StreamCode::LostRace => Self::LostRace,
            StreamCode::Cut => Self::PeerCut,
            StreamCode::Spent => Self::Spent,
            StreamCode::Reset | StreamCode::Refused | StreamCode::Other(_) => Self::PeerReset,
        }
    }

    fn code(self) -> StreamCode {
        match self {
            Self::Cut => StreamCode::Cut,
            _ => StreamCode::Reset,
        }
    }
}

/// Bytes that a connection carried, and its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Relayed {
    /// Bytes from the socket into the stream; for [`sockets`], from the client to the instance.
    pub(crate) sent: u64,
    /// Bytes from the stream into the socket; for [`sockets`], from the instance to the client.
    pub(crate) received: u64,
    pub(crate) end: RelayEnd,
}

/// Counts bytes as they flow: those from the socket into the stream, and those from the stream into the socket. For
/// [`sockets`]: from the client to the instance, and back.
#[derive(Debug, Clone, Default)]
pub(crate) struct RelayCounters {
    pub(crate) sent: Counter,
    pub(crate) received: Counter,
}

/// From a socket into a stream.
struct SocketToStream {
    pending: Bytes,
    bytes: u64,
    /// Time of the last read that brought something.
    read_at: Option<Instant>,
    meter: Counter,
    done: bool,
}

impl SocketToStream {
    fn new(meter: Counter) -> Self {
        Self {
            pending: Bytes::new(),
            bytes: 0,
            read_at: None,
            meter,
            done: false,
        }
    }

    /// Bytes that it has carried, if more wait that the other side does not take.
    fn waiting(&self) -> Option<u64> {
        (!self.pending.is_empty()).then_some(self.bytes)
    }

    /// Tells whether its next step is to read.
    fn is_reading(&self) -> bool {
        !self.done && self.pending.is_empty()
    }

    /// Hands over what was read. Returns whether the stream has taken all of it.
    fn poll_pending(&mut self, cx: &mut Context<'_>, send: &mut SendHalf) -> Result<bool, RelayEnd> {
        while !self.pending.is_empty() {
            let chunks = std::slice::from_mut(&mut self.pending);
            let Poll::Ready(written) = send.poll_write_chunks(cx, chunks) else {
                return Ok(false);
            };
            let written = written.map_err(|error| RelayEnd::of_write(&error))?;
            self.bytes += written as u64;
            self.meter.inc_by(written as u64);
        }
        Ok(true)
    }

    /// Takes what was read.
    fn take(&mut self, bytes: Bytes, now: Instant) {
        self.pending = bytes;
        self.read_at = Some(now);
    }

    /// Goes as far as it can now.
    fn poll<R: Reader>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut ByteSource<'_, R>,
        send: &mut SendHalf,
    ) -> Result<(), RelayEnd> {
        while !self.done {
            if !self.poll_pending(cx, send)? {
                return Ok(());
            }
            let ByteSource::Reading(socket) = source else {
                return Ok(());
            };
            let Poll::Ready(read) = chunk::poll_read(*socket, cx, send.outlook()) else {
                return Ok(());
            };
            let bytes = read.map_err(|_| RelayEnd::SocketReset)?;
            if bytes.is_empty() {
                self.done = true;
                // It fails only when the peer has stopped the stream, which the other direction reports.
                let _ = send.finish();
            } else {
                self.take(bytes, Instant::now());
            }
        }
        Ok(())
    }
}

/// From a stream into a socket.
struct StreamToSocket {
    pending: WriteQueue,
    bytes: u64,
    meter: Counter,
    done: bool,
    gives_back: bool,
}

impl StreamToSocket {
    fn new(meter: Counter, gives_back: bool) -> Self {
        Self {
            pending: WriteQueue::default(),
            bytes: 0,
            meter,
            done: false,
            gives_back,
        }
    }

    /// Bytes that it has carried, if more wait that the other side does not take.
    fn waiting(&self) -> Option<u64> {
        (!self.pending.is_empty()).then_some(self.bytes)
    }

    /// Takes over what has come of a stream whose tunnel is gone. It is as much as lay there before, and tells whether that was all.
    fn take_rest(&mut self, cx: &mut Context<'_>, recv: &mut RecvHalf) -> Result<(), RelayEnd> {
        let mut chunks = [const { Bytes::new() }; CHUNKS];
        loop {
            let read = pin!(recv.read_chunks(&mut chunks)).poll(cx);
            match read.map_err(|error| RelayEnd::of_read(&error))? {
                Poll::Ready(Some(count)) => self.pending.push(&mut chunks[..count]),
                Poll::Ready(None) | Poll::Pending => return Ok(()),
            }
        }
    }

    /// Takes down what the socket has taken, and the gateway holds no more.
    fn count(&mut self, recv: &mut RecvHalf, bytes: u64) {
        self.bytes += bytes;
        self.meter.inc_by(bytes);
        recv.took(usize::try_from(bytes).unwrap_or(usize::MAX));
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        recv: &mut RecvHalf,
        socket: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<Result<(), RelayEnd>> {
        while !self.done {
            let wrote = ready!(self.pending.poll_write(cx, socket)).map_err(|_| RelayEnd::SocketReset)?;
            self.count(recv, wrote);
            if !self.pending.is_empty() {
                continue;
            }
            // On the stack, so that an idle connection does not carry it.
            let mut chunks = [const { Bytes::new() }; CHUNKS];
            let Poll::Ready(read) = pin!(recv.read_chunks(&mut chunks)).poll(cx) else {
                // Nothing more comes for now, so nothing may be held back.
                ready!(Pin::new(&mut *socket).poll_flush(cx)).map_err(|_| RelayEnd::SocketReset)?;
                return Poll::Pending;
            };
            match read.map_err(|error| RelayEnd::of_read(&error))? {
                Some(count) => {
                    let chunks = &mut chunks[..count];
                    let wrote = self.pending.poll_write_first(cx, socket, chunks);
                    self.count(recv, wrote.map_err(|_| RelayEnd::SocketReset)?);
                }
                None if self.gives_back => return Poll::Ready(Err(RelayEnd::GivenBack)),
                None => {
                    ready!(write::poll_shutdown(socket, cx)).map_err(|_| RelayEnd::SocketReset)?;
                    self.done = true;
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Relays until both directions are done, one is reset, a limit is reached, or `cut` is cancelled. On anything but
/// [`RelayEnd::Finished`] and [`RelayEnd::GivenBack`] the stream has been reset, and `socket` sends RST when the caller drops it, unless
/// it was lent and is [`RelayEnd::Spent`].
pub(crate) fn stream<'a>(
    socket: &'a mut impl Socket,
    send: &'a mut SendHalf,
    recv: &'a mut RecvHalf,
    counters: RelayCounters,
    limits: RelayLimits,
    cut: &'a CancellationToken,
) -> impl Future<Output = Relayed> {
    // Not of the async block, which would hold what is moved into its locals twice, for as long as the connection is open.
    let mut up = SocketToStream::new(counters.sent);
    let mut down = StreamToSocket::new(counters.received, limits.gives_back);
    let mut timers = (StallTimer::new(limits.stall), IdleTimer::new(&limits));
    async move {
        let end = tokio::select! {
            biased;
            () = cut.cancelled() => RelayEnd::Cut,
            ended = both_ways(socket, send, recv, (&mut up, &mut down), &mut timers) => match ended {
                Ok(()) => RelayEnd::Finished,
                // Bytes that came after the answer, or their end, belong to nobody.
                Err(RelayEnd::GivenBack) if up.done || !up.pending.is_empty() => RelayEnd::PeerReset,
                Err(end) => end,
            },
        };
        if end == RelayEnd::SocketReset && limits.hears_out {
            // Boxed: it is rare, and an idle connection must not carry it.
            Box::pin(last_words::hear_out(socket, send, &mut up, cut)).await;
        }
        if end == RelayEnd::GivenBack {
            // It fails only where the peer reads no more.
            let _ = send.finish();
        } else if end != RelayEnd::Finished {
            // Each fails only where that side has already ended.
            let _ = send.reset(end.code());
            let _ = recv.stop(end.code());
            // What was not lent cannot be spent, whatever a peer says: a cut answer must not look whole.
            if end != RelayEnd::Spent || !limits.gives_back {
                let _ = socket.reset_on_drop();
            }
        }
        Relayed {
            sent: up.bytes,
            received: down.bytes,
            end,
        }
    }
}

fn both_ways<'a>(
    socket: &'a mut impl Socket,
    send: &'a mut SendHalf,
    recv: &'a mut RecvHalf,
    (up, down): (&'a mut SocketToStream, &'a mut StreamToSocket),
    (stall, idle): &'a mut (StallTimer, IdleTimer),
) -> impl Future<Output = Result<(), RelayEnd>> {
    let (mut reader, mut writer) = socket.split();
    let mut far = FarSide::default();
    async move {
        loop {
            let mut source = ByteSource::new(&mut reader, up.is_reading());
            let finished = poll_fn(|cx| {
                up.poll(cx, &mut source, send)?;
                let _: Poll<()> = down.poll(cx, recv, &mut writer)?;
                if up.done && down.done {
                    return Poll::Ready(Ok(true));
                }
                // Whoever reads must not be watched, and whoever does not must be.
                if up.is_reading() != source.is_read() {
                    return Poll::Ready(Ok(false));
                }
                if source.poll_failed(cx).is_ready() {
                    return Poll::Ready(Err(RelayEnd::SocketReset));
                }
                if let Poll::Ready(end) = far.poll_ended(cx, (&*up, &mut *down), send, recv) {
                    return Poll::Ready(Err(end));
                }
                if stall.poll(cx, [up.waiting(), down.waiting()]).is_ready() {
                    return Poll::Ready(Err(RelayEnd::Stalled));
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
