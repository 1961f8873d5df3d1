//! The tunnels that are up, by the gateway they lead to: what the data path picks from.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwap;
use causeway_proto::tunnel::{FrameError, StreamHeader, encode_frame};
use causeway_zone_sync::name::GatewayId;
use parking_lot::Mutex;
use quinn::{Connection, RecvStream, SendStream};
use tokio::sync::watch;

use super::{greeting::chain_of, handshake::Negotiated};
use crate::{
    identity::{SpiffeId, end_of, identify},
    snapshot::Link,
};

/// One mTLS QUIC connection to one gateway of another zone. It serves both directions, whoever dialled.
#[derive(Debug)]
pub struct Tunnel {
    connection: Connection,
    peer: GatewayId,
    negotiated: Option<Negotiated>,
    /// The SPIFFE id of the peer's certificate, and when that ends.
    certificate: Option<(SpiffeId, SystemTime)>,
    thread: usize,
    dialled: bool,
    since: Instant,
    stalled: AtomicBool,
    draining: AtomicBool,
    retiring: AtomicBool,
    streams: AtomicUsize,
}

/// Why a stream could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the tunnel to {peer} is gone")]
    Lost {
        peer: GatewayId,
        #[source]
        source: quinn::ConnectionError,
    },
    #[error("the tunnel to {peer} was lost while the header was written")]
    Write {
        peer: GatewayId,
        #[source]
        source: quinn::WriteError,
    },
    #[error("the stream header cannot be sent")]
    Header(#[from] FrameError),
}

impl Tunnel {
    #[must_use]
    pub fn new(connection: Connection, peer: GatewayId, thread: usize, dialled: bool) -> Self {
        let chain = chain_of(&connection);
        Self {
            negotiated: Negotiated::of(&connection),
            certificate: chain
                .first()
                .and_then(|leaf| identify(leaf).ok().zip(end_of(leaf))),
            connection,
            peer,
            thread,
            dialled,
            since: Instant::now(),
            stalled: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            retiring: AtomicBool::new(false),
            streams: AtomicUsize::new(0),
        }
    }

    /// Opens a stream and writes its header. Waits while the peer's stream limit is reached.
    ///
    /// # Errors
    /// When the tunnel is gone or the header is too long.
    pub async fn open(&self, header: &StreamHeader) -> Result<(SendStream, RecvStream), OpenError> {
        let frame = encode_frame(header)?;
        let lost = |source| OpenError::Lost {
            peer: self.peer.clone(),
            source,
        };
        let (mut send, recv) = self.connection.open_bi().await.map_err(lost)?;
        let write = |source| OpenError::Write {
            peer: self.peer.clone(),
            source,
        };
        send.write_chunk(frame).await.map_err(write)?;
        Ok((send, recv))
    }

    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    #[must_use]
    pub fn peer(&self) -> &GatewayId {
        &self.peer
    }

    /// What both sides agreed on in the handshake.
    #[must_use]
    pub fn negotiated(&self) -> Option<Negotiated> {
        self.negotiated
    }

    pub(super) fn is_post_quantum(&self) -> bool {
        self.negotiated.is_some_and(|agreed| agreed.is_post_quantum())
    }

    /// Whom the certificate names that the peer showed in the handshake, and when it ends; it may have a newer one since.
    #[must_use]
    pub fn certificate(&self) -> Option<&(SpiffeId, SystemTime)> {
        self.certificate.as_ref()
    }

    /// Index of the data thread that drives this tunnel.
    #[must_use]
    pub fn thread(&self) -> usize {
        self.thread
    }

    /// Whether this side dialled.
    #[must_use]
    pub fn dialled(&self) -> bool {
        self.dialled
    }

    #[must_use]
    pub fn since(&self) -> Instant {
        self.since
    }

    #[must_use]
    pub fn rtt(&self) -> Duration {
        self.connection.rtt()
    }

    #[must_use]
    pub fn link(&self) -> Link {
        if self.draining.load(Ordering::Relaxed) {
            Link::Draining
        } else if self.stalled.load(Ordering::Relaxed) {
            Link::Stalled
        } else {
            Link::Up
        }
    }

