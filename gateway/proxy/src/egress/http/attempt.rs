//! One request on its way to an instance: permitted, decided, given to one, and, where its service says so, to another if that fails.

use std::{
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use bytes::Bytes;
use causeway_federation::topology::Route;
use causeway_routing::{
    callers::FoundCaller,
    limits::{UseGuard, UseKind},
    outlier::TryFailure,
    permit::Caller,
    retry::{FailedTries, TryEnd},
    route::{Request as RouteRequest, route},
};
use causeway_telemetry::{ConnectionOutcome, StreamRefusal};
use http::{Request, Response, Version, header};
use hyper::body::{Body as _, Incoming};
use rand::{SeedableRng, rngs::SmallRng};
use tokio::time::timeout_at;

use super::{
    body::RequestBody,
    expect::BeforeAnswer,
    mirror::mirror,
    policy::RequestPolicy,
    prepare::{PreparedRequest, RequestServer, prepare},
    reach::{ReachOrder, ReachedUpstream, reach},
    record::RequestRecord,
    refuse::refuse_unfit,
    serve::HttpConnection,
    spare::SpareRequest,
    upstream::{HttpUpstream, SendFailure, UpstreamFacts},
};
use crate::{
    dial::uptime,
    egress::{
        connect::NoUpstream,
        connection::is_forbidden_by_peer,
        permission::{AdmittedClient, ForbiddenClient, admit_again},
    },
    http::{
        answer_fault::AnswerFault,
        grpc::{code_of_answer, is_grpc},
        headers::is_idempotent,
        limits::MAX_GIVEN,
        verdict::{TryVerdict, judge_head},
    },
};

/// Answer of an instance, and the connection that its body comes on.
type InstanceAnswer = (Response<Incoming>, HttpUpstream);

/// Answer that a request has come to.
pub(super) enum Answered {
    /// Of an instance, to a request that this route rules.
    Instance(Response<Incoming>, HttpUpstream, Option<Arc<Route>>),
    /// Of the gateway itself, which has been written down.
    Gateway(Response<Bytes>),
}

/// Finds out who makes a request, and takes a place of its service's limits, or says why it is not served.
async fn admitted(
    connection: &HttpConnection,
    record: &mut RequestRecord,
) -> Result<FoundCaller, ConnectionOutcome> {
    let HttpConnection { shared, arrival, .. } = connection;
    let admitted = admit_again(
        shared,
        connection.opened.handle(),
        arrival.endpoints,
        arrival.identity.as_ref(),
        &connection.admitted,
    );
    let AdmittedClient { found, rule } = match admitted.await {
        Ok(admitted) => admitted,
        Err(ForbiddenClient { found, rule }) => {
            record.asked_by(&found, rule);
            let outcome = ConnectionOutcome::refused_here(StreamRefusal::Forbidden);
            record.unserved(outcome, 0);
            return Err(outcome);
        }
    };
    record.asked_by(&found, rule);
    if let Err(outcome) = enter(connection, &found.caller, record) {
        record.unserved(outcome, 0);
        return Err(outcome);
    }
    Ok(found)
}

/// Finds an instance for a request and returns its answer, or the one that a route of its service has for it, or what became of the
/// request without one.
pub(super) async fn attempt(
    connection: &HttpConnection,
    request: Request<Incoming>,
    record: &mut RequestRecord,
) -> Result<Answered, ConnectionOutcome> {
    let shared = &connection.shared;
    let found = admitted(connection, record).await?;
    // Looked at once, so that time limits, retries and routes are of one topology.
    let snapshot = shared.snapshots.load_full();
    let version = connection.upstream_version(&snapshot);
    let is_call = is_grpc(request.headers());
    let policy = RequestPolicy::of(connection, &snapshot, request.method());
    let prepared = prepare(
        connection,
        &snapshot,
        request,
        version,
        policy.may_repeat(),
        &found,
    );
    let PreparedRequest {
        route,
        criticality,
        rule,
        sticky,
        to,
    } = match prepared {
        Ok(prepared) => prepared,
        Err(unfit) => {
            let answer = refuse_unfit(connection, record, &unfit, is_call);
            return Ok(Answered::Gateway(answer));
        }
    };
    record.ruled_by(route.as_deref());
    record.marks(sticky.cookie);
    if let Some(rule) = rule {
        record.permitted_by(rule);
    }
    let mut request = match to {
        RequestServer::Instance(request) => *request,
        RequestServer::Gateway(answer) => {
            record.unserved(ConnectionOutcome::Answered, 0);
            return Ok(Answered::Gateway(answer));
        }
    };
    record.tells_parent(&mut request);
    mirror(connection, route.as_deref(), &found, &mut request, record).await;
    let policy = policy.with_route(route.as_deref());
    let order = ReachOrder {
        version,
        caller: found.caller,
        key: sticky.key,
        split: route.as_ref().and_then(|route| route.split.clone()),
        criticality,
        seed: shared.seed(),
        open: record.open(),
        attempts: 0,
        may_be_used: true,
        is_harmless: is_idempotent(request.method()) && request.body().is_end_stream(),
        changes_protocol: request.headers().contains_key(header::UPGRADE),
        tried: FailedTries::default(),
        deadline: policy.timeout.map(|timeout| record.begun() + timeout),
    };
    let attempt = Attempt {
        connection,
        tries_left: policy.attempts(),
        policy,
        order,
        retrying: None,
        settled: Err(ConnectionOutcome::InstanceReset),
    };
    let (answer, upstream) = Box::pin(attempt.run(request, record)).await?;
    Ok(Answered::Instance(answer, upstream, route))
}

/// Takes a request in, if the limits of its service leave room for it.
fn enter(
    connection: &HttpConnection,
    caller: &Caller,
    record: &mut RequestRecord,
) -> Result<(), ConnectionOutcome> {
    let HttpConnection { shared, arrival, .. } = connection;
    let service = &arrival.target.service;
    let mut place = connection.place.lock();
    if place.is_none() {
        *place = shared.take_place(service, UseKind::Connections)?;
    }
    drop(place);
    record.holds(shared.take_place(service, UseKind::Requests)?);
    shared.take_turn(service, caller)
}

/// Tries of one request.
struct Attempt<'a> {
    connection: &'a HttpConnection,
    policy: RequestPolicy,
    order: ReachOrder,
    /// Further tries that its service allows.
    tries_left: u32,
    /// Place within the limit of its service's retries, once it is tried again.
    retrying: Option<UseGuard>,
    /// End of the last try, which is the request's unless another comes to a better one.
    settled: Result<(InstanceAnswer, BeforeAnswer), ConnectionOutcome>,
}

