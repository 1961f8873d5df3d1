//! Shares of what there is not enough of, such as descriptors: the less is free, the less one holder may have, so that none can
//! take all, and whoever comes next finds room. Pure.
//!
//! Nobody is given a fixed part, which would lie idle while its holder needs nothing. A holder may have twice as many as
//! are free now (the dynamic thresholds of Choudhury and Hahne, "Dynamic Queue Length Thresholds for Shared-Memory Packet Switches",
//! 1998): one alone comes to two thirds of all, two that grow together to two fifths each, and one that comes later to two thirds of
//! what those before it have left.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

/// Use that a share is for, which says how large it may grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShareUse {
    /// Clients of services, and connections to instances: a holder may have twice as many as are free.
    Traffic,
    /// Connections to the process's own APIs: half as many as are free, so that who keeps many of those open, which is a third of all at
    /// most, keeps its own clients no place.
    Apis,
}

impl ShareUse {
    /// Returns the most that one holder may have of both kinds, where so many are free.
    fn most(self, free: u64) -> u64 {
        match self {
            Self::Traffic => free.saturating_mul(2),
            Self::Apis => free / 2,
        }
    }
}

/// Party in whose name something is held.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum ShareHolder {
    /// Another party that is known by a name, such as `zone west`.
    Named(Arc<str>),
    /// An address of another host, as [`host_of`] gives it.
    Address(IpAddr),
    /// A user of this host.
    User(u32),
    /// Programs of this host of which the user is not known.
    ThisHost,
}

impl ShareHolder {
    /// Names the holder that an address stands for. All of loopback is this host.
    #[must_use]
    pub fn at(address: IpAddr) -> Self {
        match host_of(address) {
            host if host.is_loopback() => Self::ThisHost,
            host => Self::Address(host),
        }
    }
}

impl fmt::Display for ShareHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => f.write_str(name),
            Self::Address(IpAddr::V4(ip)) => write!(f, "address {ip}"),
            Self::Address(IpAddr::V6(ip)) => write!(f, "network {ip}/64"),
            Self::User(user) => write!(f, "user {user} of this host"),
            Self::ThisHost => f.write_str("programs of this host"),
        }
    }
}

/// Address that stands for all those which one host can choose among: its network of 64 bits in IPv6, and all of loopback.
#[must_use]
pub fn host_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        ip if ip.is_loopback() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V4(ip) => ip.into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
    }
}

/// Reason that a holder is given no further one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoShare {
    #[error("none is free")]
    NoneFree,
    /// It has as many as one may while so few are free.
    #[error("{held} are held already, and {free} are free")]
    Crowded { held: u64, free: u64 },
}

/// Tells whether a holder of `held` may take another one of `free`.
///
/// # Errors
/// It may not.
pub fn may_take(held: u64, free: u64, of: ShareUse) -> Result<(), NoShare> {
    match free {
        0 => Err(NoShare::NoneFree),
        free if held < of.most(free) => Ok(()),
        free => Err(NoShare::Crowded { held, free }),
    }
}

/// Count of what each holder has. It lists only those that have something, so it is never longer than there is to be had.
#[derive(Debug, Default)]
pub struct ShareTable {
    held: BTreeMap<ShareHolder, u64>,
    total: u64,
}

impl ShareTable {
    /// Gives `holder` one more, of `free` that there are.
    ///
    /// # Errors
    /// It may not have another one.
    pub fn take(&mut self, holder: &ShareHolder, free: u64, of: ShareUse) -> Result<(), NoShare> {
        may_take(self.held_by(holder), free, of)?;
        self.add(holder);
        Ok(())
    }

    /// Gives `holder` one more, whatever it has.
    pub fn add(&mut self, holder: &ShareHolder) {
        self.total += 1;
        match self.held.get_mut(holder) {
            Some(held) => *held += 1,
            None => drop(self.held.insert(holder.clone(), 1)),
        }
    }

    /// Takes one back.
    pub fn give_back(&mut self, holder: &ShareHolder) {
        let Some(held) = self.held.get_mut(holder) else {
            return;
        };
        *held -= 1;
        self.total -= 1;
        if *held == 0 {
            self.held.remove(holder);
        }
    }

