//! Addresses that no instance may have, because a connection to them would come back to this gateway or get at what is not
//! a service: what the gateway itself listens on, the virtual addresses of its zone, and link-local addresses.
//!
//! Asked when an instance is registered, and again whenever one is about to be connected to: the topology and the listeners
//! may have changed since, and not every source of instances is asked anything.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use causeway_federation::{
    address::is_of_one_host,
    name::ZoneName,
    registry::Provenance,
    topology::{Topology, Vips},
};
use ipnet::IpNet;

/// Addresses and ports that this process listens on for itself: tunnels, DNS, its APIs, clients with certificates.
pub type OwnListeners = Arc<BTreeSet<SocketAddr>>;

/// Reason why nothing at an address can be an instance.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressRefusal {
    #[error("{address} is where this gateway itself listens ({listener})")]
    OwnListener {
        address: SocketAddr,
        listener: SocketAddr,
    },
    #[error(
        "{address} is a virtual address of this zone ({range}): connections to it would come back for ever"
    )]
    Virtual { address: SocketAddr, range: IpNet },
    #[error("{0} is where this gateway takes connections to a service: they would come back for ever")]
    SharedAddress(SocketAddr),
    #[error(
        "{0} is a link-local address, or one where clouds serve metadata: it means something else on every host"
    )]
    LinkLocal(SocketAddr),
    #[error("{0} is no address of a host: the kernel takes it for this host, or for many")]
    NoHost(SocketAddr),
    #[error(
        "{address} is a loopback address, which means another program on every host: an instance there comes from the topology, the \
         folder or a program of the gateway's own host, unless the topology has `loopback_instances: true` for zone {zone}"
    )]
    Loopback { address: SocketAddr, zone: ZoneName },
}

impl AddressRefusal {
    /// A fixed word, for logs and programs.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::OwnListener { .. } => "own_listener",
            Self::Virtual { .. } | Self::SharedAddress(_) => "virtual_address",
            Self::LinkLocal(_) => "link_local",
            Self::NoHost(_) => "no_host",
            Self::Loopback { .. } => "loopback",
        }
    }
}

/// Checks that an instance of `zone` that was put in from that side may be at `address`. `is_own_host` tells whether an IP address is one of this host's; it
/// is asked only where a listener on all addresses has the same port.
///
/// # Errors
/// When nothing there can be an instance.
pub fn check(
    (address, provenance): (SocketAddr, Provenance),
    topology: &Topology,
    zone: &ZoneName,
    listeners: &BTreeSet<SocketAddr>,
    is_own_host: impl Fn(IpAddr) -> bool,
) -> Result<(), AddressRefusal> {
    let ip = destination(address.ip());
    if is_link_local(ip) || CLOUD_SERVICES.contains(&ip) {
        return Err(AddressRefusal::LinkLocal(address));
    }
    if is_no_host(ip) {
        return Err(AddressRefusal::NoHost(address));
    }
    let declared = topology.zones.get(zone);
    let allowed = provenance.is_this_host() || declared.is_some_and(|zone| zone.loopback_instances);
    if ip.is_loopback() && !allowed {
        let zone = zone.clone();
        return Err(AddressRefusal::Loopback { address, zone });
    }
    let same_port = listeners
        .iter()
        .filter(|listener| listener.port() == address.port());
    let mut met = same_port.filter(|listener| {
        let at = listener.ip().to_canonical();
        at == ip || at.is_unspecified() && (ip.is_loopback() || is_own_host(ip))
    });
    if let Some(&listener) = met.next() {
        return Err(AddressRefusal::OwnListener { address, listener });
    }
    let range = match declared.map(|zone| &zone.vips) {
        Some(Vips::Loopback { range }) => std::slice::from_ref(range),
        Some(Vips::Routed { ranges }) => ranges,
        Some(Vips::Address { address: shared }) => {
            let mut ports = topology
                .services
                .values()
                .flat_map(|service| service.ports.iter());
            if shared.to_canonical() == ip && ports.any(|port| port.number == address.port()) {
                return Err(AddressRefusal::SharedAddress(address));
            }
            &[]
        }
        Some(_) | None => &[],
    };
    match range.iter().find(|range| range.contains(&ip)) {
        Some(&range) => Err(AddressRefusal::Virtual { address, range }),
        None => Ok(()),
    }
}

/// Metadata services of clouds that are at addresses which are not link-local: AWS over IPv6, Google over IPv6, Alibaba, Azure and Oracle.
const CLOUD_SERVICES: [IpAddr; 5] = [
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
];

