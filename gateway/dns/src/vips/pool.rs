//! The addresses of one family that may be given out, and where in them a name looks first.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use causeway_routing::target::Target;
use ipnet::IpNet;

/// Addresses that are looked through for a usable one: more than 127.0.0.0/24 with its neighbours.
const MAX_RESERVED_IN_A_ROW: u128 = 260;

/// Every address of the ranges stands for some name that is still in use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no address is left for `{name}` in {ranges}, which holds {taken} names")]
pub struct RangeFull {
    pub name: String,
    /// The ranges, separated by commas.
    pub ranges: String,
    pub taken: usize,
}

/// One range without the addresses at its ends that have a meaning of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Span {
    first: u128,
    count: u128,
}

/// The ranges of one address family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AddressPool {
    ranges: Vec<IpNet>,
    spans: Vec<Span>,
    /// Addresses in all spans together.
    count: u128,
    is_v4: bool,
}

impl AddressPool {
    pub(super) fn v4(ranges: &[IpNet]) -> Option<Self> {
        Self::new(ranges, true)
    }

    pub(super) fn v6(ranges: &[IpNet]) -> Option<Self> {
        Self::new(ranges, false)
    }

    fn new(ranges: &[IpNet], is_v4: bool) -> Option<Self> {
        let ranges: Vec<IpNet> = ranges
            .iter()
            .filter(|range| range.addr().is_ipv4() == is_v4)
            .copied()
            .collect();
        let spans: Vec<Span> = ranges.iter().map(span).collect();
        let count = spans
            .iter()
            .fold(0u128, |sum, span| sum.saturating_add(span.count));
        (count > 0).then_some(Self {
            ranges,
            spans,
            count,
            is_v4,
        })
    }

    /// Tells whether this pool could have given `address` out.
    pub(super) fn contains(&self, address: IpAddr) -> bool {
        self.ranges.iter().any(|range| range.contains(&address)) && !is_reserved(address)
    }

    fn at(&self, mut index: u128) -> Option<IpAddr> {
        for span in &self.spans {
            if index < span.count {
                return Some(self.address(span.first + index));
            }
            index -= span.count;
        }
        None
    }

    fn address(&self, bits: u128) -> IpAddr {
        match u32::try_from(bits) {
            Ok(bits) if self.is_v4 => IpAddr::V4(Ipv4Addr::from_bits(bits)),
            _ => IpAddr::V6(Ipv6Addr::from_bits(bits)),
        }
    }

    /// The place in the row of `target` that stands at `round`: where its hash points to, or the first usable address after it.
    pub(super) fn place(&self, target: &Target, round: u32) -> Option<IpAddr> {
        let hash = fingerprint(&target.to_string());
        let start = match round {
            0 => hash,
            round => scattered(hash, round),
        } % self.count;
        (0..self.count.min(MAX_RESERVED_IN_A_ROW))
            .filter_map(|step| self.at((start + step) % self.count))
            .find(|address| !is_reserved(*address))
    }

    /// The first free address from where the hash of `target` points to.
    ///
    /// # Errors
    /// When no address is free.
    pub(super) fn pick(
        &self,
        target: &Target,
        taken: &BTreeMap<IpAddr, Target>,
    ) -> Result<IpAddr, RangeFull> {
        let start = fingerprint(&target.to_string()) % self.count;
        // Of so many addresses in a row, more are usable than are taken: see `is_reserved`.
        let probes = self.count.min(3 * taken.len() as u128 + 1024);
        (0..probes)
            .filter_map(|step| self.at((start + step) % self.count))
            .find(|address| !is_reserved(*address) && !taken.contains_key(address))
            .ok_or_else(|| RangeFull {
                name: target.to_string(),
                ranges: self
                    .ranges
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join(","),
                taken: taken.len(),
            })
    }
}

/// Leaves out the network's own address, the first one (by habit a router's) and, in IPv4, the broadcast address.
/// Ranges of one or two addresses are used whole (RFC 3021).
fn span(range: &IpNet) -> Span {
    let host_bits = u32::from(range.max_prefix_len() - range.prefix_len());
    let first = match range.network() {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    };
    if host_bits < 2 {
        return Span {
            first,
            count: 1 << host_bits,
        };
    }
    let size = 1u128.checked_shl(host_bits).unwrap_or(u128::MAX);
    let last = u128::from(range.addr().is_ipv4());
    Span {
        first: first + 2,
        count: size - 2 - last,
    }
}

