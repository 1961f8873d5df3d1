//! Sending of spans: a bounded queue, which the data path never waits for, and one task that takes batches out of it. What finds no room, and
//! what the receiver does not take, is dropped and counted.

use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use causeway_federation::name::GatewayId;
use causeway_host::{moment::until, tasks::Tasks};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter as OtlpExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    error::{OTelSdkError, OTelSdkResult},
    trace::{Span, SpanData, SpanExporter, SpanProcessor},
};
use parking_lot::Mutex;
use prometheus_client::metrics::{counter::Counter, family::Family};
use tokio::{sync::mpsc, time::timeout};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{OtlpProtocol, OtlpSettings, Tracer};
use crate::{Check, MetricsRegistry, labels::ByReason, log::in_one_line, rate_limited::RateLimited};

/// Most spans that wait to be sent.
const MAX_WAITING: usize = 2048;
/// Most spans of one message.
const MAX_BATCH: usize = 512;
/// Longest time that a span waits for others to be sent with.
const COLLECT: Duration = Duration::from_secs(1);
/// Longest time that a message may take. Meanwhile spans wait, as many as there is room for.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time that the end of a gateway waits for the last spans to be taken.
const LAST_SPANS: Duration = Duration::from_millis(800);

/// Counts of spans.
#[derive(Debug, Clone)]
pub struct TraceMetrics {
    dropped: Family<ByReason, Counter>,
    sent: Counter,
}

impl TraceMetrics {
    pub fn new(registry: &mut MetricsRegistry) -> Self {
        Self {
            dropped: registry.counters(
                "telemetry_dropped",
                "Spans that were dropped, because too many waited or the receiver did not take them",
            ),
            sent: registry.counter("telemetry_sent", "Spans that the receiver has taken"),
        }
    }

    fn drop_spans(&self, reason: DropReason, count: usize) {
        let reason = reason.word();
        self.dropped
            .get_or_create(&ByReason { reason })
            .inc_by(count as u64);
    }
}

/// Reason that a span is not sent.
#[derive(Debug, Clone, Copy)]
enum DropReason {
    /// As many wait as may.
    QueueFull,
    /// The receiver cannot be reached, or refuses.
    Failed,
    /// The gateway has ended before the receiver has taken it.
    Shutdown,
}

impl DropReason {
    fn word(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::Failed => "failed",
            Self::Shutdown => "shutdown",
        }
    }
}

/// Task that sends spans; it ends when this is dropped.
#[derive(Debug)]
pub struct SpanExport {
    sending: AbortOnDropHandle<()>,
    last: CancellationToken,
    endpoint: String,
    receiver: ReceiverState,
}

/// Error with which the receiver did not take the latest message; `None`: it took it, or none was sent yet.
type ReceiverState = Arc<Mutex<Option<String>>>;

impl SpanExport {
    /// Starts sending the spans of a gateway. Must be called on the runtime that is to send them.
    ///
    /// # Errors
    /// When the receiver's address cannot be used.
    pub fn start(
        settings: &OtlpSettings,
        gateway: &GatewayId,
        tasks: &Tasks,
        metrics: TraceMetrics,
    ) -> Result<(Tracer, Self), ExporterBuildError> {
        let exporter = exporter(settings)?;
        let resource = Resource::builder()
            .with_attributes([
                KeyValue::new("service.name", "causeway"),
                KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
                KeyValue::new("service.instance.id", gateway.to_string()),
                KeyValue::new("causeway.zone", gateway.zone.to_string()),
            ])
            .build();
        Ok(Self::of(exporter, &settings.endpoint, resource, tasks, metrics))
    }

    fn of(
        mut exporter: impl SpanExporter + 'static,
        endpoint: &str,
        resource: Resource,
        tasks: &Tasks,
        metrics: TraceMetrics,
    ) -> (Tracer, Self) {
        exporter.set_resource(&resource);
        let (queue, waiting) = mpsc::channel(MAX_WAITING);
        let last = CancellationToken::new();
        let receiver = ReceiverState::default();
        let sender = BatchSender {
            exporter,
            endpoint: endpoint.to_owned(),
            waiting,
            last: last.clone(),
            metrics: metrics.clone(),
            receiver: receiver.clone(),
            rate_limited: RateLimited::new(),
        };
        let sending = tokio::spawn(tasks.keep("traces", sender.run()));
        let queue = SpanQueue { queue, metrics };
        let export = Self {
            sending: AbortOnDropHandle::new(sending),
            last,
            endpoint: endpoint.to_owned(),
            receiver,
        };
        (Tracer::of(queue, resource), export)
    }

