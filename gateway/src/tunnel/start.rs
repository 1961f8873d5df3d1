//! The tunnels of one gateway as a whole: starting them on every data thread, draining, and closing.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use causeway_zone_sync::topology::Topology;
use futures_util::future::join_all;
use parking_lot::Mutex;
use quinn::{Endpoint, EndpointConfig, ServerConfig, TokioRuntime};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use tokio::{runtime::Handle, sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{
    ConfigError, StreamHandler, TunnelConfig, TunnelSet, accept,
    dial::{self, Dialler},
    quiet::Quiet,
    refusal::Close,
    renew,
    shared::Shared,
    socket,
};
use crate::telemetry::Metrics;

/// How long [`Tunnels::close`] waits for peers to hear of it.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// All tunnels of one gateway. Dropping it closes them without waiting.
pub struct Tunnels {
    local_addr: SocketAddr,
    endpoints: Vec<Endpoint>,
    drain: watch::Sender<Option<Duration>>,
    stop: CancellationToken,
}

/// Why the tunnels could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
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
        metrics: Arc<Metrics>,
    ) -> Result<Self, StartError> {
        check_trust_domain(&config, &topology.borrow())?;
        let exchange = renew::wanted(&topology.borrow());
        let (server, client) = (config.server(exchange)?, config.client(exchange)?);
        let listen = config.listen;
        let failed = |source| StartError::Listen { listen, source };
        let sockets = socket::bind_shared(listen, threads.len()).map_err(failed)?;
        let first = sockets.first().filter(|_| !threads.is_empty());
        let local_addr = first.ok_or(StartError::NoThreads)?.local_addr().map_err(failed)?;

        let drain = watch::Sender::new(None);
        let shared = Arc::new(Shared {
            config,
            client: ArcSwap::from_pointee(client),
            renewals: watch::Sender::new(0),
            set,
            handler,
            metrics,
            topology,
            drain: drain.subscribe(),
            start_id: SmallRng::from_os_rng().random(),
            quiet: Mutex::new(Quiet::new()),
        });
        let mut tunnels = Self {
            local_addr,
            endpoints: Vec::with_capacity(2 * threads.len()),
            drain,
            stop: CancellationToken::new(),
        };
        let mut accepting = Vec::with_capacity(threads.len());
        for (thread, (handle, socket)) in threads.iter().zip(sockets).enumerate() {
            accepting.push(tunnels.start_thread(&shared, thread, handle, socket, &server)?);
        }
        if let Some(first) = threads.first() {
            first.spawn(renew::run(
                shared.clone(),
                accepting,
                exchange,
                tunnels.stop.clone(),
            ));
        }
        if let Some(doubt) = shared.config.identity.current().doubt() {
            error!(gateway = %shared.own(), %doubt, "other zones will refuse this gateway's certificate");
        }
        info!(address = %local_addr, threads = threads.len(), gateway = %shared.own(), "listening for tunnels");
        Ok(tunnels)
    }

    /// Answers the endpoint that accepts.
    fn start_thread(
        &mut self,
        shared: &Arc<Shared>,
        thread: usize,
        handle: &Handle,
        socket: UdpSocket,
        server: &ServerConfig,
    ) -> Result<Endpoint, StartError> {
        // quinn starts its tasks and registers its sockets on the runtime that is entered.
        let _entered = handle.enter();
        let open =
            |socket, server| Endpoint::new(EndpointConfig::default(), server, socket, Arc::new(TokioRuntime));
        let listen = self.local_addr;
        let accepting =
            open(socket, Some(server.clone())).map_err(|source| StartError::Listen { listen, source })?;
        let dialling = socket::bind_dialling()
            .and_then(|socket| open(socket, None))
            .map_err(StartError::Dial)?;
        self.endpoints.extend([accepting.clone(), dialling.clone()]);
        handle.spawn(accept::run(Arc::clone(shared), accepting.clone(), thread));
        let dialler = Dialler {
            shared: Arc::clone(shared),
            endpoint: dialling,
            thread,
        };
        handle.spawn(dial::run(Arc::new(dialler), self.stop.clone()));
        Ok(accepting)
    }

    /// The UDP address that tunnels are accepted on, with the port that was picked.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Begins to drain: peers are told that streams under way may take `within`; no tunnel is dialled or accepted any
    /// more, and connections that peers ask for are refused so that they go elsewhere. Tunnels stay up until
    /// [`Tunnels::close`].
    pub fn drain(&self, within: Duration) {
        self.drain.send_replace(Some(within));
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

fn check_trust_domain(config: &TunnelConfig, topology: &Topology) -> Result<(), StartError> {
    let certificate = config.identity.trust_domain();
    let topology = topology.trust_domain_of(&config.identity.gateway().zone);
    if certificate == topology {
        return Ok(());
    }
    Err(StartError::TrustDomain {
        certificate: certificate.to_owned(),
        topology: topology.to_owned(),
    })
}
