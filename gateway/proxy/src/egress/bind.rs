//! Binding of sockets that listen for clients. Each is bound alone: neither another gateway of this host nor any other program
//! ever shares its port by mistake.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use causeway_host::{
    descriptors::{Descriptors, ListenerPlace, is_exhausted},
    handed::HandedSockets,
};
use causeway_routing::reach::OwnListeners;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{net::TcpListener, sync::watch};

use super::giving_way::GivingWay;

/// Connections that may wait to be accepted, per listener. The kernel's own limit may be lower.
const BACKLOG: i32 = 4096;

/// An address and port that clients cannot connect to.
#[derive(Debug, Clone)]
pub struct BindFailure {
    pub address: SocketAddr,
    /// Name of what is missing there: targets, or the TLS listener.
    pub serves: String,
    pub error: String,
    /// Advice on what to do about it.
    pub advice: &'static str,
    /// It is for want of descriptors.
    pub lacks_descriptors: bool,
    pub since: Instant,
}

/// Reason that a socket does not listen for clients.
#[derive(Debug, thiserror::Error)]
pub(super) enum BindError {
    #[error(transparent)]
    System(io::Error),
    #[error("no descriptor may be taken for another listener")]
    NoDescriptor,
}

impl From<io::Error> for BindError {
    fn from(error: io::Error) -> Self {
        match is_exhausted(&error) {
            true => Self::NoDescriptor,
            false => Self::System(error),
        }
    }
}

impl BindError {
    /// Somebody has the port.
    pub(super) fn is_taken(&self) -> bool {
        matches!(self, Self::System(error) if error.kind() == io::ErrorKind::AddrInUse)
    }
}

/// Advice on an address that cannot be bound.
pub(super) fn advice(error: &BindError) -> &'static str {
    let BindError::System(error) = error else {
        return "raise the hard limit on open files (LimitNOFILE=, `ulimit -Hn`), or take services away; it is tried again";
    };
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "a program that listens on this port at every address (0.0.0.0), or another gateway of this host, has it: let it listen \
             on its own address only, give the service another `port`, give the zone another range of `vips`, or run the gateway with \
             `--capture redirect`, which takes no port"
        }
        io::ErrorKind::PermissionDenied => {
            "a port below 1024 takes CAP_NET_BIND_SERVICE: give it to the gateway, or give the service another `port`"
        }
        io::ErrorKind::AddrNotAvailable => {
            "a routed range takes `ip route add local RANGE dev lo` on this host"
        }
        _ => "it is tried again",
    }
}

/// Sockets of this egress, on all data threads, by the addresses that they are bound to.
#[derive(Debug, Clone)]
pub(super) struct SocketPlaces {
    here: watch::Sender<BTreeSet<SocketAddr>>,
    /// Addresses at which this process listens, where no instance can be; those at every address of the host are entered.
    own: watch::Sender<OwnListeners>,
    descriptors: Descriptors,
    handed: HandedSockets,
    giving_way: GivingWay,
}

/// A socket's place at its address, for as long as it listens.
#[derive(Debug)]
pub(super) struct SocketPlace {
    places: SocketPlaces,
    address: SocketAddr,
    _descriptor: ListenerPlace,
}

impl SocketPlaces {
    pub(super) fn new(
        own: watch::Sender<OwnListeners>,
        descriptors: Descriptors,
        handed: HandedSockets,
    ) -> Self {
        Self {
            here: watch::Sender::default(),
            own,
            descriptors,
            handed,
            giving_way: GivingWay::default(),
        }
    }

    /// Order among the sockets while there are too few descriptors.
    pub(super) fn giving_way(&self) -> &GivingWay {
        &self.giving_way
    }

    /// Binds a socket that nobody else shares, and listens; or goes on with that of the process before. Must be called on the runtime that is
    /// to accept.
    pub(super) fn bind(&self, address: SocketAddr) -> Result<(Arc<TcpListener>, SocketPlace), BindError> {
        let descriptor = self.descriptors.take_listener().ok_or(BindError::NoDescriptor)?;
        let listener = match self.handed.take_listener(address) {
            Some(listener) => listener,
            None => self.listen(address)?,
        };
        let listener = Arc::new(TcpListener::from_std(listener)?);
        self.handed.keep(&listener);
        self.here.send_modify(|here| {
            here.insert(address);
        });
        self.tell(address, |own| own.insert(address));
        let place = SocketPlace {
            places: self.clone(),
            address,
            _descriptor: descriptor,
        };
        Ok((listener, place))
    }

