//! Questions to the kernel of this host: its own addresses, and which user a socket belongs to.
//!
//! Both are asked over netlink: `rtnetlink(7)` for addresses, `sock_diag(7)` for one socket at a time, which costs
//! microseconds however many sockets there are. Where there is no netlink (another system than Linux, a sandbox), nothing
//! is known, and so nobody is named by it.

use std::{
    collections::BTreeSet,
    io::{self, Read},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use socket2::{Domain, Protocol, Socket, Type};

/// For how long the addresses that were read are believed.
const ADDRESSES_FOR: Duration = Duration::from_secs(2);
/// Longest wait for an answer of the kernel, which gives it at once.
const ANSWER_WITHIN: Duration = Duration::from_millis(100);
/// Largest answer about addresses, in bytes. The kernel fills at most 32 KiB at once.
const MAX_ADDRESSES_BYTES: usize = 32 * 1024;
/// Largest answer about one socket, in bytes, with attributes that nobody asked for.
const MAX_SOCKET_BYTES: usize = 1024;
/// Most answers to one question for addresses.
const MAX_ANSWERS: usize = 1024;
/// User that the kernel names when this user namespace has no number for the real one; it may be anybody.
const OVERFLOW_USER: u32 = 65_534;

// Numbers of linux/netlink.h, linux/rtnetlink.h, linux/sock_diag.h, linux/inet_diag.h and net/tcp_states.h.
const AF_NETLINK: i32 = 16;
const NETLINK_ROUTE: i32 = 0;
const NETLINK_SOCK_DIAG: i32 = 4;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_DONE: u16 = 3;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const TCP_LISTEN: u8 = 10;

const HEADER_BYTES: usize = 16;
/// `struct ifaddrmsg`
const ADDRESS_BYTES: usize = 8;
/// `struct inet_diag_msg`
const SOCKET_BYTES: usize = 72;

/// A user of this host, as the kernel numbers them.
pub type UserId = u32;

/// Questions to a host of who its users are.
pub trait Host: Send + Sync + 'static {
    /// The addresses of this host's interfaces, without those of its loopback network. `None`: they are not known.
    fn addresses(&self) -> Option<Arc<BTreeSet<IpAddr>>>;

    /// The same without asking the kernel: as it was read a moment ago. `None`: it is to be asked.
    fn known_addresses(&self) -> Option<Arc<BTreeSet<IpAddr>>> {
        None
    }

    /// The users of sockets of this host.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    fn sockets(&self) -> io::Result<Box<dyn Sockets>>;
}

/// One look at the kernel's table of sockets.
pub trait Sockets {
    /// Finds who owns the TCP socket that is bound to `from` and connected to `to`. `None`: there is none, or nobody can tell.
    fn client(&mut self, from: SocketAddr, to: SocketAddr) -> Option<UserId>;

    /// Finds who owns the TCP socket that takes connections to `address`.
    fn listener(&mut self, address: SocketAddr) -> Option<UserId>;
}

/// The kernel that this process runs on.
#[derive(Debug, Default)]
pub struct Kernel {
    addresses: ArcSwap<Addresses>,
}

/// Addresses as they were read last, and the time at which reading was last tried.
#[derive(Debug, Clone, Default)]
struct Addresses {
    tried: Option<Instant>,
    known: Option<Arc<BTreeSet<IpAddr>>>,
}

impl Addresses {
    fn are_recent(&self, now: Instant) -> bool {
        let lately = |tried| now.saturating_duration_since(tried) < ADDRESSES_FOR;
        self.tried.is_some_and(lately)
    }
}

impl Host for Kernel {
    fn known_addresses(&self) -> Option<Arc<BTreeSet<IpAddr>>> {
        let last = self.addresses.load();
        let known = last.known.as_ref().filter(|_| last.are_recent(Instant::now()));
        known.cloned()
    }

    fn addresses(&self) -> Option<Arc<BTreeSet<IpAddr>>> {
        let last = self.addresses.load();
        let now = Instant::now();
        if last.are_recent(now) {
            return last.known.clone();
        }
        let known = match addresses() {
            Ok(addresses) => Some(Arc::new(addresses)),
            Err(error) => {
                tracing::debug!(%error, "this host's addresses cannot be read");
                last.known.clone()
            }
        };
        self.addresses.store(Arc::new(Addresses {
            tried: Some(now),
            known: known.clone(),
        }));
        known
    }

