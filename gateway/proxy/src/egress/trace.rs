//! Spans at the gateway that a client connected to: one for what the client asks, one for each try of it, and one for each candidate that is
//! asked for a connection.

use causeway_federation::name::{GatewayId, ServiceName, Tags, ZoneName};
use causeway_routing::{
    route::{Candidate, Destination, Why},
    target::Target,
};
use causeway_telemetry::{AccessRecord, ActiveSpan, ConnectionOutcome, TraceContext, TraceId};
use http::{HeaderMap, Request, StatusCode};

use super::{EgressShared, upstream::Upstream};
use crate::traces::{
    describe_end, describe_instance, describe_service, end_span, method_word, parent_of, tell_log,
    tell_parent,
};

/// Spans of one connection, or of one request.
pub(super) struct EgressTrace {
    pub(super) server: ActiveSpan,
    /// The try under way; of what is no request it is the candidate that serves it.
    pub(super) attempt: Option<ActiveSpan>,
    /// Tries so far.
    tries: u32,
    /// The client has told a parent.
    has_parent: bool,
}

impl EgressTrace {
    fn new(server: ActiveSpan, has_parent: bool) -> Self {
        Self {
            server,
            attempt: None,
            tries: 0,
            has_parent,
        }
    }

    /// Begins the span of a connection that carries bytes: of no trace can it say that it is in it. `None`: traces are off.
    pub(super) fn of_connection(shared: &EgressShared, target: &Target) -> Option<Box<Self>> {
        let mut server = shared.config.tracer.serve("egress", None)?;
        server.name("egress", target.service.as_str());
        tell_log(&server);
        Some(Box::new(Self::new(server, false)))
    }

    /// Begins the span of a request. `None`: traces are off.
    pub(super) fn of_request<B>(
        shared: &EgressShared,
        target: &Target,
        request: &Request<B>,
    ) -> Option<Box<Self>> {
        let tracer = &shared.config.tracer;
        if !tracer.is_on() {
            return None;
        }
        let parent = parent_of(request.headers());
        let mut server = tracer.serve("egress", parent.as_ref())?;
        server.name(method_word(request.method().as_str()), target.service.as_str());
        Some(Box::new(Self::new(server, parent.is_some())))
    }

    pub(super) fn id(&self) -> TraceId {
        self.server.id()
    }

    /// Innermost span: what comes next is a part of it.
    pub(super) fn innermost(&self) -> &ActiveSpan {
        self.attempt.as_ref().unwrap_or(&self.server)
    }

    /// Has a request tell its place in the trace to whoever gets it. Of a trace that is not recorded the client's word stands.
    pub(super) fn tell(&self, headers: &mut HeaderMap) {
        if self.server.is_recorded() || !self.has_parent {
            tell_parent(headers, &self.innermost().context(), self.has_parent);
        }
    }

    /// Begins a try of a request, of this method.
    pub(super) fn tries(&mut self, method: &str, service: &ServiceName) {
        // One before it, of which the answer was not good enough, ends here.
        self.attempt = None;
        self.attempt = self.server.ask("attempt");
        if let Some(attempt) = &mut self.attempt {
            attempt.name(method_word(method), service.as_str());
            attempt.set("http.request.method", method_word(method));
            describe_service(attempt, service);
            attempt.set("causeway.attempt", i64::from(self.tries) + 1);
            if self.tries > 0 {
                attempt.set("http.request.resend_count", i64::from(self.tries));
            }
        }
        self.tries = self.tries.saturating_add(1);
    }

    /// Ends all of it, with what became of the connection or request.
    pub(super) fn end(self, record: &AccessRecord) {
        let Self {
            server,
            attempt: mut last,
            ..
        } = self;
        if let Some(last) = &mut last {
            describe_end(last, record.outcome);
        }
        drop(last);
        end_span(server, record);
    }