    /// Check of the receiver, by what became of the latest spans.
    pub fn check(&self) -> impl Fn() -> Check + Send + Sync + use<> {
        let (endpoint, receiver) = (self.endpoint.clone(), self.receiver.clone());
        move || match &*receiver.lock() {
            None => Check::ok("gateway", "traces", format!("spans go to {endpoint}")),
            Some(error) => Check::warn(
                "gateway",
                "traces",
                format!("the receiver at {endpoint} did not take the latest spans, which are lost: {error}"),
                "does it run, and does it speak what --otlp-protocol says? clients are served all the same; the next span tries it again",
            ),
        }
    }

    /// Sends what waits, if the receiver takes it soon, and ends.
    pub async fn close(self) {
        self.last.cancel();
        // It has a limit of its own, which is shorter.
        let _ = timeout(Duration::from_secs(1), self.sending).await;
    }
}

fn exporter(settings: &OtlpSettings) -> Result<OtlpExporter, ExporterBuildError> {
    let endpoint = &settings.endpoint;
    match settings.protocol {
        OtlpProtocol::Grpc => OtlpExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            .build(),
        OtlpProtocol::Http => OtlpExporter::builder()
            .with_http()
            .with_protocol(opentelemetry_otlp::Protocol::HttpBinary)
            .with_endpoint(format!("{endpoint}/v1/traces"))
            .build(),
    }
}

/// The queue's end at which spans come in.
#[derive(Debug)]
struct SpanQueue {
    queue: mpsc::Sender<SpanData>,
    metrics: TraceMetrics,
}

impl SpanProcessor for SpanQueue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() && self.queue.try_send(span).is_err() {
            self.metrics.drop_spans(DropReason::QueueFull, 1);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// The queue's other end.
struct BatchSender<E> {
    exporter: E,
    endpoint: String,
    waiting: mpsc::Receiver<SpanData>,
    /// Cancelled once what waits is the last.
    last: CancellationToken,
    metrics: TraceMetrics,
    receiver: ReceiverState,
    rate_limited: RateLimited<()>,
}

impl<E: SpanExporter> BatchSender<E> {
    async fn run(mut self) {
        let last = self.last.clone();
        // Of what is under way when the end comes, and of what waits behind it.
        let mut ended = pin!(async {
            last.cancelled().await;
            tokio::time::sleep(LAST_SPANS).await;
        });
        while let Some(batch) = self.collect().await {
            let count = batch.len();
            tokio::select! {
                sent = timeout(SEND_TIMEOUT, self.exporter.export(batch)) => self.sent(count, sent.ok()),
                () = &mut ended => {
                    self.metrics.drop_spans(DropReason::Shutdown, count + self.waiting.len());
                    return;
                }
            }
        }
    }

    /// Waits for spans and takes as many as one message may have; `None`: the last are taken.
    async fn collect(&mut self) -> Option<Vec<SpanData>> {
        let (mut batch, mut due) = (Vec::new(), None);
        while batch.len() < MAX_BATCH {
            tokio::select! {
                biased;
                () = self.last.cancelled() => break,
                span = self.waiting.recv() => match span {
                    Some(span) => batch.push(span),
                    None => break,
                },
                () = until(due) => return Some(batch),
            }
            due = due.or_else(|| Some(Instant::now() + COLLECT));
        }
        while batch.len() < MAX_BATCH
            && let Ok(span) = self.waiting.try_recv()
        {
            batch.push(span);
        }
        (!batch.is_empty()).then_some(batch)
    }

    /// Counts what became of a message; `None`: it took too long.
    fn sent(&mut self, count: usize, sent: Option<OTelSdkResult>) {
        let error = match sent {
            Some(Ok(())) => {
                self.metrics.sent.inc_by(count as u64);
                *self.receiver.lock() = None;
                return;
            }
            Some(Err(error)) => error,
            None => OTelSdkError::Timeout(SEND_TIMEOUT),
        };
        self.metrics.drop_spans(DropReason::Failed, count);
        let error = in_one_line(&error);
        *self.receiver.lock() = Some(error.clone());
        if let Some(repeats) = self.rate_limited.admit(Instant::now(), ()) {
            let endpoint = &self.endpoint;
            tracing::warn!(
                endpoint,
                spans = count,
                error,
                repeats,
                "traces could not be sent"
            );
        }
    }
}