    fn sockets(&self) -> io::Result<Box<dyn Sockets>> {
        Ok(Box::new(Diagnosis(Netlink::open(
            NETLINK_SOCK_DIAG,
            MAX_SOCKET_BYTES,
        )?)))
    }
}

/// A netlink socket.
struct Netlink {
    socket: Socket,
    answer: Vec<u8>,
}

impl Netlink {
    fn open(protocol: i32, max_answer_bytes: usize) -> io::Result<Self> {
        if !cfg!(target_os = "linux") {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let socket = Socket::new(
            Domain::from(AF_NETLINK),
            Type::DGRAM,
            Some(Protocol::from(protocol)),
        )?;
        socket.set_read_timeout(Some(ANSWER_WITHIN))?;
        Ok(Self {
            socket,
            answer: vec![0; max_answer_bytes],
        })
    }

    /// Sends `struct nlmsghdr` and what follows it.
    fn ask(&self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        let length = u32::try_from(HEADER_BYTES + body.len()).map_err(io::Error::other)?;
        let mut message = Vec::with_capacity(HEADER_BYTES + body.len());
        message.extend_from_slice(&length.to_ne_bytes());
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(&(NLM_F_REQUEST | flags).to_ne_bytes());
        message.extend_from_slice(&[0; 8]);
        message.extend_from_slice(body);
        self.socket.send(&message).map(drop)
    }

    fn read(&mut self) -> io::Result<&[u8]> {
        let length = self.socket.read(&mut self.answer)?;
        Ok(&self.answer[..length])
    }
}

/// The messages in an answer: their kinds and bodies.
fn messages(mut answer: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32_at(answer, 0)?).ok()?;
        let kind = u16_at(answer, 4)?;
        let body = answer.get(HEADER_BYTES..length)?;
        answer = answer.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn port_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn addresses() -> io::Result<BTreeSet<IpAddr>> {
    let mut netlink = Netlink::open(NETLINK_ROUTE, MAX_ADDRESSES_BYTES)?;
    // `struct rtgenmsg`: of any family.
    netlink.ask(RTM_GETADDR, NLM_F_DUMP, &[0; 4])?;
    let mut found = BTreeSet::new();
    for _ in 0..MAX_ANSWERS {
        let answer = netlink.read()?;
        for (kind, body) in messages(answer) {
            match kind {
                RTM_NEWADDR => found.extend(own_address(body)),
                NLMSG_DONE => return Ok(found),
                _ => return Err(io::Error::other("the kernel does not tell its addresses")),
            }
        }
    }
    Err(io::Error::other("the kernel tells more addresses than can be"))
}

/// `struct ifaddrmsg` and its attributes. On a point-to-point link `IFA_ADDRESS` is the other end's.
fn own_address(body: &[u8]) -> Option<IpAddr> {
    let mut attributes = body.get(ADDRESS_BYTES..)?;
    let (mut local, mut address) = (None, None);
    while let (Some(length), Some(kind)) = (u16_at(attributes, 0), u16_at(attributes, 2)) {
        let length = usize::from(length);
        let Some(value) = attributes.get(4..length) else {
            break;
        };
        match kind {
            IFA_LOCAL => local = ip(value),
            IFA_ADDRESS => address = ip(value),
            _ => {}
        }
        attributes = attributes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    local.or(address).filter(|address| !address.is_loopback())
}

fn ip(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => <[u8; 4]>::try_from(value).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(value).ok().map(IpAddr::from),
        _ => None,
    }
}

struct Diagnosis(Netlink);

impl Sockets for Diagnosis {
    fn client(&mut self, from: SocketAddr, to: SocketAddr) -> Option<UserId> {
        let found = self.look(from, Some(to))?;
        (found.state != TCP_LISTEN && found.ports == (from.port(), to.port())).then_some(found.user)
    }