/// Addresses inside a range that are passed over: those that end in .0 or .255, which old software takes for a network or
/// its broadcast, and 127.0.0.0/24, where resolvers and other local services listen.
fn is_reserved(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => match address.octets() {
            [127, 0, 0, _] => true,
            [_, _, _, last] => last == 0 || last == 255,
        },
        IpAddr::V6(_) => false,
    }
}

/// FNV-1a, 128 bits (<http://www.isthe.com/chongo/tech/comp/fnv/>): stable over versions and platforms, which the hashes of
/// the standard library are not.
fn fingerprint(name: &str) -> u128 {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    name.bytes()
        .fold(OFFSET, |hash, byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME))
}

/// The hash of a later round. Two names whose hashes are close are apart here, so that names that have met once do not go on
/// meeting: the finalizer of SplitMix64 (<https://prng.di.unimi.it/splitmix64.c>) on each half.
fn scattered(hash: u128, round: u32) -> u128 {
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
    let half = |shift: u32| u64::try_from((hash >> shift) & u128::from(u64::MAX)).unwrap_or_default();
    let mix = |mut bits: u64| {
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    };
    let low = mix(half(0).wrapping_add(STEP.wrapping_mul(u64::from(round))));
    // Each half depends on both of the name's.
    let high = mix(half(64) ^ low);
    u128::from(high) << 64 | u128::from(mix(low ^ high))
}

#[cfg(test)]
mod tests {
    use super::*;
    use causeway_federation::name::ServiceName;

    fn ranges(text: &str) -> Vec<IpNet> {
        text.split(',').map(|range| range.parse().unwrap()).collect()
    }

    fn target(name: &str) -> Target {
        Target::service(ServiceName::new(name).unwrap())
    }

    fn fill(pool: &AddressPool) -> Vec<IpAddr> {
        let mut taken = BTreeMap::new();
        for i in 0.. {
            let name = target(&format!("s{i}"));
            match pool.pick(&name, &taken) {
                Ok(address) => assert!(taken.insert(address, name).is_none()),
                Err(full) => {
                    assert_eq!(full.taken, taken.len());
                    break;
                }
            }
        }
        taken.into_keys().collect()
    }

    #[test]
    fn the_ends_of_a_range_are_never_given_out() {
        let all = fill(&AddressPool::v4(&ranges("10.9.0.0/29")).unwrap());
        let text: Vec<String> = all.iter().map(ToString::to_string).collect();
        assert_eq!(text, ["10.9.0.2", "10.9.0.3", "10.9.0.4", "10.9.0.5", "10.9.0.6"]);
        assert_eq!(fill(&AddressPool::v4(&ranges("10.9.0.4/32")).unwrap()).len(), 1);
        assert_eq!(fill(&AddressPool::v4(&ranges("10.9.0.4/31")).unwrap()).len(), 2);
        assert_eq!(fill(&AddressPool::v6(&ranges("fd00::/125")).unwrap()).len(), 6);
    }

    #[test]
    fn a_full_range_says_so_after_every_usable_address() {
        let all = fill(&AddressPool::v4(&ranges("10.9.0.0/22")).unwrap());
        // 1024 addresses; four end in .0, four in .255, and 10.9.0.1 is the first.
        assert_eq!(all.len(), 1024 - 8 - 1);
        let all = fill(&AddressPool::v4(&ranges("127.0.0.0/23")).unwrap());
        assert_eq!(all.len(), 254, "127.0.0.0/24 is left to others");
    }

    #[test]
    fn several_ranges_are_one_pool() {
        let pool = AddressPool::v4(&ranges("10.9.0.0/29,fd00::/64,10.9.8.0/30")).unwrap();
        let all = fill(&pool);
        assert_eq!(all.len(), 5 + 1);
        assert!(all.iter().all(|address| pool.contains(*address)));
        assert!(AddressPool::v6(&ranges("10.9.0.0/29")).is_none());
    }

    #[test]
    fn a_name_hashes_to_the_same_place_in_every_version() {
        let pool = AddressPool::v4(&ranges("127.64.0.0/10")).unwrap();
        let address = pool.pick(&target("orders"), &BTreeMap::new()).unwrap();
        assert_eq!(address.to_string(), "127.107.75.95");
    }
}