/// End of one try.
enum TryResult {
    Answered(InstanceAnswer, BeforeAnswer),
    /// The instance has not read it, or may not have: it can be made again as if it had not been made.
    Unread(Request<RequestBody>, Arc<UpstreamFacts>, ConnectionOutcome),
    /// It is to be tried elsewhere.
    Again(Request<RequestBody>),
    Failed(ConnectionOutcome),
}

impl Attempt<'_> {
    async fn run(
        mut self,
        mut request: Request<RequestBody>,
        record: &mut RequestRecord,
    ) -> Result<InstanceAnswer, ConnectionOutcome> {
        let mut unread = 0;
        loop {
            record.tries(&mut request);
            let reaching = reach(self.connection, &mut self.order, &request, record.span());
            let reached = match Box::pin(reaching).await {
                Ok(reached) => reached,
                Err(no) if self.order.tried.is_empty() => return Err(self.unreached(record, no)),
                // Nobody else is there: the end of the last try stands.
                Err(_) => return self.settle(record).await,
            };
            // An answer that another one is to take the place of.
            self.settled = Err(ConnectionOutcome::InstanceReset);
            match self.send(reached, request, record).await {
                TryResult::Answered(answered, before) => {
                    self.settled = Ok((answered, before));
                    return self.settle(record).await;
                }
                TryResult::Unread(again, facts, outcome) if unread + 1 >= MAX_GIVEN => {
                    if !self.moves_on(&facts, TryEnd::NotReached) {
                        return Err(outcome);
                    }
                    self.settled = Err(outcome);
                    (request, self.order.may_be_used) = (again, false);
                }
                TryResult::Unread(again, ..) => {
                    unread += 1;
                    request = again;
                    // Of HTTP/1.1 a second one that closes at once would be no chance.
                    self.order.may_be_used = self.order.version == Version::HTTP_2;
                }
                TryResult::Again(again) => {
                    request = again;
                    self.order.may_be_used = false;
                }
                TryResult::Failed(outcome) => return Err(outcome),
            }
        }
    }

    /// Hands out what the request has come to.
    async fn settle(self, record: &mut RequestRecord) -> Result<InstanceAnswer, ConnectionOutcome> {
        let (answered, before) = self.settled?;
        before.answered(record).await;
        Ok(answered)
    }

    /// No instance could be reached: writes down why, and warns of it.
    fn unreached(&self, record: &mut RequestRecord, no: NoUpstream) -> ConnectionOutcome {
        let is_late = self.order.deadline.is_some_and(|at| at <= Instant::now());
        let outcome = match no.outcome {
            ConnectionOutcome::ClientGone | ConnectionOutcome::Cut => no.outcome,
            // Where nobody was asked, nobody took too long.
            outcome if no.attempts == 0 => outcome,
            _ if is_late => ConnectionOutcome::RequestTimeout,
            outcome => outcome,
        };
        record.unserved(outcome, no.attempts);
        record.waits_for(no.waited_for.as_ref());
        if is_forbidden_by_peer(outcome) {
            record.decided_elsewhere();
        }
        if outcome != ConnectionOutcome::ClientGone {
            record.warn();
        }
        outcome
    }

    /// Sends a request. Gives it back where it can be made again: the instance has not read it; or, on a connection that was used before and
    /// may just have been closing, nothing of it was sent, or nothing was heard and doing it twice does no harm; or its service says so.
    async fn send(
        &mut self,
        reached: ReachedUpstream,
        mut request: Request<RequestBody>,
        record: &mut RequestRecord,
    ) -> TryResult {
        let ReachedUpstream {
            mut upstream,
            was_used,
        } = reached;
        record.given(&upstream, self.order.attempts);
        let says_unread = upstream.says_what_is_unread();
        let may_repeat = self.policy.may_repeat() && self.tries_left > 0;
        let spare = (was_used || says_unread || may_repeat).then(|| SpareRequest::of(&request));
        let spare = spare.flatten();
        request.body_mut().goes_to(&upstream);
        let broken_off = request.body().broken_off();
        let before = BeforeAnswer::attend(&mut request, record);
        match self.wait(&mut upstream, request, spare.as_ref()).await {
            WaitEnd::Answer(answer) => {
                record.heard(answer.status(), upstream.sent_ago());
                if let Some(verdict) = judge_head(answer.status(), answer.headers()) {
                    record.tell(&upstream.facts, verdict);
                }
                self.judge(answer, upstream, before, spare)
            }
            WaitEnd::Failure(_) if broken_off.load(Ordering::Relaxed) => {
                self.connection.kept.forget(&upstream);
                TryResult::Failed(record.broken_off(&upstream))
            }
            WaitEnd::Failure(failure) => {
                let outcome = record.unanswered(&upstream, &failure);
                tracing::debug!(error = %failure.error, outcome = outcome.word(), "an instance gave no answer");
                match failure.is_refused {
                    true => self.connection.kept.refused(&upstream),
                    false => self.connection.kept.forget(&upstream),
                }
                let by_itself = again_by_itself(&failure, was_used, says_unread, spare.as_ref());
                if !by_itself && is_failure(outcome, failure.fault) {
                    record.tell(&upstream.facts, TryVerdict::Failed(TryFailure::Reset));
                }
                self.after_failure(failure, by_itself, spare, &upstream.facts, outcome)
            }
            WaitEnd::Late => {
                let outcome = record.late(&upstream);
                self.settled = Err(outcome);
                // It was found to be one that can be made again, and may have become too long since.
                let again = spare.and_then(SpareRequest::again);
                again.map_or(TryResult::Failed(outcome), TryResult::Again)
            }
            WaitEnd::TimedOut => TryResult::Failed(record.late(&upstream)),
        }
    }

    /// Waits for an answer, for as long as the try and the request may take.
    async fn wait(
        &mut self,
        upstream: &mut HttpUpstream,
        request: Request<RequestBody>,
        spare: Option<&SpareRequest>,
    ) -> WaitEnd {
        let per_try = self.policy.per_try_timeout().map(|time| Instant::now() + time);
        let is_whole = || spare.is_some_and(SpareRequest::is_whole);
        let facts = upstream.facts.clone();
        let mut sending = pin!(upstream.send(request));
        if let Some(at) = per_try.filter(|at| self.order.deadline.is_none_or(|deadline| *at < deadline)) {
            match timeout_at(at.into(), sending.as_mut()).await {
                Ok(sent) => return WaitEnd::of(sent),
                // It is not given up unless there is another.
                Err(_) if is_whole() && self.moves_on(&facts, TryEnd::Late) => return WaitEnd::Late,
                Err(_) => {}
            }
        }
        match self.order.deadline {
            None => WaitEnd::of(sending.await),
            Some(at) => match timeout_at(at.into(), sending).await {
                Ok(sent) => WaitEnd::of(sent),
                Err(_) => WaitEnd::TimedOut,
            },
        }
    }

    /// Decides whether an answer is the request's.
    fn judge(
        &mut self,
        answer: Response<Incoming>,
        upstream: HttpUpstream,
        before: BeforeAnswer,
        spare: Option<SpareRequest>,
    ) -> TryResult {
        let end = TryEnd::Answered {
            status: answer.status().as_u16(),
            code: code_of_answer(answer.headers()),
        };
        let facts = upstream.facts.clone();
        let again = match spare {
            Some(spare) if self.policy.is_tried_again(end) && spare.is_whole() => {
                self.moves_on(&facts, end).then(|| spare.again()).flatten()
            }
            _ => None,
        };
        let answered = (answer, upstream);
        match again {
            None => TryResult::Answered(answered, before),
            Some(again) => {
                self.settled = Ok((answered, before));
                TryResult::Again(again)
            }
        }
    }

    fn after_failure(
        &mut self,
        failure: SendFailure,
        by_itself: bool,
        spare: Option<SpareRequest>,
        facts: &Arc<UpstreamFacts>,
        outcome: ConnectionOutcome,
    ) -> TryResult {
        let end = match failure.unsent {
            Some(_) => TryEnd::NotReached,
            None => TryEnd::Reset,
        };
        let is_answered = !failure.is_unanswered || failure.fault.is_some();
        let may_move_on = !is_answered && outcome != ConnectionOutcome::BadRequest;
        let again = failure.unsent.or_else(|| spare.and_then(SpareRequest::again));
        match again {
            Some(again) if by_itself => TryResult::Unread(again, facts.clone(), outcome),
            Some(again) if may_move_on && self.moves_on(facts, end) => {
                self.settled = Err(outcome);
                TryResult::Again(again)
            }
            _ => TryResult::Failed(outcome),
        }
    }

    /// Decides whether the request goes to another after this end of a try, which is taken up if it does.
    fn moves_on(&mut self, facts: &UpstreamFacts, end: TryEnd) -> bool {
        if self.tries_left == 0 || !self.policy.is_tried_again(end) {
            return false;
        }
        let HttpConnection { shared, arrival, .. } = self.connection;
        let service = &arrival.target.service;
        let snapshot = shared.snapshots.load_full();
        let mut tried = self.order.tried.clone();
        tried.failed(&snapshot.zone, &facts.candidate, facts.instance);
        let question = RouteRequest::new(arrival.target.clone())
            .at_port(arrival.port.clone())
            .with_split(self.order.split.clone())
            .with_criticality(self.order.criticality)
            .with_key(self.order.key);
        let decision = route(&snapshot, &question, SmallRng::seed_from_u64(self.order.seed));
        if tried.others(&snapshot, service, decision).is_empty() {
            return false;
        }
        if self.retrying.is_none() {
            match shared.take_place(service, UseKind::Retries) {
                Ok(place) => self.retrying = place,
                Err(_) => return false,
            }
        }
        if !shared.budgets.lock().take(uptime(), service) {
            tracing::debug!(%service, "the budget for trying again is spent");
            shared.metrics.retried(service.as_str(), "no_budget");
            return false;
        }
        shared.metrics.retried(service.as_str(), end.word());
        self.order.tried = tried;
        self.tries_left -= 1;
        true
    }
}

