//! Brings datagrams to the data thread that has their connection. All threads accept on one port, and the kernel chooses
//! by the sender's address: once that changes, as behind a NAT that forgot, a connection's datagrams come out at another
//! thread. Connection ids say whose they are, and the threads hand each other what is not their own. What belongs to a process
//! before this one is relayed; see `succession`.

use std::{
    collections::VecDeque,
    fmt,
    io::{self, IoSliceMut},
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use aws_lc_rs::hmac::{self, Key};
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use quinn::{
    AsyncUdpSocket, ConnectionId, ConnectionIdGenerator, UdpPoller,
    udp::{RecvMeta, Transmit},
};
use quinn_proto::InvalidCid;
use rand::{Rng, SeedableRng, rngs::SmallRng};

use super::{
    metrics::RelayedPackets,
    succession::{DatagramRelay, RelayAttempt, ThreadPlaces},
};

/// Bytes of a connection id: the place of the thread, a number, and what proves that this gateway made both.
const PLACE_BYTES: usize = 2;
const NUMBER_BYTES: usize = 4;
const PROOF_BYTES: usize = 4;
const ID_BYTES: usize = PLACE_BYTES + NUMBER_BYTES + PROOF_BYTES;
/// Set in the first byte of packets that set up a connection (RFC 9000 §17.2); they stay where the kernel brought them, unless they
/// are of a process before.
const LONG_HEADER: u8 = 0x80;
/// Bytes of the version, which stands before the connection ids there.
const VERSION_BYTES: usize = 4;
/// Datagrams that wait for one thread; what comes on top is lost, as in the kernel's own queue.
const MAX_WAITING: usize = 1024;
/// Receives in a row that bring nothing but what is other threads'.
const MAX_RECEIVES: usize = 32;

/// Makes and recognises the connection ids of one data thread.
#[derive(Clone)]
pub(super) struct ConnectionIds {
    key: Arc<Key>,
    place: u16,
}

impl fmt::Debug for ConnectionIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionIds")
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

impl ConnectionIds {
    pub(super) fn new(key: Arc<Key>, place: u16) -> Self {
        Self { key, place }
    }

    fn proof(&self, named: &[u8]) -> [u8; PROOF_BYTES] {
        let mut proof = [0; PROOF_BYTES];
        let tag = hmac::sign(&self.key, named);
        for (to, from) in proof.iter_mut().zip(tag.as_ref()) {
            *to = *from;
        }
        proof
    }

    fn is_proved(&self, id: &[u8]) -> bool {
        let (named, proof) = id
            .split_at_checked(PLACE_BYTES + NUMBER_BYTES)
            .unwrap_or_default();
        proof == self.proof(named)
    }

    /// Gives the place that has the connection of a datagram, if that is another than this one, and whether the connection is up.
    fn elsewhere(&self, datagram: &[u8]) -> Option<(u16, bool)> {
        let (first, rest) = datagram.split_first()?;
        let is_up = first & LONG_HEADER == 0;
        let id = match is_up {
            true => rest.get(..ID_BYTES)?,
            false => {
                let (length, rest) = rest.get(VERSION_BYTES..)?.split_first()?;
                rest.get(..ID_BYTES)
                    .filter(|_| usize::from(*length) == ID_BYTES)?
            }
        };
        let place = u16::from_be_bytes(*id.first_chunk()?);
        (place != self.place && self.is_proved(id)).then_some((place, is_up))
    }
}

impl ConnectionIdGenerator for ConnectionIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [0; ID_BYTES];
        let number: [u8; NUMBER_BYTES] = SmallRng::from_os_rng().random();
        id[..PLACE_BYTES].copy_from_slice(&self.place.to_be_bytes());
        id[PLACE_BYTES..PLACE_BYTES + NUMBER_BYTES].copy_from_slice(&number);
        let proof = self.proof(&id[..PLACE_BYTES + NUMBER_BYTES]);
        id[PLACE_BYTES + NUMBER_BYTES..].copy_from_slice(&proof);
        ConnectionId::new(&id)
    }

    fn validate(&self, id: &ConnectionId) -> Result<(), InvalidCid> {
        match id.len() == ID_BYTES && self.is_proved(id) {
            true => Ok(()),
            false => Err(InvalidCid),
        }
    }

    fn cid_len(&self) -> usize {
        ID_BYTES
    }

    fn cid_lifetime(&self) -> Option<std::time::Duration> {
        None
    }
}

