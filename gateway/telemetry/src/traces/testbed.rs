//! Spans for tests to look at, instead of a receiver.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use opentelemetry::{Context, trace::SpanId};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{Span, SpanData, SpanProcessor},
};
use parking_lot::Mutex;

use super::Tracer;

/// Span that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedSpan {
    pub name: String,
    pub kind: &'static str,
    pub trace: String,
    pub id: String,
    /// `None`: its trace begins with it.
    pub parent: Option<String>,
    /// Words of other tracing systems on its trace.
    pub state: String,
    pub attributes: BTreeMap<String, String>,
}

/// Spans of one tracer that have ended. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct SpanRecorder(Arc<Mutex<Vec<RecordedSpan>>>);

impl SpanRecorder {
    /// Makes a tracer, and what it makes to be looked at.
    #[must_use]
    pub fn start() -> (Tracer, Self) {
        let recorder = Self::default();
        let tracer = Tracer::of(recorder.clone(), Resource::builder_empty().build());
        (tracer, recorder)
    }

    /// Takes what has ended so far, in the order of the ends.
    pub fn take(&mut self) -> Vec<RecordedSpan> {
        std::mem::take(&mut *self.0.lock())
    }
}

impl SpanProcessor for SpanRecorder {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        let mut attributes = BTreeMap::new();
        for pair in &span.attributes {
            let before = attributes.insert(pair.key.to_string(), pair.value.to_string());
            assert_eq!(before, None, "{} is said twice", pair.key);
        }
        self.0.lock().push(RecordedSpan {
            name: span.name.to_string(),
            kind: match span.span_kind {
                opentelemetry::trace::SpanKind::Server => "server",
                opentelemetry::trace::SpanKind::Client => "client",
                _ => "other",
            },
            trace: span.span_context.trace_id().to_string(),
            id: span.span_context.span_id().to_string(),
            parent: (span.parent_span_id != SpanId::INVALID).then(|| span.parent_span_id.to_string()),
            state: span.span_context.trace_state().header(),
            attributes,
        });
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}
