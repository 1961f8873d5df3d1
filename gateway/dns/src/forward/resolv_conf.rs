//! The resolvers of this host, from `/etc/resolv.conf`.

use std::net::{IpAddr, SocketAddr};

use crate::access::host_addresses;

const PATH: &str = "/etc/resolv.conf";
const DNS_PORT: u16 = 53;
/// Most upstreams that are taken from the file, as many as libc takes.
const MAX_UPSTREAMS: usize = 3;

/// Reads the resolvers that the file names, without this gateway itself, which `listen` at these addresses.
pub(crate) fn system_upstreams(listen: &[SocketAddr]) -> Vec<SocketAddr> {
    let text = std::fs::read_to_string(PATH).unwrap_or_else(|error| {
        tracing::warn!(file = PATH, %error, "cannot read the resolvers of this host; only mesh names resolve");
        String::new()
    });
    let own: Vec<IpAddr> = host_addresses().into_iter().collect();
    read(&text)
        .filter(|upstream| !is_self(*upstream, listen, &own))
        .take(MAX_UPSTREAMS)
        .collect()
}

fn read(text: &str) -> impl Iterator<Item = SocketAddr> {
    text.lines().filter_map(|line| {
        let address = line.trim().strip_prefix("nameserver")?.trim();
        let address = address.split(['#', ';', ' ', '\t']).next()?;
        // Scoped addresses (`fe80::1%eth0`) are passed over: their scope has no portable number.
        Some(SocketAddr::new(address.parse().ok()?, DNS_PORT))
    })
}

/// Tells whether asking `upstream` would ask this gateway, for ever.
pub(crate) fn is_self(upstream: SocketAddr, listen: &[SocketAddr], own: &[IpAddr]) -> bool {
    let ours = |ip: IpAddr| ip.is_loopback() || own.contains(&ip);
    listen.iter().any(|listen| {
        listen.port() == upstream.port()
            && (listen.ip() == upstream.ip() || (listen.ip().is_unspecified() && ours(upstream.ip())))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nameservers_are_read_and_noise_is_not() {
        let text = "# nameserver 1.1.1.1\nsearch example.org\nnameserver 10.0.0.53\n nameserver\t2001:db8::53 # two\n\
                    nameserver fe80::1%eth0\nnameserver nonsense\noptions edns0\n";
        let read: Vec<String> = read(text).map(|address| address.to_string()).collect();
        assert_eq!(read, ["10.0.0.53:53", "[2001:db8::53]:53"]);
    }

    #[test]
    fn the_gateway_never_asks_itself() {
        let own = ["192.0.2.2".parse().unwrap()];
        for (upstream, listen, expected) in [
            ("127.0.0.53:53", "127.0.0.53:53", true),
            ("127.0.0.53:53", "127.0.0.1:53", false),
            ("127.0.0.53:53", "127.0.0.53:7853", false),
            ("127.0.0.53:53", "0.0.0.0:53", true),
            ("192.0.2.2:53", "0.0.0.0:53", true),
            ("10.0.0.53:53", "0.0.0.0:53", false),
        ] {
            let listen = [listen.parse().unwrap()];
            assert_eq!(
                is_self(upstream.parse().unwrap(), &listen, &own),
                expected,
                "{upstream} {listen:?}"
            );
        }
    }
}
