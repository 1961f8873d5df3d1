//! Addresses that the topology gives this gateway and at which its host is, but where it does not listen for tunnels: others dial there in vain.

use std::net::SocketAddr;

use causeway_federation::{name::ZoneName, topology::Topology};
use causeway_host::listen::is_own_address;

/// Tells of those once, at the start.
pub(super) fn tell(topology: &Topology, zone: &ZoneName, listen: SocketAddr) {
    let entries = topology
        .zones
        .get(zone)
        .into_iter()
        .flat_map(|zone| &zone.gateways);
    let given = entries
        .flat_map(|entry| &entry.addresses)
        .filter_map(|text| text.parse().ok());
    for address in unheard(given, listen, |at| is_own_address(at.ip())) {
        tracing::warn!(%address, %listen,
            "the topology gives this gateway an address at which it does not listen, so others dial there in vain; set --listen to [::]:PORT, or take the address out");
    }
}

/// The given addresses of this host that lead to the port of `listen`, and not to its socket.
fn unheard(
    given: impl Iterator<Item = SocketAddr>,
    listen: SocketAddr,
    is_own: impl Fn(SocketAddr) -> bool,
) -> Vec<SocketAddr> {
    // One with another port is another gateway's of this host, or is translated on the way.
    let here = given.filter(|at| at.port() == listen.port() && is_own(*at));
    here.filter(|at| !is_heard(*at, listen)).collect()
}

/// Tells whether a socket at `listen` takes what is sent to `at`, which has the same port.
fn is_heard(at: SocketAddr, listen: SocketAddr) -> bool {
    let (at, listen) = (at.ip().to_canonical(), listen.ip());
    // A socket at `::` is of both families.
    let everywhere = listen.is_unspecified() && (listen.is_ipv6() || at.is_ipv4());
    everywhere || at == listen.to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_the_own_host_where_nothing_listens_is_found() {
        let given = [
            "10.0.0.5:7800",
            "[fd00::5]:7800",
            "[fd00::5]:7801",
            "192.0.2.1:7800",
        ];
        let unheard = |listen: &str| {
            let given = given.iter().map(|text| text.parse().unwrap());
            let elsewhere: SocketAddr = "192.0.2.1:7800".parse().unwrap();
            let found = unheard(given, listen.parse().unwrap(), |at| at != elsewhere);
            found.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert!(unheard("[::]:7800").is_empty());
        assert_eq!(unheard("0.0.0.0:7800"), ["[fd00::5]:7800"]);
        assert_eq!(unheard("10.0.0.5:7800"), ["[fd00::5]:7800"]);
        assert_eq!(unheard("[fd00::5]:7800"), ["10.0.0.5:7800"]);
        assert_eq!(unheard("127.0.0.1:7801"), ["[fd00::5]:7801"]);
    }
}
