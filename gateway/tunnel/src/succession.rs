//! One process takes the place of another on the same UDP sockets, of which it alone reads from then on. What comes for a
//! connection that a process before it has, it relays there over a socket between the two; that process goes on sending by
//! itself. Connection ids name the process and its data thread by a number, its *place*.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::unix::net::UnixDatagram,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use causeway_host::handed::AnySocket;
use quinn::udp::{EcnCodepoint, RecvMeta};
use serde::{Deserialize, Serialize};

use super::steering::Lanes;

/// Longest datagram that is relayed, with what is written before it.
const MAX_RELAYED_BYTES: usize = 65_535 + 64;
/// Kernel buffer for datagrams that wait for the process before, in bytes; the kernel may give less.
const RELAY_BUFFER_BYTES: usize = 4 * 1024 * 1024;
/// Processes that may still finish what they hold when another takes the place of the last.
pub const MAX_PREDECESSORS: usize = 8;
/// First datagram of a successor, which says that it reads the sockets. It carries nothing that [`decode`] reads.
const READS: &[u8] = &[0];
/// Places from which the next process begins at 0 again.
const LAST_FIRST: u16 = u16::MAX - 2048;

/// Places of the data threads of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ThreadPlaces {
    pub first: u16,
    pub count: u16,
}

impl ThreadPlaces {
    /// Places of a process that takes the place of none.
    #[must_use]
    pub fn new(threads: usize) -> Self {
        Self {
            first: 0,
            count: u16::try_from(threads).unwrap_or(u16::MAX),
        }
    }

    /// Places of the process after this one: none that a process has which still finishes what it holds.
    #[must_use]
    pub fn next(self, threads: usize) -> Self {
        let end = self.first.saturating_add(self.count);
        Self {
            first: if end > LAST_FIRST { 0 } else { end },
            ..Self::new(threads)
        }
    }

    /// Number of the data thread that has a place.
    pub(super) fn thread(self, place: u16) -> Option<usize> {
        let thread = place.checked_sub(self.first)?;
        (thread < self.count).then_some(thread.into())
    }
}

/// Way to a process before this one.
#[derive(Debug)]
pub struct DatagramRelay {
    places: ThreadPlaces,
    socket: Arc<UnixDatagram>,
    gone: AtomicBool,
}

/// Outcome of relaying a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RelayAttempt {
    Sent,
    /// There was no room.
    Lost,
    /// The process is gone.
    Gone,
}

