//! The accept loop of one listener.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::{Shared, connection};
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

/// Accepts until `stop`, and then whatever the kernel has already accepted: closing a listener resets those.
pub(super) async fn run(
    shared: Arc<Shared>,
    thread: usize,
    listener: TcpListener,
    (local, target): (SocketAddr, Target),
    stop: CancellationToken,
) {
    let open = Arc::new(AtomicUsize::new(0));
    let mut pause = EXHAUSTED_PAUSE;
    loop {
        let Some(accepted) = stop.run_until_cancelled(listener.accept()).await else {
            break;
        };
        match accepted {
            Ok((socket, client)) => {
                pause = EXHAUSTED_PAUSE;
                start(&shared, thread, &target, &open, local, socket, client);
            }
            Err(error) if is_exhausted(&error) => {
                if pause == EXHAUSTED_PAUSE {
                    tracing::warn!(%target, %error, "no more connections can be accepted for now");
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(MAX_EXHAUSTED_PAUSE);
            }
            // This one client went away; the next is not concerned (accept(2), "Error handling").
            Err(error) => tracing::debug!(%target, %error, "a client was gone before it was accepted"),
        }
    }
    while let Some(Ok((socket, client))) = listener.accept().now_or_never() {
        start(&shared, thread, &target, &open, local, socket, client);
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

fn start(
    shared: &Arc<Shared>,
    thread: usize,
    target: &Target,
    open: &Arc<AtomicUsize>,
    local: SocketAddr,
    socket: TcpStream,
    client: SocketAddr,
) {
    let begun = Instant::now();
    let here = open.fetch_add(1, Ordering::Relaxed);
    let counted = ListenerGuard(open.clone());
    let entry = OpenConnection {
        role: Role::Egress,
        service: target.service.clone(),
        client: Some(client),
        local: Some(local),
        peer: None,
        since: begun,
    };
    let within = here < shared.config.max_connections_per_listener;
    let Some(opened) = within.then(|| shared.open.enter(thread, entry)).flatten() else {
        let _ = socket.set_zero_linger();
        shared.metrics.stream_refused(Side::Local, "overloaded");
        tracing::debug!(%target, %client, "refused a client: the limit of connections is reached");
        return;
    };
    let arrival = connection::Arrival {
        socket,
        client,
        local,
        target: target.clone(),
        opened,
        begun,
        thread,
    };
    let serving = connection::serve(shared.clone(), arrival);
    tokio::spawn(async move {
        serving.await;
        drop(counted);
    });
}
