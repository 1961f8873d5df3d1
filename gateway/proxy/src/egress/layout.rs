//! Layout of the sockets that listen for clients: which socket takes clients for which virtual addresses. Pure; `listen`
//! binds what is worked out here.
//!
//! Routed addresses share one socket for each port, bound to every address of the host: the kernel gives it whatever is routed
//! here, and the address that a client connected to says what it wants. Loopback addresses have a socket each, because a
//! socket at every address would take its port from all programs of the host, which is what that mode is to leave alone.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use causeway_routing::target::Binding;

/// Meaning of the virtual addresses and ports that one socket takes clients for.
pub(super) type Covered = BTreeMap<SocketAddr, Binding>;

/// Works out the sockets for which `is_mine` holds, by the addresses that they are bound to. With `by_port`, addresses share
/// one for each port, but for those ports for which `is_apart` holds of the socket that would be shared.
pub(super) fn layout(
    bindings: &BTreeMap<SocketAddr, Binding>,
    by_port: bool,
    is_apart: impl Fn(SocketAddr) -> bool,
    is_mine: impl Fn(SocketAddr) -> bool,
) -> BTreeMap<SocketAddr, Covered> {
    let mut sockets: BTreeMap<SocketAddr, Covered> = BTreeMap::new();
    for (address, binding) in bindings {
        let shared = everywhere(*address);
        let socket = if by_port && !is_apart(shared) {
            shared
        } else {
            *address
        };
        if is_mine(socket) {
            let covered = sockets.entry(socket).or_default();
            covered.insert(*address, binding.clone());
        }
    }
    sockets
}

/// Returns the same port at every address of the host.
fn everywhere(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    SocketAddr::new(ip, address.port())
}

/// Picks the data thread that accepts at a socket: always the same one, and every thread for about as many sockets.
pub(super) fn accepting_thread(socket: SocketAddr, threads: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    socket.hash(&mut hasher);
    let threads = threads.max(1) as u64;
    usize::try_from(hasher.finish() % threads).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use causeway_routing::{target::Target, testbed::service};

    use super::*;

    fn bindings() -> BTreeMap<SocketAddr, Binding> {
        let all = [
            ("10.96.0.1:80", "orders"),
            ("10.96.0.2:80", "billing"),
            ("10.96.0.3:5432", "stock"),
            ("[fd00::1]:80", "orders"),
        ];
        let binding = |name| Target::service(service(name)).into();
        all.map(|(address, name)| (address.parse().unwrap(), binding(name)))
            .into()
    }

    /// Sockets, and what each covers, as text.
    fn drawn(by_port: bool, apart: &[&str]) -> Vec<String> {
        let is_apart = |socket: SocketAddr| apart.contains(&socket.to_string().as_str());
        let sockets = layout(&bindings(), by_port, is_apart, |_| true);
        let draw = |(socket, covered): (SocketAddr, Covered)| {
            let covered = covered
                .iter()
                .map(|(address, binding)| format!("{}={binding}", address.ip()));
            format!("{socket} {}", covered.collect::<Vec<_>>().join(" "))
        };
        sockets.into_iter().map(draw).collect()
    }

    #[test]
    fn each_address_has_its_socket_unless_addresses_share_one_for_each_port() {
        assert_eq!(
            drawn(false, &[]),
            [
                "10.96.0.1:80 10.96.0.1=orders",
                "10.96.0.2:80 10.96.0.2=billing",
                "10.96.0.3:5432 10.96.0.3=stock",
                "[fd00::1]:80 fd00::1=orders",
            ]
        );
        assert_eq!(
            drawn(true, &[]),
            [
                "0.0.0.0:80 10.96.0.1=orders 10.96.0.2=billing",
                "0.0.0.0:5432 10.96.0.3=stock",
                "[::]:80 fd00::1=orders",
            ]
        );
    }

    #[test]
    fn a_port_that_somebody_else_has_is_listened_on_address_by_address() {
        assert_eq!(
            drawn(true, &["0.0.0.0:80"]),
            [
                "0.0.0.0:5432 10.96.0.3=stock",
                "10.96.0.1:80 10.96.0.1=orders",
                "10.96.0.2:80 10.96.0.2=billing",
                "[::]:80 fd00::1=orders",
            ]
        );
    }

    #[test]
    fn every_socket_has_one_thread_and_every_thread_about_as_many() {
        const THREADS: usize = 4;
        let mut counts = [0; THREADS];
        for number in 0..1000_u16 {
            let [high, low] = number.to_be_bytes();
            let socket = SocketAddr::from(([127, 64, high, low], 80));
            counts[accepting_thread(socket, THREADS)] += 1;
        }
        assert_eq!(counts.iter().sum::<usize>(), 1000);
        assert!(
            counts.iter().all(|count| (150..350).contains(count)),
            "{counts:?}"
        );

        let mine = |thread| {
            layout(
                &bindings(),
                false,
                |_| false,
                move |socket| accepting_thread(socket, 2) == thread,
            )
        };
        assert_eq!(mine(0).len() + mine(1).len(), bindings().len());
    }
}
