//! A pure table of allocations: which address stands for which name.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use causeway_federation::topology::Vips;
use causeway_routing::target::Target;
use ipnet::IpNet;

use super::{
    derived::derive,
    names::Vip,
    pool::{AddressPool, RangeFull},
};

/// Time for which a name that is gone keeps its address, in seconds: 30 days.
pub(super) const KEEP_GONE_SECONDS: u64 = 30 * 24 * 3600;

/// Places of its own that a name by tag or by zone looks at before it takes any that is free.
const NARROWED_ROUNDS: u32 = 16;

/// One name's addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Allocation {
    pub vip: Vip,
    /// Time at which the name was last known to exist, in seconds since the Unix epoch.
    pub seen: u64,
}

/// The allocations of one zone. Two names never share an address.
#[derive(Debug, Clone)]
pub(super) struct Allocator {
    v4: Option<AddressPool>,
    v6: Option<AddressPool>,
    by_target: BTreeMap<Target, Allocation>,
    taken: BTreeMap<IpAddr, Target>,
    /// Addresses that several services hash to, which are nobody's.
    contested: BTreeSet<IpAddr>,
}

/// Effect of deriving the addresses of services anew.
#[derive(Debug, Default)]
pub(super) struct DerivedChange {
    pub(super) changed: Vec<(Target, Allocation)>,
    pub(super) removed: Vec<Target>,
    /// The first service that has no address in some family.
    pub(super) failed: Option<RangeFull>,
}

impl Allocator {
    /// Takes over those of `earlier` that lie in the ranges of `vips`. In address mode there is nothing to allocate.
    pub(super) fn new(vips: &Vips, earlier: impl IntoIterator<Item = (Target, Allocation)>) -> Self {
        let ranges = ranges(vips);
        let mut allocator = Self {
            v4: AddressPool::v4(&ranges),
            v6: AddressPool::v6(&ranges),
            by_target: BTreeMap::new(),
            taken: BTreeMap::new(),
            contested: BTreeSet::new(),
        };
        for (target, allocation) in earlier {
            allocator.restore(target, allocation);
        }
        allocator
    }

    fn restore(&mut self, target: Target, mut allocation: Allocation) {
        let (v4, v6) = (
            allocation.vip.v4.map(IpAddr::V4),
            allocation.vip.v6.map(IpAddr::V6),
        );
        let usable = |pool: &Option<AddressPool>, address: &IpAddr| {
            pool.as_ref().is_some_and(|pool| pool.contains(*address)) && !self.taken.contains_key(address)
        };
        let v4 = v4.filter(|address| usable(&self.v4, address));
        let v6 = v6.filter(|address| usable(&self.v6, address));
        allocation.vip = Vip::of(v4, v6);
        for address in allocation.vip.addresses() {
            self.taken.insert(address, target.clone());
        }
        if !allocation.vip.is_empty() {
            self.by_target.insert(target, allocation);
        }
    }

    pub(super) fn allocation(&self, target: &Target) -> Option<Allocation> {
        self.by_target.get(target).copied()
    }

    pub(super) fn allocations(&self) -> impl Iterator<Item = (&Target, &Allocation)> {
        self.by_target.iter()
    }

    /// Notes that a name exists.
    pub(super) fn touch(&mut self, target: &Target, now: u64) {
        if let Some(allocation) = self.by_target.get_mut(target) {
            allocation.seen = allocation.seen.max(now);
        }
    }

    /// Gives `target` an address of every family that has a range, and returns it with the names that had to make room:
    /// the longest gone one first, and only when a range is full. `in_use` says which names must stay.
    ///
    /// # Errors
    /// When a range is full of names that are in use. Nothing has changed then but that gone names lost theirs.
    pub(super) fn allocate(
        &mut self,
        target: &Target,
        now: u64,
        in_use: impl Fn(&Target) -> bool,
    ) -> (Result<Vip, RangeFull>, Vec<Target>) {
        let mut released = Vec::new();
        loop {
            match self.try_allocate(target, now) {
                Ok(vip) => return (Ok(vip), released),
                Err(full) => match self.longest_gone(target, &in_use) {
                    Some(gone) => {
                        self.release(&gone);
                        released.push(gone);
                    }
                    None => return (Err(full), released),
                },
            }
        }
    }

