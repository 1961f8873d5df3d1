//! Datagrams of data threads and of processes before this one.

use std::task::Waker;

use aws_lc_rs::hmac::HMAC_SHA256;
use proptest::prelude::*;

use super::*;

fn ids(place: u16) -> ConnectionIds {
    ConnectionIds::new(Arc::new(Key::new(HMAC_SHA256, b"one gateway")), place)
}

/// A packet with a short header for a connection of `thread`, told apart by its last byte.
fn packet(thread: u16, bytes: usize, mark: u8) -> Vec<u8> {
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

fn lanes(threads: usize) -> Arc<Lanes> {
    Arc::new(Lanes::new(
        ThreadPlaces::new(threads),
        Vec::new(),
        RelayedPackets::default(),
    ))
}

fn steered(thread: u16, given: Given, lanes: &Arc<Lanes>) -> SteeredSocket {
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
        socket.lanes.lanes[0].push(RecvMeta::default(), &handed);
        looks.push(look(&socket).unwrap());
    }
    let count = |wanted| looks.iter().filter(|got| *got == wanted).count();
    assert_eq!((count(&own), count(&handed)), (2, 2));
    // Nothing but what is another thread's comes: others of this thread have a turn.
    let busy = endless(packet(1, 40, 3));
    assert_eq!(look(&busy), None);
    assert_eq!(busy.lanes.lanes[1].waiting.lock().len(), MAX_RECEIVES);
}

proptest! {
    #[test]
    fn every_datagram_reaches_the_thread_that_has_its_connection(
        threads in prop::collection::vec(0u16..4, 1..20), last in 20usize..=40,
    ) {
        let all: Vec<_> = threads.iter().enumerate().map(|(at, thread)| {
            let bytes = if at + 1 == threads.len() { last } else { 40 };
            packet(*thread, bytes, u8::try_from(at).unwrap())
        }).collect();
        let [zero, one] = sockets(all.concat(), 40);
        // There is no thread 2 or 3 any more: whoever received those answers them.
        let of = |wanted: &[u16]| -> Vec<_> {
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
fn what_a_process_before_has_is_relayed_there_and_comes_out_at_its_thread() {
    let (ahead, behind) = DatagramRelay::pair().unwrap();
    let before = ThreadPlaces::new(2);
    let lanes_before = Arc::new(Lanes::new(before, Vec::new(), RelayedPackets::default()));
    let relays = vec![Arc::new(DatagramRelay::new(before, ahead).unwrap())];
    let counts = RelayedPackets::default();
    let own = Arc::new(Lanes::new(before.next(2), relays, counts.clone()));
    // Of its handshake too; a new connection's first packet names nobody.
    let mut handshake = vec![LONG_HEADER | 0x40, 0, 0, 0, 1, u8::try_from(ID_BYTES).unwrap()];
    handshake.extend_from_slice(&ids(1).generate_cid());
    handshake.resize(40, 9);
    let mut first = handshake.clone();
    first[6..16].fill(7);
    let [to_zero, to_own, to_one] = [(0, 1), (2, 2), (1, 3)].map(|(place, mark)| packet(place, 40, mark));
    let all = [
        to_zero.clone(),
        to_own.clone(),
        handshake.clone(),
        to_one.clone(),
        first.clone(),
    ];
    let given = Given {
        left: Mutex::new(Some((all.concat(), 40))),
        for_ever: false,
    };
    let reading = steered(2, given, &own);
    assert_eq!(receive(&reading), [to_own, first]);
    assert_eq!((counts.relayed.get(), counts.lost.get()), (3, 0));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let idle = || Given {
        left: Mutex::new(Some((packet(0, 40, 8), 40))),
        for_ever: true,
    };
    let old = [0, 1].map(|thread| steered(thread, idle(), &lanes_before));
    let reads = std::cell::Cell::new(0);
    runtime.block_on(async {
        let count = || reads.set(reads.get() + 1);
        let relaying = crate::succession::receive(behind, lanes_before.clone(), count);
        let arrived = async {
            while lanes_before
                .lanes
                .iter()
                .map(|lane| lane.waiting.lock().len())
                .sum::<usize>()
                < 3
            {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            ended = relaying => panic!("{ended:?}"),
            () = arrived => {}
        }
    });
    assert_eq!(reads.get(), 1);
    // It reads the socket no more, though there is something.
    assert_eq!(receive(&old[0]), [to_zero]);
    assert_eq!(receive(&old[1]), [handshake, to_one]);
    drop(old);
}

#[test]
fn what_is_for_a_successor_is_not_answered_by_the_process_before() {
    let lanes = lanes(1);
    let [own, to_successor] = [packet(0, 40, 1), packet(1, 40, 2)];
    let bring = |datagram: &[u8]| {
        let given = Given {
            left: Mutex::new(Some((datagram.to_vec(), 40))),
            for_ever: false,
        };
        receive(&steered(0, given, &lanes))
    };
    assert_eq!(
        bring(&to_successor),
        vec![to_successor.clone()],
        "of a process long gone"
    );
    lanes.leave();
    assert!(bring(&to_successor).is_empty());
    assert_eq!(bring(&own), vec![own], "it reads on");
}

#[test]
fn no_more_than_a_queue_of_datagrams_waits_for_a_thread() {
    let lane = Lane::default();
    for _ in 0..2 * MAX_WAITING {
        lane.push(RecvMeta::default(), b"x");
    }
    assert_eq!(lane.waiting.lock().len(), MAX_WAITING);
}

#[test]
fn what_a_process_before_does_not_take_in_time_is_counted() {
    let (ahead, _behind) = DatagramRelay::pair().unwrap();
    let before = ThreadPlaces::new(1);
    let relays = vec![Arc::new(DatagramRelay::new(before, ahead).unwrap())];
    let counts = RelayedPackets::default();
    let lanes = Lanes::new(before.next(1), relays, counts.clone());
    for _ in 0..100_000 {
        assert!(lanes.hand_on((0, true), &RecvMeta::default(), &[1; 1200]));
    }
    let (relayed, lost) = (counts.relayed.get(), counts.lost.get());
    assert!(
        relayed > 0 && lost > 0 && relayed + lost == 100_000,
        "{relayed} {lost}"
    );
}
