//! Plan of a redirect: which connections it takes, where they are accepted, and the rules that tell the kernel so. Pure.
//!
//! It takes whole ranges, and not only the addresses that stand for a service by now: so the rules change only with the
//! ranges and ports, and who still has the address of a service that is gone is refused here instead of being given to a
//! program of the host.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use causeway_federation::{name::GatewayId, topology::Vips};
use causeway_routing::target::Binding;
use ipnet::IpNet;

/// Beginning of the name of every gateway's table.
pub(super) const TABLE_PREFIX: &str = "causeway_";

/// Name of the table of a gateway, which no other gateway of the host has. Names of zones and gateways have no `_`.
pub(super) fn table_of(gateway: &GatewayId) -> String {
    format!("{TABLE_PREFIX}{}_{}", gateway.zone, gateway.gateway)
}

/// Connections that are to be redirected, and where to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::egress) struct RedirectPlan {
    /// Ranges of the zone's virtual addresses.
    ranges: Vec<IpNet>,
    /// Ports of its services.
    ports: BTreeSet<u16>,
    /// It is for clients of other hosts, too.
    serves_other_hosts: bool,
    /// Port that they are redirected to.
    port: u16,
}

impl RedirectPlan {
    /// Plan for a zone's virtual addresses: for everything that `bindings` has a port for.
    pub(super) fn new(vips: Option<&Vips>, bindings: &BTreeMap<SocketAddr, Binding>, port: u16) -> Self {
        let (ranges, serves_other_hosts) = match vips {
            Some(Vips::Loopback { range }) => (vec![range.trunc()], false),
            Some(Vips::Routed { ranges }) => (ranges.iter().map(IpNet::trunc).collect(), true),
            Some(Vips::Address { address }) => (vec![IpNet::from(*address)], true),
            Some(_) | None => (Vec::new(), false),
        };
        let is_within = |address: &&SocketAddr| ranges.iter().any(|range| range.contains(&address.ip()));
        Self {
            ports: bindings.keys().filter(is_within).map(SocketAddr::port).collect(),
            ranges,
            serves_other_hosts,
            port,
        }
    }

    /// Addresses at which redirected clients arrive: the kernel sends those of this host to loopback, and those of others to
    /// the address at which they come in.
    pub(super) fn listeners(&self) -> BTreeSet<SocketAddr> {
        let at = |range: &IpNet| -> IpAddr {
            match (range, self.serves_other_hosts) {
                (IpNet::V4(_), false) => Ipv4Addr::LOCALHOST.into(),
                (IpNet::V4(_), true) => Ipv4Addr::UNSPECIFIED.into(),
                (IpNet::V6(_), false) => Ipv6Addr::LOCALHOST.into(),
                (IpNet::V6(_), true) => Ipv6Addr::UNSPECIFIED.into(),
            }
        };
        let listeners = self
            .ranges
            .iter()
            .map(|range| SocketAddr::new(at(range), self.port));
        listeners.collect()
    }

    /// Tells whether connections to `address` are redirected.
    pub(super) fn covers(&self, address: SocketAddr) -> bool {
        self.ports.contains(&address.port()) && self.meets(&IpNet::from(address.ip())).is_some()
    }

    /// Returns the range that has addresses in common with `other`.
    pub(super) fn meets(&self, other: &IpNet) -> Option<IpNet> {
        let common = |range: &&IpNet| range.contains(other) || other.contains(*range);
        self.ranges.iter().find(common).copied()
    }

    pub(super) fn ranges(&self) -> &[IpNet] {
        &self.ranges
    }

    /// Text for `nft -f` that puts the table in the place of whatever had its name, in one transaction.
    ///
    /// Connections that are open go on: where each was redirected to is kept with the connection.
    pub(super) fn ruleset(&self, table: &str) -> String {
        let mut text =
            format!("table inet {table} {{\n}}\ndelete table inet {table}\ntable inet {table} {{\n");
        text.push_str("\tset ports {\n\t\ttype inet_service\n");
        if !self.ports.is_empty() {
            let ports: Vec<String> = self.ports.iter().map(u16::to_string).collect();
            // Writing to text does not fail.
            let _ = writeln!(text, "\t\telements = {{ {} }}", ports.join(", "));
        }
        text.push_str("\t}\n\tchain redirect_clients {\n");
        for range in &self.ranges {
            let family = match range {
                IpNet::V4(_) => "ip",
                IpNet::V6(_) => "ip6",
            };
            let port = self.port;
            let _ = writeln!(
                text,
                "\t\t{family} daddr {range} tcp dport @ports redirect to :{port}"
            );
        }
        text.push_str("\t}\n");
        let hooks: &[&str] = match self.serves_other_hosts {
            true => &["output", "prerouting"],
            false => &["output"],
        };
        for hook in hooks {
            // The number for `dstnat`, which older versions of nft do not know for every hook.
            let _ = writeln!(
                text,
                "\tchain {hook} {{\n\t\ttype nat hook {hook} priority -100; policy accept;\n\t\tjump redirect_clients\n\t}}"
            );
        }
        text.push_str("}\n");
        text
    }
}

/// Reads from `nft list table` the ranges that another gateway's table redirects.
pub(super) fn redirected_ranges(listing: &str) -> Vec<IpNet> {
    let mut words = listing.split_whitespace();
    let mut ranges = Vec::new();
    while words.by_ref().any(|word| word == "daddr") {
        let Some(word) = words.next() else { break };
        // nft shows a range of one address without its length.
        let range = word.parse::<IpNet>().ok();
        ranges.extend(range.or_else(|| word.parse::<IpAddr>().ok().map(IpNet::from)));
    }
    ranges
}

