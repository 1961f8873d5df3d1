//! One tunnel that is up: what is known of it, and opening streams on it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use causeway_federation::name::GatewayId;
use causeway_identity::{SpiffeId, end_of, identify};
use causeway_proto::tunnel::{FrameError, StreamHeader, encode_frame, stream_header::Kind};
use causeway_routing::snapshot::Link;
use quinn::{Connection, ConnectionError};
use tokio_util::sync::CancellationToken;

use super::{
    budget::MemoryBudget,
    capabilities::Capabilities,
    class::{Carried, TunnelStanding},
    credit::{self, Credit},
    greeting::chain_of,
    halves::{LinkError, Stream, WriteError},
    handshake::Negotiated,
    liveness::Silence,
    refusal::{Close, Ended, Loss},
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
    /// Silent for so long that nothing new is entrusted to it.
    unheard: AtomicBool,
    /// Start id in the peer's hello; 0: it told none.
    start: u64,
    /// Start id of the process whose place the peer's has taken; 0: none.
    succeeds: u64,
    /// Seconds that the peer's clock was ahead when it said hello.
    clock_ahead: Option<f64>,
    /// Name and version of the peer's program, in its own words.
    program: String,
    /// Another process takes the place of the peer's, which finishes what it holds.
    succeeded: AtomicBool,
    /// The peer is another process by now.
    restarted: AtomicBool,
    capabilities: Capabilities,
    /// `None`: the peer does not tell what it takes, and is not told.
    credit: Option<Arc<Credit>>,
    carried: Arc<Carried>,
    draining: AtomicBool,
    retiring: CancellationToken,
    /// Set once another process than the peer's is known to run with the peer's identity.
    twin: CancellationToken,
    streams: AtomicUsize,
    /// Those of them that the peer has opened.
    accepted_streams: AtomicUsize,
    /// Asks in a row that had no answer in time.
    unanswered: AtomicUsize,
}

/// Measurements of one tunnel since it is up, and of its path now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkStats {
    pub rtt: Duration,
    pub congestion_window_bytes: u64,
    pub mtu_bytes: u16,
    pub sent_packets: u64,
    pub lost_packets: u64,
    /// Of UDP, both ways, without the headers beneath.
    pub sent_bytes: u64,
    pub received_bytes: u64,
}

/// Failure to open a stream.
#[derive(Debug, thiserror::Error)]
pub enum StreamOpenError {
    #[error("the tunnel to {peer} is gone")]
    Lost {
        peer: GatewayId,
        #[source]
        source: LinkError,
    },
    #[error("the tunnel to {peer} was lost while the header was written")]
    Write {
        peer: GatewayId,
        #[source]
        source: WriteError,
    },
    #[error("the stream header cannot be sent")]
    Header(#[from] FrameError),
}

impl Tunnel {
    pub(super) fn new(connection: Connection, peer: GatewayId, thread: usize, dialled: bool) -> Self {
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
            unheard: AtomicBool::new(false),
            start: 0,
            succeeds: 0,
            clock_ahead: None,
            program: String::new(),
            succeeded: AtomicBool::new(false),
            restarted: AtomicBool::new(false),
            capabilities: Capabilities::default(),
            credit: None,
            carried: Arc::default(),
            draining: AtomicBool::new(false),
            retiring: CancellationToken::new(),
            twin: CancellationToken::new(),
            streams: AtomicUsize::new(0),
            accepted_streams: AtomicUsize::new(0),
            unanswered: AtomicUsize::new(0),
        }
    }

    /// Opens a stream and writes its header. Waits while the peer's stream limit is reached.
    ///
    /// # Errors
    /// When the tunnel is gone or the header is too long.
    pub async fn open(&self, header: &StreamHeader) -> Result<Stream, StreamOpenError> {
        let frame = encode_frame(header)?;
        let lost = |source| StreamOpenError::Lost {
            peer: self.peer.clone(),
            source,
        };
        let mut stream = self.open_bare().await.map_err(lost)?;
        self.assign(&mut stream, header.kind.as_ref());
        let write = |source| StreamOpenError::Write {
            peer: self.peer.clone(),
            source,
        };
        stream.send.write_chunk(frame).await.map_err(write)?;
        Ok(stream)
    }

    /// Opens a stream that is to carry a connection, whose header the caller writes. Waits while the peer's stream limit is
    /// reached.
    ///
    /// # Errors
    /// When the tunnel is gone.
    #[inline]
    pub async fn open_bare(&self) -> Result<Stream, LinkError> {
        let halves = self.connection.open_bi().await.map_err(LinkError)?;
        let mut stream = Stream::of(halves);
        stream.carry(Some(self));
        Ok(stream)
    }

