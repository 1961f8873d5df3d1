//! Access to mesh DNS: this host and the networks that the operator allows. Everybody else is refused, so that the forwarder
//! cannot be made to attack others.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use ipnet::IpNet;
use parking_lot::Mutex;

/// The kernel's local routes, which name this host's own IPv4 addresses (Linux, own network namespace).
const V4_ADDRESSES: &str = "/proc/net/fib_trie";
const V6_ADDRESSES: &str = "/proc/net/if_inet6";
/// Time for which the list of this host's addresses is trusted when a stranger asks.
const RELOAD_AFTER: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct QueryAccess {
    allowed: Vec<IpNet>,
    host: ArcSwap<BTreeSet<IpAddr>>,
    loaded_at: Mutex<Option<Instant>>,
}

impl QueryAccess {
    pub(super) fn new(allowed: Vec<IpNet>) -> Self {
        Self {
            allowed,
            host: ArcSwap::default(),
            loaded_at: Mutex::new(None),
        }
    }

    pub(super) fn allows(&self, client: IpAddr, now: Instant) -> bool {
        client.is_loopback()
            || self.allowed.iter().any(|network| network.contains(&client))
            || self.host.load().contains(&client)
            || self.is_new_host_address(client, now)
    }

    /// Addresses come and go; a stranger is worth a look at the present ones, but not more often than now and then.
    fn is_new_host_address(&self, client: IpAddr, now: Instant) -> bool {
        let mut loaded_at = self.loaded_at.lock();
        if loaded_at.is_none_or(|at| now.saturating_duration_since(at) >= RELOAD_AFTER) {
            *loaded_at = Some(now);
            self.host.store(host_addresses().into());
        }
        self.host.load().contains(&client)
    }
}

/// This host's own addresses; empty where the kernel does not tell.
pub(super) fn host_addresses() -> BTreeSet<IpAddr> {
    let v4 = std::fs::read_to_string(V4_ADDRESSES).unwrap_or_default();
    let v6 = std::fs::read_to_string(V6_ADDRESSES).unwrap_or_default();
    read_v4(&v4).chain(read_v6(&v6)).collect()
}

/// `|-- 192.0.2.2` with a line `/32 host LOCAL` below it. Wider local routes are AnyIP ranges, not addresses.
fn read_v4(text: &str) -> impl Iterator<Item = IpAddr> {
    let mut leaf = None;
    text.lines().filter_map(move |line| {
        let line = line.trim();
        if let Some(address) = line.strip_prefix("|-- ") {
            leaf = address.parse::<Ipv4Addr>().ok();
            return None;
        }
        (line == "/32 host LOCAL")
            .then_some(leaf)
            .flatten()
            .map(IpAddr::V4)
    })
}

/// 32 hexadecimal digits, then fields that do not matter here.
fn read_v6(text: &str) -> impl Iterator<Item = IpAddr> {
    text.lines().filter_map(|line| {
        let digits = line.split_whitespace().next()?;
        let bits = u128::from_str_radix(digits, 16).ok()?;
        (digits.len() == 32).then_some(IpAddr::V6(Ipv6Addr::from_bits(bits)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_addresses_are_read_and_ranges_are_not() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.9.0.0\n        /16 host LOCAL\n     |-- 192.0.2.2\n        \
                    /32 host LOCAL\n     |-- 192.0.2.255\n        /32 link BROADCAST\n";
        assert_eq!(read_v4(trie).collect::<Vec<_>>(), [IpAddr::from([192, 0, 2, 2])]);
        let v6 = "fd000000000000000000000000000002 04 40 00 82     eth0\nbroken line\n";
        assert_eq!(
            read_v6(v6).collect::<Vec<_>>(),
            ["fd00::2".parse::<IpAddr>().unwrap()]
        );
    }

    #[test]
    fn loopback_and_allowed_networks_may_ask_and_strangers_may_not() {
        let access = QueryAccess::new(vec!["10.1.0.0/16".parse().unwrap()]);
        let now = Instant::now();
        for (client, allowed) in [
            ("127.0.0.1", true),
            ("127.64.3.9", true),
            ("::1", true),
            ("10.1.2.3", true),
            ("10.2.2.3", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(access.allows(client.parse().unwrap(), now), allowed, "{client}");
        }
        for own in host_addresses() {
            assert!(access.allows(own, now), "{own}");
        }
    }
}
