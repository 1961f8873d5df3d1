//! The tunnels that are up, by the gateway they lead to: what the data path picks from.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
};

use arc_swap::ArcSwap;
use causeway_federation::name::GatewayId;
use causeway_routing::snapshot::Link;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{
    Tunnel,
    last_word::LastWords,
    liveness::Silence,
    siblings::Siblings,
    starts::{Start, Starts},
};

/// Streams by which a tunnel of another data thread must be ahead to be chosen: what it carries goes from thread to thread.
const OTHER_THREAD_STREAMS: usize = 8;

/// Cost of a stream more on a tunnel that has `streams`; `own`: the task is on its data thread.
fn cost(streams: usize, own: bool) -> usize {
    match own {
        true => streams,
        // A tunnel of another thread is as good once it has less than half as many.
        false => streams.saturating_mul(2).saturating_add(OTHER_THREAD_STREAMS),
    }
}

/// Every tunnel of this process. Readers never wait; changes are rare and bump [`TunnelSet::changed`].
#[derive(Debug)]
pub struct TunnelSet {
    tunnels: ArcSwap<BTreeMap<GatewayId, Vec<Arc<Tunnel>>>>,
    /// Processes that the peers with tunnels have been. Held while tunnels come and go.
    starts: Mutex<BTreeMap<GatewayId, Starts>>,
    changed: watch::Sender<u64>,
    last_words: LastWords,
    siblings: Siblings,
}

impl Default for TunnelSet {
    fn default() -> Self {
        Self {
            tunnels: ArcSwap::default(),
            starts: Mutex::default(),
            changed: watch::Sender::new(0),
            last_words: LastWords::default(),
            siblings: Siblings::default(),
        }
    }
}

impl TunnelSet {
    /// Reasons that no tunnel came about with a zone, the last time that one did not.
    #[must_use]
    pub fn last_words(&self) -> &LastWords {
        &self.last_words
    }

    pub(super) fn siblings(&self) -> &Siblings {
        &self.siblings
    }

    /// Takes up a tunnel whatever process it leads to.
    #[cfg(feature = "test-util")]
    pub fn add(&self, tunnel: Arc<Tunnel>) {
        let _ = self.take_up(tunnel);
    }

    /// Takes up a tunnel, and says how the process at its far end relates to those before. If the peer has restarted, gives
    /// the tunnels that led to the process before; but none that was told to drain, which ends in good order.
    pub(super) fn take_up(&self, tunnel: Arc<Tunnel>) -> (Start, Vec<Arc<Tunnel>>) {
        let mut starts = self.starts.lock();
        let peer = tunnel.peer().clone();
        let told = tunnel.start();
        let start = match told {
            0 => Start::Same,
            told => starts
                .entry(peer.clone())
                .or_insert_with(|| Starts::new(told))
                .hear(told),
        };
        let of_the_one_before =
            |old: &&Arc<Tunnel>| ![0, told].contains(&old.start()) && old.link() != Link::Draining;
        let ended = match (start, self.tunnels.load().get(&peer)) {
            (Start::Restarted, Some(list)) => list.iter().filter(of_the_one_before).cloned().collect(),
            _ => Vec::new(),
        };
        self.change(|tunnels| tunnels.entry(peer).or_default().push(tunnel));
        (start, ended)
    }

    pub fn remove(&self, tunnel: &Arc<Tunnel>) {
        let mut starts = self.starts.lock();
        self.change(|tunnels| {
            if let Some(list) = tunnels.get_mut(tunnel.peer()) {
                list.retain(|t| !Arc::ptr_eq(t, tunnel));
                if list.is_empty() {
                    tunnels.remove(tunnel.peer());
                    starts.remove(tunnel.peer());
                }
            }
        });
    }

    /// Takes down how long the peer of `tunnel` is silent, and tells whether that changed what is thought of it.
    pub fn set_silence(&self, tunnel: &Tunnel, silence: Silence) -> bool {
        let changed = tunnel.set_silence(silence);
        if changed {
            self.bump();
        }
        changed
    }

    /// Waits until the tunnel with this number is there and has stalled, if `stalled`, or else has not.
    pub(super) async fn until_stalled(&self, peer: &GatewayId, id: usize, stalled: bool) {
        let mut changed = self.changed();
        loop {
            changed.mark_unchanged();
            let tunnels = self.tunnels.load_full();
            let tunnel = tunnels
                .get(peer)
                .and_then(|list| list.iter().find(|t| t.id() == id));
            let now = tunnel.map(|tunnel| tunnel.is_stalled());
            if now == Some(stalled) || changed.changed().await.is_err() {
                return;
            }
        }
    }

