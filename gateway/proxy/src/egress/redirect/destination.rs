//! Address that a redirected client connected to, as the kernel has kept it.

use std::{io, net::SocketAddr};

use socket2::SockRef;
use tokio::net::TcpStream;

/// Reason that a client which came in where redirected ones do is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::egress) enum RedirectRefusal {
    /// It connected to the listener itself.
    NotRedirected,
    /// It connected to an address that stands for no service.
    UnknownAddress,
}

impl RedirectRefusal {
    /// The word for metrics.
    pub(in crate::egress) fn word(self) -> &'static str {
        match self {
            Self::NotRedirected => "not_redirected",
            Self::UnknownAddress => "unknown_address",
        }
    }
}

/// Reads the address and port that a client connected to; `None`: it connected to the listener itself.
pub(in crate::egress) fn destination(socket: &TcpStream) -> Option<SocketAddr> {
    let arrived = socket.local_addr().ok()?;
    let kept = SockRef::from(socket);
    let original = match arrived {
        SocketAddr::V4(_) => kept.original_dst_v4(),
        SocketAddr::V6(_) => kept.original_dst_v6(),
    };
    let no_address = || io::Error::other("no IP address");
    let original = original.and_then(|address| address.as_socket().ok_or_else(no_address));
    redirected(original, arrived)
}

/// Tells where a client wanted to, which arrived at `arrived`. The kernel keeps no address of what it does not keep track of, and
/// of what it has not redirected that at which it arrived.
fn redirected(original: io::Result<SocketAddr>, arrived: SocketAddr) -> Option<SocketAddr> {
    let is_same = |address: SocketAddr| {
        address.port() == arrived.port() && address.ip().to_canonical() == arrived.ip().to_canonical()
    };
    original.ok().filter(|address| !is_same(*address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_redirected_has_a_destination() {
        let arrived = "127.0.0.1:7815".parse().unwrap();
        let of = |original: &str| redirected(Ok(original.parse().unwrap()), arrived);
        assert_eq!(of("127.64.0.1:8080"), "127.64.0.1:8080".parse().ok());
        // A service may have the port of the listener.
        assert_eq!(of("127.64.0.1:7815"), "127.64.0.1:7815".parse().ok());
        assert_eq!(of("127.0.0.1:7815"), None);
        let untracked = redirected(Err(io::ErrorKind::NotFound.into()), arrived);
        assert_eq!(untracked, None);
        let six = redirected(Ok("[::1]:7815".parse().unwrap()), "[::1]:7815".parse().unwrap());
        assert_eq!(six, None);
    }
}