    fn try_allocate(&mut self, target: &Target, now: u64) -> Result<Vip, RangeFull> {
        let held = self.by_target.get(target).map_or(Vip::default(), |a| a.vip);
        let pick = |pool: &Option<AddressPool>, held: Option<IpAddr>| match (held, pool) {
            (Some(address), _) => Ok(Some(address)),
            (None, Some(pool)) => {
                // What several services hash to is left alone for as long as there is something else.
                let is_free = |at: &IpAddr| !self.taken.contains_key(at) && !self.contested.contains(at);
                let mut places = (0..NARROWED_ROUNDS).filter_map(|round| pool.place(target, round));
                let own = places.find(is_free);
                own.map_or_else(|| pool.pick(target, &self.taken), Ok).map(Some)
            }
            (None, None) => Ok(None),
        };
        let v4 = pick(&self.v4, held.v4.map(IpAddr::V4))?;
        let v6 = pick(&self.v6, held.v6.map(IpAddr::V6))?;
        let vip = Vip::of(v4, v6);
        for address in vip.addresses() {
            self.taken.insert(address, target.clone());
        }
        self.by_target
            .insert(target.clone(), Allocation { vip, seen: now });
        Ok(vip)
    }

    /// Gives each of `services` the addresses that follow from all of their names, and takes what stands there from names by tag
    /// and by zone. Where a service that is gone had an address, nobody else is given it until [`KEEP_GONE_SECONDS`] are over,
    /// unless no other is left.
    pub(super) fn derive(&mut self, services: &BTreeSet<Target>, now: u64) -> DerivedChange {
        let mut change = DerivedChange::default();
        let mut vips: BTreeMap<Target, Vip> = BTreeMap::new();
        let mut contested = BTreeSet::new();
        for pool in [&self.v4, &self.v6].into_iter().flatten() {
            let mut derived = derive(pool, services, |address| self.is_kept(address, services, now));
            for (target, address) in derived.given {
                let vip = vips.entry(target).or_default();
                *vip = vip.with(address);
            }
            contested.append(&mut derived.contested);
            change.failed = change.failed.or(derived.failed);
        }
        self.contested = contested;
        vips.retain(|target, vip| self.by_target.get(target).is_none_or(|held| held.vip != *vip));
        // All that move let go first: one may take what another had.
        for target in vips.keys() {
            self.release(target);
        }
        for (target, vip) in vips {
            for address in vip.addresses() {
                if let Some(holder) = self.taken.get(&address).cloned() {
                    self.release(&holder);
                    change.removed.push(holder);
                }
                self.taken.insert(address, target.clone());
            }
            let allocation = Allocation { vip, seen: now };
            self.by_target.insert(target.clone(), allocation);
            change.changed.push((target, allocation));
        }
        change
    }

    /// Tells whether a service that is gone had `address` a while ago.
    fn is_kept(&self, address: IpAddr, services: &BTreeSet<Target>, now: u64) -> bool {
        self.taken.get(&address).is_some_and(|holder| {
            let seen = self.by_target.get(holder).map_or(0, |held| held.seen);
            holder.is_whole() && !services.contains(holder) && seen.saturating_add(KEEP_GONE_SECONDS) >= now
        })
    }

    fn longest_gone(&self, but: &Target, in_use: impl Fn(&Target) -> bool) -> Option<Target> {
        self.by_target
            .iter()
            .filter(|(target, _)| *target != but && !in_use(target))
            .min_by_key(|(_, allocation)| allocation.seen)
            .map(|(target, _)| target.clone())
    }

    pub(super) fn release(&mut self, target: &Target) {
        if let Some(allocation) = self.by_target.remove(target) {
            for address in allocation.vip.addresses() {
                self.taken.remove(&address);
            }
        }
    }

    /// Frees the addresses of names that have been gone for [`KEEP_GONE_SECONDS`], and returns the names.
    pub(super) fn release_gone(&mut self, now: u64, in_use: impl Fn(&Target) -> bool) -> Vec<Target> {
        let gone: Vec<Target> = self
            .by_target
            .iter()
            .filter(|(target, allocation)| {
                allocation.seen.saturating_add(KEEP_GONE_SECONDS) < now && !in_use(target)
            })
            .map(|(target, _)| target.clone())
            .collect();
        for target in &gone {
            self.release(target);
        }
        gone
    }
}

