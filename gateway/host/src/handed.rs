//! Sockets that one process hands to the next, which goes on with them: whoever connects meanwhile waits in the kernel and is
//! refused by nobody. What the process before had is found by its address; how sockets get from one to the other is `handover`'s.

use std::{
    collections::BTreeMap,
    fmt, io,
    net::{SocketAddr, TcpListener, UdpSocket},
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use socket2::{Domain, SockRef, Socket, Type};

/// A socket of any kind.
pub type AnySocket = dyn AsFd + Send + Sync;

/// Sockets of this process that its successor is to have, and those that it has of the process before. Clones are the same.
#[derive(Clone, Default)]
pub struct HandedSockets(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    own: Vec<Weak<AnySocket>>,
    /// Number of own ones from which it is looked which are closed.
    look_at: usize,
    listeners: BTreeMap<SocketAddr, TcpListener>,
    /// Several may share an address.
    udp: BTreeMap<SocketAddr, Vec<UdpSocket>>,
}

/// Connections that the kernel holds for a listener until they are accepted.
const BACKLOG: i32 = 1024;

fn new_socket(address: SocketAddr, kind: Type) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

impl fmt::Debug for HandedSockets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandedSockets").finish_non_exhaustive()
    }
}

impl HandedSockets {
    /// Takes up what the process before has handed over. What is neither a TCP listener nor a UDP socket is closed.
    #[must_use]
    pub fn inherited(sockets: impl IntoIterator<Item = OwnedFd>) -> Self {
        let all = Self::default();
        for socket in sockets {
            // A socket that says nothing of itself is of no use.
            let _ = all.take_up(socket);
        }
        all
    }

    fn take_up(&self, socket: OwnedFd) -> io::Result<()> {
        let about = SockRef::from(&socket);
        let address = about.local_addr()?.as_socket();
        let address = address.ok_or(io::ErrorKind::InvalidInput)?;
        let (kind, listens) = (about.r#type()?, about.is_listener()?);
        let mut state = self.0.lock();
        match kind {
            Type::STREAM if listens => drop(state.listeners.insert(address, socket.into())),
            Type::DGRAM => state.udp.entry(address).or_default().push(socket.into()),
            _ => {}
        }
        Ok(())
    }

    /// Puts a listener at this address beside those of the process before, if that had none.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn listen_too(&self, address: SocketAddr) -> io::Result<()> {
        if self.0.lock().listeners.contains_key(&address) {
            return Ok(());
        }
        let socket = new_socket(address, Type::STREAM)?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        self.0.lock().listeners.insert(address, socket.into());
        Ok(())
    }

    /// Puts a UDP socket at this address beside those of the process before, if that had none.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn bind_udp_too(&self, address: SocketAddr) -> io::Result<()> {
        if self.0.lock().udp.contains_key(&address) {
            return Ok(());
        }
        let socket = new_socket(address, Type::DGRAM)?;
        socket.bind(&address.into())?;
        self.0.lock().udp.insert(address, vec![socket.into()]);
        Ok(())
    }

    /// Takes the listener at this address, if the process before had one.
    #[must_use]
    pub fn take_listener(&self, address: SocketAddr) -> Option<TcpListener> {
        self.0.lock().listeners.remove(&address)
    }

    /// Takes the UDP sockets at this address, all that the process before had.
    #[must_use]
    pub fn take_udp(&self, address: SocketAddr) -> Vec<UdpSocket> {
        self.0.lock().udp.remove(&address).unwrap_or_default()
    }

    /// Closes what nobody has taken, and returns how many sockets that were.
    pub fn close_the_rest(&self) -> usize {
        let mut state = self.0.lock();
        let (listeners, udp) = (
            std::mem::take(&mut state.listeners),
            std::mem::take(&mut state.udp),
        );
        drop(state);
        listeners.len() + udp.values().map(Vec::len).sum::<usize>()
    }

    /// Has the successor be given this socket, if it is still there by then.
    pub fn keep<S: AsFd + Send + Sync + 'static>(&self, socket: &Arc<S>) {
        let socket: Weak<S> = Arc::downgrade(socket);
        let mut state = self.0.lock();
        if state.own.len() >= state.look_at {
            state.own.retain(|socket| socket.strong_count() > 0);
            state.look_at = (2 * state.own.len()).max(64);
        }
        state.own.push(socket);
    }

    /// Every socket that a successor is to have.
    #[must_use]
    pub fn own(&self) -> Vec<Arc<AnySocket>> {
        self.0.lock().own.iter().filter_map(Weak::upgrade).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(socket: &impl AsFd) -> OwnedFd {
        socket.as_fd().try_clone_to_owned().unwrap()
    }

    #[test]
    fn what_was_handed_over_is_found_by_its_address_once() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let pair = std::os::unix::net::UnixStream::pair().unwrap();
        let [tcp_at, udp_at] = [listener.local_addr().unwrap(), udp.local_addr().unwrap()];
        let handed = HandedSockets::inherited([copy(&listener), copy(&udp), copy(&udp), copy(&pair.0)]);
        // What is there is not bound again.
        handed.listen_too(tcp_at).unwrap();
        handed.bind_udp_too(udp_at).unwrap();
        assert_eq!(
            handed.take_listener(tcp_at).unwrap().local_addr().unwrap(),
            tcp_at
        );
        assert!(handed.take_listener(tcp_at).is_none());
        assert_eq!(handed.take_udp(udp_at).len(), 2);
        assert_eq!(handed.close_the_rest(), 0);
        let rest = HandedSockets::inherited([copy(&listener)]);
        assert_eq!(rest.close_the_rest(), 1);
        assert!(rest.take_listener(tcp_at).is_none());
        assert!(
            rest.listen_too(tcp_at).is_err() && rest.bind_udp_too(udp_at).is_err(),
            "others have them"
        );
        let free = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        rest.listen_too(free).unwrap();
        assert!(rest.take_listener(free).is_some());
    }

    #[test]
    fn a_socket_that_was_closed_is_not_handed_on() {
        let handed = HandedSockets::default();
        let listeners: Vec<_> = (0..100)
            .map(|_| Arc::new(TcpListener::bind("127.0.0.1:0").unwrap()))
            .collect();
        listeners.iter().for_each(|listener| handed.keep(listener));
        assert_eq!(handed.own().len(), 100);
        drop(listeners);
        let last = Arc::new(TcpListener::bind("127.0.0.1:0").unwrap());
        for _ in 0..200 {
            handed.keep(&last);
        }
        assert_eq!(handed.own().len(), 200);
        assert!(handed.0.lock().own.len() < 300, "closed ones are forgotten");
    }
}
