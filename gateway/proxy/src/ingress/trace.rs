//! Spans at the gateway that serves a stream of another zone: one for the stream, and one for the instance that it is given to.

use causeway_proto::tunnel::Connect;
use causeway_telemetry::{AccessRecord, ActiveSpan, ConnectionOutcome, TraceContext, TraceId};

use super::IngressShared;
use crate::{
    dial::InstanceConnection,
    traces::{describe_end, describe_instance, end_span, tell_log},
};

/// Spans of one stream.
pub(super) struct IngressTrace {
    server: ActiveSpan,
    instance: Option<ActiveSpan>,
}

impl IngressTrace {
    /// Begins the span of a stream, in the trace that the gateway tells that asks for it. `None`: traces are off.
    pub(super) fn begin(shared: &IngressShared, connect: &Connect) -> Option<Box<Self>> {
        let tracer = &shared.config.tracer;
        if !tracer.is_on() {
            return None;
        }
        let parent = TraceContext::told(&connect.trace_parent);
        let parent = parent.map(|parent| parent.with_state(&connect.trace_state));
        let server = tracer.serve("ingress", parent.as_ref())?;
        tell_log(&server);
        Some(Box::new(Self {
            server,
            instance: None,
        }))
    }

    pub(super) fn id(&self) -> TraceId {
        self.server.id()
    }

    /// Span of the stream.
    pub(super) fn server(&self) -> &ActiveSpan {
        &self.server
    }

    /// An instance is about to be connected to.
    pub(super) fn dials(&mut self, service: &str) {
        self.instance = self.server.ask("instance");
        if let Some(instance) = &mut self.instance {
            instance.name("instance", service);
            instance.set("causeway.service", service.to_owned());
        }
    }

    /// An instance is connected to.
    pub(super) fn dialled(&mut self, dialled: &InstanceConnection) {
        if let Some(instance) = &mut self.instance {
            describe_instance(instance, &dialled.instance.id, &dialled.socket);
            instance.set("causeway.tags", dialled.instance.tags.to_string());
        }
    }

    /// No instance could be connected to.
    pub(super) fn failed(&mut self, outcome: ConnectionOutcome) {
        if let Some(mut instance) = self.instance.take() {
            describe_end(&mut instance, outcome);
        }
    }

    /// Ends all of it: the caller went elsewhere meanwhile.
    pub(super) fn left(mut self, service: &str) {
        self.server.set("causeway.service", service.to_owned());
        self.server.set("causeway.outcome", "given_up");
    }

    /// Ends all of it, with what became of the stream.
    pub(super) fn end(self, record: &AccessRecord) {
        let Self { mut server, instance } = self;
        if let (Some(mut instance), Some(zone)) = (instance, &record.to_zone) {
            instance.set("causeway.zone", zone.to_string());
            describe_end(&mut instance, record.outcome);
        }
        // By now it is one of those that the topology has, or of the form of a name at least.
        server.name("ingress", record.service.as_str());
        end_span(server, record);
    }
}