#[cfg(test)]
mod tests {
    use causeway_routing::{
        target::Target,
        testbed::{service, zone},
    };

    use super::*;

    const PORT: u16 = 7815;

    fn bindings(addresses: &[&str]) -> BTreeMap<SocketAddr, Binding> {
        let target = Binding::from(Target::service(service("orders")));
        let addresses = addresses.iter().map(|address| address.parse().unwrap());
        addresses.map(|address| (address, target.clone())).collect()
    }

    fn loopback(addresses: &[&str]) -> RedirectPlan {
        let range = "127.64.0.0/10".parse().unwrap();
        RedirectPlan::new(Some(&Vips::Loopback { range }), &bindings(addresses), PORT)
    }

    fn routed(ranges: &[&str], addresses: &[&str]) -> RedirectPlan {
        let ranges = ranges.iter().map(|range| range.parse().unwrap()).collect();
        RedirectPlan::new(Some(&Vips::Routed { ranges }), &bindings(addresses), PORT)
    }

    fn shown(listeners: BTreeSet<SocketAddr>) -> Vec<String> {
        listeners.iter().map(SocketAddr::to_string).collect()
    }

    #[test]
    fn the_rules_take_local_clients_of_the_range_and_of_the_services_ports() {
        let gateway = GatewayId::new(zone("east"), "gw1".parse().unwrap());
        let plan = loopback(&["127.64.0.1:8080", "127.64.0.2:80", "127.64.0.3:80"]);
        let expected = "\
table inet causeway_east_gw1 {
}
delete table inet causeway_east_gw1
table inet causeway_east_gw1 {
	set ports {
		type inet_service
		elements = { 80, 8080 }
	}
	chain redirect_clients {
		ip daddr 127.64.0.0/10 tcp dport @ports redirect to :7815
	}
	chain output {
		type nat hook output priority -100; policy accept;
		jump redirect_clients
	}
}
";
        assert_eq!(plan.ruleset(&table_of(&gateway)), expected);
        assert_eq!(shown(plan.listeners()), ["127.0.0.1:7815"]);
    }

    #[test]
    fn a_routed_zone_takes_clients_of_other_hosts_as_well_over_ipv4_and_ipv6() {
        let ranges = ["10.90.0.0/16", "fd00:90::/112"];
        let plan = routed(&ranges, &["10.90.0.1:8080", "[fd00:90::1]:8080"]);
        let expected = "\
table inet t {
}
delete table inet t
table inet t {
	set ports {
		type inet_service
		elements = { 8080 }
	}
	chain redirect_clients {
		ip daddr 10.90.0.0/16 tcp dport @ports redirect to :7815
		ip6 daddr fd00:90::/112 tcp dport @ports redirect to :7815
	}
	chain output {
		type nat hook output priority -100; policy accept;
		jump redirect_clients
	}
	chain prerouting {
		type nat hook prerouting priority -100; policy accept;
		jump redirect_clients
	}
}
";
        assert_eq!(plan.ruleset("t"), expected);
        assert_eq!(shown(plan.listeners()), ["0.0.0.0:7815", "[::]:7815"]);
    }

    #[test]
    fn without_services_nothing_is_redirected_and_a_shared_address_is_a_range_of_one() {
        let none = loopback(&[]).ruleset("t");
        assert!(!none.contains("elements"), "{none}");
        let address = "10.1.0.5".parse().unwrap();
        let shared = RedirectPlan::new(
            Some(&Vips::Address { address }),
            &bindings(&["10.1.0.5:80"]),
            PORT,
        );
        let rules = shared.ruleset("t");
        assert!(
            rules.contains("ip daddr 10.1.0.5/32 tcp dport @ports") && rules.contains("prerouting"),
            "{rules}"
        );
    }

    #[test]
    fn what_is_redirected_is_within_the_ranges_and_at_a_port_of_a_service() {
        // One address is of before the zone had this range.
        let plan = loopback(&["127.64.0.1:8080", "10.96.0.1:80"]);
        let covers = |address: &str| plan.covers(address.parse().unwrap());
        assert!(covers("127.64.0.1:8080") && covers("127.100.7.7:8080"));
        assert!(!covers("127.64.0.1:80") && !covers("127.0.0.1:8080") && !covers("10.96.0.1:80"));
    }

    #[test]
    fn the_ranges_of_another_gateways_table_are_read_from_its_listing() {
        let listing = loopback(&["127.64.0.1:80"]).ruleset("t") + &routed(&["fd00::/64"], &[]).ruleset("u");
        let read = redirected_ranges(&format!("{listing} ip daddr 10.1.0.5 tcp dport @ports"));
        let read: Vec<String> = read.iter().map(IpNet::to_string).collect();
        assert_eq!(read, ["127.64.0.0/10", "fd00::/64", "10.1.0.5/32"]);
        let plan = loopback(&[]);
        let met = |range: &str| plan.meets(&range.parse().unwrap()).is_some();
        assert!(met("127.65.0.0/16") && met("127.0.0.0/8") && met("127.64.0.1/32"));
        assert!(!met("10.0.0.0/8") && !met("fd00::/64"));
    }
}
