//! One request in the books: counted while it is under way, and written down once at its end, however it ends.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use causeway_federation::{
    name::ZoneName,
    topology::{JudgedEnd, Route},
};
use causeway_routing::{
    callers::FoundCaller,
    capacity::AwaitedAnswer,
    limits::UseGuard,
    outlier::TryFailure,
    permit::{Caller, Rule},
    route::Destination,
};
use causeway_telemetry::{ActiveSpan, ConnectionOutcome, RequestFacts, Role};
use http::{HeaderMap, HeaderValue, Request, StatusCode, Version, header};

use super::{
    answers::{awaited, count_answer},
    serve::HttpConnection,
    upstream::{HttpUpstream, SendFailure, UpstreamFacts, UpstreamServer},
};
use crate::{
    egress::{
        connection::{ConnectionSummary, finish, warn_unreached},
        outliers::EndedTry,
        shift_ends::judge_unserved,
        trace::EgressTrace,
    },
    http::{answer_fault::AnswerFault, grpc::code_of_answer, verdict::TryVerdict},
    open::Termination,
};

/// Request under way. Dropped without a word it was given up by its client.
pub(super) struct RequestRecord {
    connection: Arc<HttpConnection>,
    begun: Instant,
    open: u64,
    summary: Option<ConnectionSummary>,
    /// Bytes that its upstream had carried before.
    carried_before: (u64, u64),
    /// It asked for another protocol: nothing that comes after it is read before its end.
    pauses: bool,
    /// Its client knows answers before the answer.
    takes_interim: bool,
    /// It was answered without its body, which may still come.
    leaves_body: bool,
    /// An instance has begun to answer, or the gateway has.
    answered: bool,
    /// Cookie that its client is given.
    cookie: Option<HeaderValue>,
    /// Place within the limit of its service's requests.
    place: Option<UseGuard>,
    /// Moment at which it was last given to an instance.
    given_at: Instant,
    /// Time from then to the head of the answer, once that has come.
    head_after: Option<Duration>,
    /// Counts it and its answer, where capacity is measured by them.
    awaited: Option<AwaitedAnswer>,
}

impl RequestRecord {
    pub(super) fn begin(connection: Arc<HttpConnection>) -> Self {
        connection.watch.request_began();
        let arrival = &connection.arrival;
        let service = arrival.target.service.as_str();
        let open = connection.shared.metrics.connection_opened(Role::Egress, service);
        let mut summary = ConnectionSummary::unserved(
            connection.id(),
            (arrival.port.clone(), arrival.target.tags.clone()),
            ConnectionOutcome::ClientGone,
            Arc::new(Caller::anonymous(connection.shared.snapshots.load().zone.clone())),
            None,
        );
        summary.request = Some(RequestFacts::default());
        let now = Instant::now();
        Self {
            connection,
            begun: now,
            open,
            summary: Some(summary),
            carried_before: (0, 0),
            pauses: false,
            takes_interim: false,
            leaves_body: false,
            answered: false,
            cookie: None,
            place: None,
            given_at: now,
            head_after: None,
            awaited: None,
        }
    }

    /// Holds a place until its end.
    pub(super) fn holds(&mut self, place: Option<UseGuard>) {
        self.place = place;
    }

    /// Moment at which it came.
    pub(super) fn begun(&self) -> Instant {
        self.begun
    }

    pub(super) fn connection(&self) -> &Arc<HttpConnection> {
        &self.connection
    }

    /// Takes up what the request says of its client.
    pub(super) fn reads<B>(&mut self, request: &Request<B>) {
        self.takes_interim = request.version() == Version::HTTP_11;
        self.pauses = self.takes_interim && request.headers().contains_key(header::UPGRADE);
        let trace =
            EgressTrace::of_request(&self.connection.shared, &self.connection.arrival.target, request);
        let is_recorded = trace.as_ref().is_some_and(|trace| trace.server.is_recorded());
        self.edit(|summary| summary.trace = trace);
        if is_recorded || self.connection.shared.access.is_on() {
            self.edit_request(|facts| facts.asks(request.method().as_str(), request.uri().path()));
        }
    }

    pub(super) fn takes_interim(&self) -> bool {
        self.takes_interim
    }

