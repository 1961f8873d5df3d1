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
use causeway_zone_sync::{
    name::{GatewayId, Tags},
    topology::Topology,
};
use futures_util::future::BoxFuture;

use super::{
    Shared,
    ask::{self, AskError, Path, Question},
    connection::Arrival,
    pace::{Pace, Step, hedge_delay},
};
use crate::{
    permit::Caller,
    route::{Candidate, Request, route},
    snapshot::Snapshot,
    target::Target,
    telemetry::Side,
};

/// An instance is ready.
#[derive(Debug)]
pub(super) struct Connected {
    pub(super) path: Path,
    pub(super) tags: Tags,
    pub(super) attempts: u32,
    /// First bytes of the client that were read already. A remote winner has been given them with the header.
    pub(super) early: Bytes,
}

/// Why there is no connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unconnected {
    /// For the access log.
    pub(super) outcome: &'static str,
    pub(super) attempts: u32,
}

struct Ask {
    number: u32,
    candidate: Candidate,
    answer: BoxFuture<'static, Result<Path, AskError>>,
}

/// One client's search for an instance.
struct Search<'a> {
    shared: &'a Arc<Shared>,
    thread: usize,
    caller: Arc<Caller>,
    request: Request,
    snapshot: Arc<Snapshot>,
    pace: Pace,
    asks: Vec<Ask>,
    early: Bytes,
    /// What went wrong last, for the access log.
    last: &'static str,
}

/// Finds an instance for a client that is permitted.
pub(super) async fn connect(
    shared: &Arc<Shared>,
    arrival: &Arrival,
    caller: Arc<Caller>,
) -> Result<Connected, Unconnected> {
    let (client, target) = (&arrival.socket, &arrival.target);
    let begun = Instant::now();
    let snapshot = shared.snapshots.load_full();
    let early = if is_early(&snapshot.topology, target) {
        client.read_early().await
    } else {
        Bytes::new()
    };
    let request = Request::new(target.clone());
    let decision = route(&snapshot, &request, &mut shared.rng());
    shared
        .metrics
        .decided(target.service.as_str(), decision.why.word());
    let mut search = Search {
        shared,
        thread: arrival.thread,
        caller,
        request,
        snapshot,
        pace: Pace::new(begun, begun + shared.config.setup_deadline, decision.candidates),
        asks: Vec::new(),
        early,
        last: decision.why.word(),
    };
    let gone = client.failed();
    let connected = tokio::select! {
        biased;
        () = gone => Err("client_gone"),
        () = arrival.opened.hold().cut().cancelled() => Err("cut"),
        connected = search.run() => connected,
    };
    connected.map_err(|outcome| Unconnected {
        outcome,
        attempts: search.pace.asked(),
    })
}

fn is_early(topology: &Topology, target: &Target) -> bool {
    topology
        .services
        .get(&target.service)
        .is_some_and(|service| service.early)
}

impl Search<'_> {
    async fn run(&mut self) -> Result<Connected, &'static str> {
        loop {
            match self.pace.step(Instant::now()) {
                Step::Ask { candidate, give_up } => {
                    self.asks.retain(|ask| Some(ask.number) != give_up);
                    self.ask(candidate);
                }
                Step::Route => self.route_again(),
                Step::Wait(until) => {
                    if let Some(connected) = self.wait(until).await? {
                        return Ok(connected);
                    }
                }
                Step::GiveUp => return Err(self.last),
            }
        }
    }

    fn route_again(&mut self) {
        self.snapshot = self.shared.snapshots.load_full();
        let decision = route(&self.snapshot, &self.request, &mut self.shared.rng());
        if decision.candidates.is_empty() {
            self.last = decision.why.word();
        }
        self.pace.routed(Instant::now(), decision.candidates);
    }

    /// Begins to ask `candidate`.
    fn ask(&mut self, candidate: Candidate) {
        let attempt = self.pace.asked() + 1;
        if attempt > 1 {
            let why = if self.asks.is_empty() { self.last } else { "hedged" };
            self.shared
                .metrics
                .moved(self.request.target.service.as_str(), why);
        }
        let (answer, rtt) = match &candidate {
            Candidate::Local { tags } => (self.ask_local(tags.clone()), None),
            Candidate::Remote { gateway, tags } => self.ask_remote(gateway, tags.clone(), attempt),
        };
        let number = self
            .pace
            .begun(Instant::now(), candidate.clone(), hedge_delay(rtt));
        self.asks.push(Ask {
            number,
            candidate,
            answer,
        });
    }

    fn ask_local(&self, tags: Tags) -> BoxFuture<'static, Result<Path, AskError>> {
        let service = self.request.target.service.clone();
        let shared = self.shared;
        Box::pin(ask::local(
            self.snapshot.clone(),
            service,
            tags,
            shared.metrics.clone(),
            shared.config.failures.clone(),
            shared.rng(),
        ))
    }

    fn ask_remote(
        &self,
        gateway: &GatewayId,
        tags: Tags,
        attempt: u32,
    ) -> (BoxFuture<'static, Result<Path, AskError>>, Option<Duration>) {
        let Some(tunnel) = self.shared.tunnels.choose(gateway, self.thread) else {
            return (
                Box::pin(std::future::ready(Err(AskError::NoTunnel))),
                Some(Duration::ZERO),
            );
        };
        let question = Question {
            service: self.request.target.service.clone(),
            tags,
            attempt,
            caller: self.caller.clone(),
            early: self.early.clone(),
        };
        let rtt = tunnel.rtt();
        (Box::pin(ask::remote(tunnel, question)), Some(rtt))
    }

    /// Waits for an answer, at most until `until`.
    async fn wait(&mut self, until: Instant) -> Result<Option<Connected>, &'static str> {
        let asks = &mut self.asks;
        let answer = poll_fn(|cx| {
            for (index, ask) in asks.iter_mut().enumerate() {
                if let Poll::Ready(answer) = Pin::new(&mut ask.answer).poll(cx) {
                    return Poll::Ready((index, answer));
                }
            }
            Poll::Pending
        });
        let Ok((index, answer)) = tokio::time::timeout_at(until.into(), answer).await else {
            return Ok(None);
        };
        let ask = self.asks.remove(index);
        match answer {
            Ok(path) => {
                // The losers are reset here, before the winner is given a byte.
                self.asks.clear();
                Ok(Some(Connected {
                    path,
                    tags: ask.candidate.tags().clone(),
                    attempts: self.pace.asked(),
                    early: std::mem::take(&mut self.early),
                }))
            }
            Err(error) => self.failed(&ask, &error).map(|()| None),
        }
    }

    fn failed(&mut self, ask: &Ask, error: &AskError) -> Result<(), &'static str> {
        let service = &self.request.target.service;
        self.last = error.word();
        match error {
            AskError::Refused { .. } => self.shared.metrics.stream_refused(Side::Peer, error.word()),
            AskError::Reply(_) if error.word() == "bad_reply" => {
                self.shared.metrics.peer_broke_protocol("bad_reply")
            }
            _ => {}
        }
        let candidate = &ask.candidate;
        if error.is_final() {
            tracing::debug!(%service, ?candidate, %error, "a connection was refused for good");
            return Err(self.last);
        }
        tracing::debug!(%service, ?candidate, %error, "a candidate did not become ready");
        self.pace.failed(Instant::now(), ask.number);
        Ok(())
    }
}