    /// Whether another tunnel is to take the place of this one: it keeps its streams and is chosen last.
    #[must_use]
    pub fn is_retiring(&self) -> bool {
        self.retiring.load(Ordering::Relaxed)
    }

    pub(super) fn retire(&self) {
        self.retiring.store(true, Ordering::Relaxed);
    }

    /// The counter of streams under way on this tunnel, for the table of tunnels and for limits.
    #[must_use]
    pub fn streams(&self) -> &AtomicUsize {
        &self.streams
    }
}

/// Every tunnel of this process. Readers never wait; changes are rare and bump [`TunnelSet::changed`].
#[derive(Debug)]
pub struct TunnelSet {
    tunnels: ArcSwap<BTreeMap<GatewayId, Vec<Arc<Tunnel>>>>,
    writing: Mutex<()>,
    changed: watch::Sender<u64>,
}

impl Default for TunnelSet {
    fn default() -> Self {
        Self {
            tunnels: ArcSwap::default(),
            writing: Mutex::new(()),
            changed: watch::Sender::new(0),
        }
    }
}

impl TunnelSet {
    pub fn add(&self, tunnel: Arc<Tunnel>) {
        self.change(|tunnels| tunnels.entry(tunnel.peer.clone()).or_default().push(tunnel));
    }

    pub fn remove(&self, tunnel: &Arc<Tunnel>) {
        self.change(|tunnels| {
            if let Some(list) = tunnels.get_mut(&tunnel.peer) {
                list.retain(|t| !Arc::ptr_eq(t, tunnel));
                if list.is_empty() {
                    tunnels.remove(&tunnel.peer);
                }
            }
        });
    }

    pub fn set_stalled(&self, tunnel: &Tunnel, stalled: bool) {
        if tunnel.stalled.swap(stalled, Ordering::Relaxed) != stalled {
            self.bump();
        }
    }

    pub fn set_draining(&self, tunnel: &Tunnel) {
        if !tunnel.draining.swap(true, Ordering::Relaxed) {
            self.bump();
        }
    }

    /// The best tunnel to `peer` for a task on data thread `thread`: one that answers before one that has stalled, one
    /// that stays before one that retires, one of this thread before another's. `None` when there is none, or the peer is draining.
    #[must_use]
    pub fn choose(&self, peer: &GatewayId, thread: usize) -> Option<Arc<Tunnel>> {
        let tunnels = self.tunnels.load();
        let usable = tunnels.get(peer)?.iter().filter(|t| t.link() != Link::Draining);
        usable
            .min_by_key(|t| (t.link(), t.is_retiring(), t.thread != thread))
            .cloned()
    }

    /// How many tunnels to `peer` there are.
    #[must_use]
    pub fn count(&self, peer: &GatewayId) -> usize {
        self.tunnels.load().get(peer).map_or(0, Vec::len)
    }

    /// Whether a tunnel to `peer` is there to stay.
    #[must_use]
    pub fn has_lasting(&self, peer: &GatewayId) -> bool {
        let tunnels = self.tunnels.load();
        tunnels
            .get(peer)
            .is_some_and(|list| list.iter().any(|t| !t.is_retiring()))
    }

    /// Every gateway that takes new streams now.
    pub fn usable(&self) -> impl Iterator<Item = GatewayId> + use<> {
        let usable = self
            .links()
            .into_iter()
            .filter(|(_, link)| *link != Link::Draining);
        usable.map(|(peer, _)| peer)
    }

    /// The best link state over all tunnels to each gateway.
    #[must_use]
    pub fn links(&self) -> BTreeMap<GatewayId, Link> {
        let tunnels = self.tunnels.load();
        let best = |list: &Vec<Arc<Tunnel>>| list.iter().map(|t| t.link()).min();
        tunnels
            .iter()
            .filter_map(|(peer, list)| Some((peer.clone(), best(list)?)))
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

    fn change(&self, edit: impl FnOnce(&mut BTreeMap<GatewayId, Vec<Arc<Tunnel>>>)) {
        let _one_writer = self.writing.lock();
        let mut tunnels = BTreeMap::clone(&self.tunnels.load());
        edit(&mut tunnels);
        self.tunnels.store(Arc::new(tunnels));
        self.bump();
    }

    fn bump(&self) {
        self.changed.send_modify(|count| *count += 1);
    }
}
