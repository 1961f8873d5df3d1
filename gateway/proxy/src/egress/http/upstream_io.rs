//! The bytes of a connection to an instance, or of a stream to the gateway that has one, as hyper takes them: counted, with
//! the limit of a write that is not taken, and with the reason that they ended.

use std::{
    io,
    pin::{Pin, pin},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use causeway_host::{
    descriptors::HeldDescriptor,
    own_sockets::OwnSocket,
    write_stall::{WriteStall, is_stall},
};
use causeway_telemetry::ConnectionOutcome;
use causeway_tunnel::{Stream, StreamCode, WriteError};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use crate::{
    egress::{connection::outcome_of, upstream::TunnelStreamGuard},
    metrics::ByteCounters,
    relay::RelayEnd,
};

/// Bytes that a connection or one request has carried towards the instance, and from it.
#[derive(Debug, Default)]
pub(super) struct CarriedBytes {
    up: AtomicU64,
    down: AtomicU64,
}

impl CarriedBytes {
    pub(super) fn went_up(&self, bytes: usize) {
        self.up.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn came_down(&self, bytes: usize) {
        self.down.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Towards the instance, and from it.
    pub(super) fn both(&self) -> (u64, u64) {
        (self.up.load(Ordering::Relaxed), self.down.load(Ordering::Relaxed))
    }
}

/// Bytes that a connection has carried, and the reason that it ended.
#[derive(Debug)]
pub(super) struct UpstreamTraffic {
    carried: CarriedBytes,
    counters: ByteCounters,
    end: OnceLock<ConnectionOutcome>,
    rest: Mutex<RestState>,
}

/// State of the last request that went out on a connection.
#[derive(Debug, Default)]
enum RestState {
    /// It has not been sent and answered whole, as far as is known.
    #[default]
    UnderWay,
    /// The same, and hyper has ended the connection: the stream that it was waits to hear whether all of its answer was taken.
    Left(LeftStream),
    /// It has gone over the connection whole, with its answer, and another may follow.
    Resting,
    /// The same, and no other can follow.
    Spent,
    /// It was answered before all of it was sent.
    Unsent,
}

/// Stream that is over for hyper: reset when it is dropped, with what became of its request.
#[derive(Debug)]
struct LeftStream {
    stream: Stream,
    code: StreamCode,
    _counted: TunnelStreamGuard,
}

impl Drop for LeftStream {
    fn drop(&mut self) {
        // Each fails only where that side has already ended.
        let _ = self.stream.send.reset(self.code);
        let _ = self.stream.recv.stop(self.code);
    }
}

impl UpstreamTraffic {
    pub(super) fn new(counters: ByteCounters) -> Self {
        Self {
            carried: CarriedBytes::default(),
            counters,
            end: OnceLock::new(),
            rest: Mutex::default(),
        }
    }

    /// Takes down that another request goes out on it.
    pub(super) fn goes_on(&self) {
        *self.rest.lock() = RestState::UnderWay;
    }

    /// Takes down that a request has its whole answer. If it was sent whole too, nothing is under way: the connection may be given back if
    /// it stays open, and has done its work otherwise.
    pub(super) fn answered(&self, sent_all: bool, stays_open: bool) {
        let mut rest = self.rest.lock();
        if let (RestState::Left(left), true) = (&mut *rest, sent_all) {
            left.code = StreamCode::Spent;
        }
        *rest = match (sent_all, stays_open) {
            (true, true) => RestState::Resting,
            (true, false) => RestState::Spent,
            (false, _) => RestState::Unsent,
        };
    }

    /// Takes a stream that hyper has ended, to be reset as becomes of its request.
    fn leave(&self, mut left: LeftStream) {
        let mut rest = self.rest.lock();
        match &*rest {
            RestState::UnderWay | RestState::Left(_) => *rest = RestState::Left(left),
            RestState::Resting | RestState::Spent => left.code = StreamCode::Spent,
            RestState::Unsent => {}
        }
    }

    fn rests(&self) -> bool {
        matches!(*self.rest.lock(), RestState::Resting)
    }

    pub(super) fn carried(&self) -> &CarriedBytes {
        &self.carried
    }

    /// Tells whether the other side has said anything.
    pub(super) fn is_heard(&self) -> bool {
        self.carried.both().1 > 0
    }

    /// Outcome of a request whose answer the connection did not bring to its end.
    pub(super) fn broken(&self) -> ConnectionOutcome {
        self.end().unwrap_or(ConnectionOutcome::InstanceReset)
    }

    /// Reason that the connection broke off, if it has.
    pub(super) fn end(&self) -> Option<ConnectionOutcome> {
        self.end.get().copied()
    }

    fn ended(&self, outcome: ConnectionOutcome) {
        // The first reason stands.
        let _ = self.end.set(outcome);
    }
}

/// Way to the instance.
#[derive(Debug)]
pub(super) enum UpstreamSocket {
    Instance {
        /// Before the socket, because it is to be given up first.
        _own: OwnSocket,
        socket: TcpStream,
        _held: HeldDescriptor,
    },
    Gateway {
        stream: Stream,
        /// Its end gives the connection to the instance back: to be told only where that may be given another request.
        is_lent: bool,
        counted: TunnelStreamGuard,
    },
    /// Hyper has ended it, and what becomes of it is told by [`UpstreamTraffic`].
    Left,
}

/// The end that hyper has.
#[derive(Debug)]
pub(super) struct UpstreamIo {
    socket: UpstreamSocket,
    traffic: Arc<UpstreamTraffic>,
    stall: WriteStall,
    /// Nothing more is to be written, which the other side has been told. Dropped before that, it is reset: half a request
    /// must not be taken for a whole one.
    finished: bool,
    /// Hyper has ended it, without a word to the other side: nobody here knows yet whether the answer was taken whole.
    is_over: bool,
    /// The instance takes nothing more, and may have answered before that: what it has said is read, and what is left of the request goes nowhere.
    is_deaf: bool,
    early: EarlyRequest,
}

/// Request that was given with the header of the stream.
#[derive(Debug)]
enum EarlyRequest {
    None,
    /// Hyper has yet to write it. Until then it would not know what an answer is for, so that nothing is read; here is who waits for that.
    Unwritten {
        bytes: usize,
        reader: Option<Waker>,
    },
    /// Hyper has written it, or is about to: before the first byte of the answer it writes nothing else.
    Written,
}

impl UpstreamIo {
    /// End for hyper, the first request on which has been given already if it had `early_bytes`.
    pub(super) fn new(
        socket: UpstreamSocket,
        traffic: Arc<UpstreamTraffic>,
        stall_limit: Duration,
        early_bytes: usize,
    ) -> Self {
        Self {
            socket,
            traffic,
            stall: WriteStall::new(stall_limit),
            finished: false,
            is_over: false,
            is_deaf: false,
            early: match early_bytes {
                0 => EarlyRequest::None,
                bytes => EarlyRequest::Unwritten { bytes, reader: None },
            },
        }
    }

    /// Takes what hyper writes of a request that was given already. `None`: it is to be given.
    fn take_early(&mut self, bytes: &[u8]) -> Option<usize> {
        match std::mem::replace(&mut self.early, EarlyRequest::Written) {
            EarlyRequest::None => {
                self.early = EarlyRequest::None;
                return None;
            }
            EarlyRequest::Unwritten { bytes: given, reader } => {
                self.traffic.carried.went_up(given);
                self.traffic.counters.up.inc_by(given as u64);
                if let Some(reader) = reader {
                    reader.wake();
                }
            }
            EarlyRequest::Written => {}
        }
        Some(bytes.len())
    }
}

impl AsyncRead for UpstreamIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let EarlyRequest::Unwritten { reader, .. } = &mut self.early {
            *reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let Self {
            socket,
            traffic,
            is_deaf,
            ..
        } = &mut *self;
        let before = buffer.filled().len();
        match socket {
            UpstreamSocket::Instance { socket, .. } => {
                let mut read = ready!(Pin::new(socket).poll_read(cx, buffer));
                if *is_deaf && buffer.filled().len() == before {
                    // The failure was told to who wrote, and so looks like an end here.
                    read = read.and(Err(io::ErrorKind::ConnectionReset.into()));
                }
                if let Err(error) = read {
                    traffic.ended(ConnectionOutcome::InstanceReset);
                    return Poll::Ready(Err(error));
                }
            }
            UpstreamSocket::Gateway { stream, .. } => {
                let reading = pin!(stream.recv.read_chunk(buffer.remaining()));
                match ready!(reading.poll(cx)) {
                    Ok(chunk) => buffer.put_slice(&chunk.unwrap_or_default()),
                    Err(error) => {
                        traffic.ended(outcome_of(RelayEnd::of_read(&error)));
                        return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionReset, error)));
                    }
                }
            }
            UpstreamSocket::Left => return Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
        let read = buffer.filled().len() - before;
        traffic.carried.came_down(read);
        traffic.counters.down.inc_by(read as u64);
        self.early = EarlyRequest::None;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for UpstreamIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(taken) = self.take_early(bytes) {
            return Poll::Ready(Ok(taken));
        }
        if self.is_deaf {
            return Poll::Ready(Ok(bytes.len()));
        }
        let Self {
            socket,
            traffic,
            stall,
            is_deaf,
            ..
        } = &mut *self;
        let written = match socket {
            UpstreamSocket::Instance { socket, .. } => Pin::new(socket).poll_write(cx, bytes),
            UpstreamSocket::Gateway { stream, .. } => Pin::new(&mut stream.send).poll_write(cx, bytes),
            UpstreamSocket::Left => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        };
        match ready!(stall.watch(cx, written)) {
            Ok(written) => {
                traffic.carried.went_up(written);
                traffic.counters.up.inc_by(written as u64);
                Poll::Ready(Ok(written))
            }
            Err(error) => {
                traffic.ended(outcome_of_write(&error));
                if is_stall(&error) {
                    return Poll::Ready(Err(error));
                }
                *is_deaf = true;
                Poll::Ready(Ok(bytes.len()))
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.socket {
            UpstreamSocket::Instance { socket, .. } => Pin::new(socket).poll_flush(cx),
            UpstreamSocket::Gateway { stream, .. } => Pin::new(&mut stream.send).poll_flush(cx),
            UpstreamSocket::Left => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self {
            socket,
            traffic,
            finished,
            is_over,
            ..
        } = &mut *self;
        match socket {
            // It is reset when it is dropped, because its end would say that nothing is left on it.
            UpstreamSocket::Gateway { is_lent: true, .. } if !traffic.rests() => {
                *is_over = true;
                Poll::Ready(Ok(()))
            }
            UpstreamSocket::Instance { socket, .. } => {
                *finished = true;
                Pin::new(socket).poll_shutdown(cx)
            }
            UpstreamSocket::Gateway { stream, .. } => {
                *finished = true;
                Pin::new(&mut stream.send).poll_shutdown(cx)
            }
            UpstreamSocket::Left => Poll::Ready(Ok(())),
        }
    }
}

fn outcome_of_write(error: &io::Error) -> ConnectionOutcome {
    if is_stall(error) {
        return ConnectionOutcome::Stalled;
    }
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<WriteError>());
    inner.map_or(ConnectionOutcome::InstanceReset, |error| {
        outcome_of(RelayEnd::of_write(error))
    })
}

impl Drop for UpstreamIo {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        if let UpstreamSocket::Instance { socket, .. } = &self.socket {
            // It fails only where that side has already ended.
            let _ = socket.set_zero_linger();
            return;
        }
        let socket = std::mem::replace(&mut self.socket, UpstreamSocket::Left);
        if let UpstreamSocket::Gateway { stream, counted, .. } = socket {
            let left = LeftStream {
                stream,
                code: StreamCode::Reset,
                _counted: counted,
            };
            if self.is_over {
                self.traffic.leave(left);
            }
        }
    }
}
