//! Carries out a decision: asks candidates as `pace` says until one is ready. The client's socket is only watched here;
//! its bytes are given to the winner alone.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use bytes::Bytes;
use causeway_federation::{
    edition::Fingerprint,
    name::{GatewayId, Tags},
};
use causeway_host::{descriptors::DescriptorPromise, moment::until, own_sockets::SocketPair};
use causeway_routing::{
    hops,
    outlier::avoided,
    permit::Caller,
    retry::FailedTries,
    route::{Candidate, Destination, ExportCount, Request, Why, route},
    snapshot::Snapshot,
    sticky::StickyKey,
};
use causeway_telemetry::{ActiveSpan, ConnectionId, ConnectionOutcome, Side, StreamRefusal, TraceContext};
use futures_util::future::BoxFuture;
use rand::{SeedableRng, rngs::SmallRng};
use tokio::sync::watch;

use super::{
    EgressShared,
    ask::{self, CandidateError, ConnectRequest, Lending, WantedPort},
    connection::ClientConnection,
    early::EarlyBytes,
    order::{SearchOrder, is_early, key_of_connection},
    pace::{AskFailure, Pace, PaceStep, hedge_delay},
    trace::AskSpan,
    upstream::Upstream,
};
use crate::{
    MoveReason,
    dial::{DescriptorClaim, Passage, uptime},
};

/// An instance is ready.
#[derive(Debug)]
pub(super) struct ConnectedUpstream {
    pub(super) upstream: Upstream,
    pub(super) candidate: Candidate,
    /// Exports of its gateway when it was asked.
    pub(super) exported: Option<ExportCount>,
    /// Key that decided about it.
    pub(super) key: Option<StickyKey>,
    pub(super) attempts: u32,
    /// First bytes of the client that were read already. A remote winner has been given them with the header.
    pub(super) early: Bytes,
    /// Span of asking for it, which has not ended.
    pub(super) span: Option<ActiveSpan>,
}

/// Reason that there is no connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NoUpstream {
    /// For the access log.
    pub(super) outcome: ConnectionOutcome,
    pub(super) attempts: u32,
    /// The place that had been asked and had not answered; `None`: none was waited for.
    pub(super) waited_for: Option<Destination>,
}

impl NoUpstream {
    /// Nobody had been asked.
    pub(super) fn unasked(outcome: ConnectionOutcome, attempts: u32) -> Self {
        Self {
            outcome,
            attempts,
            waited_for: None,
        }
    }
}

struct Ask {
    number: u32,
    candidate: Candidate,
    exported: Option<ExportCount>,
    answer: BoxFuture<'static, Result<Upstream, CandidateError>>,
    span: AskSpan,
}

/// One client's search for an instance.
struct Search<'a> {
    shared: &'a Arc<EgressShared>,
    thread: usize,
    connection: ConnectionId,
    caller: Arc<Caller>,
    /// Gateways that the client's connection has come through, this one with them.
    hops: u8,
    /// Descriptors for instances.
    claim: DescriptorClaim,
    /// Both ends of the client's connection.
    client: SocketPair,
    request: &'a Request,
    /// Every decision for this client is drawn from it, so that the order of arms stays as it was first drawn: the client
    /// of one arm does not become that of another because its search takes longer.
    seed: u64,
    pace: Pace,
    asks: Vec<Ask>,
    /// Tells of tunnels that come and go.
    tunnels: watch::Receiver<u64>,
    early: EarlyBytes,
    lending: Lending,
    tried: FailedTries,
    /// Last thing that went wrong, for the access log.
    last: ConnectionOutcome,
    /// Reason of the last decision.
    why: Why,
    trace: Option<&'a ActiveSpan>,
}

