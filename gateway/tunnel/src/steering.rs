//! Brings datagrams to the data thread that has their connection. All threads accept on one port, and the kernel chooses
//! by the sender's address: once that changes, as behind a NAT that forgot, a connection's datagrams come out at another
//! thread. Connection ids say whose they are, and the threads hand each other what is not their own.

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

/// Bytes of a connection id: the thread, a number, and what proves that this gateway made both.
const THREAD_BYTES: usize = 2;
const NUMBER_BYTES: usize = 4;
const PROOF_BYTES: usize = 4;
const ID_BYTES: usize = THREAD_BYTES + NUMBER_BYTES + PROOF_BYTES;
/// Set in the first byte of packets that set up a connection (RFC 9000 §17.2); they stay where the kernel brought them.
const LONG_HEADER: u8 = 0x80;
/// Datagrams that wait for one thread; what comes on top is lost, as in the kernel's own queue.
const MAX_WAITING: usize = 1024;
/// Receives in a row that bring nothing but what is other threads'.
const MAX_RECEIVES: usize = 32;

/// Makes and recognises the connection ids of one data thread.
#[derive(Clone)]
pub(super) struct ConnectionIds {
    key: Arc<Key>,
    thread: u16,
}

impl fmt::Debug for ConnectionIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionIds")
            .field("thread", &self.thread)
            .finish_non_exhaustive()
    }
}

impl ConnectionIds {
    pub(super) fn new(key: Arc<Key>, thread: usize) -> Self {
        // There are fewer threads; the last number would merely stand for several.
        let thread = u16::try_from(thread).unwrap_or(u16::MAX);
        Self { key, thread }
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
            .split_at_checked(THREAD_BYTES + NUMBER_BYTES)
            .unwrap_or_default();
        proof == self.proof(named)
    }

    /// Gives the thread that has the connection of a datagram, if that is another than this one.
    fn elsewhere(&self, datagram: &[u8]) -> Option<usize> {
        let (first, rest) = datagram.split_first()?;
        let id = rest.get(..ID_BYTES).filter(|_| first & LONG_HEADER == 0)?;
        let thread = u16::from_be_bytes(*id.first_chunk()?);
        (thread != self.thread && self.is_proved(id)).then_some(thread.into())
    }
}

impl ConnectionIdGenerator for ConnectionIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [0; ID_BYTES];
        let number: [u8; NUMBER_BYTES] = SmallRng::from_os_rng().random();
        id[..THREAD_BYTES].copy_from_slice(&self.thread.to_be_bytes());
        id[THREAD_BYTES..THREAD_BYTES + NUMBER_BYTES].copy_from_slice(&number);
        let proof = self.proof(&id[..THREAD_BYTES + NUMBER_BYTES]);
        id[THREAD_BYTES + NUMBER_BYTES..].copy_from_slice(&proof);
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

/// One lane for each data thread.
pub(super) fn lanes(threads: usize) -> Arc<[Lane]> {
    (0..threads).map(|_| Lane::default()).collect()
}

/// Socket of one data thread among those that share a port.
#[derive(Debug)]
pub(super) struct SteeredSocket {
    pub(super) socket: Arc<dyn AsyncUdpSocket>,
    pub(super) ids: ConnectionIds,
    pub(super) lanes: Arc<[Lane]>,
    /// Set when it is the lane's turn.
    pub(super) lane_first: AtomicBool,
}

impl SteeredSocket {
    fn own_lane(&self) -> Option<&Lane> {
        self.lanes.get(usize::from(self.ids.thread))
    }

