//! One client's connection, from accept to the access log line.

use std::{
    future::Future,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use causeway_federation::name::{GatewayId, PortName, Tags, ZoneName};
use causeway_host::{descriptors::DescriptorPromise, share::ShareHolder};
use causeway_routing::{
    limits::{UseGuard, UseKind},
    permit::{Caller, Rule},
    route::{Destination, Placement, Why},
    target::Target,
};
use causeway_telemetry::{
    AccessRecord, ActiveSpan, ConnectionId, ConnectionOutcome, RequestFacts, Role, Side, StreamRefusal,
};
use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use tracing::field;

use super::{
    EgressShared,
    arrival::Arrival,
    connect::{ConnectedUpstream, NoUpstream, connect},
    permission::{AdmittedClient, ForbiddenClient, admit},
    shift_ends::{judge, judge_unserved},
    trace::EgressTrace,
    upstream::Upstream,
};
use crate::{
    keepalive::set_timeouts,
    open::{ConnectionHandle, OpenConnectionGuard},
    relay::{RelayCounters, RelayEnd, RelayLimits, Relayed},
};

/// The outcome when the gateway of another zone forbids, and this one did not.
const FORBIDDEN_BY_PEER: ConnectionOutcome = ConnectionOutcome::Refused {
    by: Side::Peer,
    reason: StreamRefusal::Forbidden,
};

/// Tells whether a rule of the other zone decided, of which this one does not know.
pub(super) fn is_forbidden_by_peer(outcome: ConnectionOutcome) -> bool {
    outcome == FORBIDDEN_BY_PEER
}

/// Relay of a connection whose instance was gone before it was given a byte.
const NOTHING_RELAYED: Relayed = Relayed {
    sent: 0,
    received: 0,
    end: RelayEnd::PeerReset,
};

/// Client that has a place among the open connections.
pub(super) struct ClientConnection {
    pub(super) arrival: Arrival,
    pub(super) opened: OpenConnectionGuard,
    /// Descriptor for an instance of this zone, until one is reached.
    pub(super) promised: Option<DescriptorPromise>,
    /// Party in whose name descriptors are taken for it.
    pub(super) holder: ShareHolder,
    pub(super) thread: usize,
}

impl ClientConnection {
    pub(super) fn id(&self) -> ConnectionId {
        self.opened.handle().connection.id
    }

    /// Span that the lines of this connection's task stand under. Lines that are written at the default level say the id
    /// themselves, so that there a connection carries no span and pays for none.
    pub(super) fn span(&self) -> tracing::Span {
        tracing::debug_span!("egress", connection = %self.id(), trace_id = field::Empty, span_id = field::Empty)
    }
}

/// Facts about a connection, or a request, at its end.
pub(super) struct ConnectionSummary {
    id: ConnectionId,
    port: Option<PortName>,
    pub(super) tags: Tags,
    pub(super) to_zone: Option<ZoneName>,
    pub(super) peer: Option<GatewayId>,
    pub(super) instance: Option<String>,
    pub(super) outcome: ConnectionOutcome,
    pub(super) attempts: u32,
    pub(super) ready_after: Option<Duration>,
    pub(super) bytes_up: u64,
    pub(super) bytes_down: u64,
    pub(super) caller: Arc<Caller>,
    pub(super) rule: Option<Rule>,
    /// Route that rules a request.
    pub(super) route: Option<Arc<str>>,
    /// It was given to an instance that is ill, because none is healthy.
    pub(super) in_panic: bool,
    /// Of a request alone.
    pub(super) request: Option<RequestFacts>,
    /// `None`: traces are off.
    pub(super) trace: Option<Box<EgressTrace>>,
}

impl ConnectionSummary {
    fn of(
        connection: &ClientConnection,
        outcome: ConnectionOutcome,
        caller: Arc<Caller>,
        rule: Option<Rule>,
    ) -> Self {
        let arrival = &connection.arrival;
        let asked = (arrival.port.clone(), arrival.target.tags.clone());
        Self::unserved(connection.id(), asked, outcome, caller, rule)
    }

    /// Of one that no instance has.
    pub(super) fn unserved(
        id: ConnectionId,
        (port, tags): (Option<PortName>, Tags),
        outcome: ConnectionOutcome,
        caller: Arc<Caller>,
        rule: Option<Rule>,
    ) -> Self {
        Self {
            id,
            port,
            tags,
            to_zone: None,
            peer: None,
            instance: None,
            outcome,
            attempts: 0,
            ready_after: None,
            bytes_up: 0,
            bytes_down: 0,
            caller,
            rule,
            route: None,
            in_panic: false,
            request: None,
            trace: None,
        }
    }

    /// Takes up what was relayed, and how that ended.
    fn relayed(&mut self, relayed: Relayed) {
        self.bytes_up = relayed.sent;
        self.bytes_down = relayed.received;
        self.outcome = outcome_of(relayed.end);
    }

    /// Takes up what serves it.
    pub(super) fn takes(&mut self, upstream: (Option<&str>, Option<&GatewayId>), own: &ZoneName) {
        let (instance, gateway) = upstream;
        self.instance = instance.map(str::to_owned);
        self.peer = gateway.cloned();
        self.to_zone = Some(gateway.map_or(own, |gateway| &gateway.zone).clone());
    }

    /// Takes up which place had not answered when it was given up.
    pub(super) fn waits_for(&mut self, place: Option<&Destination>, own: &ZoneName) {
        match place {
            None => {}
            Some(Destination::Local) => self.takes((None, None), own),
            Some(Destination::Remote { gateway }) => self.takes((None, Some(gateway)), own),
        }
    }

    /// Takes up why this gateway ended it, if it did.
    pub(super) fn take_termination(&mut self, handle: &ConnectionHandle) {
        if let (ConnectionOutcome::Cut, Some(why)) = (self.outcome, handle.termination()) {
            self.outcome = why.outcome;
            self.rule = why.rule.clone();
        }
    }
}

/// Outcome of a connection whose relay ended so.
pub(super) fn outcome_of(end: RelayEnd) -> ConnectionOutcome {
    match end {
        RelayEnd::Finished | RelayEnd::GivenBack => ConnectionOutcome::Served,
        RelayEnd::SocketReset => ConnectionOutcome::ClientReset,
        // A gateway that serves lends nothing back.
        RelayEnd::PeerReset | RelayEnd::LostRace | RelayEnd::Spent => ConnectionOutcome::InstanceReset,
        RelayEnd::PeerCut => ConnectionOutcome::PeerCut,
        RelayEnd::TunnelLost => ConnectionOutcome::TunnelLost,
        RelayEnd::Cut => ConnectionOutcome::Cut,
        RelayEnd::Stalled => ConnectionOutcome::Stalled,
        RelayEnd::Idle => ConnectionOutcome::Idle,
        RelayEnd::HalfClosed => ConnectionOutcome::HalfClosed,
    }
}

/// Serves a client to its end. Finding an instance and moving bytes are boxed apart, so that an open connection carries
/// neither the state of its set-up nor the room for it.
pub(super) fn serve(
    shared: Arc<EgressShared>,
    connection: ClientConnection,
) -> impl Future<Output = ()> + Send {
    let setting_up = Box::pin(set_up(shared, connection));
    async move {
        if let Some(carrying) = setting_up.await {
            carrying.await;
        }
    }
}

/// Finds an instance, and returns what is left to do with it; `None`: there is none, which has been told.
async fn set_up(shared: Arc<EgressShared>, connection: ClientConnection) -> Option<BoxFuture<'static, ()>> {
    let arrival = &connection.arrival;
    let service = arrival.target.service.as_str();
    let open = shared.metrics.connection_opened(Role::Egress, service);
    let trace = EgressTrace::of_connection(&shared, &arrival.target);
    let endpoints = arrival.endpoints();
    let identity = arrival.certificate.as_ref().map(|shown| &shown.identity);
    let AdmittedClient { found, rule } =
        match admit(&shared, connection.opened.handle(), endpoints, identity).await {
            Ok(admitted) => admitted,
            Err(forbidden) => {
                forbid(&shared, connection, forbidden, trace);
                return None;
            }
        };
    let server = trace.as_deref().map(|trace| &trace.server);
    let (connected, place) = within_limits(&shared, &connection, (&found.caller, open), server).await;
    let served = ConnectionOutcome::Served;
    let mut summary = ConnectionSummary::of(&connection, served, found.caller, Some(rule));
    summary.trace = trace;
    match connected {
        Ok(connected) => {
            let carrying = establish(shared, connection, connected, summary).await?;
            Some(match place {
                None => carrying,
                Some(place) => Box::pin(async move {
                    carrying.await;
                    drop(place);
                }),
            })
        }
        Err(NoUpstream {
            outcome,
            attempts,
            waited_for,
        }) => {
            (summary.outcome, summary.attempts) = (outcome, attempts);
            summary.waits_for(waited_for.as_ref(), &shared.snapshots.load().zone);
            if is_forbidden_by_peer(outcome) {
                // What decided is in the other gateway's topology, and in its log.
                summary.rule = None;
            }
            reject(&shared, connection, summary);
            None
        }
    }
}

