//! The accept loop of one listener.

use std::{
    fmt, io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use causeway_zone_sync::name::CallerIdentity;
use futures_util::FutureExt;
use rustls_pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::{
    Shared,
    client::ClientSocket,
    connection::{self, Arrival},
    tls::{Door, Entered},
};
use crate::{
    relay::OpenConnection,
    target::Target,
    telemetry::{Role, Side},
};

/// First pause when the process or the host is out of descriptors or memory; doubles each time.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(5);
/// Longest such pause.
const MAX_EXHAUSTED_PAUSE: Duration = Duration::from_secs(1);

/// Counts a connection of a listener for as long as it lives.
struct ListenerGuard(Arc<AtomicUsize>);

impl Drop for ListenerGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a listener is for.
#[derive(Clone)]
pub(super) enum Serves {
    Target(Target),
    /// Clients that say over TLS what they want, and who they are.
    Callers(Arc<Door>),
}

impl fmt::Display for Serves {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Target(target) => target.fmt(f),
            Self::Callers(_) => f.write_str("the TLS listener"),
        }
    }
}

/// One listener of one data thread.
#[derive(Clone)]
struct Accepting {
    shared: Arc<Shared>,
    thread: usize,
    local: SocketAddr,
    serves: Serves,
    /// Connections that it carries.
    open: Arc<AtomicUsize>,
}

/// A client that has come.
struct Comer {
    socket: ClientSocket,
    client: SocketAddr,
    /// The address that it connected to.
    local: SocketAddr,
    begun: Instant,
    /// Who it is by its certificate, and the chain that says so.
    shown: Option<(CallerIdentity, Arc<[CertificateDer<'static>]>)>,
}

/// Accepts until `stop`, and then whatever the kernel has already accepted: closing a listener resets those.
pub(super) async fn run(
    shared: Arc<Shared>,
    thread: usize,
    listener: TcpListener,
    (local, serves): (SocketAddr, Serves),
    stop: CancellationToken,
) {
    let accepting = Accepting {
        shared,
        thread,
        local,
        serves,
        open: Arc::default(),
    };
    let serves = &accepting.serves;
    let mut pause = EXHAUSTED_PAUSE;
    loop {
        let Some(accepted) = stop.run_until_cancelled(listener.accept()).await else {
            break;
        };
        match accepted {
            Ok((socket, client)) => {
                pause = EXHAUSTED_PAUSE;
                accepting.start(socket, client);
            }
            Err(error) if is_exhausted(&error) => {
                if pause == EXHAUSTED_PAUSE {
                    tracing::warn!(%serves, %error, "no more connections can be accepted for now");
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(MAX_EXHAUSTED_PAUSE);
            }
            // This one client went away; the next is not concerned (accept(2), "Error handling").
            Err(error) => tracing::debug!(%serves, %error, "a client was gone before it was accepted"),
        }
    }
    while let Some(Ok((socket, client))) = listener.accept().now_or_never() {
        accepting.start(socket, client);
    }
}

/// Whether accepting again at once would fail again, and keep a core busy. `accept` leaves the connection waiting then.
fn is_exhausted(error: &io::Error) -> bool {
    let code = error.raw_os_error().map(rustix::io::Errno::from_raw_os_error);
    use rustix::io::Errno;
    matches!(
        code,
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)
    )
}

impl Accepting {
    fn start(&self, socket: TcpStream, client: SocketAddr) {
        let begun = Instant::now();
        let here = self.open.fetch_add(1, Ordering::Relaxed);
        let counted = ListenerGuard(self.open.clone());
        let within = here < self.shared.config.max_connections_per_listener;
        match &self.serves {
            Serves::Target(target) => {
                let socket = ClientSocket::Plain(socket);
                let comer = Comer {
                    socket,
                    client,
                    local: self.local,
                    begun,
                    shown: None,
                };
                let Some(arrival) = self.enter(within, comer, target) else {
                    return;
                };
                let serving = connection::serve(self.shared.clone(), arrival);
                tokio::spawn(async move {
                    serving.await;
                    drop(counted);
                });
            }
            Serves::Callers(door) if within => {
                let (accepting, door) = (self.clone(), door.clone());
                tokio::spawn(async move {
                    accepting.shake_hands(&door, socket, client, begun).await;
                    drop(counted);
                });
            }
            Serves::Callers(door) => door.overloaded(&self.shared, &socket, client),
        }
    }

    /// Enters a client into the list of open connections; without room there, it is reset.
    fn enter(&self, within: bool, comer: Comer, target: &Target) -> Option<Arrival> {
        let Comer {
            socket,
            client,
            local,
            begun,
            shown,
        } = comer;
        let (identity, chain) = shown.unzip();
        let entry = OpenConnection {
            role: Role::Egress,
            service: target.service.clone(),
            client: Some(client),
            local: Some(local),
            peer: None,
            shown: chain,
            since: begun,
        };
        let Some(opened) = within
            .then(|| self.shared.open.enter(self.thread, entry))
            .flatten()
        else {
            socket.reset();
            self.shared.metrics.stream_refused(Side::Local, "overloaded");
            tracing::debug!(%target, %client, "refused a client: the limit of connections is reached");
            return None;
        };
        Some(Arrival {
            socket,
            client,
            local,
            target: target.clone(),
            identity,
            opened,
            begun,
            thread: self.thread,
        })
    }

    /// Has a client show who it is, and serves it.
    async fn shake_hands(&self, door: &Door, socket: TcpStream, client: SocketAddr, begun: Instant) {
        let local = socket.local_addr().unwrap_or(self.local);
        let shaking = Box::pin(door.enter(&self.shared, socket, client));
        let Some(entered) = shaking.await else { return };
        let Entered {
            socket,
            target,
            identity,
            chain,
            believed,
        } = entered;
        let comer = Comer {
            socket: ClientSocket::Tls(Box::new(socket)),
            client,
            local,
            begun,
            shown: Some((identity, chain)),
        };
        if let Some(arrival) = self.enter(true, comer, &target) {
            door.check(&believed, arrival.opened.hold());
            connection::serve(self.shared.clone(), arrival).await;
        }
    }
}