/// The ranges that addresses are given out from: none in address mode.
pub(super) fn ranges(vips: &Vips) -> Vec<IpNet> {
    match vips {
        Vips::Loopback { range } => vec![*range],
        Vips::Routed { ranges } => ranges.clone(),
        // In address mode there is nothing to give out, nor in any mode that this version does not know.
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use causeway_federation::name::ServiceName;
    use proptest::{collection::btree_set, prelude::*};

    fn target(name: &str) -> Target {
        Target::service(ServiceName::new(name).unwrap())
    }

    fn routed(text: &str) -> Vips {
        Vips::Routed {
            ranges: text.split(',').map(|range| range.parse().unwrap()).collect(),
        }
    }

    fn allocate(allocator: &mut Allocator, name: &str, now: u64) -> Result<Vip, RangeFull> {
        allocator.allocate(&target(name), now, |_| true).0
    }

    #[test]
    fn a_name_has_an_address_of_each_family_that_has_a_range() {
        let mut allocator = Allocator::new(&routed("10.9.0.0/16,fd00::/64"), []);
        let vip = allocate(&mut allocator, "orders", 1).unwrap();
        assert!(vip.v4.is_some() && vip.v6.is_some());
        assert_eq!(allocate(&mut allocator, "orders", 2).unwrap(), vip);
    }

    #[test]
    fn a_range_that_moved_moves_only_its_own_family() {
        let mut allocator = Allocator::new(&routed("10.9.0.0/16,fd00::/64"), []);
        let before = allocate(&mut allocator, "orders", 1).unwrap();
        let saved: Vec<_> = allocator.allocations().map(|(t, a)| (t.clone(), *a)).collect();
        let mut allocator = Allocator::new(&routed("10.8.0.0/16,fd00::/64"), saved);
        let after = allocate(&mut allocator, "orders", 2).unwrap();
        assert_ne!(before.v4, after.v4);
        assert_eq!(before.v6, after.v6);
    }

    #[test]
    fn a_full_range_frees_the_longest_gone_name_and_never_one_in_use() {
        let mut allocator = Allocator::new(&routed("10.9.0.0/29"), []);
        for (now, name) in ["a", "b", "c", "d", "e"].iter().enumerate() {
            allocate(&mut allocator, name, now as u64 + 10).unwrap();
        }
        let in_use = |t: &Target| *t != target("b") && *t != target("c");
        let (vip, released) = allocator.allocate(&target("f"), 20, in_use);
        assert!(vip.is_ok());
        assert_eq!(released, [target("b")]);
        let error = allocate(&mut allocator, "g", 21).unwrap_err();
        assert_eq!(
            error.to_string(),
            "no address is left for `g` in 10.9.0.0/29, which holds 5 names"
        );
    }

    #[test]
    fn a_name_that_is_gone_keeps_its_address_for_thirty_days() {
        let mut allocator = Allocator::new(&routed("10.9.0.0/16"), []);
        let vip = allocate(&mut allocator, "orders", 0).unwrap();
        assert!(allocator.release_gone(KEEP_GONE_SECONDS, |_| false).is_empty());
        assert!(allocator.release_gone(KEEP_GONE_SECONDS + 1, |_| true).is_empty());
        assert_eq!(allocate(&mut allocator, "orders", 5).unwrap(), vip);
        assert_eq!(
            allocator.release_gone(KEEP_GONE_SECONDS + 6, |_| false),
            [target("orders")]
        );
    }

    proptest! {
        #[test]
        fn additions_move_nothing_and_no_two_names_share_an_address(
            first in btree_set("[a-z]{1,3}", 0..40),
            second in btree_set("[a-z]{1,3}", 0..40),
            range in prop::sample::select(vec!["10.9.0.0/24", "127.64.0.0/10", "10.9.0.0/25,fd00::/120"]),
        ) {
            let mut allocator = Allocator::new(&routed(range), []);
            for name in &first {
                allocate(&mut allocator, name, 1).unwrap();
            }
            let saved: BTreeMap<_, _> = allocator.allocations().map(|(t, a)| (t.clone(), *a)).collect();
            let mut later = Allocator::new(&routed(range), saved.clone());
            for name in second.iter().chain(&first) {
                allocate(&mut later, name, 2).unwrap();
            }
            for (target, allocation) in &saved {
                prop_assert_eq!(later.allocation(target).unwrap().vip, allocation.vip);
            }
            let mut seen = std::collections::BTreeSet::new();
            for (_, allocation) in later.allocations() {
                for address in allocation.vip.addresses() {
                    prop_assert!(seen.insert(address));
                }
            }
        }
    }
}