/// Datagrams that other threads have received for one.
#[derive(Debug, Default)]
pub(super) struct Lane {
    waiting: Mutex<VecDeque<(RecvMeta, Vec<u8>)>>,
    waker: AtomicWaker,
}

impl Lane {
    fn push(&self, meta: RecvMeta, datagram: &[u8]) {
        let mut waiting = self.waiting.lock();
        if waiting.len() < MAX_WAITING {
            waiting.push_back((meta, datagram.to_vec()));
            drop(waiting);
            self.waker.wake();
        }
    }

    /// Moves what waits into `bufs`, and says how many datagrams that were.
    fn take(&self, bufs: &mut [IoSliceMut<'_>], metas: &mut [RecvMeta]) -> usize {
        let mut waiting = self.waiting.lock();
        let mut taken = 0;
        for (buf, meta) in bufs.iter_mut().zip(metas) {
            let Some((told, datagram)) = waiting.pop_front() else {
                break;
            };
            let length = datagram.len().min(buf.len());
            buf[..length].copy_from_slice(&datagram[..length]);
            *meta = RecvMeta {
                len: length,
                stride: length,
                ..told
            };
            taken += 1;
        }
        taken
    }
}

/// One lane for each data thread, and the ways to processes before this one.
#[derive(Debug)]
pub(super) struct Lanes {
    places: ThreadPlaces,
    lanes: Box<[Lane]>,
    relays: Vec<Arc<DatagramRelay>>,
    counts: RelayedPackets,
    /// Another process is about to read the sockets, or reads them besides.
    leaving: AtomicBool,
    /// Another process alone reads the sockets.
    released: AtomicBool,
}

impl Lanes {
    pub(super) fn new(places: ThreadPlaces, relays: Vec<Arc<DatagramRelay>>, counts: RelayedPackets) -> Self {
        Self {
            places,
            lanes: (0..places.count).map(|_| Lane::default()).collect(),
            relays,
            counts,
            leaving: AtomicBool::new(false),
            released: AtomicBool::new(false),
        }
    }

    pub(super) fn places(&self) -> ThreadPlaces {
        self.places
    }

    /// Place of a data thread.
    pub(super) fn place_of(&self, thread: usize) -> u16 {
        let thread = u16::try_from(thread).unwrap_or(u16::MAX);
        self.places.first.saturating_add(thread)
    }

    pub(super) fn relays(&self) -> &[Arc<DatagramRelay>] {
        &self.relays
    }

    /// Expects another process to read the sockets. What comes for that one here while both do is dropped, so that it is sent again: answered by a
    /// process that does not know of it, it would end the connection.
    pub(super) fn leave(&self) {
        self.leaving.store(true, Ordering::Release);
    }

    /// Leaves the sockets to another process; from now on only what it relays is received.
    pub(super) fn release(&self) {
        self.released.store(true, Ordering::Release);
        self.lanes.iter().for_each(|lane| lane.waker.wake());
    }

    fn of(&self, place: u16) -> Option<&Lane> {
        self.lanes.get(self.places.thread(place)?)
    }

    /// Hands a datagram that another process has received to the data thread that has this place.
    pub(super) fn push(&self, place: u16, meta: &RecvMeta, datagram: &[u8]) {
        if let Some(lane) = self.of(place) {
            lane.push(*meta, datagram);
        }
    }

    /// Hands on a datagram that is not the receiving thread's. Returns whether somebody takes it.
    fn hand_on(&self, (place, is_up): (u16, bool), meta: &RecvMeta, datagram: &[u8]) -> bool {
        match self.of(place) {
            Some(lane) if is_up => {
                lane.push(*meta, datagram);
                true
            }
            Some(_) => false,
            None => self.relay(place, meta, datagram),
        }
    }