    /// Has a stream be counted if it carries a connection, and otherwise go before those that do; a page that somebody reads goes beside them.
    pub(super) fn assign(&self, stream: &mut Stream, kind: Option<&Kind>) {
        match kind {
            Some(Kind::Connect(_)) => stream.carry(Some(self)),
            Some(Kind::Page(_)) => stream.carry(None),
            Some(
                Kind::Sync(_)
                | Kind::Topology(_)
                | Kind::Ca(_)
                | Kind::Trust(_)
                | Kind::Opened(_)
                | Kind::Demand(_),
            )
            | None => {
                stream.carry(None);
                stream.hurry();
            }
        }
    }

    pub(super) fn credit(&self) -> Option<&Arc<Credit>> {
        self.credit.as_ref()
    }

    /// Gives what carries this tunnel.
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Number of this tunnel in this process, unlike that of any other that is up.
    #[must_use]
    pub fn id(&self) -> usize {
        self.connection.stable_id()
    }

    /// The UDP address that the peer sends from now.
    #[must_use]
    pub fn remote_address(&self) -> SocketAddr {
        let address = self.connection.remote_address();
        SocketAddr::new(address.ip().to_canonical(), address.port())
    }

    /// Reads what was measured so far.
    #[must_use]
    pub fn stats(&self) -> LinkStats {
        let stats = self.connection.stats();
        LinkStats {
            rtt: stats.path.rtt,
            congestion_window_bytes: stats.path.cwnd,
            mtu_bytes: stats.path.current_mtu,
            sent_packets: stats.path.sent_packets,
            lost_packets: stats.path.lost_packets,
            sent_bytes: stats.udp_tx.bytes,
            received_bytes: stats.udp_rx.bytes,
        }
    }

    /// Says how the tunnel ended; `None` while it is up.
    #[must_use]
    pub fn ended(&self) -> Option<Ended> {
        self.connection.close_reason().map(|error| self.read_end(&error))
    }

    /// Reads how the tunnel ended.
    pub(super) fn read_end(&self, error: &ConnectionError) -> Ended {
        match error {
            ConnectionError::LocallyClosed if self.restarted.load(Ordering::Relaxed) => {
                Ended::Lost(Loss::Reset)
            }
            error => Ended::of(error),
        }
    }

    /// Ends the tunnel at once: the process that had its other end is gone.
    pub(super) fn end_with_its_peer(&self) {
        self.restarted.store(true, Ordering::Relaxed);
        self.connection
            .close(Close::RESTARTED.code(), b"the peer has restarted");
    }

    #[must_use]
    pub fn peer(&self) -> &GatewayId {
        &self.peer
    }

    /// `succeeds`: start id of the process whose place the peer's has taken.
    pub(super) fn with_start(mut self, start: u64, succeeds: u64) -> Self {
        (self.start, self.succeeds) = (start, succeeds);
        self
    }

    pub(super) fn with_clock(mut self, ahead: Option<f64>) -> Self {
        self.clock_ahead = ahead;
        self
    }

    /// Seconds that the peer's clock was ahead of this host's when the tunnel came up, less than 0 if behind; `None`: it told none.
    #[must_use]
    pub fn clock_ahead(&self) -> Option<f64> {
        self.clock_ahead
    }

    pub(super) fn with_program(mut self, program: String) -> Self {
        self.program = program;
        self
    }

    /// Name and version of the peer's program, in its own words; nothing, if it told none.
    #[must_use]
    pub fn program(&self) -> &str {
        &self.program
    }

    pub(super) fn with_capabilities(mut self, told: Capabilities, memory: &MemoryBudget) -> Self {
        let place = told
            .has(credit::WINDOWS_CAPABILITY)
            .then(|| memory.open(&self.peer));
        self.credit = told.has(credit::CAPABILITY).then(|| Arc::new(Credit::new(place)));
        self.capabilities = told;
        self
    }

    /// Capabilities that the peer has told in its hello.
    #[must_use]
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Bytes of connections that the peer has sent and that nobody here has taken yet, as it says a few times a second. Those
    /// that are on their way count too.
    #[must_use]
    pub fn unread_bytes(&self) -> u64 {
        self.credit.as_ref().map_or(0, |credit| credit.unread_bytes())
    }

    /// Key exchange and cipher that both sides agreed on in the handshake.
    #[must_use]
    pub fn negotiated(&self) -> Option<Negotiated> {
        self.negotiated
    }

