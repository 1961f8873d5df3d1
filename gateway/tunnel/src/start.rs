//! The tunnels of one gateway as a whole: starting them on every data thread, draining, leaving them to a successor, and closing.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    os::unix::net::UnixDatagram,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use arc_swap::ArcSwap;
use causeway_federation::topology::Topology;
use causeway_host::{
    held::{is_taken, open_held},
    remembered::Remembered,
    resolve::NameResolver,
};
use causeway_telemetry::RateLimited;
use futures_util::future::join_all;
use parking_lot::Mutex;
use quinn::{Endpoint, EndpointConfig, Runtime as _, ServerConfig, TokioRuntime};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use tokio::{runtime::Handle, sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{
    ConfigError, StreamHandler, TunnelConfig, TunnelSet, accept,
    demand::{self, DemandLimits, Demands},
    dial::{self, Dialler},
    metrics::TunnelMetrics,
    own_addresses,
    pieces::PiecewiseSocket,
    refusal::Close,
    renew,
    shared::{Leaving, TunnelShared},
    socket::{self, SocketBuffers},
    steering::{Lanes, SteeredSocket},
    succession::{self, Succession, ThreadPlaces},
};

/// Longest time that [`Tunnels::close`] waits for peers to hear of it.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Time after its last tunnel's end for which a peer is taken to drain still: its process ends last.
const DRAINING_FOR: Duration = Duration::from_secs(120);
/// Most hosts of peers that drain which are remembered; more gateways than drain at once.
const MAX_DRAINING: usize = 1024;

/// All tunnels of one gateway. Dropping it closes them without waiting.
pub struct Tunnels {
    local_addr: SocketAddr,
    buffers: SocketBuffers,
    endpoints: Vec<Endpoint>,
    leaving: watch::Sender<Option<Leaving>>,
    start_id: u64,
    lanes: Arc<Lanes>,
    /// Of all data threads, for a successor.
    listening: Vec<Arc<UdpSocket>>,
    threads: Vec<Handle>,
    stop: CancellationToken,
}

/// Failure to start the tunnels.
#[derive(Debug, thiserror::Error)]
pub enum TunnelsStartError {
    #[error("cannot listen for tunnels on udp {listen}")]
    Listen {
        listen: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("cannot open a socket to dial from")]
    Dial(#[source] io::Error),
    #[error("tunnels need at least one data thread")]
    NoThreads,
    #[error(
        "the certificate is of trust domain {certificate}, and in the topology this zone is of {topology}; they must agree"
    )]
    TrustDomain { certificate: String, topology: String },
    #[error("cannot set up tunnels")]
    Config(#[from] ConfigError),
}

impl Tunnels {
    /// Binds the sockets and starts accepting and dialling on every data thread. Returns at once; tunnels appear in `set`
    /// as they come up.
    ///
    /// # Errors
    /// When a socket cannot be bound, or the identity fits neither TLS nor the topology.
    pub fn start(
        config: TunnelConfig,
        threads: &[Handle],
        topology: watch::Receiver<Arc<Topology>>,
        set: Arc<TunnelSet>,
        handler: Arc<dyn StreamHandler>,
        metrics: Arc<TunnelMetrics>,
    ) -> Result<Self, TunnelsStartError> {
        check_trust_domain(&config, &topology.borrow())?;
        let exchange = renew::wanted(&topology.borrow());
        let (server, client) = (config.server(exchange)?, config.client(exchange)?);
        let (sockets, local_addr) = listen(&config, threads.len())?;
        own_addresses::tell(&topology.borrow(), &config.identity.gateway().zone, local_addr);
        let leaving = watch::Sender::new(None);
        let start_id = SmallRng::from_os_rng().random();
        let limits = DemandLimits {
            first: config.first_tunnels.min(threads.len()),
            most: threads.len(),
            spare_for: config.spare_tunnel_for,
        };
        let (succeeds, lanes) = succeed(&config, threads.len(), &metrics);
        let shared = Arc::new(TunnelShared {
            config,
            client: ArcSwap::from_pointee(client),
            renewals: watch::Sender::new(0),
            set,
            handler,
            metrics,
            topology,
            leaving: leaving.subscribe(),
            start_id,
            succeeds,
            rate_limited: Mutex::new(RateLimited::new()),
            resolver: NameResolver::default(),
            demands: Demands::new(limits),
            draining_peers: Remembered::new(DRAINING_FOR, MAX_DRAINING),
        });
        let mut tunnels = Self {
            local_addr,
            buffers: SocketBuffers::WANTED,
            endpoints: Vec::with_capacity(2 * threads.len()),
            leaving,
            start_id,
            lanes: Arc::clone(&lanes),
            listening: Vec::with_capacity(threads.len()),
            threads: threads.to_vec(),
            stop: CancellationToken::new(),
        };
        let mut accepting = Vec::with_capacity(threads.len());
        for (thread, (handle, socket)) in threads.iter().zip(sockets).enumerate() {
            let ends = (socket, Arc::clone(&lanes));
            accepting.push(tunnels.start_thread(&shared, thread, handle, ends, &server)?);
        }
        if let Some(before) = lanes.relays().first() {
            before.tell_reading();
        }
        tunnels.tell_buffers(&shared);
        if let Some(first) = threads.first() {
            let renewing = renew::run(shared.clone(), accepting, exchange, tunnels.stop.clone());
            let tasks = &shared.config.tasks;
            first.spawn(tasks.keep("identity of tunnels", renewing));
            let counting = demand::run(shared.clone(), tunnels.stop.clone());
            first.spawn(tasks.keep("number of tunnels", counting));
        }
        if let Some(doubt) = shared.config.identity.current().doubt() {
            error!(gateway = %shared.own(), %doubt, "other zones will refuse this gateway's certificate");
        }
        info!(address = %local_addr, threads = threads.len(), gateway = %shared.own(), "listening for tunnels");
        Ok(tunnels)
    }

    /// Shows what the kernel gave, and says once if that is too little.
    fn tell_buffers(&self, shared: &TunnelShared) {
        shared.metrics.socket_buffers(self.buffers);
        if !self.buffers.are_enough() {
            let SocketBuffers { receive, send } = self.buffers;
            warn!(
                gateway = %shared.own(), receive, send, wanted = SocketBuffers::WANTED.receive, hint = SocketBuffers::remedy(),
                "the kernel gives the sockets of tunnels small buffers; packets are lost in bursts"
            );
        }
    }

    /// Kernel buffers that the sockets were given.
    #[must_use]
    pub fn socket_buffers(&self) -> SocketBuffers {
        self.buffers
    }

    /// Answers the endpoint that accepts.
    fn start_thread(
        &mut self,
        shared: &Arc<TunnelShared>,
        thread: usize,
        handle: &Handle,
        (socket, lanes): (UdpSocket, Arc<Lanes>),
        server: &ServerConfig,
    ) -> Result<Endpoint, TunnelsStartError> {
        // quinn starts its tasks and registers its sockets on the runtime that is entered.
        let _entered = handle.enter();
        let keys = &shared.config.keys;
        let place = lanes.place_of(thread);
        let kept = socket.try_clone().map(Arc::new);
        let kept = kept.map_err(|source| TunnelsStartError::Listen {
            listen: self.local_addr,
            source,
        })?;
        shared.config.handed.keep_for_successor(&kept);
        self.listening.push(kept);
        let open = |config, socket, server| {
            Endpoint::new_with_abstract_socket(config, server, socket, Arc::new(TokioRuntime))
        };
        let steered = |socket| SteeredSocket {
            socket,
            ids: keys.connection_ids(place),
            lanes,
            lane_first: AtomicBool::default(),
        };
        let piecewise = |socket| PiecewiseSocket::over(socket, &shared.config.memory);
        let listen = self.local_addr;
        let given =
            SocketBuffers::of(&socket).map_err(|source| TunnelsStartError::Listen { listen, source })?;
        self.buffers = self.buffers.or_less(given);
        let accepting = TokioRuntime
            .wrap_udp_socket(socket)
            .and_then(|socket| {
                open(
                    keys.endpoint(place),
                    Arc::new(steered(piecewise(socket))),
                    Some(server.clone()),
                )
            })
            .map_err(|source| TunnelsStartError::Listen { listen, source })?;
        let dialling = socket::bind_dialling()
            .and_then(|socket| {
                self.buffers = self.buffers.or_less(SocketBuffers::of(&socket)?);
                TokioRuntime.wrap_udp_socket(socket)
            })
            // Keys of its own: an endpoint gives out resets for what it does not know, and with a shared key those would end
            // connections of the other (RFC 9000 §21.11).
            .and_then(|socket| open(EndpointConfig::default(), piecewise(socket), None))
            .map_err(TunnelsStartError::Dial)?;
        self.endpoints.extend([accepting.clone(), dialling.clone()]);
        let tasks = &shared.config.tasks;
        let taking = accept::run(Arc::clone(shared), accepting.clone(), thread);
        handle.spawn(tasks.keep(format!("tunnels taken by data thread {thread}"), taking));
        let dialler = Dialler {
            shared: Arc::clone(shared),
            endpoint: dialling,
            thread,
        };
        let dialling = dial::run(Arc::new(dialler), self.stop.clone());
        handle.spawn(tasks.keep(format!("tunnels dialled by data thread {thread}"), dialling));
        Ok(accepting)
    }

    /// The UDP address that tunnels are accepted on, with the port that was picked.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Begins to drain: peers are told that streams under way may take `within`; no tunnel is dialled or accepted any
    /// more. Peers send new connections elsewhere where they can, and those that they send here are served: tunnels stay up until
    /// [`Tunnels::close`].
    pub fn drain(&self, within: Duration) {
        self.leaving.send_replace(Some(Leaving::Drains(within)));
    }

    /// Describes these tunnels for a successor.
    #[must_use]
    pub fn succession(&self) -> Succession {
        Succession::new(self.start_id, self.lanes.places(), self.lanes.relays())
    }

    /// Leaves the sockets to a successor, from when it reads them. Until then all goes on; then it relays what is still for this process, every peer is
    /// told that there is one, and no tunnel is dialled or accepted any more. Those that are up stay up until [`Tunnels::close`]. Called again for
    /// another successor where one has failed.
    pub fn hand_over(&self, relay: UnixDatagram) {
        self.lanes.leave();
        if let Some(first) = self.threads.first() {
            let (lanes, stop) = (Arc::clone(&self.lanes), self.stop.clone());
            let leaving = self.leaving.clone();
            first.spawn(async move {
                let reads = || {
                    leaving.send_replace(Some(Leaving::Succeeded));
                };
                let receiving = stop.run_until_cancelled(succession::receive(relay, lanes, reads));
                if let Some(Err(error)) = receiving.await {
                    warn!(%error, "the successor relays no more; what is left of tunnels that others dialled is lost");
                }
            });
        }
    }

    /// Closes every tunnel and waits, for a bounded time, until the peers have been told.
    pub async fn close(&self) {
        self.close_endpoints();
        let idle = join_all(self.endpoints.iter().map(Endpoint::wait_idle));
        if timeout(CLOSE_TIMEOUT, idle).await.is_err() {
            warn!("gave up waiting for the last tunnels to close");
        }
    }

    fn close_endpoints(&self) {
        for endpoint in &self.endpoints {
            endpoint.close(Close::SHUTDOWN.code(), b"the gateway is shutting down");
        }
        self.stop.cancel();
    }
}

impl Drop for Tunnels {
    fn drop(&mut self) {
        self.close_endpoints();
    }
}

/// Binds the sockets that tunnels are accepted on, or goes on with those of the process before; returns their address too.
fn listen(config: &TunnelConfig, threads: usize) -> Result<(Vec<UdpSocket>, SocketAddr), TunnelsStartError> {
    let listen = config.listen;
    let failed = |source| TunnelsStartError::Listen { listen, source };
    let bind = || socket::bind_shared(listen, threads);
    let sockets = match inherited(config, threads) {
        Some(inherited) => inherited.map_err(failed)?,
        None => open_held(is_taken, bind).map_err(failed)?,
    };
    let first = sockets.first().filter(|_| threads > 0);
    let first = first.ok_or(TunnelsStartError::NoThreads)?;
    let address = first.local_addr().map_err(failed)?;
    Ok((sockets, address))
}

/// Start id of the process whose place this one takes, and the lanes of this one's data threads.
fn succeed(config: &TunnelConfig, threads: usize, metrics: &TunnelMetrics) -> (u64, Arc<Lanes>) {
    let (succeeds, places, relays) = match config.predecessor.clone() {
        Some(before) => (before.start_id, before.places, before.relays),
        None => (0, ThreadPlaces::new(threads), Vec::new()),
    };
    let lanes = Lanes::new(places, relays, metrics.relayed().clone());
    (succeeds, Arc::new(lanes))
}

/// The sockets of the process before, with more of them where there are more data threads; `None`: it had none at this address.
fn inherited(config: &TunnelConfig, threads: usize) -> Option<io::Result<Vec<UdpSocket>>> {
    let mut sockets = config.handed.take_udp(config.listen);
    if sockets.is_empty() && config.listen.ip().is_unspecified() {
        // Of a host without IPv6.
        let fallen_back = SocketAddr::from((Ipv4Addr::UNSPECIFIED, config.listen.port()));
        sockets = config.handed.take_udp(fallen_back);
    }
    (!sockets.is_empty()).then(|| socket::more_of(sockets, threads))
}

fn check_trust_domain(config: &TunnelConfig, topology: &Topology) -> Result<(), TunnelsStartError> {
    let certificate = config.identity.trust_domain();
    let topology = topology.trust_domain_of(&config.identity.gateway().zone);
    if certificate == topology {
        return Ok(());
    }
    Err(TunnelsStartError::TrustDomain {
        certificate: certificate.to_owned(),
        topology: topology.to_owned(),
    })
}