    /// Relays a datagram to the process before that has this place. Returns whether there is one, or it may be the successor's.
    fn relay(&self, place: u16, meta: &RecvMeta, datagram: &[u8]) -> bool {
        let Some(relay) = self.relays.iter().find(|relay| relay.leads_to(place)) else {
            return self.leaving.load(Ordering::Acquire);
        };
        match relay.send(place, meta, datagram) {
            RelayAttempt::Sent => self.counts.relayed.inc(),
            RelayAttempt::Lost => self.counts.lost.inc(),
            RelayAttempt::Gone => return false,
        };
        true
    }
}

/// Socket of one data thread among those that share a port.
#[derive(Debug)]
pub(super) struct SteeredSocket {
    pub(super) socket: Arc<dyn AsyncUdpSocket>,
    pub(super) ids: ConnectionIds,
    pub(super) lanes: Arc<Lanes>,
    /// Set when it is the lane's turn.
    pub(super) lane_first: AtomicBool,
}

impl SteeredSocket {
    fn own_lane(&self) -> Option<&Lane> {
        self.lanes.of(self.ids.place)
    }

    /// Hands on what of one receive is not this thread's, and leaves the rest, moved together. A receive holds several
    /// datagrams of one sender, all of `stride` bytes but the last.
    fn sort(&self, buf: &mut [u8], meta: &mut RecvMeta) {
        let stride = meta.stride.max(1);
        let (mut at, mut kept) = (0, 0);
        while at < meta.len {
            let end = (at + stride).min(meta.len);
            let elsewhere = self.ids.elsewhere(&buf[at..end]);
            if !elsewhere.is_some_and(|to| self.lanes.hand_on(to, meta, &buf[at..end])) {
                if kept != at {
                    buf.copy_within(at..end, kept);
                }
                kept += end - at;
            }
            at = end;
        }
        meta.len = kept;
    }

    /// Receives what is for this thread.
    fn receive(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        for _ in 0..MAX_RECEIVES {
            let received = ready!(self.socket.poll_recv(cx, bufs, metas))?;
            let mut kept = 0;
            for at in 0..received.min(bufs.len()).min(metas.len()) {
                self.sort(&mut bufs[at], &mut metas[at]);
                if metas[at].len > 0 {
                    bufs.swap(at, kept);
                    metas.swap(at, kept);
                    kept += 1;
                }
            }
            if kept > 0 {
                return Poll::Ready(Ok(kept));
            }
        }
        // The rest of this thread's work is not kept waiting by what is others'.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Takes what waits in a lane; `None`: nothing does.
fn take(lane: Option<&Lane>, bufs: &mut [IoSliceMut<'_>], metas: &mut [RecvMeta]) -> Option<usize> {
    lane.map(|lane| lane.take(bufs, metas)).filter(|taken| *taken > 0)
}

impl AsyncUdpSocket for SteeredSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.socket).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.socket.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let lane = self.own_lane();
        if let Some(lane) = lane {
            lane.waker.register(cx.waker());
        }
        if self.lanes.released.load(Ordering::Acquire) {
            return match take(lane, bufs, metas) {
                Some(taken) => Poll::Ready(Ok(taken)),
                None => Poll::Pending,
            };
        }
        // In turns: however much one of the two holds, the other is heard.
        let lane_first = self.lane_first.fetch_xor(true, Ordering::Relaxed);
        if lane_first && let Some(taken) = take(lane, bufs, metas) {
            return Poll::Ready(Ok(taken));
        }
        match self.receive(cx, bufs, metas) {
            Poll::Pending if !lane_first => match take(lane, bufs, metas) {
                Some(taken) => Poll::Ready(Ok(taken)),
                None => Poll::Pending,
            },
            received => received,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.socket.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.socket.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}

#[cfg(test)]
mod tests;