impl DatagramRelay {
    /// # Errors
    /// When the socket cannot be set up.
    pub fn new(places: ThreadPlaces, socket: UnixDatagram) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self {
            places,
            socket: Arc::new(socket),
            gone: AtomicBool::new(false),
        })
    }

    /// Both ends of a relay, of which the successor has the first.
    ///
    /// # Errors
    /// When the kernel gives none.
    pub fn pair() -> io::Result<(UnixDatagram, UnixDatagram)> {
        let (ahead, behind) = UnixDatagram::pair()?;
        // As large as it may be; a smaller one loses datagrams in bursts, which are sent again.
        let _ = socket2::SockRef::from(&ahead).set_send_buffer_size(RELAY_BUFFER_BYTES);
        Ok((ahead, behind))
    }

    /// Tells the process before that this one reads the sockets. Whatever is relayed says so too.
    pub(super) fn tell_reading(&self) {
        if self.socket.send(READS).is_err_and(|error| !is_full(&error)) {
            self.gone.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn leads_to(&self, place: u16) -> bool {
        !self.gone.load(Ordering::Relaxed) && self.places.thread(place).is_some()
    }

    /// Relays one datagram, if there is room.
    pub(super) fn send(&self, place: u16, meta: &RecvMeta, datagram: &[u8]) -> RelayAttempt {
        match self.socket.send(&encode(place, meta, datagram)) {
            Ok(_) => RelayAttempt::Sent,
            Err(error) if is_full(&error) => RelayAttempt::Lost,
            // It has ended: what comes for it is answered as for any connection that is not known.
            Err(_) => {
                self.gone.store(true, Ordering::Relaxed);
                RelayAttempt::Gone
            }
        }
    }

    fn ends(&self) -> Option<(ThreadPlaces, Arc<AnySocket>)> {
        let socket: Arc<UnixDatagram> = Arc::clone(&self.socket);
        (!self.gone.load(Ordering::Relaxed)).then_some((self.places, socket as Arc<AnySocket>))
    }
}

fn is_full(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let code = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(
        code,
        Some(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM | Errno::MSGSIZE | Errno::INTR)
    )
}

/// Process that this one takes the place of, and those before it that still finish what they hold.
#[derive(Debug, Clone)]
pub struct Predecessor {
    /// Number by which its peers know it.
    pub start_id: u64,
    /// Places of this process.
    pub places: ThreadPlaces,
    pub relays: Vec<Arc<DatagramRelay>>,
}

/// Description of the tunnels of this process for its successor.
#[derive(Clone)]
pub struct Succession {
    pub start_id: u64,
    pub places: ThreadPlaces,
    /// Ways to the processes before that still finish what they hold.
    pub relays: Vec<(ThreadPlaces, Arc<AnySocket>)>,
}

impl Succession {
    pub(super) fn new(start_id: u64, places: ThreadPlaces, relays: &[Arc<DatagramRelay>]) -> Self {
        Self {
            start_id,
            places,
            relays: relays.iter().filter_map(|relay| relay.ends()).collect(),
        }
    }
}

/// Leaves the sockets to the successor once it says that it reads them, which `reads` is called for, and takes what it relays, until that is gone.
pub(super) async fn receive(socket: UnixDatagram, lanes: Arc<Lanes>, reads: impl FnOnce()) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    let socket = tokio::net::UnixDatagram::from_std(socket)?;
    let mut buffer = vec![0; MAX_RELAYED_BYTES];
    let mut reads = Some(reads);
    loop {
        let length = socket.recv(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        if let Some(reads) = reads.take() {
            lanes.release();
            reads();
        }
        if let Some((place, meta, datagram)) = decode(&buffer[..length]) {
            lanes.push(place, &meta, datagram);
        }
    }
}

/// Writes place, mark of congestion and both addresses before a datagram.
fn encode(place: u16, meta: &RecvMeta, datagram: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(datagram.len() + 64);
    bytes.extend_from_slice(&place.to_be_bytes());
    bytes.push(meta.ecn.map_or(0, |ecn| ecn as u8));
    encode_ip(Some(meta.addr.ip()), &mut bytes);
    bytes.extend_from_slice(&meta.addr.port().to_be_bytes());
    let (flow, scope) = match meta.addr {
        SocketAddr::V6(address) => (address.flowinfo(), address.scope_id()),
        SocketAddr::V4(_) => (0, 0),
    };
    bytes.extend_from_slice(&flow.to_be_bytes());
    bytes.extend_from_slice(&scope.to_be_bytes());
    encode_ip(meta.dst_ip, &mut bytes);
    bytes.extend_from_slice(datagram);
    bytes
}

fn encode_ip(ip: Option<IpAddr>, bytes: &mut Vec<u8>) {
    match ip {
        None => bytes.push(0),
        Some(IpAddr::V4(ip)) => {
            bytes.push(4);
            bytes.extend_from_slice(&ip.octets());
        }
        Some(IpAddr::V6(ip)) => {
            bytes.push(6);
            bytes.extend_from_slice(&ip.octets());
        }
    }
}

/// Reads what [`encode`] has written; `None`: it is something else.
fn decode(bytes: &[u8]) -> Option<(u16, RecvMeta, &[u8])> {
    let (place, bytes) = bytes.split_first_chunk()?;
    let (ecn, bytes) = bytes.split_first()?;
    let (ip, bytes) = decode_ip(bytes)?;
    let (port, bytes) = bytes.split_first_chunk()?;
    let (flow, bytes) = bytes.split_first_chunk()?;
    let (scope, bytes) = bytes.split_first_chunk()?;
    let (dst_ip, datagram) = decode_ip(bytes)?;
    let mut addr = SocketAddr::new(ip?, u16::from_be_bytes(*port));
    if let SocketAddr::V6(address) = &mut addr {
        address.set_flowinfo(u32::from_be_bytes(*flow));
        address.set_scope_id(u32::from_be_bytes(*scope));
    }
    let meta = RecvMeta {
        addr,
        len: datagram.len(),
        stride: datagram.len(),
        ecn: EcnCodepoint::from_bits(*ecn),
        dst_ip,
    };
    Some((u16::from_be_bytes(*place), meta, datagram))
}

/// Returns the address, if there is one, and what comes after it.
fn decode_ip(bytes: &[u8]) -> Option<(Option<IpAddr>, &[u8])> {
    let (kind, bytes) = bytes.split_first()?;
    match kind {
        0 => Some((None, bytes)),
        4 => {
            let (octets, bytes) = bytes.split_first_chunk::<4>()?;
            Some((Some(IpAddr::from(*octets)), bytes))
        }
        6 => {
            let (octets, bytes) = bytes.split_first_chunk::<16>()?;
            Some((Some(IpAddr::from(*octets)), bytes))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_meta() -> impl Strategy<Value = RecvMeta> {
        let ecn = prop::option::of(prop_oneof![
            Just(EcnCodepoint::Ect0),
            Just(EcnCodepoint::Ect1),
            Just(EcnCodepoint::Ce)
        ]);
        (any::<SocketAddr>(), ecn, any::<Option<IpAddr>>()).prop_map(|(addr, ecn, dst_ip)| RecvMeta {
            addr,
            ecn,
            dst_ip,
            ..RecvMeta::default()
        })
    }

    proptest! {
        #[test]
        fn a_datagram_survives_the_way(
            place: u16, meta in any_meta(), datagram in prop::collection::vec(any::<u8>(), 0..99),
        ) {
            let bytes = encode(place, &meta, &datagram);
            let (to, read, carried) = decode(&bytes).unwrap();
            prop_assert_eq!((to, carried), (place, &datagram[..]));
            prop_assert_eq!((read.addr, read.ecn, read.dst_ip), (meta.addr, meta.ecn, meta.dst_ip));
            prop_assert_eq!((read.len, read.stride), (datagram.len(), datagram.len()));
        }

        #[test]
        fn anything_may_be_relayed(bytes in prop::collection::vec(any::<u8>(), 0..99)) {
            let _ = decode(&bytes);
        }
    }

    #[test]
    fn no_two_processes_in_a_row_have_a_place_in_common() {
        let mut places = ThreadPlaces::new(64);
        for _ in 0..3000 {
            let next = places.next(48);
            let taken = |place| places.thread(place).is_some();
            assert!((next.first..next.first + next.count).all(|place| !taken(place)));
            places = next;
        }
        let places = ThreadPlaces { first: 10, count: 2 };
        let threads = [9, 10, 11, 12].map(|place| places.thread(place));
        assert_eq!(threads, [None, Some(0), Some(1), None]);
    }

    #[test]
    fn a_relay_loses_what_does_not_fit_and_notices_the_end_of_the_process() {
        let (ahead, behind) = DatagramRelay::pair().unwrap();
        let relay = DatagramRelay::new(ThreadPlaces { first: 3, count: 1 }, ahead).unwrap();
        assert!(relay.leads_to(3) && !relay.leads_to(4));
        let meta = RecvMeta::default();
        let ends: Vec<_> = (0..100_000).map(|_| relay.send(3, &meta, &[1; 1200])).collect();
        let count = |of| ends.iter().filter(|end| **end == of).count();
        let (sent, lost) = (count(RelayAttempt::Sent), count(RelayAttempt::Lost));
        assert!(sent > 0 && lost > 0 && sent + lost == 100_000);
        assert!(relay.ends().is_some());
        drop(behind);
        assert_eq!(relay.send(3, &meta, &[1; 1200]), RelayAttempt::Gone);
        assert!(!relay.leads_to(3) && relay.ends().is_none());
    }
}
