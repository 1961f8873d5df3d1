//! Batches of what happens one by one, spans and records of the log: a bounded queue, which nobody who puts something into it waits for, and
//! one task that takes batches out of it. What finds no room, and what the receiver does not take, is dropped and counted.

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use causeway_host::moment::until;
use opentelemetry::Context;
use opentelemetry_proto::{
    tonic::{
        collector::{logs::v1::ExportLogsServiceRequest, trace::v1::ExportTraceServiceRequest},
        logs::v1::{LogRecord, ResourceLogs, ScopeLogs},
    },
    transform::trace::tonic::group_spans_by_resource_and_scope,
};
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{Span, SpanData, SpanProcessor},
};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    channel::OtlpMessage,
    delivery::{DropReason, OtlpDelivery, OtlpMetrics},
    resource::OtlpResource,
};

/// Most spans, and most records, that wait to be sent.
const MAX_WAITING: usize = 2048;
/// Most of one message.
const MAX_BATCH: usize = 512;
/// Bytes of records in one message, after which it takes no further one.
const MAX_BATCH_BYTES: usize = 1024 * 1024;
/// Longest time that one waits for others to be sent with.
const COLLECT: Duration = Duration::from_secs(1);

/// Kind of thing that is sent in batches.
pub(super) trait Batched: Sized + Send + 'static {
    type Message: OtlpMessage;

    /// Bytes that it adds to a message, if that is known to matter.
    fn bytes(&self) -> usize;
    fn message(batch: Vec<Self>, resource: &OtlpResource) -> Self::Message;
}

impl Batched for SpanData {
    type Message = ExportTraceServiceRequest;

    /// None: all that spans say is bounded, and 512 of them are less than a megabyte.
    fn bytes(&self) -> usize {
        0
    }

    fn message(batch: Vec<Self>, resource: &OtlpResource) -> Self::Message {
        ExportTraceServiceRequest {
            resource_spans: group_spans_by_resource_and_scope(batch, &resource.for_spans()),
        }
    }
}

impl Batched for LogRecord {
    type Message = ExportLogsServiceRequest;

    fn bytes(&self) -> usize {
        self.encoded_len()
    }

    fn message(batch: Vec<Self>, resource: &OtlpResource) -> Self::Message {
        ExportLogsServiceRequest {
            resource_logs: vec![ResourceLogs {
                resource: Some(resource.message()),
                scope_logs: vec![ScopeLogs {
                    scope: Some(resource.scope()),
                    log_records: batch,
                    schema_url: String::new(),
                }],
                schema_url: String::new(),
            }],
        }
    }
}

/// The queue's end at which things come in.
#[derive(Debug)]
pub(super) struct BatchQueue<T> {
    queue: mpsc::Sender<T>,
    metrics: OtlpMetrics,
}

impl<T: Batched> BatchQueue<T> {
    pub(super) fn push(&self, one: T) {
        if self.queue.try_send(one).is_err() {
            let signal = <T::Message as OtlpMessage>::SIGNAL;
            self.metrics.drop(signal, DropReason::QueueFull, 1);
        }
    }
}

impl SpanProcessor for BatchQueue<SpanData> {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() {
            self.push(span);
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
pub(super) struct BatchSender<T> {
    waiting: mpsc::Receiver<T>,
    delivery: OtlpDelivery,
    resource: OtlpResource,
    /// Cancelled once what waits is the last.
    last: CancellationToken,
}

impl<T: Batched> BatchSender<T> {
    pub(super) fn new(
        delivery: OtlpDelivery,
        resource: OtlpResource,
        last: CancellationToken,
    ) -> (BatchQueue<T>, Self) {
        let (queue, waiting) = mpsc::channel(MAX_WAITING);
        let metrics = delivery.metrics().clone();
        let sender = Self {
            waiting,
            delivery,
            resource,
            last,
        };
        (BatchQueue { queue, metrics }, sender)
    }

    pub(super) async fn run(mut self) {
        let mut ended = pin!(self.delivery.ended());
        while let Some(batch) = self.collect().await {
            let count = batch.len();
            let message = T::message(batch, &self.resource);
            tokio::select! {
                _ = self.delivery.deliver(message, count as u64) => {}
                () = &mut ended => {
                    let lost = count + self.waiting.len();
                    let signal = <T::Message as OtlpMessage>::SIGNAL;
                    self.delivery.metrics().drop(signal, DropReason::Shutdown, lost as u64);
                    return;
                }
            }
        }
    }

    /// Waits for things and takes as many as one message may have; `None`: the last are taken.
    pub(super) async fn collect(&mut self) -> Option<Vec<T>> {
        let (mut batch, mut bytes, mut due) = (Vec::new(), 0, None);
        let is_full = |batch: &Vec<T>, bytes| batch.len() >= MAX_BATCH || bytes >= MAX_BATCH_BYTES;
        while !is_full(&batch, bytes) {
            tokio::select! {
                biased;
                () = self.last.cancelled() => break,
                one = self.waiting.recv() => match one {
                    Some(one) => {
                        bytes += one.bytes();
                        batch.push(one);
                    }
                    None => break,
                },
                () = until(due) => return Some(batch),
            }
            due = due.or_else(|| Some(Instant::now() + COLLECT));
        }
        while !is_full(&batch, bytes)
            && let Ok(one) = self.waiting.try_recv()
        {
            bytes += one.bytes();
            batch.push(one);
        }
        (!batch.is_empty()).then_some(batch)
    }
}
