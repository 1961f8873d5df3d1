//! Addresses for what shares this host in the demo: each gateway gets a range of virtual addresses of its own, and instances with several
//! ports an address of their own.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
};

use ipnet::{IpNet, Ipv4Net};

/// Ranges that exist, each a /18 of 127.128.0.0/10. Gateways that are not a demo use 127.64.0.0/10 by default.
const RANGES: u8 = u8::MAX;
const PREFIX_BITS: u8 = 18;
/// The port of the listener that holds a range for this process; the egress never uses a range's first address.
const HOLD_PORT: u16 = 7998;

/// A range that no other demo on this host uses until this is dropped.
#[derive(Debug)]
pub(super) struct Range {
    pub(super) net: IpNet,
    _held: TcpListener,
}

/// The first range that is free. Two demos on one host can so run side by side.
///
/// # Errors
/// When all are taken.
pub(super) fn take() -> io::Result<Range> {
    for number in 0..RANGES {
        let first = Ipv4Addr::new(127, 128 + number / 4, (number % 4) * 64, 0);
        let hold = SocketAddr::from((Ipv4Addr::from_bits(first.to_bits() + 1), HOLD_PORT));
        if let (Ok(held), Ok(net)) = (TcpListener::bind(hold), Ipv4Net::new(first, PREFIX_BITS)) {
            return Ok(Range {
                net: net.into(),
                _held: held,
            });
        }
    }
    Err(io::ErrorKind::AddrNotAvailable.into())
}

/// Addresses for instances with several ports, each of which has all its ports at one address.
#[derive(Debug, Default)]
pub(super) struct InstanceHosts {
    /// `None`: nobody has asked for one.
    range: Option<Range>,
    given: u32,
}

impl InstanceHosts {
    /// Gives an address that no other instance has.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn next(&mut self) -> io::Result<Ipv4Addr> {
        let range = match self.range.take() {
            Some(range) => range,
            None => take()?,
        };
        let range = self.range.insert(range);
        self.given += 1;
        let IpNet::V4(net) = range.net else {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        };
        // The first one is that of the range's listener.
        let address = Ipv4Addr::from_bits(net.network().to_bits() + 1 + self.given);
        match net.contains(&address) {
            true => Ok(address),
            false => Err(io::ErrorKind::AddrNotAvailable.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn two_ranges_share_no_address() {
        let (one, other) = (take().unwrap(), take().unwrap());
        assert!(!one.net.contains(&other.net) && !other.net.contains(&one.net));
    }

    #[test]
    fn instances_have_addresses_of_their_own() {
        let mut hosts = InstanceHosts::default();
        let (one, other) = (hosts.next().unwrap(), hosts.next().unwrap());
        assert_ne!(one, other);
        let held = hosts.range.unwrap();
        assert!(held.net.contains(&IpAddr::from(one)) && held.net.contains(&IpAddr::from(other)));
    }
}