/// Finds an instance for a connection that the limits of its service leave room for, and takes a place for it.
async fn within_limits(
    shared: &Arc<EgressShared>,
    connection: &ClientConnection,
    (caller, open): (&Arc<Caller>, u64),
    trace: Option<&ActiveSpan>,
) -> (Result<ConnectedUpstream, NoUpstream>, Option<UseGuard>) {
    let service = &connection.arrival.target.service;
    let no = |outcome| NoUpstream::unasked(outcome, 0);
    let places = shared
        .take_turn(service, caller)
        .and_then(|()| shared.take_place(service, UseKind::Connections))
        .and_then(|place| Ok((place, shared.take_place(service, UseKind::Pending)?)));
    let (place, waiting) = match places {
        Ok(places) => places,
        Err(outcome) => return (Err(no(outcome)), None),
    };
    let connected = connect(shared, connection, (caller.clone(), open), trace).await;
    drop(waiting);
    (connected, place)
}

/// Permissions forbid the connection, which has been told already.
fn forbid(
    shared: &EgressShared,
    connection: ClientConnection,
    forbidden: ForbiddenClient,
    trace: Option<Box<EgressTrace>>,
) {
    let ForbiddenClient { found, rule } = forbidden;
    let outcome = ConnectionOutcome::refused_here(StreamRefusal::Forbidden);
    let mut summary = ConnectionSummary::of(&connection, outcome, found.caller, Some(rule));
    summary.trace = trace;
    let arrival = connection.arrival;
    arrival.socket.reset();
    finish(shared, &arrival.target, arrival.client, arrival.begun, summary);
}

