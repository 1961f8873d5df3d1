//! The tunnels that are up, by the gateway they lead to: what the data path picks from.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use causeway_federation::name::GatewayId;
use causeway_routing::snapshot::Link;
use parking_lot::Mutex;
use tokio::{sync::watch, time::sleep};

use super::{
    Tunnel,
    class::Class,
    last_end::LastEnds,
    last_word::LastWords,
    liveness::Silence,
    siblings::Siblings,
    starts::{Start, Starts},
};

/// Pause between two looks whether control sits beside bulk.
const CROWDED_LOOK_EVERY: Duration = Duration::from_secs(1);

/// Every tunnel of this process. Readers never wait; changes are rare and bump [`TunnelSet::changed`].
#[derive(Debug)]
pub struct TunnelSet {
    tunnels: ArcSwap<BTreeMap<GatewayId, Vec<Arc<Tunnel>>>>,
    /// Processes that the peers with tunnels have been. Held while tunnels come and go.
    starts: Mutex<BTreeMap<GatewayId, Starts>>,
    changed: watch::Sender<u64>,
    last_words: LastWords,
    last_ends: LastEnds,
    siblings: Siblings,
}

impl Default for TunnelSet {
    fn default() -> Self {
        Self {
            tunnels: ArcSwap::default(),
            starts: Mutex::default(),
            changed: watch::Sender::new(0),
            last_words: LastWords::default(),
            last_ends: LastEnds::default(),
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

    /// Reasons why the latest tunnel with each gateway ended.
    #[must_use]
    pub fn last_ends(&self) -> &LastEnds {
        &self.last_ends
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
    /// the tunnels that led to the process before; but none that was told to drain, or whose process another has taken the place of: those
    /// end in good order.
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
        for old in self.tunnels.load().get(&peer).into_iter().flatten() {
            if old.start() != 0 && old.start() == tunnel.succeeds() {
                old.set_succeeded();
                // It keeps its streams, and gets none while the new one is there.
                old.retire();
            }
        }
        let of_the_one_before = |old: &&Arc<Tunnel>| {
            ![0, told].contains(&old.start()) && old.link() != Link::Draining && !old.is_succeeded()
        };
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

    /// Takes down that another process takes the place of the peer's.
    pub(super) fn set_succeeded(&self, tunnel: &Tunnel) {
        tunnel.set_succeeded();
        self.bump();
    }

    /// Waits until another process takes the place of the one that the tunnel with this number leads to.
    pub(super) async fn until_succeeded(&self, peer: &GatewayId, id: usize) {
        let mut changed = self.changed();
        loop {
            changed.mark_unchanged();
            let tunnels = self.tunnels.load_full();
            let list = tunnels.get(peer).into_iter().flatten();
            let is_succeeded = list
                .clone()
                .any(|tunnel| tunnel.id() == id && tunnel.is_succeeded());
            if is_succeeded || changed.changed().await.is_err() {
                return;
            }
        }
    }

    pub fn set_draining(&self, tunnel: &Tunnel) {
        if tunnel.set_draining() {
            self.bump();
        }
    }

    /// The best tunnel to `peer` for a connection's stream that a task on data thread `thread` opens, by [`Class::rank`]: one of a peer that
    /// drains comes last. `None` when there is none.
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
        self.best(Class::Interactive, peer, thread, besides)
    }

    /// The best tunnel to `peer` for what gateways tell each other for themselves, from any thread.
    #[must_use]
    pub fn choose_for_control(&self, peer: &GatewayId) -> Option<Arc<Tunnel>> {
        self.best(Class::Control, peer, usize::MAX, None)
    }

    fn best(
        &self,
        class: Class,
        peer: &GatewayId,
        thread: usize,
        besides: Option<usize>,
    ) -> Option<Arc<Tunnel>> {
        let tunnels = self.tunnels.load();
        let usable = tunnels
            .get(peer)?
            .iter()
            .filter(|t| !t.is_unheard() && besides.is_none_or(|other| t.id() != other));
        usable.min_by_key(|t| class.rank(t.standing(thread))).cloned()
    }

    /// Waits until control has sat beside bulk on `tunnel` for `patience`, while another tunnel was there that carries none.
    pub async fn until_crowded_out(&self, tunnel: &Tunnel, patience: Duration) {
        let mut since = None;
        loop {
            let better = tunnel.carries_bulk()
                && self
                    .choose_for_control(tunnel.peer())
                    .is_some_and(|other| other.link() == Link::Up && !other.carries_bulk());
            since = since.filter(|_| better).or(better.then(Instant::now));
            if since.is_some_and(|since: Instant| since.elapsed() >= patience) {
                return;
            }
            sleep(CROWDED_LOOK_EVERY).await;
        }
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

    /// Every gateway that is there to stay.
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
