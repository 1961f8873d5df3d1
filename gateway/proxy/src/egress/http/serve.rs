//! The client's side: one connection from its first request to its end, however many requests come on it.

use std::{
    convert::Infallible,
    pin::{Pin, pin},
    sync::Arc,
    time::{Duration, Instant},
};

use causeway_federation::{
    name::{CallerIdentity, PortName, ServiceName},
    topology::{ForwardedFields, Protocol, Topology},
};
use causeway_host::{
    descriptors::DescriptorPromise, moment::until, own_sockets::SocketPair, share::ShareHolder,
};
use causeway_routing::{limits::UseGuard, snapshot::Snapshot, target::Target};
use causeway_telemetry::{ConnectionId, ConnectionOutcome};
use http::Version;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::sync::OnceCell;

use super::{
    checked::{CheckedClient, RequestChecks},
    forward::forward,
    interim::{InterimClient, InterimQueue},
    kept::KeptUpstreams,
    preface::{RecognisedClient, recognise},
    refuse::hear_out,
    unread::UnreadBytes,
    upgrade::{Upgrading, carry},
    version2::serve_version_2,
    watch::{ClientWatch, Due},
    watched::{SharedClient, WatchedClient},
};
use crate::{
    callers::Endpoints,
    egress::{EgressShared, connection::ClientConnection, permission::AdmittedBefore},
    http::{
        forwarded::RequestOrigin,
        limits::{LEAVE_WAIT, MAX_HEAD_BYTES, MAX_HEADERS},
    },
    open::{OpenConnectionGuard, Termination},
};

/// Client as its requests know it.
pub(super) struct HttpArrival {
    pub(super) endpoints: Endpoints,
    pub(super) target: Target,
    /// Port of the service; `None`: its primary one.
    pub(super) port: Option<PortName>,
    pub(super) identity: Option<CallerIdentity>,
}

/// State that the requests of one connection share.
pub(super) struct HttpConnection {
    pub(super) shared: Arc<EgressShared>,
    pub(super) arrival: HttpArrival,
    pub(super) opened: OpenConnectionGuard,
    pub(super) thread: usize,
    /// Both ends of the client's connection, and the number of gateways that it has come through.
    come_through: OnceCell<(SocketPair, u8)>,
    /// Descriptor for an instance of this zone, until one was reached.
    pub(super) promised: Mutex<Option<DescriptorPromise>>,
    /// Party in whose name descriptors are taken for it.
    pub(super) holder: ShareHolder,
    pub(super) socket: SharedClient,
    pub(super) watch: Arc<ClientWatch>,
    /// It came during a shutdown.
    is_late: bool,
    pub(super) checks: Arc<RequestChecks>,
    pub(super) interim: Arc<InterimQueue>,
    /// The change of protocol that its last request has come to.
    pub(super) upgrading: Mutex<Option<Upgrading>>,
    /// Connections that earlier requests went out on.
    pub(super) kept: KeptUpstreams,
    /// Place within the limit of its service's connections, from the first request that found one.
    pub(super) place: Mutex<Option<UseGuard>>,
    /// Bytes of answers that are held for it, where it speaks HTTP/2.
    pub(super) unread: UnreadBytes,
    /// Facts by which the last request was permitted.
    pub(super) admitted: Mutex<Option<AdmittedBefore>>,
}

impl HttpConnection {
    pub(super) fn id(&self) -> ConnectionId {
        self.opened.handle().connection.id
    }

    /// Both ends of the client's connection, and the number of gateways that it has come through, found out at its first request, with
    /// which `open` of the service are under way.
    pub(super) async fn come_through(&self, open: u64) -> (SocketPair, u8) {
        let HttpArrival { target, .. } = &self.arrival;
        let finding = || {
            self.shared
                .come_through(self.arrival.endpoints, &target.service, open)
        };
        *self.come_through.get_or_init(finding).await
    }
}

/// Tells whether requests at this port of `service` are looked at one by one.
pub(in crate::egress) fn is_spoken(
    topology: &Topology,
    service: &ServiceName,
    port: Option<&PortName>,
) -> bool {
    let port = topology.port_of(service, port);
    port.is_some_and(|port| port.protocol.is_http())
}

