//! Hands what the kernel has received in one go to quinn in pieces, once much lies unread.
//!
//! The kernel puts up to 64 datagrams of one sender together (GRO), quinn copies them into one allocation, and a few bytes of one of them
//! that wait for their reader keep all of it alive, which no window counts. Datagrams that have an allocation for each one or two keep
//! little more than themselves, and from there on quinn copies what uses little of its allocation.

use std::{
    io::{self, IoSliceMut},
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit},
};

use super::budget::MemoryBudget;

/// Socket that gives smaller pieces while peers have so much unread that it matters what that keeps alive.
#[derive(Debug)]
pub(super) struct PiecewiseSocket {
    socket: Arc<dyn AsyncUdpSocket>,
    memory: MemoryBudget,
    /// The kernel has put datagrams together in what was received last.
    was_batch: AtomicBool,
}

impl PiecewiseSocket {
    pub(super) fn over(socket: Arc<dyn AsyncUdpSocket>, memory: &MemoryBudget) -> Arc<dyn AsyncUdpSocket> {
        Arc::new(Self {
            socket,
            memory: memory.clone(),
            was_batch: AtomicBool::default(),
        })
    }
}

/// Spreads the datagrams of the first buffer over all of them as evenly as may be, and says how many buffers that took.
fn spread(bufs: &mut [IoSliceMut<'_>], metas: &mut [RecvMeta]) -> usize {
    let places = bufs.len().min(metas.len());
    let (Some((first, rest)), Some((whole, others))) = (bufs.split_first_mut(), metas.split_first_mut())
    else {
        return 0;
    };
    let (length, stride) = (whole.len, whole.stride.max(1));
    let piece = length.div_ceil(stride).div_ceil(places) * stride;
    if piece >= length || rest.iter().any(|buf| buf.len() < piece) {
        return 1;
    }
    whole.len = piece;
    let mut taken = 1;
    for ((buf, meta), from) in rest.iter_mut().zip(others).zip((piece..length).step_by(piece)) {
        let bytes = &first[from..(from + piece).min(length)];
        buf[..bytes.len()].copy_from_slice(bytes);
        *meta = RecvMeta {
            len: bytes.len(),
            ..*whole
        };
        taken += 1;
    }
    taken
}

impl AsyncUdpSocket for PiecewiseSocket {
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
        if !self.memory.is_much_unread() {
            return self.socket.poll_recv(cx, bufs, metas);
        }
        // One at a time leaves the other buffers for its pieces.
        let places = bufs.len().min(metas.len());
        let at_once = if self.was_batch.load(Ordering::Relaxed) {
            1
        } else {
            places
        };
        let (some, told) = (
            &mut bufs[..at_once.min(places)],
            &mut metas[..at_once.min(places)],
        );
        let received = ready!(self.socket.poll_recv(cx, some, told))?;
        let is_batch = metas.iter().take(received).any(|meta| meta.len > meta.stride);
        self.was_batch.store(is_batch, Ordering::Relaxed);
        Poll::Ready(Ok(match received {
            1 => spread(bufs, metas),
            received => received,
        }))
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

    use causeway_federation::name::GatewayId;
    use proptest::prelude::*;

    use super::*;

    /// Bytes of a datagram, and places that quinn has for what is received at once.
    const STRIDE: usize = 1_200;
    const PLACES: usize = 32;
    const PLACE_BYTES: usize = 64 * STRIDE;

    /// Always receives as many datagrams as the kernel puts together.
    #[derive(Debug)]
    struct Batches {
        datagrams: usize,
    }

    impl AsyncUdpSocket for Batches {
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
            let received = bufs.len().min(2);
            for (buf, meta) in bufs.iter_mut().zip(metas.iter_mut()).take(received) {
                (meta.len, meta.stride) = (self.datagrams * STRIDE, STRIDE);
                for number in 0..self.datagrams {
                    buf[number * STRIDE..(number + 1) * STRIDE].fill(number as u8);
                }
            }
            Poll::Ready(Ok(received))
        }

        fn local_addr(&self) -> io::Result<SocketAddr> {
            Ok(([127, 0, 0, 1], 1).into())
        }
    }

    /// Receives once, as quinn does it, and returns the allocations, each with the size of its datagrams.
    fn receive(socket: &dyn AsyncUdpSocket) -> Vec<(Vec<u8>, usize)> {
        let mut buffers = vec![vec![0; PLACE_BYTES]; PLACES];
        let mut bufs: Vec<_> = buffers.iter_mut().map(|buf| IoSliceMut::new(buf)).collect();
        let mut metas = [RecvMeta::default(); PLACES];
        let mut cx = Context::from_waker(Waker::noop());
        let Poll::Ready(Ok(received)) = socket.poll_recv(&mut cx, &mut bufs, &mut metas) else {
            panic!("nothing was received");
        };
        let pieces = metas.iter().zip(&bufs).take(received);
        pieces
            .map(|(meta, buf)| (buf[..meta.len].to_vec(), meta.stride))
            .collect()
    }

    #[test]
    fn a_datagram_keeps_little_more_than_itself_alive_once_much_is_unread() {
        let memory = MemoryBudget::new(16 * 1024 * 1024);
        let peer = GatewayId::new("west".parse().unwrap(), "gw1".parse().unwrap());
        let (place, _) = memory.open(&peer);
        let socket = PiecewiseSocket::over(Arc::new(Batches { datagrams: 54 }), &memory);
        let most = |received: &[(Vec<u8>, usize)]| received.iter().map(|(piece, _)| piece.len()).max();
        assert_eq!(most(&receive(&*socket)), Some(54 * STRIDE), "as it comes");
        place.hear(2 * 1024 * 1024);
        // What was asked for before is known to have come together once it has.
        receive(&*socket);
        let received = receive(&*socket);
        assert_eq!(most(&received), Some(2 * STRIDE));
        let all: Vec<u8> = received
            .iter()
            .flat_map(|(piece, stride)| piece.chunks(*stride).map(|datagram| datagram[0]))
            .collect();
        assert_eq!(all, (0..54).collect::<Vec<u8>>(), "all of them, in their order");
        place.hear(0);
        assert_eq!(most(&receive(&*socket)), Some(54 * STRIDE));
    }

    #[test]
    fn what_comes_by_itself_is_received_as_many_at_once_as_there_are_places() {
        let memory = MemoryBudget::new(16 * 1024 * 1024);
        let peer = GatewayId::new("west".parse().unwrap(), "gw1".parse().unwrap());
        let (place, _) = memory.open(&peer);
        place.hear(2 * 1024 * 1024);
        let socket = PiecewiseSocket::over(Arc::new(Batches { datagrams: 1 }), &memory);
        for _ in 0..3 {
            assert_eq!(receive(&*socket).len(), 2);
        }
    }

    proptest! {
        #[test]
        fn whatever_is_spread_is_the_same_datagrams(
            places in 1usize..40, stride in 0usize..100, bytes in prop::collection::vec(any::<u8>(), 0..2_000),
        ) {
            let mut buffers = vec![vec![0; 2_000]; places];
            buffers[0][..bytes.len()].copy_from_slice(&bytes);
            let mut bufs: Vec<_> = buffers.iter_mut().map(|buf| IoSliceMut::new(buf)).collect();
            let mut metas = vec![RecvMeta::default(); places];
            (metas[0].len, metas[0].stride) = (bytes.len(), stride);
            let taken = spread(&mut bufs, &mut metas);
            let mut datagrams: Vec<Vec<u8>> = Vec::new();
            for (meta, buf) in metas.iter().zip(&bufs).take(taken) {
                prop_assert_eq!(meta.stride, stride);
                datagrams.extend(buf[..meta.len].chunks(stride.max(1)).map(<[u8]>::to_vec));
            }
            let expected: Vec<Vec<u8>> = bytes.chunks(stride.max(1)).map(<[u8]>::to_vec).collect();
            prop_assert_eq!(datagrams, expected);
        }
    }
}