    #[must_use]
    pub fn held_by(&self, holder: &ShareHolder) -> u64 {
        self.held.get(holder).copied().unwrap_or_default()
    }

    /// Number of all that are held.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Names the holder that has most, and how many that are.
    #[must_use]
    pub fn largest(&self) -> Option<(&ShareHolder, u64)> {
        let all = self.held.iter().map(|(holder, held)| (holder, *held));
        all.max_by_key(|(_, held)| *held)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn user(number: u32) -> ShareHolder {
        ShareHolder::User(number)
    }

    /// Has a holder take as many as it is given of `all`.
    fn fill(table: &mut ShareTable, holder: &ShareHolder, all: u64) -> u64 {
        fill_of(table, holder, all, ShareUse::Traffic)
    }

    fn fill_of(table: &mut ShareTable, holder: &ShareHolder, all: u64, of: ShareUse) -> u64 {
        while table.take(holder, all - table.total(), of).is_ok() {}
        table.held_by(holder)
    }

    #[test]
    fn connections_to_apis_are_a_third_at_most_and_leave_their_holder_room_for_clients() {
        let mut table = ShareTable::default();
        assert_eq!(fill_of(&mut table, &user(1), 900, ShareUse::Apis), 300);
        assert_eq!(fill(&mut table, &user(1), 900), 600);
        assert_eq!(fill_of(&mut table, &user(1), 900, ShareUse::Apis), 600, "no more");
        assert_eq!(fill_of(&mut table, &user(2), 900, ShareUse::Apis), 100);
    }

    #[test]
    fn one_has_two_thirds_at_most_and_whoever_comes_next_finds_room() {
        let mut table = ShareTable::default();
        assert_eq!(fill(&mut table, &user(1), 900), 600);
        assert_eq!(
            table.take(&user(1), 300, ShareUse::Traffic),
            Err(NoShare::Crowded { held: 600, free: 300 })
        );
        assert_eq!(fill(&mut table, &user(2), 900), 200);
        assert_eq!(fill(&mut table, &user(3), 900), 67);
        assert_eq!(fill(&mut table, &user(1), 900), 600, "it gets no more");
        assert_eq!(table.largest(), Some((&user(1), 600)));
        // What one gives back, another may have.
        for _ in 0..400 {
            table.give_back(&user(1));
        }
        assert!(fill(&mut table, &user(2), 900) > 300);
        assert_eq!(table.take(&user(4), 0, ShareUse::Apis), Err(NoShare::NoneFree));
    }

    #[test]
    fn who_holds_nothing_is_not_in_the_table() {
        let mut table = ShareTable::default();
        table.take(&user(1), 1, ShareUse::Traffic).unwrap();
        table.give_back(&user(1));
        table.give_back(&user(1));
        assert_eq!((table.total(), table.largest()), (0, None));
    }

    proptest! {
        #[test]
        fn however_many_take_what_they_can_each_further_one_finds_room(all in 1u64..5_000, holders in 1u32..40) {
            let mut table = ShareTable::default();
            for holder in 0..holders {
                fill(&mut table, &user(holder), all);
            }
            // Each takes two thirds of what those before it have left, or one of them: the last one that there is.
            let left = (0..holders).fold(all, |left, _| left - (left * 2).div_ceil(3));
            prop_assert_eq!(all - table.total(), left);
            prop_assert!(all < 3 || table.held_by(&user(0)) <= all * 2 / 3 + 1);
        }
    }

    #[test]
    fn addresses_that_one_host_can_choose_among_are_one_holder() {
        let holder = |address: &str| ShareHolder::at(address.parse().unwrap());
        for (one, other, alike) in [
            ("127.0.0.1", "127.9.0.2", true),
            ("127.0.0.1", "::1", true),
            ("10.0.0.1", "::ffff:10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("2001:db8::1", "2001:db8::ffff:0:0:2", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
        ] {
            assert_eq!(holder(one) == holder(other), alike, "{one} {other}");
        }
        for (address, named) in [
            ("127.0.0.1", "programs of this host"),
            ("10.0.0.1", "address 10.0.0.1"),
            ("2001:db8::1", "network 2001:db8::/64"),
        ] {
            assert_eq!(holder(address).to_string(), named);
        }
    }
}
