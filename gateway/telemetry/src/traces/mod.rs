//! Traces: what a connection or request came through, as spans that are sent to a receiver over OTLP. Off there is no span, no thread and no
//! task, and a [`Tracer`] is one pointer that is null.
//!
//! `OpenTelemetry`'s crates are named in this folder and in `otlp` alone.

mod context;
#[cfg(any(test, feature = "test-util"))]
mod testbed;

use std::{borrow::Cow, fmt, sync::Arc};

use opentelemetry::{
    Context, KeyValue, Value,
    trace::{
        Span as _, SpanBuilder, SpanKind, Status, TraceContextExt as _, Tracer as _, TracerProvider as _,
    },
};
use opentelemetry_sdk::{
    Resource,
    trace::{SdkTracer, SdkTracerProvider, Span, SpanProcessor},
};

pub use context::{TraceContext, TraceId};
#[cfg(any(test, feature = "test-util"))]
pub use testbed::{RecordedSpan, SpanRecorder};

/// Maker of spans. Off, as it is by default, it makes none. Cheap to clone.
#[derive(Clone, Default)]
pub struct Tracer(Option<Arc<SdkTracer>>);

impl fmt::Debug for Tracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if self.is_on() { "on" } else { "off" };
        f.debug_tuple("Tracer").field(&state).finish()
    }
}

impl Tracer {
    /// Makes spans that end in `processor`. Which traces are sampled is for `OTEL_TRACES_SAMPLER` to say.
    pub(crate) fn of(processor: impl SpanProcessor + 'static, resource: Resource) -> Self {
        let provider = SdkTracerProvider::builder()
            .with_span_processor(processor)
            .with_resource(resource)
            .build();
        Self(Some(Arc::new(provider.tracer("causeway"))))
    }

    /// Tells whether spans are made.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Begins a span for what another process asks of this one; `None`: traces are off. Without a parent it begins a trace.
    #[must_use]
    pub fn serve(&self, name: &'static str, parent: Option<&TraceContext>) -> Option<ActiveSpan> {
        let tracer = self.0.as_ref()?;
        Some(ActiveSpan::begin(tracer.clone(), name, SpanKind::Server, parent))
    }
}

/// Span under way. It ends when it is dropped, and is sent if its trace is sampled.
pub struct ActiveSpan {
    open: Box<OpenSpan>,
    tracer: Arc<SdkTracer>,
}

struct OpenSpan {
    span: Span,
    /// It was said how it failed: the SDK would keep a second word beside the first.
    has_failed: bool,
}

impl fmt::Debug for ActiveSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ActiveSpan")
            .field(&self.context().parent())
            .finish()
    }
}

impl ActiveSpan {
    fn begin(
        tracer: Arc<SdkTracer>,
        name: &'static str,
        kind: SpanKind,
        parent: Option<&TraceContext>,
    ) -> Self {
        let builder = SpanBuilder::from_name(name).with_kind(kind);
        // A thread's current span, which nobody here sets, is never its parent.
        let context = match parent {
            None => Context::new(),
            Some(TraceContext(parent)) => Context::new().with_remote_span_context(parent.clone()),
        };
        Self {
            open: Box::new(OpenSpan {
                span: tracer.build_with_context(builder, &context),
                has_failed: false,
            }),
            tracer,
        }
    }

    /// Begins a span for what this one asks of another process. `None`: the trace is not sampled.
    #[must_use]
    pub fn ask(&self, name: &'static str) -> Option<Self> {
        self.is_recorded().then(|| self.part(name))
    }

    /// Begins a span for what this one asks of another process, recorded as this one is or not.
    #[must_use]
    pub fn part(&self, name: &'static str) -> Self {
        let parent = self.context();
        Self::begin(self.tracer.clone(), name, SpanKind::Client, Some(&parent))
    }

    /// Tells whether anything that is said of it is kept.
    #[must_use]
    pub fn is_recorded(&self) -> bool {
        self.open.span.is_recording()
    }

    /// Place of it in its trace, for its children.
    #[must_use]
    pub fn context(&self) -> TraceContext {
        TraceContext(self.open.span.span_context().clone())
    }

    #[must_use]
    pub fn id(&self) -> TraceId {
        self.context().id()
    }

    /// Names it as logs do, in 16 hexadecimal digits; `None`: it is not recorded.
    #[must_use]
    pub fn span_id(&self) -> Option<impl fmt::Display + use<>> {
        self.is_recorded()
            .then(|| self.open.span.span_context().span_id())
    }

    /// Adds what it is about to its name, which has to be one of few.
    pub fn name(&mut self, verb: &str, about: &str) {
        if self.is_recorded() {
            self.open.span.update_name(format!("{verb} {about}"));
        }
    }

    /// Says something of it.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        self.open.span.set_attribute(KeyValue::new(key, value));
    }

    /// Says that it failed, and how in one of few words, of which the first counts.
    pub fn fail(&mut self, word: impl Into<Cow<'static, str>>) {
        if std::mem::replace(&mut self.open.has_failed, true) {
            return;
        }
        let word = word.into();
        self.set("error.type", word.clone());
        self.open.span.set_status(Status::error(word));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tracer_that_is_off_makes_no_span_and_is_one_pointer() {
        assert!(Tracer::default().serve("egress", None).is_none());
        assert_eq!(size_of::<Tracer>(), size_of::<usize>());
        assert_eq!(size_of::<Option<ActiveSpan>>(), 2 * size_of::<usize>());
    }

    #[test]
    fn spans_of_one_trace_are_parent_and_child_and_say_what_they_were_told() {
        let (tracer, mut recorded) = SpanRecorder::start();
        let mut server = tracer.serve("egress", None).unwrap();
        server.name("egress", "orders");
        let mut client = server.ask("connect").unwrap();
        client.set("causeway.attempt", 1);
        client.fail("timeout");
        client.fail("given_up");
        let (outer, inner) = (server.context(), client.context());
        assert_eq!(outer.id(), inner.id());
        drop(client);
        drop(server);
        let [client, server] = recorded.take().try_into().unwrap();
        assert_eq!((&*client.name, client.kind), ("connect", "client"));
        assert_eq!(client.attributes["causeway.attempt"], "1");
        assert_eq!(client.attributes["error.type"], "timeout");
        assert_eq!(client.parent.as_ref(), Some(&server.id));
        assert_eq!(
            (&*server.name, server.kind, server.parent),
            ("egress orders", "server", None)
        );
        assert_eq!(server.trace, outer.id().to_string());
    }

    #[test]
    fn a_parent_decides_whether_its_trace_is_sampled() {
        let (tracer, mut recorded) = SpanRecorder::start();
        let parent = |flags| format!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{flags}");
        let of = |flags| TraceContext::told(&parent(flags)).unwrap();
        let span = tracer.serve("egress", Some(&of("00"))).unwrap();
        assert!(!span.is_recorded() && span.ask("connect").is_none());
        assert_eq!(span.id().to_string(), "0af7651916cd43dd8448eb211c80319c");
        drop(span);
        assert_eq!(recorded.take(), []);
        drop(tracer.serve("egress", Some(&of("01"))));
        let [span] = recorded.take().try_into().unwrap();
        assert_eq!(span.parent.as_deref(), Some("b7ad6b7169203331"));
    }
}
