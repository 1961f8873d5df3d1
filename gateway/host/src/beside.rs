//! Unix socket beside a TCP listener, for programs of this host that are to be known by their user. It has an abstract name made of the
//! TCP address (unix(7)), so whoever knows that address finds it, and no file is left behind.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

use tokio::net::{UnixListener, UnixStream};

/// Name of the socket beside `address`, without the zero byte that the kernel has before it.
#[must_use]
pub fn beside_name(address: SocketAddr) -> String {
    format!(
        "causeway/{}",
        SocketAddr::new(address.ip().to_canonical(), address.port())
    )
}

/// Binds the socket beside a TCP address that this process listens at.
///
/// # Errors
/// Another program has the name, or this system has no such sockets.
pub fn bind_beside(address: SocketAddr) -> io::Result<UnixListener> {
    UnixListener::bind(abstract_path(address))
}

/// Path of an abstract name, which begins with a zero byte.
fn abstract_path(address: SocketAddr) -> String {
    format!("\0{}", beside_name(address))
}

/// Connects to the socket beside a TCP address, or beside its port on every address of the host. `None`: there is none.
///
/// # Errors
/// A socket that cannot be connected to, or that neither this user, nor root, nor a user whom root asks for has opened.
pub async fn connect_beside(address: SocketAddr) -> io::Result<Option<UnixStream>> {
    let port = address.port();
    let everywhere = [Ipv6Addr::UNSPECIFIED.into(), Ipv4Addr::UNSPECIFIED.into()];
    let candidates = everywhere.map(|ip| SocketAddr::new(ip, port));
    for candidate in [address].into_iter().chain(candidates) {
        let stream = match UnixStream::connect(abstract_path(candidate)).await {
            Ok(stream) => stream,
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
            Err(error) => return Err(error),
        };
        let (owner, own) = (stream.peer_cred()?.uid(), rustix::process::geteuid().as_raw());
        if !trusts(own, owner) {
            return Err(io::Error::other(format!(
                "the socket beside {candidate} is of user {owner}, and not of this process's user ({own}) or root"
            )));
        }
        return Ok(Some(stream));
    }
    Ok(None)
}

/// Tells whether a process of user `own` believes one of user `owner`: root believes everybody whom it asks.
fn trusts(own: u32, owner: u32) -> bool {
    own == 0 || owner == 0 || own == owner
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_beside_an_address_is_found_by_it_and_had_by_one_process() {
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = tcp.local_addr().unwrap();
        assert!(connect_beside(at).await.unwrap().is_none());
        let listener = bind_beside(at).unwrap();
        assert_eq!(
            bind_beside(at).unwrap_err().kind(),
            io::ErrorKind::AddrInUse,
            "one listener alone has the name"
        );
        let connected = connect_beside(at).await.unwrap().unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let user = rustix::process::geteuid().as_raw();
        assert_eq!(accepted.peer_cred().unwrap().uid(), user);
        drop((connected, accepted, listener));
        assert!(
            connect_beside(at).await.unwrap().is_none(),
            "it is gone with its listener"
        );
    }

    #[tokio::test]
    async fn a_socket_beside_every_address_is_found_by_each() {
        let tcp = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
        let at = tcp.local_addr().unwrap();
        let _listener = bind_beside(at).unwrap();
        let asked = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), at.port());
        assert!(connect_beside(asked).await.unwrap().is_some());
    }

    #[test]
    fn only_the_own_user_and_root_are_believed_unless_root_asks() {
        assert!(trusts(1000, 1000) && trusts(1000, 0) && trusts(0, 1000));
        assert!(!trusts(1000, 1001));
    }
}
