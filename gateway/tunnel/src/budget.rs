//! Budget of what peers may have unread at this gateway: it is divided among the windows of their tunnels, which grow while
//! there is room, for the gateway that has sent and in all. What does not fit is held back by the peer. Pure.
//!
//! A window that nothing needs is given back; see `appetite`. What the peer says that it has sent and that was not taken
//! counts until it is taken, whatever the window is by then.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use causeway_federation::name::GatewayId;
use parking_lot::Mutex;

use super::config::TUNNEL_WINDOW_BYTES;

/// Bytes that peers may have unread in all, unless an operator says otherwise.
pub const MEMORY_BUDGET_BYTES: u64 = 256 * 1024 * 1024;
/// Share of one peer gateway in it: one in so many.
const PEER_SHARE: u64 = 4;
/// Window of a tunnel that has just come up, while less than half of the budget is given out.
const FIRST_WINDOW_BYTES: u64 = 16 * 1024 * 1024;
/// Window that every tunnel has however little is left, so that nothing stops.
pub(super) const LEAST_WINDOW_BYTES: u64 = 512 * 1024;
/// From one in so many of the budget on, what is unread must not keep much more than itself alive: a datagram may lie among 63 others.
const MUCH_SHARE: u64 = 64;
/// Time for which a lack is told after it was seen last, so that one who looks finds it.
const LACK_TOLD_FOR: Duration = Duration::from_secs(60);

/// Windows of all tunnels of one gateway.
#[derive(Debug)]
pub(super) struct Budget {
    whole_bytes: u64,
    /// Sum over all peers, of each at most its share: what it says beyond that takes no room from others.
    reserved: u64,
    unread: u64,
    peers: BTreeMap<GatewayId, PeerSum>,
    claims: BTreeMap<usize, Claim>,
    lack: Option<(Instant, GatewayId)>,
}

#[derive(Debug, Default)]
struct PeerSum {
    tunnels: usize,
    reserved: u64,
    unread: u64,
}

#[derive(Debug)]
struct Claim {
    peer: GatewayId,
    window: u64,
    /// Window before it was settled last: the peer may not have heard yet that it has become less.
    before: u64,
    /// Bytes that the peer has sent and that were not taken, as it said last.
    unread: u64,
}

impl Claim {
    fn reserved(&self) -> u64 {
        self.window.max(self.before).max(self.unread)
    }
}

impl Budget {
    pub(super) fn new(whole_bytes: u64) -> Self {
        Self {
            whole_bytes,
            reserved: 0,
            unread: 0,
            peers: BTreeMap::new(),
            claims: BTreeMap::new(),
            lack: None,
        }
    }

    fn peer_bytes(&self) -> u64 {
        self.whole_bytes / PEER_SHARE
    }

    /// Gives a tunnel that has come up its first window.
    pub(super) fn open(&mut self, tunnel: usize, peer: &GatewayId) -> u64 {
        self.close(tunnel);
        let window = match self.reserved < self.whole_bytes / 2 {
            true => FIRST_WINDOW_BYTES.min(self.room(peer)).max(LEAST_WINDOW_BYTES),
            false => LEAST_WINDOW_BYTES,
        };
        let claim = Claim {
            peer: peer.clone(),
            window,
            before: 0,
            unread: 0,
        };
        self.add(tunnel, claim);
        window
    }

    /// Gives a tunnel the window that it needs, or as much of it as there is.
    pub(super) fn settle(&mut self, now: Instant, tunnel: usize, wanted: u64) -> u64 {
        let Some(mut claim) = self.take(tunnel) else {
            return LEAST_WINDOW_BYTES;
        };
        let window = wanted.min(self.room(&claim.peer)).max(LEAST_WINDOW_BYTES);
        (claim.before, claim.window) = (claim.window, window);
        let peer = claim.peer.clone();
        self.add(tunnel, claim);
        if window < wanted && self.is_full_of_unread(&peer) {
            self.lack = Some((now, peer));
        }
        window
    }

    /// Takes down how many bytes a peer says that it has sent on a tunnel and that were not taken: at most what QUIC lets it send.
    pub(super) fn hear(&mut self, tunnel: usize, unread: u64) {
        let unread = unread.min(TUNNEL_WINDOW_BYTES.into());
        if let Some(claim) = self.take(tunnel) {
            self.add(tunnel, Claim { unread, ..claim });
        }
    }

    /// Frees all that a tunnel had.
    pub(super) fn close(&mut self, tunnel: usize) {
        self.take(tunnel);
    }

    /// Says what is lacking, or was until a moment ago.
    pub(super) fn lack(&self, now: Instant) -> Option<BudgetLack> {
        let (since, peer) = self.lack.as_ref()?;
        (now.saturating_duration_since(*since) < LACK_TOLD_FOR).then(|| BudgetLack {
            peer: peer.clone(),
            unread_bytes: self.unread,
            budget_bytes: self.whole_bytes,
        })
    }

