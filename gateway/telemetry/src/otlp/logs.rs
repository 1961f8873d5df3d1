//! The program's log as OTLP has it: each event that the filter of the log lets through becomes a record, while somebody is to have them.
//!
//! What sends records logs too. Its events, and those of the crates that it sends with, become no records: each message would lead to another.

use std::{
    fmt::{self, Debug, Write as _},
    sync::Arc,
    time::SystemTime,
};

use arc_swap::ArcSwapOption;
use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, KeyValue, any_value::Value},
    logs::v1::{LogRecord, SeverityNumber},
};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    span,
};
use tracing_subscriber::{Layer, layer::Context, registry::LookupSpan};

use super::{batches::BatchQueue, readings::nanoseconds};

/// Most bytes of text of one record; what goes beyond is cut off.
const MAX_RECORD_BYTES: usize = 8 * 1024;
/// Most attributes of one record.
const MAX_ATTRIBUTES: usize = 64;
/// Modules and crates that send records, and log while they do.
const SENDERS: [&str; 11] = [
    "causeway_telemetry::otlp",
    "h2",
    "hyper",
    "hyper_rustls",
    "hyper_util",
    "mio",
    "opentelemetry",
    "opentelemetry_sdk",
    "rustls",
    "tonic",
    "tower",
];

/// Place from which records are taken, as long as somebody takes them. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct LogTap(Arc<ArcSwapOption<BatchQueue<LogRecord>>>);

impl LogTap {
    /// Has records sent from now on, instead of to whom they went before.
    pub(super) fn open(&self, queue: BatchQueue<LogRecord>) -> OpenTap {
        let queue = Arc::new(queue);
        self.0.store(Some(queue.clone()));
        OpenTap {
            tap: self.clone(),
            queue,
        }
    }
}

/// Tap that is open until this is dropped.
#[derive(Debug)]
pub(super) struct OpenTap {
    tap: LogTap,
    queue: Arc<BatchQueue<LogRecord>>,
}

impl Drop for OpenTap {
    fn drop(&mut self) {
        let own = Some(&self.queue);
        let LogTap(tap) = &self.tap;
        if tap.load().as_ref().map(Arc::as_ptr) == own.map(Arc::as_ptr) {
            tap.store(None);
        }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for LogTap {
    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id).filter(|_| self.0.load().is_some()) {
            let mut fields = RecordFields::default();
            attributes.record(&mut fields);
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<RecordFields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let Some(queue) = &*self.0.load() else {
            return;
        };
        let metadata = event.metadata();
        if sends(metadata.target()) {
            return;
        }
        let mut fields = RecordFields::default();
        event.record(&mut fields);
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(outer) = span.extensions().get::<RecordFields>() {
                fields.take_up(outer);
            }
        }
        fields.add("code.namespace", Value::StringValue(metadata.target().to_owned()));
        queue.push(fields.record(*metadata.level(), nanoseconds(SystemTime::now())));
    }
}

/// Tells whether events of a module come from what sends records.
fn sends(target: &str) -> bool {
    let is_in = |module: &&str| {
        let rest = target.strip_prefix(*module);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    SENDERS.iter().any(is_in)
}

/// The last place up to `max` at which a text can be cut.
fn boundary(text: &str, max: usize) -> usize {
    let places = 0..=text.len().min(max);
    places.rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

/// Fields of an event or a span.
#[derive(Debug, Default)]
struct RecordFields {
    message: String,
    attributes: Vec<KeyValue>,
    /// Bytes of text in it.
    bytes: usize,
    dropped: u32,
    trace: Option<u128>,
    /// `None`: the trace is not recorded.
    span: Option<u64>,
}

impl RecordFields {
    /// Takes up what a span around the event says, as far as the event or one further in does not say it.
    fn take_up(&mut self, outer: &Self) {
        self.trace = self.trace.or(outer.trace);
        self.span = self.span.or(outer.span);
        for pair in &outer.attributes {
            if self.attributes.iter().all(|own| own.key != pair.key) {
                let value = pair.value.clone().and_then(|value| value.value);
                self.add(&pair.key, value.unwrap_or(Value::BoolValue(false)));
            }
        }
    }

    fn add(&mut self, key: &str, value: Value) {
        let room = MAX_RECORD_BYTES.saturating_sub(self.bytes);
        if self.attributes.len() >= MAX_ATTRIBUTES || room < key.len() {
            self.dropped = self.dropped.saturating_add(1);
            return;
        }
        let value = match value {
            Value::StringValue(mut text) => {
                text.truncate(boundary(&text, room - key.len()));
                self.bytes += text.len();
                Value::StringValue(text)
            }
            other => other,
        };
        self.bytes += key.len();
        self.attributes.push(KeyValue {
            key: key.to_owned(),
            value: Some(AnyValue { value: Some(value) }),
            ..KeyValue::default()
        });
    }

    fn say(&mut self, field: &Field, text: String) {
        match field.name() {
            "message" => {
                self.message = text;
                let room = MAX_RECORD_BYTES.saturating_sub(self.bytes);
                self.message.truncate(boundary(&self.message, room));
                self.bytes += self.message.len();
            }
            "trace_id" => self.trace = u128::from_str_radix(&text, 16).ok(),
            "span_id" => self.span = u64::from_str_radix(&text, 16).ok(),
            name => self.add(name, Value::StringValue(text)),
        }
    }

    fn record(self, level: Level, now: u64) -> LogRecord {
        let severity = match level {
            Level::ERROR => SeverityNumber::Error,
            Level::WARN => SeverityNumber::Warn,
            Level::INFO => SeverityNumber::Info,
            Level::DEBUG => SeverityNumber::Debug,
            Level::TRACE => SeverityNumber::Trace,
        };
        let is_sampled = self.trace.is_some() && self.span.is_some();
        LogRecord {
            time_unix_nano: now,
            observed_time_unix_nano: now,
            severity_number: severity.into(),
            severity_text: level.as_str().to_owned(),
            body: Some(AnyValue {
                value: Some(Value::StringValue(self.message)),
            }),
            attributes: self.attributes,
            dropped_attributes_count: self.dropped,
            flags: u32::from(is_sampled),
            trace_id: self.trace.map_or_else(Vec::new, |id| id.to_be_bytes().to_vec()),
            span_id: self.span.map_or_else(Vec::new, |id| id.to_be_bytes().to_vec()),
            event_name: String::new(),
        }
    }
}

impl Visit for RecordFields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field.name(), Value::DoubleValue(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field.name(), Value::IntValue(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        match i64::try_from(value) {
            Ok(value) => self.add(field.name(), Value::IntValue(value)),
            Err(_) => self.say(field, value.to_string()),
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field.name(), Value::BoolValue(value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let end = boundary(value, MAX_RECORD_BYTES);
        self.say(field, value[..end].to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let mut text = BoundedText::default();
        // It ends early where it is longer than a record.
        let _ = write!(text, "{value:?}");
        self.say(field, text.0);
    }
}

/// Text that grows no longer than a record.
#[derive(Debug, Default)]
struct BoundedText(String);

impl fmt::Write for BoundedText {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = MAX_RECORD_BYTES - self.0.len();
        let end = boundary(text, room);
        self.0.push_str(&text[..end]);
        match end == text.len() {
            true => Ok(()),
            false => Err(fmt::Error),
        }
    }
}

#[cfg(test)]
#[path = "logs_tests.rs"]
mod tests;