impl HttpConnection {
    fn new(shared: Arc<EgressShared>, connection: ClientConnection) -> Self {
        let ClientConnection {
            arrival,
            opened,
            promised,
            holder,
            thread,
        } = connection;
        let endpoints = arrival.endpoints();
        let watch = ClientWatch::new(Instant::now(), shared.config.half_closed_limit);
        let watch = Arc::new(watch);
        Self {
            is_late: shared.drain.initialized(),
            shared,
            opened,
            thread,
            come_through: OnceCell::new(),
            promised: Mutex::new(promised),
            holder,
            socket: SharedClient::new(arrival.socket),
            arrival: HttpArrival {
                endpoints,
                target: arrival.target,
                port: arrival.port,
                identity: arrival.certificate.map(|shown| shown.identity),
            },
            watch,
            checks: Arc::default(),
            interim: Arc::default(),
            upgrading: Mutex::new(None),
            kept: KeptUpstreams::default(),
            place: Mutex::new(None),
            unread: UnreadBytes::default(),
            admitted: Mutex::new(None),
        }
    }
}

/// Serves a client to its end.
pub(in crate::egress) async fn serve(shared: Arc<EgressShared>, connection: ClientConnection) {
    let connection = Arc::new(HttpConnection::new(shared, connection));
    serve_requests(&connection).await;
    let upgrading = connection.upgrading.lock().take();
    let cut = connection.opened.handle().cut();
    if let Some(upgrading) = upgrading {
        carry(&connection, upgrading).await;
    } else if connection.checks.fault().is_some() {
        cut.run_until_cancelled(hear_out(&connection.socket)).await;
    }
}

/// Serves a client's requests, to the last.
async fn serve_requests(connection: &Arc<HttpConnection>) {
    let (socket, watch) = (connection.socket.clone(), connection.watch.clone());
    let io = WatchedClient::new(socket, watch, connection.shared.config.stall_limit);
    let recognised = drive(connection, pin!(recognise(io)), |_| DriveStep::End).await;
    let ended = match recognised {
        Some(Ok((Version::HTTP_2, io))) => Box::pin(serve_version_2(connection, io)).await,
        Some(Ok((_, io))) => serve_version_1(connection, io).await,
        Some(Err(_)) => return,
        None => return connection.reset_if_cut(),
    };
    if let Some(Err(error)) = ended {
        let id = connection.id();
        tracing::debug!(connection = %id, %error, "a client's connection ended");
    }
}

async fn serve_version_1(
    connection: &Arc<HttpConnection>,
    io: RecognisedClient,
) -> Option<hyper::Result<()>> {
    let io = InterimClient::new(io, connection.interim.clone());
    let io = CheckedClient::new(io, connection.checks.clone());
    let requests = connection.clone();
    let service = service_fn(move |request| {
        let connection = requests.clone();
        async move { Ok::<_, Infallible>(forward(connection, request).await) }
    });
    let serving = http1::Builder::new()
        // Many clients say that they have finished with their last request.
        .half_close(true)
        .max_headers(MAX_HEADERS)
        .max_header_size(MAX_HEAD_BYTES)
        .max_buf_size(MAX_HEAD_BYTES)
        .header_read_timeout(None::<Duration>)
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades();
    let ended = drive(connection, pin!(serving), |serving| {
        serving.graceful_shutdown();
        DriveStep::GoOn
    })
    .await;
    if ended.is_none() {
        connection.reset_if_cut();
    }
    ended
}

/// Rest of a connection that is to end gently.
pub(super) enum DriveStep {
    /// It ends by itself once its requests have.
    GoOn,
    /// There is nothing to wait for.
    End,
}