    /// Hands on what of one receive is not this thread's, and leaves the rest, moved together. A receive holds several
    /// datagrams of one sender, all of `stride` bytes but the last.
    fn sort(&self, buf: &mut [u8], meta: &mut RecvMeta) {
        let stride = meta.stride.max(1);
        let (mut at, mut kept) = (0, 0);
        while at < meta.len {
            let end = (at + stride).min(meta.len);
            let lane = self
                .ids
                .elsewhere(&buf[at..end])
                .and_then(|thread| self.lanes.get(thread));
            match lane {
                Some(lane) => lane.push(*meta, &buf[at..end]),
                None => {
                    if kept != at {
                        buf.copy_within(at..end, kept);
                    }
                    kept += end - at;
                }
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
mod tests {
    use std::task::Waker;

    use aws_lc_rs::hmac::HMAC_SHA256;
    use proptest::prelude::*;

    use super::*;

    fn ids(thread: usize) -> ConnectionIds {
        ConnectionIds::new(Arc::new(Key::new(HMAC_SHA256, b"one gateway")), thread)
    }

    /// A packet with a short header for a connection of `thread`, told apart by its last byte.
    fn packet(thread: usize, bytes: usize, mark: u8) -> Vec<u8> {
        let mut packet = vec![0x40];
        packet.extend_from_slice(&ids(thread).generate_cid());
        packet.resize(bytes, mark);
        packet
    }

    /// Receives what it is given, so many bytes to a datagram: once and nothing after, or for ever.
    #[derive(Debug)]
    struct Given {
        left: Mutex<Option<(Vec<u8>, usize)>>,
        for_ever: bool,
    }

    impl AsyncUdpSocket for Given {
        fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
            unreachable!("nothing is sent")
        }

        fn try_send(&self, _: &Transmit<'_>) -> io::Result<()> {
            Ok(())
        }

        fn poll_recv(
            &self,
            _: &mut Context<'_>,
            bufs: &mut [IoSliceMut<'_>],
            metas: &mut [RecvMeta],
        ) -> Poll<io::Result<usize>> {
            let mut left = self.left.lock();
            let given = if self.for_ever { left.clone() } else { left.take() };
            let Some((bytes, stride)) = given else {
                return Poll::Pending;
            };
            bufs[0][..bytes.len()].copy_from_slice(&bytes);
            metas[0].len = bytes.len();
            metas[0].stride = stride;
            Poll::Ready(Ok(1))
        }

        fn local_addr(&self) -> io::Result<SocketAddr> {
            Ok(([127, 0, 0, 1], 1).into())
        }
    }

    /// Every datagram that the socket gives before it has to wait.
    fn receive(socket: &SteeredSocket) -> Vec<Vec<u8>> {
        let mut got = Vec::new();
        let (mut one, mut two) = (vec![0; 65_536], vec![0; 65_536]);
        loop {
            let mut bufs = [IoSliceMut::new(&mut one), IoSliceMut::new(&mut two)];
            let mut metas = [RecvMeta::default(); 2];
            let mut cx = Context::from_waker(Waker::noop());
            let Poll::Ready(received) = socket.poll_recv(&mut cx, &mut bufs, &mut metas) else {
                return got;
            };
            for (buf, meta) in bufs.iter().zip(metas).take(received.unwrap()) {
                got.extend(buf[..meta.len].chunks(meta.stride).map(<[u8]>::to_vec));
            }
        }
    }

    fn steered(thread: usize, given: Given, lanes: &Arc<[Lane]>) -> SteeredSocket {
        SteeredSocket {
            socket: Arc::new(given),
            ids: ids(thread),
            lanes: Arc::clone(lanes),
            lane_first: AtomicBool::default(),
        }
    }

    fn sockets(received: Vec<u8>, stride: usize) -> [SteeredSocket; 2] {
        let lanes = lanes(2);
        let mut first = Some((received, stride));
        let mut given = || Given {
            left: Mutex::new(first.take()),
            for_ever: false,
        };
        [0, 1].map(|thread| steered(thread, given(), &lanes))
    }

    /// The socket of thread 0, which receives one datagram for ever.
    fn endless(datagram: Vec<u8>) -> SteeredSocket {
        let stride = datagram.len();
        let given = Given {
            left: Mutex::new(Some((datagram, stride))),
            for_ever: true,
        };
        steered(0, given, &lanes(2))
    }

    /// Looks at a socket once; `None`: it has to wait.
    fn look(socket: &SteeredSocket) -> Option<Vec<u8>> {
        let mut buf = vec![0; 2048];
        let mut bufs = [IoSliceMut::new(&mut buf)];
        let mut metas = [RecvMeta::default(); 1];
        let mut cx = Context::from_waker(Waker::noop());
        match socket.poll_recv(&mut cx, &mut bufs, &mut metas) {
            Poll::Ready(received) => {
                assert_eq!(received.unwrap(), 1);
                let bytes = metas[0].len;
                Some(buf[..bytes].to_vec())
            }
            Poll::Pending => None,
        }
    }

    #[test]
    fn neither_the_own_socket_nor_what_others_received_starves() {
        let (own, handed) = (packet(0, 40, 1), packet(0, 40, 2));
        let socket = endless(own.clone());
        let mut looks = Vec::new();
        for _ in 0..4 {
            // The lane is never empty, and the socket neither.
            socket.lanes[0].push(RecvMeta::default(), &handed);
            looks.push(look(&socket).unwrap());
        }
        let count = |wanted| looks.iter().filter(|got| *got == wanted).count();
        assert_eq!((count(&own), count(&handed)), (2, 2));
        // Nothing but what is another thread's comes: others of this thread have a turn.
        let busy = endless(packet(1, 40, 3));
        assert_eq!(look(&busy), None);
        assert_eq!(busy.lanes[1].waiting.lock().len(), MAX_RECEIVES);
    }

    proptest! {
        #[test]
        fn every_datagram_reaches_the_thread_that_has_its_connection(
            threads in prop::collection::vec(0usize..4, 1..20), last in 20usize..=40,
        ) {
            let all: Vec<_> = threads.iter().enumerate().map(|(at, thread)| {
                let bytes = if at + 1 == threads.len() { last } else { 40 };
                packet(*thread, bytes, u8::try_from(at).unwrap())
            }).collect();
            let [zero, one] = sockets(all.concat(), 40);
            // There is no thread 2 or 3 any more: whoever received those answers them.
            let of = |wanted: &[usize]| -> Vec<_> {
                let chosen = all.iter().zip(&threads).filter(|(_, thread)| wanted.contains(thread));
                chosen.map(|(packet, _)| packet.clone()).collect()
            };
            prop_assert_eq!(receive(&zero), of(&[0, 2, 3]));
            prop_assert_eq!(receive(&one), of(&[1]));
        }

        #[test]
        fn anything_may_arrive(bytes in prop::collection::vec(any::<u8>(), 1..200), stride in 0usize..50) {
            let [zero, _] = sockets(bytes.clone(), stride.max(1));
            prop_assert_eq!(receive(&zero).concat(), bytes, "what is not proved stays");
        }
    }

    #[test]
    fn what_sets_up_a_connection_stays_where_it_arrived() {
        let mut long = packet(1, 40, 0);
        long[0] |= LONG_HEADER;
        let [zero, one] = sockets(long.clone(), 40);
        assert_eq!(receive(&zero), [long]);
        assert!(receive(&one).is_empty());
    }

    #[test]
    fn no_more_than_a_queue_of_datagrams_waits_for_a_thread() {
        let lane = Lane::default();
        for _ in 0..2 * MAX_WAITING {
            lane.push(RecvMeta::default(), b"x");
        }
        assert_eq!(lane.waiting.lock().len(), MAX_WAITING);
    }
}
