//! UDP sockets for tunnels: one port shared by all data threads for accepting, an ephemeral one per thread for dialling.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
};

use rustix::{
    io::Errno,
    net::sockopt::{set_socket_recv_buffer_size_force, set_socket_send_buffer_size_force},
};
use socket2::{Domain, Protocol, Socket, Type};

/// Kernel buffers that are asked for, in bytes; the kernel's own limits may give less.
const BUFFER_BYTES: usize = 8 * 1024 * 1024;
/// Buffers below which a burst at a few Gbit/s loses packets: what 4 Gbit/s bring in 8 ms, in which a data thread may be busy.
const ENOUGH_BYTES: usize = 4 * 1024 * 1024;

/// Kernel buffers that the sockets of tunnels have been given, in bytes; of several sockets the smallest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketBuffers {
    pub receive: usize,
    pub send: usize,
}

impl SocketBuffers {
    /// Buffers that are asked for.
    pub const WANTED: Self = Self {
        receive: BUFFER_BYTES,
        send: BUFFER_BYTES,
    };

    /// Tells whether bursts fit.
    #[must_use]
    pub fn are_enough(&self) -> bool {
        self.receive >= ENOUGH_BYTES && self.send >= ENOUGH_BYTES
    }

    /// Command that lets the kernel give what is asked for, once the gateway is started again.
    #[must_use]
    pub fn remedy() -> String {
        format!("sysctl -w net.core.rmem_max={BUFFER_BYTES} net.core.wmem_max={BUFFER_BYTES}")
    }

    pub(super) fn of(socket: &UdpSocket) -> io::Result<Self> {
        let socket = socket2::SockRef::from(socket);
        // Linux gives twice what was set, for its own bookkeeping, and says so (socket(7)).
        Ok(Self {
            receive: socket.recv_buffer_size()? / 2,
            send: socket.send_buffer_size()? / 2,
        })
    }

    pub(super) fn or_less(self, other: Self) -> Self {
        Self {
            receive: self.receive.min(other.receive),
            send: self.send.min(other.send),
        }
    }
}

/// Binds `count` sockets to one address; the first one picks the port if it is 0. The kernel spreads peers over them.
///
/// The first socket is bound alone and shares its port only afterwards. So a second gateway that is started by mistake finds the
/// port taken, instead of quietly receiving half of the first one's packets.
///
/// `[::]` stands for both families, and for IPv4 alone on a host without IPv6.
///
/// # Errors
/// When the address is taken or is not this host's.
pub(super) fn bind_shared(listen: SocketAddr, count: usize) -> io::Result<Vec<UdpSocket>> {
    bind_shared_with(open, listen, count)
}

fn bind_shared_with(
    open: impl Fn(SocketAddr) -> io::Result<Socket>,
    listen: SocketAddr,
    count: usize,
) -> io::Result<Vec<UdpSocket>> {
    let bound = |listen: SocketAddr| -> io::Result<Socket> {
        let first = open(listen)?;
        first.bind(&listen.into())?;
        Ok(first)
    };
    let (first, listen) = match bound(listen) {
        Err(error) if is_every_address(listen) && has_no_ipv6(&error) => {
            let listen = SocketAddr::from((Ipv4Addr::UNSPECIFIED, listen.port()));
            (bound(listen)?, listen)
        }
        first => (first?, listen),
    };
    let mut sockets = vec![UdpSocket::from(first)];
    let Some(address) = sockets.first().map(UdpSocket::local_addr) else {
        return Ok(sockets);
    };
    let address = address?;
    for _ in 1..count {
        if let Some(first) = sockets.first() {
            socket2::SockRef::from(first).set_reuse_port(true)?;
        }
        let socket = open(listen)?;
        socket.set_reuse_port(true)?;
        socket.bind(&address.into())?;
        sockets.push(socket.into());
    }
    Ok(sockets)
}

/// Binds further sockets beside those that share an address, so that there are `count`.
///
/// # Errors
/// When there are more already, whose datagrams nobody would read, or no further one can be had.
pub(super) fn more_of(mut sockets: Vec<UdpSocket>, count: usize) -> io::Result<Vec<UdpSocket>> {
    if sockets.len() > count {
        return Err(io::Error::other(format!(
            "there are {} sockets for {count} data threads",
            sockets.len()
        )));
    }
    let Some(first) = sockets.first() else {
        return Ok(sockets);
    };
    let address = first.local_addr()?;
    if count > 1 {
        socket2::SockRef::from(first).set_reuse_port(true)?;
    }
    while sockets.len() < count {
        let socket = open(address)?;
        socket.set_reuse_port(true)?;
        socket.bind(&address.into())?;
        sockets.push(socket.into());
    }
    Ok(sockets)
}

