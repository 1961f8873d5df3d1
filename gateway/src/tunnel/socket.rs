//! UDP sockets for tunnels: one port shared by all data threads for accepting, an ephemeral one per thread for dialling.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
};

use socket2::{Domain, Protocol, Socket, Type};

/// Kernel buffers that are asked for, in bytes; the kernel's own limits may give less.
const BUFFER_BYTES: usize = 8 * 1024 * 1024;

/// Binds `count` sockets to one address; the first one picks the port if it is 0. The kernel spreads peers over them.
///
/// The first socket is bound alone and shares its port only afterwards. So a second gateway that is started by mistake finds the
/// port taken, instead of quietly receiving half of the first one's packets.
///
/// # Errors
/// When the address is taken or is not this host's.
pub(super) fn bind_shared(listen: SocketAddr, count: usize) -> io::Result<Vec<UdpSocket>> {
    let first = open(listen)?;
    first.bind(&listen.into())?;
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
    // Best effort: smaller buffers cost speed and nothing else.
    let _ = socket.set_recv_buffer_size(BUFFER_BYTES);
    let _ = socket.set_send_buffer_size(BUFFER_BYTES);
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
    fn a_second_gateway_on_the_same_port_is_an_error() {
        let first = bind_shared("127.0.0.1:0".parse().unwrap(), 2).unwrap();
        let taken = first[0].local_addr().unwrap();
        let second = bind_shared(taken, 2).unwrap_err();
        assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
    }
}