    fn listener(&mut self, address: SocketAddr) -> Option<UserId> {
        let found = self.look(address, None)?;
        (found.state == TCP_LISTEN).then_some(found.user)
    }
}

/// Answer of the kernel about one socket.
struct Found {
    state: u8,
    ports: (u16, u16),
    user: UserId,
}

impl Diagnosis {
    /// Asks for the one socket that packets from `to` to `at` go to. A listener answers where no connection is there.
    fn look(&mut self, at: SocketAddr, to: Option<SocketAddr>) -> Option<Found> {
        let request = diagnosis_request(at, to)?;
        let asked = self.0.ask(SOCK_DIAG_BY_FAMILY, 0, &request);
        let answer = asked.and_then(|()| self.0.read());
        match answer {
            Ok(answer) => read_diagnosis(answer),
            Err(error) => {
                tracing::debug!(%error, "the kernel does not tell whose a socket is");
                None
            }
        }
    }
}

/// `struct inet_diag_req_v2` for exactly one socket.
fn diagnosis_request(at: SocketAddr, to: Option<SocketAddr>) -> Option<Vec<u8>> {
    let (at_ip, to_ip) = (at.ip().to_canonical(), to.map(|to| to.ip().to_canonical()));
    let family = if at_ip.is_ipv4() { AF_INET } else { AF_INET6 };
    if to_ip.is_some_and(|to| to.is_ipv4() != at_ip.is_ipv4()) {
        return None;
    }
    let mut request = vec![family, IPPROTO_TCP, 0, 0];
    request.extend_from_slice(&u32::MAX.to_ne_bytes());
    request.extend_from_slice(&at.port().to_be_bytes());
    request.extend_from_slice(&to.map_or(0, |to| to.port()).to_be_bytes());
    request.extend_from_slice(&sixteen(Some(at_ip)));
    request.extend_from_slice(&sixteen(to_ip));
    // Any interface, and no cookie to compare.
    request.extend_from_slice(&0u32.to_ne_bytes());
    request.extend_from_slice(&[0xff; 8]);
    Some(request)
}

fn sixteen(address: Option<IpAddr>) -> [u8; 16] {
    let mut bytes = [0; 16];
    match address {
        Some(IpAddr::V4(address)) => bytes[..4].copy_from_slice(&address.octets()),
        Some(IpAddr::V6(address)) => bytes = address.octets(),
        None => {}
    }
    bytes
}

/// Reads `struct inet_diag_msg`. A socket whose program has closed it belongs to nobody, though the kernel then says user 0.
fn read_diagnosis(answer: &[u8]) -> Option<Found> {
    let (kind, body) = messages(answer).next()?;
    if kind != SOCK_DIAG_BY_FAMILY || body.len() < SOCKET_BYTES {
        return None;
    }
    let (user, inode) = (u32_at(body, 64)?, u32_at(body, 68)?);
    let known = inode != 0 && user != OVERFLOW_USER;
    known.then_some(Found {
        state: body[1],
        ports: (port_at(body, 4)?, port_at(body, 6)?),
        user,
    })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use proptest::prelude::*;

    use super::*;

    fn own_user() -> UserId {
        rustix::process::getuid().as_raw()
    }

    #[test]
    fn the_kernel_tells_whose_a_client_and_a_listener_is() {
        for any in ["127.0.0.1:0", "[::1]:0", "0.0.0.0:0"] {
            let listener = TcpListener::bind(any).unwrap();
            let address = listener.local_addr().unwrap();
            let reached = match address.ip().is_unspecified() {
                true => SocketAddr::from(([127, 0, 0, 1], address.port())),
                false => address,
            };
            let client = TcpStream::connect(reached).unwrap();
            let from = client.local_addr().unwrap();
            let _accepted = listener.accept().unwrap();
            let mut sockets = Kernel::default().sockets().unwrap();
            assert_eq!(sockets.client(from, reached), Some(own_user()), "{any}");
            assert_eq!(sockets.listener(reached), Some(own_user()), "{any}");
            // Nobody listens at a client's port, and what listens is no client.
            assert_eq!(sockets.listener(from), None, "{any}");
            drop(client);
            assert_eq!(
                sockets.client(from, reached),
                None,
                "{any}: closed by its program"
            );
        }
    }

    #[test]
    fn the_own_addresses_are_without_loopback() {
        let kernel = Kernel::default();
        let addresses = kernel.addresses().unwrap();
        assert!(
            addresses.iter().all(|address| !address.is_loopback()),
            "{addresses:?}"
        );
        assert!(
            addresses
                .iter()
                .all(|address| std::net::UdpSocket::bind((*address, 0)).is_ok() || address.is_ipv6())
        );
        assert!(
            Arc::ptr_eq(&addresses, &kernel.addresses().unwrap()),
            "they are kept for a while"
        );
    }

    proptest! {
        #[test]
        fn any_answer_is_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), length in 0u32..200) {
            let mut bytes = bytes;
            if bytes.len() > 4 {
                bytes[..4].copy_from_slice(&length.to_ne_bytes());
            }
            let _ = read_diagnosis(&bytes);
            for (_, body) in messages(&bytes).take(100) {
                let _ = own_address(body);
            }
        }
    }
}