    /// Has the tunnel with this number be chosen last from now on, and end once it carries nothing.
    pub(super) fn retire(&self, peer: &GatewayId, id: usize) {
        let tunnels = self.tunnels.load();
        let list = tunnels.get(peer).into_iter().flatten();
        list.filter(|tunnel| tunnel.id() == id)
            .for_each(|tunnel| tunnel.retire());
    }

    pub fn set_draining(&self, tunnel: &Tunnel) {
        if tunnel.set_draining() {
            self.bump();
        }
    }

    /// The best tunnel to `peer` for a task on data thread `thread`: one that answers before one that has stalled, one
    /// that stays before one that retires, and then by the [`cost`] of a stream more. `None` when there is none, or the peer is draining.
    #[must_use]
    pub fn choose(&self, peer: &GatewayId, thread: usize) -> Option<Arc<Tunnel>> {
        self.choose_besides(peer, thread, None)
    }

    /// Like [`TunnelSet::choose`], but never the tunnel with the number `besides`.
    #[must_use]
    pub fn choose_besides(
        &self,
        peer: &GatewayId,
        thread: usize,
        besides: Option<usize>,
    ) -> Option<Arc<Tunnel>> {
        let tunnels = self.tunnels.load();
        let usable = tunnels.get(peer)?.iter().filter(|t| {
            t.link() != Link::Draining && !t.is_unheard() && besides.is_none_or(|other| t.id() != other)
        });
        usable
            .min_by_key(|t| {
                let streams = t.streams().load(Ordering::Relaxed);
                (t.link(), t.is_retiring(), cost(streams, t.thread() == thread))
            })
            .cloned()
    }

    /// Number of tunnels to `peer`.
    #[must_use]
    pub fn count(&self, peer: &GatewayId) -> usize {
        self.tunnels.load().get(peer).map_or(0, Vec::len)
    }

    /// Tells whether a tunnel to `peer` is there to stay.
    #[must_use]
    pub fn has_lasting(&self, peer: &GatewayId) -> bool {
        let tunnels = self.tunnels.load();
        tunnels
            .get(peer)
            .is_some_and(|list| list.iter().any(|t| !t.is_retiring() && !t.is_unheard()))
    }

    /// Every gateway that takes new streams now.
    pub fn usable(&self) -> impl Iterator<Item = GatewayId> + use<> {
        let usable = self
            .links()
            .into_iter()
            .filter(|(_, link)| *link != Link::Draining);
        usable.map(|(peer, _)| peer)
    }

    /// The best link state over all tunnels to each gateway, those aside that count as gone.
    #[must_use]
    pub fn links(&self) -> BTreeMap<GatewayId, Link> {
        let tunnels = self.tunnels.load();
        let heard = |list: &Vec<Arc<Tunnel>>| list.iter().filter(|t| !t.is_unheard()).map(|t| t.link()).min();
        tunnels
            .iter()
            .filter_map(|(peer, list)| Some((peer.clone(), heard(list)?)))
            .collect()
    }

    #[must_use]
    pub fn all(&self) -> Vec<Arc<Tunnel>> {
        self.tunnels.load().values().flatten().cloned().collect()
    }

    /// Counts up whenever a tunnel comes, goes, stalls, recovers or drains.
    #[must_use]
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Whoever calls it holds `starts`.
    fn change(&self, edit: impl FnOnce(&mut BTreeMap<GatewayId, Vec<Arc<Tunnel>>>)) {
        let mut tunnels = BTreeMap::clone(&self.tunnels.load());
        edit(&mut tunnels);
        self.tunnels.store(Arc::new(tunnels));
        self.bump();
    }

    fn bump(&self) {
        self.changed.send_modify(|count| *count += 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Streams on each tunnel after tasks of thread 0 have opened `count`, where each tunnel is of the thread that is given.
    fn spread(threads: &[usize], count: usize) -> Vec<usize> {
        let mut streams = vec![0; threads.len()];
        for _ in 0..count {
            let best = (0..threads.len()).min_by_key(|at| cost(streams[*at], threads[*at] == 0));
            streams[best.unwrap()] += 1;
        }
        streams
    }

    #[test]
    fn few_streams_stay_on_their_thread_and_many_are_spread_over_all_tunnels() {
        assert_eq!(spread(&[1, 0, 2], 8), [0, 8, 0]);
        assert_eq!(spread(&[1, 0, 0, 2], 16), [0, 8, 8, 0]);
        let many = spread(&[0, 0, 1, 2, 3, 1, 2, 3], 400);
        assert!(
            many.iter().all(|streams| (30..=100).contains(streams)),
            "{many:?}"
        );
        assert_eq!(spread(&[1, 2], 10), [5, 5], "without a tunnel of its own");
    }
}