    /// Room for one more claim of a peer.
    fn room(&self, peer: &GatewayId) -> u64 {
        let of_peer = self.peers.get(peer).map_or(0, |sum| sum.reserved);
        let of_all = self.whole_bytes.saturating_sub(self.reserved);
        self.peer_bytes().saturating_sub(of_peer).min(of_all)
    }

    /// Tells whether it is what nobody takes that fills the budget, and not windows that fast streams make use of. A peer fills three
    /// quarters of a window with what may lie there for long (see `ledger`).
    fn is_full_of_unread(&self, peer: &GatewayId) -> bool {
        let of_peer = self.peers.get(peer).map_or(0, |sum| sum.unread);
        of_peer >= self.peer_bytes() / 2 || self.unread >= self.whole_bytes / 2
    }

    fn add(&mut self, tunnel: usize, claim: Claim) {
        let share = self.peer_bytes();
        let sum = self.peers.entry(claim.peer.clone()).or_default();
        let before = sum.reserved.min(share);
        sum.tunnels += 1;
        sum.reserved += claim.reserved();
        sum.unread += claim.unread;
        self.reserved += sum.reserved.min(share) - before;
        self.unread += claim.unread;
        self.claims.insert(tunnel, claim);
    }

    fn take(&mut self, tunnel: usize) -> Option<Claim> {
        let claim = self.claims.remove(&tunnel)?;
        let share = self.peer_bytes();
        self.unread -= claim.unread;
        if let Some(sum) = self.peers.get_mut(&claim.peer) {
            let before = sum.reserved.min(share);
            sum.tunnels -= 1;
            sum.reserved -= claim.reserved();
            sum.unread -= claim.unread;
            self.reserved -= before - sum.reserved.min(share);
            if sum.tunnels == 0 {
                self.peers.remove(&claim.peer);
            }
        }
        Some(claim)
    }
}

/// Lack of memory for what nobody takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BudgetLack {
    /// Peer whose tunnel wanted more last.
    pub peer: GatewayId,
    pub unread_bytes: u64,
    pub budget_bytes: u64,
}

/// The budget of one gateway, shared by its tunnels. Clones are the same. Held for a few sums, at a tunnel's growth and some
/// times a second.
#[derive(Debug, Clone)]
pub struct MemoryBudget {
    budget: Arc<Mutex<Budget>>,
    /// Number of the next tunnel. Those that QUIC gives come again.
    next: Arc<AtomicUsize>,
    much_unread: Arc<AtomicBool>,
}

impl Default for MemoryBudget {
    fn default() -> Self {
        Self::new(MEMORY_BUDGET_BYTES)
    }
}

impl MemoryBudget {
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        Self {
            budget: Arc::new(Mutex::new(Budget::new(bytes))),
            next: Arc::default(),
            much_unread: Arc::default(),
        }
    }

    /// Tells whether peers have so much unread that it matters what it keeps alive beside itself.
    pub(super) fn is_much_unread(&self) -> bool {
        self.much_unread.load(Ordering::Relaxed)
    }

    /// Says what is lacking now, or was within the last minute.
    #[must_use]
    pub fn lack(&self) -> Option<BudgetLack> {
        self.budget.lock().lack(Instant::now())
    }

    /// Takes up a tunnel; it is in the budget for as long as what is returned lives.
    pub(super) fn open(&self, peer: &GatewayId) -> (BudgetPlace, u64) {
        let tunnel = self.next.fetch_add(1, Ordering::Relaxed);
        let window = self.budget.lock().open(tunnel, peer);
        let memory = self.clone();
        (BudgetPlace { memory, tunnel }, window)
    }
}

/// One tunnel's place in the budget.
#[derive(Debug)]
pub(super) struct BudgetPlace {
    memory: MemoryBudget,
    tunnel: usize,
}

impl BudgetPlace {
    pub(super) fn settle(&self, now: Instant, wanted: u64) -> u64 {
        self.memory.budget.lock().settle(now, self.tunnel, wanted)
    }

    pub(super) fn hear(&self, unread: u64) {
        self.change(|budget| budget.hear(self.tunnel, unread));
    }

    fn change(&self, change: impl FnOnce(&mut Budget)) {
        let mut budget = self.memory.budget.lock();
        change(&mut budget);
        let much = budget.unread > budget.whole_bytes / MUCH_SHARE;
        self.memory.much_unread.store(much, Ordering::Relaxed);
    }
}