/// Nobody took the connection: the client is reset, since a FIN would look like an empty answer.
fn reject(shared: &EgressShared, connection: ClientConnection, mut summary: ConnectionSummary) {
    let ClientConnection { arrival, opened, .. } = connection;
    let Arrival {
        socket,
        client,
        target,
        begun,
        ..
    } = arrival;
    socket.reset();
    judge_unserved(shared, &target, summary.outcome);
    summary.take_termination(opened.handle());
    // What this gateway itself took back has been told with its rule.
    let told = opened.handle().termination().is_some();
    if summary.outcome == ConnectionOutcome::ClientGone {
        let attempts = summary.attempts;
        tracing::debug!(%target, %client, attempts, "a client left before an instance was reached");
    } else if !told {
        warn_unreached(shared, &target, client, begun, &summary);
    }
    finish(shared, &target, client, begun, summary);
}

/// Logs that no instance could be reached: the first of a kind, and then one a minute. That capacity refuses is told as a limit that was reached.
pub(super) fn warn_unreached(
    shared: &EgressShared,
    target: &Target,
    client: SocketAddr,
    now: Instant,
    summary: &ConnectionSummary,
) {
    if summary.outcome == ConnectionOutcome::Unrouted(Why::Shed) {
        return;
    }
    let kind = (target.service.clone(), summary.outcome.word());
    if let Some(repeats) = shared.rate_limited.lock().admit(now, kind) {
        let (connection, caller) = (summary.id, &summary.caller);
        let (outcome, attempts) = (summary.outcome.word(), summary.attempts);
        let waited_for = summary.to_zone.as_ref().map(ZoneName::as_str);
        let trace = summary.trace.as_ref().map(|trace| &trace.server);
        let trace_id = trace.map(|span| field::display(span.id()));
        let span_id = trace.and_then(ActiveSpan::span_id).map(field::display);
        tracing::warn!(%connection, trace_id, span_id, %target, %client, %caller, outcome, waited_for, attempts, repeats, "no instance could be reached");
    }
}

/// A connection that an upstream has.
pub(super) struct EstablishedConnection {
    shared: Arc<EgressShared>,
    target: Target,
    client: SocketAddr,
    begun: Instant,
    summary: ConnectionSummary,
    opened: OpenConnectionGuard,
}