/// Returns the address that a connection ends at: of IPv4 ones that a translator on the way finds in an IPv6 one (RFC 6052's well-known prefix, 6to4
/// of RFC 3056), those.
fn destination(ip: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = ip.to_canonical() else {
        return ip.to_canonical();
    };
    let within = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match v6.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => within(high, low),
        _ => ip,
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

/// Tells of addresses that name no host or many, and of IPv4 ones in the form that RFC 4291 §2.5.5.1 gave up.
fn is_no_host(ip: IpAddr) -> bool {
    let is_compatible = matches!(ip, IpAddr::V6(ip) if ip.segments()[..6] == [0; 6] && !ip.is_loopback());
    is_compatible || !is_of_one_host(ip)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testbed;

    fn refusal(vips: &str, address: &str) -> Option<&'static str> {
        let zones = format!("  home: {{ vips: {vips} }}\n  west: {{ vips: {{ routed: [10.8.0.0/16] }} }}");
        let topology = testbed::topology(&zones, "  orders: { port: 80, protocol: tcp }");
        let listeners = ["127.0.0.1:7800", "0.0.0.0:7810", "[::]:7820", "10.0.0.5:53"];
        let listeners = listeners.map(|address| address.parse().unwrap()).into();
        let host: IpAddr = "10.0.0.5".parse().unwrap();
        let (address, home) = (address.parse().unwrap(), testbed::zone("home"));
        let here = (address, Provenance::ThisHost);
        check(here, &topology, &home, &listeners, |ip| ip == host)
            .err()
            .map(|refusal| refusal.word())
    }

    #[test]
    fn an_instance_is_nothing_that_would_come_back_to_the_gateway() {
        let (loopback, routed) = (
            "{ loopback: 127.64.0.0/10 }",
            "{ routed: [10.9.0.0/16, 'fd00::/64'] }",
        );
        let shared = "{ address: 10.0.0.5 }";
        for (vips, address, expected) in [
            (loopback, "127.0.0.1:7800", Some("own_listener")),
            (loopback, "[::ffff:127.0.0.1]:7800", Some("own_listener")),
            (loopback, "127.0.0.2:7800", None),
            (loopback, "127.0.0.1:7801", None),
            // A listener on all addresses is at each of this host's and at no other's.
            (loopback, "127.0.0.9:7810", Some("own_listener")),
            (loopback, "10.0.0.5:7810", Some("own_listener")),
            (loopback, "[::1]:7820", Some("own_listener")),
            (loopback, "10.0.0.5:7820", Some("own_listener")),
            (loopback, "10.0.0.6:7810", None),
            (loopback, "10.0.0.5:53", Some("own_listener")),
            (loopback, "127.64.3.9:80", Some("virtual_address")),
            (loopback, "[::ffff:127.64.3.9]:80", Some("virtual_address")),
            (loopback, "127.64.3.9:9999", Some("virtual_address")),
            // Other zones may use any range: their addresses mean nothing here.
            (loopback, "10.8.0.1:80", None),
            (routed, "10.9.3.9:80", Some("virtual_address")),
            (routed, "[fd00::7]:80", Some("virtual_address")),
            (routed, "127.64.3.9:80", None),
            (shared, "10.0.0.5:80", Some("virtual_address")),
            (shared, "10.0.0.5:8080", None),
            (loopback, "169.254.169.254:80", Some("link_local")),
            (loopback, "[fe80::1]:80", Some("link_local")),
            (loopback, "[::ffff:169.254.169.254]:80", Some("link_local")),
            (loopback, "[fd00:ec2::254]:80", Some("link_local")),
            (loopback, "100.100.100.200:80", Some("link_local")),
            (loopback, "168.63.129.16:80", Some("link_local")),
            (loopback, "[64:ff9b::a9fe:a9fe]:80", Some("link_local")),
            (loopback, "[2002:a9fe:a9fe::]:80", Some("link_local")),
            (loopback, "[64:ff9b::10.0.0.6]:80", None),
            (loopback, "[::ffff:0.0.0.0]:7810", Some("no_host")),
            (loopback, "0.0.0.0:9999", Some("no_host")),
            (loopback, "[::127.0.0.1]:9999", Some("no_host")),
            (loopback, "[::ffff:224.0.0.1]:80", Some("no_host")),
            (loopback, "255.255.255.255:80", Some("no_host")),
            (loopback, "[::1]:9999", None),
        ] {
            assert_eq!(refusal(vips, address), expected, "{vips} {address}");
        }
    }

    #[test]
    fn a_loopback_address_is_taken_from_elsewhere_only_where_the_topology_allows_it() {
        let refusal = |zone: &str, provenance, address: &str| {
            let topology = testbed::topology(zone, "  orders: { port: 80, protocol: tcp }");
            let (at, home) = (address.parse().unwrap(), testbed::zone("home"));
            let checked = check((at, provenance), &topology, &home, &BTreeSet::new(), |_| false);
            checked.err().map(|refusal| refusal.word())
        };
        let (here, elsewhere) = (Provenance::ThisHost, Provenance::Elsewhere);
        let closed = "  home: {}\n  west: { loopback_instances: true }";
        let open = "  home: { loopback_instances: true }\n  west: {}";
        for (zone, provenance, address, expected) in [
            (closed, here, "127.0.0.1:9999", None),
            (closed, elsewhere, "127.0.0.1:9999", Some("loopback")),
            (closed, elsewhere, "127.3.2.1:9999", Some("loopback")),
            (closed, elsewhere, "[::1]:9999", Some("loopback")),
            (closed, elsewhere, "[::ffff:127.0.0.1]:9999", Some("loopback")),
            (closed, elsewhere, "10.0.0.1:9999", None),
            (open, elsewhere, "127.0.0.1:9999", None),
            (open, elsewhere, "127.64.0.1:80", Some("virtual_address")),
        ] {
            assert_eq!(
                refusal(zone, provenance, address),
                expected,
                "{zone} {provenance:?} {address}"
            );
        }
    }
}
