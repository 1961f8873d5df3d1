//! Addresses that follow from the names alone, so that every gateway of a zone has the same ones whatever it has seen before.
//!
//! Each name has an endless row of places, by hashes of the name, and goes along it until nobody else has asked for the place: a
//! place that one name alone asks for is its own, and a place that several ask for is nobody's, however long one of them was
//! there before the others, and however far along its row each came: so an address does not stand for one name at one gateway and for another at the next, and a name that comes takes
//! no address away for itself. Where two names of 10,000 meet depends on the range: in a /10 for one pair in all.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use causeway_routing::target::Target;

use super::pool::{AddressPool, RangeFull};

/// Places of its row that a name asks for; who has none then is given what is left, in an order that depends on the names.
/// Only a range that is nearly full comes so far.
const ROUNDS: u32 = 16;

/// Outcome of one derivation.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Derived {
    pub(super) given: BTreeMap<Target, IpAddr>,
    /// Places that several names asked for.
    pub(super) contested: BTreeSet<IpAddr>,
    /// The first name that has no address.
    pub(super) failed: Option<RangeFull>,
}

/// Gives each of `names` an address of `pool`. One for which `is_kept` holds was another name's a while ago and is passed
/// over, for as long as there are others.
pub(super) fn derive(
    pool: &AddressPool,
    names: &BTreeSet<Target>,
    is_kept: impl Fn(IpAddr) -> bool,
) -> Derived {
    let mut derived = Derived::default();
    // The one name that has asked for a place, and in which round. A second one makes the place nobody's, whatever the rounds are:
    // so the outcome does not depend on who comes first.
    let mut asked: BTreeMap<IpAddr, (&Target, u32)> = BTreeMap::new();
    let mut left: Vec<&Target> = Vec::new();
    let mut asking: Vec<(&Target, u32)> = names.iter().map(|name| (name, 0)).collect();
    while let Some((name, round)) = asking.pop() {
        if round == ROUNDS {
            left.push(name);
            continue;
        }
        let next = (name, round + 1);
        match pool.place(name, round) {
            Some(at) if derived.contested.contains(&at) || is_kept(at) => asking.push(next),
            Some(at) => match asked.get(&at).copied() {
                None => drop(asked.insert(at, (name, round))),
                Some((holder, its_round)) => {
                    asked.remove(&at);
                    derived.contested.insert(at);
                    asking.extend([(holder, its_round + 1), next]);
                }
            },
            None => asking.push(next),
        }
    }
    let mut taken: BTreeMap<IpAddr, Target> = asked
        .into_iter()
        .map(|(at, (name, _))| (at, name.clone()))
        .collect();
    left.sort_unstable();
    for name in left {
        match pool.pick(name, &taken) {
            Ok(at) => drop(taken.insert(at, name.clone())),
            Err(full) => drop(derived.failed.get_or_insert(full)),
        }
    }
    derived.given = taken.into_iter().map(|(at, name)| (name, at)).collect();
    derived
}

#[cfg(test)]
mod tests {
    use super::*;
    use causeway_federation::name::ServiceName;
    use proptest::{collection::btree_set, prelude::*};

    fn pool(range: &str) -> AddressPool {
        let range = range.parse().unwrap();
        AddressPool::v4(&[range])
            .or_else(|| AddressPool::v6(&[range]))
            .unwrap()
    }

    fn targets<'a>(names: impl IntoIterator<Item = &'a str>) -> BTreeSet<Target> {
        let target = |name| Target::service(ServiceName::new(name).unwrap());
        names.into_iter().map(target).collect()
    }

    fn free(_: IpAddr) -> bool {
        false
    }

    /// Two names that ask for one place first.
    fn rivals(pool: &AddressPool) -> (Target, Target) {
        let mut seen = BTreeMap::new();
        for number in 0.. {
            let [name] = <[Target; 1]>::try_from(Vec::from_iter(targets([&*format!("s{number}")]))).unwrap();
            let at = pool.place(&name, 0).unwrap();
            if let Some(rival) = seen.insert(at, name.clone()) {
                return (rival, name);
            }
        }
        unreachable!()
    }

    #[test]
    fn names_that_ask_for_one_place_both_go_elsewhere_and_nobody_is_given_it() {
        let pool = pool("127.90.0.0/22");
        let (one, other) = rivals(&pool);
        let place = pool.place(&one, 0).unwrap();
        let alone = derive(&pool, &BTreeSet::from([one.clone()]), free);
        assert_eq!(alone.given[&one], place);
        let both = derive(&pool, &BTreeSet::from([one.clone(), other.clone()]), free);
        assert_eq!(both.contested, BTreeSet::from([place]));
        assert!(both.given[&one] != place && both.given[&other] != place);
        assert_ne!(both.given[&one], both.given[&other]);
    }

    #[test]
    fn a_place_that_was_anothers_a_while_ago_is_passed_over_until_nothing_else_is_left() {
        let pool = pool("10.9.0.0/29");
        let names = targets(["a"]);
        let first = derive(&pool, &names, free).given;
        let [at] = <[IpAddr; 1]>::try_from(Vec::from_iter(first.into_values())).unwrap();
        let second = derive(&pool, &names, |address| address == at).given;
        assert_ne!(second.into_values().next(), Some(at));
        let five = targets(["a", "b", "c", "d", "e"]);
        assert_eq!(derive(&pool, &five, |address| address == at).given.len(), 5);
        let six = derive(&pool, &targets(["a", "b", "c", "d", "e", "f"]), free);
        assert_eq!((six.given.len(), six.failed.is_some()), (5, true));
    }

    proptest! {
        #[test]
        fn an_address_is_one_names_alone_and_a_name_that_comes_is_given_none_that_another_had(
            names in btree_set("[a-z]{1,4}", 1..200),
            comes in "[a-z]{1,4}",
            range in prop::sample::select(vec!["10.9.0.0/20", "127.64.0.0/10", "fd00::/64"]),
        ) {
            let pool = pool(range);
            let names = targets(names.iter().map(String::as_str));
            let before = derive(&pool, &names, free);
            prop_assert_eq!(before.given.len(), names.len());
            prop_assert!(before.failed.is_none());
            let distinct: BTreeSet<_> = before.given.values().collect();
            prop_assert_eq!(distinct.len(), names.len());
            let comes = targets([&*comes]);
            let after = derive(&pool, &names.union(&comes).cloned().collect(), free);
            let new = comes.first().unwrap();
            if !names.contains(new) {
                prop_assert!(!before.given.values().any(|at| *at == after.given[new]));
            }
            let moved: Vec<_> = names.iter().filter(|name| before.given[*name] != after.given[*name]).collect();
            for name in &moved {
                prop_assert!(after.contested.contains(&before.given[*name]), "{name} moved and nobody asked for its place");
            }
            prop_assert!(moved.len() <= after.contested.difference(&before.contested).count());
        }
    }
}