/// Finds an instance for a client that is permitted, and with which `open` of its service are under way.
pub(super) async fn connect(
    shared: &Arc<EgressShared>,
    connection: &ClientConnection,
    (caller, open): (Arc<Caller>, u64),
    trace: Option<&ActiveSpan>,
) -> Result<ConnectedUpstream, NoUpstream> {
    let (client, target) = (&connection.arrival.socket, &connection.arrival.target);
    let early = if is_early(&shared.snapshots.load().topology, target) {
        client.read_early().await
    } else {
        Bytes::new()
    };
    let endpoints = connection.arrival.endpoints();
    let order = SearchOrder {
        thread: connection.thread,
        connection: connection.id(),
        target,
        port: connection.arrival.port.clone(),
        split: None,
        criticality: None,
        key: key_of_connection(&shared.snapshots.load().topology, target, &caller, endpoints),
        caller,
        come_through: shared.come_through(endpoints, &target.service, open).await,
        cut: connection.opened.handle().cut(),
        seed: shared.seed(),
        early: EarlyBytes::of_client(early),
        lending: Lending::default(),
        claim: DescriptorClaim {
            holder: connection.holder.clone(),
            promised: connection.promised.as_ref().map(DescriptorPromise::ticket),
        },
        tried: FailedTries::default(),
        deadline: None,
        trace,
    };
    search(shared, order, client.failed()).await
}

/// Finds an instance, until `gone` says that the client has gone.
pub(super) async fn search(
    shared: &Arc<EgressShared>,
    order: SearchOrder<'_>,
    gone: impl Future<Output = ()>,
) -> Result<ConnectedUpstream, NoUpstream> {
    let (pair, before) = order.come_through;
    let Some(hops) = hops::with_this_one(before) else {
        let outcome = ConnectionOutcome::refused_here(StreamRefusal::TooManyHops);
        shared
            .metrics
            .tunnels
            .stream_refused(Side::Local, StreamRefusal::TooManyHops);
        return Err(NoUpstream::unasked(outcome, 0));
    };
    let begun = Instant::now();
    let snapshot = shared.snapshots.load_full();
    let request = Request::new(order.target.clone())
        .at_port(order.port)
        .with_split(order.split)
        .with_criticality(order.criticality)
        .with_key(order.key);
    let usual = begun + shared.config.setup_deadline;
    let mut search = Search {
        shared,
        thread: order.thread,
        connection: order.connection,
        caller: order.caller,
        hops,
        claim: order.claim,
        client: pair,
        request: &request,
        seed: order.seed,
        pace: Pace::new(begun, order.deadline.map_or(usual, |at| at.min(usual))),
        asks: Vec::new(),
        tunnels: shared.tunnels.changed(),
        early: order.early,
        lending: order.lending,
        tried: order.tried,
        last: ConnectionOutcome::NoAnswer,
        why: Why::NoHome,
        trace: order.trace,
    };
    let connected = tokio::select! {
        biased;
        () = gone => Err(ConnectionOutcome::ClientGone),
        () = order.cut.cancelled() => Err(ConnectionOutcome::Cut),
        connected = search.run(snapshot) => connected,
        () = until(order.deadline) => Err(ConnectionOutcome::RequestTimeout),
    };
    let (asked, last) = (search.pace.asked(), search.last);
    connected.map_err(|outcome| {
        let mut waited_for = None;
        for ask in search.asks {
            ask.span.silent(outcome);
            waited_for.get_or_insert(ask.candidate.place);
        }
        NoUpstream {
            outcome: match outcome {
                // It has waited for somebody to ask.
                ConnectionOutcome::RequestTimeout if asked == 0 => last,
                outcome => outcome,
            },
            attempts: asked,
            waited_for,
        }
    })
}

/// Answer to whoever asks for a port that the topology has no more.
fn unknown_port() -> BoxFuture<'static, Result<Upstream, CandidateError>> {
    Box::pin(std::future::ready(Err(CandidateError::UnknownPort)))
}