    pub(super) fn is_post_quantum(&self) -> bool {
        self.negotiated.is_some_and(|agreed| agreed.is_post_quantum())
    }

    /// Holder of the certificate that the peer showed in the handshake, and when it ends; it may have a newer one since.
    #[must_use]
    pub fn certificate(&self) -> Option<&(SpiffeId, SystemTime)> {
        self.certificate.as_ref()
    }

    /// Index of the data thread that drives this tunnel.
    #[must_use]
    pub fn thread(&self) -> usize {
        self.thread
    }

    /// Tells whether this side dialled.
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

    /// Tells whether another tunnel is to take the place of this one: it keeps its streams and is chosen last.
    #[must_use]
    pub fn is_retiring(&self) -> bool {
        self.retiring.is_cancelled()
    }

    pub(super) fn succeeds(&self) -> u64 {
        self.succeeds
    }

    /// Tells whether another process takes the place of the peer's.
    pub(super) fn is_succeeded(&self) -> bool {
        self.succeeded.load(Ordering::Relaxed)
    }

    pub(super) fn set_succeeded(&self) {
        self.succeeded.store(true, Ordering::Relaxed);
    }

    pub(super) fn retire(&self) {
        self.retiring.cancel();
    }

    /// Has the peer told that another process runs with its identity.
    pub(super) fn tell_of_twin(&self) {
        self.twin.cancel();
    }

    /// Waits until the peer is to be told that another process runs with its identity.
    pub(super) async fn has_twin(&self) {
        self.twin.cancelled().await;
    }

    /// Waits until the tunnel retires.
    pub(super) async fn retired(&self) {
        self.retiring.cancelled().await;
    }

    /// Tells whether the peer was silent for so long that the tunnel counts as gone, though it may yet be heard again.
    #[must_use]
    pub fn is_unheard(&self) -> bool {
        self.unheard.load(Ordering::Relaxed)
    }

    /// Counts the datagrams that came on this tunnel.
    #[must_use]
    pub fn received_datagrams(&self) -> u64 {
        self.connection.stats().udp_rx.datagrams
    }

    /// Takes down whether the peer answered an ask on this tunnel in time.
    pub fn asked(&self, answered: bool) {
        match answered {
            // Read first, so that a tunnel on which all is well is not written to for each connection.
            true if self.unanswered() > 0 => self.unanswered.store(0, Ordering::Relaxed),
            true => {}
            false => drop(self.unanswered.fetch_add(1, Ordering::Relaxed)),
        }
    }

    /// Counts the latest asks that had no answer in time; an answer begins anew.
    #[must_use]
    pub fn unanswered(&self) -> usize {
        self.unanswered.load(Ordering::Relaxed)
    }

    /// Tells whether a stream of it carries much, at the last look a moment ago.
    #[must_use]
    pub fn carries_bulk(&self) -> bool {
        self.carried.bulk() > 0
    }

    pub(super) fn carried(&self) -> &Arc<Carried> {
        &self.carried
    }

    /// State by which it is chosen for a stream more, which a task on data thread `thread` opens.
    pub(super) fn standing(&self, thread: usize) -> TunnelStanding {
        TunnelStanding {
            link: self.link(),
            is_retiring: self.is_retiring(),
            carries_bulk: self.carries_bulk(),
            streams: self.streams.load(Ordering::Relaxed),
            own: self.thread == thread,
        }
    }

    /// The counter of streams under way on this tunnel, for the table of tunnels and for limits.
    #[must_use]
    pub fn streams(&self) -> &AtomicUsize {
        &self.streams
    }

    pub(super) fn accepted_streams(&self) -> &AtomicUsize {
        &self.accepted_streams
    }

    /// Process of the peer that said hello; 0: it did not say.
    pub(super) fn start(&self) -> u64 {
        self.start
    }

    pub(super) fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Relaxed)
    }

    /// Takes down how long the peer is silent, and tells whether that changed what is thought of the tunnel.
    pub(super) fn set_silence(&self, silence: Silence) -> bool {
        let unheard = silence == Silence::Unheard;
        [
            (&self.stalled, silence >= Silence::Stalled),
            (&self.unheard, unheard),
        ]
        .map(|(flag, now)| flag.swap(now, Ordering::Relaxed) != now)
        .contains(&true)
    }

    /// Takes down that the peer drains, and tells whether that is news.
    pub(super) fn set_draining(&self) -> bool {
        !self.draining.swap(true, Ordering::Relaxed)
    }
}