impl EstablishedConnection {
    pub(super) fn cut(&self) -> &CancellationToken {
        self.opened.handle().cut()
    }

    pub(super) fn limits(&self) -> RelayLimits {
        let (config, snapshot) = (&self.shared.config, self.shared.snapshots.load());
        let service = snapshot.topology.services.get(&self.target.service);
        RelayLimits {
            stall: config.stall_limit,
            half_closed: config.half_closed_limit,
            idle: service.and_then(|service| service.idle_timeout),
            gives_back: false,
            hears_out: false,
        }
    }

    /// Counts bytes from here on, and those that the instance has been given already.
    pub(super) fn counters(&self, early_bytes: u64) -> RelayCounters {
        let service = self.target.service.as_str();
        let bytes = self.shared.metrics.byte_counters(Role::Egress, service);
        bytes.up.inc_by(early_bytes);
        RelayCounters {
            sent: bytes.up,
            received: bytes.down,
        }
    }

    /// Writes down the end. The connection stays in the list of open ones for as long as what is returned.
    pub(super) fn finish(self, relayed: Relayed) -> OpenConnectionGuard {
        let Self {
            shared,
            target,
            client,
            begun,
            mut summary,
            opened,
        } = self;
        summary.relayed(relayed);
        summary.take_termination(opened.handle());
        judge(&shared, &target, &summary);
        finish(&shared, &target, client, begun, summary);
        opened
    }
}

/// Returns what moves the bytes of a connection that an upstream has. `None`: it ended at once, which has been told.
async fn establish(
    shared: Arc<EgressShared>,
    connection: ClientConnection,
    connected: ConnectedUpstream,
    mut summary: ConnectionSummary,
) -> Option<BoxFuture<'static, ()>> {
    let ConnectedUpstream {
        mut upstream,
        candidate,
        attempts,
        early,
        span,
        ..
    } = connected;
    if let Some(trace) = &mut summary.trace {
        trace.attempt = span;
    }
    let ClientConnection { arrival, opened, .. } = connection;
    if let Upstream::Instance(instance) = &upstream {
        set_timeouts(
            &instance.socket,
            shared.config.keepalive,
            shared.config.stall_limit,
        );
    }
    let placement = Placement::new(&arrival.target, &candidate, upstream.instance());
    let placement = placement.at_port(arrival.port.clone());
    opened.handle().carried_to(placement);
    (summary.tags, summary.attempts) = (candidate.tags, attempts);
    summary.in_panic = candidate.in_panic;
    summary.ready_after = Some(arrival.begun.elapsed());
    summary.takes(
        (upstream.instance(), upstream.gateway()),
        &shared.snapshots.load().zone,
    );
    let established = EstablishedConnection {
        shared,
        target: arrival.target,
        client: arrival.client,
        begun: arrival.begun,
        summary,
        opened,
    };
    match upstream.write_early(&early).await {
        Ok(early_bytes) => upstream.carry(established, arrival.socket, early_bytes),
        Err(_) => {
            arrival.socket.reset();
            drop(upstream);
            established.finish(NOTHING_RELAYED);
            None
        }
    }
}

/// Writes down the end of a connection or request.
pub(super) fn finish(
    shared: &EgressShared,
    target: &Target,
    client: SocketAddr,
    begun: Instant,
    summary: ConnectionSummary,
) {
    let record = AccessRecord {
        role: Role::Egress,
        service: target.service.clone(),
        port: summary.port,
        tags: summary.tags,
        client: Some(client),
        from_zone: shared.snapshots.load().zone.clone(),
        to_zone: summary.to_zone,
        peer: summary.peer,
        instance: summary.instance,
        outcome: summary.outcome,
        attempts: summary.attempts,
        ready_after: summary.ready_after,
        duration: begun.elapsed(),
        bytes_up: summary.bytes_up,
        bytes_down: summary.bytes_down,
        caller: Some(summary.caller),
        rule: summary.rule,
        route: summary.route,
        panic: summary.in_panic,
        request: summary.request,
        trace_id: summary.trace.as_ref().map(|trace| trace.id()),
        connection: summary.id,
    };
    let service = record.service.as_str();
    shared
        .metrics
        .connection_closed(Role::Egress, service, record.outcome);
    shared.metrics.timed(&record);
    shared.access.write(&record);
    if let Some(trace) = summary.trace {
        trace.end(&record);
    }
}