impl Drop for BudgetPlace {
    fn drop(&mut self) {
        self.change(|budget| budget.close(self.tunnel));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1024 * 1024;
    const WHOLE: u64 = 256 * MIB;

    fn peer(number: usize) -> GatewayId {
        GatewayId::new(format!("zone-{number}").parse().unwrap(), "gw1".parse().unwrap())
    }

    #[test]
    fn windows_grow_while_the_peer_and_all_together_have_room_and_nobody_is_left_without() {
        let (mut budget, now) = (Budget::new(WHOLE), Instant::now());
        for tunnel in 0..8 {
            assert_eq!(budget.open(tunnel, &peer(tunnel / 2)), FIRST_WINDOW_BYTES);
        }
        assert_eq!(budget.open(8, &peer(4)), LEAST_WINDOW_BYTES);
        assert_eq!(budget.open(9, &peer(4)), LEAST_WINDOW_BYTES);
        // A quarter of all is for one peer.
        assert_eq!(budget.settle(now, 0, 40 * MIB), 40 * MIB);
        assert_eq!(budget.settle(now, 1, 40 * MIB), 24 * MIB);
        for tunnel in [2, 4, 6] {
            budget.settle(now, tunnel, 60 * MIB);
        }
        assert_eq!(budget.settle(now, 8, 60 * MIB), LEAST_WINDOW_BYTES);
        assert_eq!(budget.open(10, &peer(5)), LEAST_WINDOW_BYTES);
        // Given back: once the peer may have heard of it, others have it.
        budget.settle(now, 2, LEAST_WINDOW_BYTES);
        assert_eq!(budget.settle(now, 8, 60 * MIB), LEAST_WINDOW_BYTES);
        budget.settle(now, 2, LEAST_WINDOW_BYTES);
        assert!(budget.settle(now, 8, 40 * MIB) == 40 * MIB);
    }

    #[test]
    fn what_lies_unread_counts_though_its_window_is_gone_until_its_tunnel_is() {
        let (mut budget, now) = (Budget::new(WHOLE), Instant::now());
        budget.open(0, &peer(0));
        budget.open(1, &peer(0));
        budget.settle(now, 0, 50 * MIB);
        budget.hear(0, 50 * MIB);
        for _ in 0..2 {
            assert_eq!(budget.settle(now, 0, 0), LEAST_WINDOW_BYTES);
        }
        assert_eq!(budget.settle(now, 1, 40 * MIB), 14 * MIB);
        budget.close(0);
        assert_eq!(budget.settle(now, 1, 40 * MIB), 40 * MIB);
    }

    #[test]
    fn a_peer_that_says_more_than_it_can_have_sent_takes_no_room_from_others() {
        let (mut budget, now) = (Budget::new(WHOLE), Instant::now());
        for tunnel in 0..20 {
            budget.open(tunnel, &peer(0));
            budget.hear(tunnel, u64::MAX);
        }
        budget.open(20, &peer(1));
        assert_eq!(budget.settle(now, 20, 50 * MIB), 50 * MIB);
    }

    #[test]
    fn only_what_nobody_takes_is_a_lack_and_it_is_told_for_a_while() {
        let (mut budget, now) = (Budget::new(WHOLE), Instant::now());
        budget.open(0, &peer(0));
        budget.settle(now, 0, 2 * WHOLE);
        assert_eq!(budget.lack(now), None, "a fast stream");
        budget.hear(0, 40 * MIB);
        budget.settle(now, 0, 2 * WHOLE);
        let lack = budget.lack(now + LACK_TOLD_FOR / 2).unwrap();
        assert_eq!((lack.peer, lack.unread_bytes), (peer(0), 40 * MIB));
        assert_eq!(budget.lack(now + LACK_TOLD_FOR), None);
    }

    proptest! {
        #[test]
        fn more_than_the_budget_is_never_given_out_beyond_the_least(
            steps in proptest::collection::vec((0usize..4, 0usize..12, 0u64..100 * MIB), 1..200)
        ) {
            let (mut budget, now) = (Budget::new(WHOLE), Instant::now());
            for (act, tunnel, bytes) in steps {
                match act {
                    0 => drop(budget.open(tunnel, &peer(tunnel / 4))),
                    // A peer that keeps to its window.
                    1 => {
                        let most = budget.claims.get(&tunnel).map_or(0, Claim::reserved);
                        budget.hear(tunnel, bytes.min(most));
                    }
                    2 => drop(budget.settle(now, tunnel, bytes)),
                    _ => budget.close(tunnel),
                }
                let least = 12 * LEAST_WINDOW_BYTES;
                prop_assert!(budget.reserved <= WHOLE + least);
                let share = budget.peer_bytes();
                let sum: u64 = budget.peers.values().map(|sum| sum.reserved.min(share)).sum();
                prop_assert_eq!(sum, budget.reserved);
                let claimed: u64 = budget.claims.values().map(Claim::reserved).sum();
                prop_assert_eq!(claimed, budget.peers.values().map(|sum| sum.reserved).sum::<u64>());
                for of_peer in budget.peers.values() {
                    prop_assert!(of_peer.reserved <= budget.peer_bytes() + least);
                }
            }
        }
    }
}
