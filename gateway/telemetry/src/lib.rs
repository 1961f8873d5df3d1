//! Everything that the gateway tells its operator while it runs: metrics, access log lines and its own log.

#![warn(unreachable_pub)]

mod access;
mod check;
mod connection_id;
mod described;
pub mod labels;
mod lines;
pub mod log;
mod metrics;
mod minute;
mod otlp;
mod outcome;
mod printable;
mod rate_limited;
mod request;
mod series;
mod services;
mod side;
mod traces;

pub use access::{AccessLog, AccessRecord, Role};
pub use check::{Check, Status};
pub use connection_id::ConnectionId;
pub use described::{DescribedRegistry, LabelledMetric, MetricDescription};
pub use lines::{AppendedFile, LineCounts, LineSink, LineWriter};
pub use metrics::{Labels, MetricsRegistry, TraceLabel, TracedHistogram, result_word};
pub use minute::{MinuteBoard, ServedPlace, ServiceCounts, WaitCounts};
pub use otlp::{
    LogTap, MetricsText, OtlpChoice, OtlpExport, OtlpMetrics, OtlpProtocol, OtlpSettings, OtlpSettingsError,
    OtlpSignal, OtlpStartError,
};
pub use outcome::{ConnectionOutcome, OutcomeSide, StreamRefusal};
pub use printable::{printable, printable_page};
pub use rate_limited::RateLimited;
pub use request::RequestFacts;
pub use series::{NamedLabels, Series};
pub use services::{KnownNames, ServiceLabels};
pub use side::Side;
pub use traces::{ActiveSpan, TraceContext, TraceId, Tracer};
#[cfg(any(test, feature = "test-util"))]
pub use traces::{RecordedSpan, SpanRecorder};
