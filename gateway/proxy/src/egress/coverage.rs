//! Virtual addresses that one socket takes clients for: what each stands for, and the word to mesh DNS on whether somebody
//! listens there.

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    sync::{Arc, atomic::AtomicUsize},
};

use arc_swap::ArcSwap;
use causeway_dns::vips::Listening;
use causeway_routing::target::{Binding, Target};
use parking_lot::Mutex;

use super::layout::Covered;

/// Stage of a socket's life, as mesh DNS hears of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SocketState {
    /// It is about to be bound, or is wanted no more.
    Away,
    /// It cannot be bound for now.
    Failed,
    Listening,
}

/// Meaning of one virtual address and port.
#[derive(Debug, Clone)]
pub(super) struct CoveredAddress {
    pub(super) binding: Binding,
    /// Connections that were made to it and are open.
    pub(super) open: Arc<AtomicUsize>,
}

/// Virtual addresses of one socket. The accept loop reads them without waiting for who changes them.
#[derive(Debug)]
pub(super) struct Coverage {
    addresses: ArcSwap<BTreeMap<SocketAddr, CoveredAddress>>,
    /// State that was told of every address. Locked while it is told, so that two words do not cross.
    state: Mutex<SocketState>,
    listening: Arc<Listening>,
}

impl Coverage {
    pub(super) fn new(covered: Covered, listening: Arc<Listening>) -> Self {
        let coverage = Self {
            addresses: ArcSwap::default(),
            state: Mutex::new(SocketState::Away),
            listening,
        };
        coverage.take_up(covered);
        coverage
    }

    /// Returns what a client of `address` wants; `None`: the socket covers no such address.
    pub(super) fn at(&self, address: SocketAddr) -> Option<CoveredAddress> {
        self.addresses.load().get(&address).cloned()
    }

    /// Tells whether `holds` of any target.
    pub(super) fn any_target(&self, holds: impl Fn(&Target) -> bool) -> bool {
        self.addresses
            .load()
            .values()
            .any(|covered| holds(&covered.binding.target))
    }

    /// Takes up which addresses it is to cover. Connections that are open are not concerned.
    pub(super) fn take_up(&self, covered: Covered) {
        let state = self.state.lock();
        let before = self.addresses.load_full();
        if before.len() == covered.len()
            && before
                .iter()
                .all(|(at, held)| covered.get(at) == Some(&held.binding))
        {
            return;
        }
        for gone in before.keys().filter(|address| !covered.contains_key(address)) {
            self.tell(*gone, *state, SocketState::Away);
        }
        let with_count = |(address, binding): (SocketAddr, Binding)| {
            let open = before.get(&address).map(|held| held.open.clone());
            let open = open.unwrap_or_default();
            (address, CoveredAddress { binding, open })
        };
        let next: BTreeMap<_, _> = covered.into_iter().map(with_count).collect();
        let new: Vec<SocketAddr> = next
            .keys()
            .filter(|at| !before.contains_key(at))
            .copied()
            .collect();
        // Before anybody is told of them, so that whoever connects then is known.
        self.addresses.store(Arc::new(next));
        for address in new {
            self.tell(address, SocketState::Away, *state);
        }
    }

    /// Takes up the state of the socket.
    pub(super) fn set(&self, next: SocketState) {
        let mut state = self.state.lock();
        for address in self.addresses.load().keys() {
            self.tell(*address, *state, next);
        }
        *state = next;
    }

    fn tell(&self, address: SocketAddr, before: SocketState, now: SocketState) {
        if before == now {
            return;
        }
        match before {
            SocketState::Listening => self.listening.ended(address),
            SocketState::Failed => self.listening.given_up(address),
            SocketState::Away => {}
        }
        match now {
            SocketState::Listening => self.listening.began(address),
            SocketState::Failed => self.listening.failed(address),
            SocketState::Away => {}
        }
    }
}

/// Names of the first few; the rest are counted.
impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MAX_NAMED: usize = 3;
        let addresses = self.addresses.load();
        for (number, covered) in addresses.values().take(MAX_NAMED).enumerate() {
            let comma = if number == 0 { "" } else { ", " };
            write!(f, "{comma}{}", covered.binding)?;
        }
        match addresses.len().checked_sub(MAX_NAMED) {
            Some(more @ 1..) => write!(f, " and {more} more"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use causeway_routing::testbed::service;

    use super::*;

    fn covered(names: &[(u8, &str)]) -> Covered {
        let pair = |(last, name): &(u8, &str)| (address(*last), Target::service(service(name)).into());
        names.iter().map(pair).collect()
    }

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 96, 0, last], 80))
    }

    #[test]
    fn addresses_come_and_go_under_a_socket_and_those_that_stay_keep_their_count() {
        let listening = Arc::new(Listening::default());
        let coverage = Coverage::new(covered(&[(1, "orders"), (2, "billing")]), listening);
        coverage.set(SocketState::Listening);
        coverage
            .at(address(1))
            .unwrap()
            .open
            .fetch_add(5, Ordering::Relaxed);
        coverage.take_up(covered(&[(1, "stock"), (3, "orders")]));
        let first = coverage.at(address(1)).unwrap();
        assert_eq!(first.binding.to_string(), "stock");
        assert_eq!(first.open.load(Ordering::Relaxed), 5);
        assert!(coverage.at(address(2)).is_none());
        assert_eq!(coverage.at(address(3)).unwrap().binding.to_string(), "orders");
    }

    #[test]
    fn dns_hears_of_every_address_how_the_socket_fares() {
        let listening = Arc::new(Listening::default());
        let coverage = Coverage::new(covered(&[(1, "orders")]), listening.clone());
        let given = |last| listening.may_be_given_out(address(last));
        coverage.set(SocketState::Failed);
        coverage.take_up(covered(&[(1, "orders"), (2, "billing")]));
        assert!(!given(1) && !given(2));
        coverage.take_up(covered(&[(1, "orders")]));
        assert!(!given(1) && given(2), "nobody wants to listen there any more");
        coverage.set(SocketState::Listening);
        assert!(given(1));
        coverage.set(SocketState::Failed);
        assert!(!given(1), "nobody listens now");
    }

    #[test]
    fn many_targets_are_named_by_the_first_few() {
        let named = |names: &[(u8, &str)]| Coverage::new(covered(names), Arc::default()).to_string();
        assert_eq!(named(&[(1, "a"), (2, "b")]), "a, b");
        assert_eq!(
            named(&[(1, "a"), (2, "b"), (3, "c"), (4, "d"), (5, "e")]),
            "a, b, c and 2 more"
        );
    }
}