    /// An upstream is about to be given the request.
    pub(super) fn given(
        &mut self,
        (instance, gateway): (Option<&str>, Option<&GatewayId>),
        tags: &Tags,
        own: &ZoneName,
    ) {
        let Some(attempt) = &mut self.attempt else {
            return;
        };
        attempt.set("causeway.zone", own.to_string());
        attempt.set("causeway.tags", tags.to_string());
        let zone = gateway.map_or(own, |gateway| &gateway.zone);
        attempt.set("causeway.to_zone", zone.to_string());
        if let Some(gateway) = gateway {
            attempt.set("causeway.gateway", gateway.to_string());
        }
        if let Some(instance) = instance {
            attempt.set("causeway.instance", instance.to_owned());
        }
    }

    /// The head of an answer has come.
    pub(super) fn heard(&mut self, status: StatusCode) {
        if let Some(attempt) = &mut self.attempt {
            attempt.set("http.response.status_code", i64::from(status.as_u16()));
            if status.is_client_error() || status.is_server_error() {
                attempt.fail(status.as_str().to_owned());
            }
        }
    }

    /// Ends the try under way.
    pub(super) fn tried(&mut self, outcome: ConnectionOutcome) {
        if let Some(mut attempt) = self.attempt.take() {
            attempt.set("causeway.outcome", outcome.word());
            describe_end(&mut attempt, outcome);
        }
    }
}

/// Span of one candidate that is asked. Unless it becomes ready or fails, it was given up for another.
#[derive(Debug)]
pub(super) struct AskSpan(Option<ActiveSpan>);

impl AskSpan {
    /// Begins one under `trace`, if there is one that is recorded.
    pub(super) fn begin(
        trace: Option<&ActiveSpan>,
        service: &ServiceName,
        own: &ZoneName,
        (candidate, attempt, why): (&Candidate, u32, Why),
    ) -> Self {
        let mut span = trace.and_then(|trace| trace.ask("connect"));
        if let Some(span) = &mut span {
            span.name("connect", service.as_str());
            describe_service(span, service);
            span.set("causeway.zone", own.to_string());
            span.set("causeway.attempt", i64::from(attempt));
            span.set("causeway.reason", why.word());
            span.set("causeway.tags", candidate.tags.to_string());
            match &candidate.place {
                Destination::Local => span.set("causeway.to_zone", own.to_string()),
                Destination::Remote { gateway } => {
                    span.set("causeway.to_zone", gateway.zone.to_string());
                    span.set("causeway.gateway", gateway.to_string());
                    span.set("network.transport", "quic");
                }
            }
        }
        Self(span)
    }

    /// Place in the trace of what the candidate does.
    pub(super) fn context(&self, trace: Option<&ActiveSpan>) -> Option<TraceContext> {
        self.0.as_ref().or(trace).map(ActiveSpan::context)
    }

    pub(super) fn ready(mut self, upstream: &Upstream) -> Option<ActiveSpan> {
        let mut span = self.0.take();
        if let (Some(span), Upstream::Instance(connection)) = (&mut span, upstream) {
            describe_instance(span, &connection.instance.id, &connection.socket);
        }
        span
    }

    /// Ends that of a candidate that was still silent when the search ended with `outcome`, without another that it was given up for.
    pub(super) fn silent(self, outcome: ConnectionOutcome) {
        let is_given_up = matches!(outcome, ConnectionOutcome::ClientGone | ConnectionOutcome::Cut);
        if !is_given_up {
            self.failed(ConnectionOutcome::NoAnswer);
        }
    }

    pub(super) fn failed(mut self, outcome: ConnectionOutcome) {
        if let Some(mut span) = self.0.take() {
            span.set("causeway.outcome", outcome.word());
            span.fail(outcome.word());
        }
    }
}

impl Drop for AskSpan {
    fn drop(&mut self) {
        if let Some(span) = &mut self.0 {
            span.set("causeway.outcome", "given_up");
        }
    }
}