fn is_every_address(listen: SocketAddr) -> bool {
    listen.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
}

/// Tells whether a socket failed because this host has no IPv6, not because the port is taken.
fn has_no_ipv6(error: &io::Error) -> bool {
    let code = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(code, Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL))
}

/// Binds a socket for dialling: both families where the host has IPv6, otherwise IPv4.
///
/// # Errors
/// When no socket can be had.
pub(super) fn bind_dialling() -> io::Result<UdpSocket> {
    let both = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
    let bind = |address: SocketAddr| -> io::Result<UdpSocket> {
        let socket = open(address)?;
        socket.bind(&address.into())?;
        Ok(socket.into())
    };
    bind(both).or_else(|_| bind((Ipv4Addr::UNSPECIFIED, 0).into()))
}

fn open(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    // Best effort: smaller buffers cost speed and nothing else. With CAP_NET_ADMIN the kernel's limits do not bind.
    if set_socket_recv_buffer_size_force(&socket, BUFFER_BYTES).is_err() {
        let _ = socket.set_recv_buffer_size(BUFFER_BYTES);
    }
    if set_socket_send_buffer_size_force(&socket, BUFFER_BYTES).is_err() {
        let _ = socket.set_send_buffer_size(BUFFER_BYTES);
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_threads_share_the_port_that_the_first_socket_picked() {
        let sockets = bind_shared("127.0.0.1:0".parse().unwrap(), 3).unwrap();
        let addresses: Vec<_> = sockets.iter().map(|s| s.local_addr().unwrap()).collect();
        assert_eq!(addresses.len(), 3);
        assert!(addresses.iter().all(|a| *a == addresses[0] && a.port() != 0));
    }

    #[test]
    fn every_address_is_of_both_families_and_of_ipv4_where_there_is_no_other() {
        let every: SocketAddr = "[::]:0".parse().unwrap();
        let hears_ipv4 = |sockets: &[UdpSocket]| {
            let port = sockets[0].local_addr().unwrap().port();
            let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
            sender.send_to(b"hello", ("127.0.0.1", port)).unwrap();
            sockets[0].set_nonblocking(false).unwrap();
            sockets[0]
                .set_read_timeout(Some(std::time::Duration::from_secs(20)))
                .unwrap();
            sockets[0].recv_from(&mut [0; 16]).unwrap().1.ip().to_canonical()
                == sender.local_addr().unwrap().ip()
        };
        assert!(hears_ipv4(&bind_shared(every, 1).unwrap()));
        let without_ipv6 = |address: SocketAddr| match address.is_ipv6() {
            true => Err(Errno::AFNOSUPPORT.into()),
            false => open(address),
        };
        let alone = bind_shared_with(without_ipv6, every, 1).unwrap();
        assert!(alone[0].local_addr().unwrap().is_ipv4() && hears_ipv4(&alone));
        assert_eq!(bind_shared_with(without_ipv6, every, 2).unwrap().len(), 2);
        let own: SocketAddr = "[::1]:0".parse().unwrap();
        assert!(
            bind_shared_with(without_ipv6, own, 1).is_err(),
            "what was named is not replaced"
        );
    }

    #[test]
    fn the_buffers_that_the_kernel_gave_are_read_and_the_smallest_count() {
        let socket = bind_dialling().unwrap();
        let given = SocketBuffers::of(&socket).unwrap();
        let small = 64 * 1024;
        socket2::SockRef::from(&socket)
            .set_recv_buffer_size(small)
            .unwrap();
        let less = SocketBuffers::of(&socket).unwrap();
        assert_eq!((less.receive, less.send), (small, given.send));
        assert_eq!(given.or_less(less), less);
        assert!(SocketBuffers::WANTED.are_enough() && !less.are_enough());
    }

    #[test]
    fn a_second_gateway_on_the_same_port_is_an_error() {
        let first = bind_shared("127.0.0.1:0".parse().unwrap(), 2).unwrap();
        let taken = first[0].local_addr().unwrap();
        let second = bind_shared(taken, 2).unwrap_err();
        assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
    }
}