/// Tells whether a request may be made once more whatever its service says: the instance has not read it; or, on a connection that was
/// used before and may just have been closing, nothing of it was sent, or nothing was heard and doing it twice does no harm.
fn again_by_itself(
    failure: &SendFailure,
    was_used: bool,
    says_unread: bool,
    spare: Option<&SpareRequest>,
) -> bool {
    let is_harmless = spare.is_some_and(SpareRequest::is_harmless);
    (failure.unsent.is_some() && (was_used || says_unread))
        || failure.is_unread
        || (was_used && failure.is_unanswered && failure.fault.is_none() && is_harmless)
}

/// Tells whether a request without an answer speaks against its instance.
fn is_failure(outcome: ConnectionOutcome, fault: Option<AnswerFault>) -> bool {
    match fault {
        Some(fault) => fault.is_failure(),
        None => outcome == ConnectionOutcome::InstanceReset,
    }
}

/// End of the wait for an answer.
enum WaitEnd {
    Answer(Response<Incoming>),
    Failure(SendFailure),
    /// The request goes to another.
    Late,
    /// The time of the request is over.
    TimedOut,
}

impl WaitEnd {
    fn of(sent: Result<Response<Incoming>, SendFailure>) -> Self {
        match sent {
            Ok(answer) => Self::Answer(answer),
            Err(failure) => Self::Failure(failure),
        }
    }
}