    fn listen(&self, address: SocketAddr) -> Result<std::net::TcpListener, BindError> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        if !self.descriptors.may_hold(&socket) {
            return Err(BindError::NoDescriptor);
        }
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
            // Linux binds IPv4 addresses of a local route as they are, and IPv6 ones only so.
            #[cfg(target_os = "linux")]
            socket.set_freebind_v6(true)?;
        }
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    }

    /// Tells where this process listens at every address of the host.
    fn tell(&self, address: SocketAddr, change: impl FnOnce(&mut BTreeSet<SocketAddr>) -> bool) {
        if address.ip().is_unspecified() {
            self.own.send_if_modified(|own| change(Arc::make_mut(own)));
        }
    }

    /// Tells of every change of these sockets.
    pub(super) fn changed(&self) -> watch::Receiver<BTreeSet<SocketAddr>> {
        self.here.subscribe()
    }

    /// Tells whether one of these sockets is what keeps another from `address`.
    pub(super) fn is_in_the_way_of(&self, address: SocketAddr) -> bool {
        let here = self.here.borrow();
        let everywhere: IpAddr = match address {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        if address.ip() == everywhere {
            let meets =
                |held: &SocketAddr| held.port() == address.port() && held.is_ipv4() == address.is_ipv4();
            return here.iter().any(meets);
        }
        // Asked for each of thousands of sockets.
        here.contains(&address) || here.contains(&SocketAddr::new(everywhere, address.port()))
    }

    /// Ports at which this process listens for something else.
    pub(super) fn ports_of_others(&self) -> BTreeSet<u16> {
        let (here, own) = (self.here.borrow(), self.own.borrow());
        let others = own.iter().filter(|address| !here.contains(address));
        others.map(SocketAddr::port).collect()
    }
}

impl Drop for SocketPlace {
    fn drop(&mut self) {
        self.places.here.send_modify(|here| {
            here.remove(&self.address);
        });
        self.places.tell(self.address, |own| own.remove(&self.address));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testbed::vip;

    fn places() -> SocketPlaces {
        SocketPlaces::new(
            watch::Sender::default(),
            Descriptors::default(),
            HandedSockets::default(),
        )
    }

    #[tokio::test]
    async fn a_second_gateway_finds_an_address_taken_for_as_long_as_it_is() {
        let (one, other, address) = (places(), places(), vip());
        let first = one.bind(address).unwrap();
        let taken = other.bind(address).unwrap_err();
        assert!(taken.is_taken(), "{taken}");
        assert!(one.is_in_the_way_of(address) && !other.is_in_the_way_of(address));
        drop(first);
        assert!(!one.is_in_the_way_of(address));
        assert!(other.bind(address).is_ok());
    }

    #[tokio::test]
    async fn a_program_that_has_the_port_at_every_address_keeps_it() {
        let everywhere = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
        let address = SocketAddr::new(vip().ip(), everywhere.local_addr().unwrap().port());
        let taken = places().bind(address).unwrap_err();
        assert!(advice(&taken).contains("0.0.0.0"));
    }

    #[tokio::test]
    async fn a_port_at_every_address_is_where_no_instance_can_be_for_as_long_as_it_is_held() {
        let own = watch::Sender::new(OwnListeners::default());
        let places = SocketPlaces::new(own.clone(), Descriptors::default(), HandedSockets::default());
        let at = vip();
        let _one = places.bind(at).unwrap();
        assert!(own.borrow().is_empty(), "one address is a virtual one");
        // Below the ports that the kernel gives to connections; others may have some of them.
        let ports = 20_000..20_100;
        let (everywhere, held) = ports
            .map(|port| SocketAddr::from(([0, 0, 0, 0], port)))
            .find_map(|address| Some((address, places.bind(address).ok()?)))
            .expect("a port that is free");
        assert!(own.borrow().contains(&everywhere) && places.ports_of_others().is_empty());
        assert!(places.is_in_the_way_of(SocketAddr::new(at.ip(), everywhere.port())));
        drop(held);
        assert!(own.borrow().is_empty());
    }

    #[tokio::test]
    async fn a_socket_takes_no_descriptor_that_is_kept() {
        let descriptors = Descriptors::limited_to(0);
        let places = SocketPlaces::new(
            watch::Sender::default(),
            descriptors.clone(),
            HandedSockets::default(),
        );
        let address = vip();
        let refused = places.bind(address).unwrap_err();
        assert!(matches!(refused, BindError::NoDescriptor) && advice(&refused).contains("open files"));
        descriptors.set_limit(1_000_000);
        assert!(places.bind(address).is_ok());
    }

    #[tokio::test]
    async fn a_client_that_waits_at_the_socket_of_the_process_before_is_accepted_by_the_next() {
        let address = vip();
        let (first, place) = places().bind(address).unwrap();
        let waiting = std::net::TcpStream::connect(address).unwrap();
        let socket = std::os::fd::AsFd::as_fd(&*first).try_clone_to_owned().unwrap();
        drop((first, place));
        let next = SocketPlaces::new(
            watch::Sender::default(),
            Descriptors::default(),
            HandedSockets::inherited([socket]),
        );
        let (listener, _place) = next.bind(address).unwrap();
        assert_eq!(next.handed.own().len(), 1, "and the one after it may have it");
        let (_, client) = listener.accept().await.unwrap();
        assert_eq!(client, waiting.local_addr().unwrap());
    }
}
