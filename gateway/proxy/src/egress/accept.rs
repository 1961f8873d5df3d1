//! The accept loop of one listening socket, and the start of a client on the data thread that serves it.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use causeway_host::{
    descriptors::{DescriptorPromise, HeldDescriptor, is_exhausted},
    share::{NoShare, ShareHolder},
};
use causeway_routing::target::{Binding, Target};
use causeway_telemetry::{Role, Side, StreamRefusal};
use futures_util::{FutureExt as _, future::Either};
use rustix::io::Errno;
use tokio::{
    net::{TcpListener, TcpStream},
    task::unconstrained,
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::{
    EgressShared,
    arrival::{Arrival, ArrivalWish, Entrance},
    client::ClientSocket,
    connection::{self, ClientConnection},
    dispatch::{ClientQueue, PendingClient},
    http,
    listen::AcceptingThread,
    redirect::{self, RedirectRefusal},
};
use crate::{callers::Endpoints, dial::no_descriptor, open::OpenConnection};

/// First pause when the process or the host is out of descriptors or memory; doubles each time.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(5);
/// Longest such pause.
const MAX_EXHAUSTED_PAUSE: Duration = Duration::from_secs(1);

/// Counts a connection at its address, and its descriptor, for as long as it lives.
#[derive(Debug)]
pub(super) struct ClientGuard {
    at_address: Arc<AtomicUsize>,
    held: HeldDescriptor,
}

impl Drop for ClientGuard {
    fn drop(&mut self) {
        self.at_address.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Client that was accepted, on the way to the thread that serves it.
#[derive(Debug)]
pub(super) struct AcceptedClient {
    client: SocketAddr,
    /// The address that it connected to.
    local: SocketAddr,
    wants: ArrivalWish,
    /// It is within what one address may carry.
    within: bool,
    counted: ClientGuard,
    /// Descriptor for the instance that it is to reach, where that is, or may be, one of this zone.
    promised: Option<DescriptorPromise>,
    pub(super) pending: PendingClient,
    begun: Instant,
}

/// One listening socket.
pub(super) struct AcceptLoop {
    here: AcceptingThread,
    bound: SocketAddr,
    entrance: Entrance,
}

impl AcceptLoop {
    pub(super) fn new(here: AcceptingThread, bound: SocketAddr, entrance: Entrance) -> Self {
        Self {
            here,
            bound,
            entrance,
        }
    }

    /// Accepts until `stop`, and then whatever the kernel has already accepted: closing a listener resets those.
    pub(super) async fn run(self, listener: Arc<TcpListener>, stop: CancellationToken) {
        let serves = &self.entrance;
        let shared = &self.here.shared;
        if shared.config.holds_back {
            stop.run_until_cancelled(shared.accepts.cancelled()).await;
        }
        let mut pause = EXHAUSTED_PAUSE;
        loop {
            let Some(accepted) = stop.run_until_cancelled(listener.accept()).await else {
                break;
            };
            match accepted {
                Ok((socket, client)) => {
                    pause = EXHAUSTED_PAUSE;
                    self.start(socket, client);
                }
                Err(error) if would_fail_again(&error) => {
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
        // Without the budget of a task, which would end this as if there were none left.
        while let Some(Ok((socket, client))) = unconstrained(listener.accept()).now_or_never() {
            self.start(socket, client);
        }
    }

    /// Starts a client on the thread that has the fewest, or tells why not.
    fn start(&self, socket: TcpStream, client: SocketAddr) {
        let AcceptingThread {
            shared,
            thread,
            dispatch,
        } = &self.here;
        let begun = Instant::now();
        let received = self.receive(&socket, client, begun);
        match received.and_then(|client| dispatch.give(*thread, socket, client)) {
            Ok(Some((socket, client))) => serve(shared, *thread, socket, client),
            Ok(None) => {}
            Err(error) => {
                tracing::debug!(serves = %self.entrance, %client, %error, "a client cannot be taken")
            }
        }
    }

    /// Returns the address that a client connected to; `None`: it was to be redirected here, and was not.
    fn destination(&self, socket: &TcpStream) -> io::Result<Option<SocketAddr>> {
        if let Entrance::Redirect(_) = self.entrance {
            return Ok(redirect::destination(socket));
        }
        // One socket at every address takes clients of several.
        match self.bound.ip().is_unspecified() {
            true => socket.local_addr().map(Some),
            false => Ok(Some(self.bound)),
        }
    }

    fn refuse_redirected(&self, reason: RedirectRefusal) {
        if let Entrance::Redirect(_) = self.entrance {
            self.here.shared.metrics.redirect_refused(reason.word());
        }
    }

    fn receive(&self, socket: &TcpStream, client: SocketAddr, begun: Instant) -> io::Result<AcceptedClient> {
        let Some(local) = self.destination(socket)? else {
            let _ = socket.set_zero_linger();
            self.refuse_redirected(RedirectRefusal::NotRedirected);
            return Err(io::Error::other(
                "it connected to the listener of redirected clients itself",
            ));
        };
        let Some((wants, open)) = self.entrance.at(local) else {
            // A FIN would look like an empty answer.
            let _ = socket.set_zero_linger();
            self.refuse_redirected(RedirectRefusal::UnknownAddress);
            return Err(io::Error::other(format!("{local} is no virtual address")));
        };
        let shared = &self.here.shared;
        let (held, promised) = shared
            .take_descriptors(socket, &wants, Endpoints { client, local })
            .map_err(|why| {
                let _ = socket.set_zero_linger();
                shared.lacks_descriptors(&wants, client, begun, why);
                io::Error::other(why)
            })?;
        let here = open.fetch_add(1, Ordering::Relaxed);
        Ok(AcceptedClient {
            client,
            local,
            wants,
            within: here < shared.config.max_connections_per_address(),
            counted: ClientGuard {
                at_address: open,
                held,
            },
            promised,
            pending: self.here.dispatch.pick(self.here.thread),
            begun,
        })
    }
}

impl EgressShared {
    /// Takes a descriptor for a client, and where it may be given an instance of this zone, the promise of one for that too: else a burst
    /// of clients would take those that their own instances need.
    fn take_descriptors(
        &self,
        socket: &TcpStream,
        wants: &ArrivalWish,
        ends: Endpoints,
    ) -> Result<(HeldDescriptor, Option<DescriptorPromise>), NoShare> {
        let descriptors = &self.config.descriptors;
        let holder = self.config.callers.holder(ends, descriptors.are_scarce(socket));
        let held = descriptors.hold(socket, &holder)?;
        let promised = self
            .may_have_instances_here(wants)
            .then(|| descriptors.promise_another(socket, &holder));
        Ok((held, promised.transpose()?))
    }

    /// Tells whether a client may be given an instance of this zone, which takes a second descriptor. One that comes over TLS has not said
    /// yet what it wants.
    fn may_have_instances_here(&self, wants: &ArrivalWish) -> bool {
        match wants {
            ArrivalWish::Bound(binding) => self.has_instances_here(&binding.target),
            ArrivalWish::Tls(_) => true,
        }
    }

    fn has_instances_here(&self, target: &Target) -> bool {
        let snapshot = self.snapshots.load();
        let instances = snapshot.instances.get(&target.service);
        instances.is_some_and(|list| list.usable(&target.tags).is_ok() || list.has_ill(&target.tags))
    }

    /// Counts a client for which there is no descriptor, and tells the first of a kind and then one a minute.
    fn lacks_descriptors(&self, wants: &ArrivalWish, client: SocketAddr, now: Instant, why: NoShare) {
        let reason = no_descriptor(why);
        let target = match wants {
            ArrivalWish::Bound(binding) => &binding.target,
            ArrivalWish::Tls(tls) => return tls.lacks_descriptors(self, client, why),
        };
        self.metrics.tunnels.stream_refused(Side::Local, reason);
        let kind = (target.service.clone(), reason.word());
        if let Some(repeats) = self.rate_limited.lock().admit(now, kind) {
            let hint = "raise the hard limit on open files (LimitNOFILE=, `ulimit -Hn`)";
            let outcome = reason.word();
            match why {
                NoShare::NoneFree => tracing::warn!(%target, %client, outcome, hint, repeats,
                    "a client was closed: no descriptors are left but those that are kept for the gateway itself"),
                NoShare::Crowded { held, free } => {
                    tracing::warn!(%target, %client, outcome, held, free, hint, repeats,
                    "a client was closed: few descriptors are left, and its user or address has its share of them")
                }
            }
        }
    }
}

/// Tells whether accepting again at once would fail again, and keep a core busy. `accept` leaves the connection waiting then.
fn would_fail_again(error: &io::Error) -> bool {
    let code = error.raw_os_error().map(Errno::from_raw_os_error);
    is_exhausted(error) || matches!(code, Some(Errno::NOBUFS | Errno::NOMEM))
}

/// Serves the clients that other threads accept for this one, until none can come any more.
pub(super) async fn serve_given(shared: Arc<EgressShared>, thread: usize, mut queue: ClientQueue) {
    while let Some(given) = queue.recv().await {
        match given.take_up() {
            Ok((socket, client)) => serve(&shared, thread, socket, client),
            Err(error) => tracing::warn!(%error, "a client cannot be taken from the thread that accepted it"),
        }
    }
}

/// Serves a client to its end: request by request where its service speaks HTTP.
fn serve_client(shared: Arc<EgressShared>, client: ClientConnection) -> impl Future<Output = ()> + Send {
    let (service, port) = (&client.arrival.target.service, client.arrival.port.as_ref());
    match http::is_spoken(&shared.snapshots.load().topology, service, port) {
        true => Either::Left(Box::pin(http::serve(shared, client))),
        false => Either::Right(connection::serve(shared, client)),
    }
}

/// Starts serving a client on this data thread.
fn serve(shared: &Arc<EgressShared>, thread: usize, socket: TcpStream, accepted: AcceptedClient) {
    let AcceptedClient {
        client,
        local,
        wants,
        within,
        counted,
        promised,
        pending,
        begun,
    } = accepted;
    match wants {
        ArrivalWish::Bound(Binding { target, port }) => {
            let arrival = Arrival {
                socket: ClientSocket::Plain(socket),
                client,
                local,
                target,
                port,
                certificate: None,
                begun,
            };
            let entered = enter(shared, thread, within, arrival, (promised, counted.held.holder()));
            drop(pending);
            let Some(connection) = entered else {
                return;
            };
            let span = connection.span();
            let serving = serve_client(shared.clone(), connection).instrument(span);
            tokio::spawn(async move {
                serving.await;
                drop(counted);
            });
        }
        ArrivalWish::Tls(tls) if within => {
            let shared = shared.clone();
            tokio::spawn(async move {
                let receiving = Box::pin(tls.receive(&shared, socket, (client, local), begun));
                let arrival = receiving.await;
                let entered = arrival.and_then(|arrival| {
                    let promised = promised.filter(|_| shared.has_instances_here(&arrival.target));
                    enter(&shared, thread, true, arrival, (promised, counted.held.holder()))
                });
                drop(pending);
                if let Some(connection) = entered {
                    if let Some(shown) = &connection.arrival.certificate {
                        tls.check(&shown.believed_by, connection.opened.handle());
                    }
                    let span = connection.span();
                    serve_client(shared, connection).instrument(span).await;
                }
                drop(counted);
            });
        }
        ArrivalWish::Tls(tls) => tls.overloaded(shared, &socket, client),
    }
}

/// Enters a client into the list of open connections; without room there, it is reset.
fn enter(
    shared: &Arc<EgressShared>,
    thread: usize,
    within: bool,
    arrival: Arrival,
    (promised, holder): (Option<DescriptorPromise>, &ShareHolder),
) -> Option<ClientConnection> {
    let certificate = arrival.certificate.as_ref();
    let entry = OpenConnection {
        id: shared.connection_id(),
        role: Role::Egress,
        service: arrival.target.service.clone(),
        port: arrival.port.clone(),
        client: Some(arrival.client),
        local: Some(arrival.local),
        peer: None,
        shown: certificate.map(|shown| shown.chain.clone()),
        since: arrival.begun,
    };
    let Some(opened) = within.then(|| shared.open.enter(thread, entry)).flatten() else {
        let (target, client) = (&arrival.target, arrival.client);
        tracing::debug!(%target, %client, "refused a client: the limit of connections is reached");
        arrival.socket.reset();
        shared
            .metrics
            .tunnels
            .stream_refused(Side::Local, StreamRefusal::Overloaded);
        return None;
    };
    Some(ClientConnection {
        arrival,
        opened,
        promised,
        holder: holder.clone(),
        thread,
    })
}
