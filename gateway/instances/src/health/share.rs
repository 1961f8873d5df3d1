//! Shares of the checks: which gateway of a zone checks which instance: rendezvous hashing, so that every gateway works out the same answer from
//! the names alone, and a gateway that comes or goes moves only its own share.
//!
//! Source: Thaler and Ravishankar, "Using Name-Based Mappings to Increase Hit Rates" (1998). Whether this gateway is
//! cut off and checks everything itself is not decided here.

use causeway_federation::registry::InstanceKey;

/// FNV-1a, 64 bit: its offset and prime (draft-eastlake-fnv §5).
const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;
/// Lies between the parts of what is hashed; no name and no id holds it.
const SEPARATOR: u8 = 0;

/// The one of `gateways` that checks the instance under `key`; `None` when there are none. Every gateway of a zone, of
/// whatever version, must come to the same answer: the function is part of the contract between them.
#[must_use]
pub(crate) fn checker<'a>(gateways: impl IntoIterator<Item = &'a str>, key: &InstanceKey) -> Option<&'a str> {
    let instance = hash(hash(FNV_OFFSET, key.service.as_str()), &key.id);
    let scored = gateways.into_iter();
    // Two names with one score are told apart by the name.
    scored.max_by_key(|gateway| (mix(hash(instance, gateway)), *gateway))
}

/// A number between 0 and 1 that an instance always has: spreads what would begin at once for many.
#[must_use]
pub(crate) fn phase(key: &InstanceKey) -> f64 {
    let instance = mix(hash(hash(FNV_OFFSET, key.service.as_str()), &key.id));
    // The upper 53 bits are what an f64 holds exactly.
    (instance >> 11) as f64 / (1u64 << 53) as f64
}

fn hash(state: u64, text: &str) -> u64 {
    let bytes = text.bytes().chain([SEPARATOR]);
    bytes.fold(state, |state, byte| {
        (state ^ u64::from(byte)).wrapping_mul(FNV_PRIME)
    })
}

/// Lets every bit depend on every other: FNV leaves names that differ in their last letter close together. The finalizer
/// of SplitMix64 (Steele, Lea and Flood, 2014).
fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use causeway_federation::name::ServiceName;
    use proptest::prelude::*;

    use super::*;

    fn keys(count: usize) -> Vec<InstanceKey> {
        let service = ServiceName::new("orders").unwrap();
        (0..count)
            .map(|n| InstanceKey {
                service: service.clone(),
                id: format!("10.1.{}.{}:8080", n / 250, n % 250),
            })
            .collect()
    }

    fn shares<'a>(gateways: &[&'a str], keys: &[InstanceKey]) -> BTreeMap<&'a str, usize> {
        let mut shares = BTreeMap::new();
        for key in keys {
            *shares
                .entry(checker(gateways.iter().copied(), key).unwrap())
                .or_default() += 1;
        }
        shares
    }

    #[test]
    fn every_gateway_has_about_the_same_share() {
        let keys = keys(10_000);
        for gateways in [
            &["gw1", "gw2"][..],
            &["gw1", "gw2", "gw3"],
            &["a", "b", "c", "d", "e"],
        ] {
            let fair = keys.len() / gateways.len();
            let shares = shares(gateways, &keys);
            assert_eq!(shares.len(), gateways.len());
            for (gateway, share) in shares {
                assert!(share.abs_diff(fair) < fair / 10, "{gateway}: {share} of {fair}");
            }
        }
    }

    #[test]
    fn a_gateway_that_goes_moves_its_own_share_only_and_spreads_it() {
        let keys = keys(9_000);
        let (all, left) = (["gw1", "gw2", "gw3"], ["gw1", "gw3"]);
        let mut taken = BTreeMap::<_, usize>::new();
        for key in &keys {
            let (before, after) = (checker(all, key).unwrap(), checker(left, key).unwrap());
            match before {
                "gw2" => *taken.entry(after).or_default() += 1,
                other => assert_eq!(other, after),
            }
        }
        assert!(taken.values().all(|share| *share > 1_300), "{taken:?}");
    }

    #[test]
    fn the_answer_never_changes_between_versions() {
        let keys = keys(6);
        let checkers: Vec<_> = keys
            .iter()
            .map(|key| checker(["gw1", "gw2", "gw3"], key).unwrap())
            .collect();
        assert_eq!(checkers, PINNED);
        assert_eq!(checker([], &keys[0]), None);
    }

    /// Answers of the first version.
    const PINNED: [&str; 6] = ["gw1", "gw2", "gw1", "gw1", "gw2", "gw2"];

    proptest! {
        #[test]
        fn the_order_of_the_gateways_is_of_no_account(seed in 0usize..10_000) {
            let key = &keys(seed + 1)[seed];
            prop_assert_eq!(checker(["gw1", "gw2", "gw3"], key), checker(["gw3", "gw1", "gw2"], key));
            prop_assert!((0.0..1.0).contains(&phase(key)));
        }
    }
}