/// Polls what serves a client, and does what is due meanwhile; `shut_down` has it take no further request. `None`: the connection
/// is over, or is cut.
pub(super) async fn drive<F: Future>(
    connection: &HttpConnection,
    mut serving: Pin<&mut F>,
    mut shut_down: impl FnMut(Pin<&mut F>) -> DriveStep,
) -> Option<F::Output> {
    let (handle, watch) = (connection.opened.handle(), &connection.watch);
    let (mut ending, mut ended) = (None::<GentleEnding>, false);
    loop {
        let mut due = connection.due();
        if let Some(gentle) = ending
            && !ended
        {
            if watch.may_drain() || gentle.until.is_some_and(|until| until <= Instant::now()) {
                if let DriveStep::End = shut_down(serving.as_mut()) {
                    return None;
                }
                ended = true;
            } else {
                let looked_at = gentle.until.map(|until| (until, Due::Nothing));
                due = due.into_iter().chain(looked_at).min_by_key(|(at, _)| *at);
            }
        }
        tokio::select! {
            biased;
            () = handle.cut().cancelled() => return None,
            within = connection.shared.drain.wait(), if !ending.is_some_and(|gentle| gentle.is_shutdown) => {
                ending = Some(GentleEnding::by_shutdown(connection.is_late, *within));
            }
            () = handle.asked_to_leave(), if ending.is_none() => ending = Some(GentleEnding::asked_for()),
            ended = serving.as_mut() => return Some(ended),
            () = connection.socket.failed(), if watch.is_deaf() => handle.terminate(Termination {
                outcome: ConnectionOutcome::ClientReset,
                rule: None,
            }),
            () = watch.changed() => {}
            act = act_at(due) => match act {
                Due::Nothing => {}
                Due::CloseUpstreams => connection.kept.close_due(Instant::now()),
                Due::Close if connection.checks.refuse_slow() => watch.head_refused(),
                Due::Close => return None,
                Due::SayGoodbye => {
                    shut_down(serving.as_mut());
                    watch.said_goodbye();
                }
                Due::LookForEnd => watch.looked_for_end(Instant::now(), connection.socket.is_finished()),
                Due::GiveUp => handle.terminate(Termination { outcome: ConnectionOutcome::ClientGone, rule: None }),
                Due::Idle => handle.terminate(Termination { outcome: ConnectionOutcome::Idle, rule: None }),
            },
        }
    }
}

/// Gentle end of a connection that is to come: with its next answer, if there is one.
#[derive(Debug, Clone, Copy)]
struct GentleEnding {
    /// Moment from which no request is waited for; `None`: it is for as long as ever.
    until: Option<Instant>,
    is_shutdown: bool,
}

impl GentleEnding {
    /// Of a gateway that shuts down. Whoever comes meanwhile, and so is late, has as long for its first request as ever.
    fn by_shutdown(is_late: bool, within: Duration) -> Self {
        Self {
            until: (!is_late).then(|| Instant::now() + within),
            is_shutdown: true,
        }
    }

    /// Of one connection that is to come back elsewhere.
    fn asked_for() -> Self {
        Self {
            until: Some(Instant::now() + LEAVE_WAIT),
            is_shutdown: false,
        }
    }
}

/// Waits for the moment of what is due; for ever if nothing is.
async fn act_at(due: Option<(Instant, Due)>) -> Due {
    until(due.map(|(at, _)| at)).await;
    due.map_or(Due::Nothing, |(_, act)| act)
}

impl HttpConnection {
    /// Has the client see that what was under way is not whole, where the gateway has cut the connection.
    pub(super) fn reset_if_cut(&self) {
        if self.opened.handle().cut().is_cancelled() {
            self.socket.reset_on_drop();
        }
    }

    /// Tells whether the gateway has cut the connection to shut down, and so ends what is under way.
    pub(super) fn is_cut(&self) -> bool {
        self.opened.handle().is_cut()
    }

    /// Longest silence that the service allows.
    pub(super) fn idle_timeout(&self) -> Option<Duration> {
        let snapshot = self.shared.snapshots.load();
        let service = snapshot.topology.services.get(&self.arrival.target.service);
        service.and_then(|service| service.idle_timeout)
    }

    /// Wish of the service for fields that say where requests come from.
    pub(super) fn forwarded(&self) -> ForwardedFields {
        let snapshot = self.shared.snapshots.load();
        let service = snapshot.topology.services.get(&self.arrival.target.service);
        service.map(|service| service.forwarded).unwrap_or_default()
    }

    /// The client, as an instance may be told of it.
    pub(super) fn origin(&self) -> RequestOrigin<'_> {
        RequestOrigin {
            client: self.arrival.endpoints.client.ip(),
            is_tls: self.socket.is_tls(),
            identity: self.arrival.identity.as_ref().map(CallerIdentity::as_str),
        }
    }

    /// The next moment at which something is due, if nothing changes, and what.
    fn due(&self) -> Option<(Instant, Due)> {
        let own = self.watch.due(self.idle_timeout());
        let kept = self.kept.due().map(|at| (at, Due::CloseUpstreams));
        own.into_iter().chain(kept).min_by_key(|(at, _)| *at)
    }

    /// Version that instances speak at this port of the service.
    pub(super) fn upstream_version(&self, snapshot: &Snapshot) -> Version {
        let HttpArrival { target, port, .. } = &self.arrival;
        let port = snapshot.topology.port_of(&target.service, port.as_ref());
        match port.map(|port| port.protocol) {
            Some(Protocol::Grpc) => Version::HTTP_2,
            _ => Version::HTTP_11,
        }
    }
}
