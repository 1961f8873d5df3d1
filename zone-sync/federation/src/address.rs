//! Kinds of IP addresses, looked at as the kernel does: `::ffff:0.0.0.0` is 0.0.0.0.

use std::net::IpAddr;

/// Tells whether an address can be that of one host: it is none of the unspecified, multicast and broadcast ones.
#[must_use]
pub fn is_of_one_host(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    let is_broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    !ip.is_unspecified() && !ip.is_multicast() && !is_broadcast
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_name_no_host_or_many_are_told_from_those_of_one() {
        for (ip, expected) in [
            ("10.0.0.5", true),
            ("127.0.0.1", true),
            ("::1", true),
            ("fd00::7", true),
            ("::ffff:10.0.0.5", true),
            ("0.0.0.0", false),
            ("::", false),
            ("::ffff:0.0.0.0", false),
            ("224.0.0.1", false),
            ("::ffff:224.0.0.1", false),
            ("ff02::1", false),
            ("255.255.255.255", false),
            ("::ffff:255.255.255.255", false),
        ] {
            assert_eq!(is_of_one_host(ip.parse().unwrap()), expected, "{ip}");
        }
    }
}