    /// It is answered without its body.
    pub(super) fn leaves_body(&mut self) {
        self.leaves_body = true;
    }

    /// Says in the answer that the connection closes, where nobody knows whether a body is still to come.
    pub(super) fn closes_after(&self, headers: &mut HeaderMap) {
        if self.leaves_body {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }

    /// The next bytes are no HTTP.
    pub(super) fn upgraded(&mut self) {
        self.pauses = false;
        self.connection.checks.decide(true);
    }

    /// The protocol that it was changed to has come to its end.
    pub(super) fn carried(&mut self, upstream: &HttpUpstream, outcome: ConnectionOutcome) {
        self.end(upstream, outcome);
    }

    /// Requests of the service that were under way when it began, this one with them.
    pub(super) fn open(&self) -> u64 {
        self.open
    }

    /// Innermost span of it; `None`: traces are off.
    pub(super) fn span(&self) -> Option<&ActiveSpan> {
        Some(self.summary.as_ref()?.trace.as_ref()?.innermost())
    }

    fn trace(&mut self) -> Option<&mut EgressTrace> {
        self.summary.as_mut()?.trace.as_deref_mut()
    }

    /// Has it tell whoever gets it of its place in a trace.
    pub(super) fn tells_parent<B>(&mut self, request: &mut Request<B>) {
        if let Some(trace) = self.trace() {
            trace.tell(request.headers_mut());
        }
    }

    /// A try of it begins.
    pub(super) fn tries<B>(&mut self, request: &mut Request<B>) {
        let summary = self.summary.as_mut();
        if let Some(trace) = summary.and_then(|summary| summary.trace.as_deref_mut()) {
            let service = &self.connection.arrival.target.service;
            trace.tries(request.method().as_str(), service);
            trace.tell(request.headers_mut());
        }
    }

    /// Span that its lines of the log stand under, beside that of its connection; none where it is in no trace.
    pub(super) fn log_span(&self) -> tracing::Span {
        match self.span() {
            Some(span) => {
                let span_id = span.span_id().map(tracing::field::display);
                tracing::debug_span!("request", trace_id = %span.id(), span_id)
            }
            None => tracing::Span::none(),
        }
    }

    fn edit(&mut self, change: impl FnOnce(&mut ConnectionSummary)) {
        if let Some(summary) = &mut self.summary {
            change(summary);
        }
    }

    fn edit_request(&mut self, change: impl FnOnce(&mut RequestFacts)) {
        if let Some(facts) = self.summary.as_mut().and_then(|summary| summary.request.as_mut()) {
            change(facts);
        }
    }

    /// Takes up the head of the answer that its client gets.
    pub(super) fn tells(&mut self, status: StatusCode, headers: &HeaderMap) {
        let first_byte = self.begun.elapsed();
        self.edit_request(|facts| {
            facts.status = Some(status.as_u16());
            facts.grpc_status = code_of_answer(headers);
            facts.first_byte = Some(first_byte);
        });
    }

    /// Takes up the trailers of the answer.
    pub(super) fn tells_end(&mut self, trailers: &HeaderMap) {
        let code = code_of_answer(trailers);
        self.edit_request(|facts| facts.grpc_status = code.or(facts.grpc_status));
    }

    /// Takes up who asks, and the rule that decided.
    pub(super) fn asked_by(&mut self, found: &FoundCaller, rule: Rule) {
        self.edit(|summary| (summary.caller, summary.rule) = (found.caller.clone(), Some(rule)));
    }

    /// Takes up the rule that decided about the request itself.
    pub(super) fn permitted_by(&mut self, rule: Rule) {
        self.edit(|summary| summary.rule = Some(rule));
    }

    /// Gives its client this cookie with the answer.
    pub(super) fn marks(&mut self, cookie: Option<HeaderValue>) {
        self.cookie = cookie;
    }

    /// The cookie that its client is given, once.
    pub(super) fn take_cookie(&mut self) -> Option<HeaderValue> {
        self.cookie.take()
    }

    /// Takes up the route that rules it.
    pub(super) fn ruled_by(&mut self, route: Option<&Route>) {
        self.edit(|summary| summary.route = route.map(|route| route.label.clone()));
    }

    /// Forgets the rule: the one that decided is in the other zone's topology, and in its log.
    pub(super) fn decided_elsewhere(&mut self) {
        self.edit(|summary| summary.rule = None);
    }

    /// An upstream is about to be given it.
    pub(super) fn given(&mut self, upstream: &HttpUpstream, attempts: u32) {
        self.carried_before = upstream.carried();
        (self.given_at, self.head_after) = (Instant::now(), None);
        let ready_after = self.begun.elapsed();
        let snapshot = self.connection.shared.snapshots.load();
        let (zone, target) = (snapshot.zone.clone(), &self.connection.arrival.target);
        self.awaited = awaited(&snapshot, target, &upstream.facts.candidate);
        drop(snapshot);
        self.edit(|summary| {
            summary.tags = upstream.facts.candidate.tags.clone();
            summary.in_panic = upstream.facts.candidate.in_panic;
            summary.takes(upstream.facts.server.names(), &zone);
            summary.attempts = attempts;
            summary.ready_after = Some(ready_after);
            summary.outcome = ConnectionOutcome::ClientReset;
            if let Some(trace) = &mut summary.trace {
                trace.given(
                    upstream.facts.server.names(),
                    &upstream.facts.candidate.tags,
                    &zone,
                );
            }
        });
    }

    /// The head of an answer has come, so long after the whole request was handed over.
    pub(super) fn heard(&mut self, status: StatusCode, sent_ago: Option<Duration>) {
        if let Some(trace) = self.trace() {
            trace.heard(status);
        }
        self.head_after = Some(self.given_at.elapsed());
        if let Some(awaited) = &mut self.awaited {
            awaited.heard(sent_ago);
        }
    }

    /// No instance took it.
    pub(super) fn unserved(&mut self, outcome: ConnectionOutcome, attempts: u32) {
        self.answered = true;
        judge_unserved(&self.connection.shared, &self.connection.arrival.target, outcome);
        self.edit(|summary| {
            summary.attempts = summary.attempts.max(attempts);
            summary.outcome = outcome;
        });
    }

    /// Takes up which place had not answered when it was given up.
    pub(super) fn waits_for(&mut self, place: Option<&Destination>) {
        let own = self.connection.shared.snapshots.load().zone.clone();
        self.edit(|summary| summary.waits_for(place, &own));
    }

    /// Zone that it was given to, or waits for.
    pub(super) fn zone(&self) -> Option<&ZoneName> {
        self.summary.as_ref()?.to_zone.as_ref()
    }

    /// Logs that no instance could be reached.
    pub(super) fn warn(&self) {
        let HttpConnection {
            shared,
            arrival,
            opened,
            ..
        } = &*self.connection;
        // What this gateway itself took back has been told with its rule.
        if let Some(summary) = &self.summary
            && opened.handle().termination().is_none()
        {
            warn_unreached(
                shared,
                &arrival.target,
                arrival.endpoints.client,
                self.begun,
                summary,
            );
        }
    }

    /// The answer has come to its end.
    pub(super) fn served(&mut self, upstream: HttpUpstream) {
        self.end(&upstream, ConnectionOutcome::Served);
        if let Some(upstream) = upstream.rest() {
            self.connection.kept.lay_by(upstream);
        }
    }

    /// An answer has begun.
    pub(super) fn answered(&mut self) {
        self.answered = true;
    }

    /// The client has left before the answer's end.
    pub(super) fn left(&mut self, upstream: &HttpUpstream) {
        let outcome = match self.connection.watch.is_stalled() {
            true => ConnectionOutcome::Stalled,
            false => ConnectionOutcome::ClientReset,
        };
        self.end(upstream, outcome);
    }

    /// The answer broke off.
    pub(super) fn broken(&mut self, upstream: &HttpUpstream) -> ConnectionOutcome {
        // A body that turned bad is why the instance was left.
        let outcome = match self.connection.checks.is_body_bad() {
            true => ConnectionOutcome::BadRequest,
            false if self.connection.is_cut() => ConnectionOutcome::Cut,
            false => upstream.facts.traffic.broken(),
        };
        self.end(upstream, outcome);
        outcome
    }

    /// No answer has come that can be passed on.
    pub(super) fn unanswered(&mut self, upstream: &HttpUpstream, failure: &SendFailure) -> ConnectionOutcome {
        match failure.fault {
            Some(fault) => self.faulty(upstream, fault),
            None if failure.is_unread => {
                self.end(upstream, ConnectionOutcome::InstanceFull);
                ConnectionOutcome::InstanceFull
            }
            None => self.broken(upstream),
        }
    }

    /// Ends with what has come being no answer that can be passed on, or the rest of it none.
    pub(super) fn faulty(&mut self, upstream: &HttpUpstream, fault: AnswerFault) -> ConnectionOutcome {
        let outcome = fault.outcome();
        self.end(upstream, outcome);
        self.connection.warn_faulty(&upstream.facts, fault);
        outcome
    }

    /// Its client broke the request off, before an answer.
    pub(super) fn broken_off(&mut self, upstream: &HttpUpstream) -> ConnectionOutcome {
        let outcome = match self.connection.checks.is_body_bad() {
            true => ConnectionOutcome::BadRequest,
            false => ConnectionOutcome::ClientReset,
        };
        self.end(upstream, outcome);
        outcome
    }

    /// Tells those who choose of the end of a try.
    pub(super) fn tell(&self, facts: &UpstreamFacts, verdict: TryVerdict) {
        let HttpConnection { shared, arrival, .. } = &*self.connection;
        let ended = EndedTry {
            service: &arrival.target.service,
            port: arrival.port.as_ref(),
            candidate: &facts.candidate,
            instance: match &facts.server {
                UpstreamServer::Instance(instance) => Some(&**instance),
                UpstreamServer::Gateway(_) => None,
            },
            number: facts.instance,
            client: (arrival.endpoints.client.ip(), &facts.caller),
        };
        let snapshot = shared.snapshots.load();
        shared.outliers.ended(&snapshot, &shared.metrics, &ended, verdict);
        let end = JudgedEnd {
            failed: verdict != TryVerdict::Well,
            took: self.head_after.unwrap_or_else(|| self.given_at.elapsed()),
        };
        let shifts = snapshot.shifts.load();
        shifts.count(ended.service, &ended.candidate.tags, end);
        if let Some(awaited) = &self.awaited {
            count_answer(awaited, verdict);
        }
    }

    /// It had no answer in time. While its client still owes a part of it, the instance is not to blame.
    pub(super) fn late(&mut self, upstream: &HttpUpstream) -> ConnectionOutcome {
        self.end(upstream, ConnectionOutcome::RequestTimeout);
        if upstream.has_sent_all() {
            self.tell(&upstream.facts, TryVerdict::Failed(TryFailure::Late));
        }
        ConnectionOutcome::RequestTimeout
    }

    fn end(&mut self, upstream: &HttpUpstream, outcome: ConnectionOutcome) {
        let ((up, down), before) = (upstream.carried(), self.carried_before);
        self.edit(|summary| {
            summary.outcome = outcome;
            (summary.bytes_up, summary.bytes_down) = (up - before.0, down - before.1);
            if let Some(trace) = &mut summary.trace {
                trace.tried(outcome);
            }
        });
    }
}

impl Drop for RequestRecord {
    fn drop(&mut self) {
        let Some(mut summary) = self.summary.take() else {
            return;
        };
        let HttpConnection {
            shared,
            arrival,
            opened,
            watch,
            checks,
            ..
        } = &*self.connection;
        let handle = opened.handle();
        if handle.cut().is_cancelled() && summary.outcome != ConnectionOutcome::Served {
            summary.outcome = ConnectionOutcome::Cut;
            summary.take_termination(handle);
        }
        let given_up = (!self.answered && !handle.cut().is_cancelled()).then(|| self.begun.elapsed());
        if watch.is_flood(given_up) {
            handle.terminate(Termination {
                outcome: ConnectionOutcome::ClientFlood,
                rule: None,
            });
        }
        finish(
            shared,
            &arrival.target,
            arrival.endpoints.client,
            self.begun,
            summary,
        );
        if watch.request_ended() {
            // A change of permissions has nothing to end while no request is under way: the next one is asked about anew.
            handle.forget_caller();
        }
        if self.pauses {
            checks.decide(false);
        }
        if checks.holds_head() {
            watch.read();
        }
    }
}