impl Search<'_> {
    async fn run(&mut self, mut snapshot: Arc<Snapshot>) -> Result<ConnectedUpstream, ConnectionOutcome> {
        let mut first = true;
        loop {
            let mut decision = route(&snapshot, self.request, SmallRng::seed_from_u64(self.seed));
            let why = decision.why();
            self.why = why;
            if std::mem::take(&mut first) {
                self.shared.decided(self.request, &decision);
                self.last = ConnectionOutcome::Unrouted(why);
                let recent = &self.shared.recent;
                let is_worth_waiting = || recent.is_worth_waiting(Instant::now(), &snapshot, self.request);
                if decision.first().is_none() && (why == Why::Shed || !is_worth_waiting()) {
                    return Err(self.last);
                }
                // Instances that are ill are asked at once, and one that was well a moment ago may be so again.
                if why.is_panic() && is_worth_waiting() {
                    self.pace.wait_for_others();
                }
            } else if decision.first().is_none() {
                self.last = ConnectionOutcome::Unrouted(why);
            }
            self.pace.routed(Instant::now());
            let connected = if self.tried.is_empty() {
                self.try_all(&snapshot, &mut decision).await?
            } else {
                let service = &self.request.target.service;
                let others = self.tried.others(&snapshot, service, &mut decision);
                if others.is_empty() {
                    return Err(self.last);
                }
                self.try_all(&snapshot, &mut others.into_iter()).await?
            };
            if let Some(connected) = connected {
                return Ok(connected);
            }
            drop(decision);
            snapshot = self.shared.snapshots.load_full();
        }
    }

    /// Asks the candidates of one decision. `None`: it is to be made anew.
    async fn try_all(
        &mut self,
        snapshot: &Arc<Snapshot>,
        decision: &mut (impl Iterator<Item = Candidate> + Send),
    ) -> Result<Option<ConnectedUpstream>, ConnectionOutcome> {
        loop {
            match self.pace.step(Instant::now(), decision) {
                PaceStep::Ask {
                    candidate,
                    again: true,
                    ..
                } if !self.may_ask_again() => self.pace.denied(Instant::now(), candidate),
                PaceStep::Ask {
                    candidate, give_up, ..
                } => {
                    self.asks.retain(|ask| Some(ask.number) != give_up);
                    self.ask(snapshot, candidate);
                }
                PaceStep::Route => return Ok(None),
                PaceStep::Wait(until) => {
                    if let Some(connected) = self.wait(until).await? {
                        return Ok(Some(connected));
                    }
                }
                PaceStep::GiveUp => return Err(self.last),
            }
        }
    }

    fn may_ask_again(&self) -> bool {
        let service = &self.request.target.service;
        let permitted = self.shared.budgets.lock().take(uptime(), service);
        if !permitted {
            tracing::debug!(%service, "the budget for asking again is spent");
        }
        permitted
    }

    /// Begins to ask `candidate`.
    fn ask(&mut self, snapshot: &Arc<Snapshot>, candidate: Candidate) {
        let attempt = self.pace.asked() + 1;
        if attempt > 1 {
            let why = if self.asks.is_empty() {
                MoveReason::After(self.last)
            } else {
                MoveReason::Hedged
            };
            self.shared
                .metrics
                .moved(self.request.target.service.as_str(), why);
        }
        let service = &self.request.target.service;
        let asked = (&candidate, attempt, self.why);
        let span = AskSpan::begin(self.trace, service, &snapshot.zone, asked);
        let tags = candidate.tags.clone();
        let at = (&self.request.target.service, self.request.port.as_ref());
        let avoid = avoided(snapshot, at, &candidate);
        let topology = &snapshot.topology;
        let ports = topology.services.get(at.0).map(|service| &service.ports);
        let port = ports.and_then(|ports| Some((ports, ports.get(at.1)?)));
        let (answer, rtt) = match (port, &candidate.place) {
            (None, _) => (unknown_port(), None),
            (Some((_, port)), Destination::Local) => {
                (self.ask_local(snapshot, (tags, port.target), avoid), None)
            }
            (Some((ports, port)), Destination::Remote { gateway }) => {
                let wanted = (WantedPort::of(ports, port), tags);
                let told = span.context(self.trace);
                let asked = (attempt, topology.fingerprint, told);
                self.ask_remote(gateway, (wanted, avoid), asked)
            }
        };
        let delay = hedge_delay(rtt);
        self.asks.push(Ask {
            number: self.pace.begun(Instant::now(), candidate.clone(), delay),
            exported: candidate.exported(&self.request.target.service, snapshot),
            candidate,
            answer,
            span,
        });
    }

    fn ask_local(
        &self,
        snapshot: &Arc<Snapshot>,
        (tags, port): (Tags, Option<u16>),
        avoid: Vec<u64>,
    ) -> BoxFuture<'static, Result<Upstream, CandidateError>> {
        let service = self.request.target.service.clone();
        let shared = self.shared;
        Box::pin(ask::local(
            snapshot.clone(),
            service,
            tags,
            shared.metrics.clone(),
            shared.config.failures.clone(),
            Passage {
                own: shared.config.own_sockets.clone(),
                hops: self.hops,
                descriptors: shared.config.descriptors.clone(),
                claim: self.claim.clone(),
                besides: self.tried.instances_of(&snapshot.zone),
                key: self.request.key,
                avoid,
                port,
                warm: None,
            },
            shared.rng(),
        ))
    }

    fn ask_remote(
        &self,
        gateway: &GatewayId,
        ((port, tags), avoid): ((WantedPort, Tags), Vec<u64>),
        (attempt, topology, trace): (u32, Fingerprint, Option<TraceContext>),
    ) -> (
        BoxFuture<'static, Result<Upstream, CandidateError>>,
        Option<Duration>,
    ) {
        let Some(tunnel) = self.shared.tunnels.choose(gateway, self.thread) else {
            return (
                Box::pin(std::future::ready(Err(CandidateError::NoTunnel))),
                Some(Duration::ZERO),
            );
        };
        let question = ConnectRequest {
            service: self.request.target.service.clone(),
            port,
            tags,
            attempt,
            topology,
            connection: self.connection,
            caller: self.caller.clone(),
            hops: self.hops,
            client: self.client,
            besides: self.tried.instances_of(&gateway.zone),
            key: self.request.key,
            avoid,
            early: match self.asks.is_empty() {
                true => self.early.clone(),
                false => self.early.beside_others(),
            },
            lending: self.lending,
            trace,
        };
        let rtt = tunnel.rtt();
        let tunnels = self.shared.tunnels.clone();
        let asking = ask::remote(tunnels, tunnel, question, hedge_delay(Some(rtt)));
        (Box::pin(asking), Some(rtt))
    }

    /// Waits for an answer, at most until `until`.
    async fn wait(&mut self, until: Instant) -> Result<Option<ConnectedUpstream>, ConnectionOutcome> {
        let asks = &mut self.asks;
        let answer = poll_fn(|cx| {
            for (index, ask) in asks.iter_mut().enumerate() {
                if let Poll::Ready(answer) = Pin::new(&mut ask.answer).poll(cx) {
                    return Poll::Ready((index, answer));
                }
            }
            Poll::Pending
        });
        let changed = async {
            // The other side is held by the tunnels themselves.
            let _ = self.tunnels.changed().await;
        };
        let answered = tokio::select! {
            biased;
            answered = tokio::time::timeout_at(until.into(), answer) => answered,
            () = changed => {
                self.pace.woken(Instant::now());
                return Ok(None);
            }
        };
        let Ok((index, answer)) = answered else {
            return Ok(None);
        };
        let ask = self.asks.remove(index);
        match answer {
            Ok(upstream) => {
                // The losers are reset here, before the winner is given a byte.
                self.asks.clear();
                Ok(Some(ConnectedUpstream {
                    span: ask.span.ready(&upstream),
                    upstream,
                    candidate: ask.candidate,
                    exported: ask.exported,
                    key: self.request.key,
                    attempts: self.pace.asked(),
                    early: self.early.take(),
                }))
            }
            Err(error) => self.failed(ask, &error).map(|()| None),
        }
    }

    fn failed(&mut self, ask: Ask, error: &CandidateError) -> Result<(), ConnectionOutcome> {
        let service = &self.request.target.service;
        self.last = error.outcome();
        ask.span.failed(self.last);
        match self.last {
            ConnectionOutcome::Refused {
                by: Side::Peer,
                reason,
            } => self.shared.metrics.tunnels.stream_refused(Side::Peer, reason),
            ConnectionOutcome::BadReply => self.shared.metrics.tunnels.peer_broke_protocol(self.last.word()),
            _ => {}
        }
        let candidate = &ask.candidate;
        if !error.is_retryable() {
            tracing::debug!(%service, ?candidate, %error, "a connection was refused for good");
            self.asks.clear();
            return Err(self.last);
        }
        tracing::debug!(%service, ?candidate, %error, "a candidate did not become ready");
        let failure = match error.is_answer() {
            true => AskFailure::Answered(self.last),
            false => AskFailure::Unheard,
        };
        self.pace.failed(Instant::now(), ask.number, failure);
        Ok(())
    }
}
